//! `mvmctl key`, `audit`, `receipt`: what they print and with which status they end. No machine is started, but for the one
//! test that looks at what `setup` leaves.

mod common;

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::Stdio;

use common::{Ran, command, home};
use mvm_evidence::{Durability, Entry, KeyRing, Log};
use serde_json::Value;

fn mvmctl(home: &Path, args: &[&str]) -> Ran {
    command(home).args(args).output().unwrap().into()
}

fn json(home: &Path, args: &[&str]) -> Value {
    let ran = mvmctl(home, &[args, &["--json"]].concat());
    serde_json::from_str(&ran.stdout).unwrap_or_else(|e| panic!("{e}: {args:?}: {ran:?}"))
}

/// A home with a key and a log of some entries, as `setup` and use leave it.
fn used() -> (tempfile::TempDir, PathBuf) {
    let dir = tempfile::tempdir().unwrap();
    let home = dir.path().join("home");
    KeyRing::at(home.join("keys")).ensure().unwrap();
    let log = Log::open(home.join("audit")).unwrap();
    for number in 0..30 {
        let entry = Entry::now("test.event").sandbox("sb-1").run("run-1").field("number", number);
        log.append(&entry, Durability::Batched).unwrap();
    }
    (dir, home)
}

fn vectors() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/evidence/vectors")
}

fn vector(name: &str) -> String {
    vectors().join(name).display().to_string()
}

/// A home that is not there: what verifies offline needs none.
fn nowhere() -> &'static Path {
    Path::new("/nonexistent/home")
}

#[test]
fn setup_makes_the_key_and_the_log() {
    let keys = json(home(), &["key", "show"]);
    let tail = mvmctl(home(), &["audit", "tail", "-n", "1000000", "--json"]);
    let entries = tail.stdout.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
    let created = entries.map(|line| line["entry"].clone()).find(|entry| entry["event"] == "key.created").unwrap();
    let known: Vec<_> = keys["keys"].as_array().unwrap().iter().map(|key| &key["id"]).collect();
    assert!(known.contains(&&created["fields"]["key"]), "{created} {keys}");
}

#[test]
fn without_a_key_or_a_log_each_verb_says_what_to_do() {
    let dir = tempfile::tempdir().unwrap();
    for (args, says) in [
        (vec!["key", "show"], "mvmctl setup"),
        (vec!["key", "export"], "mvmctl setup"),
        (vec!["audit", "tail"], "mvmctl setup"),
        (vec!["audit", "show", "0"], "mvmctl setup"),
        (vec!["audit", "verify"], "mvmctl setup"),
        (vec!["audit", "checkpoint"], "mvmctl setup"),
        (vec!["audit", "prove", "0"], "mvmctl setup"),
        (vec!["receipt", "verify", "x"], "--key FILE"),
        (vec!["receipt", "verify", "x", "--key", "/dev/null"], "BEGIN PUBLIC KEY"),
        (vec!["receipt", "show", "../x"], "no run id"),
        (vec!["receipt", "show", "run-0123456789abcdef", "--sandbox", "box"], "no sandbox id"),
        (vec!["key", "export", "abc"], "64 lower-case"),
    ] {
        let ran = mvmctl(&dir.path().join("home"), &args);
        assert_eq!(ran.code, 125, "{args:?}: {ran:?}");
        assert!(ran.stderr.contains(says) && ran.stdout.is_empty(), "{args:?}: {ran:?}");
    }
    assert!(!dir.path().join("home").exists(), "looking makes nothing");
}

#[test]
fn keys_are_shown_replaced_and_exported() {
    let (_dir, home) = used();
    let first = json(&home, &["key", "show"])["keys"][0]["id"].as_str().unwrap().to_owned();
    let pem = mvmctl(&home, &["key", "export"]).stdout;
    assert_eq!(pem, fs::read_to_string(home.join(format!("keys/{first}.pub"))).unwrap());
    let rotated = json(&home, &["key", "rotate"]);
    assert_eq!(rotated["old"], *first);
    let second = rotated["new"].as_str().unwrap();
    let shown = mvmctl(&home, &["key", "show"]).stdout;
    let lines: Vec<_> = shown.lines().collect();
    assert!(lines[1].starts_with(second) && lines[1].ends_with("signs"), "{shown}");
    assert!(lines[2].starts_with(&first) && lines[2].contains("replaced"), "{shown}");
    assert!(shown.ends_with("try: mvmctl key export > mvm.pub\n"));
    assert_eq!(mvmctl(&home, &["key", "export", &first]).stdout, pem);
    assert_eq!(mvmctl(&home, &["key", "export", &"0".repeat(64)]).code, 125);
    // The change is in the log, which is signed by the new key.
    let entry = json(&home, &["audit", "show", &rotated["audit_id"].to_string()]);
    assert_eq!(entry["entry"]["event"], "key.rotated");
    assert_eq!(json(&home, &["audit", "verify"])["checkpoint"]["keyid"], *second);
}

