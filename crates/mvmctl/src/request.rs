//! `--request -`: a request as JSON on standard input, so that nothing of it appears among a process's arguments.

use std::io::{BufRead, Read};

use mvm_runtime::{Error, ErrorCode, Result};
use mvm_wire::object::Object;
use rustix::event::{PollFd, PollFlags, poll};
use rustix::process::{PidfdFlags, Signal, getpid, kill_process, pidfd_open};
use serde::de::DeserializeOwned;

/// The largest request that is read.
const MAX_BYTES: usize = 1 << 20;
/// Enough for a thread that does nothing but wait.
const WATCHER_STACK: usize = 64 << 10;

/// Reads a request that is all of standard input. `example` is a command line that sends one.
pub fn all<T: DeserializeOwned>(example: &str) -> Result<T> {
    read(example, |text| std::io::stdin().lock().take(MAX_BYTES as u64 + 1).read_to_end(text))
}

/// Reads a request that is the first line of standard input. What follows is left to [`crate::streams::input`], which takes it
/// from the same buffer.
pub fn line<T: DeserializeOwned>(example: &str) -> Result<T> {
    read(example, |text| std::io::stdin().lock().take(MAX_BYTES as u64 + 1).read_until(b'\n', text))
}

/// Has this process end when the one that started it does: what nobody waits for any more shall not go on. That process is
/// watched, not the thread of it that started this one, which may end before.
pub fn end_with_caller() -> Result<()> {
    let what = "cannot tie the run to its caller";
    let gone = || Error::new(ErrorCode::InvalidRequest, what, "it has gone");
    let pid = rustix::process::getppid().ok_or_else(gone)?;
    let caller = pidfd_open(pid, PidfdFlags::empty()).map_err(|_| gone())?;
    // The number may have been another process's by the time it was opened.
    if rustix::process::getppid() != Some(pid) {
        return Err(gone());
    }
    let watch = move || {
        while poll(&mut [PollFd::new(&caller, PollFlags::IN)], None).is_err() {}
        let _ = kill_process(getpid(), Signal::KILL);
    };
    let watcher = std::thread::Builder::new().name("caller".into()).stack_size(WATCHER_STACK).spawn(watch);
    watcher.map(drop).map_err(|e| Error::internal(what, e))
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
