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
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::sync::Mutex;

use crate::cgroup::Cgroup;
use crate::link::watch;
use crate::process::{self, Process};
use crate::serve::{read_frame, write_reply};

/// How much output is read at once.
const CHUNK: usize = 64 * 1024;
/// How long output may still come after every process of the command was killed.
const DRAIN: Duration = Duration::from_secs(2);

/// Making and removing cgroups is kept out of the way of answers.
const RETIRE_AFTER: Duration = Duration::from_millis(20);

/// Grace periods, deferred frees and write-back are over after this.
const KERNEL_SETTLES: Duration = Duration::from_millis(400);

/// The commands that run, by job id.
#[derive(Debug, Default)]
pub struct Jobs {
    running: RefCell<HashMap<u64, Rc<Job>>>,
    /// Made ahead of need: creating a cgroup takes longer than anything else before the exec.
    spare: RefCell<Option<(u64, Cgroup)>>,
    next_id: RefCell<u64>,
    /// Commands that ended and whose cgroups are still to be removed.
    retiring: Cell<usize>,
}

#[derive(Debug)]
struct Job {
    cgroup: Cgroup,
    pid: Pid,
    terminal: Option<OwnedFd>,
}

impl Jobs {
    /// Makes the next command's cgroup, if it is not there yet.
    pub fn prepare_next(&self) -> Result<()> {
        if self.spare.borrow().is_none() {
            let mut next = self.next_id.borrow_mut();
            *next += 1;
            *self.spare.borrow_mut() = Some((*next, Cgroup::create(*next)?));
        }
        Ok(())
    }

    /// Waits until nothing is left to be done for commands that ended, and for the kernel to have done its own part: what
    /// it would still do after a save, every clone would do again.
    pub async fn settle(&self) {
        while self.retiring.get() > 0 {
            tokio::time::sleep(RETIRE_AFTER).await;
        }
        rustix::fs::sync();
        tokio::time::sleep(KERNEL_SETTLES).await;
        rustix::fs::sync();
    }

    /// Whether no command runs.
    pub fn none_runs(&self) -> bool {
        self.running.borrow().is_empty()
    }

    fn take_cgroup(&self) -> Result<(u64, Cgroup)> {
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
    let refuse = async |reply: Reply| write_reply(&mut *writer.lock().await, &reply).await;
    if exec.argv.is_empty() {
        return refuse(failed(Step::Protocol, 0, "an empty command")).await;
    }
    let (id, cgroup) = match jobs.take_cgroup() {
        Ok(taken) => taken,
        Err(e) => return refuse(failed(Step::Spawn, e.raw_os_error().unwrap_or(0), "cgroup")).await,
    };
    let process = match process::start(&exec, &cgroup) {
        Ok(process) => process,
        Err(failure) => return refuse(Reply::Failed(failure)).await,
    };
    write_reply(&mut *writer.lock().await, &Reply::Started { job: id }).await?;
    let terminal = if process.errors.is_none() { Some(process.output.try_clone()?) } else { None };
    let job = Rc::new(Job { cgroup, pid: process.pid, terminal });
    jobs.running.borrow_mut().insert(id, job.clone());
    let result = attend(&job, process, reader, &writer).await;
    jobs.running.borrow_mut().remove(&id);
    tokio::task::spawn_local(retire(jobs.clone(), job));
    let exited = result?;
    write_reply(&mut *writer.lock().await, &Reply::Exited(exited)).await?;
    writer.into_inner().close().await
}

/// Puts a job away, and prepares for the next, once the answer to this one had time to leave.
async fn retire(jobs: Rc<Jobs>, job: Rc<Job>) {
    jobs.retiring.set(jobs.retiring.get() + 1);
    tokio::time::sleep(RETIRE_AFTER).await;
    drop(job);
    let _ = jobs.prepare_next();
    jobs.retiring.set(jobs.retiring.get() - 1);
}

/// Moves bytes until the command is over, and ends what is left of its tree.
async fn attend<R, W>(job: &Job, process: Process, reader: R, writer: &Mutex<W>) -> Result<Exited>
where
    R: AsyncRead + Unpin,
    W: AsyncWrite + Unpin,
{
    let Process { input, output, errors, ended, .. } = process;
    let pump_out = pump(output, Kind::Stdout, writer);
    let pump_err = async {
        match errors {
            Some(errors) => pump(errors, Kind::Stderr, writer).await,
            None => Ok(()),
        }
    };
    let leader = async {
        let status = ended.await.unwrap_or(Status::Signal(9));
        // The result of a command is a result about all of it: what the leader left behind goes first.
        job.cgroup.clear().await;
        status
    };
    let outputs = async { tokio::try_join!(pump_out, pump_err) };
    let finish = async {
        tokio::pin!(outputs);
        let mut leader = std::pin::pin!(leader);
        let mut drained = None;
        let status = loop {
            tokio::select! {
                status = &mut leader => break status,
                result = &mut outputs, if drained.is_none() => drained = Some(result),
            }
        };
        match drained {
            Some(result) => result.map(|_| ())?,
            None => drop(tokio::time::timeout(DRAIN, &mut outputs).await),
        }
        Ok::<Status, std::io::Error>(status)
    };
    let caller_gone = feed(reader, input, job.terminal.is_some());
    let status = tokio::select! {
        status = finish => status,
        () = caller_gone => Err(ErrorKind::BrokenPipe.into()),
    };
    if status.is_err() {
        job.cgroup.clear().await;
    }
    Ok(Exited { status: status?, oom_killed: job.cgroup.oom_killed() })
}

/// Sends what the command writes, as it comes, until nobody can write any more.
async fn pump<W: AsyncWrite + Unpin>(source: OwnedFd, kind: Kind, writer: &Mutex<W>) -> Result<()> {
    rustix::io::ioctl_fionbio(&source, true)?;
    let source = watch(source, Interest::READABLE)?;
    let mut buffer = vec![0; HEADER_LEN + CHUNK];
    loop {
        let mut guard = source.readable().await?;
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

/// Passes input frames on. Returns when the caller is gone; the end of input alone is not the end.
async fn feed<R: AsyncRead + Unpin>(mut reader: R, input: Option<OwnedFd>, terminal: bool) {
    let mut sink = input.and_then(|fd| {
        rustix::io::ioctl_fionbio(&fd, true).ok()?;
        watch(fd, Interest::WRITABLE).ok()
    });
    let mut payload = Vec::new();
    while let Ok(Kind::Stdin) = read_frame(&mut reader, &mut payload).await {
        let end = payload.is_empty();
        if end && terminal {
            payload.push(0x04);
        }
        if let Some(fd) = &sink {
            // A command that closed its input is no reason to stop listening to the caller.
            if write_all(fd, &payload).await.is_err() || (end && !terminal) {
                sink = None;
            }
        }
    }
}

async fn write_all(fd: &AsyncFd<OwnedFd>, mut bytes: &[u8]) -> Result<()> {
    while !bytes.is_empty() {
        let mut guard = fd.writable().await?;
        match guard.try_io(|fd| Ok(rustix::io::write(fd.get_ref(), bytes)?)) {
            Ok(written) => bytes = &bytes[written?..],
            Err(_would_block) => {}
        }
    }
    Ok(())
}
