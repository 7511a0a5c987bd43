//! One process for each sandbox, for as long as the sandbox exists: it owns the machine, serves the API on the
//! sandbox's socket, and keeps its time to live. Machine and supervisor die together.
//!
//! Whether it lives is told by the lock in the sandbox's directory, which it holds from before its start to its end.

mod api;
mod files;
mod jobs;
mod lease;
mod log;
mod logs;
mod machine;
mod output;

use std::fs::File;
use std::io::Write;
use std::os::fd::{AsRawFd, FromRawFd};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use mvm_wire::ErrorCode;
use mvm_wire::api::{Cleanup, DeletionReport, ErrorBody, Inspection, OnExpiry, Sandbox, State};
use tokio::net::UnixListener;
use tokio::sync::{Notify, watch};

use crate::error::{Error, IoContext, Result};
use crate::home::Home;
use crate::lifecycle::{self, Action};
use crate::sandboxes::{self, Place};
use crate::store::{Outcome, Record, Store};

use jobs::Jobs;
use log::Log;
use machine::Running;

pub use api::document;

/// The number under which a supervisor inherits its lock.
pub const LOCK_FD: i32 = 3;
/// How long a sandbox with a lease waits to be claimed.
const CLAIM_LIMIT: Duration = Duration::from_secs(5);
/// The longest sleep before the clock is looked at again: it runs on while the host is asleep, timers do not.
const CLOCK_LOOK: Duration = Duration::from_secs(20);

/// What the supervisor of one sandbox knows.
struct Supervisor {
    home: Home,
    id: String,
    place: Place,
    store: Mutex<Store>,
    /// Held through each change of state, so that one begins when the last one is complete.
    machine: tokio::sync::Mutex<Option<Running>>,
    jobs: Jobs,
    log: Arc<Log>,
    /// What the API says without waiting for a change to end.
    state: watch::Sender<State>,
    claimed: Notify,
    /// The time to live was changed.
    kept: Notify,
    /// The sandbox is destroyed and its answer is on the way.
    over: Notify,
}

