//! Receipts: what is signed is read back, and everything else is refused for the right reason.

mod common;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use common::{other_signer, signer, statement};
use mvm_evidence::envelope::PAYLOAD_TYPE;
use mvm_evidence::{Digest, Envelope, PublicKey, Signer, Statement, canonical};
use proptest::prelude::*;
use serde_json::{Value, json};

fn keys() -> Vec<PublicKey> {
    vec![other_signer().public().clone(), signer().public().clone()]
}

fn good() -> Vec<u8> {
    Envelope::sign(&statement(), &signer()).unwrap().to_bytes()
}

fn refused(bytes: &[u8]) -> &'static str {
    Envelope::verify(bytes, &keys()).map(|_| "accepted").unwrap_or_else(|refusal| refusal.name())
}

/// An envelope around any payload, with a signature that fits: what somebody who has the key could make.
fn signed_by(signer: &Signer, payload: &[u8]) -> Vec<u8> {
    let head = format!("DSSEv1 {} {PAYLOAD_TYPE} {} ", PAYLOAD_TYPE.len(), payload.len());
    let signature = signer.sign(&[head.as_bytes(), payload].concat());
    format!(
        "{{\"payload\":\"{}\",\"payloadType\":\"{PAYLOAD_TYPE}\",\"signatures\":[{{\"keyid\":\"{}\",\"sig\":\"{}\"}}]}}\n",
        STANDARD.encode(payload),
        signer.public().id(),
        STANDARD.encode(signature)
    )
    .into_bytes()
}

/// What becomes of a statement that was changed before it was signed.
fn changed(change: impl FnOnce(&mut Value)) -> &'static str {
    let mut value: Value = serde_json::from_slice(&statement().to_payload().unwrap()).unwrap();
    change(&mut value);
    refused(&signed_by(&signer(), &canonical::to_vec(&value).unwrap()))
}

#[test]
fn a_good_receipt_says_what_was_signed() {
    let bytes = good();
    let verified = Envelope::verify(&bytes, &keys()).unwrap();
    assert_eq!(verified.statement, statement());
    assert_eq!(verified.keyid, signer().public().id());
    assert_eq!(verified.digest, Digest::of(&bytes));
    assert_eq!(verified.payload_digest, statement().digest().unwrap());
    // The helper of the other tests makes the same file.
    assert_eq!(signed_by(&signer(), &statement().to_payload().unwrap()), bytes);
    assert_eq!(good(), bytes, "signing again gives the same file");
}

#[test]
fn every_flipped_bit_is_refused() {
    let bytes = good();
    for index in 0..bytes.len() {
        for bit in 0..8 {
            let mut copy = bytes.clone();
            copy[index] ^= 1 << bit;
            assert_ne!(refused(&copy), "accepted", "bit {bit} of byte {index}");
        }
    }
}

#[test]
fn every_truncation_and_every_added_byte_is_refused() {
    let bytes = good();
    for length in 0..bytes.len() {
        assert_ne!(refused(&bytes[..length]), "accepted", "{length} bytes");
    }
    for added in 0..=255u8 {
        assert_ne!(refused(&[bytes.as_slice(), &[added]].concat()), "accepted", "{added} behind");
        assert_ne!(refused(&[&[added], bytes.as_slice()].concat()), "accepted", "{added} before");
    }
}

#[test]
fn every_other_byte_in_a_place_of_structure_is_refused() {
    let bytes = good();
    let text = String::from_utf8(bytes.clone()).unwrap();
    let payload = text.find("eyJ").unwrap()..text.find("\",\"payloadType").unwrap();
    for index in (0..bytes.len()).filter(|index| !payload.contains(index) || index % 37 == 0) {
        for other in (0..=255u8).filter(|other| *other != bytes[index]) {
            let mut copy = bytes.clone();
            copy[index] = other;
            assert_ne!(refused(&copy), "accepted", "{other} at {index}");
        }
    }
}

