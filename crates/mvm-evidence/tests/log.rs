//! The log as its writers and readers see it: order, crashes in the middle of a write, a full disk, and damage.

#![allow(clippy::print_stdout, reason = "a process of a test tells it what it did")]

mod common;

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;
use std::process::Command;

use common::{entry, fill, log, signer};
use mvm_evidence::{Durability, Entry, Error, Kind, Log, verify};
use proptest::prelude::*;

/// Given to this test's program as a log's directory, it appends until it cannot and prints what came of it.
const FULL: &str = "MVM_EVIDENCE_TEST_FULL";

fn journal(log: &Log) -> std::path::PathBuf {
    log.dir().join("journal")
}

fn alter(path: &Path, change: impl FnOnce(&mut Vec<u8>)) {
    let mut bytes = fs::read(path).unwrap();
    change(&mut bytes);
    fs::write(path, bytes).unwrap();
}

fn append(log: &Log, number: u64) -> Result<u64, Error> {
    log.append(&entry(number), Durability::Durable)
}

/// The log as another process finds it: nothing of it is in memory.
fn afresh(log: &Log) -> Log {
    Log::open_existing(log.dir()).unwrap()
}

#[test]
fn entries_come_back_in_order_across_bundles() {
    let (_dir, log) = log();
    assert_eq!(log.size().unwrap(), 0);
    assert!(log.tail(5).unwrap().is_empty());
    fill(&log, 600);
    assert_eq!(log.size().unwrap(), 600);
    for index in [0, 1, 255, 256, 511, 512, 599] {
        assert_eq!(log.entry(index).unwrap(), entry(index));
        assert_eq!(log.entry_bytes(index).unwrap(), entry(index).to_bytes().unwrap());
    }
    assert_eq!(log.entry(600).unwrap_err().kind, Kind::NotFound);
    assert_eq!(log.entry(u64::MAX).unwrap_err().kind, Kind::NotFound);
    let all: Vec<_> = log.entries(0).map(Result::unwrap).collect();
    assert_eq!(all, (0..600).map(|number| (number, entry(number))).collect::<Vec<_>>());
    assert_eq!(log.tail(3).unwrap(), [(597, entry(597)), (598, entry(598)), (599, entry(599))]);
    assert_eq!(log.tail(u64::MAX).unwrap().len(), 600);
    assert_eq!(log.entries(300).next().unwrap().unwrap().0, 300);
}

#[test]
fn whoever_follows_sees_what_comes_later() {
    let (_dir, log) = log();
    fill(&log, 250);
    let mut entries = log.entries(248);
    assert_eq!(entries.by_ref().map(|item| item.unwrap().0).collect::<Vec<_>>(), [248, 249]);
    assert!(entries.next().is_none());
    // Beyond the end of a bundle too.
    fill(&log, 300);
    assert_eq!(entries.by_ref().map(|item| item.unwrap().0).collect::<Vec<_>>(), (250..550).collect::<Vec<_>>());
}

#[test]
fn a_log_is_private_and_has_a_name_of_its_own() {
    let (dir, log) = log();
    let again = Log::open(log.dir()).unwrap();
    let origin = log.origin().unwrap();
    assert_eq!(origin, again.origin().unwrap());
    assert!(origin.starts_with("mvm/") && origin.len() == 36);
    let other = Log::open(dir.path().join("other")).unwrap();
    assert_ne!(other.origin().unwrap(), origin);
    fill(&log, 300);
    log.checkpoint(&signer()).unwrap();
    let mut pending = vec![log.dir().to_owned()];
    while let Some(path) = pending.pop() {
        let mode = fs::metadata(&path).unwrap().permissions().mode() & 0o777;
        assert_eq!(mode, if path.is_dir() { 0o700 } else { 0o600 }, "{}", path.display());
        assert!(path.extension().is_none_or(|e| e != "new"), "{}", path.display());
        if path.is_dir() {
            pending.extend(fs::read_dir(path).unwrap().map(|entry| entry.unwrap().path()));
        }
    }
    assert_eq!(Log::open_existing(dir.path().join("none")).unwrap_err().kind, Kind::NotFound);
}

