//! The directory of a user's keys: `KEYID.key` and `KEYID.pub` for each, and `current`, which names the one that signs.
//!
//! Every file is there whole or not at all, and `current` is written last. So whatever a crash leaves is either a key that
//! nothing names yet, which the next call takes up, or the private half of a key that was replaced, which it deletes.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::OFlags;
use zeroize::Zeroizing;

use super::{MAX_PEM, PublicKey, Signer};
use crate::digest::Digest;
use crate::error::{Context, Error, Kind, Result};
use crate::file;

/// A directory of keys. Nothing is read or made before it is asked for.
#[derive(Debug, Clone)]
pub struct KeyRing {
    dir: PathBuf,
}

impl KeyRing {
    /// The ring in a directory, which need not exist yet.
    pub fn at(dir: impl Into<PathBuf>) -> KeyRing {
        KeyRing { dir: dir.into() }
    }

    /// The directory.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Makes the first key, if there is none, and returns the current one. Of many processes that call this at once, one
    /// makes the key and all return it.
    pub fn ensure(&self) -> Result<PublicKey> {
        file::create_dir(&self.dir)?;
        let _lock = self.lock()?;
        if self.current_id()?.is_some() {
            // One that cannot sign is no reason to delete another.
            let signer = self.signer()?;
            self.delete_replaced()?;
            return Ok(signer.public);
        }
        let signer = match &self.private_ids()?.into_iter().collect::<Vec<_>>()[..] {
            [] => self.store(Signer::generate()?)?,
            // Made by a process that was ended before it could say so.
            [one] => self.store(self.read_private(*one)?)?,
            _ => {
                let why = "there are several private keys, and the file `current` that says which one signs is missing";
                return Err(Error::new(
                    Kind::Damaged,
                    format!("cannot tell which key of {} to use", self.dir.display()),
                    why,
                )
                .hint("write the id of one of them into `current`, or make another key: mvmctl key rotate"));
            }
        };
        self.name_current(signer.public.id)?;
        Ok(signer.public)
    }

    /// The key that signs, with its private half.
    pub fn signer(&self) -> Result<Signer> {
        let Some(id) = self.current_id()? else { return Err(self.none()) };
        self.read_private(id)
    }

    /// The public half of the key that signs.
    pub fn current(&self) -> Result<PublicKey> {
        let Some(id) = self.current_id()? else { return Err(self.none()) };
        self.read_public(id)
    }

    /// Makes another key the current one, and deletes the private half of the one before: `(old, new)`. The public halves
    /// stay, so what the old key signed can still be checked. Nothing of the old key is needed; `old` is `None` if it
    /// cannot be told which one it was.
    pub fn rotate(&self) -> Result<(Option<PublicKey>, PublicKey)> {
        if matches!(self.current_id(), Ok(None)) && self.private_ids()?.is_empty() && self.ids(".pub")?.is_empty() {
            return Err(self.none());
        }
        let _lock = self.lock()?;
        self.complete_public()?;
        let old = match usable(self.current_id())?.flatten() {
            Some(id) => usable(self.read_public(id))?,
            None => None,
        };
        let new = self.store(Signer::generate()?)?.public;
        self.name_current(new.id)?;
        self.delete_replaced()?;
        Ok((old, new))
    }

    /// The public halves of all keys there ever were, by id.
    pub fn public_keys(&self) -> Result<Vec<PublicKey>> {
        self.ids(".pub")?.into_iter().map(|id| self.read_public(id)).collect()
    }

    /// A public key as PEM: the current one, or the one with this id.
    pub fn export(&self, id: Option<Digest>) -> Result<String> {
        let key = match id {
            Some(id) => self.read_public(id)?,
            None => self.current()?,
        };
        Ok(key.to_pem().to_owned())
    }

    fn none(&self) -> Error {
        let what = format!("there is no signing key in {}", self.dir.display());
        Error::new(Kind::NotFound, what, "none was made yet").hint("make one: mvmctl setup")
    }

    /// Takes the lock, and removes what a killed process had begun to write: it may be a private key.
    fn lock(&self) -> Result<File> {
        self.check_dir()?;
        let lock = file::lock(&self.dir.join("lock"))?;
        file::remove_unfinished(&self.dir);
        Ok(lock)
    }

    fn path(&self, id: Digest, extension: &str) -> PathBuf {
        self.dir.join(format!("{id}{extension}"))
    }

    fn current_id(&self) -> Result<Option<Digest>> {
        let path = self.dir.join("current");
        let Some(bytes) = file::read(&path, 100)? else { return Ok(None) };
        let id = std::str::from_utf8(&bytes).ok().and_then(|text| text.strip_suffix('\n')?.parse().ok());
        id.map(Some).ok_or_else(|| {
            Error::new(Kind::Damaged, format!("cannot read {}", path.display()), "it does not hold the id of a key")
                .hint("write the id of a key that is there into it, and a line end; or make another key: mvmctl key rotate")
        })
    }

    fn name_current(&self, id: Digest) -> Result<()> {
        file::replace(&self.dir.join("current"), format!("{id}\n").as_bytes())
    }

    fn store(&self, signer: Signer) -> Result<Signer> {
        let id = signer.public.id;
        file::replace(&self.path(id, ".key"), signer.to_pem()?.as_bytes())?;
        file::replace(&self.path(id, ".pub"), signer.public.to_pem().as_bytes())?;
        Ok(signer)
    }

