//! The key ring: one first key whoever asks, private halves that are nobody else's, rotation that keeps what is checked with.

#![allow(clippy::print_stdout, reason = "processes of a test tell it what they did")]

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use mvm_evidence::{KeyRing, Kind, PublicKey};

/// Given to this test's program as the directory of a ring, it makes the key and prints its id.
const RING: &str = "MVM_EVIDENCE_TEST_RING";

fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap().permissions().mode() & 0o777
}

fn with_extension(dir: &Path, extension: &str) -> Vec<PathBuf> {
    let paths = fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path());
    paths.filter(|path| path.extension().is_some_and(|e| e == extension)).collect()
}

fn ring() -> (tempfile::TempDir, KeyRing) {
    let dir = tempfile::tempdir().unwrap();
    let ring = KeyRing::at(dir.path().join("home/keys"));
    (dir, ring)
}

#[test]
fn the_first_key_is_made_once_and_private() {
    let (_dir, ring) = ring();
    assert_eq!(ring.signer().unwrap_err().kind, Kind::NotFound);
    assert!(ring.current().unwrap_err().hint.contains("mvmctl setup"));
    assert_eq!(ring.public_keys().unwrap(), []);
    let key = ring.ensure().unwrap();
    assert_eq!(ring.ensure().unwrap(), key);
    assert_eq!(ring.signer().unwrap().public(), &key);
    assert_eq!(ring.public_keys().unwrap(), vec![key.clone()]);
    assert_eq!(PublicKey::from_pem(&ring.export(None).unwrap()).unwrap(), key);
    assert_eq!(ring.export(Some(key.id())).unwrap(), ring.export(None).unwrap());
    assert_eq!(mode(ring.dir()), 0o700);
    assert_eq!(mode(&ring.dir().join(format!("{}.key", key.id()))), 0o600);
    assert_eq!(with_extension(ring.dir(), "new"), Vec::<PathBuf>::new());
}

#[test]
fn openssl_agrees_on_keys_and_ids() {
    let (_dir, ring) = ring();
    let id = ring.ensure().unwrap().id().to_string();
    let openssl = |args: &[&str]| {
        let output = Command::new("openssl").args(args).current_dir(ring.dir()).output().expect("openssl is missing");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        output.stdout
    };
    let public = openssl(&["pkey", "-in", &format!("{id}.key"), "-pubout"]);
    assert_eq!(String::from_utf8(public).unwrap(), ring.export(None).unwrap());
    let der = openssl(&["pkey", "-pubin", "-in", &format!("{id}.pub"), "-outform", "DER"]);
    assert_eq!(mvm_evidence::Digest::of(&der).to_string(), id);
}

#[test]
fn rotation_keeps_the_public_half_only() {
    let (_dir, ring) = ring();
    let first = ring.ensure().unwrap();
    let signature = ring.signer().unwrap().sign(b"x");
    let (old, new) = ring.rotate().unwrap();
    assert_eq!(old, Some(first));
    assert_eq!(ring.current().unwrap(), new);
    assert_eq!(ring.signer().unwrap().public(), &new);
    assert_eq!(ring.public_keys().unwrap().len(), 2);
    assert!(ring.public_keys().unwrap().iter().any(|key| key.verify(b"x", &signature)));
    assert_eq!(with_extension(ring.dir(), "key").len(), 1);
    assert_eq!(ring.ensure().unwrap(), new);
}

#[test]
fn a_private_key_that_others_can_reach_is_refused() {
    let (_dir, ring) = ring();
    let id = ring.ensure().unwrap().id();
    let path = ring.dir().join(format!("{id}.key"));
    for bad in [0o640, 0o604, 0o620, 0o677] {
        fs::set_permissions(&path, PermissionsExt::from_mode(bad)).unwrap();
        let error = ring.signer().unwrap_err();
        assert_eq!(error.kind, Kind::Unsafe, "{bad:o}");
        assert!(error.hint.contains("chmod 600"), "{error:?}");
    }
    fs::set_permissions(&path, PermissionsExt::from_mode(0o600)).unwrap();
    ring.signer().unwrap();
    let elsewhere = ring.dir().join("elsewhere");
    fs::rename(&path, &elsewhere).unwrap();
    symlink(&elsewhere, &path).unwrap();
    let error = ring.signer().unwrap_err();
    assert!(error.kind == Kind::Unsafe && error.hint.contains("chmod 600"), "{error:?}");
    fs::remove_file(&path).unwrap();
    assert_eq!(ring.signer().unwrap_err().kind, Kind::NotFound);
    // A ring without its private key is not stuck.
    ring.rotate().unwrap();
    ring.signer().unwrap();
}

