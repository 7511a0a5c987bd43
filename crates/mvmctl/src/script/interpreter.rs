//! What runs a script: told by its ending, by what is installed, and by what the script needs.

use std::ffi::OsStr;
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use mvm_runtime::{Error, ErrorCode, Result};
use rustix::fs::{Access, access};

/// How much of a script is looked at.
const LOOKED_AT: u64 = 1 << 20;

/// The command that runs a script.
pub fn of(script: &Path) -> Result<Command> {
    let mut command = match ending(script) {
        Some("py") => {
            Command::new(python().ok_or_else(|| missing(script, "there is no python3 on PATH", "install Python 3"))?)
        }
        Some("ts" | "mts") => javascript(script, true)?,
        Some("js" | "mjs") => javascript(script, false)?,
        _ => {
            let why = "its ending names no language that is run: .py, .ts, .mts, .js or .mjs";
            return Err(missing(script, why, "mvmctl run -- CMD runs any program in a microVM"));
        }
    };
    // Not to be taken for an option.
    let dashed = script.as_os_str().as_encoded_bytes().starts_with(b"-");
    command.arg(if dashed { Path::new(".").join(script) } else { script.to_owned() });
    Ok(command)
}

/// What would run such a script in a guest; none if it is no script.
pub fn in_a_guest(script: &Path) -> Option<&'static str> {
    match ending(script)? {
        "py" => Some("python3"),
        "ts" | "mts" => Some("tsx"),
        "js" | "mjs" => Some("node"),
        _ => None,
    }
}

fn ending(script: &Path) -> Option<&str> {
    script.extension().and_then(OsStr::to_str)
}

fn missing(script: &Path, why: impl std::fmt::Display, hint: &str) -> Error {
    Error::new(ErrorCode::InvalidRequest, super::what(script), why).hint(hint)
}

fn python() -> Option<PathBuf> {
    let environment = std::env::var_os("VIRTUAL_ENV").map(|dir| Path::new(&dir).join("bin/python3"));
    environment.filter(|python| is_program(python)).or_else(|| on_path("python3"))
}

/// Node for what it knows. For the rest first what the script's project has, then what the user has.
fn javascript(script: &Path, types: bool) -> Result<Command> {
    let (node, using) = (on_path("node"), uses_using(script));
    // It takes a moment to answer, so it is asked only if that matters.
    let version = node.as_deref().filter(|_| types || using).and_then(version_of);
    let node = node.filter(|_| match (types, using) {
        (false, false) => true,
        (true, false) => version.is_some_and(strips_types),
        (_, true) => version.is_some_and(|(major, _)| major >= 24),
    });
    if let (Some(node), false) = (&node, types) {
        return Ok(Command::new(node));
    }
    // These two know `using` whatever node does.
    if let Some(runner) = installed_tsx(script).or_else(|| on_path("tsx")).or_else(|| on_path("bun")) {
        return Ok(Command::new(runner));
    }
    if let (Some(deno), false) = (on_path("deno"), using) {
        let mut command = Command::new(deno);
        command.args(["run", "--allow-all"]);
        return Ok(command);
    }
    node.map(Command::new).ok_or_else(|| no_javascript(script, types, using, version))
}

fn no_javascript(script: &Path, types: bool, using: bool, version: Option<(u32, u32)>) -> Error {
    let what = if types { "TypeScript" } else { "JavaScript" };
    let what = if using { format!("{what} with a `using` declaration") } else { what.to_owned() };
    let node =
        version.map_or("no node".to_owned(), |(major, minor)| format!("node {major}.{minor}, which cannot run it"));
    let other = if using { "tsx nor bun" } else { "tsx, bun nor deno" };
    let why = format!("it is {what}; on PATH there is {node}, and neither {other}");
    let hint = match (types, using) {
        (_, true) => "install Node 24 or later, or tsx (npm install --save-dev tsx)",
        (true, false) => "install Node 22.18 or later, or tsx (npm install --save-dev tsx)",
        (false, false) => "install Node",
    };
    missing(script, why, hint)
}

/// Whether a line of the script looks like a `using` declaration, of which older versions of node make a syntax error. It is no
/// parser: one in a comment counts too, and one in another module does not.
fn uses_using(script: &Path) -> bool {
    let mut text = Vec::new();
    let read = File::open(script).and_then(|file| file.take(LOOKED_AT).read_to_end(&mut text));
    read.is_ok() && String::from_utf8_lossy(&text).lines().any(declares_using)
}

fn declares_using(line: &str) -> bool {
    let line = line.trim_start();
    let line = line.strip_prefix("for").map_or(line, |rest| rest.trim_start_matches([' ', '(']));
    let line = line.strip_prefix("await ").unwrap_or(line).trim_start();
    let name = line.strip_prefix("using ").map(str::trim_start).unwrap_or_default();
    let rest = name.trim_start_matches(|c: char| c.is_alphanumeric() || c == '_' || c == '$');
    let rest_of = rest.trim_start();
    rest.len() < name.len() && (rest_of.starts_with(['=', ':']) || rest_of.starts_with("of "))
}

/// Major and minor version of node.
fn version_of(node: &Path) -> Option<(u32, u32)> {
    let said = Command::new(node).arg("--version").stdin(Stdio::null()).stderr(Stdio::null()).output().ok()?.stdout;
    let mut numbers = std::str::from_utf8(&said).ok()?.trim().strip_prefix('v')?.split('.').map(str::parse);
    Some((numbers.next()?.ok()?, numbers.next()?.ok()?))
}

/// Whether this version of node runs TypeScript by leaving out the types, without being asked to.
fn strips_types((major, minor): (u32, u32)) -> bool {
    major >= 24 || (major == 23 && minor >= 6) || (major == 22 && minor >= 18)
}

/// The tsx of the project that the script is in.
fn installed_tsx(script: &Path) -> Option<PathBuf> {
    let script = std::path::absolute(script).ok()?;
    script.ancestors().skip(1).map(|dir| dir.join("node_modules/.bin/tsx")).find(|tsx| is_program(tsx))
}

fn on_path(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).map(|dir| dir.join(name)).find(|program| is_program(program))
}

fn is_program(path: &Path) -> bool {
    path.is_file() && access(path, Access::EXEC_OK).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn using_declarations_are_told_from_what_looks_alike() {
        for line in [
            "using box = await Sandbox.create();",
            "  await using box: Sandbox = x;",
            "for (using x of y) {",
            "for (await using x of y) {",
            "await  using _a$1=b",
        ] {
            assert!(declares_using(line), "{line}");
        }
        for line in
            ["using(x)", "using = 3", "const using = 3", "// using names", "reusing x = 3", "using", "await using;"]
        {
            assert!(!declares_using(line), "{line}");
        }
    }

    #[test]
    fn versions_that_strip_types() {
        for (version, does) in
            [((20, 20), false), ((22, 17), false), ((22, 18), true), ((23, 5), false), ((23, 6), true)]
        {
            assert_eq!(strips_types(version), does, "{version:?}");
        }
        assert!(strips_types((24, 0)));
    }
}
