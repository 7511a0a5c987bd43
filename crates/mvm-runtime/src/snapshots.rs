//! Snapshots: saved points that stay until somebody removes them, each in a directory of its own.
//!
//! What is restored from a snapshot has links to its files, not to the snapshot: either can go first. A file is gone when
//! the last link to it is, so nothing has to be counted and nothing can be counted wrong.

use std::fs;
use std::path::{Path, PathBuf};

use mvm_wire::ErrorCode;
use mvm_wire::api::{CreateRequest, Machine, Snapshot as Described};
use serde::{Deserialize, Serialize};

use crate::error::{Error, IoContext, Result};
use crate::home::{Home, Staging, read_json, write_atomically};
use crate::image::Image;
use crate::place::{Place, space};
use crate::point::{self, Point};
use crate::request::check_name;

const RECORD: &str = "snapshot.json";
/// Held while a name is taken.
const LOCK: &str = "snapshots";

/// What is stored of a snapshot besides its point.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Record {
    /// Its id.
    pub id: String,
    /// Its name.
    pub name: String,
    /// Name of the sandbox that it was saved of.
    pub sandbox_name: String,
    /// How that was made. Its environment is in here.
    pub request: CreateRequest,
    /// Commands that ran.
    pub running_jobs: u64,
    /// SHA-256 of the profile under which they ran, in hex.
    #[serde(default)]
    pub profile_digest: String,
    /// The entry of the audit log that authorised it.
    #[serde(default)]
    pub audit_id: Option<u64>,
}

/// A snapshot that was found.
#[derive(Debug, Clone)]
pub struct Snapshot {
    /// Where it is.
    pub dir: PathBuf,
    /// What is stored of it; `None` if that cannot be read.
    stored: Option<Record>,
}

impl Snapshot {
    /// The point.
    pub fn point(&self) -> Result<Point> {
        Point::open(&self.dir)
    }

    /// The image that its disk lies on.
    pub fn image(&self) -> Result<Image> {
        Place::at(&self.dir).image()
    }

    /// Its id.
    pub fn id(&self) -> String {
        self.dir.file_name().unwrap_or_default().to_string_lossy().into_owned()
    }

    /// Its name, or its id if its name is lost.
    pub fn name(&self) -> String {
        self.stored.as_ref().map_or_else(|| self.id(), |record| record.name.clone())
    }

    /// What is stored of it. Refused if that cannot be read.
    pub fn record(&self) -> Result<&Record> {
        self.stored.as_ref().ok_or_else(|| point::refused(format!("its {RECORD} is damaged")))
    }

    /// As the API shows it: all that its records still tell. Whether the rest is whole says [`verify`].
    pub fn describe(&self) -> Described {
        let (record, point) = (self.record(), self.point());
        let damage = record.as_ref().err().or(point.as_ref().err()).map(|e| e.why.clone());
        let (record, point) = (record.ok(), point.ok());
        let need = |name: &str| point.as_ref().and_then(|point| point.record.needs.get(name).cloned());
        let need = |name: &str| need(name).unwrap_or_default();
        let request = record.map(|record| record.request.clone()).unwrap_or_default();
        Described {
            id: self.id(),
            name: self.name(),
            sensitive: true,
            sandbox: point.as_ref().map(|point| point.record.sandbox.clone()).unwrap_or_default(),
            sandbox_name: record.map(|record| record.sandbox_name.clone()).unwrap_or_default(),
            image: request.image,
            image_digest: need("image"),
            machine: Machine { cpus: request.cpus, memory_mib: request.memory_mib, disk_bytes: request.disk_bytes },
            kernel: need("kernel"),
            backend: format!("{} {}", need("backend"), need("QEMU")).trim().to_owned(),
            accelerator: need("accelerator"),
            created_at_ms: point.as_ref().map_or(0, |point| point.record.saved_at_ms),
            disk_bytes: space(&self.dir),
            digest: point.as_ref().map(Point::digest).unwrap_or_default(),
            running_jobs: record.map_or(0, |record| record.running_jobs),
            audit_id: record.and_then(|record| record.audit_id),
            damage,
        }
    }
}

/// All snapshots, the oldest first, those too whose records are damaged.
pub fn list(home: &Home) -> Vec<Snapshot> {
    let entries = fs::read_dir(home.snapshots()).into_iter().flatten().flatten();
    let dirs = entries.map(|entry| entry.path()).filter(|path| path.is_dir());
    let mut found: Vec<(u64, Snapshot)> = dirs
        .map(|dir| {
            let saved = Point::open(&dir).map_or(0, |point| point.record.saved_at_ms);
            (saved, Snapshot { stored: read_json(&dir.join(RECORD)), dir })
        })
        .collect();
    found.sort_by_key(|(saved, snapshot)| (*saved, snapshot.id()));
    found.into_iter().map(|(_, snapshot)| snapshot).collect()
}

