//! Sessions and requests: wait for a hello, serve streams until the session ends, and wait again.

use std::cell::Cell;
use std::future::poll_fn;
use std::io::{Error, ErrorKind, Read, Result};
use std::rc::Rc;
use std::task::Poll;

use futures_util::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, BufReader, BufWriter};
use mvm_wire::frame::{self, HEADER_LEN, Kind};
use mvm_wire::guest::{Failure, Quiesce, Reply, Request, Step};
use tokio::task::LocalSet;
use yamux::{Config, Connection, Mode, Stream};

use crate::admit::Identity;
use crate::boot::{Role, log};
use crate::job::{self, Jobs};
use crate::link::Port;
use crate::{cgroup, connect, files, pack, process, unpack};

/// The most that the session sends as one piece: with its header of 12 bytes the most that the port takes at once
/// (measured: half again as fast as the default).
pub const SPLIT: usize = 32 * 1024 - 12;
/// More than the host opens at once, with those of which it has not been told that they ended.
const MAX_STREAMS: usize = 2048;
/// What the windows of all streams together may grow beyond the 256 KiB that each begins with: enough for fast ones
/// (measured: half again as fast), little enough for the machine's memory when many stop reading.
const GROWTH: usize = 4 << 20;
/// Pages of the port, which gives one with each read.
const READ_AHEAD: usize = 8 * 1024;

/// What the requests of one session share.
struct Machine {
    role: Role,
    jobs: Rc<Jobs>,
    identity: Identity,
    admitted: Cell<bool>,
    /// Whether there are commands that a quiesce has frozen.
    frozen: Cell<bool>,
    /// Set by a quiesce: the session ends once its answer is on the way.
    quiesced: Cell<bool>,
}

/// Serves sessions for as long as the machine lives.
pub async fn serve(role: Role) -> Result<()> {
    let identity = Identity::open(role)?;
    let machine = Rc::new(Machine {
        role,
        jobs: Rc::default(),
        identity,
        admitted: false.into(),
        frozen: false.into(),
        quiesced: false.into(),
    });
    if role == Role::Sandbox {
        cgroup::prepare()?;
        machine.jobs.prepare_next()?;
    }
    let mut port = Port::open()?;
    LocalSet::new()
        .run_until(async {
            tokio::task::spawn_local(process::reap_forever());
            loop {
                let version;
                (version, port) = port.greet().await?;
                match version {
                    0 => log("the host speaks no version of the protocol that this agent knows"),
                    _ => session(&machine, &mut port).await,
                }
            }
        })
        .await
}

/// One session, from the hello to its end by either side. Its streams, and the commands on them, end with it.
async fn session(machine: &Rc<Machine>, port: &mut Port) {
    machine.admitted.set(false);
    machine.quiesced.set(false);
    machine.jobs.suspension_is_over();
    let mut config = Config::default();
    config.set_split_send_size(SPLIT);
    config.set_max_num_streams(MAX_STREAMS);
    config.set_max_connection_receive_window(Some(MAX_STREAMS * yamux::DEFAULT_CREDIT as usize + GROWTH));
    let port = BufWriter::with_capacity(32 * 1024, BufReader::with_capacity(READ_AHEAD, port));
    let mut connection = Connection::new(port, config, Mode::Server);
    let ended = poll_fn(|cx| {
        loop {
            match connection.poll_next_inbound(cx) {
                Poll::Ready(Some(Ok(stream))) => {
                    let machine = machine.clone();
                    tokio::task::spawn_local(async move {
                        let _ = handle(&machine, stream).await;
                    });
                }
                Poll::Ready(Some(Err(e))) => return Poll::Ready(Err(e)),
                Poll::Ready(None) => return Poll::Ready(Ok(())),
                Poll::Pending if machine.quiesced.get() => return Poll::Ready(Ok(())),
                Poll::Pending => return Poll::Pending,
            }
        }
    })
    .await;
    match ended {
        Ok(()) => drop(poll_fn(|cx| connection.poll_close(cx)).await),
        Err(e) => log(&format!("session ended: {e}")),
    }
}

