//! A saved point of a machine: its memory, the state of its devices, our side of its commands, and what it needs to come
//! back. The disk of the same moment goes with it, as layers.
//!
//! A point lies in a directory that is built apart and renamed into place, and never changes after that. A machine that
//! comes back maps the memory copy-on-write, so many can come back from one point.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use mvm_wire::ErrorCode;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::error::{Error, IoContext, Result};
use crate::home::write_atomically;
use crate::host::{Accelerator, Host};
use crate::image::Image;
use crate::kernel::Kernel;
use crate::sandbox::Identity;
use crate::stamp::ContentStamp;
use crate::template;
use crate::time;
use crate::vmm::machine::Machine;
use crate::vmm::qemu::{self, Shape};

/// Raised when what lies in a point changes.
const FORMAT: u32 = 1;
/// Layers between an image's disk and a sandbox's own. Each makes a read that misses dearer.
pub const MAX_LAYERS: usize = 16;
/// The largest record that is read.
const MAX_RECORD: u64 = 1 << 20;
/// The most that our side of the commands takes, in bytes.
const MAX_JOBS: u64 = 256 << 20;

const MEMORY: &str = "memory";
const DEVICES: &str = "devices";
const JOBS: &str = "jobs.json";
const RECORD: &str = "point.json";

/// Where the layer with this number is.
pub fn layer(dir: &Path, index: usize) -> PathBuf {
    dir.join("layers").join(index.to_string())
}

/// What must be the same where a machine comes back, by name.
pub type Needs = BTreeMap<String, String>;

/// What machines of this shape need of this host, kernel and image.
pub fn needs(host: &Host, kernel: &Kernel, image: &Image, shape: &Shape) -> Needs {
    let accelerator = host.accelerator();
    let mut needs = BTreeMap::from([
        ("backend", "qemu".to_owned()),
        ("QEMU", host.qemu.version.clone()),
        ("firmware", host.firmware.clone()),
        ("accelerator", accelerator.name().to_owned()),
        ("processor model", qemu::cpu(accelerator).to_owned()),
        ("TSC rate", format!("{} MHz", host.tsc_khz / 1000)),
        ("kernel", kernel.digest.clone()),
        ("image", image.digest.clone()),
        ("protocol", mvm_wire::hello::VERSIONS.1.to_string()),
        ("machine", format!("{} CPU, {} MiB, {} bytes of disk", shape.cpus, shape.memory_mib, shape.disk_bytes)),
    ]);
    if accelerator == Accelerator::Kvm {
        needs.insert("host processor", host.cpu_model.clone());
    }
    needs.into_iter().map(|(name, value)| (name.to_owned(), value)).collect()
}

/// What is known of a point.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Record {
    format: u32,
    /// Whose it is.
    pub sandbox: String,
    /// What that was known by.
    pub identity: Identity,
    /// Milliseconds since 1970.
    pub saved_at_ms: u64,
    /// What it needs to come back.
    pub needs: Needs,
    /// The parts, by their names in the directory.
    parts: BTreeMap<String, ContentStamp>,
    /// The disk, by names in the directory that holds it.
    disk: BTreeMap<String, ContentStamp>,
}

/// A point that was found.
#[derive(Debug, Clone)]
pub struct Point {
    dir: PathBuf,
    /// Its record.
    pub record: Record,
}

/// Saves a stopped machine and our side of its commands into a directory. [`seal`] makes it a point.
pub async fn save(machine: &mut Machine, jobs: &[u8], dir: &Path) -> Result<()> {
    let memory = File::options().read(true).write(true).create_new(true).mode(0o600).open(dir.join(MEMORY));
    let memory = memory.context(|| "cannot create a file for the machine's memory".into())?;
    machine.save(template::create_for_qemu(&dir.join(DEVICES))?, memory).await?;
    write_atomically(&dir.join(JOBS), jobs)
}

