//! One command on a guest, from its start to its end: output out, input in, signals, a time limit, and the pause that a
//! save of its machine is.

use std::collections::VecDeque;
use std::time::Duration;

use mvm_wire::ErrorCode;
use mvm_wire::api::{Denial, JobResult, NotStarted};
use mvm_wire::guest::{Exec, Exited, Failure, Reply, Request, Signal, Status, Step, TermSize};
use tokio::sync::{Notify, mpsc};

use crate::error::{Error, Result};
use crate::vmm::guest::{Channel, Frame, Frames, Guest, Input, broken, describe};
use crate::witness::Witness;

/// How long the guest may take to start a command.
const START_LIMIT: Duration = Duration::from_secs(30);
/// How long the guest may take to report a command that was killed, before its machine goes.
const KILL_LIMIT: Duration = Duration::from_secs(3);

/// What the caller wants of a running command.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Control {
    /// Send it this signal; 9 kills its whole tree.
    Signal(u8),
    /// Its terminal has another size now.
    Resize(TermSize),
}

/// Where a command's output goes and its input comes from.
pub trait Streams {
    /// Takes standard output. An error ends the run: nobody listens any more.
    fn stdout(&mut self, bytes: &[u8]) -> impl Future<Output = Result<()>> + Send;
    /// Takes standard error.
    fn stderr(&mut self, bytes: &[u8]) -> impl Future<Output = Result<()>> + Send;
}

/// How a command on a guest ended.
#[derive(Debug)]
pub struct Attended {
    /// What the guest said of it.
    pub outcome: Outcome,
    /// Its time was up.
    pub timed_out: bool,
}

/// What a guest says of a command's end.
#[derive(Debug)]
pub enum Outcome {
    /// It ended so, with its whole tree.
    Exited(Exited),
    /// It could not start.
    NotStarted(Failure),
    /// Nothing, although it was told to kill it. Only the end of its machine ends it for sure.
    Silent,
}

impl From<Attended> for JobResult {
    fn from(attended: Attended) -> JobResult {
        let mut result = JobResult { timed_out: attended.timed_out, ..JobResult::default() };
        match attended.outcome {
            Outcome::Exited(exited) => {
                result.oom_killed = exited.oom_killed;
                match exited.status {
                    Status::Code(code) => result.exit_code = Some(code),
                    Status::Signal(signal) => result.signal = Some(signal),
                }
            }
            Outcome::Silent => {}
            Outcome::NotStarted(failure) => {
                let missing = matches!(failure.errno, libc::ENOENT | libc::ENOTDIR);
                let reason = if missing { NotStarted::NOT_FOUND } else { NotStarted::NOT_EXECUTABLE };
                let command = crate::text::harmless(&failure.detail);
                result.not_started = Some(NotStarted { reason: reason.into(), command, errno: failure.errno });
            }
        }
        result
    }
}

/// Which command to stay with.
#[derive(Debug)]
pub enum Begin {
    /// One that is to be started.
    Start(Exec),
    /// One that runs and was left before its machine was saved, by the guest's number.
    Resume(u64),
}

/// Why nobody stays with a command any longer.
#[derive(Debug)]
pub enum Turn {
    /// It is over.
    Ended(Attended),
    /// Its machine is about to be saved. It goes on under this number of the guest.
    Suspended(u64),
}

/// The caller's side of a command.
pub struct Caller<'a> {
    /// Its standard input.
    pub feed: &'a mut Feed,
    /// What the caller wants meanwhile.
    pub control: &'a mut mpsc::Receiver<Control>,
    /// Told when its machine is about to be saved.
    pub suspend: &'a Notify,
    /// Sees all that goes in and comes out.
    pub witness: &'a Witness,
}

/// Standard input in pieces, as it comes.
#[derive(Debug)]
pub struct Feed {
    /// What came before and was not sent yet.
    backlog: VecDeque<Vec<u8>>,
    pieces: mpsc::Receiver<Vec<u8>>,
    /// The guest knows that it has ended.
    ended: bool,
}

