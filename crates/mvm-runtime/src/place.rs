//! The directory of one sandbox: what lies where in it, and the lock that says whether its supervisor lives.
//!
//! ```text
//! lock          held by the supervisor from before its start to its end
//! api.sock      its API
//! image.json    the image that the disk lies on
//! layers/0…     disk layers that it shares with a snapshot or other forks: hard links, only ever read
//! disk.qcow2    its own layer, which is written to
//! saved/        its memory and devices, while it is cold or comes from a snapshot
//! ports.json    the host ports that lead to it
//! log.ndjson    its log
//! ```

use std::fs::{self, File};
use std::io::Write;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::FlockOperation;

use crate::error::{Error, IoContext, Result};
use crate::home::{Home, read_json};
use crate::image::Image;
use crate::point::{self, Point};
use crate::vmm::qcow2;

/// The directory of one sandbox.
#[derive(Debug, Clone)]
pub struct Place {
    dir: PathBuf,
}

impl Place {
    /// A sandbox's directory that is still being made, or was found.
    pub fn at(dir: impl Into<PathBuf>) -> Place {
        Place { dir: dir.into() }
    }

    /// Where the sandbox with this id is.
    pub fn of(home: &Home, id: &str) -> Place {
        Place { dir: home.sandboxes().join(id) }
    }

    /// The directory itself.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// The ports that lead into it. No copy of a sandbox gets them.
    pub fn ports(&self) -> PathBuf {
        self.dir.join("ports.json")
    }

    /// The socket of its API.
    pub fn socket(&self) -> PathBuf {
        self.dir.join("api.sock")
    }

    /// Its disk, an overlay on the image's.
    pub fn disk(&self) -> PathBuf {
        self.dir.join("disk.qcow2")
    }

    /// Its lock file.
    pub fn lock(&self) -> PathBuf {
        self.dir.join("lock")
    }

    /// Where its image is recorded.
    pub fn image_record(&self) -> PathBuf {
        self.dir.join("image.json")
    }

    /// What the supervisor says on standard error, should it ever break.
    pub fn stderr(&self) -> PathBuf {
        self.dir.join("supervisor.log")
    }

    /// The image that its disk lies on.
    pub fn image(&self) -> Result<Image> {
        read_json(&self.image_record())
            .ok_or_else(|| Error::internal("cannot read which image the sandbox has", "its record is damaged"))
    }

    /// Makes its disk, with the content of its template's.
    pub fn create_disk(&self, template: &mut File) -> Result<()> {
        let what = || format!("cannot create the disk {}", self.disk().display());
        let mut disk = File::options().create_new(true).write(true).mode(0o600).open(self.disk()).context(what)?;
        std::io::copy(template, &mut disk).and_then(|_| disk.sync_all()).context(what)
    }

    /// Makes its disk, empty, on the layers that it was given.
    pub fn create_empty_disk(&self, disk_bytes: u64) -> Result<()> {
        let what = || format!("cannot create the disk {}", self.disk().display());
        let (bytes, len) = qcow2::empty_overlay(disk_bytes);
        let mut disk = File::options().create_new(true).write(true).mode(0o600).open(self.disk()).context(what)?;
        disk.write_all(&bytes).and_then(|()| disk.set_len(len)).and_then(|()| disk.sync_all()).context(what)
    }

    /// Opens its disk: the image's and the layers on it, lowest first, and last its own, for writing.
    pub fn open_disks(&self, image: &Image) -> Result<Vec<File>> {
        let mut disks = vec![image.open_disk()?];
        for layer in self.layers() {
            disks.push(File::open(&layer).context(|| format!("cannot open the disk layer {}", layer.display()))?);
        }
        let top = File::options().read(true).write(true).open(self.disk());
        disks.push(top.context(|| format!("cannot open the disk {}", self.disk().display()))?);
        Ok(disks)
    }

    /// The layers between the image's disk and its own, lowest first.
    pub fn layers(&self) -> Vec<PathBuf> {
        (0..point::MAX_LAYERS).map(|index| point::layer(&self.dir, index)).take_while(|path| path.exists()).collect()
    }

    /// Where its memory and devices are saved, if they are.
    pub fn saved(&self) -> PathBuf {
        self.dir.join("saved")
    }

    /// What was saved of it.
    pub fn point(&self) -> Result<Point> {
        Point::open(&self.saved())
    }

    /// Gives up what was saved of it, durably: after this it can no longer come back from there.
    pub fn consume_saved(&self) -> Result<()> {
        let what = || "cannot give up what was saved of the sandbox".to_owned();
        let consumed = self.dir.join("consumed");
        let _ = fs::remove_dir_all(&consumed);
        match fs::rename(self.saved(), &consumed) {
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(()),
            renamed => renamed.context(what)?,
        }
        File::open(&self.dir).and_then(|dir| dir.sync_all()).context(what)?;
        let _ = fs::remove_dir_all(&consumed);
        Ok(())
    }

    /// Disk space that its own layer takes, in bytes.
    pub fn disk_usage(&self) -> u64 {
        space(&self.disk())
    }

    /// Removes all of it.
    pub fn remove(&self) {
        let _ = fs::remove_dir_all(&self.dir);
    }

    /// Takes its lock if no supervisor holds it.
    pub fn take_lock(&self) -> Option<File> {
        let lock = File::options().read(true).write(true).open(self.lock()).ok()?;
        rustix::fs::flock(&lock, FlockOperation::NonBlockingLockExclusive).ok()?;
        // The file may have been removed, and another be there now.
        let same = |a: &fs::Metadata, b: &fs::Metadata| a.ino() == b.ino() && a.dev() == b.dev();
        let current = fs::metadata(self.lock()).ok()?;
        lock.metadata().ok().filter(|held| same(held, &current))?;
        Some(lock)
    }

    /// The process that holds the lock, as it wrote it there itself.
    pub fn holder(&self) -> Option<rustix::process::Pid> {
        rustix::process::Pid::from_raw(fs::read_to_string(self.lock()).ok()?.trim().parse().ok()?)
    }
}

/// Disk space that a file takes, or a directory with all that is in it, in bytes.
pub fn space(path: &Path) -> u64 {
    let Ok(meta) = fs::symlink_metadata(path) else { return 0 };
    let inside = || fs::read_dir(path).into_iter().flatten().flatten().map(|entry| space(&entry.path())).sum::<u64>();
    meta.blocks() * 512 + if meta.is_dir() { inside() } else { 0 }
}