/// Reads the request of a stream and answers it.
async fn handle(machine: &Machine, mut stream: Stream) -> Result<()> {
    let mut payload = Vec::new();
    let kind = read_frame(&mut stream, &mut payload).await?;
    let request = (kind == Kind::Request).then(|| frame::decode::<Request>(&payload).ok()).flatten();
    let quiescing = matches!(request, Some(Request::Quiesce(_)));
    let reply = match request {
        Some(Request::Exec(exec)) if machine.admitted.get() => {
            return job::run(&machine.jobs, exec, stream).await;
        }
        Some(Request::Resume { job }) if machine.admitted.get() => {
            return job::resume(&machine.jobs, job, stream).await;
        }
        Some(Request::File(request)) if machine.admitted.get() => return files::serve(request, stream).await,
        Some(Request::Connect { port }) if machine.admitted.get() => return connect::serve(port, stream).await,
        Some(Request::Exec(_) | Request::Resume { .. } | Request::File(_) | Request::Connect { .. }) => {
            failed(Step::NotAdmitted, "not admitted")
        }
        Some(Request::Admit(request)) => admit_machine(machine, &request).await,
        Some(Request::Signal(signal)) => machine.jobs.signal(signal),
        Some(Request::Resize { job, size }) => machine.jobs.resize(job, size),
        Some(Request::Suspend) => suspend(machine).await,
        Some(Request::Quiesce(quiesce)) => quiesce_machine(machine, quiesce).await,
        Some(Request::Thaw) => thaw(machine).await,
        Some(Request::Halt) => halt(),
        Some(Request::Unpack) => return unpack_stream(machine, stream).await,
        Some(Request::Pack) => return pack_stream(machine, stream).await,
        None => failed(Step::Protocol, "not a request"),
    };
    write_reply(&mut stream, &reply).await?;
    stream.close().await?;
    machine.quiesced.set(quiescing && reply == Reply::Done);
    Ok(())
}

async fn admit_machine(machine: &Machine, request: &mvm_wire::guest::Admit) -> Reply {
    match machine.identity.admit(request) {
        Ok(admitted) => {
            machine.admitted.set(true);
            Reply::Admitted(admitted)
        }
        Err(e) => other(&e),
    }
}

async fn suspend(machine: &Machine) -> Reply {
    match machine.jobs.suspend_all().await {
        Ok(()) => Reply::Done,
        Err(e) => other(&e),
    }
}

async fn quiesce_machine(machine: &Machine, Quiesce { settle }: Quiesce) -> Reply {
    if machine.role == Role::Builder {
        return Reply::Done;
    }
    if settle && machine.jobs.none_runs() {
        machine.jobs.settle().await;
        return Reply::Done;
    }
    machine.frozen.set(true);
    let frozen = cgroup::freeze_all(true).await;
    // Nothing writes any more: what is on the disk now is what a start without this memory finds.
    rustix::fs::sync();
    match frozen {
        Ok(()) => Reply::Done,
        Err(e) => other(&e),
    }
}

async fn thaw(machine: &Machine) -> Reply {
    if !machine.admitted.get() {
        return failed(Step::NotAdmitted, "not admitted");
    }
    machine.jobs.suspension_is_over();
    if machine.frozen.replace(false) {
        if let Err(e) = cgroup::freeze_all(false).await {
            return other(&e);
        }
    }
    Reply::Done
}

/// What a power cut would lose is written, and nothing writes any more.
fn halt() -> Reply {
    cgroup::kill_all();
    rustix::fs::sync();
    // With something still open for writing it is refused; what matters is on the disk by then.
    let _ = rustix::mount::mount_remount("/", rustix::mount::MountFlags::RDONLY, "");
    Reply::Done
}