impl From<mpsc::Receiver<Vec<u8>>> for Feed {
    fn from(pieces: mpsc::Receiver<Vec<u8>>) -> Feed {
        Feed { backlog: VecDeque::new(), pieces, ended: false }
    }
}

impl Feed {
    /// With what was saved of another.
    pub fn after(backlog: Vec<Vec<u8>>, ended: bool, pieces: mpsc::Receiver<Vec<u8>>) -> Feed {
        Feed { backlog: backlog.into(), pieces, ended }
    }

    /// What has come and was not sent yet, and whether the guest knows that the input has ended.
    pub fn unsent(&mut self) -> (Vec<Vec<u8>>, bool) {
        while let Ok(piece) = self.pieces.try_recv() {
            self.backlog.push_back(piece);
        }
        (self.backlog.iter().cloned().collect(), self.ended)
    }

    async fn next(&mut self) -> Option<Vec<u8>> {
        match self.backlog.pop_front() {
            Some(piece) => Some(piece),
            None => self.pieces.recv().await,
        }
    }
}

/// Stays with a command from its start to its end, on a machine that is never saved meanwhile.
pub async fn complete(
    guest: &Guest,
    exec: Exec,
    timeout: Option<Duration>,
    feed: mpsc::Receiver<Vec<u8>>,
    control: &mut mpsc::Receiver<Control>,
    streams: &mut impl Streams,
    witness: &Witness,
) -> Result<Attended> {
    let caller = Caller { feed: &mut feed.into(), control, suspend: &Notify::new(), witness };
    match attend(guest, Begin::Start(exec), timeout, caller, streams).await? {
        Turn::Ended(attended) => Ok(attended),
        Turn::Suspended(_) => Err(broken("follow the command", "the guest left it")),
    }
}

/// Starts a command on a guest, or takes part in it again, and stays with it to its end or to a suspension.
pub async fn attend(
    guest: &Guest,
    begin: Begin,
    timeout: Option<Duration>,
    caller: Caller<'_>,
    streams: &mut impl Streams,
) -> Result<Turn> {
    let request = match begin {
        Begin::Start(exec) => Request::Exec(exec),
        Begin::Resume(job) => Request::Resume { job },
    };
    let start = async {
        let mut channel = guest.open(&request).await?;
        let reply = channel.reply().await?;
        Ok((channel, reply))
    };
    let (channel, reply) = tokio::time::timeout(START_LIMIT, start)
        .await
        .unwrap_or_else(|_| Err(broken("start the command", "the guest did not answer within 30 s")))?;
    let job = match reply {
        Reply::Started { job } => job,
        Reply::Failed(failure) => return refused(failure).map(Turn::Ended),
        other => return Err(broken("start the command", format!("the guest answered {other:?}"))),
    };
    let Channel { mut frames, input } = channel;
    let Caller { feed, control, suspend, witness } = caller;
    let feeding = send_input(input, feed, suspend, witness);
    let commanding = obey(guest, job, control);
    let output = collect(&mut frames, streams, witness);
    tokio::pin!(output);
    let deadline = async {
        match timeout {
            Some(limit) => tokio::time::sleep(limit).await,
            None => std::future::pending().await,
        }
    };
    let last = tokio::select! {
        biased;
        last = &mut output => Some(last?),
        () = deadline => None,
        result = commanding => match result? {},
        never = feeding => match never {},
    };
    if let Some(last) = last {
        return Ok(last.map_or(Turn::Suspended(job), |exited| {
            Turn::Ended(Attended { outcome: Outcome::Exited(exited), timed_out: false })
        }));
    }
    let killed = async {
        guest.call(&Request::Signal(Signal { job, number: 9 })).await?;
        output.await
    };
    let exited = match tokio::time::timeout(KILL_LIMIT, killed).await {
        Ok(exited) => exited?,
        Err(_) => None,
    };
    // One that does not end goes with its machine; what it wrote is kept.
    let outcome = exited.map_or(Outcome::Silent, Outcome::Exited);
    Ok(Turn::Ended(Attended { outcome, timed_out: true }))
}

