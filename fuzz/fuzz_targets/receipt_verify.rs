//! A receipt from anybody: no input is accepted but the ones that were signed, and what is read is written back the same.

#![no_main]

use std::sync::LazyLock;

use libfuzzer_sys::fuzz_target;
use mvm_evidence::notary::verify_logged;
use mvm_evidence::{Envelope, Opening, Proof, PublicKey, Statement, Verified};

const RECEIPT: &[u8] = include_bytes!("../../docs/evidence/vectors/receipt.json");
const OPENINGS: [&[u8]; 2] = [
    include_bytes!("../../docs/evidence/vectors/opening.json"),
    include_bytes!("../../docs/evidence/vectors/opening-of-argv.json"),
];
const PROOF: &[u8] = include_bytes!("../../docs/evidence/vectors/receipt.json.tlog-proof");

static KEYS: LazyLock<Vec<PublicKey>> = LazyLock::new(|| {
    let key = include_str!("../../docs/evidence/vectors/key.pem");
    vec![PublicKey::from_pem(key).expect("the key of the vectors")]
});

static VERIFIED: LazyLock<Verified> = LazyLock::new(|| Envelope::verify(RECEIPT, &KEYS).expect("the vector is good"));

fuzz_target!(|data: &[u8]| {
    if let Ok(envelope) = Envelope::parse(data) {
        assert_eq!(envelope.to_bytes(), data);
    }
    if let Ok(statement) = Statement::from_payload(data) {
        assert_eq!(statement.to_payload().as_deref(), Ok(data));
    }
    if let Ok(proof) = Proof::parse(data) {
        assert_eq!(proof.to_text().as_bytes(), data);
    }
    assert!(Envelope::verify(data, &KEYS).is_err() || data == RECEIPT, "accepted");
    // Signatures of strangers may stand below the log's own.
    assert!(verify_logged(&VERIFIED, data, &KEYS).is_err() || data.starts_with(PROOF), "accepted");
    if let Ok(opening) = Opening::from_bytes(data) {
        assert_eq!(opening.to_bytes().as_deref(), Ok(data));
        assert!(opening.check(&VERIFIED.statement).is_err() || OPENINGS.contains(&data), "accepted");
    }
    let _ = PublicKey::from_pem(&String::from_utf8_lossy(data));
});
