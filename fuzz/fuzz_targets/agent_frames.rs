//! What a hostile guest, or a hostile host, sends over the agent channel: greetings, frames, messages.

#![no_main]

use libfuzzer_sys::fuzz_target;
use mvm_wire::frame::{HEADER_LEN, Kind, MAX_PAYLOAD, decode, header, message, parse_header};
use mvm_wire::guest::{Reply, Request};
use mvm_wire::hello::Scanner;

/// What decodes can be sent again, and then means the same.
fn survives<T>(kind: Kind, payload: &[u8])
where
    T: serde::Serialize + serde::de::DeserializeOwned + PartialEq + std::fmt::Debug,
{
    if let Ok(value) = decode::<T>(payload) {
        let again = message(kind, &value).expect("no longer than what it came in");
        assert_eq!(decode::<T>(&again[HEADER_LEN..]).as_ref(), Ok(&value));
    }
}

fuzz_target!(|data: &[u8]| {
    let mut scanner = Scanner::default();
    for byte in data {
        if let Some(hello) = scanner.push(*byte) {
            let _ = hello.answer().encode();
        }
    }
    let mut rest = data;
    while let Some((head, behind)) = rest.split_first_chunk::<HEADER_LEN>() {
        let Ok((kind, length)) = parse_header(*head) else { break };
        assert!(length <= MAX_PAYLOAD && header(kind, length) == *head);
        let Some((payload, next)) = behind.split_at_checked(length) else { break };
        match kind {
            Kind::Request => survives::<Request>(kind, payload),
            Kind::Reply => survives::<Reply>(kind, payload),
            Kind::Stdin | Kind::Stdout | Kind::Stderr | Kind::Mark => {}
        }
        rest = next;
    }
    survives::<Request>(Kind::Request, data);
    survives::<Reply>(Kind::Reply, data);
});
