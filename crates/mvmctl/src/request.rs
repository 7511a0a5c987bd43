//! `--request -`: a request as JSON on standard input, so that nothing of it appears among a process's arguments.

use std::io::{BufRead, Read};

use mvm_runtime::{Error, ErrorCode, Result};
use mvm_wire::object::Object;
use serde::de::DeserializeOwned;

/// The largest request that is read.
const MAX_BYTES: usize = 1 << 20;

/// Reads a request that is all of standard input. `example` is a command line that sends one.
pub fn all<T: DeserializeOwned>(example: &str) -> Result<T> {
    read(example, |text| std::io::stdin().lock().take(MAX_BYTES as u64 + 1).read_to_end(text))
}

/// Reads a request that is the first line of standard input. What follows is left to [`crate::streams::input`], which takes it
/// from the same buffer.
pub fn line<T: DeserializeOwned>(example: &str) -> Result<T> {
    read(example, |text| std::io::stdin().lock().take(MAX_BYTES as u64 + 1).read_until(b'\n', text))
}

/// Has this process end when the one that started it does: what nobody waits for any more shall not go on.
pub fn end_with_caller() -> Result<()> {
    rustix::process::set_parent_process_death_signal(Some(rustix::process::Signal::KILL))
        .map_err(|e| Error::internal("cannot tie the run to its caller", e))
}

fn read<T: DeserializeOwned>(example: &str, take: impl FnOnce(&mut Vec<u8>) -> std::io::Result<usize>) -> Result<T> {
    let invalid = |why: String| {
        Error::new(ErrorCode::InvalidRequest, "cannot understand the request on standard input", why).hint(example)
    };
    let mut text = Vec::new();
    take(&mut text).map_err(|e| invalid(e.to_string()))?;
    if text.len() > MAX_BYTES {
        return Err(invalid("it is larger than 1 MiB".to_owned()));
    }
    // The parser's message names the place, never a value.
    serde_json::from_slice(&text)
        .map(|Object(request)| request)
        .map_err(|e| invalid(format!("at line {}, column {}: {}", e.line(), e.column(), kind(&e))))
}

/// What is wrong with a request, without the text that is wrong: it may be a secret.
fn kind(e: &serde_json::Error) -> String {
    match e.classify() {
        serde_json::error::Category::Data => {
            let text = e.to_string();
            let field = text.strip_prefix("unknown field ").and_then(|rest| rest.split(',').next());
            field.map_or_else(|| "a value has another type than its field".to_owned(), |f| format!("unknown field {f}"))
        }
        serde_json::error::Category::Eof => "it ends too early".to_owned(),
        _ => "it is no JSON".to_owned(),
    }
}