#[test]
fn what_is_no_entry_is_not_logged() {
    let (_dir, log) = log();
    for bad in [Entry::now(""), Entry::now("Bad"), Entry::now("e").run("a b"), Entry::now("e").field("x", "\u{1b}[2J")]
    {
        assert_eq!(log.append(&bad, Durability::Durable).unwrap_err().kind, Kind::Invalid, "{bad:?}");
    }
    assert_eq!(log.size().unwrap(), 0);
}

/// Whatever prefix of a record a crash leaves, with or without zeros behind it: nothing acknowledged is lost, and the next
/// append takes its place.
#[test]
fn a_torn_write_is_cleared_away_wherever_it_was_cut() {
    for before in [0, 255, 256] {
        let (_dir, log) = log();
        fill(&log, before);
        let acknowledged = fs::read(journal(&log)).unwrap();
        fill(&log, 1);
        // At a bundle's end the record is in the next journal.
        let acknowledged = if before == 256 { acknowledged_after_fill(&log) } else { acknowledged };
        let whole = fs::read(journal(&log)).unwrap();
        for cut in acknowledged.len()..whole.len() {
            for zeros in [0, 1, 5000] {
                fs::write(journal(&log), [&whole[..cut], &vec![0; zeros]].concat()).unwrap();
                let log = afresh(&log);
                assert_eq!(log.size().unwrap(), before, "cut at {cut}, {zeros} zeros");
                let report = verify(log.dir(), &[], &[]).unwrap();
                assert!(
                    report.is_good() && report.torn_bytes == (cut - acknowledged.len() + zeros) as u64,
                    "{report:?}"
                );
                assert_eq!(append(&log, before).unwrap(), before);
                assert_eq!(fs::read(journal(&log)).unwrap(), whole);
            }
        }
    }
}

fn acknowledged_after_fill(log: &Log) -> Vec<u8> {
    fs::read(journal(log)).unwrap()[..32].to_vec()
}

/// The same while a process has the log open, and has seen its end.
#[test]
fn a_torn_write_of_another_process_is_cleared_away() {
    let (_dir, log) = log();
    fill(&log, 3);
    let other = afresh(&log);
    append(&other, 3).unwrap();
    alter(&journal(&log), |bytes| bytes.truncate(bytes.len() - 5));
    assert_eq!(append(&log, 3).unwrap(), 3);
    assert_eq!(append(&other, 4).unwrap(), 4);
    assert_eq!(log.tail(9).unwrap(), (0..5).map(|number| (number, entry(number))).collect::<Vec<_>>());
}

#[test]
fn every_changed_bit_of_what_was_acknowledged_is_an_error() {
    let (_dir, log) = log();
    fill(&log, 3);
    let good = fs::read(journal(&log)).unwrap();
    for index in 0..good.len() {
        for bit in 0..8 {
            let mut bytes = good.clone();
            bytes[index] ^= 1 << bit;
            fs::write(journal(&log), &bytes).unwrap();
            let log = afresh(&log);
            let error = append(&log, 3).expect_err(&format!("bit {bit} of byte {index}"));
            assert_eq!(error.kind, Kind::Damaged, "{error:?}");
            assert!(error.hint.contains("mvmctl audit verify"), "{error:?}");
            assert_eq!(log.tail(1).unwrap_err().kind, Kind::Damaged);
            assert!(!verify(log.dir(), &[], &[]).unwrap().is_good());
            assert_eq!(fs::read(journal(&log)).unwrap(), bytes, "nothing was written");
        }
    }
}

