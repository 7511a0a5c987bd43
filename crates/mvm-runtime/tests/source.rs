//! Source trees: what patterns take of them, and what is refused.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;

use mvm_runtime::source::{Patterns, Tree, read};
use mvm_runtime::{Error, ErrorCode};

/// A directory with these files, each of which holds its own path.
fn tree(paths: &[&str]) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    for path in paths {
        let file = dir.path().join(path);
        fs::create_dir_all(file.parent().unwrap()).unwrap();
        fs::write(file, path).unwrap();
    }
    dir
}

fn patterns(include: &[&str], exclude: &[&str]) -> Patterns {
    let owned = |patterns: &[&str]| patterns.iter().map(|&pattern| pattern.to_owned()).collect::<Vec<_>>();
    Patterns::new(&owned(include), &owned(exclude)).unwrap()
}

fn taken(dir: &Path, include: &[&str], exclude: &[&str]) -> Vec<String> {
    read(dir, Path::new("."), &patterns(include, exclude), None)
        .unwrap()
        .files
        .into_iter()
        .map(|file| file.path)
        .collect()
}

fn refused(dir: &Path) -> Error {
    read(dir, Path::new(""), &patterns(&[], &[]), None).unwrap_err()
}

#[test]
fn patterns_choose_among_all_files() {
    let paths = [
        ".git/config",
        ".hidden",
        "a.py",
        "a/b.py",
        "a/c.txt",
        "a/tests/d.py",
        "node_modules/x/e.js",
        "tests/f.py",
        "x/__pycache__/g.pyc",
    ];
    let dir = tree(&paths);
    let taken = |include: &[&str], exclude: &[&str]| taken(dir.path(), include, exclude);
    assert_eq!(taken(&[], &[]), [".hidden", "a/b.py", "a/c.txt", "a/tests/d.py", "a.py", "tests/f.py"]);
    assert_eq!(taken(&["*.py"], &[]), ["a.py"]);
    assert_eq!(taken(&["**/*.py"], &[]), ["a/b.py", "a/tests/d.py", "a.py", "tests/f.py"]);
    assert_eq!(taken(&["**/*.py"], &["**/tests"]), ["a/b.py", "a.py"]);
    assert_eq!(taken(&["**/*.py"], &["tests/**"]), ["a/b.py", "a/tests/d.py", "a.py"]);
    assert_eq!(taken(&["a/*.{py,txt}"], &["a/c*"]), ["a/b.py"]);
    // What tools make is taken if it is named.
    assert_eq!(taken(&["node_modules/**"], &[]), ["node_modules/x/e.js"]);
    assert_eq!(taken(&["none"], &[]), [""; 0]);
    assert!(Patterns::new(&["a[".to_owned()], &[]).err().unwrap().contains("a["));
}

#[test]
fn a_tree_is_the_same_wherever_and_whenever_it_is() {
    let files = |dir: &Path| -> Tree { read(dir, Path::new(""), &patterns(&[], &[]), None).unwrap() };
    let (one, other) = (tree(&["b", "a/c", "ä"]), tree(&["ä", "a/c", "b"]));
    fs::set_permissions(one.path().join("b"), fs::Permissions::from_mode(0o600)).unwrap();
    fs::File::open(other.path().join("b")).unwrap().set_modified(std::time::UNIX_EPOCH).unwrap();
    assert_eq!(files(one.path()).files, files(other.path()).files);
    let taken = files(one.path());
    assert_eq!(taken.contents[&taken.files[0].content.sha256], b"a/c");
    fs::set_permissions(one.path().join("b"), fs::Permissions::from_mode(0o700)).unwrap();
    assert!(files(one.path()).files.iter().any(|file| file.executable && file.path == "b"));
}

#[test]
fn what_is_being_made_of_it_is_left_out() {
    let dir = tree(&["a", "out/workload.json"]);
    let taken = read(dir.path(), Path::new(""), &patterns(&[], &[]), Some(&dir.path().join("./out"))).unwrap();
    assert_eq!(taken.files.len(), 1);
    assert_eq!(read(dir.path(), Path::new(""), &patterns(&[], &[]), Some(Path::new("/out"))).unwrap().files.len(), 2);
}

#[test]
fn what_is_no_file_is_refused_unless_it_is_left_out() {
    let dir = tree(&["a/b"]);
    symlink("/etc/passwd", dir.path().join("a/link")).unwrap();
    let error = refused(dir.path());
    assert_eq!(
        (error.code, error.why.as_str()),
        (ErrorCode::InvalidRequest, "a/link: it is a symbolic link, and a workload has none")
    );
    assert_eq!(taken(dir.path(), &[], &["a/link"]), ["a/b"]);
    fs::remove_file(dir.path().join("a/link")).unwrap();
    symlink("/etc", dir.path().join("a/etc")).unwrap();
    assert!(refused(dir.path()).why.contains("a/etc: it is a symbolic link"));
    fs::remove_file(dir.path().join("a/etc")).unwrap();
    let _socket = std::os::unix::net::UnixListener::bind(dir.path().join("socket")).unwrap();
    assert!(refused(dir.path()).why.contains("socket: it is a device"));
    assert_eq!(refused(&dir.path().join("none")).code, ErrorCode::NotFound);
    let beneath = |path: &str| read(dir.path(), Path::new(path), &patterns(&["b"], &[]), None);
    assert_eq!(beneath("./a/").unwrap().files[0].path, "b");
    symlink("a", dir.path().join("away")).unwrap();
    for (path, why) in
        [("..", "leads out"), ("a/../..", "leads out"), ("/etc", "leads out"), ("away", "no directory"), ("no", "")]
    {
        assert!(beneath(path).unwrap_err().why.contains(why), "{path}");
    }
    assert!(refused(&dir.path().join("a/b")).why.contains("directory"));
}

#[test]
fn trees_are_bounded() {
    let dir = tree(&["big"]);
    fs::File::options().write(true).open(dir.path().join("big")).unwrap().set_len(257 << 20).unwrap();
    assert_eq!(refused(dir.path()).code, ErrorCode::ResourceExhausted);
    let dir = tree(&["f"]);
    fs::create_dir_all(dir.path().join("d/".repeat(70))).unwrap();
    assert!(refused(dir.path()).why.contains("64 directories deep"));
    let dir = tree(&[]);
    let files = |range: std::ops::RangeInclusive<u32>| {
        range.for_each(|number| drop(fs::File::create(dir.path().join(number.to_string())).unwrap()));
    };
    files(0..=20_000);
    assert_eq!(refused(dir.path()).code, ErrorCode::ResourceExhausted);
    // Of those that are left out, too, nobody would see that some are missing.
    let one = || read(dir.path(), Path::new("."), &Patterns::new(&["7".into()], &[]).unwrap(), None);
    assert_eq!(one().unwrap().files.len(), 1);
    files(20_001..=40_000);
    assert_eq!(one().unwrap_err().code, ErrorCode::ResourceExhausted);
}
