//! Attacks by listings that no honest guest sends, without a guest.

use std::collections::HashMap;
use std::os::unix::fs::{FileTypeExt, PermissionsExt, symlink};
use std::path::PathBuf;

use proptest::prelude::*;
use tempfile::TempDir;

use super::*;

/// A guest that says what the test wants.
#[derive(Debug, Default)]
struct Fake {
    dirs: HashMap<Vec<u8>, Vec<Entry>>,
    content: Vec<u8>,
}

impl Fake {
    fn new(listings: &[(&str, Vec<Entry>)]) -> Fake {
        let dirs = listings.iter().map(|(path, entries)| (path.as_bytes().to_vec(), entries.clone())).collect();
        Fake { dirs, content: b"evil".to_vec() }
    }
}

impl Source for Fake {
    async fn stat(&self, _: &[u8]) -> Result<Entry> {
        Ok(entry(b"top", FileKind::Directory))
    }

    async fn list(&self, path: &[u8]) -> Result<Vec<Entry>> {
        Ok(self.dirs.get(path).or(self.dirs.get(b"*".as_slice())).cloned().unwrap_or_default())
    }

    async fn read(&self, _: &[u8], pieces: mpsc::Sender<Vec<u8>>) -> Result<()> {
        let _ = pieces.send(self.content.clone()).await;
        Ok(())
    }
}

fn entry(name: &[u8], kind: FileKind) -> Entry {
    Entry { name: name.to_vec(), kind, size: 0, mode: 0o6777, uid: 0, gid: 0, mtime_ns: 0, target: None }
}

fn dir(name: &str) -> Entry {
    entry(name.as_bytes(), FileKind::Directory)
}

fn file(name: &str) -> Entry {
    entry(name.as_bytes(), FileKind::File)
}

fn link(name: &str, target: &str) -> Entry {
    Entry { target: Some(target.into()), ..entry(name.as_bytes(), FileKind::Symlink) }
}

/// A destination `copy` beside a directory that nobody may touch.
struct Place {
    root: TempDir,
}

impl Place {
    fn new() -> Place {
        let root = tempfile::tempdir().unwrap();
        std::fs::create_dir(root.path().join("outside")).unwrap();
        Place { root }
    }

    fn at(&self, path: &str) -> PathBuf {
        self.root.path().join(path)
    }

    fn copy(&self, source: &Fake, limits: Limits) -> Result<Report> {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(copy_out(source, b"/top", &self.at("copy"), limits))
    }

    fn run(&self, listings: &[(&str, Vec<Entry>)]) -> Result<Report> {
        self.copy(&Fake::new(listings), Limits::default())
    }

    /// Nothing came into being beside the destination, and no work of ours is left in it.
    fn check(&self) {
        let names = |dir: PathBuf| std::fs::read_dir(dir).unwrap().map(|e| e.unwrap().file_name()).collect::<Vec<_>>();
        assert!(names(self.at("outside")).is_empty());
        assert!(names(self.root.path().into()).iter().all(|name| name == "outside" || name == "copy"));
        if self.at("copy").exists() {
            assert!(names(self.at("copy")).iter().all(|name| !name.to_string_lossy().starts_with(".mvm-")));
        }
    }
}

#[test]
fn an_honest_tree_arrives_without_its_special_bits() {
    let place = Place::new();
    let listings = [
        ("/top", vec![dir("d"), file("f"), link("l", "d/g")]),
        ("/top/d", vec![file("g"), link("up", "../f"), link("out", "../../outside")]),
    ];
    let report = place.run(&listings).unwrap();
    assert_eq!((report.files, report.dirs, report.links, report.bytes), (2, 2, 2, 8));
    assert_eq!(report.skipped.iter().map(|s| s.path.as_slice()).collect::<Vec<_>>(), [b"/top/d/out"]);
    assert_eq!(std::fs::read(place.at("copy/l")).unwrap(), b"evil");
    let mode = std::fs::metadata(place.at("copy/f")).unwrap().permissions().mode();
    assert_eq!(mode & 0o7000, 0);
    // Once more over the same: files are replaced, links are as they were.
    assert_eq!(place.run(&listings).unwrap(), report);
    place.check();
}

#[test]
fn bad_names_end_the_copy() {
    for name in ["..", ".", "", "../x", "/etc/x", "a/b", "a\0b"] {
        for kind in [FileKind::File, FileKind::Directory] {
            let place = Place::new();
            let error = place.run(&[("/top", vec![entry(name.as_bytes(), kind)])]).unwrap_err();
            assert_eq!(error.code, ErrorCode::TransportError, "{name:?}");
            place.check();
        }
    }
}

#[test]
fn nothing_is_written_through_a_link_of_the_guest() {
    let place = Place::new();
    let outside = place.at("outside");
    let to_outside = outside.to_str().unwrap();
    // The same name twice, in either order: a link, then a directory to write into.
    for second in [dir("a"), file("a")] {
        for entries in [vec![link("a", to_outside), second.clone()], vec![second.clone(), link("a", to_outside)]] {
            assert!(place.run(&[("/top", entries), ("/top/a", vec![file("x")])]).is_err());
            place.check();
        }
    }
    // Links of one level that lead out together: `c` is inside by its words, `self` makes it longer than it looks.
    let entries = vec![link("self", "."), link("c", "self/self/../../outside"), link("abs", to_outside)];
    let report = place.run(&[("/top", entries)]).unwrap();
    assert_eq!((report.links, report.skipped.len()), (1, 2));
    place.check();
}