/// The snapshot of this name or id.
pub fn find(home: &Home, name: &str) -> Result<Snapshot> {
    let found = list(home).into_iter().find(|snapshot| snapshot.name() == name || snapshot.id() == name);
    found.ok_or_else(|| {
        let what = format!("cannot find the snapshot {}", crate::text::harmless(name));
        Error::new(ErrorCode::NotFound, what, "there is none of this name or id").hint("mvmctl snapshot ls")
    })
}

/// Takes a name for a snapshot that is to be saved; its id if it shall have none.
pub fn name(home: &Home, name: &str, id: &str) -> Result<String> {
    if name.is_empty() {
        return Ok(id.to_owned());
    }
    check_name(name, "save the snapshot", "snap-")?;
    free(home, name)?;
    Ok(name.to_owned())
}

fn free(home: &Home, name: &str) -> Result<()> {
    if list(home).iter().any(|snapshot| snapshot.name() == name) {
        let what = format!("cannot save the snapshot {name}");
        return Err(Error::new(ErrorCode::AlreadyExists, what, "there is one of this name")
            .hint(format!("use another name, or mvmctl snapshot rm {name}")));
    }
    Ok(())
}

/// Completes a snapshot in `staging`, which holds a point and the image's record, and lets it be seen.
pub fn commit(home: &Home, staging: Staging, record: Record) -> Result<Snapshot> {
    let text = serde_json::to_vec_pretty(&record).map_err(|e| Error::internal("cannot record the snapshot", e))?;
    write_atomically(&staging.path().join(RECORD), &text)?;
    let _naming = home.lock(LOCK, || {})?;
    free(home, &record.name)?;
    let dir = home.snapshots().join(&record.id);
    staging.commit(&dir)?;
    Ok(Snapshot { dir, stored: Some(record) })
}

/// Removes a snapshot. What was restored from it is not disturbed.
pub fn remove(home: &Home, name: &str) -> Result<Snapshot> {
    let snapshot = find(home, name)?;
    // Out of sight first: nobody may find half of it.
    let staging = home.staging("removed")?;
    fs::rename(&snapshot.dir, staging.path().join("snapshot"))
        .context(|| format!("cannot remove the snapshot {}", snapshot.name()))?;
    Ok(snapshot)
}

/// Whether every byte of it is as it was saved. The error says what is not.
pub fn verify(snapshot: &Snapshot) -> std::result::Result<(), String> {
    snapshot.record().map_err(|e| e.why)?;
    snapshot.point().map_err(|e| e.why).and_then(|point| point.verify(&snapshot.dir))
}

/// Puts the disk of a sandbox into a directory as layers of a point: those that it has as links, because they never
/// change, and a copy of its own, which nobody writes to at the moment. Returns them, lowest first.
pub fn take_disk(place: &Place, dir: &Path) -> Result<Vec<PathBuf>> {
    let layers = place.layers();
    if layers.len() >= point::MAX_LAYERS {
        let why =
            format!("its disk has {} layers, one for each restore it came from, and that is the most", layers.len());
        return Err(Error::new(ErrorCode::ResourceExhausted, "cannot save the sandbox's disk", why)
            .hint("copy what you need into a new sandbox with mvmctl cp"));
    }
    let what = || "cannot keep the sandbox's disk".to_owned();
    fs::create_dir(dir.join("layers")).context(what)?;
    let mut taken = Vec::new();
    for (index, layer) in layers.iter().enumerate() {
        let link = point::layer(dir, index);
        fs::hard_link(layer, &link).context(what)?;
        taken.push(link);
    }
    let own = point::layer(dir, layers.len());
    point::copy_layer(&place.disk(), &own)?;
    taken.push(own);
    Ok(taken)
}

/// Gives a new sandbox the disk of a point as its layers, and, unless only that is wanted, the point to come back from.
pub fn give(dir: &Path, to: &Place, disk_only: bool) -> Result<()> {
    let what = || "cannot take over what was saved".to_owned();
    fs::create_dir(to.dir().join("layers")).context(what)?;
    for index in (0..=point::MAX_LAYERS).take_while(|index| point::layer(dir, *index).exists()) {
        fs::hard_link(point::layer(dir, index), point::layer(to.dir(), index)).context(what)?;
    }
    if disk_only {
        return Ok(());
    }
    fs::create_dir(to.saved()).context(what)?;
    point::link(&Point::open(dir)?, &to.saved())
}
