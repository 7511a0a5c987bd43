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
    for dir in ["dev", "proc", "sys", "run", "newroot", "tmp", "modules"] {
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

    /// Name, mode, device and content.
    type Entry = (String, u32, (u32, u32), Vec<u8>);

    /// The entries up to the trailer.
    fn entries(archive: &[u8]) -> Vec<Entry> {
        let mut found = Vec::new();
        let mut at = 0;
        loop {
            assert_eq!(&archive[at..at + 6], b"070701");
            let field = |n: usize| {
                let text = std::str::from_utf8(&archive[at + 6 + n * 8..at + 14 + n * 8]).unwrap();
                u32::from_str_radix(text, 16).unwrap()
            };
            let name_end = at + 110 + field(11) as usize;
            let name = String::from_utf8(archive[at + 110..name_end - 1].to_vec()).unwrap();
            assert_eq!(archive[name_end - 1], 0);
            let (mode, device) = (field(1), (field(9), field(10)));
            let start = name_end.next_multiple_of(4);
            let end = start + field(6) as usize;
            at = end.next_multiple_of(4);
            if name == "TRAILER!!!" {
                assert_eq!(at, archive.len());
                return found;
            }
            found.push((name, mode, device, archive[start..end].to_vec()));
        }
    }

    #[test]
    fn it_holds_the_agent_the_modules_in_order_and_a_console() {
        let dir = tempfile::tempdir().unwrap();
        let modules: Vec<_> = ["00-virtio.ko", "01-ext4.ko"].map(|name| dir.path().join(name)).to_vec();
        modules.iter().for_each(|path| fs::write(path, "odd").unwrap());
        let kernel = Kernel::sample(modules);
        let archive = initramfs(b"agent", &kernel).unwrap();
        assert_eq!(archive, initramfs(b"agent", &kernel).unwrap(), "the same input gives the same bytes");
        let entries = entries(&archive);
        let entry = |name: &str| entries.iter().find(|entry| entry.0 == name).unwrap();
        assert_eq!(entry("mvm-agent"), &("mvm-agent".into(), PROGRAM, (0, 0), b"agent".to_vec()));
        assert_eq!(entry("dev/console"), &("dev/console".into(), CHARACTER_DEVICE, (5, 1), vec![]));
        assert_eq!(entry("modules/order").3, b"00-virtio.ko\n01-ext4.ko\n");
        assert_eq!(entry("modules/01-ext4.ko"), &("modules/01-ext4.ko".into(), FILE, (0, 0), b"odd".to_vec()));
        for dir in ["dev", "proc", "sys", "run", "newroot", "tmp"] {
            assert_eq!(entry(dir).1, DIRECTORY);
        }
    }
}