/// Takes over the parts of another point: as links, because neither changes.
pub fn link(from: &Point, dir: &Path) -> Result<()> {
    for name in [MEMORY, DEVICES, JOBS] {
        fs::hard_link(from.dir.join(name), dir.join(name)).context(|| format!("cannot link {name}"))?;
    }
    write_record(dir, &from.record)
}

/// One line with the record, and one with its digest.
fn write_record(dir: &Path, record: &Record) -> Result<()> {
    let line = serde_json::to_string(record).map_err(|e| Error::internal("cannot record a saved point", e))?;
    let digest = hex::encode(Sha256::digest(&line));
    write_atomically(&dir.join(RECORD), format!("{line}\n{digest}\n").as_bytes())
}

fn read_record(dir: &Path) -> Result<Record> {
    let text = read_bounded(&dir.join(RECORD), MAX_RECORD);
    let text = text.map_err(|e| refused(format!("its record cannot be read: {e}")))?;
    let text = String::from_utf8_lossy(&text);
    let (line, digest) = text.split_once('\n').unwrap_or_default();
    if digest.trim_end() != hex::encode(Sha256::digest(line)) {
        return Err(refused("its record is damaged"));
    }
    serde_json::from_str(line).map_err(|e| refused(format!("its record cannot be understood: {e}")))
}

/// Completes a point: stamps its parts and the disk that goes with it, which are files of `disks`.
pub fn seal(
    dir: &Path,
    sandbox: &str,
    identity: &Identity,
    needs: Needs,
    disks: (&Path, &[PathBuf]),
    digests: bool,
) -> Result<Point> {
    let name = |path: &Path| path.strip_prefix(disks.0).unwrap_or(path).display().to_string();
    let disk = disks.1.iter().map(|path| Ok((name(path), ContentStamp::of(path, digests)?)));
    // Without digests only small parts have one.
    let part = |name: &str| ContentStamp::of(&dir.join(name), digests || name != MEMORY);
    let parts = [MEMORY, DEVICES, JOBS].map(|name| Ok((name.to_owned(), part(name)?)));
    let record = Record {
        format: FORMAT,
        sandbox: sandbox.to_owned(),
        identity: identity.clone(),
        saved_at_ms: time::now_ms(),
        needs,
        parts: parts.into_iter().collect::<Result<_>>()?,
        disk: disk.collect::<Result<_>>()?,
    };
    write_record(dir, &record)?;
    Ok(Point { dir: dir.to_owned(), record })
}

impl Point {
    /// The point in a directory. Refused if its record cannot be read.
    pub fn open(dir: &Path) -> Result<Point> {
        let record = read_record(dir)?;
        if record.format != FORMAT {
            return Err(refused(format!("it has the format {}, and this mvmctl knows {FORMAT}", record.format)));
        }
        Ok(Point { dir: dir.to_owned(), record })
    }

    /// Whether it is complete and unchanged, and the disk in `disks` with it.
    pub fn check(&self, disks: &Path) -> Result<()> {
        let record = &self.record;
        let mut needed = [MEMORY, DEVICES, JOBS].into_iter();
        if let Some(name) = needed.find(|name| !record.parts.contains_key(*name)) {
            return Err(refused(format!("its record says nothing of {name}")));
        }
        let mut parts = record.parts.iter().map(|(name, stamp)| (self.dir.join(name), stamp));
        parts.try_for_each(|(path, stamp)| stamp.check(&path)).map_err(refused)?;
        // Small, and QEMU trusts it.
        record.parts[DEVICES].verify(&self.dir.join(DEVICES)).map_err(refused)?;
        self.check_disk(disks)
    }

    /// Whether the disk in `disks` is unchanged.
    pub fn check_disk(&self, disks: &Path) -> Result<()> {
        let mut disk = self.record.disk.iter().map(|(name, stamp)| (disks.join(name), stamp));
        disk.try_for_each(|(path, stamp)| stamp.check(&path)).map_err(refused)
    }