    /// Writes the public halves that are missing or damaged, of the keys whose private half tells them.
    fn complete_public(&self) -> Result<()> {
        for id in self.private_ids()? {
            if usable(self.read_public(id))?.is_none() {
                usable(self.read_private(id))?.map(|signer| self.store(signer)).transpose()?;
            }
        }
        Ok(())
    }

    /// Deletes the private halves of all keys but the current one.
    fn delete_replaced(&self) -> Result<()> {
        let current = self.current_id()?;
        for id in self.private_ids()?.into_iter().filter(|id| Some(*id) != current) {
            let path = self.path(id, ".key");
            fs::remove_file(&path).context(|| format!("cannot delete {}", path.display()))?;
            file::sync_dir(&self.dir)?;
        }
        Ok(())
    }

    fn private_ids(&self) -> Result<BTreeSet<Digest>> {
        self.ids(".key")
    }

    fn ids(&self, extension: &str) -> Result<BTreeSet<Digest>> {
        let entries = match fs::read_dir(&self.dir) {
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(BTreeSet::new()),
            entries => entries.context(|| format!("cannot read {}", self.dir.display()))?,
        };
        let id = |entry: std::io::Result<fs::DirEntry>| {
            entry.map(|entry| entry.file_name().to_str()?.strip_suffix(extension)?.parse().ok())
        };
        let ids: std::io::Result<Vec<Option<Digest>>> = entries.map(id).collect();
        Ok(ids.context(|| format!("cannot read {}", self.dir.display()))?.into_iter().flatten().collect())
    }

    fn read_public(&self, id: Digest) -> Result<PublicKey> {
        let path = self.path(id, ".pub");
        let Some(bytes) = file::read(&path, MAX_PEM as u64)? else {
            let what = format!("there is no key {id} in {}", self.dir.display());
            return Err(Error::new(Kind::NotFound, what, "no file has its name").hint("list the keys: mvmctl key show"));
        };
        let key = PublicKey::from_pem(&String::from_utf8_lossy(&bytes))
            .map_err(|e| Error::new(Kind::Damaged, format!("cannot read {}", path.display()), e.why))?;
        self.is_named(&path, &key, id)?;
        Ok(key)
    }

    fn is_named(&self, path: &Path, key: &PublicKey, id: Digest) -> Result<()> {
        if key.id == id {
            return Ok(());
        }
        let why = format!("it holds another key, {}", key.id);
        Err(Error::new(Kind::Damaged, format!("cannot use {}", path.display()), why).hint("remove the file"))
    }

    /// Reads a private key from a file that is the caller's alone.
    fn read_private(&self, id: Digest) -> Result<Signer> {
        self.check_dir()?;
        let path = self.path(id, ".key");
        let what = || format!("cannot use the private key {}", path.display());
        let flags = (OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::NOCTTY).bits() as i32;
        let opened =
            File::options().read(true).custom_flags(flags).open(&path).map_err(|e| match e.raw_os_error() {
                Some(code) if code == rustix::io::Errno::LOOP.raw_os_error() => {
                    Error::new(Kind::Unsafe, what(), "it is a symbolic link")
                        .hint("put the key itself there, chmod 600")
                }
                Some(code) if code == rustix::io::Errno::NOENT.raw_os_error() => {
                    Error::new(Kind::NotFound, what(), "it is missing").hint("make another key: mvmctl key rotate")
                }
                _ => Error::io(what(), e),
            })?;
        let meta = opened.metadata().context(what)?;
        if meta.uid() != rustix::process::geteuid().as_raw() {
            return Err(Error::new(Kind::Unsafe, what(), "it belongs to another user")
                .hint(format!("take it over: chown, then chmod 600 {}", path.display())));
        }
        if meta.mode() & 0o077 != 0 {
            let why = format!("others may read or write it (mode {:03o})", meta.mode() & 0o777);
            let hint = format!("chmod 600 {}; if others could read it, then mvmctl key rotate", path.display());
            return Err(Error::new(Kind::Unsafe, what(), why).hint(hint));
        }
        let bytes = file::read_open(opened, MAX_PEM as u64).map(Zeroizing::new).map_err(|e| match e {
            file::ReadError::Io(e) => Error::io(what(), e),
            _ => Error::new(Kind::Damaged, what(), "it is not a key file"),
        })?;
        let damaged = |why: String| Error::new(Kind::Damaged, what(), why).hint("make another key: mvmctl key rotate");
        let pem = std::str::from_utf8(&bytes).map_err(|_| damaged("it is not PEM".to_owned()))?;
        let signer = Signer::from_pem(pem).map_err(|e| damaged(e.why))?;
        self.is_named(&path, &signer.public, id)?;
        Ok(signer)
    }

    /// Who can write to the directory can put another key into it.
    fn check_dir(&self) -> Result<()> {
        let meta = fs::metadata(&self.dir).context(|| format!("cannot read {}", self.dir.display()))?;
        let why = if meta.uid() != rustix::process::geteuid().as_raw() {
            "it belongs to another user"
        } else if meta.mode() & 0o022 != 0 {
            "others may write to it"
        } else {
            return Ok(());
        };
        let what = format!("cannot use the keys in {}", self.dir.display());
        Err(Error::new(Kind::Unsafe, what, why).hint(format!("chmod 700 {}", self.dir.display())))
    }
}

/// What was read; `None` if it is missing, or not as it was written.
fn usable<T>(read: Result<T>) -> Result<Option<T>> {
    match read {
        Ok(read) => Ok(Some(read)),
        Err(error) if matches!(error.kind, Kind::NotFound | Kind::Damaged) => Ok(None),
        Err(error) => Err(error),
    }
}
