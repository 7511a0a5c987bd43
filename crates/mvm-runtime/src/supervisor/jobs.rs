//! The commands of one sandbox: started at most once for each idempotency key, followed by offset, ended with their tree.

mod feeding;
mod redaction;
mod saved;
mod sink;

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use mvm_wire::ErrorCode;
use mvm_wire::api::{Job as Described, JobRequest, JobResult, SecretValues, Stream};
use mvm_wire::guest::{Exec, Request, TermSize};
use tokio::runtime::Handle;
use tokio::sync::mpsc::error::TrySendError;
use tokio::sync::{Notify, mpsc, watch};

use super::log::Log;
use super::output::Output;
use crate::command::{self, Begin, Caller, Control, Feed, Turn};
use crate::error::{Error, Result};
use crate::evidence::{Evidence, Testimony};
use crate::secrets::{Known, redact_result};
use crate::time;
use crate::vmm::guest::{Guest, broken};
use crate::witness::Witness;
pub use redaction::Holds;
use redaction::Redaction;
pub use saved::SavedOutput;
use sink::Sink;

/// Commands at once in one sandbox: fewer than the channel has streams, so that other requests always find one.
const MAX_RUNNING: usize = 200;
/// Commands that ended and are remembered.
const MAX_ENDED: usize = 1000;
/// Output of ended commands that is kept altogether. The oldest goes first.
const MAX_KEPT: u64 = 32 << 20;
/// How long the guest may take to leave all commands before a save.
const SUSPEND_LIMIT: Duration = Duration::from_secs(25);
/// How long a command whose stream broke waits for the news that its machine has ended.
const VERDICT_LIMIT: Duration = Duration::from_secs(5);
/// Signals and sizes that wait for a command.
const CONTROLS: usize = 16;
/// What a command writes to.
const STREAMS: [Stream; 2] = [Stream::Stdout, Stream::Stderr];
/// Pieces of input that wait for a command that does not read.
const INPUT_PIECES: usize = 4;

/// One command.
#[derive(Debug)]
pub struct Job {
    /// Its run id.
    pub run_id: String,
    program: String,
    key: String,
    /// Without its secrets.
    request: JobRequest,
    holds: Holds,
    redaction: Mutex<Redaction>,
    /// All secrets that are redacted.
    known: Arc<Known>,
    started_at_ms: u64,
    attached: bool,
    /// It was attached to a caller that is not here.
    orphaned: bool,
    /// What it wrote.
    pub output: Output,
    /// What is known of it since its start.
    pub testimony: Testimony,
    /// Sees all that goes in and comes out.
    witness: Witness,
    control: mpsc::Sender<Control>,
    input: Mutex<Option<mpsc::Sender<Vec<u8>>>>,
    /// The way to an input that broke off, which stays open.
    broken_off: Mutex<Option<mpsc::Sender<Vec<u8>>>>,
    result: watch::Sender<Option<JobResult>>,
    /// Held by whoever ends it: its end is recorded once.
    ending: Mutex<()>,
    /// Told when its machine is about to be saved.
    suspend: Notify,
    /// Our side of it while its machine is saved, and nobody stays with it.
    parked: watch::Sender<Option<Parked>>,
}

/// Our side of a command that goes on later.
#[derive(Debug)]
struct Parked {
    /// The guest's number of it.
    number: u64,
    /// How long it has run.
    ran: Duration,
    feed: Feed,
    control: mpsc::Receiver<Control>,
}

impl Job {
    /// As the API shows it.
    pub fn describe(&self) -> Described {
        let (first_offset, end_offset, ..) = self.output.counts();
        Described {
            run_id: self.run_id.clone(),
            program: crate::text::harmless(&self.program),
            started_at_ms: self.started_at_ms,
            attached: self.attached,
            first_offset,
            end_offset,
            result: self.result.borrow().clone(),
            audit_id: self.testimony.audit_id,
        }
    }

    /// How many bytes of a stream the policy still lets through.
    fn room(&self, stream: Stream) -> usize {
        let (_, _, stdout, stderr) = self.output.counts();
        let written = if stream == Stream::Stdout { stdout } else { stderr };
        let most = self.testimony.plan.enforced.output_bytes.unwrap_or(u64::MAX);
        usize::try_from(most.saturating_sub(written)).unwrap_or(usize::MAX)
    }

