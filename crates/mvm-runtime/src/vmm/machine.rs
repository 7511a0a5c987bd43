//! One running machine: a confined QEMU process with its control socket, its console and the agent's channel.

use std::fs::File;
use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use mvm_wire::ErrorCode;
use tokio::io::AsyncReadExt;
use tokio::net::UnixStream;

use super::confine::{self, BrokeredOpen, LayerReport, VmmCommand, VmmLimits, VmmProcess};
use super::guest::Guest;
use super::memory;
use super::qemu::{self, Line, MemoryMode, Shape, Start};
use super::qmp::Qmp;
use crate::error::{Error, IoContext, Result};
use crate::host::{Accelerator, Host};
use crate::policy;

/// How much of the console's end is kept for error messages.
const CONSOLE_TAIL: usize = 16 << 10;
/// QEMU tries to give /dev/zero a length, says that it cannot, and goes on.
const SAID_OF_FRESH_MEMORY: [&str; 2] = ["ftruncate: Invalid argument", ""];
/// How long the copy of a machine's memory may take. A GiB takes less than a second.
const SAVE_LIMIT: Duration = Duration::from_secs(120);
/// What the VMM needs besides the guest's memory: its own code, translated code, buffers.
const VMM_OVERHEAD_BYTES: u64 = 512 << 20;

/// Where the guest's memory comes from.
#[derive(Debug)]
pub enum Memory {
    /// A file that the machine writes its memory to.
    Shared(File),
    /// A file of which the machine gets a private copy, page by page. Opened read-only.
    CopyOnWrite(File),
    /// Zeros.
    Fresh,
}

/// How a machine starts.
#[derive(Debug)]
pub enum Origin {
    /// Boots a kernel.
    Boot {
        /// bzImage or ELF.
        kernel: PathBuf,
        /// The initial file system.
        initramfs: File,
        /// Whether it fills an empty disk instead of running commands.
        builder: bool,
    },
    /// Continues from saved state.
    Restore {
        /// The state of its devices.
        devices: File,
        /// Load it and wait until it is told to run.
        paused: bool,
    },
}

/// A machine to start.
#[derive(Debug)]
pub struct Launch<'a> {
    /// This host.
    pub host: &'a Host,
    /// What executes its instructions.
    pub accelerator: Accelerator,
    /// Its shape.
    pub shape: &'a Shape,
    /// Its memory.
    pub memory: Memory,
    /// The raw base of its disk and the overlays, lowest first. The last is written to, all others are opened read-only.
    pub disks: Vec<File>,
    /// How it starts.
    pub origin: Origin,
    /// Layers of isolation without which it does not run.
    pub require: &'a [String],
}

/// A running machine. Dropped, it is killed and nothing of it is left.
#[derive(Debug)]
pub struct Machine {
    process: VmmProcess,
    memory: MachineMemory,
    agent: OwnedFd,
    control: Option<UnixStream>,
    qmp: Option<Qmp>,
    commands_sent: usize,
    console: Arc<Mutex<Console>>,
}

/// The file that a machine's memory began as, and how much memory there is.
#[derive(Debug)]
struct MachineMemory {
    base: File,
    bytes: u64,
}

/// What the guest printed on its console.
#[derive(Default)]
struct Console {
    tail: Vec<u8>,
    listener: Option<ConsoleListener>,
}

/// Gets what the console prints, piece by piece.
pub type ConsoleListener = Box<dyn FnMut(&[u8]) + Send>;

impl std::fmt::Debug for Console {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Console").field("tail", &self.tail.len()).finish_non_exhaustive()
    }
}

