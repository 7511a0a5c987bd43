//! One process for each sandbox, for as long as the sandbox exists: it owns the machine, serves the API on the
//! sandbox's socket, and keeps its time to live. Machine and supervisor die together.
//!
//! Whether it lives is told by the lock in the sandbox's directory, which it holds from before its start to its end.

mod api;
mod changes;
mod commands;
mod ending;
mod files;
mod http;
mod jobs;
mod lease;
mod log;
mod logs;
mod machine;
mod output;
mod ports;
mod secrets;
mod snapshots;

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::{AsRawFd, FromRawFd};
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use mvm_wire::ErrorCode;
use mvm_wire::api::{ErrorBody, Inspection, Machine, Plan, Sandbox, State};
use tokio::net::UnixListener;
use tokio::sync::{Notify, RwLock, watch};
use zeroize::Zeroizing;

use crate::error::{Error, IoContext, Result};
use crate::evidence::{Evidence, Of};
use crate::home::Home;
use crate::lifecycle::Action;
use crate::place::Place;
use crate::policy::{Ask, Operation, Policy};
use crate::request;
use crate::sandboxes;
use crate::secrets::{Handover, Known, redact_error};
use crate::store::{Outcome, Record, Store};

use jobs::Jobs;
use log::Log;
use machine::Running;
use ports::Ports;

pub use api::document;
pub use ports::check as check_ports;

/// The number under which a supervisor inherits its lock.
pub const LOCK_FD: i32 = 3;
/// The most that a supervisor is handed over, in bytes.
const MAX_HANDOVER: u64 = 16 << 20;

/// What the supervisor of one sandbox knows.
struct Supervisor {
    home: Home,
    id: String,
    place: Place,
    store: Mutex<Store>,
    /// Decides about all that is asked of the sandbox.
    policy: Policy,
    /// Where that is put on record.
    evidence: Evidence,
    made: Made,
    /// Held through each change of state, so that one begins when the last one is complete.
    machine: tokio::sync::Mutex<Option<Running>>,
    jobs: Jobs,
    /// Secrets of the sandbox and of its commands. Nothing else has their values.
    known: Arc<Known>,
    /// Shared by all that moves files over the session with the guest. Whoever ends the session on purpose waits for them.
    transfers: Arc<RwLock<()>>,
    log: Arc<Log>,
    ports: Ports,
    /// What the API says without waiting for a change to end.
    state: watch::Sender<State>,
    claimed: Notify,
    /// How it ends was changed.
    kept: Notify,
    /// Its end has come, with its lease or its time: written with the store locked, so that it is given another end in time or
    /// not at all.
    ended: AtomicBool,
    /// It no longer ends with its client.
    detached: AtomicBool,
    /// The sandbox is destroyed and its answer is on the way.
    over: Notify,
}

/// What the sandbox is made of, for good.
struct Made {
    /// Name and digest.
    image: (String, String),
    machine: Machine,
}

impl Made {
    fn of(record: &Record) -> Made {
        let image = (record.request.image.clone(), record.image_digest.clone());
        Made { image, machine: request::machine(&record.request) }
    }
}

/// Supervises the sandbox to its end. What `mvmctl supervise` does.
pub async fn supervise(home: Home, id: &str) -> Result<()> {
    let _lock = adopt_lock()?;
    crate::process::dump_no_core();
    let started = match take_over() {
        Ok(handover) => start(home, id, handover).await,
        Err(e) => Err(e),
    };
    report(started.as_ref().err());
    let (supervisor, listener) = started?;
    let serve = axum::serve(listener, api::router(supervisor.clone()));
    tokio::select! {
        ended = serve => ended.context(|| "cannot serve the sandbox's API".into()),
        () = ending::keep_time(&supervisor) => Ok(()),
        () = supervisor.over.notified() => {
            // The answer to whoever asked for it.
            tokio::time::sleep(Duration::from_millis(100)).await;
            Ok(())
        }
    }
}

/// The lock that whoever started us holds for us.
fn adopt_lock() -> Result<File> {
    // SAFETY: the number is reserved for it by whoever starts a supervisor; if nothing is there the next call fails.
    let lock = unsafe { File::from_raw_fd(LOCK_FD) };
    rustix::io::fcntl_setfd(&lock, rustix::io::FdFlags::CLOEXEC).map_err(|_| {
        Error::new(ErrorCode::InvalidRequest, "cannot supervise a sandbox", "this is not a command for people")
            .hint("mvmctl up --name NAME")
    })?;
    Ok(lock)
}

/// What whoever started us hands over on standard input. Then nobody speaks.
fn take_over() -> Result<Handover> {
    const WHAT: &str = "cannot take over the sandbox's secrets";
    let mut text = Zeroizing::new(Vec::new());
    std::io::stdin().take(MAX_HANDOVER).read_to_end(&mut text).context(|| WHAT.into())?;
    let null = File::open("/dev/null").context(|| WHAT.into())?;
    // SAFETY: both descriptors are open; standard input is never closed.
    unsafe { libc::dup2(null.as_raw_fd(), 0) };
    if text.is_empty() {
        return Ok(Handover::default());
    }
    // Without the parser's message.
    serde_json::from_slice(&text).map_err(|_| Error::internal(WHAT, "they were handed over incomplete"))
}

