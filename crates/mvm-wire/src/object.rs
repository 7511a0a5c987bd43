//! Objects of JSON that are nothing else.

use std::fmt;
use std::marker::PhantomData;

use serde::de::value::MapAccessDeserializer;
use serde::de::{Deserialize, Deserializer, MapAccess, Visitor};

/// A value that is read from an object only. What serde derives would also take a list with the fields in their order.
#[derive(Debug)]
pub struct Object<T>(pub T);

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Object<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(Fields(PhantomData)).map(Object)
    }
}

struct Fields<T>(PhantomData<T>);

impl<'de, T: Deserialize<'de>> Visitor<'de> for Fields<T> {
    type Value = T;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<T, A::Error> {
        T::deserialize(MapAccessDeserializer::new(map))
    }
}

/// The same for a field that may be null.
pub fn optional<'de, T: Deserialize<'de>, D: Deserializer<'de>>(deserializer: D) -> Result<Option<T>, D::Error> {
    Ok(Option::<Object<T>>::deserialize(deserializer)?.map(|object| object.0))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::{JobRequest, KeepRequest, TerminalSize};

    fn read<'a, T: Deserialize<'a>>(text: &'a str) -> serde_json::Result<T> {
        serde_json::from_str(text).map(|Object(value)| value)
    }

    #[test]
    fn a_list_is_no_object() {
        assert_eq!(read::<KeepRequest>(r#"{"ttl_ms": 5}"#).unwrap().ttl_ms, 5);
        for text in ["[5, null]", "[]", "5", "null", "\"x\"", r#"{"ttl_ms": 5, "more": 1}"#, r#"{"ttl_ms": "5"}"#] {
            assert!(read::<KeepRequest>(text).is_err(), "{text}");
        }
    }

    #[test]
    fn nor_is_it_inside_of_one() {
        let size = |text: &str| read::<JobRequest>(text).map(|request| request.tty);
        assert_eq!(size(r#"{"tty": {"rows": 1, "cols": 2}}"#).unwrap(), Some(TerminalSize { rows: 1, cols: 2 }));
        assert_eq!(size(r#"{"tty": null}"#).unwrap(), None);
        assert_eq!(size("{}").unwrap(), None);
        assert!(size(r#"{"tty": [1, 2]}"#).is_err());
    }
}