#[test]
fn each_reason_has_its_name() {
    let text = String::from_utf8(good()).unwrap();
    let with = |from: &str, to: &str| refused(text.replacen(from, to, 1).as_bytes());
    assert_eq!(refused(b""), "not-json");
    assert_eq!(refused(&vec![b' '; 1 << 20]), "too-large");
    assert_eq!(refused(b"[]"), "wrong-shape");
    assert_eq!(refused(b"{}"), "wrong-shape");
    assert_eq!(refused(text.trim_end().as_bytes()), "not-canonical");
    assert_eq!(with("{\"payload\"", "{ \"payload\""), "not-canonical");
    assert_eq!(with("payloadType", "payload\\u0054ype"), "not-canonical");
    assert_eq!(with("{\"payload\"", "{\"x\":1,\"payload\""), "unknown-field");
    assert_eq!(with("{\"keyid\"", "{\"cert\":\"\",\"keyid\""), "unknown-field");
    assert_eq!(with("{\"payload\"", "{\"payload\":\"\",\"payload\""), "wrong-shape");
    assert_eq!(with(PAYLOAD_TYPE, "application/json"), "wrong-payload-type");
    let signature = &text[text.find("{\"keyid").unwrap()..text.find("]}").unwrap()];
    assert_eq!(with(signature, ""), "not-one-signature");
    assert_eq!(with(signature, &format!("{signature},{signature}")), "not-one-signature");
    assert_eq!(with("==\"}]", "\"}]"), "bad-base64");
    assert_eq!(with("\"eyJ", "\"-yJ"), "bad-base64");
    assert_eq!(with("\"keyid\":\"", "\"keyid\":\"A"), "wrong-shape");
    let sig = &signature[signature.find("sig\":\"").unwrap() + 6..signature.len() - 2];
    assert_eq!(with(sig, &STANDARD.encode([0; 63])), "wrong-shape");
    assert_eq!(with(sig, &STANDARD.encode([0; 64])), "bad-signature");
    // The id of the other trusted key: the signature is not that key's.
    let (ours, other) = (signer().public().id().to_string(), other_signer().public().id().to_string());
    assert_eq!(with(&ours, &other), "bad-signature");
    assert_eq!(with(&ours, &ours.to_uppercase()), "wrong-shape");
    let stranger = Signer::generate().unwrap();
    let payload = statement().to_payload().unwrap();
    assert_eq!(refused(&signed_by(&stranger, &payload)), "unknown-key");
    assert_eq!(Envelope::verify(&good(), &[]).unwrap_err().name(), "unknown-key");
}

/// The same 64 bytes with another scalar fit by the lax rules of Ed25519. Then a receipt would have two spellings.
#[test]
fn a_signature_has_one_spelling() {
    const ORDER: [u8; 32] = [
        0xed, 0xd3, 0xf5, 0x5c, 0x1a, 0x63, 0x12, 0x58, 0xd6, 0x9c, 0xf7, 0xa2, 0xde, 0xf9, 0xde, 0x14, 0, 0, 0, 0, 0,
        0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0x10,
    ];
    let text = String::from_utf8(good()).unwrap();
    let sig = text.split("sig\":\"").nth(1).unwrap().split('"').next().unwrap();
    let mut bytes = STANDARD.decode(sig).unwrap();
    let mut carry = 0u16;
    for (byte, order) in bytes[32..].iter_mut().zip(ORDER) {
        carry += u16::from(*byte) + u16::from(order);
        *byte = carry as u8;
        carry >>= 8;
    }
    assert_eq!(refused(text.replace(sig, &STANDARD.encode(&bytes)).as_bytes()), "bad-signature");
}

#[test]
fn what_the_holder_of_the_key_signs_must_be_a_statement_too() {
    let payload = |text: &str| refused(&signed_by(&signer(), text.as_bytes()));
    let whole = String::from_utf8(statement().to_payload().unwrap()).unwrap();
    assert_eq!(payload(&whole), "accepted");
    assert_eq!(payload("x"), "not-json");
    assert_eq!(payload("{}"), "wrong-shape");
    assert_eq!(payload(&format!("{whole} ")), "not-canonical");
    assert_eq!(payload(&whole.replacen('{', "{ ", 1)), "not-canonical");
    assert_eq!(payload(&whole.replace("\"cpus\":1", "\"cpus\":1.0")), "wrong-shape");
    assert_eq!(payload(&whole.replace("\"cpus\":1", "\"cpus\":1,\"cpus\":1")), "not-canonical");
    // An absent bound is null, never a missing key.
    assert_eq!(payload(&whole.replace("\"scratch_bytes\":null,", "")), "not-canonical");
    assert_eq!(payload(&whole.replace("debian", "\\u0064ebian")), "not-canonical");
    assert_eq!(payload(&format!("{}{}", whole, " ".repeat(65536))), "too-large");
}