#[test]
fn what_lies_in_the_destination_is_not_followed() {
    let place = Place::new();
    std::fs::create_dir(place.at("copy")).unwrap();
    symlink(place.at("outside"), place.at("copy/a")).unwrap();
    std::fs::write(place.at("copy/f"), "mine").unwrap();
    for entries in [vec![dir("a")], vec![file("a")], vec![link("a", "b")], vec![dir("f")], vec![link("f", "b")]] {
        let result = place.run(&[("/top", entries.clone()), ("/top/a", vec![file("x")])]);
        let error = result.expect_err(&format!("{entries:?}"));
        assert!(error.to_string().contains("there already"), "{error}");
        place.check();
    }
    assert_eq!(std::fs::read(place.at("copy/f")).unwrap(), b"mine");
    // A hard link to it keeps the old content: the copy is another file.
    std::fs::hard_link(place.at("copy/f"), place.at("copy/mine")).unwrap();
    place.run(&[("/top", vec![file("f")])]).unwrap();
    assert_eq!(std::fs::read(place.at("copy/mine")).unwrap(), b"mine");
    assert_eq!(std::fs::read(place.at("copy/f")).unwrap(), b"evil");
}

#[test]
fn devices_pipes_and_sockets_are_left_out() {
    let place = Place::new();
    let kinds = [FileKind::Fifo, FileKind::Socket, FileKind::CharDevice, FileKind::BlockDevice, FileKind::Unknown];
    let entries = kinds.iter().enumerate().map(|(i, kind)| entry(&[b'a' + i as u8], *kind)).collect();
    let report = place.run(&[("/top", entries)]).unwrap();
    assert_eq!(report.skipped.len(), 5);
    for item in std::fs::read_dir(place.at("copy")).unwrap() {
        assert!(!item.unwrap().file_type().unwrap().is_fifo());
    }
}

#[test]
fn endless_trees_and_files_come_to_an_end() {
    let place = Place::new();
    let endless = Fake::new(&[("*", vec![dir("d")])]);
    let error = place.copy(&endless, Limits::default()).unwrap_err();
    assert!(error.to_string().contains("deep"), "{error}");
    let wide = Fake::new(&[("*", vec![dir("a"), dir("b"), dir("c")])]);
    let limits = Limits { entries: 1000, ..Limits::default() };
    assert_eq!(place.copy(&wide, limits).unwrap_err().code, ErrorCode::ResourceExhausted);
    let place = Place::new();
    let large = Fake { content: vec![0; 1 << 20], ..Fake::new(&[("/top", vec![file("a"), file("b")])]) };
    let limits = Limits { bytes: (1 << 20) + 1, ..Limits::default() };
    assert_eq!(place.copy(&large, limits).unwrap_err().code, ErrorCode::ResourceExhausted);
    assert!(place.at("copy/a").exists() && !place.at("copy/b").exists());
    place.check();
}

#[test]
fn links_are_judged_by_where_they_may_lead() {
    for (target, depth) in [("a", 0), ("a/b", 0), ("./a", 0), ("..", 1), ("../a", 1), ("../../a/b", 2), (".", 0)] {
        assert!(stays_inside(target.as_bytes(), depth), "{target} at {depth}");
    }
    for (target, depth) in [
        ("", 0),
        ("/", 9),
        ("/a", 9),
        ("..", 0),
        ("../a", 0),
        ("./../a", 0),
        ("../../a", 1),
        ("a/..", 5),
        ("a/../../b", 5),
    ] {
        assert!(!stays_inside(target.as_bytes(), depth), "{target} at {depth}");
    }
}

/// Any tree of few names, in which links point at each other and out.
fn any_entries() -> impl Strategy<Value = Vec<Entry>> {
    let name = prop_oneof![Just("a"), Just("b"), Just("A"), Just("c"), Just(".."), Just("a/b")];
    let target =
        prop_oneof![Just("a"), Just(".."), Just("../.."), Just("b/../../outside"), Just("../outside"), Just(".")];
    let one = (name, target, 0..3).prop_map(|(name, target, kind)| match kind {
        0 => dir(name),
        1 => file(name),
        _ => link(name, target),
    });
    proptest::collection::vec(one, 0..4)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]
    #[test]
    fn no_tree_gets_out(top in any_entries(), a in any_entries(), b in any_entries(), below in any_entries()) {
        let place = Place::new();
        // Twice: the second copy meets what the first has made.
        for (first, second) in [(&a, &b), (&b, &a)] {
            let listings = [
                ("/top", top.clone()),
                ("/top/a", first.clone()),
                ("/top/b", second.clone()),
                ("/top/a/a", below.clone()),
                ("/top/a/c", below.clone()),
            ];
            let _ = place.run(&listings);
            place.check();
        }
        // Whatever was made, no way through it leads out.
        let inside = std::fs::canonicalize(place.root.path()).unwrap().join("copy");
        for path in ["a", "b", "c", "A", "a/a", "a/b", "b/a", "b/b", "a/a/a", "a/c/b", "b/a/c"] {
            if let Ok(real) = std::fs::canonicalize(inside.join(path)) {
                prop_assert!(real.starts_with(&inside), "{path} leads to {}", real.display());
            }
        }
    }
}
