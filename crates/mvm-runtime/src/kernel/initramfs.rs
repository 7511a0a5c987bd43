//! The first file system of a guest: the agent, the modules and nothing else, as a `newc` cpio archive.

use std::fs;

use super::Kernel;
use crate::error::{IoContext, Result};

const DIRECTORY: u32 = 0o040_755;
const PROGRAM: u32 = 0o100_755;
const FILE: u32 = 0o100_644;
const CHARACTER_DEVICE: u32 = 0o020_600;

/// The archive. The same input gives the same bytes.
pub fn initramfs(agent: &[u8], kernel: &Kernel) -> Result<Vec<u8>> {
    let mut archive = Archive::default();
    for dir in ["dev", "proc", "sys", "run", "newroot", "modules"] {
        archive.entry(dir, DIRECTORY, &[], (0, 0));
    }
    // The kernel opens it for the first process before anything is mounted.
    archive.entry("dev/console", CHARACTER_DEVICE, &[], (5, 1));
    archive.entry("mvm-agent", PROGRAM, agent, (0, 0));
    let mut order = String::new();
    for path in &kernel.modules {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        let content = fs::read(path).context(|| format!("cannot read {}", path.display()))?;
        archive.entry(&format!("modules/{name}"), FILE, &content, (0, 0));
        order.push_str(&name);
        order.push('\n');
    }
    archive.entry("modules/order", FILE, order.as_bytes(), (0, 0));
    archive.entry("TRAILER!!!", 0, &[], (0, 0));
    Ok(archive.bytes)
}

#[derive(Default)]
struct Archive {
    bytes: Vec<u8>,
    entries: u32,
}

impl Archive {
    fn entry(&mut self, name: &str, mode: u32, content: &[u8], device: (u32, u32)) {
        self.entries += 1;
        let links = 1;
        // inode, mode, uid, gid, links, mtime, size, device, device number, name length, checksum
        let (size, name_len) = (content.len() as u32, name.len() as u32 + 1);
        let fields = [self.entries, mode, 0, 0, links, 0, size, 0, 0, device.0, device.1, name_len, 0];
        self.bytes.extend(b"070701");
        fields.iter().for_each(|field| self.bytes.extend(format!("{field:08x}").bytes()));
        self.bytes.extend(name.bytes());
        self.bytes.push(0);
        self.pad();
        self.bytes.extend(content);
        self.pad();
    }

    fn pad(&mut self) {
        self.bytes.resize(self.bytes.len().next_multiple_of(4), 0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_archive_is_aligned_and_ends_with_its_trailer() {
        let mut archive = Archive::default();
        archive.entry("ab", FILE, b"xyz", (0, 0));
        archive.entry("TRAILER!!!", 0, &[], (0, 0));
        assert_eq!(archive.bytes.len() % 4, 0);
        assert_eq!(&archive.bytes[..6], b"070701");
        assert_eq!(&archive.bytes[110..113], b"ab\0");
        assert_eq!(&archive.bytes[116..119], b"xyz", "the header and name take a multiple of four bytes: 110 + 3 + 3");
        assert!(archive.bytes.windows(10).any(|w| w == b"TRAILER!!!"));
    }
}
