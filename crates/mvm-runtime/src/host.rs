//! Facts about this host that are too dear to find out on every run, kept in `MVM_HOME/host.json`: QEMU's version, the
//! rate of the time-stamp counter, whether KVM really boots a guest, and what confines a VMM. They hold until the host boots
//! again or QEMU is replaced.

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use mvm_wire::ErrorCode;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::error::{Error, Result};
use crate::home::{Home, read_json, write_atomically};
use crate::vmm::confine::{self, LayerReport};

/// The facts.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Host {
    /// The kernel's id of this boot; TSC and KVM facts die with it.
    pub boot_id: String,
    /// Rate of the time-stamp counter in kHz, measured.
    pub tsc_khz: u64,
    /// The emulator.
    pub qemu: Qemu,
    /// Digest of the firmware that QEMU loads.
    pub firmware: String,
    /// The processor's name, which shapes what a guest on KVM sees.
    pub cpu_model: String,
    /// What is known of KVM.
    pub kvm: Kvm,
    /// What confines a VMM that this user starts.
    #[serde(default)]
    pub layers: Vec<LayerReport>,
    /// The user whose facts these are.
    #[serde(default)]
    pub uid: u32,
}

/// A QEMU binary.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Qemu {
    /// Its path.
    pub path: PathBuf,
    /// Its version as it prints it, e.g. `7.2.22 (Debian 1:7.2+dfsg-7)`.
    pub version: String,
    /// Size, inode and change time of the binary and of its firmware when they were looked at.
    pub identity: Vec<(u64, u64, i64)>,
}

/// Whether KVM can be used. A `/dev/kvm` that opens proves nothing: only a guest that reached its agent does.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "verdict", content = "why")]
pub enum Kvm {
    /// Not tried since the host booted.
    Untried,
    /// A guest booted on it.
    Usable,
    /// The reason why not.
    Unusable(String),
}

/// What executes the guest's instructions.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Accelerator {
    /// Hardware virtualisation.
    Kvm,
    /// Full emulation in QEMU.
    Tcg,
}

impl Accelerator {
    /// Its name on QEMU's command line.
    pub fn name(self) -> &'static str {
        match self {
            Accelerator::Kvm => "kvm",
            Accelerator::Tcg => "tcg",
        }
    }
}

impl Host {
    /// The facts as they are known; what is missing or outdated is found out and kept.
    pub fn load(home: &Home) -> Result<Host> {
        let path = home.root().join("host.json");
        let known: Option<Host> = read_json(&path);
        let boot_id = boot_id();
        let qemu_path = find_qemu()?;
        let identity = identity(&qemu_path)?;
        let uid = rustix::process::geteuid().as_raw();
        let current = |host: &&Host| {
            let same = host.boot_id == boot_id && host.uid == uid && !host.layers.is_empty();
            same && host.qemu.path == qemu_path && host.qemu.identity == identity
        };
        if let Some(host) = known.as_ref().filter(current) {
            return Ok(host.clone());
        }
        let same_boot = known.filter(|host| host.boot_id == boot_id);
        let host = Host {
            tsc_khz: same_boot.map_or_else(measure_tsc_khz, |host| host.tsc_khz),
            firmware: firmware_digest()?,
            cpu_model: cpu_model(),
            qemu: Qemu { version: qemu_version(&qemu_path)?, path: qemu_path, identity },
            kvm: match kvm_access() {
                Ok(()) => Kvm::Untried,
                Err(why) => Kvm::Unusable(why),
            },
            boot_id,
            layers: confine::detect()?,
            uid,
        };
        host.save(home)?;
        Ok(host)
    }

    /// Keeps the facts for the next command.
    pub fn save(&self, home: &Home) -> Result<()> {
        home.create()?;
        let text = serde_json::to_vec_pretty(self).map_err(|e| Error::internal("cannot encode host.json", e))?;
        write_atomically(&home.root().join("host.json"), &text)
    }

    /// The accelerator to use: KVM once it has proved itself, emulation otherwise.
    pub fn accelerator(&self) -> Accelerator {
        if self.kvm == Kvm::Usable { Accelerator::Kvm } else { Accelerator::Tcg }
    }
}

impl Qemu {
    /// Major and minor version; zeros if the text has another form.
    pub fn number(&self) -> (u32, u32) {
        let mut parts = self.version.split(|c: char| !c.is_ascii_digit()).map(|n| n.parse().unwrap_or(0));
        (parts.next().unwrap_or(0), parts.next().unwrap_or(0))
    }
}

