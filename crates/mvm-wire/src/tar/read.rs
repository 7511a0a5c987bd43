//! The headers of an entry, in any of the formats.

use std::collections::BTreeMap;
use std::io::{ErrorKind, Read, Result};

use super::{BLOCK, Entry, Kind, MAX_HEADERS, MAX_TIME, MODE, XATTR, bad, clean, padding};
use crate::files::MAX_PATH;

/// Where in a header a field is.
type Field = std::ops::Range<usize>;
const NAME: Field = 0..100;
const PERMISSIONS: Field = 100..108;
const UID: Field = 108..116;
const GID: Field = 116..124;
const SIZE: Field = 124..136;
const MTIME: Field = 136..148;
const CHECKSUM: Field = 148..156;
const TYPE: usize = 156;
const LINK: Field = 157..257;
const MAGIC: Field = 257..263;
const MAJOR: Field = 329..337;
const MINOR: Field = 337..345;
const PREFIX: Field = 345..500;

/// What stands in headers before that of the entry and takes the place of what it says itself.
#[derive(Default)]
struct Extended {
    path: Option<Vec<u8>>,
    link: Option<Vec<u8>>,
    size: Option<u64>,
    uid: Option<u64>,
    gid: Option<u64>,
    mtime: Option<u64>,
    xattrs: BTreeMap<Vec<u8>, Vec<u8>>,
}

/// Reads the headers of the next entry; `None` at the end. Behind them stand [`Entry::size`] bytes of content and
/// [`padding`].
///
/// # Errors
///
/// `InvalidData` if it is no entry that can be read, `UnexpectedEof` if the archive is cut off in its headers, and
/// whatever the reader says.
pub fn read(reader: &mut impl Read) -> Result<Option<Entry>> {
    let (mut extended, mut seen) = (Extended::default(), 0);
    while let Some(header) = block(reader)? {
        let length = number(&header[SIZE]).ok_or_else(|| bad(b"", "a length is no number"))?;
        let kind = header[TYPE];
        if !matches!(kind, b'x' | b'g' | b'L' | b'K') {
            return entry(&header, length, extended).map(Some);
        }
        seen += BLOCK + length.min(MAX_HEADERS);
        if seen > MAX_HEADERS {
            return Err(bad(b"", format!("an entry has more than {MAX_HEADERS} bytes of headers")));
        }
        let mut text = vec![0; length as usize];
        reader.read_exact(&mut text)?;
        reader.read_exact(&mut [0; BLOCK as usize][..padding(length) as usize])?;
        match kind {
            b'L' => extended.path = Some(until_nul(&text).to_vec()),
            b'K' => extended.link = Some(until_nul(&text).to_vec()),
            b'x' => extended.take(&text)?,
            _ => nothing_for_all(&text)?,
        }
    }
    if seen == 0 { Ok(None) } else { Err(ErrorKind::UnexpectedEof.into()) }
}