fn refused(failure: Failure) -> Result<Attended> {
    match failure.step {
        Step::Program => Ok(Attended { outcome: Outcome::NotStarted(failure), timed_out: false }),
        Step::Cwd => Err(Error::new(
            ErrorCode::InvalidRequest,
            format!("cannot enter the working directory {}", crate::text::harmless(&failure.detail)),
            std::io::Error::from_raw_os_error(failure.errno),
        )
        .hint("name a directory that exists in the image with --cwd")),
        Step::User if failure.errno == libc::EPERM => Err(runs_as_root(&crate::text::harmless(&failure.detail))),
        Step::User => Err(Error::new(
            ErrorCode::InvalidRequest,
            "cannot run as that user",
            crate::text::harmless(&failure.detail),
        )
        .hint("name a user of the image, or uid:gid, with --user")),
        Step::Spawn => Err(Error::new(
            ErrorCode::ResourceExhausted,
            "the guest cannot start the command",
            std::io::Error::from_raw_os_error(failure.errno),
        )
        .hint("give it more memory with --memory")),
        _ => Err(Error::new(ErrorCode::SandboxUnavailable, "the guest cannot start the command", describe(&failure))),
    }
}

/// The guest found that the user is root there, or in root's group, under whatever name.
fn runs_as_root(user: &str) -> Error {
    Error::denied(
        "cannot start the command",
        vec![Denial {
            rule: "user.unprivileged".into(),
            reason: format!("the user {user} of the image is root, or in root's group"),
            remedy: "name an ordinary user with --user, or a profile with user.root = true".into(),
        }],
    )
}

/// Passes output on until the command has ended, or to `None` where it was suspended.
async fn collect(frames: &mut Frames, streams: &mut impl Streams, witness: &Witness) -> Result<Option<Exited>> {
    loop {
        match frames.next().await? {
            Frame::Stdout(bytes) => {
                witness.stdout(bytes);
                streams.stdout(bytes).await?;
            }
            Frame::Stderr(bytes) => {
                witness.stderr(bytes);
                streams.stderr(bytes).await?;
            }
            Frame::Reply(Reply::Exited(exited)) => return Ok(Some(exited)),
            Frame::Reply(Reply::Suspended) => return Ok(None),
            Frame::Reply(Reply::Failed(failure)) => {
                return Err(Error::new(ErrorCode::SandboxUnavailable, "the command was lost", describe(&failure)));
            }
            Frame::Reply(other) => {
                return Err(broken("follow the command", format!("the guest answered {other:?}")));
            }
        }
    }
}

/// Passes input on to its end, and marks it where the machine is to be saved. Then waits for ever: neither is the end of
/// the command.
async fn send_input(
    mut input: Input,
    feed: &mut Feed,
    suspend: &Notify,
    witness: &Witness,
) -> std::convert::Infallible {
    while !feed.ended {
        let piece = tokio::select! {
            piece = feed.next() => piece,
            () = suspend.notified() => {
                let _ = input.mark().await;
                std::future::pending().await
            }
        };
        // A broken channel is reported by the side that reads.
        let sent = match piece {
            Some(piece) => {
                witness.stdin(&piece);
                input.send(&piece).await
            }
            None => {
                feed.ended = true;
                input.end().await
            }
        };
        if sent.is_err() {
            return std::future::pending().await;
        }
    }
    suspend.notified().await;
    let _ = input.mark().await;
    let _stays_open = input;
    std::future::pending().await
}

async fn obey(guest: &Guest, job: u64, control: &mut mpsc::Receiver<Control>) -> Result<std::convert::Infallible> {
    loop {
        let request = match control.recv().await {
            Some(Control::Signal(number)) => Request::Signal(Signal { job, number }),
            Some(Control::Resize(size)) => Request::Resize { job, size },
            None => std::future::pending().await,
        };
        guest.call(&request).await?;
    }
}
