//! A log whose files anybody could have written. The first byte says which file the rest is.
//!
//! Whatever is there, nothing panics; and a journal that was altered gives its first entries as they were, or an error.

#![no_main]

use std::fs;
use std::sync::LazyLock;

use libfuzzer_sys::fuzz_target;
use mvm_evidence::{Checkpoint, Durability, Entry, Log, PublicKey, Signer, verify};

struct Base {
    dir: tempfile::TempDir,
    journal: Vec<u8>,
    entries: Vec<(u64, Entry)>,
    signer: Signer,
}

/// A log of a few entries in the directory for temporary files: each input is tried in the same place.
static BASE: LazyLock<Base> = LazyLock::new(|| {
    let dir = tempfile::tempdir().expect("a directory");
    let log = Log::open(dir.path()).expect("a new log");
    for number in 0..3 {
        log.append(&Entry::now("test.event").field("number", number), Durability::Batched).expect("an entry");
    }
    let entries = log.tail(3).expect("its entries");
    let journal = fs::read(dir.path().join("journal")).expect("its journal");
    Base { dir, journal, entries, signer: Signer::from_seed(&[0x42; 32]).expect("a key") }
});

fn put(name: &str, content: &[u8]) {
    let path = BASE.dir.path().join(name);
    fs::create_dir_all(path.parent().expect("beneath the log")).expect("a directory");
    fs::write(path, content).expect("a file");
}

/// The journal with changes: each three bytes say where, and what is changed there.
fn altered(changes: &[u8]) -> Vec<u8> {
    let mut journal = BASE.journal.clone();
    for change in changes.chunks_exact(3) {
        let place = usize::from(u16::from_be_bytes([change[0], change[1]])) % (journal.len() + 1);
        match journal.get_mut(place) {
            Some(byte) if change[2] != 0 => *byte ^= change[2],
            _ => journal.truncate(place),
        }
    }
    journal
}

fn read_all() {
    let keys: [PublicKey; 1] = [BASE.signer.public().clone()];
    let Ok(log) = Log::open_existing(BASE.dir.path()) else { return };
    let _ = verify(log.dir(), &keys, &[]);
    let _ = log.tail(300);
    let _ = log.entry(0);
    let _ = log.append(&Entry::now("test.more"), Durability::Batched);
    if let Ok(checkpoint) = log.checkpoint(&BASE.signer) {
        let _ = log.prove(0, &checkpoint);
    }
}

fuzz_target!(|data: &[u8]| {
    let Some((kind, rest)) = data.split_first() else { return };
    let _ = fs::remove_dir_all(BASE.dir.path().join("tile"));
    let _ = fs::remove_file(BASE.dir.path().join("checkpoint"));
    put("journal", &BASE.journal);
    match kind % 6 {
        0 => put("journal", rest),
        1 => {
            put("journal", &altered(rest));
            if let Ok(entries) = Log::open_existing(BASE.dir.path()).and_then(|log| log.tail(9)) {
                assert!(BASE.entries.starts_with(&entries), "an altered entry was taken for a good one");
            }
        }
        2 => {
            put("journal", b"mvm-journal-v1 0000000000000100\n");
            put("tile/entries/000", rest);
        }
        3 => put("checkpoint", rest),
        4 => {
            put("tile/0/000.p/3", rest);
            put("tile/entries/000.p/3", rest);
        }
        _ => {
            if let Ok(entry) = Entry::from_bytes(rest) {
                assert_eq!(entry.to_bytes().as_deref(), Ok(rest));
            }
            let _ = Checkpoint::parse(rest).map(|checkpoint| assert_eq!(checkpoint.as_str().as_bytes(), rest));
            return;
        }
    }
    read_all();
});
