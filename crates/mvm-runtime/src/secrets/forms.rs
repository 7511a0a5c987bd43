//! The forms in which a value turns up in output: itself, its lines, and what common encodings make of it.

use std::collections::BTreeMap;

use base64::Engine;
use base64::engine::general_purpose::{STANDARD_NO_PAD, URL_SAFE_NO_PAD};

use super::MIN_VALUE;

/// All forms of a value, each at least as long as the shortest value. True with those into which tools put line ends:
/// base64 and hex.
pub fn of(value: &str) -> BTreeMap<Vec<u8>, bool> {
    let bytes = value.as_bytes();
    let mut plain = vec![bytes.to_vec()];
    plain.extend(lines(value).map(|line| line.as_bytes().to_vec()));
    let escaped: Vec<Vec<u8>> =
        [value].into_iter().chain(lines(value)).flat_map(json).map(String::into_bytes).collect();
    plain.extend(escaped);
    plain.extend(percent(bytes));
    let mut forms: BTreeMap<Vec<u8>, bool> = plain.into_iter().map(|form| (form, false)).collect();
    let digits = hex::encode(bytes);
    let wrapped = base64(bytes).into_iter().chain([digits.to_ascii_uppercase(), digits]);
    forms.extend(wrapped.map(|form| (form.into_bytes(), true)));
    forms.retain(|form, _| form.len() >= MIN_VALUE);
    forms
}

/// Lines that are long enough, without the blanks around them: a key is often printed line by line.
fn lines(value: &str) -> impl Iterator<Item = &str> {
    value.lines().map(str::trim).filter(|line| line.len() >= MIN_VALUE)
}

/// As the text of a JSON string: with other letters than ASCII as they are or as `\u`, with `/` as it is or escaped.
fn json(text: &str) -> Vec<String> {
    let quoted = serde_json::to_string(text).unwrap_or_default();
    let plain = quoted[1..quoted.len() - 1].to_owned();
    let mut units = [0; 2];
    let ascii = plain.chars().map(|c| match c.is_ascii() {
        true => c.to_string(),
        false => c.encode_utf16(&mut units).iter().map(|unit| format!("\\u{unit:04x}")).collect(),
    });
    let ascii: String = ascii.collect();
    let slashed = [&plain, &ascii].map(|form| form.replace('/', "\\/"));
    [plain, ascii].into_iter().chain(slashed).collect()
}

/// Percent-encoded as common libraries do it, which differ in what they leave as it is, and with all of it encoded.
fn percent(bytes: &[u8]) -> Vec<Vec<u8>> {
    const KEPT: [&[u8]; 7] =
        [b"", b"-._~", b"-._~/", b"-._~!*'()", b"*-._", b"-._~!*'();/?:@&=+$,#", b"-._~!$&'()*+,;=:@/"];
    let encode = |kept: Option<&[u8]>, plus: bool, digits: &[u8; 16]| {
        let mut form = Vec::new();
        for byte in bytes {
            match byte {
                b' ' if plus => form.push(b'+'),
                b if kept.is_some_and(|kept| b.is_ascii_alphanumeric() || kept.contains(b)) => form.push(*b),
                b => form.extend([b'%', digits[usize::from(b >> 4)], digits[usize::from(b & 15)]]),
            }
        }
        form
    };
    let mut forms = Vec::new();
    for digits in [b"0123456789ABCDEF", b"0123456789abcdef"] {
        forms.push(encode(None, false, digits));
        for kept in KEPT {
            forms.extend([false, true].map(|plus| encode(Some(kept), plus, digits)));
        }
    }
    forms
}

/// In base64, wherever in the encoded bytes the value begins: the characters that it determines alone.
fn base64(bytes: &[u8]) -> Vec<String> {
    let mut forms = Vec::new();
    for before in 0..3 {
        let text = [&[0; 2][..before], bytes].concat();
        let (start, end) = ((before * 8).div_ceil(6), text.len() * 8 / 6);
        for engine in [STANDARD_NO_PAD, URL_SAFE_NO_PAD] {
            forms.push(engine.encode(&text)[start..end].to_owned());
        }
    }
    forms
}

#[cfg(test)]
mod tests {
    use super::*;

    fn has(value: &str, form: &str) -> bool {
        of(value).contains_key(form.as_bytes())
    }

    #[test]
    fn encodings_are_what_other_tools_print() {
        let value = "p@ss w/ü\"x";
        assert!(has(value, value));
        assert!(has(value, "p%40ss%20w%2F%C3%BC%22x"), "python's quote with nothing safe");
        assert!(has(value, "p%40ss%20w/%C3%BC%22x"), "python's quote");
        assert!(has(value, "p%40ss+w%2F%C3%BC%22x"), "forms");
        assert!(has(value, "p%40ss%20w%2f%c3%bc%22x"));
        assert!(has(value, "%70%40%73%73%20%77%2F%C3%BC%22%78"));
        assert!(has(value, "p@ss w/ü\\\"x"), "JSON");
        assert!(has(value, "p@ss w/\\u00fc\\\"x"), "python's JSON");
        assert!(has(value, "p@ss w\\/\\u00fc\\\"x"), "PHP's JSON");
        assert!(has(value, "70407373 20772fc3bc2278".replace(' ', "").as_str()));
        assert!(has(value, "7040737320772FC3BC2278"));
    }

    #[test]
    fn base64_is_found_wherever_the_value_begins() {
        let value = "s3cret>?value";
        for before in ["", "u", "us", "use", "user:"] {
            for after in ["", "\n", "xy", "xyz"] {
                let text = format!("{before}{value}{after}");
                for engine in [STANDARD_NO_PAD, URL_SAFE_NO_PAD] {
                    let encoded = engine.encode(&text);
                    let forms = of(value);
                    let found = forms.keys().any(|form| encoded.contains(std::str::from_utf8(form).unwrap()));
                    assert!(found, "{text}: {encoded}");
                }
            }
        }
        assert!(of("12345678").keys().all(|form| form.len() >= MIN_VALUE));
    }

    #[test]
    fn long_lines_are_forms_of_their_own() {
        let value = "-----BEGIN KEY-----\n  MIIEvQIBADANBgkq  \r\nshort\nline/with slash\n";
        for line in ["-----BEGIN KEY-----", "MIIEvQIBADANBgkq", "line/with slash", "line\\/with slash"] {
            assert!(has(value, line), "{line}");
        }
        assert!(!has(value, "short"));
        assert!(has(value, "-----BEGIN KEY-----\\n  MIIEvQIBADANBgkq  \\r\\nshort\\nline/with slash\\n"));
    }
}
