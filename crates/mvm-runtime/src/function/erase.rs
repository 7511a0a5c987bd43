//! TypeScript without its types: JavaScript in which everything stands where it stood, by the parser that Node.js has for it.
//!
//! That parser holds what people write to no bounds: there are small texts that take it hours, and deep ones that end its
//! process. So it reads each module in a process of its own, which has little memory and time, and no more than the text.

use std::io::{Read, Write};
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex};

use mvm_ir::declare::{Problem, problem};
use mvm_wire::ErrorCode;
use rustix::process::{Resource, Rlimit, setrlimit};
use serde::{Deserialize, Serialize};
use swc_common::errors::{DiagnosticBuilder, Emitter, HANDLER, Handler};
use swc_common::sync::Lrc;
use swc_common::{BytePos, GLOBALS, Globals, SourceMap};
use swc_ts_fast_strip::{Options, operate};

use crate::error::{Error, IoContext, Result};

/// The verb that does it.
const VERB: &str = "erase-types";
/// The largest module, in bytes.
const MAX_TEXT: u64 = 1 << 20;
/// The most problems of a module that are told of.
const MAX_PROBLEMS: usize = 20;
/// What a process has of memory, and what of that its stack is, in bytes.
const MEMORY: u64 = 1 << 30;
const STACK: usize = 64 << 20;
/// Seconds that it may compute. Modules that people write take milliseconds.
const SECONDS: u64 = 10;

/// What becomes of a module.
#[derive(Serialize, Deserialize)]
enum Answer {
    Erased(String),
    Refused(Vec<Refusal>),
}

/// What the parser says, and the bytes that it says it of.
#[derive(Serialize, Deserialize)]
struct Refusal {
    start: usize,
    end: usize,
    why: String,
}

/// Takes the types out of the module at `path`, which errors name.
///
/// # Errors
///
/// `InvalidRequest` with all that is wrong with it, if it is more than JavaScript with types.
pub fn erased(path: &str, text: &[u8]) -> Result<String> {
    let cannot = || format!("cannot take the types out of {path}");
    let refused = |why: String| {
        Error::new(ErrorCode::InvalidRequest, cannot(), why)
            .hint("write it as tsc takes it with erasableSyntaxOnly, or leave the file out with exclude")
    };
    if text.len() as u64 > MAX_TEXT {
        return Err(refused(format!("it is larger than {} KiB", MAX_TEXT >> 10)));
    }
    let text = std::str::from_utf8(text).map_err(|_| refused("it is not UTF-8".to_owned()))?;
    let answer = ask(text).context(cannot)?;
    match answer.and_then(|answer| serde_json::from_slice(&answer).ok()) {
        Some(Answer::Erased(code)) => Ok(code),
        Some(Answer::Refused(refusals)) => {
            let shown = |refusal: Refusal| format!("{path}:{}", told(text, refusal));
            Err(refused(refusals.into_iter().map(shown).collect::<Vec<_>>().join("\n")))
        }
        None => Err(refused("it is too tangled to be read".to_owned())),
    }
}

fn told(text: &str, refusal: Refusal) -> Problem {
    problem(text, refusal.start..refusal.end, refusal.why, "write it as JavaScript with types")
}

/// What the other process says of a text; nothing if it came to an end of its own.
fn ask(text: &str) -> std::io::Result<Option<Vec<u8>>> {
    let mut child = Command::new(std::env::current_exe()?)
        .arg(VERB)
        .env_clear()
        .current_dir("/")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()?;
    // It reads all of it before it says anything, and what it does not take says enough.
    let sent = child.stdin.take().map(|mut stdin| stdin.write_all(text.as_bytes()));
    let mut answer = Vec::new();
    let read = child.stdout.take().map(|stdout| stdout.take(MEMORY).read_to_end(&mut answer));
    let ended = child.wait()?;
    let whole = ended.success() && matches!((sent, read), (Some(Ok(())), Some(Ok(_))));
    Ok(whole.then_some(answer))
}

/// What `mvmctl erase-types` does, and nothing else in its process: reads a module from standard input and says what becomes of
/// it on standard output.
///
/// # Errors
///
/// What keeps it from reading, writing or having its bounds.
pub fn erase() -> Result<()> {
    let what = || "cannot take the types out of a module".to_owned();
    let most = |most| Rlimit { current: Some(most), maximum: Some(most) };
    for (resource, limit) in [(Resource::As, MEMORY), (Resource::Cpu, SECONDS), (Resource::Core, 0)] {
        setrlimit(resource, most(limit)).context(what)?;
    }
    let mut text = String::new();
    std::io::stdin().take(MAX_TEXT).read_to_string(&mut text).context(what)?;
    let parsing = std::thread::Builder::new().stack_size(STACK).spawn(|| answer(text)).context(what)?;
    let answer = parsing.join().map_err(|_| Error::internal(what(), "the parser has given up"))?;
    let answer = serde_json::to_vec(&answer).map_err(|e| Error::internal(what(), e))?;
    std::io::stdout().write_all(&answer).context(what)
}

fn answer(text: String) -> Answer {
    let (map, said) = (Lrc::new(SourceMap::default()), Said::default());
    let handler = Handler::with_emitter(true, false, Box::new(said.clone()));
    let options = Options { module: Some(true), ..Options::default() };
    let work = || HANDLER.set(&handler, || operate(&map, &handler, text, options));
    match GLOBALS.set(&Globals::new(), work) {
        Ok(output) => Answer::Erased(output.code),
        Err(error) => {
            let mut said = said.0.lock().map(|mut said| std::mem::take(&mut *said)).unwrap_or_default();
            if said.is_empty() {
                said.push(Refusal { start: 0, end: 0, why: error.message });
            }
            Answer::Refused(said)
        }
    }
}

/// What the parser has said.
#[derive(Clone, Default)]
struct Said(Arc<Mutex<Vec<Refusal>>>);

impl Emitter for Said {
    fn emit(&mut self, said: &mut DiagnosticBuilder<'_>) {
        // Positions are of a map of all texts, of which this is the first: it begins at 1.
        let at = |place: BytePos| place.0.saturating_sub(1) as usize;
        let (start, end) = said.span.primary_span().map_or((0, 0), |span| (at(span.lo), at(span.hi)));
        if let Ok(mut all) = self.0.lock() {
            if all.len() < MAX_PROBLEMS {
                all.push(Refusal { start, end, why: said.message() });
            }
        }
    }
}
