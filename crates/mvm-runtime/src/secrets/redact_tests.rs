use base64::Engine;
use base64::engine::general_purpose::{STANDARD, URL_SAFE};
use proptest::prelude::*;

use super::*;

fn patterns(secrets: &[(&str, &str)]) -> Arc<Patterns> {
    let values: Vec<SecretValue> = secrets.iter().map(|(_, value)| value.to_string().into()).collect();
    Patterns::of(secrets.iter().map(|(name, _)| *name).zip(&values)).unwrap()
}

/// Redacts a text that comes in these pieces.
fn redact<'a>(patterns: &Arc<Patterns>, pieces: impl IntoIterator<Item = &'a [u8]>) -> (Vec<u8>, u64) {
    let mut redactor = Redactor::new(patterns.clone());
    let mut shown = Vec::new();
    for piece in pieces {
        redactor.push(piece, &mut shown);
    }
    redactor.flush(&mut shown);
    (shown, redactor.total())
}

fn whole(patterns: &Arc<Patterns>, text: &[u8]) -> String {
    String::from_utf8_lossy(&redact(patterns, [text]).0).into_owned()
}

fn contains(text: &[u8], part: &[u8]) -> bool {
    text.windows(part.len()).any(|window| window == part)
}

/// Cuts a text at these places.
fn cut<'a>(text: &'a [u8], places: &[usize]) -> Vec<&'a [u8]> {
    let mut places: Vec<usize> = places.iter().map(|place| place % (text.len() + 1)).collect();
    places.extend([0, text.len()]);
    places.sort_unstable();
    places.windows(2).map(|pair| &text[pair[0]..pair[1]]).collect()
}

/// Values as people have them, with letters that every encoding treats in its own way, and periodic ones.
fn values() -> impl Strategy<Value = String> {
    let any = "[a-zA-Z0-9/+=_.~%&? \"'\\\\üß€-]{8,80}";
    let lines = "[a-zA-Z0-9+/]{8,64}(\n[a-zA-Z0-9+/]{0,64}){1,4}";
    prop_oneof![any, lines, "(ab){4,20}", "a{8,40}", "\\PC{8,40}"].prop_filter("no value", |value| {
        super::super::check_value("TOKEN", value).is_ok() && !value.contains(['[', ']'])
    })
}

/// What a program may make of a value.
fn made_of(value: &str, encoding: usize) -> Vec<u8> {
    let before = |bytes: usize| [&b"us"[..bytes], value.as_bytes(), b"!"].concat();
    let upper = |text: String| text.to_ascii_uppercase();
    match encoding {
        0..=2 => STANDARD.encode(before(encoding)).into(),
        3..=5 => URL_SAFE.encode(before(encoding - 3)).into(),
        6 => wrap(&STANDARD.encode(before(1).repeat(3)), 76, "\n"),
        7 => wrap(&STANDARD.encode(before(2)), 20, "\r\n"),
        8 => hex::encode(value).into(),
        9 => upper(hex::encode(value)).into(),
        10 => wrap(&hex::encode(value), 60, "\n"),
        11 => value.bytes().map(|byte| format!("%{byte:02x}")).collect::<String>().into(),
        12 => percent_encoding::utf8_percent_encode(value, percent_encoding::NON_ALPHANUMERIC).to_string().into(),
        13 => serde_json::to_string(value).unwrap().into(),
        _ => value.into(),
    }
}

fn wrap(text: &str, width: usize, end: &str) -> Vec<u8> {
    text.as_bytes().chunks(width).collect::<Vec<_>>().join(end.as_bytes())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn no_form_of_a_value_comes_through_however_it_is_cut(
        value in values(),
        around in prop::collection::vec((any::<Vec<u8>>(), 0usize..16), 1..5),
        places in prop::collection::vec(any::<usize>(), 0..12),
    ) {
        let patterns = patterns(&[("TOKEN", &value)]);
        let mut text = Vec::new();
        for (bytes, encoding) in &around {
            text.extend_from_slice(bytes);
            text.extend(made_of(&value, *encoding));
        }
        let (redacted, count) = redact(&patterns, [text.as_slice()]);
        prop_assert!(count > 0);
        for form in forms::of(&value).keys() {
            prop_assert!(!contains(&redacted, form), "{:?}", String::from_utf8_lossy(form));
        }
        prop_assert_eq!(redact(&patterns, cut(&text, &places)), (redacted.clone(), count));
        prop_assert_eq!(redact(&patterns, text.chunks(1)), (redacted, count));
    }

    #[test]
    fn what_has_no_secret_in_it_is_not_touched(
        text in any::<Vec<u8>>(),
        places in prop::collection::vec(any::<usize>(), 0..12),
    ) {
        let patterns = patterns(&[("TOKEN", "correct horse battery"), ("OTHER", "staple\nstaple+staple/staple")]);
        prop_assert_eq!(redact(&patterns, cut(&text, &places)), (text, 0));
    }

    #[test]
    fn the_beginning_of_a_secret_is_not_taken_for_it(
        value in "[a-zA-Z0-9/+]{9,60}",
        all_but in 1usize..8,
        places in prop::collection::vec(any::<usize>(), 0..6),
    ) {
        let patterns = patterns(&[("TOKEN", &value)]);
        let text = [&value.as_bytes()[..value.len() - all_but], b"\0", &value.as_bytes()[all_but..]].concat();
        prop_assert_eq!(redact(&patterns, cut(&text, &places)), (text, 0));
    }

    #[test]
    fn several_secrets_are_told_apart(first in "[a-z0-9]{8,30}", second in "[A-Z0-9]{8,30}", chunk in 1usize..40) {
        let patterns = patterns(&[("A", &first), ("B", &second)]);
        let text = format!("{first}-{second}{first}");
        let mut redactor = Redactor::new(patterns);
        let mut shown = Vec::new();
        text.as_bytes().chunks(chunk).for_each(|piece| redactor.push(piece, &mut shown));
        redactor.flush(&mut shown);
        prop_assert!(!contains(&shown, first.as_bytes()) && !contains(&shown, second.as_bytes()));
        prop_assert_eq!(redactor.counts().values().sum::<u64>(), redactor.total());
    }
}