    /// Its result, once it has one.
    pub async fn ended(&self) -> JobResult {
        let mut result = self.result.subscribe();
        let ended = result.wait_for(Option::is_some).await.map(|result| result.clone());
        ended.ok().flatten().unwrap_or_default()
    }

    /// Whether it still runs.
    pub fn runs(&self) -> bool {
        self.result.borrow().is_none()
    }

    /// Which secrets it has. None of their values is in it.
    pub fn holds(&self) -> &Holds {
        &self.holds
    }

    /// When it was started, milliseconds since 1970.
    pub fn started_at_ms(&self) -> u64 {
        self.started_at_ms
    }

    fn redaction(&self) -> MutexGuard<'_, Redaction> {
        self.redaction.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits until nobody stays with it: it was parked, or it is over.
    async fn left(&self) {
        let (mut parked, mut result) = (self.parked.subscribe(), self.result.subscribe());
        tokio::select! {
            _ = parked.wait_for(Option::is_some) => {}
            _ = result.wait_for(Option::is_some) => {}
        }
    }

    /// Sends a signal, or another size of its terminal. What has ended needs neither.
    pub async fn control(&self, control: Control) {
        if self.runs() {
            let _ = self.control.send(control).await;
        }
    }

    /// Nobody reads any more: kills its whole tree, without waiting.
    pub fn abandon(&self) {
        self.output.release();
        let kill = Control::Signal(libc::SIGKILL as u8);
        if let (Err(TrySendError::Full(kill)), Ok(runtime)) = (self.control.try_send(kill), Handle::try_current()) {
            let control = self.control.clone();
            runtime.spawn(async move { control.send(kill).await });
        }
    }
}

/// All commands of a sandbox since its supervisor started.
#[derive(Debug)]
pub struct Jobs {
    /// In the order of their start.
    all: Mutex<BTreeMap<u64, Arc<Job>>>,
    /// The machine is about to be saved or is held: what is parked stays so.
    held: Arc<AtomicBool>,
    log: Arc<Log>,
    known: Arc<Known>,
    evidence: Evidence,
    /// Told when the guest does not say that a command is gone which it was to kill.
    silent: Arc<Notify>,
}

/// A command to start, and what it gets.
pub struct Start {
    /// As it was asked for, without its secrets.
    pub request: JobRequest,
    /// The secrets that came with the request.
    pub secrets: SecretValues,
    /// Which secrets it gets.
    pub holds: Holds,
    /// As the guest takes it.
    pub exec: Exec,
    /// What is known of it.
    pub testimony: Testimony,
    /// Sees all that goes in and comes out.
    pub witness: Witness,
}

impl Jobs {
    /// None yet. What they do is logged there, with these secrets redacted, and put on record.
    pub fn new(log: Arc<Log>, known: Arc<Known>, evidence: Evidence) -> Jobs {
        Jobs { all: Mutex::default(), held: Arc::default(), log, known, evidence, silent: Arc::default() }
    }

    fn all(&self) -> MutexGuard<'_, BTreeMap<u64, Arc<Job>>> {
        self.all.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// All that are remembered, the oldest first.
    pub fn list(&self) -> Vec<Arc<Job>> {
        self.all().values().cloned().collect()
    }

    /// The one with this id.
    pub fn find(&self, run_id: &str) -> Result<Arc<Job>> {
        self.all().values().find(|job| job.run_id == run_id).cloned().ok_or_else(|| {
            let shown = crate::text::harmless(run_id);
            Error::new(ErrorCode::NotFound, format!("cannot find the job {shown}"), "there is none with this id")
                .hint("mvmctl jobs NAME")
        })
    }

    /// How many run.
    pub fn running(&self) -> usize {
        self.all().values().filter(|job| job.runs()).count()
    }

    /// The command that the same request with the same key has started before.
    pub fn started_before(&self, request: &JobRequest, secrets: &SecretValues) -> Result<Option<Arc<Job>>> {
        let Some(key) = Some(&request.idempotency_key).filter(|key| !key.is_empty()) else { return Ok(None) };
        match self.all().values().find(|job| job.key == *key) {
            Some(job) if job.request != *request || !job.holds.were_given(secrets) => Err(another_request()),
            found => Ok(found.cloned()),
        }
    }

