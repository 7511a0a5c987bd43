//! Archives as they are read: parts of files, and what was compressed, copied out and checked. What is copied has no name on
//! the host and is gone with the last that reads it; nobody else changes it between two readings.

use std::fs::{self, File};
use std::io::{self, ErrorKind, Read, Seek, SeekFrom};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use flate2::read::MultiGzDecoder;
use mvm_wire::tar::{self, Entry};
use sha2::{Digest, Sha256};

use super::{Limits, damaged, invalid, too_large};
use crate::error::{IoContext, Result};
use crate::home::unique;

/// The largest window of zstd that a reader makes room for: 128 MiB, as zstd itself does.
const WINDOW_LOG: u32 = 27;
const GZIP: [u8; 2] = [0x1f, 0x8b];
const ZSTD: [u8; 4] = [0x28, 0xb5, 0x2f, 0xfd];

/// A part of an open file.
#[derive(Debug, Clone)]
pub struct Region {
    file: Arc<File>,
    start: u64,
    length: u64,
}

impl Region {
    /// All that is in a file now.
    pub fn whole(file: File) -> io::Result<Region> {
        let length = file.metadata()?.len();
        Ok(Region { file: file.into(), start: 0, length })
    }

    /// What an entry has as its content.
    pub fn content(&self, found: &Found) -> Region {
        Region { file: self.file.clone(), start: self.start + found.content, length: found.entry.size }
    }

    /// Reads it from its beginning.
    pub fn reader(&self) -> Reader {
        Reader { region: self.clone(), at: 0 }
    }

    /// The entries of the archive that it is.
    pub fn entries(&self) -> Entries {
        Entries(self.reader())
    }

    /// Whether it begins as something that is compressed.
    pub fn is_compressed(&self) -> io::Result<bool> {
        let start = beginning(&mut self.reader())?;
        Ok(start.starts_with(&GZIP) || start.starts_with(&ZSTD))
    }
}

/// Reads a [`Region`].
#[derive(Debug)]
pub struct Reader {
    region: Region,
    at: u64,
}

impl Read for Reader {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let left = usize::try_from(self.region.length.saturating_sub(self.at)).unwrap_or(usize::MAX);
        let room = buffer.len().min(left);
        let read = self.region.file.read_at(&mut buffer[..room], self.region.start + self.at)?;
        self.at += read as u64;
        Ok(read)
    }
}

impl Seek for Reader {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        let at = match to {
            SeekFrom::Start(at) => Some(at),
            SeekFrom::Current(by) => self.at.checked_add_signed(by),
            SeekFrom::End(by) => self.region.length.checked_add_signed(by),
        };
        self.at = at.ok_or(ErrorKind::InvalidInput)?;
        Ok(self.at)
    }
}

/// An entry of an archive, and where in it that is.
#[derive(Debug)]
pub struct Found {
    /// The entry.
    pub entry: Entry,
    /// Where its headers begin.
    pub offset: u64,
    /// Where its content begins, all of which is there.
    content: u64,
}

/// The entries of an archive, without their contents.
#[derive(Debug)]
pub struct Entries(Reader);

impl Iterator for Entries {
    type Item = io::Result<Found>;

    fn next(&mut self) -> Option<io::Result<Found>> {
        self.read().transpose()
    }
}

impl Entries {
    fn read(&mut self) -> io::Result<Option<Found>> {
        let reader = &mut self.0;
        let offset = reader.at;
        let Some(entry) = tar::read(reader)? else { return Ok(None) };
        let content = reader.at;
        if entry.size > reader.region.length - content {
            return Err(ErrorKind::UnexpectedEof.into());
        }
        reader.at = content + entry.size + tar::padding(entry.size);
        Ok(Some(Found { entry, offset, content }))
    }
}

/// What is said of a blob, where something is.
#[derive(Debug, Clone, Default)]
pub struct Expected {
    /// SHA-256 of the blob as it is, in hex.
    pub sha256: Option<String>,
    /// Its length in bytes.
    pub size: Option<u64>,
    /// SHA-256 of what it is uncompressed, in hex.
    pub content_sha256: Option<String>,
}

