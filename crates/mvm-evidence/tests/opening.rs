//! Openings: a value that was committed to is shown to be that, and nothing else is.

mod common;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use common::statement;
use mvm_evidence::commitment::commit;
use mvm_evidence::opening::{MAX_OPENING, MAX_VALUE};
use mvm_evidence::{Digest, Field, Opening, Salt, Statement};
use proptest::prelude::*;

/// The same in every field, so that only field and salt tell them apart.
const VALUE: &[u8] = b"yes\n";

fn salt() -> Salt {
    Salt::from_bytes([7; 32])
}

fn committed() -> Statement {
    let mut statement = statement();
    let of = |field| commit(field, &salt().of_field(field), VALUE);
    let commitments = &mut statement.commitments;
    commitments.argv = of(Field::Argv);
    commitments.env = of(Field::Env);
    commitments.stdin = of(Field::Stdin);
    commitments.stdout = of(Field::Stdout);
    commitments.stderr = of(Field::Stderr);
    statement
}

fn open(field: Field) -> Opening {
    Opening::new(&committed(), field, &salt().of_field(field), VALUE).unwrap()
}

fn good() -> Vec<u8> {
    open(Field::Stdout).to_bytes().unwrap()
}

fn refused(bytes: &[u8]) -> &'static str {
    let opened = Opening::from_bytes(bytes).and_then(|opening| opening.check(&committed()));
    opened.map_or_else(|refusal| refusal.name(), |_| "accepted")
}

fn changed(change: impl FnOnce(&mut Opening)) -> &'static str {
    let mut opening = open(Field::Stdout);
    change(&mut opening);
    refused(&opening.to_bytes().unwrap())
}

#[test]
fn each_field_opens_to_what_was_committed_to() {
    for field in Field::ALL {
        let bytes = open(field).to_bytes().unwrap();
        let opening = Opening::from_bytes(&bytes).unwrap();
        assert_eq!(opening.check(&committed()), Ok((field, VALUE.to_vec())));
        assert_eq!(opening.to_bytes().unwrap(), bytes);
    }
}

#[test]
fn one_opening_says_nothing_about_the_other_fields() {
    // The formula of the page. Its input is not in an opening.
    for field in Field::ALL {
        let by_hand = [b"mvm-salt-v1\n".as_slice(), field.name().as_bytes(), b"\n", &[7; 32]].concat();
        assert_eq!(salt().of_field(field).to_hex(), Digest::of(&by_hand).to_string());
    }
    // With the salt of one of them, and even with the right value, no other one opens.
    for (shown, other) in Field::ALL.into_iter().flat_map(|shown| Field::ALL.map(|other| (shown, other))) {
        let opened = Opening::new(&committed(), other, &salt().of_field(shown), VALUE);
        assert_eq!(opened.is_ok(), shown == other, "{shown:?} {other:?}");
    }
}

#[test]
fn what_was_not_committed_to_is_refused() {
    assert_eq!(changed(|_| {}), "accepted");
    assert_eq!(changed(|opening| opening.field = "stderr".to_owned()), "wrong-opening");
    assert_eq!(changed(|opening| opening.field = "secrets".to_owned()), "wrong-opening");
    assert_eq!(changed(|opening| opening.run_id = "run-other".to_owned()), "wrong-opening");
    assert_eq!(changed(|opening| opening.kind = "urn:mvm:opening:v2".to_owned()), "wrong-opening");
    assert_eq!(changed(|opening| opening.value = STANDARD.encode("no\n")), "wrong-opening");
    assert_eq!(changed(|opening| opening.value = String::new()), "wrong-opening");
    assert_eq!(changed(|opening| opening.value = "no base64".to_owned()), "wrong-opening");
    // The same bytes in another spelling of base64.
    assert_eq!(changed(|opening| opening.value = opening.value.trim_end_matches('=').to_owned()), "wrong-opening");
    assert_eq!(changed(|opening| opening.salt = salt().to_hex()), "wrong-opening");
    assert_eq!(changed(|opening| opening.salt = opening.salt.to_uppercase()), "wrong-opening");
    assert_eq!(changed(|opening| opening.salt.truncate(62)), "wrong-opening");
    let mut other = committed();
    other.run.run_id = "run-other".to_owned();
    assert!(open(Field::Stdout).check(&other).is_err());
    assert!(Opening::new(&committed(), Field::Stdout, &salt().of_field(Field::Stdout), b"no\n").is_err());
}

