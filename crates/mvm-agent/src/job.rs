//! One command: its life between the request and the last byte of its output.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::io::{ErrorKind, Result};
use std::os::fd::OwnedFd;
use std::rc::Rc;
use std::time::Duration;

use futures_util::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use mvm_wire::frame::{self, HEADER_LEN, Kind};
use mvm_wire::guest::{Exec, Exited, Failure, Reply, Signal, Status, Step, TermSize};
use rustix::process::{Pid, Signal as Sig, kill_process_group};
use tokio::io::unix::AsyncFd;
use tokio::sync::{Mutex, Notify};

use crate::cgroup::Cgroup;
use crate::child::{self, Spare};
use crate::input::{Input, Suspension};
use crate::process::{self, Process};
use crate::serve::{SPLIT, write_reply};

/// How much output is read at once.
const CHUNK: usize = 2 * SPLIT - HEADER_LEN;
/// How long output may still come after every process of the command was killed.
const DRAIN: Duration = Duration::from_secs(2);

/// Preparation is kept out of the way of answers.
const PREPARE_AFTER: Duration = Duration::from_millis(1);
/// Cgroups kept for later commands.
const MAX_FREE_CGROUPS: usize = 16;

/// How often a suspension is looked at, a millisecond apart.
const SUSPEND_LOOKS: u32 = 20_000;
/// Grace periods, deferred frees and write-back are over after this.
const KERNEL_SETTLES: Duration = Duration::from_millis(400);

/// The commands that run, by job id.
#[derive(Debug, Default)]
pub struct Jobs {
    running: RefCell<HashMap<u64, Rc<Job>>>,
    /// Made ahead of need.
    spare: RefCell<Option<Next>>,
    /// Left by commands that ended, for others: making one takes ten times as long as a command.
    cgroups: RefCell<Vec<Cgroup>>,
    next_id: Cell<u64>,
    /// Preparations that wait for their time.
    preparing: Cell<usize>,
    /// Running commands that a suspension left.
    parked: RefCell<HashMap<u64, Presence>>,
    suspension: Suspension,
}

/// Where the next command will be, and the child that will become it.
#[derive(Debug)]
struct Next {
    id: u64,
    cgroup: Cgroup,
    child: Spare,
}

#[derive(Debug)]
struct Job {
    cgroup: Cgroup,
    pid: Pid,
    terminal: Option<OwnedFd>,
}

impl Jobs {
    /// Makes the next command's cgroup and child, if they are not there yet.
    pub fn prepare_next(&self) -> Result<()> {
        if self.spare.borrow().is_none() {
            let id = self.next_id.get() + 1;
            self.next_id.set(id);
            let cgroup = match self.cgroups.borrow_mut().pop() {
                Some(cgroup) => cgroup,
                None => Cgroup::create(id)?,
            };
            let child = child::bear(&cgroup)?;
            *self.spare.borrow_mut() = Some(Next { id, cgroup, child });
        }
        Ok(())
    }

    /// Waits until nothing is left to be done for commands that ended, and for the kernel to have done its own part: what
    /// it would still do after a save, every clone would do again.
    pub async fn settle(&self) {
        while self.preparing.get() > 0 {
            tokio::time::sleep(PREPARE_AFTER).await;
        }
        rustix::fs::sync();
        tokio::time::sleep(KERNEL_SETTLES).await;
        rustix::fs::sync();
    }