impl Machine {
    /// Starts QEMU. The calling thread must outlive the machine: the kernel kills QEMU when it ends.
    pub fn start(launch: Launch<'_>) -> Result<Machine> {
        let shape = launch.shape;
        let (memory_mode, memory) = match launch.memory {
            Memory::Shared(file) => (MemoryMode::Shared, file),
            Memory::CopyOnWrite(file) => (MemoryMode::CopyOnWrite, file),
            // Written to it is private memory like any other. That it can be told apart is what a save needs.
            Memory::Fresh => {
                (MemoryMode::CopyOnWrite, File::open("/dev/zero").context(|| "cannot open /dev/zero".into())?)
            }
        };
        let base = memory.try_clone().context(|| "cannot keep the machine's memory file".into())?;
        let (control, control_theirs) = socket_pair()?;
        let (agent, agent_theirs) = socket_pair()?;
        let agent = OwnedFd::from(agent.into_std().context(|| "cannot create a socket pair".into())?);
        let (console, console_theirs) = socket_pair()?;
        let mut fds: Vec<(i32, OwnedFd)> =
            vec![(qemu::QMP_FD, control_theirs), (qemu::AGENT_FD, agent_theirs), (qemu::CONSOLE_FD, console_theirs)];
        let mut readable = Vec::new();
        let start = match launch.origin {
            Origin::Restore { devices, paused } => {
                fds.push((qemu::STATE_FD, devices.into()));
                Start::Restore { paused }
            }
            Origin::Boot { kernel, initramfs, builder } => {
                let file = File::open(&kernel).context(|| format!("cannot open the kernel {}", kernel.display()))?;
                fds.push((qemu::KERNEL_FD, file.into()));
                fds.push((qemu::INITRAMFS_FD, initramfs.into()));
                readable.push(kernel);
                Start::Boot(qemu::kernel_cmdline(launch.accelerator, launch.host.tsc_khz, builder))
            }
        };
        // They wait in the socket until QEMU reads them, so that a restore needs no round trip.
        let restores = matches!(start, Start::Restore { .. });
        let commands = if restores { qemu::restore_commands().to_vec() } else { Vec::new() };
        for command in &commands {
            // Straight to the socket: the event loop has not seen it yet.
            rustix::io::write(&control, format!("{command}\n").as_bytes())
                .context(|| "cannot write to QEMU's control socket".into())?;
        }
        let commands_sent = commands.len();
        let line =
            Line { accelerator: launch.accelerator, shape, memory: memory_mode, disks: launch.disks.len(), start };
        let args = line.arguments();
        fds.extend(launch.disks.into_iter().zip(qemu::FIRST_DISK_FD..).map(|(file, number)| (number, file.into())));
        let mut opens = vec![BrokeredOpen { path: qemu::MEMORY_PATH.into(), fd: memory.into() }];
        if launch.accelerator == Accelerator::Kvm {
            let kvm =
                File::options().read(true).write(true).open("/dev/kvm").context(|| "cannot open /dev/kvm".into())?;
            opens.push(BrokeredOpen { path: "/dev/kvm".into(), fd: kvm.into() });
        }
        let process = confine::spawn(VmmCommand {
            program: launch.host.qemu.path.clone(),
            args,
            fds,
            opens,
            limits: VmmLimits {
                file_size: shape.disk_bytes + shape.disk_bytes / 64 + (u64::from(shape.memory_mib) << 20) + (16 << 20),
                memory: (u64::from(shape.memory_mib) << 20) + VMM_OVERHEAD_BYTES,
                pids: 64 + u64::from(shape.cpus),
            },
            readable,
        })?;
        if let Some((layer, why)) = policy::first_missing(launch.require, process.layers()) {
            return Err(policy::lacks(layer, &why));
        }
        let console = keep_tail(console);
        let memory = MachineMemory { base, bytes: u64::from(shape.memory_mib) << 20 };
        Ok(Machine { process, memory, agent, control: Some(control), qmp: None, commands_sent, console })
    }

    /// Waits until the agent has answered our greeting, for `limit` at most. A session that there was before must be over.
    pub async fn greet(&mut self, limit: Duration) -> Result<Guest> {
        let agent = self.channel()?;
        match tokio::time::timeout(limit, Guest::connect(agent)).await {
            Ok(Ok(guest)) => Ok(guest),
            Ok(Err(e)) => Err(self.explain(e).await),
            Err(_) => {
                let why = format!("its agent did not answer within {} s", limit.as_secs());
                Err(self
                    .explain(Error::new(ErrorCode::SandboxUnavailable, "the machine did not become ready", why))
                    .await)
            }
        }
    }

    /// One more handle on the agent's channel.
    fn channel(&self) -> Result<UnixStream> {
        let copy = || UnixStream::from_std(std::os::unix::net::UnixStream::from(self.agent.try_clone()?));
        copy().context(|| "cannot open the agent's channel".into())
    }

    /// The control connection.
    pub async fn control(&mut self) -> Result<&mut Qmp> {
        if let Some(socket) = self.control.take() {
            self.qmp = match Qmp::connect(socket, self.commands_sent).await {
                Ok(qmp) => Some(qmp),
                Err(e) => return Err(self.explain(e).await),
            };
        }
        self.qmp.as_mut().ok_or_else(|| Error::internal("cannot control the machine", "its control connection broke"))
    }

    /// Saves a stopped machine: the state of its devices into one file, its memory into another. Both are new and empty.
    pub async fn save(&mut self, devices: File, memory: File) -> Result<()> {
        self.control().await?.save_devices(devices.as_fd()).await?;
        let (pid, MachineMemory { base, bytes }) = (self.process.pid(), &self.memory);
        let (base, bytes) = (base.try_clone().context(|| "cannot open the machine's memory file".into())?, *bytes);
        // A VMM that was taken over may make its memory unreadable for ever; then it is killed, and the read ends.
        let copied = tokio::task::spawn_blocking(move || memory::copy(pid, &base, bytes, &memory));
        match tokio::time::timeout(SAVE_LIMIT, copied).await {
            Ok(copied) => copied.map_err(|e| Error::internal("cannot save the machine's memory", e))??,
            Err(_) => {
                self.process.kill();
                return Err(Error::internal("cannot save the machine's memory", "it could not be read in time"));
            }
        }
        // The memory of a process that is being killed may be gone before the process is: that it answers proves it whole.
        self.control().await?.held().await
    }

