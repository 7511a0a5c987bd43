//! What verbs are given that work on workloads: a document, a bundle, a recording, a source file that declares one.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

use mvm_ir::Workload;
use mvm_ir::declare::{Language, Problem};
use mvm_runtime::bundle::{self, Bundle};
use mvm_runtime::text::harmless;
use mvm_runtime::{Error, ErrorCode, Result, packages, workload};
use serde_json::json;

use crate::{declared, output};

/// Why there is no workload: one thing, or whatever is wrong with a file that declares it.
pub enum Failure {
    /// One thing.
    Error(Error),
    /// Problems of a source file, one at least.
    Problems {
        /// The file.
        file: PathBuf,
        /// What is wrong.
        problems: Vec<Problem>,
    },
}

impl From<Error> for Failure {
    fn from(error: Error) -> Failure {
        Failure::Error(error)
    }
}

impl Failure {
    /// Says it, and returns the exit status.
    pub fn report(&self, as_json: bool) -> u8 {
        let (file, problems) = match self {
            Failure::Error(error) => return output::error(error, as_json),
            Failure::Problems { file, problems } => (file.display(), problems),
        };
        let count = output::count(problems.len() as u64, "problem", "problems");
        let error = Error::new(ErrorCode::InvalidRequest, format!("cannot read what {file} declares"), count);
        if as_json {
            let problem = |Problem { place, why, instead, .. }: &Problem| json!({ "line": place.line, "column": place.column, "why": why, "instead": instead });
            let listed: Vec<_> = problems.iter().map(problem).collect();
            output::line(&json!({ "error": output::error_object(&error), "problems": listed }).to_string());
        } else {
            problems.iter().for_each(|problem| eprintln!("{}", harmless(&format!("{file}:{problem}"))));
            output::error(&error, false);
        }
        error.code.exit_status()
    }
}

/// What there is of a workload, or why not.
pub type Found<T> = std::result::Result<T, Failure>;

/// The workload in a document, a bundle, on standard input (`-`), or that a source file declares.
pub fn workload(path: &Path) -> Found<Workload> {
    Ok(match read(path)? {
        Input::Document(bytes) => workload::read(&shown(path), &bytes)?,
        Input::Bundle => Bundle::read(path)?.workload().clone(),
        Input::Source(language) => declared(path, language, None)?.workload().clone(),
    })
}

/// The bundle at a place, a document with what lies beside it, or what a source file declares, of which `out` is made.
pub fn bundle(path: &Path, out: Option<&Path>) -> Found<Bundle> {
    Ok(match read(path)? {
        Input::Document(bytes) => beside(path, &bytes)?,
        Input::Bundle => Bundle::read(path)?,
        Input::Source(language) => declared(path, language, out)?,
    })
}

fn declared(path: &Path, language: Language, out: Option<&Path>) -> Found<Bundle> {
    declared::bundle(path, language, out)?.ok_or_else(|| {
        let what = format!("cannot read what {} declares", path.display());
        let hint =
            format!("mvmctl compile --record {} runs it on this host, and compiles what it would do", path.display());
        Error::new(ErrorCode::InvalidRequest, what, "it declares no workload").hint(hint).into()
    })
}

/// A document, with the contents that lie beside it if it is that of a bundle.
fn beside(path: &Path, bytes: &[u8]) -> Result<Bundle> {
    let workload = workload::read(&shown(path), bytes)?;
    let directory = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let is_of_bundle = path.file_name().is_some_and(|name| name == "workload.json");
    let is_locked = is_of_bundle && directory.join(packages::FILE).is_file();
    if workload.contents().next().is_none() && !is_locked {
        return Bundle::new(workload, BTreeMap::new());
    }
    if !is_of_bundle {
        let why = "it names contents, which are in a bundle and not in the document";
        return Err(Error::new(ErrorCode::InvalidRequest, cannot_read(path), why).hint("name the bundle"));
    }
    Bundle::read(directory)
}

/// The bundle of a recording.
pub fn recording(from: &str, bytes: &[u8]) -> Result<Bundle> {
    let lowered = workload::lower(from, bytes)?;
    Bundle::new(lowered.workload, lowered.contents)
}

/// The bytes of a file, or of standard input (`-`). `limit` is how many there may be: one too many is seen, and refused later.
pub fn bytes(path: &Path, limit: usize) -> Result<Vec<u8>> {
    let (limit, mut bytes) = (limit as u64 + 1, Vec::new());
    if is_stdin(path) {
        std::io::stdin().lock().take(limit).read_to_end(&mut bytes).map_err(|e| Error::io(cannot_read(path), e))?;
        return Ok(bytes);
    }
    let meta = std::fs::metadata(path).map_err(|e| Error::named(cannot_read(path), e))?;
    if !meta.is_file() {
        return Err(Error::new(ErrorCode::InvalidRequest, cannot_read(path), "it is no file"));
    }
    let file = File::open(path).map_err(|e| Error::io(cannot_read(path), e))?;
    file.take(limit).read_to_end(&mut bytes).map_err(|e| Error::io(cannot_read(path), e))?;
    Ok(bytes)
}

/// What a path is called in errors.
pub fn shown(path: &Path) -> String {
    if is_stdin(path) { "on standard input".to_owned() } else { path.display().to_string() }
}

enum Input {
    Document(Vec<u8>),
    Bundle,
    Source(Language),
}

fn read(path: &Path) -> Result<Input> {
    if is_stdin(path) {
        return Ok(Input::Document(bytes(path, mvm_ir::MAX_BYTES)?));
    }
    if path.is_dir() {
        return Ok(Input::Bundle);
    }
    if let Some(language) = declared::language(path) {
        return Ok(Input::Source(language));
    }
    let bytes = bytes(path, mvm_ir::MAX_BYTES)?;
    Ok(if bundle::is_archive(&bytes) { Input::Bundle } else { Input::Document(bytes) })
}

/// Whether a bundle is there.
pub fn is_bundle(path: &Path) -> bool {
    matches!(read(path), Ok(Input::Bundle))
}

/// Whether a path stands for standard input.
pub fn is_stdin(path: &Path) -> bool {
    path.as_os_str() == "-"
}

fn cannot_read(path: &Path) -> String {
    format!("cannot read the workload {}", shown(path))
}