/// The same for a process that wrote those entries itself, and for what others add behind the change.
#[test]
fn a_changed_bit_is_an_error_to_who_has_the_log_open() {
    for others_add in [false, true] {
        let (_dir, log) = log();
        fill(&log, 3);
        let path = journal(&log);
        let changed = |path: &Path| fs::metadata(path).map(|meta| (meta.ctime(), meta.ctime_nsec())).unwrap();
        let before = changed(&path);
        let good = fs::read(&path).unwrap();
        alter(&path, |bytes| bytes[60] ^= 1);
        let bad = fs::read(&path).unwrap();
        // The time of a change is told in ticks of the kernel's clock.
        while changed(&path) == before {
            fs::write(&path, &bad).unwrap();
        }
        if others_add {
            fs::write(&path, [bad, next_record(&good)].concat()).unwrap();
        }
        let bad = fs::read(&path).unwrap();
        assert_eq!(append(&log, 3).unwrap_err().kind, Kind::Damaged);
        assert_eq!(fs::read(&path).unwrap(), bad, "nothing was written");
    }
}

/// What a log with this journal, whose bytes are good, gets by one more entry.
fn next_record(good: &[u8]) -> Vec<u8> {
    let (_dir, other) = common::log();
    fs::write(journal(&other), good).unwrap();
    append(&other, 3).unwrap();
    fs::read(journal(&other)).unwrap()[good.len()..].to_vec()
}

#[test]
fn whoever_has_a_log_open_goes_on_in_the_one_that_was_begun_in_its_place() {
    let (dir, log) = log();
    fill(&log, 5);
    let (old, kept) = (log.origin().unwrap(), dir.path().join("audit.old"));
    fs::rename(log.dir(), &kept).unwrap();
    assert_eq!(append(&log, 5).unwrap_err().kind, Kind::NotFound);
    let new = Log::open(log.dir()).unwrap();
    assert_ne!(new.origin().unwrap(), old);
    assert_eq!(log.origin().unwrap(), new.origin().unwrap());
    fill(&new, 7);
    assert_eq!(append(&log, 7).unwrap(), 7);
    assert_eq!(log.checkpoint(&signer()).unwrap().origin(), new.origin().unwrap());
    assert!(verify(log.dir(), &[signer().public().clone()], &[]).unwrap().is_good());
    assert_eq!(Log::open_existing(&kept).unwrap().size().unwrap(), 5);
    // And in a log without a name nothing is written.
    fs::remove_file(log.dir().join("origin")).unwrap();
    assert_eq!(append(&log, 8).unwrap_err().kind, Kind::Damaged);
    assert_eq!(log.origin().unwrap_err().kind, Kind::Damaged);
    assert_eq!(log.size().unwrap(), 8);
}

#[test]
fn missing_and_foreign_files_are_errors() {
    let damaged = |log: &Log, what: &str| {
        let error = Log::open(log.dir()).and_then(|log| append(&log, 0)).expect_err(what);
        assert_eq!(error.kind, Kind::Damaged, "{what}: {error:?}");
    };
    let with = |change: &dyn Fn(&Log)| {
        let (dir, log) = log();
        fill(&log, 300);
        log.checkpoint(&signer()).unwrap();
        change(&log);
        (dir, log)
    };
    let (_dir, log) = with(&|log| fs::remove_file(journal(log)).unwrap());
    damaged(&log, "no journal");
    let (_dir, log) = with(&|log| fs::remove_file(log.dir().join("origin")).unwrap());
    damaged(&log, "no origin");
    let (_dir, log) = with(&|log| fs::write(log.dir().join("origin"), "example.com/log\n").unwrap());
    damaged(&log, "another origin");
    let (_dir, log) = with(&|log| fs::remove_file(log.dir().join("tile/entries/000")).unwrap());
    damaged(&log, "no bundle");
    let (_dir, log) = with(&|log| fs::write(journal(log), "mvm-journal-v1 0000000000000000\n").unwrap());
    damaged(&log, "emptied journal");
    let (_dir, log) = with(&|log| fs::write(journal(log), "").unwrap());
    damaged(&log, "empty file");
    let (_dir, log) = with(&|log| {
        fs::remove_file(journal(log)).unwrap();
        fs::create_dir(journal(log)).unwrap();
    });
    assert!(Log::open(log.dir()).and_then(|log| append(&log, 0)).is_err());
}