#[test]
fn a_private_key_of_another_user_is_refused() {
    if !rustix::process::geteuid().is_root() {
        // Only root can give a file away.
        return;
    }
    let (_dir, ring) = ring();
    let path = ring.dir().join(format!("{}.key", ring.ensure().unwrap().id()));
    std::os::unix::fs::chown(&path, Some(12345), None).unwrap();
    assert_eq!(ring.signer().unwrap_err().kind, Kind::Unsafe);
}

#[test]
fn a_directory_that_others_can_write_to_is_refused() {
    let (_dir, ring) = ring();
    ring.ensure().unwrap();
    fs::set_permissions(ring.dir(), PermissionsExt::from_mode(0o770)).unwrap();
    for error in [ring.signer().unwrap_err(), ring.rotate().unwrap_err(), ring.ensure().unwrap_err()] {
        assert!(error.kind == Kind::Unsafe && error.hint.contains("chmod 700"), "{error:?}");
    }
}

#[test]
fn damage_is_named_and_never_repaired_in_silence() {
    let (_dir, ring) = ring();
    let id = ring.ensure().unwrap().id();
    let other = KeyRing::at(ring.dir().with_extension("other"));
    let stranger = other.ensure().unwrap().id();
    let (key, public) = (ring.dir().join(format!("{id}.key")), ring.dir().join(format!("{id}.pub")));
    // Another key under this one's name.
    fs::copy(other.dir().join(format!("{stranger}.key")), &key).unwrap();
    assert_eq!(ring.signer().unwrap_err().kind, Kind::Damaged);
    fs::copy(other.dir().join(format!("{stranger}.pub")), &public).unwrap();
    assert_eq!(ring.public_keys().unwrap_err().kind, Kind::Damaged);
    for bad in ["", "x", "../../etc/passwd\n", &"0".repeat(200)] {
        fs::write(ring.dir().join("current"), bad).unwrap();
        assert_eq!(ring.ensure().unwrap_err().kind, Kind::Damaged, "{bad}");
    }
    assert_eq!(other.export(Some(id)).unwrap_err().kind, Kind::NotFound);
}

/// Whatever is wrong with the old key, another one can be made, and what the old one signed can be checked as far as it
/// could before.
#[test]
fn rotation_needs_nothing_of_the_old_key() {
    type Break = fn(&KeyRing, &Path, &Path);
    let breaks: [(Break, bool, usize); 8] = [
        (|_, key, _| fs::remove_file(key).unwrap(), true, 2),
        (|_, key, _| fs::write(key, "damaged").unwrap(), true, 2),
        (|_, key, _| fs::set_permissions(key, PermissionsExt::from_mode(0o644)).unwrap(), true, 2),
        // The private half tells the public one.
        (|_, _, public| fs::remove_file(public).unwrap(), true, 2),
        (|_, _, public| fs::write(public, "damaged").unwrap(), true, 2),
        (|_, key, public| [key, public].iter().for_each(|path| fs::remove_file(path).unwrap()), false, 1),
        (|ring, _, _| fs::remove_file(ring.dir().join("current")).unwrap(), false, 2),
        (|ring, _, _| fs::write(ring.dir().join("current"), "damaged").unwrap(), false, 2),
    ];
    for (number, (harm, old_is_known, publics)) in breaks.into_iter().enumerate() {
        let (_dir, ring) = ring();
        let first = ring.ensure().unwrap();
        let path = |extension: &str| ring.dir().join(format!("{}.{extension}", first.id()));
        harm(&ring, &path("key"), &path("pub"));
        let (old, new) = ring.rotate().unwrap_or_else(|e| panic!("{number}: {e}"));
        assert_eq!(old, old_is_known.then(|| first.clone()), "{number}");
        assert_eq!((ring.signer().unwrap().public(), &ring.ensure().unwrap()), (&new, &new));
        assert!(!path("key").exists(), "{number}");
        assert_eq!(ring.public_keys().unwrap().len(), publics, "{number}");
    }
    // Where there never was a key there is none to replace.
    let (_dir, ring) = ring();
    assert!(ring.rotate().unwrap_err().hint.contains("mvmctl setup"));
}

