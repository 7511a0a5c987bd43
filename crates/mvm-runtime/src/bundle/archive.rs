//! A bundle that is one file: a tar, compressed with zstd. The document comes first, so that everything after it is known
//! before it is read, and nothing that is not named takes any room.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read, Write};
use std::path::Path;

use mvm_wire::ErrorCode;
use tar::{Archive, Builder, EntryType, Header};
use zstd::stream::{read::Decoder, write::Encoder};

use super::{Bundle, CONTENTS, DOCUMENT, Wanted, document, refused};
use crate::error::{Error, IoContext, Result};
use crate::home::replace;
use crate::packages::{FILE as LOCK, Lock, MAX_LOCK};

/// A level at which text becomes small and time is not yet felt. It decides bytes, so it is never changed.
const LEVEL: i32 = 9;
/// The largest window that a reader makes room for: 8 MiB, as all readers of zstd do.
const WINDOW_LOG: u32 = 23;

/// Reads one.
pub fn read(path: &Path) -> Result<Bundle> {
    let file = File::open(path).context(|| "cannot read the bundle".to_owned())?;
    let mut decoder = Decoder::new(file).map_err(broken)?;
    decoder.window_log_max(WINDOW_LOG).map_err(broken)?;
    let mut archive = Archive::new(decoder);
    let mut entries = archive.entries().map_err(broken)?.raw(true);
    let Some(first) = entries.next().transpose().map_err(broken)? else {
        return Err(refused("there is nothing in it"));
    };
    if name(&first)? != DOCUMENT {
        return Err(refused(format!("{DOCUMENT} is not the first in it")));
    }
    let workload = document(&bytes(first, mvm_ir::MAX_BYTES as u64)?)?;
    let mut wanted = Wanted::of(&workload)?;
    let (mut contents, mut lock) = (BTreeMap::new(), None);
    for (index, entry) in entries.enumerate() {
        let entry = entry.map_err(broken)?;
        let name = name(&entry)?;
        if index == 0 && name == LOCK {
            lock = Some(Lock::read(&bytes(entry, MAX_LOCK)?)?);
            continue;
        }
        let digest = name.strip_prefix(CONTENTS).and_then(|rest| rest.strip_prefix('/')).unwrap_or_default().to_owned();
        let Some(size) = wanted.0.get(&digest).copied() else {
            return Err(refused(format!("{} is no part of the bundle", crate::text::harmless(&name))));
        };
        let bytes = bytes(entry, size)?;
        wanted.check(&digest, &bytes)?;
        contents.insert(digest, bytes);
    }
    wanted.none_is_missing()?;
    Ok(Bundle { workload, contents, lock })
}

fn broken(e: io::Error) -> Error {
    refused(format!("it is damaged: {e}"))
}

/// The name of a regular file in it.
fn name<R: Read>(entry: &tar::Entry<'_, R>) -> Result<String> {
    if entry.header().entry_type() != EntryType::Regular {
        return Err(refused("something in it is no regular file"));
    }
    Ok(String::from_utf8_lossy(&entry.path_bytes()).into_owned())
}

/// All of a file that says it has no more than this.
fn bytes(mut entry: impl Read, limit: u64) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    let read = entry.by_ref().take(limit + 1).read_to_end(&mut bytes).map_err(broken)?;
    if read as u64 > limit { Err(refused("something in it is larger than it should be")) } else { Ok(bytes) }
}

/// Writes one beside its place, and puts it there.
pub fn write(path: &Path, head: &[(&str, Vec<u8>)], contents: &BTreeMap<String, Vec<u8>>) -> Result<()> {
    let what = || "cannot write the bundle".to_owned();
    if std::fs::symlink_metadata(path).is_ok_and(|there| !there.is_file()) {
        return Err(Error::new(ErrorCode::AlreadyExists, what(), "something else than a file is there"));
    }
    replace(path, |mut draft| draft.write_all(&packed(head, contents)?)).context(what)
}

/// Its bytes: names in their order, and no time, owner or mode of this host.
fn packed(head: &[(&str, Vec<u8>)], contents: &BTreeMap<String, Vec<u8>>) -> io::Result<Vec<u8>> {
    let mut encoder = Encoder::new(Vec::new(), LEVEL)?;
    encoder.include_checksum(true)?;
    let mut tar = Builder::new(encoder);
    let mut add = |name: &str, bytes: &[u8]| {
        let mut header = Header::new_ustar();
        header.set_entry_type(EntryType::Regular);
        header.set_size(bytes.len() as u64);
        header.set_mode(0o644);
        tar.append_data(&mut header, name, bytes)
    };
    head.iter().try_for_each(|(name, bytes)| add(name, bytes))?;
    for (digest, bytes) in contents {
        add(&format!("{CONTENTS}/{digest}"), bytes)?;
    }
    tar.into_inner()?.finish()
}
