//! What a verifier must notice in a log, and what it says when it cannot.

mod common;

use std::fs;
use std::path::{Path, PathBuf};

use common::{entry, fill, log, other_signer, signer};
use mvm_evidence::{Checkpoint, Durability, Entry, Log, PublicKey, Report, verify};

fn keys() -> Vec<PublicKey> {
    vec![signer().public().clone()]
}

fn names(report: &Report) -> Vec<&str> {
    report.findings.iter().map(|finding| finding.name.as_str()).collect()
}

fn checked(log: &Log) -> Report {
    verify(log.dir(), &keys(), &[]).unwrap()
}

fn witnessed(log: &Log, witness: &Checkpoint) -> Report {
    verify(log.dir(), &keys(), &[witness.as_str().as_bytes().to_vec()]).unwrap()
}

/// 600 entries, the first 580 signed.
fn signed() -> (tempfile::TempDir, Log, Checkpoint) {
    let (dir, log) = log();
    fill(&log, 580);
    let checkpoint = log.checkpoint(&signer()).unwrap();
    fill(&log, 20);
    (dir, log, checkpoint)
}

fn files(log: &Log) -> Vec<PathBuf> {
    let (mut pending, mut files) = (vec![log.dir().to_owned()], Vec::new());
    while let Some(path) = pending.pop() {
        match path.is_dir() {
            true => pending.extend(fs::read_dir(path).unwrap().map(|entry| entry.unwrap().path())),
            false => files.push(path),
        }
    }
    files.sort();
    files
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap().map(Result::unwrap) {
        match entry.path().is_dir() {
            true => copy(&entry.path(), &to.join(entry.file_name())),
            false => drop(fs::copy(entry.path(), to.join(entry.file_name())).unwrap()),
        }
    }
}

/// A log with the same name and other entries: made by somebody who can write all files, and sign if `key` is ours.
fn rewritten(log: &Log, entries: impl Iterator<Item = Entry>, key: &mvm_evidence::Signer) -> (tempfile::TempDir, Log) {
    let dir = tempfile::tempdir().unwrap();
    drop(Log::open(dir.path()).unwrap());
    fs::copy(log.dir().join("origin"), dir.path().join("origin")).unwrap();
    let other = Log::open_existing(dir.path()).unwrap();
    for entry in entries {
        other.append(&entry, Durability::Batched).unwrap();
    }
    other.checkpoint(key).unwrap();
    (dir, other)
}

#[test]
fn a_good_log_is_good_and_says_what_it_cannot_show() {
    let (_dir, log, checkpoint) = signed();
    let report = checked(&log);
    assert!(report.is_good() && report.exit_status() == 0, "{report:?}");
    assert_eq!((report.size, report.events["test.event"], report.clock_steps), (600, 600, 0));
    assert_eq!(report.checkpoint.as_ref().unwrap().size, 580);
    assert_eq!(report.checkpoint.as_ref().unwrap().keyid, signer().public().id());
    let unseen = report.unseen.join("\n");
    for words in ["whoever holds the signing key", "20 entries behind the checkpoint", "never logged", "host's clock"] {
        assert!(unseen.contains(words), "{words}: {unseen}");
    }
    let report = witnessed(&log, &checkpoint);
    assert!(report.is_good() && report.witnesses.len() == 1, "{report:?}");
    assert!(report.unseen.join("\n").contains("from 580 on"));
}

#[test]
fn every_changed_byte_of_every_file_is_noticed() {
    let (dir, log, _) = signed();
    for file in files(&log) {
        let good = fs::read(&file).unwrap();
        // Long files by samples; the ends are in.
        let step = (good.len() / 40).max(1);
        let places = (0..good.len()).step_by(step).chain([good.len().saturating_sub(1)]);
        for place in places.filter(|_| !good.is_empty()) {
            let mut bytes = good.clone();
            bytes[place] ^= 1;
            fs::write(&file, &bytes).unwrap();
            let report = checked(&log);
            assert_eq!(report.exit_status(), 60, "byte {place} of {}", file.display());
        }
        fs::write(&file, good).unwrap();
        assert!(checked(&log).is_good());
    }
    drop(dir);
}

#[test]
fn every_missing_and_every_shortened_file_is_noticed() {
    let (_dir, log, checkpoint) = signed();
    for file in files(&log) {
        let name = file.strip_prefix(log.dir()).unwrap().display().to_string();
        let good = fs::read(&file).unwrap();
        fs::remove_file(&file).unwrap();
        let report = witnessed(&log, &checkpoint);
        // Nobody needs the lock of a log at rest, nor the tile of a state that nobody signed.
        assert_eq!(report.is_good(), ["lock", "tile/1/000.p/1"].contains(&name.as_str()), "{name}: {report:?}");
        if !good.is_empty() {
            fs::write(&file, &good[..good.len() / 2]).unwrap();
            assert!(!witnessed(&log, &checkpoint).is_good(), "{name}");
            fs::write(&file, [&good[..], b"\n"].concat()).unwrap();
            let report = witnessed(&log, &checkpoint);
            // At the end of the journal that is what a crash leaves, and is noted as such.
            let torn = report.is_good() && report.torn_bytes == 1;
            assert!(if name == "journal" { torn } else { !report.is_good() }, "{name}: {report:?}");
        }
        fs::write(&file, good).unwrap();
    }
}

