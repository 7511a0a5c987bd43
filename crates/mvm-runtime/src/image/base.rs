//! The image `base`: busybox and the files a Unix expects. It needs no network and takes a second to make.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::path::Path;

use mvm_wire::ErrorCode;

use super::{ImageConfig, ImageSource};
use crate::error::{Error, IoContext, Result};
use crate::progress::Progress;
use crate::tool::{self, Tool};

/// A user that is not root, the same in all of mvm's images.
pub const USER: (&str, u32) = ("user", 1000);

/// Writes the archive `base.tar` into `dir`. The same busybox gives the same bytes.
pub fn archive(dir: &Path, progress: &dyn Progress) -> Result<ImageSource> {
    progress.step("image base: packing busybox");
    let busybox = tool::find("busybox")?;
    let program = fs::read(&busybox).context(|| format!("cannot read {}", busybox.display()))?;
    if !is_static(&program) {
        return Err(Error::new(
            ErrorCode::BackendUnsupported,
            "cannot make the image base",
            "the host's busybox is not a static program",
        )
        .hint("apt-get install busybox-static"));
    }
    let applets = Tool::new("busybox")?.arg("--list-full").run(|_| {})?.0;
    let tar = dir.join("base.tar");
    let file = File::create(&tar).context(|| format!("cannot create {}", tar.display()))?;
    write(tar::Builder::new(file), &program, &applets).context(|| format!("cannot write {}", tar.display()))?;
    let config = ImageConfig {
        entrypoint: vec!["/bin/sh".into()],
        warm: vec![vec!["true".into()], vec!["/bin/sh".into(), "-c".into(), "true; /bin/true; cat /dev/null".into()]],
        ..ImageConfig::default()
    };
    Ok(ImageSource { name: "base".into(), tar, config, entries: 0 })
}

/// A program without an interpreter needs no libraries.
fn is_static(elf: &[u8]) -> bool {
    const PT_INTERP: u32 = 3;
    let word =
        |at: usize, len: usize| elf.get(at..at + len).map(|b| b.iter().rev().fold(0u64, |n, b| n << 8 | u64::from(*b)));
    let (Some(offset), Some(size), Some(count)) = (word(0x20, 8), word(0x36, 2), word(0x38, 2)) else { return false };
    elf.starts_with(b"\x7fELF\x02")
        && (0..count).all(|i| word((offset + i * size) as usize, 4).is_some_and(|kind| kind != u64::from(PT_INTERP)))
}

fn write(mut tar: tar::Builder<File>, busybox: &[u8], applets: &str) -> std::io::Result<()> {
    let (user, uid) = USER;
    let home = format!("home/{user}");
    let passwd = format!(
        "root:x:0:0:root:/root:/bin/sh\n{user}:x:{uid}:{uid}::/home/{user}:/bin/sh\nnobody:x:65534:65534::/:/bin/false\n"
    );
    let group = format!("root:x:0:\ntty:x:5:\n{user}:x:{uid}:\nnogroup:x:65534:\n");
    let directories = [
        ("bin", 0o755),
        ("dev", 0o755),
        ("etc", 0o755),
        ("home", 0o755),
        (&home, 0o755),
        ("mnt", 0o755),
        ("proc", 0o555),
        ("root", 0o700),
        ("run", 0o755),
        ("sbin", 0o755),
        ("sys", 0o555),
        ("tmp", 0o1777),
        ("usr", 0o755),
        ("usr/bin", 0o755),
        ("usr/sbin", 0o755),
        ("usr/share", 0o755),
        ("var", 0o755),
        ("var/tmp", 0o1777),
    ];
    let files = [
        ("etc/passwd", passwd.as_str()),
        ("etc/group", group.as_str()),
        ("etc/hosts", "127.0.0.1 localhost\n::1 localhost\n"),
        ("etc/machine-id", ""),
        ("etc/os-release", "NAME=\"mvm base\"\nID=mvm-base\nPRETTY_NAME=\"mvm base (busybox)\"\n"),
        ("etc/profile", "export PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin\n"),
    ];
    // By path: what is in a directory comes right behind it.
    let mut entries = BTreeMap::from([("bin/busybox", Content::File(0o755, busybox))]);
    entries.extend(directories.map(|(path, mode)| (path, Content::Directory(mode))));
    entries.extend(files.map(|(path, text)| (path, Content::File(0o644, text.as_bytes()))));
    for path in applets.lines().filter(|path| path.contains('/')) {
        entries.entry(path).or_insert(Content::Link("/bin/busybox"));
    }
    for (path, content) in entries {
        let owner = if path == home { uid } else { 0 };
        match content {
            Content::Directory(mode) => {
                tar.append_data(&mut header(tar::EntryType::Directory, mode, owner, 0), path, &[][..])?;
            }
            Content::File(mode, bytes) => {
                tar.append_data(&mut header(tar::EntryType::Regular, mode, owner, bytes.len()), path, bytes)?;
            }
            Content::Link(target) => {
                tar.append_link(&mut header(tar::EntryType::Symlink, 0o777, owner, 0), path, target)?;
            }
        }
    }
    tar.into_inner()?.sync_all()
}