    /// Waits until every command has been left, or is over. An error after a time that an honest host never needs.
    pub async fn suspend_all(&self) -> Result<()> {
        self.suspension.set(true);
        for _ in 0..SUSPEND_LOOKS {
            if self.running.borrow().keys().all(|id| self.parked.borrow().contains_key(id)) {
                return Ok(());
            }
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        Err(ErrorKind::TimedOut.into())
    }

    /// A new session begins: commands are attended to as usual.
    pub fn suspension_is_over(&self) {
        self.suspension.set(false);
    }

    /// Whether no command runs.
    pub fn none_runs(&self) -> bool {
        self.running.borrow().is_empty()
    }

    /// Keeps the cgroup of a command that ended, if nothing is left in it.
    fn retire(&self, job: Rc<Job>) {
        let mut cgroups = self.cgroups.borrow_mut();
        if let Some(job) = Rc::into_inner(job).filter(|job| cgroups.len() < MAX_FREE_CGROUPS && job.cgroup.is_empty()) {
            cgroups.push(job.cgroup);
        }
    }

    fn take_next(&self) -> Result<Next> {
        self.prepare_next()?;
        self.spare.borrow_mut().take().ok_or_else(|| ErrorKind::Other.into())
    }

    /// Sends a signal: 9 to the whole tree through its cgroup, any other to the command's process group.
    pub fn signal(&self, signal: Signal) -> Reply {
        let Some(job) = self.running.borrow().get(&signal.job).cloned() else { return no_job(signal.job) };
        if i32::from(signal.number) == libc::SIGKILL {
            job.cgroup.kill();
            return Reply::Done;
        }
        match Sig::from_named_raw(signal.number.into()).map(|sig| kill_process_group(job.pid, sig)) {
            // The group may be gone while the command's last output is still on its way.
            Some(Ok(()) | Err(rustix::io::Errno::SRCH)) => Reply::Done,
            Some(Err(e)) => failed(Step::Other, e.raw_os_error(), "kill"),
            None => failed(Step::Protocol, libc::EINVAL, "no such signal"),
        }
    }

    /// Changes a terminal's size.
    pub fn resize(&self, id: u64, size: TermSize) -> Reply {
        let Some(job) = self.running.borrow().get(&id).cloned() else { return no_job(id) };
        match job.terminal.as_ref().map(|terminal| process::resize(terminal, size)) {
            Some(Ok(())) => Reply::Done,
            Some(Err(e)) => failed(Step::Other, e.raw_os_error().unwrap_or(0), "resize"),
            None => failed(Step::Protocol, libc::ENOTTY, "the command has no terminal"),
        }
    }
}

fn failed(step: Step, errno: i32, detail: &str) -> Reply {
    Reply::Failed(Failure { step, errno, detail: detail.to_owned() })
}

fn no_job(id: u64) -> Reply {
    failed(Step::NoJob, 0, &format!("no job {id}"))
}

/// Runs a command with its input and output on `stream`. Its whole tree ends when the stream does.
pub async fn run<S>(jobs: &Rc<Jobs>, exec: Exec, stream: S) -> Result<()>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let (reader, writer) = stream.split();
    let writer = Mutex::new(writer);
    if exec.argv.is_empty() {
        return reply(&writer, failed(Step::Protocol, 0, "an empty command")).await;
    }
    let Next { id, cgroup, child } = match jobs.take_next() {
        Ok(next) => next,
        Err(e) => return reply(&writer, failed(Step::Spawn, e.raw_os_error().unwrap_or(0), "no process")).await,
    };
    let limited = cgroup.limit_processes(exec.max_processes).map_err(|e| Failure {
        step: Step::Spawn,
        errno: e.raw_os_error().unwrap_or(0),
        detail: "no bound on processes".to_owned(),
    });
    let started = match limited {
        Ok(()) => process::start(&exec, child, &cgroup).await,
        Err(failure) => Err(failure),
    };
    let process = match started {
        Ok(process) => process,
        Err(failure) => {
            tokio::task::spawn_local(prepare_later(jobs.clone()));
            return reply(&writer, Reply::Failed(failure)).await;
        }
    };
    let terminal = if process.errors.is_none() { Some(process.output.get_ref().try_clone()?) } else { None };
    let job = Rc::new(Job { cgroup, pid: process.pid, terminal });
    jobs.running.borrow_mut().insert(id, job.clone());
    accompany(jobs, id, Presence::of(job, process), reader, writer).await
}

/// Takes part again in a command that a suspension left.
pub async fn resume<S>(jobs: &Rc<Jobs>, id: u64, stream: S) -> Result<()>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let (reader, writer) = stream.split();
    let writer = Mutex::new(writer);
    let parked = jobs.parked.borrow_mut().remove(&id);
    match parked {
        Some(presence) => accompany(jobs, id, presence, reader, writer).await,
        None => reply(&writer, no_job(id)).await,
    }
}

async fn reply<W: AsyncWrite + Unpin>(writer: &Mutex<W>, reply: Reply) -> Result<()> {
    write_reply(&mut *writer.lock().await, &reply).await
}

/// Stays with a command until it is over, or a suspension parks it.
async fn accompany<R, W>(jobs: &Rc<Jobs>, id: u64, mut presence: Presence, reader: R, writer: Mutex<W>) -> Result<()>
where
    R: AsyncRead + Unpin,
    W: AsyncWrite + Unpin,
{
    let started = reply(&writer, Reply::Started { job: id }).await;
    let turn = match started {
        Ok(()) => attend(jobs, &mut presence, reader, &writer).await,
        Err(e) => Err(e),
    };
    if let Ok(Turn::Parked) = turn {
        jobs.parked.borrow_mut().insert(id, presence);
        reply(&writer, Reply::Suspended).await?;
        return writer.into_inner().close().await;
    }
    let job = presence.job;
    if turn.is_err() {
        job.cgroup.clear().await;
    }
    jobs.running.borrow_mut().remove(&id);
    let oom_killed = job.cgroup.oom_killed();
    jobs.retire(job);
    tokio::task::spawn_local(prepare_later(jobs.clone()));
    if let Turn::Ended(status) = turn? {
        reply(&writer, Reply::Exited(Exited { status, oom_killed })).await?;
    }
    writer.into_inner().close().await
}