/// Hashes and tiles made to fit: only the checkpoint can tell.
#[test]
fn what_is_rewritten_without_the_key_is_noticed_by_the_checkpoint() {
    let (_dir, log, checkpoint) = signed();
    let stranger = other_signer();
    let original = || (0..600).map(entry);
    let cases: Vec<(&str, Vec<Entry>)> = vec![
        ("edited", original().map(|e| if e == entry(300) { e.field("number", "x") } else { e }).collect()),
        ("removed", original().filter(|e| *e != entry(300)).collect()),
        (
            "reordered",
            (0..600)
                .map(|n| {
                    entry(
                        [n, 301, 300][if n == 300 {
                            1
                        } else if n == 301 {
                            2
                        } else {
                            0
                        }],
                    )
                })
                .collect(),
        ),
        ("inserted", original().take(300).chain([entry(9999)]).chain(original().skip(300)).collect()),
        ("cut off", original().take(579).collect()),
    ];
    for (what, entries) in cases {
        let (_other_dir, other) = rewritten(&log, entries.into_iter(), &stranger);
        // Signed by somebody else.
        let report = checked(&other);
        assert_eq!(names(&report), ["checkpoint-unknown-key"], "{what}");
        // With our checkpoint put back.
        fs::copy(log.dir().join("checkpoint"), other.dir().join("checkpoint")).unwrap();
        let expected = if what == "cut off" { "truncated" } else { "checkpoint-differs" };
        assert!(names(&checked(&other)).contains(&expected), "{what}: {:?}", checked(&other));
        // And without any, a checkpoint that was kept elsewhere tells.
        fs::remove_file(other.dir().join("checkpoint")).unwrap();
        let expected = if what == "cut off" { "truncated-behind-witness" } else { "witness-differs" };
        assert!(names(&witnessed(&other, &checkpoint)).contains(&expected), "{what}");
    }
}

#[test]
fn what_is_rewritten_with_the_key_takes_a_witness() {
    let (_dir, log, checkpoint) = signed();
    let (_other_dir, other) = rewritten(&log, (0..600).filter(|n| *n != 5).map(entry), &signer());
    let report = checked(&other);
    assert!(report.is_good() && report.unseen[0].contains("whoever holds the signing key"), "{report:?}");
    assert_eq!(names(&witnessed(&other, &checkpoint)), ["witness-differs"]);
    let (_short_dir, short) = rewritten(&log, (0..100).map(entry), &signer());
    assert!(checked(&short).is_good());
    assert_eq!(names(&witnessed(&short, &checkpoint)), ["truncated-behind-witness"]);
}

#[test]
fn whoever_signs_notices_too() {
    let (_dir, log, checkpoint) = signed();
    let (_other_dir, other) = rewritten(&log, (0..600).filter(|n| *n != 5).map(entry), &signer());
    assert!(log.must_agree(&checkpoint).is_ok());
    let error = other.must_agree(&checkpoint).unwrap_err();
    assert_eq!(error.kind, mvm_evidence::Kind::Refused, "{error:?}");
    // A log that was put back to an earlier state does not get a checkpoint beside its newer one.
    let (_short_dir, short) = rewritten(&log, (0..100).map(entry), &signer());
    for log in [&other, &short] {
        fs::write(log.dir().join("checkpoint"), checkpoint.as_str()).unwrap();
        assert_eq!(log.checkpoint(&signer()).unwrap_err().kind, mvm_evidence::Kind::Refused);
        assert_eq!(fs::read_to_string(log.dir().join("checkpoint")).unwrap(), checkpoint.as_str());
    }
    fs::write(log.dir().join("checkpoint"), "x").unwrap();
    assert_eq!(log.checkpoint(&signer()).unwrap_err().kind, mvm_evidence::Kind::Damaged);
    let stranger = Log::open(log.dir().with_extension("other")).unwrap();
    assert_eq!(stranger.must_agree(&checkpoint).unwrap_err().kind, mvm_evidence::Kind::Refused);
}

/// Whoever cuts the log at a checkpoint and removes that still leaves the tiles of it, or has to remove those too.
#[test]
fn a_cut_below_partial_tiles_is_noticed() {
    let (_dir, log) = log();
    fill(&log, 100);
    let short = fs::read(log.dir().join("journal")).unwrap();
    fill(&log, 50);
    log.checkpoint(&signer()).unwrap();
    fs::write(log.dir().join("journal"), short).unwrap();
    assert!(names(&checked(&log)).contains(&"truncated"));
    fs::remove_file(log.dir().join("checkpoint")).unwrap();
    assert!(names(&checked(&log)).contains(&"entries-missing"));
}