    /// Refuses one more command than run at once.
    pub fn room(&self) -> Result<()> {
        if self.running() < MAX_RUNNING {
            return Ok(());
        }
        let why = format!("{MAX_RUNNING} run in this sandbox already");
        Err(Error::new(ErrorCode::ResourceExhausted, "cannot start the command", why)
            .hint("wait for one to end (mvmctl jobs NAME), or use another sandbox"))
    }

    /// Starts a command that was authorised.
    pub fn start(&self, guest: &Guest, start: Start) -> Result<Arc<Job>> {
        let Start { request, secrets, holds, exec, testimony, witness } = start;
        let mut all = self.all();
        let grant = self.known.grant(secrets);
        let (control, controlled) = mpsc::channel(CONTROLS);
        let (input, feed) = mpsc::channel(INPUT_PIECES);
        let job = Arc::new(Job {
            run_id: testimony.run_id.clone(),
            program: self.known.redacted(request.argv.first().map_or("", String::as_str)),
            key: request.idempotency_key.clone(),
            holds,
            redaction: Mutex::new(Redaction::new(!request.no_redact, grant)),
            known: self.known.clone(),
            started_at_ms: time::now_ms(),
            attached: request.attached,
            orphaned: false,
            output: if request.attached { Output::lossless() } else { Output::default() },
            control,
            input: Mutex::new(request.stdin.then_some(input)),
            broken_off: Mutex::default(),
            result: watch::Sender::new(None),
            ending: Mutex::default(),
            suspend: Notify::new(),
            parked: watch::Sender::new(None),
            request,
            testimony,
            witness,
        });
        let number = all.last_key_value().map_or(0, |(number, _)| number + 1);
        all.insert(number, job.clone());
        forget_oldest(&mut all);
        drop(all);
        self.log.say(&format!("{} started: {}", job.run_id, crate::text::harmless(&job.program)));
        let side = Parked { number: 0, ran: Duration::ZERO, feed: feed.into(), control: controlled };
        self.attend(job.clone(), guest.clone(), Begin::Start(exec), side);
        Ok(job)
    }

    /// Leaves all commands: all that they wrote has arrived, and all input that was sent has. The guest is about to quiesce.
    pub async fn suspend(&self, guest: &Guest) -> Result<()> {
        self.held.store(true, Ordering::SeqCst);
        let running: Vec<Arc<Job>> = self.list().into_iter().filter(|job| job.runs()).collect();
        for job in &running {
            job.output.hold_back(false);
            job.suspend.notify_one();
        }
        let left = async {
            for job in &running {
                job.left().await;
            }
        };
        let both = async { tokio::join!(guest.demand(&Request::Suspend, "leave its commands"), left) };
        let (answered, ()) = tokio::time::timeout(SUSPEND_LIMIT, both)
            .await
            .map_err(|_| broken("suspend the commands", "the guest did not leave them in time"))?;
        answered
    }

    /// Takes part again in all commands that a suspension left.
    pub fn resume(&self, guest: &Guest) {
        self.held.store(false, Ordering::SeqCst);
        for job in self.list() {
            job.output.hold_back(true);
            if let Some(side) = job.parked.send_replace(None) {
                let begin = Begin::Resume(side.number);
                self.attend(job, guest.clone(), begin, side);
            }
        }
    }

    fn attend(&self, job: Arc<Job>, guest: Guest, begin: Begin, side: Parked) {
        let desk = self.desk();
        tokio::spawn(attend(job, desk, self.held.clone(), guest, begin, side));
    }

    fn desk(&self) -> Desk {
        Desk { log: self.log.clone(), evidence: self.evidence.clone(), silent: self.silent.clone() }
    }

    /// Waits until the guest does not say that a command is gone which it was to kill.
    pub async fn disobeyed(&self) {
        self.silent.notified().await;
    }

    /// The machine is gone: what ran in it has no result.
    pub fn lose_all(&self, why: &str) {
        let error = Error::new(ErrorCode::SandboxUnavailable, "the command was lost with its machine", why);
        for job in self.list() {
            let desk = self.desk();
            finish(&job, &desk, JobResult { error: Some(error.clone().into()), ..JobResult::default() });
        }
    }
}

fn another_request() -> Error {
    Error::new(
        ErrorCode::InvalidRequest,
        "cannot repeat the command",
        "its idempotency key was used for another command",
    )
}

