//! The guest's files from the host, in real machines.

mod common;

use std::os::unix::fs::{PermissionsExt, symlink};
use std::time::{Duration, Instant};

use common::home;
use mvm_runtime::command::{self, Streams};
use mvm_runtime::copy::{Limits, copy_in, copy_out};
use mvm_runtime::progress::Silent;
use mvm_runtime::run::{self, RunRequest};
use mvm_runtime::vmm::guest::Guest;
use mvm_runtime::vmm::qemu::Shape;
use mvm_runtime::{Error, ErrorCode, Home, Result};
use mvm_wire::files::{FileKind, Write};
use mvm_wire::guest::{Exec, Status};
use tokio::sync::mpsc;

const SHAPE: Shape = Shape { memory_mib: 256, cpus: 1, disk_bytes: 1 << 30 };

/// Runs a test in a machine of its own.
fn in_machine(test: impl AsyncFnOnce(&Guest)) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let request = RunRequest {
            image: "base".into(),
            shape: SHAPE,
            argv: vec![],
            env: vec![],
            secrets: Default::default(),
            no_redact: false,
            cwd: String::new(),
            user: String::new(),
            stdin: false,
            tty: None,
            no_template: false,
            policy: Default::default(),
        };
        let prepared = run::prepare(&Home::at(home()), &request, &Silent).await.unwrap();
        let ready = run::start(&prepared, &request).await.unwrap();
        tokio::time::timeout(Duration::from_secs(300), test(&ready.guest)).await.expect("no hang");
    });
}

struct Kept(Vec<u8>);

impl Streams for Kept {
    async fn stdout(&mut self, bytes: &[u8]) -> Result<()> {
        self.0.extend_from_slice(bytes);
        Ok(())
    }

    async fn stderr(&mut self, bytes: &[u8]) -> Result<()> {
        self.stdout(bytes).await
    }
}

/// What a shell script says in the machine.
async fn sh(guest: &Guest, script: &str) -> String {
    let exec = Exec { argv: ["sh", "-c", script].map(String::from).to_vec(), ..Exec::default() };
    let ((_, feed), (_keep, mut control), mut kept) = (mpsc::channel(1), mpsc::channel(1), Kept(vec![]));
    let witness = mvm_runtime::witness::Witness::new().unwrap();
    let attended = command::complete(guest, exec, None, feed, &mut control, &mut kept, &witness).await.unwrap();
    let command::Outcome::Exited(exited) = attended.outcome else { panic!("{attended:?}") };
    assert_eq!(exited.status, Status::Code(0), "{}", String::from_utf8_lossy(&kept.0));
    String::from_utf8(kept.0).unwrap()
}

async fn write(guest: &Guest, request: Write, bytes: &[u8]) -> Result<u64> {
    let mut writing = guest.write_file(request).await?;
    writing.send(bytes).await?;
    writing.finish().await
}

fn to(path: &str) -> Write {
    Write { path: path.into(), ..Write::default() }
}

async fn read(guest: &Guest, path: &str, offset: u64, len: Option<u64>) -> Result<Vec<u8>> {
    let mut reading = guest.read_file(path.as_bytes(), offset, len).await?;
    let mut bytes = Vec::new();
    while let Some(piece) = reading.next().await? {
        bytes.extend_from_slice(piece);
    }
    Ok(bytes)
}

/// Bytes that do not repeat soon.
fn pattern(len: usize) -> Vec<u8> {
    (0..len).map(|i| (i.wrapping_mul(2_654_435_761) >> 13) as u8).collect()
}

fn errno<T: std::fmt::Debug>(result: Result<T>) -> (ErrorCode, i32) {
    let error: Error = result.unwrap_err();
    (error.code, error.errno.unwrap_or(0))
}

