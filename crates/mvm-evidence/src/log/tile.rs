//! The files of C2SP tlog-tiles: where they are, and what is in them.

use std::path::PathBuf;

use super::BUNDLE;
use crate::digest::Digest;
use crate::entry::MAX_ENTRY;

/// Longer than any bundle.
pub(crate) const MAX_BUNDLE: u64 = BUNDLE * (MAX_ENTRY as u64 + 2);
/// The length of a full tile.
pub(crate) const MAX_TILE: u64 = BUNDLE * 32;

/// What a tile holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Kind {
    /// Entries, each behind its length.
    Entries,
    /// Hashes of subtrees of 256^level entries.
    Hashes(u32),
}

/// Where tile `index` is, beneath the log's directory; the full one, or that of `width`.
pub(crate) fn path(kind: Kind, index: u64, width: u64) -> PathBuf {
    let mut groups = vec![format!("{:03}", index % 1000)];
    let mut rest = index / 1000;
    while rest > 0 {
        groups.push(format!("x{:03}", rest % 1000));
        rest /= 1000;
    }
    let mut path = PathBuf::from("tile");
    path.push(match kind {
        Kind::Entries => "entries".to_owned(),
        Kind::Hashes(level) => level.to_string(),
    });
    groups.iter().rev().for_each(|group| path.push(group));
    if width < BUNDLE { path.with_extension("p").join(width.to_string()) } else { path }
}

/// The directory with the partial forms of a tile.
pub(crate) fn partials(kind: Kind, index: u64) -> PathBuf {
    path(kind, index, BUNDLE).with_extension("p")
}

/// A bundle of entries.
pub(crate) fn bundle<'a>(entries: impl Iterator<Item = &'a [u8]>) -> Vec<u8> {
    let mut bytes = Vec::new();
    for entry in entries {
        bytes.extend_from_slice(&(entry.len() as u16).to_be_bytes());
        bytes.extend_from_slice(entry);
    }
    bytes
}

/// The entries of a bundle. The error says what does not fit.
pub(crate) fn entries(bundle: &[u8]) -> Result<Vec<&[u8]>, String> {
    let mut entries = Vec::new();
    let mut rest = bundle;
    while let Some((length, behind)) = rest.split_first_chunk::<2>() {
        let length = usize::from(u16::from_be_bytes(*length));
        let Some((entry, behind)) = behind.split_at_checked(length) else {
            return Err(format!("entry {} ends behind the end of the bundle", entries.len()));
        };
        if !(1..=MAX_ENTRY).contains(&length) || entries.len() as u64 == BUNDLE {
            return Err(format!("entry {} is not one that mvm writes", entries.len()));
        }
        entries.push(entry);
        rest = behind;
    }
    if rest.is_empty() { Ok(entries) } else { Err("there is half a length at its end".to_owned()) }
}

/// The bytes of a tile of hashes.
pub(crate) fn tile(hashes: &[Digest]) -> Vec<u8> {
    hashes.iter().flat_map(|hash| hash.0).collect()
}

/// The hashes of a tile; `None` if there is half a one.
pub(crate) fn hashes(tile: &[u8]) -> Option<Vec<Digest>> {
    tile.chunks(32).map(|hash| hash.try_into().ok().map(Digest)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_the_specifications() {
        let at = |kind, index, width| path(kind, index, width).to_str().unwrap().to_owned();
        assert_eq!(at(Kind::Hashes(0), 1234067, 256), "tile/0/x001/x234/067");
        assert_eq!(at(Kind::Hashes(1), 0, 17), "tile/1/000.p/17");
        assert_eq!(at(Kind::Entries, 1000, 1), "tile/entries/x001/000.p/1");
        assert_eq!(partials(Kind::Entries, 1000).to_str().unwrap(), "tile/entries/x001/000.p");
    }

    #[test]
    fn bundles_are_read_as_written_and_no_other_way() {
        let all = [b"a".as_slice(), b"bb", b"ccc"];
        let bytes = bundle(all.into_iter());
        assert_eq!(entries(&bytes).unwrap(), all);
        assert!(entries(&bytes[..bytes.len() - 1]).is_err());
        assert!(entries(&[&bytes[..], &[0]].concat()).is_err());
        assert!(entries(&[0, 0]).is_err());
        assert!(entries(&bundle(std::iter::repeat_n(b"x".as_slice(), 257))).is_err());
        assert!(entries(&bundle(std::iter::once([b'x'; 4097].as_slice()))).is_err());
        assert!(hashes(&[0; 33]).is_none());
    }
}
