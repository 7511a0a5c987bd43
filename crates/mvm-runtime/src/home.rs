//! `MVM_HOME`: where everything of one user lives, and the only way files come into being there.
//!
//! Nothing half-done is ever visible: a directory is built in `tmp/` under a held lock, synced, then renamed into place.
//! Whatever a killed process left in `tmp/` has a free lock, and the next [`Home::sweep`] removes it.

use std::fs::{self, File};
use std::io::Write;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Mutex;

use mvm_wire::ErrorCode;
use rustix::fs::FlockOperation;

use crate::error::{Error, IoContext, Result};

/// The directories and files that this process is building at the moment, for [`abandon`].
static UNDER_CONSTRUCTION: Mutex<Vec<PathBuf>> = Mutex::new(Vec::new());

/// The user's mvm directory.
#[derive(Debug, Clone)]
pub struct Home {
    root: PathBuf,
}

impl Home {
    /// `MVM_HOME`, else `$XDG_DATA_HOME/mvm`, else `~/.local/share/mvm`. Touches nothing.
    pub fn locate() -> Result<Home> {
        let var = |name: &str| std::env::var_os(name).filter(|v| !v.is_empty()).map(PathBuf::from);
        let root = var("MVM_HOME")
            .or_else(|| var("XDG_DATA_HOME").map(|d| d.join("mvm")))
            .or_else(|| var("HOME").map(|d| d.join(".local/share/mvm")))
            .ok_or_else(|| {
                Error::new(ErrorCode::InvalidRequest, "cannot tell where mvm keeps its files", "HOME is not set")
                    .hint("set MVM_HOME to a directory of yours")
            })?;
        if !root.is_absolute() {
            return Err(Error::new(
                ErrorCode::InvalidRequest,
                format!("cannot use {} as mvm's home", root.display()),
                "the path is relative",
            )
            .hint("set MVM_HOME to an absolute path"));
        }
        Ok(Home { root })
    }

    /// A home at `root`, which must be absolute.
    pub fn at(root: impl Into<PathBuf>) -> Home {
        Home { root: root.into() }
    }

    /// The directory itself.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Unpacked guest kernels, one directory each.
    pub fn kernels(&self) -> PathBuf {
        self.root.join("kernels")
    }

    /// Images, one directory for each digest, and the names that point to them.
    pub fn images(&self) -> PathBuf {
        self.root.join("images")
    }

    /// Templates, one directory for each key.
    pub fn templates(&self) -> PathBuf {
        self.root.join("templates")
    }

    /// Sandboxes, one directory for each id.
    pub fn sandboxes(&self) -> PathBuf {
        self.root.join("sandboxes")
    }

    /// Snapshots, one directory for each id.
    pub fn snapshots(&self) -> PathBuf {
        self.root.join("snapshots")
    }

    /// Private records of commands, and the receipts that were made from them.
    pub fn runs(&self) -> PathBuf {
        self.root.join("runs")
    }

    /// Keys that sign receipts and the audit log.
    pub fn keys(&self) -> PathBuf {
        self.root.join("keys")
    }

    /// The audit log.
    pub fn audit(&self) -> PathBuf {
        self.root.join("audit")
    }

    /// Work in progress.
    pub fn tmp(&self) -> PathBuf {
        self.root.join("tmp")
    }

    /// Makes the directories that are missing, private to the user.
    pub fn create(&self) -> Result<()> {
        let all = [
            self.kernels(),
            self.images(),
            self.templates(),
            self.sandboxes(),
            self.snapshots(),
            self.runs(),
            self.tmp(),
        ];
        for dir in [self.root.clone()].into_iter().chain(all) {
            create_dir(&dir).map_err(|e| match e.hint.is_empty() {
                true => e.hint("point MVM_HOME at a directory that can be written"),
                false => e,
            })?;
        }
        Ok(())
    }

