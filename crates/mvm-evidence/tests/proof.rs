//! Proofs of inclusion, and receipts with them: what is proven, and what is refused for which reason.

mod common;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use common::{entry, fill, log, other_signer, signer, statement};
use mvm_evidence::notary::{self, record_end, sign_receipt, verify_logged};
use mvm_evidence::{Durability, Entry, Envelope, Included, KeyRing, Kind, Log, Proof, PublicKey, Refusal, Statement};
use proptest::prelude::*;

fn keys() -> Vec<PublicKey> {
    vec![signer().public().clone()]
}

fn proof_of(size: u64, index: u64) -> String {
    let (_dir, log) = log();
    fill(&log, size);
    log.prove(index, &log.checkpoint(&signer()).unwrap()).unwrap().to_text()
}

fn refused(proof: &[u8]) -> &'static str {
    Proof::verify(proof, &keys()).map(|_| "accepted").unwrap_or_else(|refusal| refusal.name())
}

#[test]
fn every_entry_can_be_proven_in_every_state() {
    let (_dir, log) = log();
    let mut checkpoints = Vec::new();
    for add in [1, 1, 1, 4, 248, 1, 1, 255, 2] {
        fill(&log, add);
        checkpoints.push(log.checkpoint(&signer()).unwrap());
    }
    for checkpoint in checkpoints {
        for index in (0..checkpoint.size()).filter(|index| index % 7 == 0 || index + 3 > checkpoint.size()) {
            let text = log.prove(index, &checkpoint).unwrap().to_text();
            let expected = Included {
                origin: log.origin().unwrap(),
                index,
                entry: entry(index),
                size: checkpoint.size(),
                keyid: signer().public().id(),
            };
            assert_eq!(Proof::verify(text.as_bytes(), &keys()), Ok(expected));
            assert_eq!(Proof::parse(text.as_bytes()).unwrap().to_text(), text);
        }
        assert_eq!(
            log.prove(checkpoint.size(), &checkpoint).unwrap_err().kind,
            match checkpoint.size() {
                514 => Kind::NotFound,
                _ => Kind::Invalid,
            }
        );
    }
}

#[test]
fn every_flipped_bit_and_every_truncation_is_refused() {
    for (size, index) in [(1, 0), (300, 7)] {
        let good = proof_of(size, index).into_bytes();
        assert_eq!(refused(&good), "accepted");
        for place in 0..good.len() {
            assert_ne!(refused(&good[..place]), "accepted", "{place} bytes");
            for bit in 0..8 {
                let mut bytes = good.clone();
                bytes[place] ^= 1 << bit;
                assert_ne!(refused(&bytes), "accepted", "bit {bit} of byte {place}");
            }
        }
        for added in [&b"\n"[..], b" ", b"x", b"\n\n", b"\xe2\x80\x94 x\n"] {
            assert_ne!(refused(&[&good[..], added].concat()), "accepted");
            assert_ne!(refused(&[added, &good[..]].concat()), "accepted");
        }
    }
}

#[test]
fn each_reason_has_its_name() {
    let text = proof_of(300, 7);
    let with = |from: &str, to: &str| refused(text.replacen(from, to, 1).as_bytes());
    let line = |number: usize| text.lines().nth(number).unwrap();
    assert_eq!(with("proof@v1", "proof@v2"), "wrong-shape");
    assert_eq!(with("extra ", "other "), "wrong-shape");
    assert_eq!(with(&format!("{}\n", line(1)), ""), "wrong-shape");
    assert_eq!(with("index 7", "index 07"), "wrong-shape");
    assert_eq!(with("index 7", "index +7"), "wrong-shape");
    assert_eq!(with("index 7", "index 8"), "not-included");
    assert_eq!(with("index 7", "index 300"), "not-included");
    assert_eq!(with(line(4), line(5)), "not-included");
    assert_eq!(with(&format!("{}\n", line(4)), ""), "not-included");
    assert_eq!(with(line(4), "AAAA"), "wrong-shape");
    assert_eq!(with(line(4), "-"), "bad-base64");
    assert_eq!(with("\n300\n", "\n301\n"), "bad-signature");
    assert_eq!(refused(&vec![b'x'; 1 << 20]), "too-large");
    assert_eq!(refused(b"\xff"), "wrong-shape");
    let many = format!("{}\n", line(4)).repeat(60);
    assert_eq!(with(&format!("{}\n", line(4)), &many), "wrong-shape");
    assert_eq!(Proof::verify(text.as_bytes(), &[]).unwrap_err().name(), "unknown-key");
    // Another entry in the extra data, however well formed, does not hash to the root.
    let other = STANDARD.encode(entry(8).to_bytes().unwrap());
    assert_eq!(with(line(1), &format!("extra {other}")), "not-included");
}

