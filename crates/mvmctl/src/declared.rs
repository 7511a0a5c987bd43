//! Workloads that a source file declares: read from its syntax, with the files beside it. Nothing of it is run.

use std::ffi::OsStr;
use std::path::Path;

use mvm_ir::Entrypoint;
use mvm_ir::declare::{Declaration, Language, MAX_BYTES, Place, Problem, declaration};
use mvm_runtime::bundle::Bundle;
use mvm_runtime::source::{self, Patterns, Tree};
use mvm_runtime::{Error, ErrorCode, Result};

use crate::input::{self, Failure};

/// The language of a file that may declare a workload, by its ending.
pub fn language(path: &Path) -> Option<Language> {
    match path.extension().and_then(OsStr::to_str)? {
        "py" => Some(Language::Python),
        "ts" | "mts" => Some(Language::TypeScript),
        _ => None,
    }
}

/// What a file declares, with the files of its source; none if it declares nothing. `out` is what is being made of it: if it
/// lies in the source it is no part of that.
pub fn bundle(path: &Path, language: Language, out: Option<&Path>) -> std::result::Result<Option<Bundle>, Failure> {
    let text = input::bytes(path, MAX_BYTES)?;
    let declared = declaration(language, &text).map_err(|problems| problems_in(path, problems))?;
    let Some(mut declared) = declared else { return Ok(None) };
    let tree = tree(path, &declared, out)?;
    check_function(path, &declared, &tree)?;
    if let Some(source) = &mut declared.workload.source {
        source.files = tree.files;
    }
    Ok(Some(Bundle::new(declared.workload, tree.contents)?))
}

fn problems_in(path: &Path, problems: Vec<Problem>) -> Failure {
    Failure::Problems { file: path.to_owned(), problems }
}

/// The files of its source.
fn tree(path: &Path, declared: &Declaration, out: Option<&Path>) -> Result<Tree> {
    let (Some(source), Some(local)) = (&declared.workload.source, &declared.local_path) else {
        return Ok(Tree::default());
    };
    let patterns = Patterns::new(&source.include, &source.exclude).map_err(|why| {
        placed(path, declared.place("/source"), invalid(path, why).hint("write a pattern such as **/*.py"))
    })?;
    let base = path.parent().unwrap_or(Path::new(""));
    let base = if base.as_os_str().is_empty() { Path::new(".") } else { base };
    source::read(base, Path::new(&local.path), &patterns, out).map_err(|error| placed(path, local.place, error))
}

/// Refuses a function whose module is not among the files.
fn check_function(path: &Path, declared: &Declaration, tree: &Tree) -> Result<()> {
    let Some(Entrypoint::Function(function)) = &declared.workload.entrypoint else { return Ok(()) };
    let files = match function.language.as_str() {
        "python" => {
            let module = function.module.replace('.', "/");
            vec![format!("{module}.py"), format!("{module}/__init__.py")]
        }
        _ => vec![function.module.clone()],
    };
    if tree.files.iter().any(|file| files.contains(&file.path)) {
        return Ok(());
    }
    let why = format!("there is no {} in the source", files.join(" and no "));
    let error = invalid(path, why).hint("name a module of the source, by its path in it");
    Err(placed(path, declared.place("/entrypoint/function/module"), error))
}

fn invalid(path: &Path, why: impl std::fmt::Display) -> Error {
    Error::new(ErrorCode::InvalidRequest, format!("cannot read what {} declares", path.display()), why)
}

/// An error with the place of what it is about.
fn placed(path: &Path, Place { line, column }: Place, error: Error) -> Error {
    Error { why: format!("{}:{line}:{column}: {}", path.display(), error.why), ..error }
}
