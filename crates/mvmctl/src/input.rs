//! What verbs are given that work on workloads: a document, a bundle, a recording.

use std::fs::File;
use std::io::Read;
use std::path::Path;

use mvm_ir::Workload;
use mvm_runtime::bundle::{self, Bundle};
use mvm_runtime::{Error, ErrorCode, Result, workload};

/// The workload in a document, a bundle, or on standard input (`-`).
pub fn workload(path: &Path) -> Result<Workload> {
    match read(path)? {
        Input::Document(bytes) => workload::read(&shown(path), &bytes),
        Input::Bundle => Ok(Bundle::read(path)?.workload().clone()),
    }
}

/// The bundle at a place, or a document with what lies beside it.
pub fn bundle(path: &Path) -> Result<Bundle> {
    let Input::Document(bytes) = read(path)? else { return Bundle::read(path) };
    let workload = workload::read(&shown(path), &bytes)?;
    if workload.contents().next().is_none() {
        return Bundle::new(workload, Default::default());
    }
    let beside = path.parent().filter(|_| path.file_name().is_some_and(|name| name == "workload.json"));
    let Some(beside) = beside else {
        let why = "it names contents, which are in a bundle and not in the document";
        return Err(Error::new(ErrorCode::InvalidRequest, cannot_read(path), why).hint("name the bundle"));
    };
    Bundle::read(if beside.as_os_str().is_empty() { Path::new(".") } else { beside })
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
}

fn read(path: &Path) -> Result<Input> {
    if !is_stdin(path) && path.is_dir() {
        return Ok(Input::Bundle);
    }
    let bytes = bytes(path, mvm_ir::MAX_BYTES)?;
    Ok(if bundle::is_archive(&bytes) && !is_stdin(path) { Input::Bundle } else { Input::Document(bytes) })
}

/// Whether a path stands for standard input.
pub fn is_stdin(path: &Path) -> bool {
    path.as_os_str() == "-"
}

fn cannot_read(path: &Path) -> String {
    format!("cannot read the workload {}", shown(path))
}