struct Notary {
    _dir: tempfile::TempDir,
    log: Log,
    keys: KeyRing,
    statement: Statement,
    ended: u64,
}

/// A run that was authorised and has ended.
fn ended() -> Notary {
    let (dir, log) = log();
    let keys = KeyRing::at(dir.path().join("home/keys"));
    keys.ensure().unwrap();
    let mut statement = statement();
    statement.run.log = log.origin().unwrap();
    let authorised = Entry::now("run.authorised").run(&statement.run.run_id).sandbox(&statement.run.sandbox_id);
    statement.run.audit_id = log.append(&authorised, Durability::Durable).unwrap();
    fill(&log, 300);
    let ended = record_end(&log, &statement, Entry::now("x").field("exit_code", 0)).unwrap();
    Notary { _dir: dir, log, keys, statement, ended }
}

#[test]
fn a_receipt_and_its_proof_go_together() {
    let notary = ended();
    let receipt = sign_receipt(&notary.log, &notary.keys, &notary.statement, notary.ended).unwrap();
    let keys = notary.keys.public_keys().unwrap();
    let verified = Envelope::verify(&receipt.envelope, &keys).unwrap();
    assert_eq!(verified.statement, notary.statement);
    let included = verify_logged(&verified, receipt.proof.as_bytes(), &keys).unwrap();
    assert_eq!((included.index, included.entry.event.as_str()), (receipt.index, notary::RECEIPT));
    assert_eq!(included.entry.fields["ended"], notary.ended.to_string());
    assert_eq!(notary.log.entry(notary.ended).unwrap().fields["exit_code"], "0");
    let report = mvm_evidence::verify(notary.log.dir(), &keys, &[]).unwrap();
    assert!(report.is_good() && report.checkpoint.unwrap().size == receipt.index + 1);
    // Again, by another process after another key: the receipt is another file, and both hold.
    notary.keys.rotate().unwrap();
    let again = sign_receipt(&notary.log, &notary.keys, &notary.statement, notary.ended).unwrap();
    let keys = notary.keys.public_keys().unwrap();
    for receipt in [&receipt, &again] {
        let verified = Envelope::verify(&receipt.envelope, &keys).unwrap();
        verify_logged(&verified, receipt.proof.as_bytes(), &keys).unwrap();
    }
    let verified = Envelope::verify(&again.envelope, &keys).unwrap();
    assert_eq!(verify_logged(&verified, receipt.proof.as_bytes(), &keys), Err(Refusal::WrongEntry));
}