#[test]
fn bytes_modes_and_owners_arrive_as_they_are() {
    in_machine(async |guest| {
        for len in [0, 1, 131_019, 131_020, 262_145, 64 << 20] {
            let bytes = pattern(len);
            let started = Instant::now();
            assert_eq!(write(guest, to("/tmp/file"), &bytes).await.unwrap(), len as u64);
            let wrote = started.elapsed();
            assert!(read(guest, "/tmp/file", 0, None).await.unwrap() == bytes, "{len} bytes differ");
            let rate = |time: Duration| len as f64 / 1e6 / time.as_secs_f64();
            eprintln!("{len} bytes: in {:.0} MB/s, out {:.0} MB/s", rate(wrote), rate(started.elapsed() - wrote));
        }
        assert_eq!(read(guest, "/tmp/file", 1 << 20, Some(1000)).await.unwrap(), pattern(2 << 20)[1 << 20..][..1000]);
        assert_eq!(read(guest, "/tmp/file", 1 << 40, None).await.unwrap(), b"");
        let request =
            Write { mode: Some(0o4640), owner: "user".into(), create_parents: true, sync: true, ..to("/tmp/a/b/file") };
        write(guest, request, b"abc").await.unwrap();
        write(guest, Write { append: true, ..to("/tmp/a/b/file") }, b"def").await.unwrap();
        let stat = "stat -c '%a %u %g %s' /tmp/a/b/file /tmp/a/b; cat /tmp/a/b/file; ls -A /tmp/a/b";
        assert_eq!(sh(guest, stat).await, "4640 1000 1000 6\n755 1000 1000 4096\nabcdeffile\n");
        let entry = guest.stat(b"/tmp/a/b/file", true).await.unwrap();
        assert_eq!(
            (entry.name.as_slice(), entry.kind, entry.size, entry.uid),
            (b"file".as_slice(), FileKind::File, 6, 1000)
        );
    });
}

#[test]
fn failures_keep_their_number() {
    in_machine(async |guest| {
        sh(guest, "mkdir /tmp/d /tmp/full; touch /tmp/d/f; mount -t tmpfs -o size=1m none /tmp/full; mkfifo /tmp/pipe")
            .await;
        assert_eq!(errno(read(guest, "/tmp/none", 0, None).await), (ErrorCode::NotFound, libc::ENOENT));
        assert_eq!(errno(read(guest, "/tmp/d", 0, None).await), (ErrorCode::FileError, libc::EISDIR));
        assert_eq!(errno(read(guest, "/tmp/d/f/x", 0, None).await), (ErrorCode::FileError, libc::ENOTDIR));
        assert_eq!(errno(read(guest, "/tmp/pipe", 0, None).await), (ErrorCode::FileError, libc::EOPNOTSUPP));
        assert_eq!(errno(read(guest, "/dev/zero", 0, None).await), (ErrorCode::FileError, libc::EOPNOTSUPP));
        assert_eq!(read(guest, "/dev/zero", 0, Some(10)).await.unwrap(), [0; 10]);
        assert_eq!(errno(write(guest, to("/tmp/pipe"), b"x").await), (ErrorCode::FileError, libc::EOPNOTSUPP));
        assert_eq!(errno(write(guest, to("/tmp/d"), b"x").await), (ErrorCode::FileError, libc::EISDIR));
        assert_eq!(errno(write(guest, to("/tmp/none/x"), b"x").await), (ErrorCode::NotFound, libc::ENOENT));
        assert_eq!(errno(write(guest, to("/proc/version"), b"x").await).0, ErrorCode::NotFound);
        assert_eq!(errno(guest.mkdir(b"/tmp/d", 0o755, false, "").await), (ErrorCode::AlreadyExists, libc::EEXIST));
        assert_eq!(errno(guest.remove(b"/tmp/d", false).await), (ErrorCode::FileError, libc::ENOTEMPTY));
        assert_eq!(errno(guest.remove(b"/", true).await), (ErrorCode::FileError, libc::EBUSY));
        assert_eq!(errno(guest.list_dir(b"/tmp/d/f").await), (ErrorCode::FileError, libc::ENOTDIR));
        // It fails while it is sent, long before the end, and leaves nothing.
        let full = write(guest, to("/tmp/full/x"), &pattern(8 << 20)).await;
        assert_eq!(errno(full), (ErrorCode::ResourceExhausted, libc::ENOSPC));
        assert_eq!(guest.list_dir(b"/tmp/full").await.unwrap(), []);
        let permission = write(guest, to("/sys/kernel/x"), b"x").await;
        assert!(matches!(errno(permission).1, libc::EACCES | libc::EPERM));
        let long = b"/x".repeat(2048);
        assert_eq!(guest.stat(&long, false).await.unwrap_err().code, ErrorCode::InvalidRequest);
        assert_eq!(guest.rename(b"/tmp/d", b"/tmp/../x").await.unwrap_err().code, ErrorCode::InvalidRequest);
        let nobody = write(guest, Write { owner: "nobody-here".into(), ..to("/tmp/x") }, b"").await.unwrap_err();
        assert!(nobody.to_string().contains("nobody-here"), "{nobody}");
        guest.rename(b"/tmp/d", b"/tmp/e").await.unwrap();
        guest.remove(b"/tmp/e", true).await.unwrap();
        assert_eq!(errno(guest.stat(b"/tmp/e/f", false).await), (ErrorCode::NotFound, libc::ENOENT));
    });
}