    /// Completes when QEMU has ended.
    pub fn ended(&self) -> Result<impl Future<Output = ()> + Send + use<>> {
        let watched = self.process.watch()?;
        Ok(async move { drop(watched.readable().await) })
    }

    /// Adds to an error what is known of the machine's end: QEMU's last words and the end of the console.
    pub async fn explain(&mut self, mut error: Error) -> Error {
        // QEMU's own message can still be on its way when its sockets close.
        tokio::time::sleep(Duration::from_millis(50)).await;
        if let Ok(Some(status)) = self.process.try_wait() {
            error.why = format!("{}; QEMU ended: {status}", error.why);
        }
        if let Some(refusal) = self.control.as_ref().and_then(refusal) {
            error.why = format!("{}; QEMU refused: {}", error.why, crate::text::harmless(&refusal));
        }
        let last_words = self.process.stderr_tail();
        let last_words: Vec<&str> = last_words.lines().filter(|line| !SAID_OF_FRESH_MEMORY.contains(line)).collect();
        if !last_words.is_empty() {
            error.why = format!("{}; QEMU says: {}", error.why, crate::text::harmless(&last_words.join(" | ")));
        }
        let console = self.console_tail();
        let tail: Vec<&str> = console.lines().rev().filter(|l| !l.trim().is_empty()).take(3).collect();
        if !tail.is_empty() {
            let lines: Vec<&str> = tail.into_iter().rev().collect();
            error.why = format!("{}; the console ends with: {}", error.why, lines.join(" | "));
        }
        error
    }

    /// The end of what the guest's console printed, made harmless.
    pub fn console_tail(&self) -> String {
        let bytes = self.console.lock().map(|console| console.tail.clone()).unwrap_or_default();
        crate::text::harmless(&String::from_utf8_lossy(&bytes))
    }

    /// Has somebody listen to the console: first to the end of what it printed before.
    pub fn listen_to_console(&self, mut listener: ConsoleListener) {
        if let Ok(mut console) = self.console.lock() {
            listener(&console.tail);
            console.listener = Some(listener);
        }
    }

    /// The confinement that applied to this QEMU.
    pub fn layers(&self) -> &[LayerReport] {
        self.process.layers()
    }

    /// QEMU's process id.
    pub fn pid(&self) -> u32 {
        self.process.pid()
    }

    /// Whether QEMU has ended.
    pub fn has_ended(&mut self) -> bool {
        self.process.try_wait().ok().flatten().is_some()
    }

    /// Whether QEMU has ended by itself and without an error, as it does when the guest switches itself off.
    pub fn exited_well(&mut self) -> bool {
        self.process.try_wait().ok().flatten().is_some_and(|status| status == confine::EXITED_WELL)
    }

    /// Ends the machine at once and waits until it is gone.
    pub fn kill(&mut self) {
        self.process.kill();
    }
}

/// What QEMU answered to the commands that were written ahead, if it was an error.
fn refusal(control: &UnixStream) -> Option<String> {
    let mut answers = [0; 16 << 10];
    let len = rustix::io::read(control, &mut answers).ok()?;
    let lines = String::from_utf8_lossy(&answers[..len]).into_owned();
    lines.lines().find_map(|line| {
        let answer: serde_json::Value = serde_json::from_str(line).ok()?;
        Some(answer.get("error")?.get("desc")?.as_str()?.to_owned())
    })
}

fn socket_pair() -> Result<(UnixStream, OwnedFd)> {
    let pair = || -> std::io::Result<(UnixStream, OwnedFd)> {
        let (ours, theirs) = std::os::unix::net::UnixStream::pair()?;
        ours.set_nonblocking(true)?;
        Ok((UnixStream::from_std(ours)?, theirs.into()))
    };
    pair().context(|| "cannot create a socket pair".into())
}

/// Reads the console for as long as the machine lives, so that it never blocks on us, and keeps its end.
fn keep_tail(mut socket: UnixStream) -> Arc<Mutex<Console>> {
    let console = Arc::new(Mutex::new(Console::default()));
    let keep = console.clone();
    tokio::spawn(async move {
        let mut chunk = [0; 4096];
        while let Ok(len @ 1..) = socket.read(&mut chunk).await {
            if let Ok(mut console) = keep.lock() {
                console.tail.extend_from_slice(&chunk[..len]);
                let excess = console.tail.len().saturating_sub(CONSOLE_TAIL);
                console.tail.drain(..excess);
                if let Some(listener) = &mut console.listener {
                    listener(&chunk[..len]);
                }
            }
        }
    });
    console
}