/// Supervises the sandbox to its end. What `mvmctl supervise` does.
pub async fn supervise(home: Home, id: &str) -> Result<()> {
    let _lock = adopt_lock()?;
    let started = start(home, id).await;
    report(started.as_ref().err());
    let (supervisor, listener) = started?;
    let serve = axum::serve(listener, api::router(supervisor.clone()));
    tokio::select! {
        ended = serve => ended.context(|| "cannot serve the sandbox's API".into()),
        () = keep_time(&supervisor) => Ok(()),
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

async fn start(home: Home, id: &str) -> Result<(Arc<Supervisor>, UnixListener)> {
    let store = Store::open(&home)?;
    let record = store.get(id)?;
    let place = Place::of(&home, id);
    let _ = std::fs::remove_file(place.socket());
    let listener = UnixListener::bind(place.socket())
        .context(|| format!("cannot create the socket {}", place.socket().display()))?;
    let log = Arc::new(Log::open(place.dir())?);
    let supervisor = Arc::new(Supervisor {
        home,
        id: id.to_owned(),
        place,
        store: Mutex::new(store),
        machine: tokio::sync::Mutex::new(None),
        jobs: Jobs::new(log.clone()),
        log,
        state: watch::Sender::new(record.state),
        claimed: Notify::new(),
        kept: Notify::new(),
        over: Notify::new(),
    });
    if record.state == State::Creating {
        supervisor.start_machine(&record, true).await?;
    }
    Ok((supervisor, listener))
}

/// Ends the sandbox when its time is up, or its owner never came.
async fn keep_time(supervisor: &Arc<Supervisor>) {
    loop {
        let Ok(record) = supervisor.record() else { return };
        match (&record.cleanup, record.remaining()) {
            (Cleanup::Lease, _) => {
                // Who claims it watches over it from then on.
                if tokio::time::timeout(CLAIM_LIMIT, supervisor.claimed.notified()).await.is_err() {
                    let _ = supervisor.destroy("nobody claimed its lease within 5 s").await;
                }
                return std::future::pending().await;
            }
            (_, Some(Duration::ZERO)) => {
                supervisor.expire(&record).await;
                if record.on_expiry() == OnExpiry::Destroy {
                    return std::future::pending().await;
                }
                supervisor.kept.notified().await;
            }
            (_, remaining) => {
                let sleep = tokio::time::sleep(remaining.unwrap_or(CLOCK_LOOK).min(CLOCK_LOOK));
                tokio::select! {
                    () = sleep => {}
                    () = supervisor.kept.notified() => {}
                }
            }
        }
    }
}

impl Supervisor {
    fn store(&self) -> MutexGuard<'_, Store> {
        self.store.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn record(&self) -> Result<Record> {
        self.store().get(&self.id)
    }

    /// Records a change of state and tells those who wait for one.
    fn apply(&self, action: Action, cause: &str) -> Result<Outcome> {
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
        Ok(sandboxes::inspection(&self.home, &record, history, isolation))
    }

    /// Boots the machine: a clone of the template the first time, on the kept disk after that.
    async fn start_machine(self: &Arc<Self>, record: &Record, first: bool) -> Result<()> {
        let mut slot = self.machine.lock().await;
        match Running::start(&self.home, &self.place, record, first).await {
            Ok(running) => {
                let guest = running.guest().clone();
                running.log_console(self.log.clone());
                *slot = Some(running);
                self.apply(Action::Ready, "its agent answered")?;
                tokio::spawn(self.clone().watch_machine(guest));
                Ok(())
            }
            Err(e) => {
                self.apply(Action::Fail, &e.to_string())?;
                Err(e)
            }
        }
    }

    /// Records the end of a machine that nobody asked for.
    async fn watch_machine(self: Arc<Self>, guest: crate::vmm::guest::Guest) {
        guest.closed().await;
        let mut slot = self.machine.lock().await;
        // Whoever ended it on purpose has taken it out.
        let Some(running) = slot.as_mut().filter(|running| running.has_session(&guest)) else { return };
        let end = running.end().await;
        *slot = None;
        self.jobs.lose_all(&end.cause);
        let action = if end.in_order { Action::Halt } else { Action::Fail };
        let _ = self.apply(action, &end.cause);
    }

    async fn start_again(self: &Arc<Self>) -> Result<Sandbox> {
        if self.apply(Action::Start, "start was asked for")? == Outcome::Moved {
            let record = self.record()?;
            self.start_machine(&record, false).await?;
        }
        self.sandbox()
    }

    async fn stop(&self, cause: &str) -> Result<Sandbox> {
        let mut slot = self.machine.lock().await;
        let record = self.record()?;
        if lifecycle::judge(record.state, Action::Stop) == lifecycle::Verdict::Refused {
            return Err(lifecycle::refusal(&record.name, record.state, "stop"));
        }
        if let Some(running) = slot.take() {
            let how = running.halt().await;
            self.jobs.lose_all("the sandbox was stopped");
            self.apply(Action::Stop, &format!("{cause}{how}"))?;
        }
        self.sandbox()
    }

    /// Ends it for good. The record of it is durable before anything is removed, so that a crash leaves only rubbish.
    async fn destroy(&self, cause: &str) -> Result<DeletionReport> {
        let mut slot = self.machine.lock().await;
        drop(slot.take());
        self.jobs.lose_all("the sandbox was destroyed");
        let record = self.record()?;
        if record.state == State::Destroyed {
            return Ok(record.report.unwrap_or_default());
        }
        let report = sandboxes::deletion_report(&self.place, &record);
        self.store().destroyed(&self.id, cause, &report)?;
        self.announce(cause)?;
        self.place.remove();
        self.over.notify_one();
        Ok(report)
    }

    async fn expire(&self, record: &Record) {
        let _ = match record.on_expiry() {
            OnExpiry::Destroy => self.destroy("its time to live was over").await.map(drop),
            OnExpiry::Stop => self.stop("its time to live was over").await.map(drop),
        };
    }
}
