//! Templates: an image booted once to "agent ready" and saved, so that every run is a copy-on-write clone of it.
//!
//! A template is immutable. Its key is a digest of everything that shaped it; when any of that changes the key changes,
//! another template is built, and the old one ages out. Before each use the cheap identity of its files is checked, so a
//! replaced, truncated or resized file is never started from.

use std::fs::{self, File};
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use mvm_wire::ErrorCode;
use mvm_wire::guest::{Exec, Quiesce, Reply, Request};
use serde::{Deserialize, Serialize};
use serde_json::json;
use sha2::{Digest, Sha256};

use crate::agent;
use crate::error::{Error, IoContext, Result};
use crate::home::{Home, read_json, unique};
use crate::host::{Accelerator, Host};
use crate::image::Image;
use crate::kernel::{self, Kernel};
use crate::progress::Progress;
use crate::sandbox::{self, Identity};
use crate::stamp::FileStamp;
use crate::vmm::guest::{Frame, Guest};
use crate::vmm::machine::{Launch, Machine, Memory, Origin};
use crate::vmm::qcow2;
use crate::vmm::qemu::{self, Shape};

/// How long a boot may take before it is given up. Under emulation it takes about four seconds on an idle host.
pub const BOOT_LIMIT: Duration = Duration::from_secs(60);
/// Templates together may take this much disk, in bytes, unless the caller says otherwise.
pub const DEFAULT_CAP_BYTES: u64 = 4 << 30;
/// Raised when the content of a template changes in a way that no other part of the key shows.
const FORMAT: u32 = 2;

const MEMORY: &str = "memory";
const STATE: &str = "state";
const OVERLAY: &str = "overlay.qcow2";
const RECORD: &str = "template.json";

/// What a template is made from.
#[derive(Debug, Clone, Copy)]
pub struct Recipe<'a> {
    /// This host.
    pub host: &'a Host,
    /// Guest kernel.
    pub kernel: &'a Kernel,
    /// Image.
    pub image: &'a Image,
    /// Machine shape.
    pub shape: &'a Shape,
    /// Accelerator.
    pub accelerator: Accelerator,
}

impl Recipe<'_> {
    /// The key: a digest of everything that shapes the template.
    pub fn key(&self) -> String {
        let parts = json!({
            "format": FORMAT,
            "image": self.image.digest,
            "disk": self.image.disk_sha256(),
            "kernel": self.kernel.digest,
            "agent": agent::SHA256,
            "protocol": mvm_wire::hello::VERSIONS,
            "qemu": self.host.qemu.version,
            "firmware": self.host.firmware,
            "accelerator": self.accelerator,
            "cpu": qemu::cpu(self.accelerator),
            // To the MHz: measured anew after each boot of the host, and a few ppm change nothing for the guest.
            "kernel_cmdline": qemu::kernel_cmdline(self.accelerator, self.host.tsc_khz / 1000 * 1000, false),
            "host_cpu": if self.accelerator == Accelerator::Kvm { self.host.cpu_model.as_str() } else { "" },
            "shape": self.shape,
        });
        hex::encode(&Sha256::digest(parts.to_string().as_bytes())[..16])
    }
}

/// What is kept about a template.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Record {
    /// The key, which is also the directory's name.
    pub key: String,
    /// Name of the image when it was built.
    pub image: String,
    /// Digest of the image.
    pub image_digest: String,
    /// Kernel release.
    pub kernel: String,
    /// QEMU's version.
    pub qemu: String,
    /// Accelerator.
    pub accelerator: Accelerator,
    /// Shape.
    pub shape: Shape,
    /// Boots that failed before the one that was saved.
    pub failed_boots: u32,
    /// Seconds since 1970.
    pub created: u64,
    memory: FileStamp,
    state: FileStamp,
    overlay: FileStamp,
}

/// A template that was found whole.
#[derive(Debug, Clone)]
pub struct Template {
    dir: PathBuf,
    /// Its record.
    pub record: Record,
}

impl Template {
    /// The template with this key, if it is there and nothing of it was changed.
    pub fn open(home: &Home, key: &str) -> Option<Template> {
        let dir = home.templates().join(key);
        let record: Record = read_json(&dir.join(RECORD)).filter(|record: &Record| record.key == key)?;
        let template = Template { dir, record };
        template.check().is_ok().then_some(template)
    }