/// What the hints about a key that cannot sign tell people to do.
#[test]
fn a_key_that_cannot_sign_is_replaced() {
    let first = |home: &Path| json(home, &["key", "show"])["keys"][0]["id"].as_str().unwrap().to_owned();
    let without_private = |home: &Path, id: &str| fs::remove_file(home.join(format!("keys/{id}.key"))).unwrap();
    let without_current = |home: &Path, _: &str| fs::write(home.join("keys/current"), "nothing").unwrap();
    for (harm, known) in [(&without_private as &dyn Fn(&Path, &str), true), (&without_current, false)] {
        let (_dir, home) = used();
        let old = first(&home);
        harm(&home, &old);
        let ran = mvmctl(&home, &["audit", "checkpoint"]);
        assert!(ran.code == 125 && ran.stderr.contains("mvmctl key rotate"), "{ran:?}");
        let rotated = json(&home, &["key", "rotate"]);
        assert_eq!(rotated["old"].as_str(), known.then_some(old.as_str()), "{rotated}");
        let entry = json(&home, &["audit", "show", &rotated["audit_id"].to_string()]);
        assert_eq!(entry["entry"]["event"], "key.rotated");
        assert_eq!(entry["entry"]["fields"]["new"], rotated["new"]);
        assert_eq!(mvmctl(&home, &["audit", "checkpoint"]).code, 0);
        assert_eq!(json(&home, &["key", "show"])["keys"].as_array().unwrap().len(), 2);
    }
}

#[test]
fn a_private_key_that_others_can_read_signs_nothing() {
    let (_dir, home) = used();
    let id = json(&home, &["key", "show"])["keys"][0]["id"].as_str().unwrap().to_owned();
    let path = home.join(format!("keys/{id}.key"));
    fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o644)).unwrap();
    let ran = mvmctl(&home, &["audit", "checkpoint"]);
    assert!(ran.code == 125 && ran.stderr.contains("chmod 600"), "{ran:?}");
}

#[test]
fn the_log_is_read_in_lines_and_in_json() {
    let (_dir, home) = used();
    let tail = mvmctl(&home, &["audit", "tail", "-n", "2"]).stdout;
    let lines: Vec<_> = tail.lines().collect();
    assert_eq!(lines.len(), 2, "{tail}");
    assert!(
        lines[1].contains("    29  ") && lines[1].ends_with("test.event       sandbox=sb-1 run=run-1 number=29"),
        "{tail}"
    );
    assert_eq!(mvmctl(&home, &["audit", "tail"]).stdout.lines().count(), 20);
    let ran = mvmctl(&home, &["audit", "tail", "-n", "3", "--json"]);
    let objects: Vec<Value> = ran.stdout.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(objects.iter().map(|o| o["index"].as_u64().unwrap()).collect::<Vec<_>>(), [27, 28, 29]);
    let shown = mvmctl(&home, &["audit", "show", "5"]).stdout;
    assert!(shown.contains("event    test.event\n") && shown.contains("number   5\n"), "{shown}");
    assert!(shown.ends_with("try: mvmctl audit prove 5\n"), "{shown}");
    let ran = mvmctl(&home, &["audit", "show", "99"]);
    assert!(ran.code == 125 && ran.stderr.contains("has 30 entries"), "{ran:?}");
}