#[test]
fn changes_to_a_statement_are_refused_by_name() {
    assert_eq!(changed(|_| {}), "accepted");
    assert_eq!(changed(|v| v["_type"] = json!("https://in-toto.io/Statement/v0.1")), "wrong-statement-type");
    assert_eq!(changed(|v| v["predicateType"] = json!("urn:mvm:run-receipt:v2")), "wrong-predicate-type");
    assert_eq!(changed(|v| v["subject"][0]["name"] = json!("run-other")), "wrong-subject");
    assert_eq!(changed(|v| v["subject"] = json!([])), "wrong-subject");
    assert_eq!(changed(|v| v["subject"][0]["digest"]["sha256"] = json!("0".repeat(64))), "wrong-subject");
    assert_eq!(changed(|v| v["extra"] = json!(1)), "unknown-field");
    for place in
        ["run", "image", "policy", "limits", "isolation", "commitments", "host_observed", "guest_reported", "tool"]
    {
        assert_eq!(changed(|v| v["predicate"][place]["extra"] = json!(1)), "unknown-field", "{place}");
        assert_eq!(changed(|v| v["predicate"][place] = json!(7)), "wrong-shape", "{place}");
    }
    assert_eq!(changed(|v| v["predicate"]["run"]["kind"] = json!("other")), "wrong-shape");
    assert_eq!(changed(|v| v["predicate"]["commitments"]["argv"] = json!("A".repeat(64))), "wrong-shape");
    assert_eq!(changed(|v| v["predicate"]["guest_reported"]["exit_code"] = json!(256)), "wrong-shape");
    assert_eq!(changed(|v| v["predicate"]["guest_reported"] = json!(null)), "accepted");
    assert_eq!(changed(|v| v["predicate"]["secrets"] = json!(["B", "A"])), "out-of-bounds");
    assert_eq!(changed(|v| v["predicate"]["secrets"] = json!(["A", "A"])), "out-of-bounds");
    assert_eq!(changed(|v| v["predicate"]["tool"]["name"] = json!("a\nb")), "out-of-bounds");
    assert_eq!(changed(|v| v["predicate"]["image"]["name"] = json!("")), "out-of-bounds");
    assert_eq!(changed(|v| v["predicate"]["image"]["name"] = json!("x".repeat(129))), "out-of-bounds");
    assert_eq!(changed(|v| v["predicate"]["guest_reported"]["not_started"] = json!("\u{1b}[2J")), "out-of-bounds");
    assert_eq!(changed(|v| v["predicate"]["policy"]["allowed_missing"] = json!(vec!["x"; 65])), "out-of-bounds");
}

#[test]
fn nothing_is_signed_that_nobody_would_accept() {
    let mut statement = statement();
    statement.image.name = "two words".to_owned();
    assert_eq!(Envelope::sign(&statement, &signer()).unwrap_err().name(), "out-of-bounds");
    statement.image.name = "debian".to_owned();
    statement.host_observed.stdout_bytes = u64::MAX;
    assert_eq!(Envelope::sign(&statement, &signer()).unwrap_err().name(), "out-of-bounds");
}

#[test]
fn text_of_the_guest_is_made_fit() {
    let mut statement = statement();
    let said = format!("no such file: \u{1b}[2J\u{202e}é {}", "x".repeat(1000));
    statement.guest_reported.as_mut().unwrap().not_started = Some(Statement::prose(&said));
    let bytes = Envelope::sign(&statement, &signer()).unwrap().to_bytes();
    assert_eq!(Envelope::verify(&bytes, &keys()).unwrap().statement, statement);
}

proptest! {
    #[test]
    fn any_values_survive_signing(
        name in "[a-zA-Z0-9._/:@+-]{1,64}",
        numbers in proptest::array::uniform8(0u64..(1 << 53)),
        optional in proptest::option::of(0u64..(1 << 53)),
        said in proptest::option::of(".{0,80}"),
        reported: bool,
        exit_code in proptest::option::of(0u8..),
        secrets in proptest::collection::btree_set("[A-Z_]{1,20}", 0..10),
    ) {
        let mut statement = statement();
        statement.run.run_id = name.clone();
        statement.limits.disk_bytes = numbers[0];
        statement.limits.timeout_ms = optional;
        statement.host_observed.duration_us = numbers[1];
        statement.run.audit_id = numbers[2];
        statement.secrets = secrets.into_iter().collect();
        let guest = statement.guest_reported.as_mut().unwrap();
        guest.exit_code = exit_code;
        guest.not_started = said.map(|text| Statement::prose(&text));
        if !reported {
            statement.guest_reported = None;
        }
        let bytes = Envelope::sign(&statement, &signer()).unwrap().to_bytes();
        prop_assert_eq!(Envelope::verify(&bytes, &keys()).unwrap().statement, statement);
    }

    #[test]
    fn no_bytes_are_accepted_or_panic(bytes in proptest::collection::vec(any::<u8>(), 0..600)) {
        prop_assert!(Envelope::verify(&bytes, &keys()).is_err());
    }

    #[test]
    fn no_splice_of_a_good_receipt_is_accepted(from in 0usize..2000, length in 0usize..40, with in "[ -~]{0,40}") {
        let good = good();
        let from = from.min(good.len());
        let to = (from + length).min(good.len());
        let spliced = [&good[..from], with.as_bytes(), &good[to..]].concat();
        prop_assume!(spliced != good);
        prop_assert_ne!(refused(&spliced), "accepted");
    }
}