#[test]
fn an_opening_has_one_spelling() {
    let text = String::from_utf8(good()).unwrap();
    let with = |from: &str, to: &str| refused(text.replacen(from, to, 1).as_bytes());
    assert_eq!(refused(text.trim_end().as_bytes()), "not-canonical");
    assert_eq!(refused(format!("{text}\n").as_bytes()), "not-canonical");
    assert_eq!(with("{", "{ "), "not-canonical");
    assert_eq!(with("stdout", "\\u0073tdout"), "not-canonical");
    assert_eq!(with("{", "{\"note\":1,"), "unknown-field");
    assert_eq!(with("\"field\":\"stdout\",", ""), "wrong-shape");
    assert_eq!(with("{", "{\"field\":\"stdout\","), "wrong-shape");
    assert_eq!(with("\"stdout\"", "7"), "wrong-shape");
    assert_eq!(refused(b"[]\n"), "wrong-shape");
    assert_eq!(refused(b"\n"), "not-json");
    assert_eq!(refused(b""), "not-canonical");
    assert_eq!(refused(&[0xff, b'\n']), "not-json");
}

#[test]
fn every_flipped_bit_every_truncation_and_every_added_byte_is_refused() {
    let bytes = good();
    assert_eq!(refused(&bytes), "accepted");
    for index in 0..bytes.len() {
        assert_ne!(refused(&bytes[..index]), "accepted", "{index} bytes");
        for bit in 0..8 {
            let mut copy = bytes.clone();
            copy[index] ^= 1 << bit;
            assert_ne!(refused(&copy), "accepted", "bit {bit} of byte {index}");
        }
    }
    for added in 0..=255u8 {
        assert_ne!(refused(&[bytes.as_slice(), &[added]].concat()), "accepted", "{added} behind");
        assert_ne!(refused(&[&[added], bytes.as_slice()].concat()), "accepted", "{added} before");
    }
}

#[test]
fn what_is_too_long_is_not_looked_at() {
    assert_eq!(refused(&vec![b' '; MAX_OPENING + 1]), "too-large");
    // Whatever can be opened has an opening that is read.
    let longest = vec![b'x'; MAX_VALUE];
    let mut statement = statement();
    let salt = salt().of_field(Field::Stdout);
    statement.commitments.stdout = commit(Field::Stdout, &salt, &longest);
    let bytes = Opening::new(&statement, Field::Stdout, &salt, &longest).unwrap().to_bytes().unwrap();
    let opening = Opening::from_bytes(&bytes).unwrap();
    assert_eq!(opening.check(&statement).map(|(field, value)| (field, value.len())), Ok((Field::Stdout, MAX_VALUE)));
    let longer = vec![b'x'; MAX_VALUE + 1];
    let refusal = Opening::new(&statement, Field::Stdout, &salt, &longer).unwrap_err();
    assert_eq!(refusal.name(), "too-large");
}

proptest! {
    #[test]
    fn no_bytes_are_accepted_or_panic(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
        prop_assert_ne!(refused(&bytes), "accepted");
    }

    #[test]
    fn no_splice_of_a_good_opening_is_accepted(from in 0usize..300, length in 0usize..40, with in "[ -~]{0,40}") {
        let good = good();
        let from = from.min(good.len());
        let spliced = [&good[..from], with.as_bytes(), &good[(from + length).min(good.len())..]].concat();
        prop_assume!(spliced != good);
        prop_assert_ne!(refused(&spliced), "accepted");
    }

    #[test]
    fn any_value_is_opened(value in proptest::collection::vec(any::<u8>(), 0..300), salt in any::<[u8; 32]>()) {
        let mut statement = statement();
        let salt = Salt::from_bytes(salt).of_field(Field::Stderr);
        statement.commitments.stderr = commit(Field::Stderr, &salt, &value);
        let bytes = Opening::new(&statement, Field::Stderr, &salt, &value).unwrap().to_bytes().unwrap();
        prop_assert_eq!(Opening::from_bytes(&bytes).unwrap().check(&statement), Ok((Field::Stderr, value)));
    }
}