#[test]
fn the_log_is_followed() {
    let (_dir, home) = used();
    let mut child =
        command(&home).args(["audit", "tail", "-n", "1", "--follow", "--json"]).stdout(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let mut next = || serde_json::from_str::<Value>(&lines.next().unwrap().unwrap()).unwrap()["index"].clone();
    assert_eq!(next(), 29);
    let log = Log::open_existing(home.join("audit")).unwrap();
    log.append(&Entry::now("test.later"), Durability::Durable).unwrap();
    assert_eq!(next(), 30);
    child.kill().unwrap();
    child.wait().unwrap();
}

#[test]
fn the_log_is_verified_here_and_elsewhere() {
    let (dir, home) = used();
    let witness = dir.path().join("witness").display().to_string();
    let ran = mvmctl(&home, &["audit", "checkpoint", "--witness", &witness]);
    assert!(ran.code == 0 && ran.stdout.contains("30 are signed now"), "{ran:?}");
    let ran = mvmctl(&home, &["audit", "verify", "--witness", &witness]);
    assert!(
        ran.code == 0 && ran.stdout.contains("as it was written: 30 entries") && ran.stdout.contains("never logged"),
        "{ran:?}"
    );
    // On another machine: a copy of the directory, and the public key.
    let key = dir.path().join("key.pem").display().to_string();
    fs::write(&key, mvmctl(&home, &["key", "export"]).stdout).unwrap();
    let log = home.join("audit").display().to_string();
    assert_eq!(mvmctl(nowhere(), &["audit", "verify", "--dir", &log, "--key", &key]).code, 0);
    assert_eq!(mvmctl(nowhere(), &["audit", "verify", "--dir", &log, "--key", &vector("key.pem")]).code, 60);
    // Somebody empties it and begins anew, with the same key.
    let entry = fs::read(home.join("audit/origin")).unwrap();
    fs::remove_dir_all(home.join("audit")).unwrap();
    drop(Log::open(home.join("audit")).unwrap());
    fs::write(home.join("audit/origin"), entry).unwrap();
    for args in [["audit", "verify", "--witness", &witness], ["audit", "checkpoint", "--witness", &witness]] {
        let before = fs::read(&witness).unwrap();
        let ran = mvmctl(&home, &args);
        assert!(ran.code == 60 && ran.stdout.contains("truncated-behind-witness"), "{ran:?}");
        assert_eq!(fs::read(&witness).unwrap(), before);
    }
    let report = json(&home, &["audit", "verify", "--witness", &witness]);
    assert_eq!(report["good"], false);
    assert!(report["findings"].to_string().contains("truncated-behind-witness"), "{report}");
}

#[test]
fn a_checkpoint_is_kept_in_a_regular_file_only() {
    let (dir, home) = used();
    let (target, link) = (dir.path().join("target"), dir.path().join("link"));
    fs::write(&target, "kept").unwrap();
    std::os::unix::fs::symlink(&target, &link).unwrap();
    for file in [link.as_path(), Path::new("/dev/null"), dir.path()] {
        let ran = mvmctl(&home, &["audit", "checkpoint", "--witness", &file.display().to_string()]);
        assert!(ran.code == 125 && ran.stderr.contains("name a regular file"), "{ran:?}");
    }
    assert!(link.is_symlink() && fs::read(&target).unwrap() == b"kept");
    assert!(!home.join("audit/checkpoint").exists(), "nothing was signed");
}

#[test]
fn a_changed_log_is_found_changed() {
    let (_dir, home) = used();
    let journal = home.join("audit/journal");
    let mut bytes = fs::read(&journal).unwrap();
    bytes[100] ^= 1;
    fs::write(&journal, bytes).unwrap();
    let ran = mvmctl(&home, &["audit", "verify"]);
    assert!(ran.code == 60 && ran.stdout.contains("was changed") && ran.stdout.contains("journal-changed"), "{ran:?}");
    for args in [&["audit", "tail"][..], &["audit", "checkpoint"], &["key", "rotate"]] {
        let ran = mvmctl(&home, args);
        assert!(ran.code == 125 && ran.stderr.contains("mvmctl audit verify"), "{args:?}: {ran:?}");
    }
    assert_eq!(json(&home, &["key", "show"])["keys"].as_array().unwrap().len(), 1, "what cannot be logged is not done");
}

#[test]
fn what_a_killed_process_left_of_a_record_is_cleared_away() {
    let (_dir, home) = used();
    fs::create_dir_all(home.join("runs")).unwrap();
    let at = |ending: &str| home.join(format!("runs/run-0123456789abcdef.mvm-0123456789ab.{ending}"));
    for ending in ["record", "new-0123456789abcdef", "new-now"] {
        fs::write(at(ending), "{").unwrap();
    }
    let hour_ago = std::time::SystemTime::now() - std::time::Duration::from_secs(3600);
    for ending in ["record", "new-0123456789abcdef"] {
        fs::File::options().write(true).open(at(ending)).unwrap().set_modified(hour_ago).unwrap();
    }
    assert_eq!(mvmctl(&home, &["gc"]).code, 0);
    assert!(!at("new-0123456789abcdef").exists());
    assert!(at("record").exists() && at("new-now").exists(), "that one may still be written");
}

#[test]
fn an_entry_is_proven() {
    let (_dir, home) = used();
    let proof = mvmctl(&home, &["audit", "prove", "7"]).stdout;
    let keys = KeyRing::at(home.join("keys")).public_keys().unwrap();
    let included = mvm_evidence::Proof::verify(proof.as_bytes(), &keys).unwrap();
    assert_eq!((included.index, included.size, included.entry.fields["number"].as_str()), (7, 30, "7"));
    assert_eq!(json(&home, &["audit", "prove", "7"])["proof"], proof);
    assert_eq!(mvmctl(&home, &["audit", "prove", "30"]).code, 125);
}

/// Every vector, with nothing but the file and the key: what is good is shown, what is not is refused by its own status.
#[test]
fn receipts_are_verified_offline() {
    let expected: Value = serde_json::from_slice(&fs::read(vectors().join("expected.json")).unwrap()).unwrap();
    let keys = [vector("key.pem"), vector("other.pem")];
    let with = |args: &[&str]| {
        mvmctl(nowhere(), &[&["receipt", "verify", "--key", &keys[0], "--key", &keys[1]], args].concat())
    };
    for row in expected["receipts"].as_array().unwrap() {
        let ran = with(&[&vector(row["file"].as_str().unwrap())]);
        assert_eq!(ran.code, row["exit_status"], "{row}: {ran:?}");
        assert_eq!(ran.stdout.is_empty(), ran.code != 0, "{row}: {ran:?}");
        assert!(row["refusal"].as_str().is_none_or(|name| ran.stderr.contains(&format!("({name})"))), "{row}: {ran:?}");
        assert!(!ran.stdout.contains('\x1b') && !ran.stderr.contains('\x1b'), "{row}: {ran:?}");
    }
    for row in expected["proofs"].as_array().unwrap() {
        let ran = with(&[&vector("receipt.json"), "--proof", &vector(row["file"].as_str().unwrap()), "--json"]);
        let object: Value = serde_json::from_str(&ran.stdout).unwrap();
        assert_eq!(ran.code, row["exit_status"], "{row}: {ran:?}");
        assert_eq!(object["verified"], row["refusal"].is_null());
        assert_eq!(object["refusal"]["name"], row["refusal"], "{row}");
    }
    for row in expected["openings"].as_array().unwrap() {
        let ran = with(&[&vector("receipt.json"), "--opening", &vector(row["file"].as_str().unwrap()), "--json"]);
        let object: Value = serde_json::from_str(&ran.stdout).unwrap();
        assert_eq!(ran.code, row["exit_status"], "{row}: {ran:?}");
        assert_eq!(object["opened"].is_null(), ran.code != 0, "{row}: {object}");
        assert_eq!(object["refusal"]["name"], row["refusal"], "{row}");
    }
}

#[test]
fn a_verified_receipt_says_what_was_proven_and_what_was_only_said() {
    let dir = tempfile::tempdir().unwrap();
    let alone = dir.path().join("receipt.json").display().to_string();
    fs::copy(vector("receipt.json"), &alone).unwrap();
    let verify = |file: &str| mvmctl(nowhere(), &["receipt", "verify", file, "--key", &vector("key.pem")]);
    let shown = verify(&vector("receipt.json")).stdout;
    let (before, after) = shown.split_once("The guest said, and may have lied").unwrap();
    for words in
        ["run-7f3a is genuine", "entry 3 of 4 in mvm/0001", "cgroup", "API_KEY, TOKEN", "The host saw", "6 bytes"]
    {
        assert!(before.contains(words), "{words}: {shown}");
    }
    assert!(after.contains("exit code  0"), "{shown}");
    assert!(verify(&alone).stdout.contains("not checked: there is no "), "{:?}", verify(&alone));
    let with_opening = [
        "receipt",
        "verify",
        &vector("receipt.json"),
        "--key",
        &vector("key.pem"),
        "--opening",
        &vector("opening-of-argv.json"),
    ];
    let opened = mvmctl(nowhere(), &with_opening);
    assert!(opened.stdout.ends_with("Its argv is proven to be\n[\"sh\",\"-c\",\"echo hello\"]\n"), "{opened:?}");
    // A proof that lies beside it is checked without being asked for.
    fs::copy(vector("proof-of-another-place.tlog-proof"), format!("{alone}.tlog-proof")).unwrap();
    assert_eq!(verify(&alone).code, 51);
    let object = json(nowhere(), &["receipt", "verify", &vector("receipt.json"), "--key", &vector("key.pem")]);
    assert_eq!(object["logged"]["index"], 3);
    assert_eq!(object["statement"]["guest_reported"]["exit_code"], 0);
    assert_eq!(verify("/nonexistent/file").code, 125);
    assert_eq!(verify("/dev/zero").code, 20);
}