/// Copies of what was uncompressed, all together within a bound.
#[derive(Debug)]
pub struct Spool {
    dir: PathBuf,
    left: u64,
    limit: u64,
}

impl Spool {
    /// Copies lie in `dir`, without names.
    pub fn new(dir: &Path, limits: &Limits) -> Spool {
        Spool { dir: dir.to_owned(), left: limits.bytes, limit: limits.bytes }
    }

    /// A file without a name.
    pub fn file(&self) -> Result<File> {
        let path = self.dir.join(unique());
        let file = File::options().create_new(true).read(true).write(true).open(&path);
        let file = file.context(|| format!("cannot write to {}", self.dir.display()))?;
        fs::remove_file(&path).context(|| format!("cannot write to {}", self.dir.display()))?;
        Ok(file)
    }

    /// Copies a blob, uncompressed if it begins as gzip or zstd, and checks it.
    ///
    /// # Errors
    ///
    /// `InvalidRequest` if it is damaged or not what is expected, `ResourceExhausted` if there is more than there may be.
    pub fn take(&mut self, name: &str, blob: impl Read, expected: &Expected) -> Result<Region> {
        let mut file = self.file()?;
        let mut blob = Measured::of(blob.take(expected.size.map_or(u64::MAX, |size| size.saturating_add(1))));
        let mut content = Measured::of(uncompressed(&mut blob).map_err(|e| damaged(name, &e))?);
        io::copy(&mut content.by_ref().take(self.left.saturating_add(1)), &mut file).map_err(|e| damaged(name, &e))?;
        let (length, content_sha256) = content.result();
        if length > self.left {
            return Err(too_large(self.limit));
        }
        self.left -= length;
        // What stands behind the compressed content.
        io::copy(&mut blob, &mut io::sink()).map_err(|e| damaged(name, &e))?;
        let (size, sha256) = blob.result();
        if expected.size.is_some_and(|expected| expected != size) {
            return Err(invalid(format!("{name}: it does not have the size that the image says")));
        }
        let differs = |expected: &Option<String>, found| expected.as_ref().is_some_and(|expected| *expected != found);
        if differs(&expected.sha256, sha256) || differs(&expected.content_sha256, content_sha256) {
            return Err(invalid(format!("{name}: it does not have the digest that the image says")));
        }
        Region::whole(file).context(|| format!("cannot read from {}", self.dir.display()))
    }
}

/// The first bytes, as many as tell what is compressed.
fn beginning(reader: &mut impl Read) -> io::Result<Vec<u8>> {
    let mut start = Vec::new();
    reader.take(ZSTD.len() as u64).read_to_end(&mut start)?;
    Ok(start)
}

fn uncompressed<'a>(mut blob: impl Read + 'a) -> io::Result<Box<dyn Read + 'a>> {
    let start = beginning(&mut blob)?;
    let (gzip, zstd) = (start.starts_with(&GZIP), start.starts_with(&ZSTD));
    let all = io::Cursor::new(start).chain(blob);
    if gzip {
        return Ok(Box::new(MultiGzDecoder::new(all)));
    }
    if zstd {
        let mut decoder = zstd::stream::read::Decoder::new(all)?;
        decoder.window_log_max(WINDOW_LOG)?;
        return Ok(Box::new(decoder));
    }
    Ok(Box::new(all))
}

/// Counts and digests what is read through it.
struct Measured<R> {
    reader: R,
    length: u64,
    hasher: Sha256,
}

impl<R> Measured<R> {
    fn of(reader: R) -> Measured<R> {
        Measured { reader, length: 0, hasher: Sha256::new() }
    }

    fn result(self) -> (u64, String) {
        (self.length, hex::encode(self.hasher.finalize()))
    }
}

impl<R: Read> Read for Measured<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.reader.read(buffer)?;
        self.length += read as u64;
        self.hasher.update(&buffer[..read]);
        Ok(read)
    }
}