    /// Every byte.
    pub fn verify(&self, disks: &Path) -> std::result::Result<(), String> {
        let parts = self.record.parts.iter().map(|(name, stamp)| (self.dir.join(name), stamp));
        let disk = self.record.disk.iter().map(|(name, stamp)| (disks.join(name), stamp));
        parts.chain(disk).try_for_each(|(path, stamp)| stamp.verify(&path))
    }

    /// Whether a machine can come back from it where this is so.
    pub fn fits(&self, here: &Needs) -> Result<()> {
        for (name, value) in here {
            let saved = self.record.needs.get(name).map_or("nothing", String::as_str);
            if saved != value {
                return Err(refused(format!("it was saved with the {name} {saved}, and here it is {value}")));
            }
        }
        match self.record.needs.keys().find(|name| !here.contains_key(*name)) {
            Some(name) => Err(refused(format!("it needs a {name}, and here is none"))),
            None => Ok(()),
        }
    }

    /// A digest of the content, if its parts have digests.
    pub fn digest(&self) -> String {
        let mut hasher = Sha256::new();
        for (name, stamp) in self.record.parts.iter().chain(&self.record.disk) {
            hasher.update(format!("{name} {} {}\n", stamp.size, stamp.sha256.as_deref().unwrap_or("-")));
        }
        format!("sha256:{}", hex::encode(hasher.finalize()))
    }

    /// Opens the memory and the state of the devices.
    pub fn open_machine(&self) -> Result<(File, File)> {
        let open = |name: &str| File::open(self.dir.join(name)).context(|| format!("cannot open the saved {name}"));
        Ok((open(MEMORY)?, open(DEVICES)?))
    }

    /// Our side of the commands, as it was saved.
    pub fn jobs(&self) -> Result<Vec<u8>> {
        read_bounded(&self.dir.join(JOBS), MAX_JOBS).map_err(|e| refused(format!("{JOBS} cannot be read: {e}")))
    }
}

/// Copies a disk layer that nobody writes to at the moment; shares its blocks where the file system can.
pub fn copy_layer(from: &Path, to: &Path) -> Result<()> {
    let what = || format!("cannot copy the disk {}", from.display());
    let source = File::open(from).context(what)?;
    let copy = File::options().write(true).create_new(true).mode(0o600).open(to).context(what)?;
    if rustix::fs::ioctl_ficlone(&copy, &source).is_ok() {
        return Ok(());
    }
    let len = source.metadata().context(what)?.len();
    copy.set_len(len).context(what)?;
    let mut at = 0;
    while at < len {
        let Ok(start) = rustix::fs::seek(&source, rustix::fs::SeekFrom::Data(at)) else { break };
        let end = rustix::fs::seek(&source, rustix::fs::SeekFrom::Hole(start)).context(what)?;
        copy_range(&source, &copy, start, end).context(what)?;
        at = end;
    }
    Ok(())
}

fn copy_range(from: &File, to: &File, start: u64, end: u64) -> std::io::Result<()> {
    let (mut read_at, mut write_at) = (start, start);
    while read_at < end {
        let len = (end - read_at) as usize;
        if rustix::fs::copy_file_range(from, Some(&mut read_at), to, Some(&mut write_at), len)? == 0 {
            return Err(std::io::ErrorKind::UnexpectedEof.into());
        }
    }
    Ok(())
}

fn read_bounded(path: &Path, limit: u64) -> std::io::Result<Vec<u8>> {
    use std::io::Read;
    let mut content = Vec::new();
    File::open(path)?.take(limit + 1).read_to_end(&mut content)?;
    if content.len() as u64 > limit { Err(std::io::ErrorKind::FileTooLarge.into()) } else { Ok(content) }
}

/// The refusal of what was saved. Callers add what can be done instead.
pub fn refused(why: impl std::fmt::Display) -> Error {
    Error::new(ErrorCode::RestoreRefused, "cannot come back from what was saved", why)
}
