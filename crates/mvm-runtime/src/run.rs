//! The one-shot run: one command in one machine that exists for nothing else.

use std::fs::File;
use std::time::{Duration, Instant};

use mvm_wire::ErrorCode;
use mvm_wire::api::{JobResult, NotStarted};
use mvm_wire::guest::{Exec, Exited, Failure, Reply, Request, Signal, Status, Step, TermSize};
use serde::Serialize;
use tokio::sync::mpsc;

use crate::error::{Error, Result};
use crate::home::Home;
use crate::host::{self, Accelerator, Host};
use crate::image::Image;
use crate::kernel::Kernel;
use crate::progress::Progress;
use crate::setup;
use crate::template::{self, BOOT_LIMIT, Recipe};
use crate::vmm::confine::LayerReport;
use crate::vmm::guest::{Channel, Frame, Frames, Guest, Input, describe};
use crate::vmm::machine::{Launch, Machine, Memory};
use crate::vmm::qemu::Shape;
use crate::{sandbox, vmm};

/// How long a restored clone may take to answer. It takes about 20 ms on an idle host.
const CLONE_LIMIT: Duration = Duration::from_secs(30);
/// How long the guest may take to start a command.
const START_LIMIT: Duration = Duration::from_secs(30);
/// How long the guest may take to report a command that was killed, before its machine goes.
const KILL_LIMIT: Duration = Duration::from_secs(3);

/// What to run, and in what.
#[derive(Debug, Clone)]
pub struct RunRequest {
    /// Image name.
    pub image: String,
    /// Machine shape.
    pub shape: Shape,
    /// Program and arguments.
    pub argv: Vec<String>,
    /// Environment, on top of the image's.
    pub env: Vec<(String, String)>,
    /// Working directory; empty for the image's.
    pub cwd: String,
    /// User; empty for the image's.
    pub user: String,
    /// Whether input is passed.
    pub stdin: bool,
    /// Give it a terminal of this size.
    pub tty: Option<TermSize>,
    /// Kill it after this time, counted from its start.
    pub timeout: Option<Duration>,
    /// Boot afresh instead of cloning a template.
    pub no_template: bool,
}

/// How a run ended.
#[derive(Debug, Clone)]
pub struct RunResult {
    /// The run's id.
    pub run_id: String,
    /// The sandbox's id.
    pub sandbox_id: String,
    /// How the command ended.
    pub result: JobResult,
    /// Digest of the image.
    pub image_digest: String,
    /// What kept it apart from the host.
    pub isolation: Isolation,
}

/// What kept a run apart from the host.
#[derive(Debug, Clone, Serialize)]
pub struct Isolation {
    /// The VMM.
    pub backend: &'static str,
    /// Its version.
    pub backend_version: String,
    /// Accelerator.
    pub accelerator: Accelerator,
    /// Whether the machine was a clone of a template.
    pub template: bool,
    /// Each layer of the VMM's confinement and whether it applied.
    pub layers: Vec<LayerReport>,
}

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

/// Everything that a run needs before its machine can start, found or made.
#[derive(Debug)]
pub struct Prepared {
    home: Home,
    host: Host,
    kernel: Kernel,
    image: Image,
    template: Option<template::Template>,
}

/// Finds what the run needs; makes what is missing, aloud.
pub async fn prepare(home: &Home, request: &RunRequest, progress: &dyn Progress) -> Result<Prepared> {
    check_shape(&request.shape)?;
    let ready = setup::ready(home, &request.image, progress).await?;
    with_template(home, ready, &request.shape, !request.no_template, progress).await
}

/// Adds the template to what a run stands on.
pub async fn with_template(
    home: &Home,
    ready: setup::Ready,
    shape: &Shape,
    wanted: bool,
    progress: &dyn Progress,
) -> Result<Prepared> {
    let setup::Ready { host, kernel, image } = ready;
    let accelerator = host.accelerator();
    let recipe = Recipe { host: &host, kernel: &kernel, image: &image, shape, accelerator };
    let template = if wanted { Some(template::ensure(home, recipe, progress).await?) } else { None };
    Ok(Prepared { home: home.clone(), host, kernel, image, template })
}

impl Prepared {
    /// The template, if one was wanted.
    pub fn template(&self) -> Option<&template::Template> {
        self.template.as_ref()
    }

    /// The image.
    pub fn image(&self) -> &Image {
        &self.image
    }
}

/// A machine that was admitted and waits for its first command.
#[derive(Debug)]
pub struct Ready {
    /// The machine.
    pub machine: Machine,
    /// The session with its agent.
    pub guest: Guest,
    /// Its id.
    pub id: String,
    /// What confines it.
    pub isolation: Isolation,
}