    /// The cheap check: size, inode and change time of each file, and the digest of the small device state.
    pub fn check(&self) -> std::result::Result<(), String> {
        let record = &self.record;
        record.memory.check(&self.dir.join(MEMORY))?;
        record.overlay.check(&self.dir.join(OVERLAY))?;
        record.state.verify(&self.dir.join(STATE))
    }

    /// The full check: every byte of every file.
    pub fn verify(&self) -> std::result::Result<(), String> {
        self.check()?;
        self.record.memory.verify(&self.dir.join(MEMORY))?;
        self.record.overlay.verify(&self.dir.join(OVERLAY))
    }

    /// Opens what a clone continues from: the memory, which clones share, and the devices' state.
    pub fn open_machine(&self) -> Result<(File, File)> {
        // Last use, for the size cap. Not worth failing for.
        let _ = File::open(&self.dir).and_then(|dir| dir.set_modified(SystemTime::now()));
        Ok((open(self.dir.join(MEMORY))?, open(self.dir.join(STATE))?))
    }

    /// Opens the disk that goes with it, an overlay on the image's.
    pub fn open_overlay(&self) -> Result<File> {
        open(self.dir.join(OVERLAY))
    }
}

/// Finds the template of a recipe, or builds it, aloud.
pub async fn ensure(home: &Home, recipe: Recipe<'_>, progress: &dyn Progress) -> Result<Template> {
    let key = recipe.key();
    if let Some(template) = Template::open(home, &key) {
        return Ok(template);
    }
    let _building = home.lock("templates", || progress.warn("another mvmctl builds a template; waiting for it"))?;
    // Somebody else may have built it meanwhile.
    if let Some(template) = Template::open(home, &key) {
        return Ok(template);
    }
    discard(home, &key)?;
    build(home, recipe, &key, progress).await?;
    let _ = collect(home, DEFAULT_CAP_BYTES, Some(&key));
    Template::open(home, &key)
        .ok_or_else(|| Error::internal("the template just built cannot be used", "its files changed meanwhile"))
}

async fn build(home: &Home, recipe: Recipe<'_>, key: &str, progress: &dyn Progress) -> Result<()> {
    progress.step(&format!(
        "template: booting {} ({} MiB, {} CPU, {})",
        recipe.image.name,
        recipe.shape.memory_mib,
        recipe.shape.cpus,
        recipe.accelerator.name()
    ));
    let mut failed_boots = 0;
    let staging = loop {
        let staging = home.staging("template")?;
        match boot_and_save(staging.path(), recipe, progress).await {
            Ok(()) => break staging,
            // One retry: distribution kernels and QEMU are known to miss a boot now and then. It is recorded.
            Err(e)
                if failed_boots == 0 && matches!(e.code, ErrorCode::SandboxUnavailable | ErrorCode::TransportError) =>
            {
                failed_boots += 1;
                progress.warn(&format!("{e}; trying once more"));
            }
            Err(e) => return Err(e),
        }
    };
    let stamp = |name: &str| FileStamp::of(&staging.path().join(name));
    let record = Record {
        key: key.to_owned(),
        image: recipe.image.name.clone(),
        image_digest: recipe.image.digest.clone(),
        kernel: recipe.kernel.release.clone(),
        qemu: recipe.host.qemu.version.clone(),
        accelerator: recipe.accelerator,
        shape: *recipe.shape,
        failed_boots,
        created: SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(0, |d| d.as_secs()),
        memory: stamp(MEMORY)?,
        state: stamp(STATE)?,
        overlay: stamp(OVERLAY)?,
    };
    let text =
        serde_json::to_vec_pretty(&record).map_err(|e| Error::internal("cannot encode a template's record", e))?;
    fs::write(staging.path().join(RECORD), text).context(|| "cannot write a template's record".into())?;
    staging.commit(&home.templates().join(key))?;
    progress.done("saved");
    Ok(())
}