/// What is only in the private half is not lost because others can read it.
#[test]
fn rotation_deletes_no_key_whose_public_half_it_cannot_keep() {
    let (_dir, ring) = ring();
    let id = ring.ensure().unwrap().id();
    let path = ring.dir().join(format!("{id}.key"));
    fs::remove_file(ring.dir().join(format!("{id}.pub"))).unwrap();
    fs::set_permissions(&path, PermissionsExt::from_mode(0o644)).unwrap();
    let error = ring.rotate().unwrap_err();
    assert!(error.kind == Kind::Unsafe && error.hint.contains("chmod 600") && path.exists(), "{error:?}");
}

#[test]
fn a_key_that_cannot_sign_costs_no_other_its_private_half() {
    let (_dir, ring) = ring();
    let key = ring.ensure().unwrap();
    fs::write(ring.dir().join("current"), format!("{}\n", "0".repeat(64))).unwrap();
    assert_eq!(ring.ensure().unwrap_err().kind, Kind::NotFound);
    fs::write(ring.dir().join("current"), format!("{}\n", key.id())).unwrap();
    assert_eq!(ring.ensure().unwrap(), key);
}

#[test]
fn what_a_crash_leaves_is_taken_up_or_cleared_away() {
    let (_dir, ring) = ring();
    let key = ring.ensure().unwrap();
    // Killed before `current` was written.
    fs::remove_file(ring.dir().join("current")).unwrap();
    fs::remove_file(ring.dir().join(format!("{}.pub", key.id()))).unwrap();
    fs::write(ring.dir().join("current.new"), "half").unwrap();
    assert_eq!(ring.ensure().unwrap(), key);
    assert_eq!(ring.public_keys().unwrap(), vec![key.clone()]);
    // Killed while another key was written.
    let unfinished = ring.dir().join(format!("{}.new", "0".repeat(64)));
    for clear in [|ring: &KeyRing| drop(ring.ensure().unwrap()), |ring: &KeyRing| drop(ring.rotate().unwrap())] {
        fs::write(&unfinished, "half a key").unwrap();
        clear(&ring);
        assert!(!unfinished.exists());
    }
    let key = ring.current().unwrap();
    // Killed before the replaced key was deleted.
    let path = ring.dir().join(format!("{}.key", key.id()));
    let old = fs::read(&path).unwrap();
    ring.rotate().unwrap();
    fs::write(&path, old).unwrap();
    ring.ensure().unwrap();
    assert!(!path.exists());
    // Nobody can tell which of two would sign.
    let other = KeyRing::at(ring.dir().with_extension("other"));
    let stranger = other.ensure().unwrap().id();
    fs::copy(other.dir().join(format!("{stranger}.key")), ring.dir().join(format!("{stranger}.key"))).unwrap();
    fs::remove_file(ring.dir().join("current")).unwrap();
    assert_eq!(ring.ensure().unwrap_err().kind, Kind::Damaged);
    assert_eq!(with_extension(ring.dir(), "key").len(), 2);
}

#[test]
fn of_many_processes_one_makes_the_key() {
    let (_dir, ring) = ring();
    let start = || {
        Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "one_of_many_processes", "--nocapture"])
            .env(RING, ring.dir())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap()
    };
    let children: Vec<_> = (0..8).map(|_| start()).collect();
    let said: Vec<String> = children
        .into_iter()
        .map(|child| String::from_utf8(child.wait_with_output().unwrap().stdout).unwrap())
        .filter_map(|out| Some(out.split_once("key ")?.1.split_whitespace().next()?.to_owned()))
        .collect();
    assert_eq!(said, vec![ring.current().unwrap().id().to_string(); 8]);
    assert_eq!((with_extension(ring.dir(), "key").len(), with_extension(ring.dir(), "pub").len()), (1, 1));
}

/// Not a test by itself: a process of the one above.
#[test]
fn one_of_many_processes() {
    if let Some(dir) = std::env::var_os(RING) {
        println!("key {}", KeyRing::at(dir).ensure().unwrap().id());
    }
}