async fn unpack_stream(machine: &Machine, stream: Stream) -> Result<()> {
    let (reader, mut writer) = stream.split();
    let reply = if machine.role == Role::Builder {
        // The archive's reader blocks, so it runs on a thread; this task feeds it.
        unpack_on_thread(reader).await.map_or_else(|e| other(&e), |()| Reply::Done)
    } else {
        failed(Step::Protocol, "this machine builds nothing")
    };
    write_reply(&mut writer, &reply).await?;
    writer.close().await
}

async fn unpack_on_thread(mut frames: impl AsyncRead + Unpin) -> Result<()> {
    let (sender, receiver) = tokio::sync::mpsc::channel::<Vec<u8>>(8);
    let (done, finished) = tokio::sync::oneshot::channel();
    std::thread::spawn(move || done.send(unpack::unpack(Chunks { receiver, current: vec![], at: 0 })));
    loop {
        let mut payload = Vec::new();
        if read_frame(&mut frames, &mut payload).await? != Kind::Stdin {
            return Err(ErrorKind::InvalidData.into());
        }
        // A send fails when the archive ended or was refused before its last byte; the thread says which.
        if payload.is_empty() || sender.send(payload).await.is_err() {
            break;
        }
    }
    drop(sender);
    finished.await.unwrap_or_else(|_| Err(ErrorKind::Other.into()))
}

async fn pack_stream(machine: &Machine, stream: Stream) -> Result<()> {
    let (_reader, mut writer) = stream.split();
    let reply = if machine.role == Role::Builder {
        let (sender, mut frames) = tokio::sync::mpsc::channel(4);
        let (done, finished) = tokio::sync::oneshot::channel();
        std::thread::spawn(move || done.send(pack::pack(sender)));
        while let Some(frame) = frames.recv().await {
            writer.write_all(&frame).await?;
        }
        let result = finished.await.unwrap_or_else(|_| Err(ErrorKind::Other.into()));
        result.map_or_else(|e| other(&e), |()| Reply::Done)
    } else {
        failed(Step::Protocol, "this machine packs nothing")
    };
    write_reply(&mut writer, &reply).await?;
    writer.close().await
}

struct Chunks {
    receiver: tokio::sync::mpsc::Receiver<Vec<u8>>,
    current: Vec<u8>,
    at: usize,
}

impl Read for Chunks {
    fn read(&mut self, buf: &mut [u8]) -> Result<usize> {
        if self.at == self.current.len() {
            let Some(next) = self.receiver.blocking_recv() else { return Ok(0) };
            (self.current, self.at) = (next, 0);
        }
        let len = buf.len().min(self.current.len() - self.at);
        buf[..len].copy_from_slice(&self.current[self.at..self.at + len]);
        self.at += len;
        Ok(len)
    }
}

fn failed(step: Step, detail: &str) -> Reply {
    Reply::Failed(Failure { step, errno: 0, detail: detail.to_owned() })
}

fn other(e: &Error) -> Reply {
    Reply::Failed(Failure { step: Step::Other, errno: e.raw_os_error().unwrap_or(0), detail: e.to_string() })
}

/// Reads one frame; its payload replaces what is in `payload`.
pub async fn read_frame<R: AsyncRead + Unpin>(reader: &mut R, payload: &mut Vec<u8>) -> Result<Kind> {
    let mut header = [0; HEADER_LEN];
    reader.read_exact(&mut header).await?;
    let (kind, len) = frame::parse_header(header).map_err(|e| Error::new(ErrorKind::InvalidData, e))?;
    payload.resize(len, 0);
    reader.read_exact(payload).await?;
    Ok(kind)
}

/// Writes one reply.
pub async fn write_reply<W: AsyncWrite + Unpin>(writer: &mut W, reply: &Reply) -> Result<()> {
    let bytes = frame::message(Kind::Reply, reply).map_err(|e| Error::new(ErrorKind::InvalidData, e))?;
    writer.write_all(&bytes).await?;
    writer.flush().await
}