/// No log is begun over entries, whatever else of theirs is gone; one is where a crash left a beginning.
#[test]
fn entries_without_a_name_are_not_written_over() {
    let beginning = b"mvm-journal-v1 0000000000000000\n";
    for count in [1, 256, 300] {
        let (_dir, log) = log();
        fill(&log, count);
        log.checkpoint(&signer()).unwrap();
        for name in ["origin", "checkpoint", "lock"] {
            fs::remove_file(log.dir().join(name)).unwrap();
        }
        fs::remove_dir_all(log.dir().join("tile")).unwrap();
        let there = fs::read(journal(&log)).unwrap();
        let error = Log::open(log.dir()).unwrap_err();
        assert!(error.kind == Kind::Damaged && error.hint.contains(".old"), "{error:?}");
        assert_eq!(fs::read(journal(&log)).unwrap(), there);
        for bad in ["", "x", "mvm-journal-v1 0000000000000100\n"] {
            fs::write(journal(&log), bad).unwrap();
            assert_eq!(Log::open(log.dir()).unwrap_err().kind, Kind::Damaged, "{bad}");
        }
        fs::write(journal(&log), beginning).unwrap();
        assert_eq!(append(&Log::open(log.dir()).unwrap(), 0).unwrap(), 0);
    }
}

/// A crash at each step of making a bundle: what was done is done again, or found done.
#[test]
fn making_a_bundle_can_be_cut_short_anywhere() {
    let (_dir, log) = log();
    fill(&log, 256);
    log.checkpoint(&signer()).unwrap();
    fill(&log, 256);
    let full = fs::read(journal(&log)).unwrap();
    let steps = ["tile/entries/001", "tile/0/001", "tile/1/000.p/2"];
    fill(&log, 1);
    let after: Vec<_> = steps.iter().map(|step| fs::read(log.dir().join(step)).unwrap()).collect();
    for done in 0..=steps.len() {
        fs::write(journal(&log), &full).unwrap();
        for step in &steps[done..] {
            fs::remove_file(log.dir().join(step)).unwrap();
        }
        fs::write(log.dir().join("journal.new"), "half").unwrap();
        let log = afresh(&log);
        assert_eq!(log.size().unwrap(), 512);
        assert!(verify(log.dir(), &[signer().public().clone()], &[]).unwrap().is_good());
        assert_eq!(append(&log, 512).unwrap(), 512, "{done} steps done");
        let again: Vec<_> = steps.iter().map(|step| fs::read(log.dir().join(step)).unwrap()).collect();
        assert_eq!(again, after);
        log.checkpoint(&signer()).unwrap();
        assert!(verify(log.dir(), &[signer().public().clone()], &[]).unwrap().is_good());
        fs::remove_dir_all(log.dir().join("tile/0/002.p")).unwrap();
        fs::remove_dir_all(log.dir().join("tile/entries/002.p")).unwrap();
        fs::remove_file(log.dir().join("checkpoint")).unwrap();
    }
    // But a bundle that is not what the journal has is never taken for it.
    fs::write(journal(&log), &full).unwrap();
    alter(&log.dir().join("tile/entries/001"), |bytes| bytes[40] ^= 1);
    assert_eq!(append(&afresh(&log), 512).unwrap_err().kind, Kind::Damaged);
}

#[test]
fn partial_tiles_go_when_they_are_full() {
    let (_dir, log) = log();
    for _ in 0..3 {
        fill(&log, 50);
        log.checkpoint(&signer()).unwrap();
    }
    let widths = |path: &str| fs::read_dir(log.dir().join(path)).map_or(0, Iterator::count);
    assert_eq!((widths("tile/0/000.p"), widths("tile/entries/000.p")), (3, 3));
    fill(&log, 107);
    assert_eq!((widths("tile/0/000.p"), widths("tile/entries/000.p")), (0, 0));
    assert!(!log.dir().join("tile/0/000.p").exists());
}