/// Starts a machine and admits it: a clone of the template, or a fresh boot. No admission, no machine. Its disk is gone
/// when it is.
pub async fn start(prepared: &Prepared, shape: &Shape) -> Result<Ready> {
    let mut disks = vec![prepared.image.open_disk()?];
    disks.extend(prepared.template.as_ref().map(template::Template::open_overlay).transpose()?);
    disks.push(template::overlay(&prepared.home, shape.disk_bytes)?);
    start_on(prepared, shape, sandbox::new_id()?, disks).await
}

/// The same on disks of the caller's: the image, overlays, and last the one that is written to. For a clone their
/// content must be that of its template.
pub async fn start_on(prepared: &Prepared, shape: &Shape, id: String, disks: Vec<File>) -> Result<Ready> {
    let host = &prepared.host;
    let accelerator = host.accelerator();
    let (memory, origin, limit) = match &prepared.template {
        Some(template) => {
            let (memory, state) = template.open_machine()?;
            (Memory::CopyOnWrite(memory), vmm::machine::Origin::Restore(state), CLONE_LIMIT)
        }
        None => (Memory::Private, template::boot_origin(&prepared.kernel, false)?, BOOT_LIMIT),
    };
    let mut machine = Machine::start(Launch { host, accelerator, shape, memory, disks, origin })?;
    let guest = machine.greet(limit).await?;
    if let Err(e) = guest.admit(sandbox::admission(&id)?).await {
        return Err(machine.explain(e).await);
    }
    let isolation = Isolation {
        backend: "qemu",
        backend_version: host.qemu.version.clone(),
        accelerator,
        template: prepared.template.is_some(),
        layers: machine.layers().to_vec(),
    };
    Ok(Ready { machine, guest, id, isolation })
}

/// Runs the command. `feed` yields its standard input, `control` what the caller wants meanwhile.
pub async fn run(
    prepared: &Prepared,
    request: &RunRequest,
    feed: mpsc::Receiver<Vec<u8>>,
    control: &mut mpsc::Receiver<Control>,
    streams: &mut impl Streams,
) -> Result<RunResult> {
    let run_id = sandbox::new_run_id()?;
    let mut ready = start(prepared, &request.shape).await?;
    let config = &prepared.image.config;
    let mut env = config.env.clone();
    env.extend(request.env.iter().cloned());
    let or_default = |value: &String, default: &String| if value.is_empty() { default.clone() } else { value.clone() };
    let exec = Exec {
        argv: request.argv.clone(),
        env,
        cwd: or_default(&request.cwd, &config.workdir),
        user: or_default(&request.user, &config.user),
        tty: request.tty,
        stdin: request.stdin,
    };
    let started = Instant::now();
    let attended = attend(&ready.guest, exec, request.timeout, feed, control, streams).await;
    let attended = match attended {
        Ok(attended) => attended,
        Err(e) if e.code == ErrorCode::TransportError => return Err(ready.machine.explain(e).await),
        Err(e) => return Err(e),
    };
    let duration_ms = started.elapsed().as_secs_f64() * 1000.0;
    ready.machine.kill();
    Ok(RunResult {
        run_id,
        sandbox_id: ready.id,
        result: JobResult { duration_ms, ..attended.into() },
        image_digest: prepared.image.digest.clone(),
        isolation: ready.isolation,
    })
}

/// How a command on a guest ended.
#[derive(Debug)]
pub struct Attended {
    /// How it ended, or why it could not start.
    pub outcome: std::result::Result<Exited, Failure>,
    /// Its time was up.
    pub timed_out: bool,
}

impl From<Attended> for JobResult {
    fn from(attended: Attended) -> JobResult {
        let mut result = JobResult { timed_out: attended.timed_out, ..JobResult::default() };
        match attended.outcome {
            Ok(exited) => {
                result.oom_killed = exited.oom_killed;
                match exited.status {
                    Status::Code(code) => result.exit_code = Some(code),
                    Status::Signal(signal) => result.signal = Some(signal),
                }
            }
            Err(failure) => {
                let missing = matches!(failure.errno, libc::ENOENT | libc::ENOTDIR);
                let reason = if missing { NotStarted::NOT_FOUND } else { NotStarted::NOT_EXECUTABLE };
                let command = crate::text::harmless(&failure.detail);
                result.not_started = Some(NotStarted { reason: reason.into(), command, errno: failure.errno });
            }
        }
        result
    }
}

