//! Declarations: what a file of Python or TypeScript says of a workload, read from its syntax tree.
//!
//! Nothing of the file is imported or run. So what counts is what stands there: literals, constants of the same file, and the
//! calls that `table` lists. Whatever else is in a declaration is a [`Problem`], with its place and what to write instead.
//!
//! Both languages come to one tree of values (`tree`), of which `document` makes the JSON that [`crate::read`] would take.

mod document;
mod memory;
mod names;
mod python;
mod source;
mod syntax;
mod table;
mod tree;
mod typescript;

use std::collections::BTreeMap;
use std::fmt;
use std::ops::Range;

use crate::model::Workload;
use python::Python;
use source::Source;
use tree::Found;
use typescript::TypeScript;

/// The largest file that is read, in bytes. What makes the parser's work the hardest takes seconds then.
pub const MAX_BYTES: usize = 256 << 10;
/// The most problems that are told of at once.
const MAX_PROBLEMS: usize = 20;

/// The language that a file is written in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Language {
    /// `.py`: `@mvm.app(name="web")` above a function.
    Python,
    /// `.ts`: `mvm.app({ name: 'web' })(function)` as a statement or the value of a constant.
    TypeScript,
}

/// A place in a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Place {
    /// The line, from 1. Lines end with LF or CRLF.
    pub line: u32,
    /// The column, from 1, in characters: Unicode scalar values. A byte order mark is none.
    pub column: u32,
}

/// A directory that a declaration takes its source tree from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LocalPath {
    /// As it is written. It is not empty and has no NUL; what it is relative to is for the caller to say.
    pub path: String,
    /// Where it is written.
    pub place: Place,
}

/// What a file declares.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Declaration {
    /// The workload. If it has a source, that has patterns and no files yet.
    pub workload: Workload,
    /// Where the files of its source are; there if the workload has a source.
    pub local_path: Option<LocalPath>,
    /// Where each part of the document was declared, by its pointer.
    places: BTreeMap<String, Place>,
}

impl Declaration {
    /// Where a part of the document was declared, by its JSON pointer; of a part that was not, where what it is a part of was.
    pub fn place(&self, pointer: &str) -> Place {
        let start = Place { line: 1, column: 1 };
        nearest(&self.places, pointer).copied().unwrap_or(start)
    }
}

/// What a map has for a pointer, or for the nearest one above it.
fn nearest<'a, T>(map: &'a BTreeMap<String, T>, mut pointer: &str) -> Option<&'a T> {
    loop {
        match (map.get(pointer), pointer.rfind('/')) {
            (Some(found), _) => return Some(found),
            (None, Some(above)) => pointer = &pointer[..above],
            (None, None) => return None,
        }
    }
}

/// Why a file declares nothing that can be used.
///
/// No value of the file is in it but names, and what [`source_line`](Problem::source_line) shows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// Where it is.
    pub place: Place,
    /// The line there, or up to 200 characters of it. A terminal shows it and does nothing else: control characters are
    /// replaced. So are texts in `env`, `literal()` and `secret()`, which may be credentials: by `…`.
    pub source_line: String,
    /// How many characters of `source_line` are before the place.
    pub caret: usize,
    /// How many characters of `source_line` it takes, at least 1.
    pub width: usize,
    /// What is wrong.
    pub why: String,
    /// What to do about it: an imperative.
    pub instead: String,
}

/// Four lines without the name of the file, which belongs in front of them.
impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}:{}: {}", self.place.line, self.place.column, self.why)?;
        writeln!(f, "  {}", self.source_line)?;
        writeln!(f, "  {}{}", " ".repeat(self.caret), "^".repeat(self.width))?;
        write!(f, "  try: {}", self.instead)
    }
}

impl std::error::Error for Problem {}

/// Something wrong at some bytes of a file.
struct Finding {
    at: Range<usize>,
    why: String,
    instead: String,
}

impl Finding {
    fn new(at: Range<usize>, why: impl Into<String>, instead: impl Into<String>) -> Finding {
        Finding { at, why: why.into(), instead: instead.into() }
    }
}

/// What is wrong with some bytes of a text, as it is shown: for what others say of it.
pub fn problem(text: &str, at: Range<usize>, why: String, instead: &str) -> Problem {
    let boundary = |at: usize| (0..=at.min(text.len())).rev().find(|at| text.is_char_boundary(*at)).unwrap_or_default();
    let at = boundary(at.start)..boundary(at.end.max(at.start));
    Source::new(text).problem(&Finding::new(at, why, instead), &[])
}

/// Reads what a file declares; nothing if it has no `app` of mvm in it, as a script that makes its sandboxes itself.
///
/// Takes UTF-8 of at most [`MAX_BYTES`], and parses it on a thread with a stack for that. Errors: what is wrong with the file, in
/// the order of place, 20 at most. A file with a syntax error is one, whether or not it declares anything.
pub fn declaration(language: Language, source: &[u8]) -> Result<Option<Declaration>, Vec<Problem>> {
    let bytes = source.strip_prefix("\u{feff}".as_bytes()).unwrap_or(source);
    let text = source::sound(language, bytes).map_err(|finding| {
        let shown = String::from_utf8_lossy(&bytes[..bytes.len().min(MAX_BYTES)]);
        vec![Source::new(&shown).problem(&finding, &[])]
    })?;
    let source = Source::new(text);
    let Found { call, mut findings, hidden } = match language {
        Language::Python => tree::read::<Python>(&source),
        Language::TypeScript => tree::read::<TypeScript>(&source),
    };
    let declared = call.and_then(|call| document::declared(language, &call, &source, &mut findings));
    if findings.is_empty() {
        return Ok(declared);
    }
    findings.sort_by_key(|finding| (finding.at.start, finding.at.end));
    findings.dedup_by(|one, other| one.at == other.at && one.why == other.why);
    Err(findings.iter().take(MAX_PROBLEMS).map(|finding| source.problem(finding, &hidden)).collect())
}