/// Boots the machine on files in `dir`, warms it, and saves it there.
async fn boot_and_save(dir: &std::path::Path, recipe: Recipe<'_>, progress: &dyn Progress) -> Result<()> {
    let shape = recipe.shape;
    let memory = create(dir.join(MEMORY))?;
    memory.set_len(u64::from(shape.memory_mib) << 20).context(|| "cannot size the memory file".into())?;
    let top = create(dir.join(OVERLAY))?;
    write_overlay(&top, shape.disk_bytes)?;
    let mut machine = Machine::start(Launch {
        host: recipe.host,
        accelerator: recipe.accelerator,
        shape,
        memory: Memory::Shared(memory),
        disks: vec![recipe.image.open_disk()?, top],
        origin: boot_origin(recipe.kernel, false)?,
        // Nothing of a stranger's runs in it.
        require: &[],
    })?;
    let guest = machine.greet(BOOT_LIMIT).await?;
    progress.detail("warming");
    guest.admit(Identity::new(&sandbox::new_id()?)?.admission(0)?).await?;
    for command in &recipe.image.config.warm {
        warm(&guest, recipe.image, command).await?;
    }
    progress.detail("saving");
    match guest.call(&Request::Quiesce(Quiesce { settle: true })).await? {
        Reply::Done => {}
        other => return Err(Error::internal("the guest did not quiesce", format!("{other:?}"))),
    }
    // The session ends here: no byte of it may lie in the guest's ring when the machine is saved.
    guest.ended().await;
    let qmp = machine.control().await?;
    qmp.stop().await?;
    // The memory is in its file already.
    let state = create_for_qemu(&dir.join(STATE))?;
    qmp.save_devices(std::os::fd::AsFd::as_fd(&state)).await?;
    machine.kill();
    Ok(())
}

/// Runs a command for its effect on the guest's page cache. That it fails is no reason not to save.
async fn warm(guest: &Guest, image: &Image, command: &[String]) -> Result<()> {
    let exec = Exec { argv: command.to_vec(), env: image.config.env.clone(), ..Exec::default() };
    let mut channel = guest.exec(exec).await?;
    let finish = async {
        loop {
            match channel.frames.next().await? {
                Frame::Reply(Reply::Started { .. }) | Frame::Stdout(_) | Frame::Stderr(_) => {}
                Frame::Reply(_) => return Ok(()),
            }
        }
    };
    tokio::time::timeout(BOOT_LIMIT, finish).await.unwrap_or_else(|_| {
        Err(Error::new(ErrorCode::SandboxUnavailable, "cannot warm the template", "a command hangs"))
    })
}

/// A machine's start from the kernel.
pub fn boot_origin(kernel: &Kernel, builder: bool) -> Result<Origin> {
    let initramfs = memory_file("initramfs", &kernel::initramfs(agent::PROGRAM, kernel)?)?;
    Ok(Origin::Boot { kernel: kernel.vmlinuz.clone(), initramfs, builder })
}

/// A file that exists in memory only.
fn memory_file(name: &str, content: &[u8]) -> Result<File> {
    let make = || -> std::io::Result<File> {
        let file = File::from(rustix::fs::memfd_create(name, rustix::fs::MemfdFlags::CLOEXEC)?);
        file.write_all_at(content, 0)?;
        // QEMU opens it again as another user.
        file.set_permissions(std::os::unix::fs::PermissionsExt::from_mode(0o444))?;
        Ok(file)
    };
    make().context(|| format!("cannot hold the {name} in memory"))
}

/// An empty overlay without a name, on the file system of `MVM_HOME`.
pub fn overlay(home: &Home, disk_bytes: u64) -> Result<File> {
    let dir = home.tmp();
    let unnamed = File::options().read(true).write(true).mode(0o600).custom_flags(libc::O_TMPFILE).open(&dir);
    let file = match unnamed {
        Ok(file) => file,
        // Not every file system can do it.
        Err(e) if matches!(e.raw_os_error(), Some(libc::EOPNOTSUPP | libc::EISDIR)) => {
            let path = dir.join(format!("overlay-{}", unique()));
            let file = create(path.clone())?;
            fs::remove_file(&path).context(|| format!("cannot remove {}", path.display()))?;
            file
        }
        Err(e) => return Err(Error::io(format!("cannot create a disk in {}", dir.display()), e)),
    };
    write_overlay(&file, disk_bytes)?;
    Ok(file)
}