/// Prepares for the next command once the answer to this one had time to leave.
async fn prepare_later(jobs: Rc<Jobs>) {
    jobs.preparing.set(jobs.preparing.get() + 1);
    tokio::time::sleep(PREPARE_AFTER).await;
    let _ = jobs.prepare_next();
    jobs.preparing.set(jobs.preparing.get() - 1);
}

/// All that is known of a running command besides the stream that it is followed on.
#[derive(Debug)]
struct Presence {
    job: Rc<Job>,
    process: Process,
    /// How its first process ended, once it has.
    status: Option<Status>,
    input: Input,
}

impl Presence {
    fn of(job: Rc<Job>, mut process: Process) -> Presence {
        let input = Input::new(process.input.take(), job.terminal.is_some());
        Presence { job, process, status: None, input }
    }
}

/// Why a command is no longer attended to.
enum Turn {
    /// It is over.
    Ended(Status),
    /// All that it wrote so far was sent; it goes on later, on another stream.
    Parked,
}

/// Moves bytes until the command is over, and ends what is left of its tree.
async fn attend<R, W>(jobs: &Jobs, presence: &mut Presence, reader: R, writer: &Mutex<W>) -> Result<Turn>
where
    R: AsyncRead + Unpin,
    W: AsyncWrite + Unpin,
{
    let Presence { job, process: Process { output, errors, ended, .. }, status, input } = presence;
    let stop = Stop::default();
    let pump_out = pump(output, Kind::Stdout, writer, &stop);
    let pump_err = async {
        match errors {
            Some(errors) => pump(errors, Kind::Stderr, writer, &stop).await,
            None => Ok(()),
        }
    };
    let mut pumps = std::pin::pin!(async { tokio::try_join!(pump_out, pump_err) });
    let mut pumped = None;
    let leader = async {
        let status = match *status {
            Some(status) => status,
            None => *status.insert(ended.await.unwrap_or(Status::Signal(9))),
        };
        // The result of a command is a result about all of it: what the leader left behind goes first.
        job.cgroup.clear().await;
        status
    };
    let mut leader = std::pin::pin!(leader);
    let mut feeding = std::pin::pin!(input.feed(&jobs.suspension, reader));
    let ended = loop {
        tokio::select! {
            status = &mut leader => break Some(status),
            marked = &mut feeding => if marked { break None } else { return Err(ErrorKind::BrokenPipe.into()) },
            result = &mut pumps, if pumped.is_none() => pumped = Some(result),
        }
    };
    match (ended, pumped) {
        (_, Some(pumped)) => drop(pumped?),
        (Some(_), None) => drop(tokio::time::timeout(DRAIN, pumps).await),
        (None, None) => {
            stop.set();
            pumps.await?;
        }
    }
    Ok(ended.map_or(Turn::Parked, Turn::Ended))
}

/// Tells the pumps to stop between two pieces.
#[derive(Debug, Default)]
struct Stop {
    set: Cell<bool>,
    changed: Notify,
}

impl Stop {
    fn set(&self) {
        self.set.set(true);
        self.changed.notify_waiters();
    }

    async fn wait(&self) {
        let changed = self.changed.notified();
        if !self.set.get() {
            changed.await;
        }
    }
}

/// Sends what the command writes, as it comes, until nobody can write any more, or until it is told to stop.
async fn pump<W>(source: &AsyncFd<OwnedFd>, kind: Kind, writer: &Mutex<W>, stop: &Stop) -> Result<()>
where
    W: AsyncWrite + Unpin,
{
    let mut buffer = vec![0; HEADER_LEN + CHUNK];
    loop {
        let mut guard = tokio::select! {
            guard = source.readable() => guard?,
            () = stop.wait() => return Ok(()),
        };
        let len = match guard.try_io(|fd| Ok(rustix::io::read(fd.get_ref(), &mut buffer[HEADER_LEN..])?)) {
            Ok(Ok(0)) => return Ok(()),
            Ok(Ok(len)) => len,
            // How a terminal says that its last user is gone.
            Ok(Err(e)) if e.raw_os_error() == Some(libc::EIO) => return Ok(()),
            Ok(Err(e)) => return Err(e),
            Err(_would_block) => continue,
        };
        buffer[..HEADER_LEN].copy_from_slice(&frame::header(kind, len));
        let mut writer = writer.lock().await;
        writer.write_all(&buffer[..HEADER_LEN + len]).await?;
        writer.flush().await?;
    }
}