#[test]
fn a_signature_is_told_from_a_state() {
    let (_dir, log, checkpoint) = signed();
    let path = log.dir().join("checkpoint");
    let set = |text: &str| {
        fs::write(&path, text).unwrap();
        names(&checked(&log)).join(" ")
    };
    let text = checkpoint.as_str().to_owned();
    assert_eq!(set(&text.replace("\n580\n", "\n581\n")), "checkpoint-bad-signature");
    assert_eq!(set(&text.replace("\n580\n", "\n0580\n")), "checkpoint-unreadable");
    assert_eq!(set(""), "checkpoint-unreadable");
    assert_eq!(set(&"x".repeat(100_000)), "checkpoint-unreadable");
    let other = "mvm/ffffffffffffffffffffffffffffffff";
    assert_eq!(set(&text.replace(&log.origin().unwrap(), other)), "checkpoint-of-another-log");
    // Cosignatures of others are passed over, as the specification of notes asks.
    assert_eq!(set(&format!("{text}\u{2014} witness.example/w AAAAAAAAAAAA\n")), "");
    assert_eq!(set(&text), "");
    assert_eq!(names(&verify(log.dir(), &[], &[]).unwrap()), ["checkpoint-unknown-key"]);
    let report = verify(log.dir(), &keys(), &[b"x".to_vec(), text.replace("\n580\n", "\n579\n").into_bytes()]).unwrap();
    assert_eq!(names(&report), ["witness-unreadable", "witness-bad-signature"]);
}

#[test]
fn a_replaced_key_still_counts_and_both_do() {
    let (_dir, log, first) = signed();
    let second = log.checkpoint(&other_signer()).unwrap();
    let both = [signer().public().clone(), other_signer().public().clone()];
    let witness = [first.as_str().as_bytes().to_vec()];
    assert!(verify(log.dir(), &both, &witness).unwrap().is_good());
    assert_eq!(second.verify(&both).unwrap(), other_signer().public().id());
    assert_eq!(names(&checked(&log)), ["checkpoint-unknown-key"]);
}

#[test]
fn clocks_that_were_set_are_noted() {
    let (_dir, log) = log();
    for at_ms in [10_000, 9_500, 20_000, 5_000, 5_001, 4_000] {
        log.append(&Entry { at_ms, ..entry(0) }, Durability::Batched).unwrap();
    }
    let report = checked(&log);
    assert!(report.is_good());
    assert_eq!((report.clock_steps, report.first_clock_step), (2, Some(3)));
}

#[test]
fn a_copy_without_write_permission_can_be_checked() {
    let (dir, log, checkpoint) = signed();
    let to = dir.path().join("copy");
    copy(log.dir(), &to);
    fs::remove_file(to.join("lock")).unwrap();
    let before = files(&Log::open_existing(&to).unwrap());
    let report = verify(&to, &keys(), &[checkpoint.as_str().as_bytes().to_vec()]).unwrap();
    assert!(report.is_good(), "{report:?}");
    assert_eq!(files(&Log::open_existing(&to).unwrap()), before);
    assert!(verify(&dir.path().join("none"), &keys(), &[]).is_err());
    fs::create_dir(dir.path().join("empty")).unwrap();
    assert!(names(&verify(&dir.path().join("empty"), &keys(), &[]).unwrap()).contains(&"origin-missing"));
}

/// Beyond the first tile of the third level: 65536 entries and some.
#[test]
fn three_levels_of_tiles() {
    let (_dir, log) = log();
    fill(&log, 65_536 + 300);
    let checkpoint = log.checkpoint(&signer()).unwrap();
    for path in ["tile/1/000", "tile/1/001.p/1", "tile/2/000.p/1", "tile/0/256", "tile/0/257.p/44"] {
        assert!(log.dir().join(path).exists(), "{path}");
    }
    assert!(!log.dir().join("tile/1/000.p").exists());
    for index in [0, 255, 65_535, 65_536, 65_835] {
        let proof = log.prove(index, &checkpoint).unwrap().to_text();
        let included = mvm_evidence::Proof::verify(proof.as_bytes(), &keys()).unwrap();
        assert_eq!((included.index, included.size, included.entry), (index, 65_836, entry(index)));
    }
    assert!(checked(&log).is_good());
    // Tiles above the lowest level can be made again from those below.
    fs::remove_file(log.dir().join("tile/1/000")).unwrap();
    fs::remove_file(log.dir().join("tile/2/000.p/1")).unwrap();
    assert_eq!(names(&checked(&log)), ["tile-missing", "tile-missing"]);
    assert!(log.must_agree(&checkpoint).is_ok());
}