/// A limit on the size of files makes a write stop in the middle, as a full disk does.
#[test]
fn a_full_disk_leaves_the_log_as_it_was() {
    for (kib, before) in [(4, 0), (16, 0), (64, 250)] {
        let (_dir, log) = log();
        fill(&log, before);
        let script =
            format!("trap '' XFSZ; ulimit -f {}; exec \"$0\" --exact until_the_disk_is_full --nocapture", kib * 2);
        let output = Command::new("sh")
            .args(["-c", &script])
            .arg(std::env::current_exe().unwrap())
            .env(FULL, log.dir())
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        let size = log.size().unwrap();
        assert!(said.contains(&format!("full after {size};")), "{said} {}", String::from_utf8_lossy(&output.stderr));
        assert!(size > before, "{said}");
        let report = verify(log.dir(), &[], &[]).unwrap();
        assert!(report.is_good() && report.torn_bytes == 0, "{report:?}");
        // With space again it goes on where it stopped.
        assert_eq!(append(&log, size).unwrap(), size);
        assert_eq!(log.entry(size - 1).unwrap().event, "test.full");
    }
}

/// Not a test by itself: the process of the one above.
#[test]
fn until_the_disk_is_full() {
    let Some(dir) = std::env::var_os(FULL) else { return };
    let log = Log::open_existing(dir).unwrap();
    let entry = Entry::now("test.full").field("filler", "x".repeat(700));
    let error = loop {
        if let Err(error) = log.append(&entry, Durability::Durable) {
            break error;
        }
    };
    assert_eq!(error.kind, Kind::Full, "{error:?}");
    // Small ones do not get past it either, once there is no room at all.
    println!("full after {}; {error}", log.size().unwrap());
}

#[test]
fn threads_and_handles_share_a_log() {
    let (_dir, log) = log();
    std::thread::scope(|scope| {
        for thread in 0..4u64 {
            let log = &log;
            scope.spawn(move || {
                let own = afresh(log);
                for number in 0..100 {
                    let log = if number % 2 == 0 { log } else { &own };
                    log.append(&Entry::now("test.thread").field("who", thread).field("n", number), Durability::Batched)
                        .unwrap();
                }
            });
        }
    });
    assert_eq!(log.size().unwrap(), 400);
    for thread in 0..4u64 {
        let own = log.entries(0).map(|item| item.unwrap().1).filter(|entry| entry.fields["who"] == thread.to_string());
        assert_eq!(
            own.map(|entry| entry.fields["n"].parse::<u64>().unwrap()).collect::<Vec<_>>(),
            (0..100).collect::<Vec<_>>()
        );
    }
    assert!(verify(log.dir(), &[], &[]).unwrap().is_good());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Any bytes at all in the place of a journal: an error or a log, never a panic, and nothing of them is believed.
    #[test]
    fn any_journal_is_read_without_panic(bytes in proptest::collection::vec(any::<u8>(), 0..300), keep in 0usize..200) {
        let (_dir, log) = log();
        fill(&log, 2);
        let good = fs::read(journal(&log)).unwrap();
        fs::write(journal(&log), [&good[..keep.min(good.len())], &bytes[..]].concat()).unwrap();
        let log = afresh(&log);
        let _ = log.tail(10);
        let _ = log.checkpoint(&signer());
        let _ = verify(log.dir(), &[], &[]);
        let _ = append(&log, 2);
    }

    #[test]
    fn any_entry_survives(
        event in "[a-z][a-z0-9._-]{0,20}",
        fields in proptest::collection::btree_map("[a-z][a-z0-9_]{0,10}", "[^\\p{C}]{0,40}", 0..8),
        at_ms in 0u64..(1 << 53),
    ) {
        let (_dir, log) = log();
        let entry = Entry { at_ms, fields, ..Entry::now(&event) };
        prop_assume!(entry.to_bytes().is_ok());
        log.append(&entry, Durability::Batched).unwrap();
        prop_assert_eq!(log.entry(0).unwrap(), entry);
    }
}