/// Keeps memory within bounds: output of the oldest commands goes first, then the commands themselves.
fn forget_oldest(all: &mut BTreeMap<u64, Arc<Job>>) {
    let ended: Vec<(u64, Arc<Job>)> =
        all.iter().rev().filter(|(_, job)| !job.runs()).map(|(number, job)| (*number, job.clone())).collect();
    let mut kept = 0;
    for (index, (number, job)) in ended.into_iter().enumerate() {
        let (first, end, ..) = job.output.counts();
        kept += end - first;
        if kept > MAX_KEPT {
            job.output.forget();
        }
        if index >= MAX_ENDED {
            all.remove(&number);
        }
    }
}

/// Stays with a command to its end, or until its machine is about to be saved.
async fn attend(job: Arc<Job>, desk: Desk, held: Arc<AtomicBool>, guest: Guest, mut begin: Begin, mut side: Parked) {
    let result = loop {
        // Only the time that its machine runs counts.
        let timeout =
            job.testimony.plan.enforced.timeout_ms.map(|limit| Duration::from_millis(limit).saturating_sub(side.ran));
        let started = Instant::now();
        let mut sink = Sink::new(&job, &desk.log);
        let (feed, control) = (&mut side.feed, &mut side.control);
        let caller = Caller { feed, control, suspend: &job.suspend, witness: &job.witness };
        let turn = command::attend(&guest, begin, timeout, caller, &mut sink).await;
        if !matches!(turn, Ok(Turn::Suspended(_))) {
            sink.let_go().await;
        }
        sink.end();
        side.ran += started.elapsed();
        match turn {
            Ok(Turn::Suspended(number)) => {
                job.parked.send_replace(Some(Parked { number, ..side }));
                if held.load(Ordering::SeqCst) {
                    return;
                }
                // The save was given up meanwhile. Whoever takes our side out goes on with it.
                let Some(taken) = job.parked.send_replace(None) else { return };
                (begin, side) = (Begin::Resume(number), taken);
            }
            Ok(Turn::Ended(attended)) => {
                if matches!(attended.outcome, command::Outcome::Silent) {
                    desk.silent.notify_one();
                }
                break attended.into();
            }
            Err(e) => {
                // If its machine is gone, whoever finds that knows why, and says so to all commands.
                let verdict = tokio::time::timeout(VERDICT_LIMIT, job.ended());
                if e.code == ErrorCode::TransportError && verdict.await.is_ok() {
                    return;
                }
                break JobResult { error: Some(e.into()), ..JobResult::default() };
            }
        }
    };
    let duration_ms = side.ran.as_secs_f64() * 1000.0;
    finish(&job, &desk, JobResult { duration_ms, ..result });
}

/// Where what becomes of commands is written down.
struct Desk {
    log: Arc<Log>,
    evidence: Evidence,
    silent: Arc<Notify>,
}

/// Ends a command, once. What is on record of its end is so before anybody learns of it.
fn finish(job: &Job, desk: &Desk, result: JobResult) {
    let _ending = job.ending.lock().unwrap_or_else(PoisonError::into_inner);
    if !job.runs() {
        return;
    }
    let (_, _, stdout_bytes, stderr_bytes) = job.output.counts();
    let held = STREAMS.map(|stream| (stream, job.redaction().held(stream)));
    let most = job.testimony.plan.enforced.output_bytes.unwrap_or(u64::MAX);
    let result = JobResult {
        stdout_bytes,
        stderr_bytes,
        stdout_truncated: stdout_bytes > most,
        stderr_truncated: stderr_bytes > most,
        redactions: job.redaction().total(),
        ..redact_result(job.known.patterns().as_deref(), result)
    };
    let result = desk.evidence.ended(&job.testimony, &job.witness, result);
    if let Some(why) = &result.unrecorded {
        desk.log.say(&format!("{} has no record: {why}", job.run_id));
    }
    job.parked.send_replace(None);
    desk.log.say(&format!("{} ended: {}", job.run_id, result.in_words()));
    job.result.send_replace(Some(result));
    job.redaction().close();
    job.output.close(held);
}

/// The terminal's size as the guest takes it.
pub fn terminal(request: &JobRequest) -> Option<TermSize> {
    request.tty.map(|size| TermSize { rows: size.rows, cols: size.cols })
}