/// Tells whoever started us, on standard output, that the sandbox is ready or why it is not. Then nobody listens.
fn report(error: Option<&Error>) {
    let line = match error {
        None => "{}".to_owned(),
        Some(error) => serde_json::to_string(&ErrorBody { error: error.clone().into() }).unwrap_or_default(),
    };
    let _ = writeln!(std::io::stdout(), "{line}");
    if let Ok(null) = File::options().write(true).open("/dev/null") {
        // SAFETY: both descriptors are open; standard output is never closed.
        unsafe { libc::dup2(null.as_raw_fd(), 1) };
    }
}

async fn start(home: Home, id: &str, handover: Handover) -> Result<(Arc<Supervisor>, UnixListener)> {
    let store = Store::open(&home)?;
    let record = store.get(id)?;
    if record.state == State::Destroyed {
        return Err(Error::new(ErrorCode::InvalidState, "cannot supervise the sandbox", "it was destroyed meanwhile"));
    }
    let place = Place::of(&home, id);
    let _ = std::fs::remove_file(place.socket());
    let listener = UnixListener::bind(place.socket())
        .context(|| format!("cannot create the socket {}", place.socket().display()))?;
    let log = Arc::new(Log::open(place.dir())?);
    let known = Arc::new(Known::new(handover));
    let evidence = store.evidence().clone();
    let supervisor = Arc::new(Supervisor {
        home,
        id: id.to_owned(),
        ports: Ports::new(place.ports()),
        place,
        store: Mutex::new(store),
        policy: record.policy.clone(),
        evidence: evidence.clone(),
        made: Made::of(&record),
        machine: tokio::sync::Mutex::new(None),
        jobs: Jobs::new(log.clone(), known.clone(), evidence),
        known,
        transfers: Arc::default(),
        log,
        state: watch::Sender::new(record.state),
        claimed: Notify::new(),
        kept: Notify::new(),
        ended: AtomicBool::new(false),
        detached: AtomicBool::new(false),
        over: Notify::new(),
    });
    tokio::spawn(supervisor.clone().hold_to_limits());
    supervisor.reopen_ports();
    if supervisor.place.saved().exists() && matches!(record.state, State::Creating | State::Cold) {
        supervisor.jobs.load(&supervisor.place.point()?.jobs()?, id)?;
    }
    if record.state == State::Creating {
        for port in &record.request.ports {
            supervisor.open_asked_port(port)?;
        }
        supervisor.start_machine(&record, true).await?;
    }
    Ok((supervisor, listener))
}

impl Supervisor {
    fn store(&self) -> MutexGuard<'_, Store> {
        self.store.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn record(&self) -> Result<Record> {
        self.store().get(&self.id)
    }

    /// Decides about something that is asked of the sandbox and that its own admission authorises.
    fn admit(&self, operation: Operation, ask: &Ask<'_>) -> Result<()> {
        let of = Of { sandbox: &self.id, run: "" };
        self.evidence.allowed(operation, &self.policy.admit(operation, ask), of)
    }

    /// Decides about something that is put on record before it happens. Returns the entry's index too.
    fn authorise(&self, operation: Operation, ask: &Ask<'_>, run: &str) -> Result<(Plan, u64)> {
        let plan = self.policy.admit(operation, ask);
        let audit_id = self.evidence.authorise(operation, &plan, Of { sandbox: &self.id, run })?;
        Ok((plan, audit_id))
    }

    /// Records a change of state and tells those who wait for one.
    fn apply(&self, action: Action, cause: &str) -> Result<Outcome> {
        // The guest's last words may be in it.
        let cause = &self.known.redacted(cause);
        let outcome = self.store().apply(&self.id, action, cause)?;
        self.announce(cause)?;
        Ok(outcome)
    }

    fn announce(&self, cause: &str) -> Result<()> {
        let state = self.record()?.state;
        let before = self.state.send_replace(state);
        if before != state {
            self.log.say(&format!("{before} → {state}: {cause}"));
        }
        Ok(())
    }

    /// An error without secrets: the end of the console is in some.
    fn redacted(&self, error: Error) -> Error {
        redact_error(self.known.patterns().as_deref(), error)
    }

    /// The sandbox as the API shows it.
    fn sandbox(&self) -> Result<Sandbox> {
        Ok(sandboxes::describe(&self.home, &self.record()?))
    }

    async fn inspect(&self) -> Result<Inspection> {
        let record = self.record()?;
        let isolation = match self.machine.try_lock().ok().as_deref() {
            Some(Some(running)) => serde_json::to_value(running.isolation()).ok(),
            _ => None,
        };
        let history = self.store().history(&self.id)?;
        let inspection = sandboxes::inspection(&self.home, &record, history, isolation);
        Ok(Inspection { ports: self.list_ports(), ..inspection })
    }
}