fn write_overlay(file: &File, disk_bytes: u64) -> Result<()> {
    let (bytes, len) = qcow2::empty_overlay(disk_bytes);
    let write = || file.set_len(len).and_then(|()| file.write_all_at(&bytes, 0));
    write().context(|| "cannot write an empty disk overlay".into())
}

fn create(path: PathBuf) -> Result<File> {
    File::options()
        .read(true)
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(&path)
        .context(|| format!("cannot create {}", path.display()))
}

/// Creates a file for QEMU to save to: it takes no descriptor that could also be read.
pub fn create_for_qemu(path: &Path) -> Result<File> {
    let file = File::options().write(true).create_new(true).mode(0o600).open(path);
    file.context(|| format!("cannot create {}", path.display()))
}

fn open(path: PathBuf) -> Result<File> {
    File::open(&path).context(|| format!("cannot open {}", path.display()))
}

/// A template as `template ls` shows it.
#[derive(Debug, Clone, Serialize)]
pub struct Listed {
    /// The record.
    #[serde(flatten)]
    pub record: Record,
    /// Disk space it takes, in bytes.
    pub disk_bytes_used: u64,
    /// Last use, seconds since 1970.
    pub used: u64,
    /// `None` if whole, otherwise what is wrong.
    pub damage: Option<String>,
}

/// All templates, the last used first.
pub fn list(home: &Home) -> Result<Vec<Listed>> {
    let mut found = Vec::new();
    let entries = match fs::read_dir(home.templates()) {
        Ok(entries) => entries,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(found),
        Err(e) => return Err(Error::io(format!("cannot read {}", home.templates().display()), e)),
    };
    for entry in entries.flatten() {
        let dir = entry.path();
        let Some(record) = read_json::<Record>(&dir.join(RECORD)) else { continue };
        let used = fs::metadata(&dir).map_or(0, |meta| meta.mtime().max(0) as u64);
        let template = Template { dir, record };
        let blocks = |name: &str| fs::metadata(template.dir.join(name)).map_or(0, |meta| meta.blocks() * 512);
        let disk_bytes_used = [MEMORY, STATE, OVERLAY].map(blocks).iter().sum();
        let damage = template.check().err();
        found.push(Listed { record: template.record, disk_bytes_used, used, damage });
    }
    found.sort_by_key(|listed| std::cmp::Reverse(listed.used));
    Ok(found)
}

/// All templates, opened.
pub fn all(home: &Home) -> Result<Vec<Template>> {
    Ok(list(home)?
        .into_iter()
        .map(|listed| Template { dir: home.templates().join(&listed.record.key), record: listed.record })
        .collect())
}

/// Removes a template. Machines that were cloned from it keep running.
pub fn remove(home: &Home, key: &str) -> Result<()> {
    let plain = !key.is_empty() && key.bytes().all(|b| b.is_ascii_hexdigit());
    if !plain || !home.templates().join(key).join(RECORD).exists() {
        return Err(Error::new(
            ErrorCode::NotFound,
            format!("cannot remove the template {key:?}"),
            "there is none with this key",
        )
        .hint("mvmctl template ls"));
    }
    discard(home, key)
}

fn discard(home: &Home, key: &str) -> Result<()> {
    let dir = home.templates().join(key);
    // Out of sight first: nobody may open a template that is half removed.
    let staging = home.staging("removed")?;
    match fs::rename(&dir, staging.path().join(key)) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => {
            Err(Error::io(format!("cannot remove {}", dir.display()), e))
        }
        _ => Ok(()),
    }
}

/// Removes damaged templates, then the least recently used ones until the rest takes `cap_bytes` at most.
/// `keep` stays in any case. Returns what was removed.
pub fn collect(home: &Home, cap_bytes: u64, keep: Option<&str>) -> Result<Vec<Listed>> {
    let mut total = 0;
    let mut removed = Vec::new();
    for listed in list(home)? {
        total += listed.disk_bytes_used;
        let spared = keep == Some(listed.record.key.as_str());
        if !spared && (listed.damage.is_some() || total > cap_bytes) {
            discard(home, &listed.record.key)?;
            total -= listed.disk_bytes_used;
            removed.push(listed);
        }
    }
    Ok(removed)
}