/// Where QEMU is: `MVM_QEMU`, else on `PATH`.
fn find_qemu() -> Result<PathBuf> {
    const NAME: &str = "qemu-system-x86_64";
    if let Some(path) = std::env::var_os("MVM_QEMU").filter(|v| !v.is_empty()).map(PathBuf::from) {
        return if path.is_file() {
            Ok(path)
        } else {
            Err(no_qemu(&format!("MVM_QEMU is {}, which is no file", path.display())))
        };
    }
    std::env::split_paths(&std::env::var_os("PATH").unwrap_or_default())
        .map(|dir| dir.join(NAME))
        .find(|path| path.is_file())
        .ok_or_else(|| no_qemu(&format!("{NAME} is not on PATH")))
}

fn no_qemu(why: &str) -> Error {
    Error::new(ErrorCode::BackendUnsupported, "cannot start a machine without QEMU", why)
        .hint("apt-get install qemu-system-x86")
}

fn qemu_version(path: &Path) -> Result<String> {
    let output = std::process::Command::new(path)
        .arg("--version")
        .env_clear()
        .output()
        .map_err(|e| Error::new(ErrorCode::BackendUnsupported, format!("cannot run {}", path.display()), e))?;
    let text = String::from_utf8_lossy(&output.stdout);
    let line = text.lines().next().unwrap_or_default();
    line.split_once("version ").map(|(_, version)| version.trim().to_owned()).ok_or_else(|| {
        Error::new(
            ErrorCode::BackendUnsupported,
            format!("cannot use {}", path.display()),
            "it does not name a QEMU version",
        )
    })
}

fn identity(qemu: &Path) -> Result<Vec<(u64, u64, i64)>> {
    let firmware = firmware_files();
    let files = std::iter::once(qemu).chain(firmware.iter().map(PathBuf::as_path));
    files
        .map(|path| {
            let meta = std::fs::metadata(path).map_err(|e| Error::io(format!("cannot read {}", path.display()), e))?;
            Ok((meta.size(), meta.ino(), meta.ctime() * 1_000_000_000 + meta.ctime_nsec()))
        })
        .collect()
}

/// What the `microvm` machine loads besides the kernel, where distributions put it.
fn firmware_files() -> Vec<PathBuf> {
    ["bios-microvm.bin", "linuxboot_dma.bin", "pvh.bin"]
        .iter()
        .filter_map(|name| {
            ["/usr/share/qemu", "/usr/share/seabios", "/usr/local/share/qemu"]
                .iter()
                .map(|dir| Path::new(dir).join(name))
                .find(|path| path.exists())
        })
        .collect()
}

fn firmware_digest() -> Result<String> {
    let mut hasher = Sha256::new();
    for path in firmware_files() {
        hasher.update(std::fs::read(&path).map_err(|e| Error::io(format!("cannot read {}", path.display()), e))?);
    }
    Ok(hex::encode(hasher.finalize()))
}

fn cpu_model() -> String {
    let text = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let line = text.lines().find_map(|line| line.strip_prefix("model name")?.split_once(':'));
    line.map(|(_, name)| name.trim().to_owned()).unwrap_or_default()
}

/// Whether `/dev/kvm` can be opened at all.
fn kvm_access() -> std::result::Result<(), String> {
    match std::fs::File::options().read(true).write(true).open("/dev/kvm") {
        Ok(_) => Ok(()),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Err("this host has no /dev/kvm".into()),
        Err(e) => Err(format!("/dev/kvm cannot be opened: {e}")),
    }
}

/// The kernel's id of this boot; the same for every process until the host restarts.
pub fn boot_id() -> String {
    std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default().trim().to_owned()
}

/// Counts time-stamp ticks against the monotonic clock. Under emulation the guest's counter is the host's, and a guest
/// kernel that is told its rate need not measure it, which is where its boot can hang.
fn measure_tsc_khz() -> u64 {
    let (start, first) = (Instant::now(), tsc());
    std::thread::sleep(Duration::from_millis(50));
    let (elapsed, ticks) = (start.elapsed(), tsc().wrapping_sub(first));
    (u128::from(ticks) * 1_000_000 / elapsed.as_nanos().max(1)) as u64
}

fn tsc() -> u64 {
    // SAFETY: every x86_64 processor has the instruction, and Linux leaves it to user space.
    unsafe { core::arch::x86_64::_rdtsc() }
}

/// Free memory of the host in bytes, as the kernel estimates it.
pub fn memory_available() -> Option<u64> {
    let text = std::fs::read_to_string("/proc/meminfo").ok()?;
    let kib =
        text.lines().find_map(|l| l.strip_prefix("MemAvailable:")?.trim().strip_suffix(" kB")?.parse::<u64>().ok());
    Some(kib? << 10)
}
