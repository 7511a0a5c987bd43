//! The ELF kernel inside a bzImage. A machine that starts it directly needs no decompressor, which under emulation is
//! a fifth of a boot. What is lost with it is the random kernel address; that hides nothing here, as all clones of one
//! template share theirs anyway.

use std::fs;
use std::path::Path;

use crate::error::{IoContext, Result};
use crate::tool::Tool;

/// The kinds of compression, by their first bytes, and the program that undoes each.
const COMPRESSIONS: [(&[u8], &str); 4] =
    [(b"\x02\x21\x4c\x18", "lz4"), (b"\x28\xb5\x2f\xfd", "zstd"), (b"\xfd7zXZ", "xz"), (b"\x1f\x8b", "gzip")];

/// Whether a file is a bzImage.
pub fn is_bzimage(file: &[u8]) -> bool {
    file.get(0x202..0x206) == Some(b"HdrS")
}

/// The program that unpacks this bzImage, if one is needed that we know.
pub fn unpacker(bzimage: &[u8]) -> Option<&'static str> {
    payload(bzimage).map(|payload| payload.program)
}

/// Unpacks the kernel. `None` if it is not one that QEMU can start directly. `scratch` is a directory to work in.
pub fn extract(bzimage: &[u8], scratch: &Path) -> Result<Option<Vec<u8>>> {
    let Some(payload) = payload(bzimage) else { return Ok(None) };
    let packed = scratch.join("payload");
    fs::write(&packed, payload.packed).context(|| format!("cannot write {}", packed.display()))?;
    let kernel = Tool::new(payload.program)?.arg("-dc").arg(&packed).bytes();
    fs::remove_file(&packed).context(|| format!("cannot remove {}", packed.display()))?;
    Ok(kernel.ok().filter(|kernel| kernel.len() == payload.size && has_direct_entry(kernel)))
}

struct Payload<'a> {
    program: &'static str,
    packed: &'a [u8],
    size: usize,
}

/// Finds the payload as the boot protocol describes it (2.08 and later; its fields `payload_offset`, `payload_length`).
fn payload(image: &[u8]) -> Option<Payload<'_>> {
    if !is_bzimage(image) || number(image, 0x206, 2)? < 0x208 {
        return None;
    }
    let setup_sectors = match number(image, 0x1f1, 1)? {
        0 => 4,
        sectors => sectors,
    };
    let start = (setup_sectors + 1) * 512 + number(image, 0x248, 4)?;
    let payload = image.get(start..)?.get(..number(image, 0x24c, 4)?)?;
    let (_, program) = COMPRESSIONS.iter().find(|(magic, _)| payload.starts_with(magic))?;
    // The last four bytes are the unpacked size. gzip has them in its own format; to the others they are appended.
    let end = payload.len().checked_sub(4)?;
    let packed = if *program == "gzip" { payload } else { &payload[..end] };
    Some(Payload { program, packed, size: number(payload, end, 4)? })
}

/// Whether QEMU can start this ELF file: 64-bit, with the note that names its entry point for virtual machines (PVH).
pub fn has_direct_entry(elf: &[u8]) -> bool {
    const PT_NOTE: usize = 4;
    let headers = || Some((number(elf, 0x20, 8)?, number(elf, 0x36, 2)?, number(elf, 0x38, 2)?));
    let Some((offset, size, count)) = headers().filter(|_| elf.starts_with(b"\x7fELF\x02\x01")) else { return false };
    (0..count).any(|index| {
        let segment = || {
            let header = offset.checked_add(index.checked_mul(size)?)?;
            let note = number(elf, header, 4)? == PT_NOTE;
            let (start, len) = (number(elf, header + 8, 8)?, number(elf, header + 32, 8)?);
            note.then_some(elf.get(start..)?.get(..len)?)
        };
        segment().is_some_and(|notes| notes_have_entry(notes).unwrap_or(false))
    })
}

fn notes_have_entry(mut notes: &[u8]) -> Option<bool> {
    const XEN_ELFNOTE_PHYS32_ENTRY: usize = 18;
    while !notes.is_empty() {
        let (name_len, len, kind) = (number(notes, 0, 4)?, number(notes, 4, 4)?, number(notes, 8, 4)?);
        let name = notes.get(12..)?.get(..name_len)?;
        if name == b"Xen\0" && kind == XEN_ELFNOTE_PHYS32_ENTRY {
            return Some(true);
        }
        notes = notes.get(12 + name_len.next_multiple_of(4) + len.next_multiple_of(4)..)?;
    }
    Some(false)
}

/// A little-endian number of `len` bytes.
fn number(bytes: &[u8], at: usize, len: usize) -> Option<usize> {
    let bytes = bytes.get(at..)?.get(..len)?;
    usize::try_from(bytes.iter().rev().fold(0u64, |number, byte| number << 8 | u64::from(*byte))).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A 64-bit ELF file with one note segment.
    fn elf(kind: u32) -> Vec<u8> {
        let mut elf = vec![0; 64 + 56];
        elf[..6].copy_from_slice(b"\x7fELF\x02\x01");
        elf[0x20] = 64;
        elf[0x36] = 56;
        elf[0x38] = 1;
        elf[64] = 4;
        elf[64 + 8] = 120;
        elf[64 + 32] = 20;
        for word in [4, 4, kind] {
            elf.extend(u32::to_le_bytes(word));
        }
        elf.extend(b"Xen\0\x50\x08\0\0");
        elf
    }

    fn bzimage(payload: &[u8]) -> Vec<u8> {
        let mut image = vec![0; 1024];
        image[0x1f1] = 1;
        image[0x202..0x208].copy_from_slice(b"HdrS\x0f\x02");
        image[0x24c..0x250].copy_from_slice(&(payload.len() as u32).to_le_bytes());
        image.extend(payload);
        image
    }

    fn gzip(content: &[u8]) -> Vec<u8> {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("f"), content).unwrap();
        Tool::new("gzip").unwrap().args(["-nc"]).arg(dir.path().join("f")).bytes().unwrap()
    }

    #[test]
    fn a_kernel_with_a_direct_entry_is_unpacked() {
        let dir = tempfile::tempdir().unwrap();
        let image = bzimage(&gzip(&elf(18)));
        assert_eq!(unpacker(&image), Some("gzip"));
        assert_eq!(extract(&image, dir.path()).unwrap(), Some(elf(18)));
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
    }

    #[test]
    fn what_cannot_be_started_directly_stays_packed() {
        let dir = tempfile::tempdir().unwrap();
        let mut wrong_size = gzip(&elf(18));
        *wrong_size.last_mut().unwrap() = 1;
        for payload in [gzip(&elf(17)), gzip(b"no ELF file"), wrong_size, b"\x1f\x8bbroken".to_vec(), b"???".to_vec()] {
            assert_eq!(extract(&bzimage(&payload), dir.path()).unwrap(), None);
        }
        assert_eq!(extract(b"no bzImage", dir.path()).unwrap(), None);
    }

    #[test]
    fn cut_files_are_no_kernels_and_no_panics() {
        for len in 0..elf(18).len() {
            assert!(!has_direct_entry(&elf(18)[..len.min(137)]), "{len}");
        }
        let image = bzimage(&gzip(&elf(18)));
        for len in 0..image.len() {
            assert!(payload(&image[..len]).is_none());
        }
    }
}
