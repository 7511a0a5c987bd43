//! RFC 8785 (JSON Canonicalization Scheme), for the values that mvm's documents hold: strings, booleans, null, integers
//! that every JSON reader holds exactly, arrays and objects. A float is an error, because no document has one.

use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::refusal::{Part, Refusal};

/// The largest integer that a double holds exactly together with all below it: 2^53 - 1.
pub const MAX_INTEGER: u64 = (1 << 53) - 1;

/// Deeper than any document of ours.
const MAX_DEPTH: usize = 32;

/// Why a value has no canonical form here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NotCanonicalizable(String);

impl std::fmt::Display for NotCanonicalizable {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for NotCanonicalizable {}

/// The canonical JSON of a value.
pub fn to_vec<T: Serialize + ?Sized>(value: &T) -> Result<Vec<u8>, NotCanonicalizable> {
    let value = serde_json::to_value(value).map_err(|e| NotCanonicalizable(e.to_string()))?;
    let mut out = Vec::new();
    write(&value, 0, &mut out)?;
    Ok(out)
}

/// Reads a value of known type, and only from the bytes that [`to_vec`] makes of it.
pub(crate) fn from_slice<T: Serialize + DeserializeOwned>(part: Part, bytes: &[u8]) -> Result<T, Refusal> {
    let value = serde_json::from_slice(bytes).map_err(|e| Refusal::json(part, &e))?;
    match to_vec(&value) {
        Ok(canonical) if canonical == bytes => Ok(value),
        Ok(_) => Err(Refusal::NotCanonical(part)),
        Err(why) => Err(Refusal::bounds(part, why.0)),
    }
}

fn write(value: &Value, depth: usize, out: &mut Vec<u8>) -> Result<(), NotCanonicalizable> {
    if depth > MAX_DEPTH {
        return Err(NotCanonicalizable("nested too deeply".to_owned()));
    }
    match value {
        Value::Null => out.extend_from_slice(b"null"),
        Value::Bool(true) => out.extend_from_slice(b"true"),
        Value::Bool(false) => out.extend_from_slice(b"false"),
        Value::Number(number) => {
            let magnitude = number.as_u64().or_else(|| number.as_i64().map(i64::unsigned_abs));
            match magnitude {
                Some(0..=MAX_INTEGER) => out.extend_from_slice(number.to_string().as_bytes()),
                Some(_) => return Err(NotCanonicalizable(format!("{number} is an integer beyond 2^53 - 1"))),
                None => return Err(NotCanonicalizable(format!("{number} is not an integer"))),
            }
        }
        Value::String(text) => write_string(text, out),
        Value::Array(items) => {
            out.push(b'[');
            for (index, item) in items.iter().enumerate() {
                if index > 0 {
                    out.push(b',');
                }
                write(item, depth + 1, out)?;
            }
            out.push(b']');
        }
        Value::Object(map) => write_object(map, depth, out)?,
    }
    Ok(())
}

fn write_object(
    map: &serde_json::Map<String, Value>,
    depth: usize,
    out: &mut Vec<u8>,
) -> Result<(), NotCanonicalizable> {
    let mut members: Vec<_> = map.iter().collect();
    // By UTF-16 code units, which is another order than by bytes beyond U+D7FF.
    members.sort_by(|(a, _), (b, _)| a.encode_utf16().cmp(b.encode_utf16()));
    out.push(b'{');
    for (index, (name, value)) in members.into_iter().enumerate() {
        if index > 0 {
            out.push(b',');
        }
        write_string(name, out);
        out.push(b':');
        write(value, depth + 1, out)?;
    }
    out.push(b'}');
    Ok(())
}

/// As ECMAScript's `JSON.stringify` does it, which the RFC asks for.
fn write_string(text: &str, out: &mut Vec<u8>) {
    out.push(b'"');
    for c in text.chars() {
        match c {
            '"' => out.extend_from_slice(b"\\\""),
            '\\' => out.extend_from_slice(b"\\\\"),
            '\u{8}' => out.extend_from_slice(b"\\b"),
            '\t' => out.extend_from_slice(b"\\t"),
            '\n' => out.extend_from_slice(b"\\n"),
            '\u{c}' => out.extend_from_slice(b"\\f"),
            '\r' => out.extend_from_slice(b"\\r"),
            c if c < ' ' => out.extend_from_slice(format!("\\u{:04x}", c as u32).as_bytes()),
            c => out.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes()),
        }
    }
    out.push(b'"');
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn text(value: &Value) -> String {
        String::from_utf8(to_vec(value).unwrap()).unwrap()
    }

    #[test]
    fn the_rfcs_example_of_sorting() {
        let value = json!({"\u{20ac}": "Euro Sign", "\r": "Carriage Return", "\u{fb33}": "Hebrew Letter Dalet With Dagesh",
            "1": "One", "\u{1f600}": "Emoji: Grinning Face", "\u{80}": "Control", "\u{f6}": "Latin Small Letter O With Diaeresis"});
        let canonical = text(&value);
        let places: Vec<_> = ["Carriage", "One", "Control", "Latin", "Euro", "Emoji", "Hebrew"]
            .map(|word| canonical.find(word).unwrap())
            .to_vec();
        assert!(places.is_sorted(), "{canonical}");
    }

    #[test]
    fn the_rfcs_example_of_strings_and_literals() {
        let value = json!({"string": "\u{20ac}$\u{f}\nA'B\"\\\\\"/", "literals": [null, true, false]});
        assert_eq!(
            text(&value),
            "{\"literals\":[null,true,false],\"string\":\"\u{20ac}$\\u000f\\nA'B\\\"\\\\\\\\\\\"/\"}"
        );
        assert_eq!(text(&json!("\u{8}\t\u{c}\r\u{7f}\u{1f}")), "\"\\b\\t\\f\\r\u{7f}\\u001f\"");
        assert_eq!(text(&json!([])) + &text(&json!({})), "[]{}");
    }

    #[test]
    fn numbers_are_integers_that_every_reader_holds() {
        assert_eq!(
            text(&json!([0, -1, MAX_INTEGER, -(MAX_INTEGER as i64)])),
            "[0,-1,9007199254740991,-9007199254740991]"
        );
        for bad in [json!(1.5), json!(1e300), json!(MAX_INTEGER + 1), json!(-(MAX_INTEGER as i64) - 1), json!(u64::MAX)]
        {
            assert!(to_vec(&bad).is_err(), "{bad}");
        }
        assert!(to_vec(&1.0f64).is_err());
        assert!(to_vec(&i64::MIN).is_err());
    }

    #[test]
    fn depth_is_bounded() {
        let nested = |depth: usize| (0..depth).fold(json!(1), |inner, _| json!([inner]));
        assert!(to_vec(&nested(MAX_DEPTH)).is_ok());
        assert!(to_vec(&nested(MAX_DEPTH + 1)).is_err());
    }
}