/// The next header; `None` at the end of the archive.
fn block(reader: &mut impl Read) -> Result<Option<[u8; BLOCK as usize]>> {
    let (mut header, mut filled) = ([0; BLOCK as usize], 0);
    while filled < header.len() {
        match reader.read(&mut header[filled..]) {
            Ok(0) if filled == 0 => return Ok(None),
            Ok(0) => return Err(ErrorKind::UnexpectedEof.into()),
            Ok(len) => filled += len,
            Err(e) if e.kind() == ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
    if header == [0; BLOCK as usize] {
        return Ok(None);
    }
    let sum: u64 = header.iter().map(|byte| u64::from(*byte)).sum();
    let own: u64 = header[CHECKSUM].iter().map(|byte| u64::from(*byte)).sum();
    if number(&header[CHECKSUM]) == Some(sum - own + 8 * u64::from(b' ')) {
        return Ok(Some(header));
    }
    Err(bad(b"", "there is something that is no header of a tar archive"))
}

fn entry(header: &[u8; BLOCK as usize], length: u64, extended: Extended) -> Result<Entry> {
    let raw = extended.path.unwrap_or_else(|| own_path(header));
    let path = clean(&raw).map_err(|why| bad(&raw, why))?;
    let field = |field: Field, what: &str| {
        number(&header[field]).ok_or_else(|| bad(&path, format!("its {what} is no number that can be read")))
    };
    let link = || extended.link.clone().unwrap_or_else(|| until_nul(&header[LINK]).to_vec());
    let kind = match header[TYPE] {
        // The old format has no kind of its own for directories.
        b'0' | b'\0' | b'7' if raw.ends_with(b"/") => Kind::Directory,
        b'0' | b'\0' | b'7' => Kind::File,
        b'1' => Kind::Link(clean(&link()).map_err(|why| bad(&path, format!("what it links to: {why}")))?),
        b'2' => Kind::Symlink(target(link()).map_err(|why| bad(&path, why))?),
        b'3' | b'4' => {
            let (major, minor) = (field(MAJOR, "device")?, field(MINOR, "device")?);
            if major >= 1 << 12 || minor >= 1 << 20 {
                return Err(bad(&path, "there is no device of its numbers"));
            }
            if header[TYPE] == b'3' {
                Kind::Char(major as u32, minor as u32)
            } else {
                Kind::Block(major as u32, minor as u32)
            }
        }
        b'5' => Kind::Directory,
        b'6' => Kind::Fifo,
        b'S' => return Err(bad(&path, "it is a sparse file, which is read nowhere else than where it was written")),
        other => return Err(bad(&path, format!("it is of a kind that nobody knows ({:?})", char::from(other)))),
    };
    if kind != Kind::Directory && path.is_empty() {
        return Err(bad(&raw, "it has no name"));
    }
    let id = |own: Field, given: Option<u64>, what: &str| {
        let id = given.map_or_else(|| field(own, what), Ok)?;
        // The last one is none: to the kernel it means that nothing is to change.
        u32::try_from(id)
            .ok()
            .filter(|id| *id != u32::MAX)
            .ok_or_else(|| bad(&path, format!("its {what} is too large")))
    };
    Ok(Entry {
        mode: field(PERMISSIONS, "mode")? as u32 & MODE,
        uid: id(UID, extended.uid, "owner")?,
        gid: id(GID, extended.gid, "group")?,
        // Before 1970 a header has no digits for it.
        mtime: extended.mtime.or_else(|| number(&header[MTIME])).unwrap_or(0).min(MAX_TIME),
        // Nothing else has content, whatever its header says.
        size: if kind == Kind::File { extended.size.unwrap_or(length) } else { 0 },
        xattrs: extended.xattrs,
        path,
        kind,
    })
}

/// What the header of an entry says itself.
fn own_path(header: &[u8; BLOCK as usize]) -> Vec<u8> {
    let (prefix, name) = (until_nul(&header[PREFIX]), until_nul(&header[NAME]));
    if header[MAGIC] == *b"ustar\0" && !prefix.is_empty() { [prefix, b"/", name].concat() } else { name.to_vec() }
}

fn target(link: Vec<u8>) -> std::result::Result<Vec<u8>, String> {
    match link {
        link if link.is_empty() => Err("it is a link to nothing".to_owned()),
        link if link.contains(&0) => Err("what it says has a zero byte".to_owned()),
        link if link.len() > MAX_PATH => Err(format!("what it says is longer than {MAX_PATH} bytes")),
        link => Ok(link),
    }
}

fn until_nul(field: &[u8]) -> &[u8] {
    field.split(|byte| *byte == 0).next().unwrap_or_default()
}

/// A number in octal digits, or in the bytes that GNU takes for larger ones. None is zero.
fn number(field: &[u8]) -> Option<u64> {
    if field[0] & 0x80 != 0 {
        let (high, low) = field.split_at(field.len() - 8.min(field.len() - 1));
        let fits = high[0] == 0x80 && high[1..].iter().all(|byte| *byte == 0);
        return fits.then(|| low.iter().fold(0, |number, byte| number << 8 | u64::from(*byte)));
    }
    let text = std::str::from_utf8(until_nul(field)).ok()?.trim_matches(' ');
    if text.is_empty() { Some(0) } else { u64::from_str_radix(text, 8).ok() }
}

impl Extended {
    /// Takes the records of a PAX header. One without a value takes back what was said before.
    fn take(&mut self, text: &[u8]) -> Result<()> {
        for record in Records(text) {
            let (key, value) = record?;
            let said = (!value.is_empty()).then_some(value);
            let digits =
                || said.map(|value| digits(value).ok_or_else(|| bad(b"", "a header has no number"))).transpose();
            match key {
                b"path" => self.path = said.map(<[u8]>::to_vec),
                b"linkpath" => self.link = said.map(<[u8]>::to_vec),
                b"size" => self.size = digits()?,
                b"uid" => self.uid = digits()?,
                b"gid" => self.gid = digits()?,
                b"mtime" => self.mtime = said.map(|value| digits_before_point(value).unwrap_or(0)),
                key if key.starts_with(b"GNU.sparse.") => {
                    return Err(bad(b"", "there is a sparse file, which cannot be read"));
                }
                key => {
                    if let Some(name) = key.strip_prefix(XATTR).filter(|name| !name.is_empty() && !name.contains(&0)) {
                        self.xattrs.insert(name.to_vec(), value.to_vec());
                    }
                }
            }
        }
        Ok(())
    }
}

/// A header for all entries to come may hold remarks, and nothing that would change one.
fn nothing_for_all(text: &[u8]) -> Result<()> {
    for record in Records(text) {
        let (key, _) = record?;
        let known = [b"path".as_slice(), b"linkpath", b"size", b"uid", b"gid", b"mtime"].contains(&key);
        if known || key.starts_with(XATTR) || key.starts_with(b"GNU.sparse.") {
            return Err(bad(b"", "a header says something of all entries, which cannot be read"));
        }
    }
    Ok(())
}

/// The records of a PAX header: `LENGTH KEY=VALUE\n`, of which a value can hold anything.
struct Records<'a>(&'a [u8]);

impl<'a> Iterator for Records<'a> {
    type Item = Result<(&'a [u8], &'a [u8])>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.0.is_empty() {
            return None;
        }
        let record = self.record();
        if record.is_none() {
            self.0 = b"";
        }
        Some(record.ok_or_else(|| bad(b"", "a header is damaged")))
    }
}

impl<'a> Records<'a> {
    fn record(&mut self) -> Option<(&'a [u8], &'a [u8])> {
        let space = self.0.iter().take(20).position(|byte| *byte == b' ')?;
        let length = usize::try_from(digits(&self.0[..space])?).ok()?;
        let (record, rest) = self.0.split_at_checked(length)?;
        let record = record.get(space + 1..)?.strip_suffix(b"\n")?;
        let equals = record.iter().position(|byte| *byte == b'=')?;
        self.0 = rest;
        Some((&record[..equals], &record[equals + 1..]))
    }
}

fn digits(text: &[u8]) -> Option<u64> {
    text.iter().all(u8::is_ascii_digit).then(|| std::str::from_utf8(text).ok()?.parse().ok())?
}

fn digits_before_point(text: &[u8]) -> Option<u64> {
    digits(text.split(|byte| *byte == b'.').next()?)
}