    /// Waits for and takes the exclusive lock called `name`; it is held until the file is dropped.
    /// `waiting` is called once if somebody else holds it.
    pub fn lock(&self, name: &str, waiting: impl FnOnce()) -> Result<File> {
        let path = self.root.join(format!("{name}.lock"));
        let file = File::options()
            .create(true)
            .truncate(false)
            .write(true)
            .mode(0o600)
            .open(&path)
            .context(|| format!("cannot open the lock {}", path.display()))?;
        if rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive).is_err() {
            waiting();
            rustix::fs::flock(&file, FlockOperation::LockExclusive)
                .context(|| format!("cannot lock {}", path.display()))?;
        }
        Ok(file)
    }

    /// A private directory to build something in. It is deleted on drop unless it is committed. What was left by those that
    /// were killed goes first, to make room.
    pub fn staging(&self, purpose: &str) -> Result<Staging> {
        self.create()?;
        self.sweep();
        let dir = self.tmp().join(format!("{purpose}-{}", unique()));
        // The lock lies beside the directory, so that a committed directory carries none.
        let lock_path = dir.with_extension("lock");
        let lock = self.new_lock(&lock_path)?;
        create_dir(&dir)?;
        under_construction([&dir, &lock_path]);
        Ok(Staging { dir, lock_path, _lock: lock })
    }

    /// Makes a file and locks it. Between the two a sweep may take it for what a killed process left; then there is another.
    fn new_lock(&self, path: &Path) -> Result<File> {
        loop {
            let lock = File::options().create_new(true).write(true).mode(0o600).open(path);
            let lock = lock.context(|| format!("cannot write to {}", self.tmp().display()))?;
            rustix::fs::flock(&lock, FlockOperation::LockExclusive)
                .context(|| format!("cannot lock {}", path.display()))?;
            if is_there(&lock, path) {
                return Ok(lock);
            }
        }
    }

    /// Removes what killed processes left in `tmp/`. What somebody still works on is locked and stays.
    pub fn sweep(&self) {
        let Ok(entries) = fs::read_dir(self.tmp()) else { return };
        for entry in entries.flatten() {
            let path = entry.path();
            if path.extension().is_none_or(|e| e != "lock") {
                continue;
            }
            let Ok(lock) = File::options().write(true).open(&path) else { continue };
            let is_free = rustix::fs::flock(&lock, FlockOperation::NonBlockingLockExclusive).is_ok();
            // Somebody else may have removed it meanwhile, and a third have made another one.
            if is_free && is_there(&lock, &path) {
                let _ = fs::remove_dir_all(path.with_extension(""));
                let _ = fs::remove_file(&path);
            }
        }
    }
}

/// Whether a file still has its name.
fn is_there(file: &File, path: &Path) -> bool {
    file.metadata().is_ok_and(|ours| fs::metadata(path).is_ok_and(|there| there.ino() == ours.ino()))
}

/// A directory under construction. See [`Home::staging`].
#[derive(Debug)]
pub struct Staging {
    dir: PathBuf,
    lock_path: PathBuf,
    _lock: File,
}

impl Staging {
    /// Where to build.
    pub fn path(&self) -> &Path {
        &self.dir
    }

    /// Syncs every file and renames the directory to `dest`. If `dest` exists (somebody was faster), what is there stays.
    pub fn commit(self, dest: &Path) -> Result<()> {
        sync_tree(&self.dir)?;
        match fs::rename(&self.dir, dest) {
            Ok(()) => {}
            Err(e) if matches!(e.raw_os_error(), Some(libc::EEXIST | libc::ENOTEMPTY)) => return Ok(()),
            Err(e) => return Err(Error::io(format!("cannot move the result to {}", dest.display()), e)),
        }
        if let Some(parent) = dest.parent() {
            File::open(parent).and_then(|d| d.sync_all()).context(|| format!("cannot sync {}", parent.display()))?;
        }
        Ok(())
    }
}

/// Removes what this process was building: for the moment before it ends without running its destructors.
pub fn abandon() {
    let list = UNDER_CONSTRUCTION.lock().map(|mut list| std::mem::take(&mut *list)).unwrap_or_default();
    list.iter().for_each(|path| remove(path));
}