#[test]
fn nothing_is_signed_that_was_not_logged_at_its_end() {
    let notary = ended();
    let size = notary.log.size().unwrap();
    let refuse = |change: &dyn Fn(&mut Statement), ended: u64, kind: Kind| {
        let mut statement = notary.statement.clone();
        change(&mut statement);
        let error = sign_receipt(&notary.log, &notary.keys, &statement, ended).unwrap_err();
        assert_eq!(error.kind, kind, "{error:?}");
        assert_eq!(notary.log.size().unwrap(), size, "nothing was logged");
        assert!(notary.log.latest_checkpoint().unwrap().is_none(), "nothing was signed");
    };
    refuse(&|s| s.host_observed.stdout_bytes += 1, notary.ended, Kind::Refused);
    refuse(&|s| s.guest_reported.as_mut().unwrap().exit_code = Some(1), notary.ended, Kind::Refused);
    refuse(&|s| s.run.run_id = "run-other".to_owned(), notary.ended, Kind::Refused);
    refuse(&|s| s.run.log = "mvm/ffffffffffffffffffffffffffffffff".to_owned(), notary.ended, Kind::Refused);
    refuse(&|_| {}, notary.ended - 1, Kind::Refused);
    refuse(&|_| {}, notary.ended + 1, Kind::NotFound);
    refuse(&|s| s.run.audit_id = 9999, notary.ended, Kind::Refused);
    refuse(&|s| s.image.name = "a b".to_owned(), notary.ended, Kind::Invalid);
    // An end that is logged for a statement which another run's entry authorised.
    let mut statement = notary.statement.clone();
    statement.run.run_id = "run-other".to_owned();
    let other = record_end(&notary.log, &statement, Entry::now("x")).unwrap();
    let error = sign_receipt(&notary.log, &notary.keys, &statement, other).unwrap_err();
    assert!(error.kind == Kind::Refused && error.why.contains("not what authorised it"), "{error:?}");
    // Or one of nobody, which is what is found there when another log was begun in between.
    statement.run.run_id = notary.statement.run.run_id.clone();
    statement.run.audit_id = 5;
    let other = record_end(&notary.log, &statement, Entry::now("x")).unwrap();
    let error = sign_receipt(&notary.log, &notary.keys, &statement, other).unwrap_err();
    assert!(error.kind == Kind::Refused && error.why.contains("not what authorised it"), "{error:?}");
}

#[test]
fn a_proof_of_something_else_is_refused() {
    let notary = ended();
    let receipt = sign_receipt(&notary.log, &notary.keys, &notary.statement, notary.ended).unwrap();
    let keys = notary.keys.public_keys().unwrap();
    let verified = Envelope::verify(&receipt.envelope, &keys).unwrap();
    let checkpoint = notary.log.latest_checkpoint().unwrap().unwrap();
    for index in [0, 7, notary.ended] {
        let proof = notary.log.prove(index, &checkpoint).unwrap().to_text();
        assert_eq!(verify_logged(&verified, proof.as_bytes(), &keys), Err(Refusal::WrongEntry));
    }
    // The same entry in another log of the same key.
    let (_dir, other) = log();
    other.append(&notary.log.entry(receipt.index).unwrap(), Durability::Durable).unwrap();
    let signer = notary.keys.signer().unwrap();
    let proof = other.prove(0, &other.checkpoint(&signer).unwrap()).unwrap().to_text();
    assert_eq!(verify_logged(&verified, proof.as_bytes(), &keys), Err(Refusal::WrongLog));
    // And in a log of the same name that somebody else signed.
    let stranger = [other_signer().public().clone()];
    assert_eq!(verify_logged(&verified, receipt.proof.as_bytes(), &stranger).unwrap_err().name(), "unknown-key");
}

#[test]
fn a_checkpoint_that_is_not_of_this_log_proves_nothing_in_it() {
    let (_dir, ours) = log();
    let (_other_dir, theirs) = log();
    fill(&ours, 5);
    fill(&theirs, 5);
    let checkpoint = theirs.checkpoint(&signer()).unwrap();
    assert_eq!(ours.prove(0, &checkpoint).unwrap_err().kind, Kind::Refused);
}

proptest! {
    #[test]
    fn no_bytes_are_a_proof(bytes in proptest::collection::vec(any::<u8>(), 0..500)) {
        prop_assert!(Proof::verify(&bytes, &keys()).is_err());
        prop_assert!(mvm_evidence::Checkpoint::parse(&bytes).is_err());
    }

    #[test]
    fn no_splice_of_a_proof_is_accepted(from in 0usize..1200, length in 0usize..60, with in "[ -~\n]{0,60}") {
        static GOOD: std::sync::OnceLock<String> = std::sync::OnceLock::new();
        let good = GOOD.get_or_init(|| proof_of(300, 7)).as_bytes();
        let from = from.min(good.len());
        let to = (from + length).min(good.len());
        let spliced = [&good[..from], with.as_bytes(), &good[to..]].concat();
        prop_assume!(spliced != good);
        prop_assert_ne!(refused(&spliced), "accepted");
    }
}