#[test]
fn a_write_that_is_given_up_leaves_the_old_file() {
    in_machine(async |guest| {
        write(guest, to("/tmp/d/file"), b"").await.unwrap_err();
        write(guest, Write { create_parents: true, ..to("/tmp/d/file") }, b"old").await.unwrap();
        let mut writing = guest.write_file(to("/tmp/d/file")).await.unwrap();
        writing.send(&pattern(1 << 20)).await.unwrap();
        assert_eq!(read(guest, "/tmp/d/file", 0, None).await.unwrap(), b"old");
        drop(writing);
        let since = Instant::now();
        while guest.list_dir(b"/tmp/d").await.unwrap().len() > 1 {
            assert!(since.elapsed() < Duration::from_secs(20), "the unfinished file is still there");
        }
        assert_eq!(read(guest, "/tmp/d/file", 0, None).await.unwrap(), b"old");
        // Reads that nobody finishes keep no thread: there are only so many.
        write(guest, to("/tmp/large"), &pattern(4 << 20)).await.unwrap();
        for _ in 0..100 {
            let mut reading = guest.read_file(b"/tmp/large", 0, None).await.unwrap();
            assert!(reading.next().await.unwrap().is_some());
        }
        assert_eq!(read(guest, "/tmp/d/file", 0, None).await.unwrap(), b"old");
    });
}

#[test]
fn large_directories_are_listed_whole() {
    in_machine(async |guest| {
        sh(guest, "mkdir /tmp/many; mount -t tmpfs -o nr_inodes=60000 none /tmp/many; cd /tmp/many; seq 1 50000 | xargs touch; ln -s $(printf '\\377') link").await;
        let entries = guest.list_dir(b"/tmp/many").await.unwrap();
        assert_eq!(entries.len(), 50_001);
        assert!(entries.is_sorted_by(|a, b| a.name < b.name));
        let link = entries.iter().find(|entry| entry.name == b"link").unwrap();
        assert_eq!((link.kind, link.target.as_deref()), (FileKind::Symlink, Some(b"\xff".as_slice())));
        sh(guest, "mkdir /tmp/many/d; cd /tmp/many; seq 1 5000 | sed s,^,d/, | xargs touch").await;
        guest.remove(b"/tmp/many/d", true).await.unwrap();
        assert_eq!(guest.list_dir(b"/tmp/many").await.unwrap().len(), 50_001);
    });
}

#[test]
fn trees_are_copied_both_ways() {
    in_machine(async |guest| {
        let host = tempfile::tempdir().unwrap();
        let tree = host.path().join("tree");
        std::fs::create_dir_all(tree.join("d/e")).unwrap();
        std::fs::write(tree.join("d/e/large"), pattern(3 << 20)).unwrap();
        std::fs::write(tree.join("run"), "x").unwrap();
        std::fs::set_permissions(tree.join("run"), std::fs::Permissions::from_mode(0o4755)).unwrap();
        symlink("d/e", tree.join("link")).unwrap();
        symlink("/etc", tree.join("absolute")).unwrap();
        let _socket = std::os::unix::net::UnixListener::bind(tree.join("socket")).unwrap();
        for _ in 0..2 {
            let report = copy_in(guest, &tree, b"/tmp/new/tree", "user", Limits::default()).await.unwrap();
            assert_eq!((report.files, report.dirs, report.links, report.skipped.len()), (2, 3, 2, 1));
        }
        let said =
            sh(guest, "cd /tmp/new/tree; stat -c '%a %U' run; readlink absolute; readlink link; stat -c %U link d")
                .await;
        assert_eq!(said, "755 user\n/etc\nd/e\nuser\nuser\n");
        sh(guest, "cd /tmp/new/tree; mkfifo pipe; ln -s ../../out d/out; chmod 6755 run; ln run hard").await;
        let back = host.path().join("back");
        let report = copy_out(guest, b"/tmp/new/tree", &back, Limits::default()).await.unwrap();
        assert_eq!((report.files, report.dirs, report.links, report.skipped.len()), (3, 3, 1, 3));
        assert!(std::fs::read(back.join("link/large")).unwrap() == pattern(3 << 20));
        assert_eq!(std::fs::metadata(back.join("run")).unwrap().permissions().mode() & 0o7777, 0o755);
        let one = copy_out(guest, b"/tmp/new/tree/run", &host.path().join("one"), Limits::default()).await.unwrap();
        assert_eq!((one.files, one.bytes), (1, 1));
    });
}
