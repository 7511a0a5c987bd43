//! Operations on real files of the host that runs the tests.

use std::os::unix::fs::{PermissionsExt, symlink};

use mvm_wire::files::Write;
use tokio::sync::mpsc;

use super::super::write::write;
use super::*;

/// A directory that goes with the test.
struct Scratch(PathBuf);

impl Scratch {
    fn new(name: &str) -> Scratch {
        let dir = std::env::temp_dir().join(format!("mvm-agent-{name}-{}", std::process::id()));
        fs::create_dir_all(&dir).unwrap();
        Scratch(dir)
    }

    fn path(&self, name: &str) -> Vec<u8> {
        self.0.join(name).into_os_string().into_vec()
    }

    fn names(&self) -> Vec<String> {
        let names = fs::read_dir(&self.0).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap());
        let mut names: Vec<String> = names.collect();
        names.sort();
        names
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn put(request: &Write, pieces: &[&[u8]]) -> Outcome {
    let (sender, receiver) = mpsc::channel(16);
    for piece in pieces {
        sender.blocking_send(piece.to_vec()).unwrap();
    }
    drop(sender);
    write(request, receiver)
}

fn get(path: &[u8], offset: u64, len: Option<u64>) -> std::result::Result<Vec<u8>, i32> {
    let (sender, mut receiver) = mpsc::channel(1024);
    errno(read(path, offset, len, &sender))?;
    drop(sender);
    let mut bytes = Vec::new();
    while let Some(frame) = receiver.blocking_recv() {
        bytes.extend_from_slice(&frame[HEADER_LEN..]);
    }
    Ok(bytes)
}

fn errno(outcome: Outcome) -> std::result::Result<FileReply, i32> {
    outcome.map_err(|fault| match fault {
        Fault::Io(e) => e.raw_os_error().unwrap_or(0),
        Fault::User(_) => -1,
    })
}

#[test]
fn a_write_replaces_at_once_and_keeps_mode_and_links() {
    let dir = Scratch::new("replace");
    let request = Write { path: dir.path("file"), ..Write::default() };
    put(&request, &[b"old", b""]).unwrap();
    assert_eq!(fs::metadata(dir.0.join("file")).unwrap().permissions().mode() & 0o7777, 0o644);
    fs::set_permissions(dir.0.join("file"), fs::Permissions::from_mode(0o600)).unwrap();
    symlink("file", dir.0.join("link")).unwrap();
    let through = Write { path: dir.path("link"), ..Write::default() };
    put(&through, &[b"new ", b"content", b""]).unwrap();
    assert_eq!(get(&dir.path("file"), 0, None).unwrap(), b"new content");
    assert_eq!(fs::metadata(dir.0.join("file")).unwrap().permissions().mode() & 0o7777, 0o600);
    put(&Write { append: true, ..request }, &[b"!", b""]).unwrap();
    assert_eq!(get(&dir.path("file"), 4, Some(8)).unwrap(), b"content!");
    assert_eq!(dir.names(), ["file", "link"]);
}

#[test]
fn an_interrupted_write_leaves_the_old_file_and_nothing_else() {
    let dir = Scratch::new("interrupted");
    let request = Write { path: dir.path("file"), sync: true, ..Write::default() };
    put(&request, &[b"old", b""]).unwrap();
    assert!(put(&request, &[b"half of"]).is_err());
    assert_eq!(get(&request.path, 0, None).unwrap(), b"old");
    assert_eq!(dir.names(), ["file"]);
}

#[test]
fn parents_are_made_when_asked_for() {
    let dir = Scratch::new("parents");
    let request = Write { path: dir.path("a/b/file"), mode: Some(0o4750), ..Write::default() };
    assert_eq!(errno(put(&request, &[b""])), Err(libc::ENOENT));
    put(&Write { create_parents: true, ..request }, &[b""]).unwrap();
    assert_eq!(fs::metadata(dir.0.join("a/b/file")).unwrap().permissions().mode() & 0o7777, 0o4750);
    let mkdir = |path: &str, parents| {
        let owner = String::new();
        errno(perform(FileRequest::Mkdir { path: dir.path(path), mode: 0o1777, parents, owner }))
    };
    assert_eq!(mkdir("a", false), Err(libc::EEXIST));
    assert_eq!(mkdir("a", true), Ok(FileReply::Done));
    assert_eq!(mkdir("a/b/file", true), Err(libc::EEXIST));
    assert_eq!(mkdir("x/y", true), Ok(FileReply::Done));
    assert_eq!(fs::metadata(dir.0.join("x/y")).unwrap().permissions().mode() & 0o7777, 0o1777);
}

#[test]
fn pipes_and_devices_hang_nobody() {
    let dir = Scratch::new("special");
    rustix::fs::mknodat(rustix::fs::CWD, dir.0.join("pipe"), rustix::fs::FileType::Fifo, Mode::RWXU, 0).unwrap();
    assert_eq!(get(&dir.path("pipe"), 0, Some(1)), Err(libc::EOPNOTSUPP));
    let write = |path: Vec<u8>| errno(put(&Write { path, ..Write::default() }, &[b"x", b""]));
    assert_eq!(write(dir.path("pipe")), Err(libc::EOPNOTSUPP));
    assert_eq!(write(dir.path("")), Err(libc::EISDIR));
    assert_eq!(write(b"/".to_vec()), Err(libc::EISDIR));
    assert_eq!(write(b"/dev/null".to_vec()), Ok(FileReply::Written { bytes: 1 }));
    assert_eq!(get(b"/dev/zero", 0, None), Err(libc::EOPNOTSUPP));
    assert_eq!(get(b"/dev/zero", 0, Some(300_000)).unwrap(), vec![0; 300_000]);
    assert_eq!(get(&dir.path(""), 0, None), Err(libc::EISDIR));
}

#[test]
fn a_listing_names_every_entry_as_it_is() {
    let dir = Scratch::new("list");
    let odd = OsStr::from_bytes(b"\xff\n");
    fs::write(dir.0.join(odd), "abc").unwrap();
    symlink("/no\u{fe}where", dir.0.join("link")).unwrap();
    for i in 0..3000 {
        fs::write(dir.0.join(format!("file-{i}")), "").unwrap();
    }
    let (sender, mut receiver) = mpsc::channel(1024);
    assert_eq!(errno(list(&dir.path(""), &sender)), Ok(FileReply::Listed { count: 3002 }));
    drop(sender);
    let mut entries = Vec::new();
    while let Some(bytes) = receiver.blocking_recv() {
        match frame::decode::<Reply>(&bytes[HEADER_LEN..]).unwrap() {
            Reply::File(FileReply::Entries(batch)) => entries.extend(batch),
            other => panic!("{other:?}"),
        }
    }
    let find = |name: &[u8]| entries.iter().find(|entry| entry.name == name).unwrap();
    assert_eq!((find(b"\xff\n").size, find(b"\xff\n").kind), (3, FileKind::File));
    assert_eq!(find(b"link").target.as_deref(), Some("/no\u{fe}where".as_bytes()));
    assert_eq!(entries.len(), 3002);
}

#[test]
fn removal_takes_links_not_what_they_point_to() {
    let dir = Scratch::new("remove");
    fs::create_dir_all(dir.0.join("full/sub")).unwrap();
    fs::write(dir.0.join("full/sub/file"), "x").unwrap();
    symlink("full", dir.0.join("link")).unwrap();
    let remove = |path, recursive| errno(perform(FileRequest::Remove { path, recursive }));
    assert_eq!(remove(dir.path("full"), false), Err(libc::ENOTEMPTY));
    assert_eq!(remove(dir.path("link/"), true), Ok(FileReply::Done));
    assert_eq!(dir.names(), ["full"]);
    assert_eq!(remove(dir.path("full"), true), Ok(FileReply::Done));
    assert_eq!(remove(dir.path("full"), true), Err(libc::ENOENT));
    // Not tried with the real one, which a defect would remove.
    assert_eq!(path_of(b"/.//"), Path::new("/"));
}