#[test]
fn the_longest_at_the_first_place_counts() {
    let patterns = patterns(&[("SHORT", "abcdefgh"), ("LONG", "abcdefghijkl"), ("LATER", "ijklmnop")]);
    assert_eq!(whole(&patterns, b"abcdefghijkl"), "[redacted:LONG]");
    assert_eq!(whole(&patterns, b"abcdefghijkX"), "[redacted:SHORT]ijkX");
    assert_eq!(whole(&patterns, b"xabcdefghijklmnop"), "x[redacted:LONG]mnop");
    assert_eq!(whole(&patterns, b"abcdefgijklmnop"), "abcdefg[redacted:LATER]");
}

#[test]
fn only_what_may_begin_a_secret_is_held() {
    let mut redactor = Redactor::new(patterns(&[("TOKEN", "s3cret-value")]));
    let mut shown = Vec::new();
    for (piece, so_far) in [
        (&b"prompt> "[..], "prompt> "),
        (b"s3c", "prompt> "),
        (b"R", "prompt> s3cR"),
        (b"xs3cret-", "prompt> s3cRx"),
        (b"valu", "prompt> s3cRx"),
        (b"e$ ", "prompt> s3cRx[redacted:TOKEN]$ "),
        (b"s3s3", "prompt> s3cRx[redacted:TOKEN]$ s3"),
    ] {
        redactor.push(piece, &mut shown);
        assert_eq!(String::from_utf8_lossy(&shown), so_far);
    }
    redactor.flush(&mut shown);
    assert!(shown.ends_with(b"$ s3s3"));
    assert_eq!(redactor.total(), 1);
}

#[test]
fn a_key_is_redacted_whole_and_line_by_line() {
    let key = "-----BEGIN KEY-----\nMIIEvQIBADANBgkqhkiG\nAoIBAQC7\n-----END KEY-----";
    let patterns = patterns(&[("KEY", key)]);
    assert_eq!(whole(&patterns, format!("<{key}>").as_bytes()), "<[redacted:KEY]>");
    let numbered = "1 -----BEGIN KEY-----\n2 MIIEvQIBADANBgkqhkiG\r\n3 AoIBAQC7\n";
    assert_eq!(whole(&patterns, numbered.as_bytes()), "1 [redacted:KEY]\n2 [redacted:KEY]\r\n3 [redacted:KEY]\n");
    let wrapped = wrap(&STANDARD.encode(key), 76, "\n");
    assert_eq!(whole(&patterns, &wrapped).matches("[redacted:KEY]").count(), 1);
    assert!(whole(&patterns, &wrapped).len() < 24, "{}", whole(&patterns, &wrapped));
}

#[test]
fn the_same_bytes_twice_are_two() {
    let patterns = patterns(&[("TOKEN", "aaaaaaaa")]);
    assert_eq!(redact(&patterns, [&b"a".repeat(17)[..]]), (b"[redacted:TOKEN][redacted:TOKEN]a".to_vec(), 2));
}

#[test]
fn what_is_held_counts_under_what_is_known_now() {
    let mut redactor = Redactor::new(patterns(&[("OLD", "12345678")]));
    let mut shown = Vec::new();
    redactor.push(b"123456", &mut shown);
    redactor.renew(&patterns(&[("OLD", "12345678"), ("NEW", "123456-new")]));
    redactor.push(b"-new", &mut shown);
    redactor.flush(&mut shown);
    assert_eq!(shown, b"[redacted:NEW]");
}

#[test]
fn large_values_take_memory_in_proportion() {
    let value: String = (0..64 << 10).map(|n| char::from(b'!' + (n * 7 + n / 89 * 3 + n / 4099) as u8 % 90)).collect();
    let patterns = patterns(&[("LARGE", &value)]);
    assert!(patterns.forms.iter().map(|form| form.bytes.len()).sum::<usize>() < 64 * value.len());
    assert!(patterns.finder.memory_usage() < 4 << 20, "{}", patterns.finder.memory_usage());
    let encoded = STANDARD.encode(&value);
    let (redacted, count) = redact(&patterns, encoded.as_bytes().chunks(4096));
    assert!(count == 1 && redacted.len() < 24);
}

#[test]
fn a_text_is_redacted_and_otherwise_borrowed() {
    let patterns = patterns(&[("TOKEN", "s3crét-value")]);
    assert!(matches!(patterns.text("nothing in é it s3cr"), Cow::Borrowed(_)));
    assert_eq!(patterns.text("é s3crét-value é"), "é [redacted:TOKEN] é");
    assert_eq!(format!("{patterns:?}"), "[\"TOKEN\"]");
}

#[test]
fn without_secrets_there_is_nothing_to_look_for() {
    assert!(Patterns::of(std::iter::empty()).is_none());
}