fn under_construction<'a>(paths: impl IntoIterator<Item = &'a PathBuf>) {
    if let Ok(mut list) = UNDER_CONSTRUCTION.lock() {
        list.extend(paths.into_iter().cloned());
    }
}

/// Removes what was built, unless it has another name by now.
fn clear(paths: &[&Path]) {
    if let Ok(mut list) = UNDER_CONSTRUCTION.lock() {
        list.retain(|path| !paths.contains(&path.as_path()));
    }
    paths.iter().for_each(|path| remove(path));
}

/// Whatever it is. A directory is none if it is a link to one.
fn remove(path: &Path) {
    let _ = fs::remove_dir_all(path);
    let _ = fs::remove_file(path);
}

impl Drop for Staging {
    fn drop(&mut self) {
        clear(&[&self.dir, &self.lock_path]);
    }
}

/// The directory that a file is in.
pub fn parent(file: &Path) -> &Path {
    file.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

/// What is being made beside its place, under a name that nobody can take beforehand. Unless it has another name by then it is
/// gone in the end, also when a signal ends the process.
#[derive(Debug)]
pub struct Draft(PathBuf);

impl Draft {
    /// A name in the same directory. Nothing is there yet.
    pub fn beside(place: &Path) -> Draft {
        let path = parent(place).join(format!(".mvm-{}", unique()));
        under_construction([&path]);
        Draft(path)
    }

    /// Where to make it.
    pub fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Draft {
    fn drop(&mut self) {
        clear(&[&self.0]);
    }
}

/// Writes a file where the user wants it: `fill` does, beside its place, and then it is put there, whatever file that was
/// before.
pub fn replace<T>(file: &Path, fill: impl FnOnce(File) -> std::io::Result<T>) -> std::io::Result<T> {
    let draft = Draft::beside(file);
    let out = File::create_new(draft.path())?;
    let result = fill(out.try_clone()?)?;
    out.sync_all()?;
    fs::rename(draft.path(), file)?;
    File::open(parent(file))?.sync_all()?;
    Ok(result)
}

/// How the last part begins of the names of files that are being written.
pub const UNFINISHED: &str = "new-";

/// Writes a small file so that a reader sees the old or the new content, never a part, also after a crash of the host.
pub fn write_atomically(path: &Path, content: &[u8]) -> Result<()> {
    write_file(path, content, true)
}

/// The same for what may be lost with the power, but not with a process.
pub fn write_whole(path: &Path, content: &[u8]) -> Result<()> {
    write_file(path, content, false)
}

fn write_file(path: &Path, content: &[u8], durably: bool) -> Result<()> {
    let temporary = path.with_extension(format!("{UNFINISHED}{}", unique()));
    let write = || -> std::io::Result<()> {
        let mut file = File::options().create_new(true).write(true).mode(0o600).open(&temporary)?;
        file.write_all(content)?;
        if durably {
            file.sync_all()?;
        }
        fs::rename(&temporary, path)?;
        match path.parent().filter(|_| durably) {
            Some(dir) => File::open(dir)?.sync_all(),
            None => Ok(()),
        }
    };
    write().inspect_err(|_| drop(fs::remove_file(&temporary))).context(|| format!("cannot write {}", path.display()))
}

/// Reads a JSON file that [`write_atomically`] wrote. `None` if it does not exist or is not what this version writes.
pub fn read_json<T: serde::de::DeserializeOwned>(path: &Path) -> Option<T> {
    serde_json::from_slice(&fs::read(path).ok()?).ok()
}

/// A name part that no other process and no earlier run has used.
pub fn unique() -> String {
    let mut bytes = [0u8; 8];
    // The kernel's generator cannot fail once the system has booted.
    let _ = rustix::rand::getrandom(&mut bytes[..], rustix::rand::GetRandomFlags::empty());
    hex::encode(bytes)
}

fn create_dir(dir: &Path) -> Result<()> {
    fs::DirBuilder::new().recursive(true).mode(0o700).create(dir).context(|| format!("cannot create {}", dir.display()))
}

fn sync_tree(dir: &Path) -> Result<()> {
    let sync = |path: &Path| File::open(path)?.sync_all();
    for entry in fs::read_dir(dir).context(|| format!("cannot read {}", dir.display()))?.flatten() {
        let kind = entry.file_type().context(|| format!("cannot read {}", dir.display()))?;
        if kind.is_dir() {
            sync_tree(&entry.path())?;
        } else if kind.is_file() {
            sync(&entry.path()).context(|| format!("cannot sync {}", entry.path().display()))?;
        }
    }
    sync(dir).context(|| format!("cannot sync {}", dir.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn home() -> (tempfile::TempDir, Home) {
        let dir = tempfile::tempdir().unwrap();
        let home = Home::at(dir.path().join("home"));
        home.create().unwrap();
        (dir, home)
    }

    #[test]
    fn a_staged_directory_appears_whole_or_not_at_all() {
        let (_dir, home) = home();
        let staging = home.staging("image").unwrap();
        fs::write(staging.path().join("a"), "1").unwrap();
        let dest = home.images().join("x");
        assert!(!dest.exists());
        staging.commit(&dest).unwrap();
        assert_eq!(fs::read_to_string(dest.join("a")).unwrap(), "1");
        assert_eq!(fs::read_dir(home.tmp()).unwrap().count(), 0);
    }

    #[test]
    fn the_first_of_two_commits_wins() {
        let (_dir, home) = home();
        let dest = home.images().join("x");
        for content in ["first", "second"] {
            let staging = home.staging("image").unwrap();
            fs::write(staging.path().join("a"), content).unwrap();
            staging.commit(&dest).unwrap();
        }
        assert_eq!(fs::read_to_string(dest.join("a")).unwrap(), "first");
    }

    #[test]
    fn to_begin_removes_what_is_dead_and_keeps_what_is_alive() {
        let (_dir, home) = home();
        let alive = home.staging("alive").unwrap();
        let dead = home.tmp().join("dead-1");
        fs::create_dir(&dead).unwrap();
        fs::write(dead.join("part"), "x").unwrap();
        fs::write(home.tmp().join("dead-1.lock"), "").unwrap();
        let new = home.staging("new").unwrap();
        assert!(alive.path().exists() && new.path().exists());
        assert!(!dead.exists());
        assert_eq!(fs::read_dir(home.tmp()).unwrap().count(), 4);
    }

    #[test]
    fn a_sweep_never_takes_what_is_being_made() {
        let (_dir, home) = home();
        std::thread::scope(|scope| {
            let sweeping = scope.spawn(|| (0..3000).for_each(|_| home.sweep()));
            while !sweeping.is_finished() {
                let staging = home.staging("new").unwrap();
                std::thread::yield_now();
                assert!(staging.path().exists());
            }
        });
    }

    #[test]
    fn a_file_is_replaced_whole_or_not_at_all() {
        let (dir, _) = home();
        let path = dir.path().join("f");
        assert_eq!(replace(&path, |mut new| new.write(b"old")).unwrap(), 3);
        let failed =
            replace(&path, |mut new| new.write_all(b"new").and(Err::<(), _>(std::io::ErrorKind::Other.into())));
        assert!(failed.is_err());
        assert_eq!(fs::read_to_string(&path).unwrap(), "old");
        fs::create_dir(dir.path().join("d")).unwrap();
        assert!(replace(&dir.path().join("d"), |_| Ok(())).is_err());
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 3, "nothing is left beside them");
    }

    #[test]
    fn atomic_writes_replace_and_leave_nothing_else() {
        let (dir, _) = home();
        let path = dir.path().join("f.json");
        write_atomically(&path, b"{\"a\":1}").unwrap();
        write_atomically(&path, b"{\"a\":2}").unwrap();
        assert_eq!(read_json::<serde_json::Value>(&path).unwrap()["a"], 2);
        assert_eq!(fs::read_dir(dir.path()).unwrap().filter(|e| e.as_ref().unwrap().path().is_file()).count(), 1);
    }
}
