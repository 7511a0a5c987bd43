//! Functions of modules as entrypoints: what calls them in a guest, and what of theirs is put into its image.

mod erase;

use mvm_ir::EntrypointFunction;

use crate::error::Result;
use erase::erased;

pub use erase::erase;

/// In the directory of the source, in which Python finds modules.
const CALL_PYTHON: &str = "import importlib, sys; sys.path.append('/usr/lib/mvm/python'); \
    getattr(importlib.import_module(sys.argv[1]), sys.argv[2])()";
/// What modules of Python import as `mvm` in a guest, where declarations mean nothing.
const PYTHON: (&str, &str) = ("/usr/lib/mvm/python/mvm.py", include_str!("../../../sdk/python/src/mvm/_declare.py"));
/// The same for TypeScript, whose types Node.js does not know.
const TYPESCRIPT: (&str, &str) = ("/usr/lib/mvm/node/sdk.ts", include_str!("../../../sdk/typescript/src/declare.ts"));
const CALL_NODE: (&str, &str) = ("/usr/lib/mvm/node/call.mjs", include_str!("function/call.mjs"));
const HOOKS_NODE: (&str, &str) = ("/usr/lib/mvm/node/hooks.mjs", include_str!("function/hooks.mjs"));

/// What runs for a function.
pub fn argv(function: &EntrypointFunction) -> Vec<String> {
    let EntrypointFunction { module, function: name, .. } = function;
    let caller =
        if is_typescript(function) { ["node", CALL_NODE.0].as_slice() } else { &["python3", "-c", CALL_PYTHON] };
    caller.iter().copied().chain([module.as_str(), name]).map(str::to_owned).collect()
}

/// What calls it, and what its module imports: files by their paths.
pub fn support(function: &EntrypointFunction) -> &'static [(&'static str, &'static str)] {
    if is_typescript(function) { &[CALL_NODE, HOOKS_NODE, TYPESCRIPT] } else { &[PYTHON] }
}

/// A file as it is put into the image, if it is not as it is: a module of TypeScript, without its types, which most versions of
/// Node.js do not take. Those of packages stay: they are to have JavaScript, and are others' to change.
///
/// # Errors
///
/// `InvalidRequest` with all that is wrong with the module, if it is more than JavaScript with types.
pub fn prepared(function: &EntrypointFunction, path: &str, bytes: &[u8]) -> Result<Option<String>> {
    let is_module = [".ts", ".mts"].iter().any(|end| path.ends_with(end) && !path.ends_with(&format!(".d{end}")));
    let is_packages = path.split('/').any(|part| part == "node_modules");
    let changes = is_typescript(function) && is_module && !is_packages;
    changes.then(|| erased(path, bytes)).transpose()
}

fn is_typescript(function: &EntrypointFunction) -> bool {
    function.language == "typescript"
}