/// What is at a path, with its mode.
enum Content<'a> {
    Directory(u32),
    File(u32, &'a [u8]),
    Link(&'static str),
}

fn header(kind: tar::EntryType, mode: u32, owner: u32, len: usize) -> tar::Header {
    let mut header = tar::Header::new_gnu();
    header.set_entry_type(kind);
    header.set_mode(mode);
    header.set_uid(owner.into());
    header.set_gid(owner.into());
    header.set_size(len as u64);
    header.set_mtime(0);
    header
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_archive_is_the_same_every_time() {
        let dir = tempfile::tempdir().unwrap();
        let make = |name: &str| {
            let path = dir.path().join(name);
            write(tar::Builder::new(File::create(&path).unwrap()), b"program", "bin/ls\nbin/busybox\nusr/bin/id\n")
                .unwrap();
            fs::read(path).unwrap()
        };
        let bytes = make("a");
        assert_eq!(bytes, make("b"));
        let mut archive = tar::Archive::new(bytes.as_slice());
        let entries: Vec<(String, u32)> = archive
            .entries()
            .unwrap()
            .map(|e| e.unwrap())
            .map(|e| (e.path().unwrap().display().to_string(), e.header().mode().unwrap()))
            .collect();
        assert!(entries.contains(&("tmp".into(), 0o1777)));
        assert!(entries.contains(&("usr/bin/id".into(), 0o777)));
        assert_eq!(entries.iter().filter(|(path, _)| path == "bin/busybox").count(), 1);
    }

    #[test]
    fn programs_with_an_interpreter_are_not_static() {
        assert!(!is_static(b"#!/bin/sh"));
        assert!(!is_static(&fs::read("/bin/sh").unwrap()));
        assert!(is_static(crate::agent::PROGRAM));
    }

    #[test]
    fn the_hosts_busybox_becomes_an_image() {
        let dir = tempfile::tempdir().unwrap();
        let make = || archive(dir.path(), &crate::progress::Silent).unwrap();
        let (first, second) = (crate::image::digest(&make()).unwrap(), crate::image::digest(&make()).unwrap());
        assert_eq!(first, second);
        // Unpacked and run: the shell, an applet behind a link, the user.
        let root = dir.path().join("root");
        fs::create_dir(&root).unwrap();
        let mut tar = tar::Archive::new(File::open(dir.path().join("base.tar")).unwrap());
        tar.unpack(&root).unwrap();
        assert_eq!(fs::read_link(root.join("bin/ls")).unwrap(), Path::new("/bin/busybox"));
        assert!(fs::read_to_string(root.join("etc/passwd")).unwrap().contains("user:x:1000:1000::/home/user:"));
        let printed = Tool::new("sh")
            .unwrap()
            .args(["-c", "exec \"$0\" sh -c 'echo works'"])
            .arg(root.join("bin/busybox"))
            .run(|_| {});
        assert_eq!(printed.unwrap().0, "works\n");
    }
}