/// Starts a command on a guest and stays with it to its end.
pub async fn attend(
    guest: &Guest,
    exec: Exec,
    timeout: Option<Duration>,
    feed: mpsc::Receiver<Vec<u8>>,
    control: &mut mpsc::Receiver<Control>,
    streams: &mut impl Streams,
) -> Result<Attended> {
    let start = async {
        let mut channel = guest.exec(exec).await?;
        let reply = channel.reply().await?;
        Ok((channel, reply))
    };
    let (channel, reply) = tokio::time::timeout(START_LIMIT, start)
        .await
        .unwrap_or_else(|_| Err(vmm::guest::broken("start the command", "the guest did not answer within 30 s")))?;
    let job = match reply {
        Reply::Started { job } => job,
        Reply::Failed(failure) => return refused(failure),
        other => return Err(vmm::guest::broken("start the command", format!("the guest answered {other:?}"))),
    };
    let Channel { mut frames, input } = channel;
    let feeding = send_input(input, feed);
    let commanding = obey(guest, job, control);
    let output = collect(&mut frames, streams);
    tokio::pin!(output);
    let deadline = async {
        match timeout {
            Some(limit) => tokio::time::sleep(limit).await,
            None => std::future::pending().await,
        }
    };
    let ended = tokio::select! {
        biased;
        exited = &mut output => Some(exited?),
        () = deadline => None,
        result = commanding => match result? {},
        never = feeding => match never {},
    };
    if let Some(exited) = ended {
        return Ok(Attended { outcome: Ok(exited), timed_out: false });
    }
    let killed = async {
        guest.call(&Request::Signal(Signal { job, number: 9 })).await?;
        output.await
    };
    let exited = match tokio::time::timeout(KILL_LIMIT, killed).await {
        Ok(exited) => exited?,
        // It goes with its machine; what it wrote is kept.
        Err(_) => Exited { status: Status::Signal(9), oom_killed: false },
    };
    Ok(Attended { outcome: Ok(exited), timed_out: true })
}

fn refused(failure: Failure) -> Result<Attended> {
    match failure.step {
        Step::Program => Ok(Attended { outcome: Err(failure), timed_out: false }),
        Step::Cwd => Err(Error::new(
            ErrorCode::InvalidRequest,
            format!("cannot enter the working directory {}", crate::text::harmless(&failure.detail)),
            std::io::Error::from_raw_os_error(failure.errno),
        )
        .hint("name a directory that exists in the image with --cwd")),
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

/// Passes output on until the command has ended.
async fn collect(frames: &mut Frames, streams: &mut impl Streams) -> Result<Exited> {
    loop {
        match frames.next().await? {
            Frame::Stdout(bytes) => streams.stdout(bytes).await?,
            Frame::Stderr(bytes) => streams.stderr(bytes).await?,
            Frame::Reply(Reply::Exited(exited)) => return Ok(exited),
            Frame::Reply(Reply::Failed(failure)) => {
                return Err(Error::new(ErrorCode::SandboxUnavailable, "the command was lost", describe(&failure)));
            }
            Frame::Reply(other) => {
                return Err(vmm::guest::broken("follow the command", format!("the guest answered {other:?}")));
            }
        }
    }
}

/// Passes input on to its end, then waits for ever: the end of input is not the end of the command.
async fn send_input(mut input: Input, mut feed: mpsc::Receiver<Vec<u8>>) -> std::convert::Infallible {
    while let Some(bytes) = feed.recv().await {
        // A broken channel is reported by the side that reads.
        if input.send(&bytes).await.is_err() {
            break;
        }
    }
    let _ = input.end().await;
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

/// Refuses a shape that no machine can have, or this host cannot give.
pub fn check_shape(shape: &Shape) -> Result<()> {
    const MIN_MEMORY_MIB: u32 = 128;
    const MIN_DISK: u64 = 64 << 20;
    let invalid =
        |what: String, why: String, hint: &str| Err(Error::new(ErrorCode::InvalidRequest, what, why).hint(hint));
    let memory = u64::from(shape.memory_mib) << 20;
    if shape.memory_mib < MIN_MEMORY_MIB {
        let what = format!("cannot give a machine {} MiB of memory", shape.memory_mib);
        return invalid(what, format!("a guest needs {MIN_MEMORY_MIB} MiB to boot"), "use --memory 256M or more");
    }
    if let Some(available) = host::memory_available().filter(|available| memory > *available) {
        return Err(Error::new(
            ErrorCode::ResourceExhausted,
            format!("cannot give a machine {} MiB of memory", shape.memory_mib),
            format!("this host has {} MiB free", available >> 20),
        )
        .hint("use a smaller --memory"));
    }
    let processors = std::thread::available_parallelism().map_or(1, |n| n.get() as u32);
    if shape.cpus == 0 || shape.cpus > processors {
        let what = format!("cannot give a machine {} processors", shape.cpus);
        return invalid(what, format!("this host has {processors}"), "use a --cpus that the host has");
    }
    if shape.disk_bytes < MIN_DISK || shape.disk_bytes > vmm::qcow2::MAX_DISK {
        let what = format!("cannot give a machine a disk of {} bytes", shape.disk_bytes);
        return invalid(what, "a disk has from 64 MiB to 4 TiB".into(), "use --disk 4G");
    }
    Ok(())
}
