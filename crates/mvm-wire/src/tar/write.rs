//! The one form in which entries are written: ustar, and PAX for what has no room there.

use std::io::{Result, Write};

use super::{BLOCK, Entry, Kind, MAX_HEADERS, XATTR, bad, padding};

/// Writes the headers of an entry. Its content and [`padding`] are to follow.
///
/// # Errors
///
/// `InvalidData` if it has more attributes than are read, or one whose name cannot be written; whatever the writer says.
pub fn write(writer: &mut impl Write, entry: &Entry) -> Result<()> {
    let mut path = entry.path.clone();
    match entry.kind {
        Kind::Directory if path.is_empty() => path.extend(b"./"),
        Kind::Directory => path.push(b'/'),
        _ => {}
    }
    let (kind, link, device) = match &entry.kind {
        Kind::File => (b'0', [].as_slice(), None),
        Kind::Link(target) => (b'1', target.as_slice(), None),
        Kind::Symlink(target) => (b'2', target.as_slice(), None),
        Kind::Char(major, minor) => (b'3', [].as_slice(), Some((*major, *minor))),
        Kind::Block(major, minor) => (b'4', [].as_slice(), Some((*major, *minor))),
        Kind::Directory => (b'5', [].as_slice(), None),
        Kind::Fifo => (b'6', [].as_slice(), None),
    };
    let mut records = Vec::new();
    if path.len() > 100 {
        record(&mut records, b"path", &path);
    }
    if link.len() > 100 {
        record(&mut records, b"linkpath", link);
    }
    for (name, value) in &entry.xattrs {
        if name.contains(&b'=') {
            return Err(bad(&entry.path, "the name of an attribute of it has a = in it"));
        }
        record(&mut records, &[XATTR, name].concat(), value);
    }
    let length = records.len() as u64;
    if length + BLOCK > MAX_HEADERS {
        return Err(bad(&entry.path, "it has too many attributes"));
    }
    if length > 0 {
        writer.write_all(&Header::new(b'x', b"PaxHeaders", length).finish())?;
        writer.write_all(&records)?;
        writer.write_all(&[0; BLOCK as usize][..padding(length) as usize])?;
    }
    let mut header = Header::new(kind, &path, entry.size);
    header.number(100, 8, entry.mode.into());
    header.number(108, 8, entry.uid.into());
    header.number(116, 8, entry.gid.into());
    header.number(136, 12, entry.mtime);
    header.text(157, 100, link);
    if let Some((major, minor)) = device {
        header.number(329, 8, major.into());
        header.number(337, 8, minor.into());
    }
    writer.write_all(&header.finish())
}

/// Adds a record of a PAX header, which begins with its own length.
fn record(records: &mut Vec<u8>, key: &[u8], value: &[u8]) {
    let rest = key.len() + value.len() + 3;
    let mut length = rest;
    while length != rest + length.to_string().len() {
        length = rest + length.to_string().len();
    }
    records.extend(length.to_string().bytes());
    for part in [b" ".as_slice(), key, b"=", value, b"\n"] {
        records.extend(part);
    }
}

struct Header([u8; BLOCK as usize]);

impl Header {
    fn new(kind: u8, path: &[u8], size: u64) -> Header {
        let mut header = Header([0; BLOCK as usize]);
        header.text(0, 100, path);
        header.number(124, 12, size);
        for at in [100, 108, 116] {
            header.number(at, 8, 0);
        }
        header.number(136, 12, 0);
        header.0[156] = kind;
        header.text(257, 8, b"ustar\x0000");
        header
    }

    /// As much of a text as there is room for.
    fn text(&mut self, at: usize, room: usize, text: &[u8]) {
        let text = &text[..text.len().min(room)];
        self.0[at..at + text.len()].copy_from_slice(text);
    }

    /// A number in octal digits, or, where those are too many, in GNU's bytes.
    fn number(&mut self, at: usize, room: usize, number: u64) {
        let digits = format!("{number:0width$o}", width = room - 1);
        if digits.len() < room {
            self.text(at, room, digits.as_bytes());
            return;
        }
        let bytes = number.to_be_bytes();
        let kept = bytes.len().min(room - 1);
        self.0[at] = 0x80;
        self.0[at + room - kept..at + room].copy_from_slice(&bytes[bytes.len() - kept..]);
    }

    fn finish(mut self) -> [u8; BLOCK as usize] {
        self.text(148, 8, b"        ");
        let sum: u64 = self.0.iter().map(|byte| u64::from(*byte)).sum();
        self.text(148, 8, format!("{sum:06o}\0 ").as_bytes());
        self.0
    }
}
