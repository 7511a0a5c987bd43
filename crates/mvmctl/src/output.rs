//! How errors reach the user, and with which exit status.

use std::io::Write;

use mvm_runtime::text::harmless;
use mvm_runtime::{Error, ErrorCode};
use mvm_wire::api::{API_VERSIONS, ApiVersions, ErrorObject};
use serde_json::json;

/// All went well.
pub const SUCCESS: u8 = 0;
/// mvm itself failed. The same for every verb, so that it is never taken for a guest's status.
pub const MVM_FAILED: u8 = 125;

/// Prints an error as what failed, why, what to do; as an object on standard output with `--json`, which is one line there,
/// because some verbs print lines.
pub fn error(error: &Error, as_json: bool) -> u8 {
    if as_json {
        line(&as_line(error));
    } else {
        let (what, why, hint) = (harmless(&error.what), harmless(&error.why), harmless(&error.hint));
        match error.denials.len() {
            0 | 1 => eprintln!("mvmctl: {what}: {why}"),
            many => eprintln!("mvmctl: {what}, for {many} reasons:"),
        }
        if error.denials.len() > 1 {
            for denial in &error.denials {
                eprintln!("  {} [{}]\n    try: {}", harmless(&denial.reason), denial.rule, harmless(&denial.remedy));
            }
        } else if !hint.is_empty() {
            eprintln!("  try: {hint}");
        }
    }
    error.code.exit_status()
}

/// Prints an error as an object on standard error, because bytes of a file are on standard output.
pub fn error_beside_bytes(error: &Error) -> u8 {
    eprintln!("{}", as_line(error));
    error.code.exit_status()
}

fn as_line(error: &Error) -> String {
    json!({ "error": error_object(error) }).to_string()
}

/// An error as JSON.
pub fn error_object(error: &Error) -> ErrorObject {
    error.clone().into()
}

/// Prints one JSON value on standard output. A reader that has gone is no error of ours.
pub fn print_json(value: &serde_json::Value) {
    let mut out = std::io::stdout().lock();
    let _ = serde_json::to_writer_pretty(&mut out, value);
    let _ = writeln!(out);
}

/// Prints a line on standard output.
pub fn line(text: &str) {
    let _ = try_line(text);
}

/// The same; false if its reader has gone, which is no error of ours.
pub fn try_line(text: &str) -> bool {
    writeln!(std::io::stdout().lock(), "{text}").is_ok()
}

/// Prints what the argument parser says: help and versions are no errors.
pub fn usage_error(error: &clap::Error) -> u8 {
    if !error.use_stderr() {
        let _ = error.print();
        return SUCCESS;
    }
    if std::env::args_os().take_while(|arg| arg != "--").any(|arg| arg == "--json") {
        let text = error.render().to_string();
        // Up to the usage. What is missing is listed, a line each.
        let lines = text.lines().map(str::trim).take_while(|line| !line.is_empty());
        let why = lines.collect::<Vec<_>>().join(" ");
        let why = why.trim_start_matches("error: ");
        let what = "cannot understand the command line";
        return self::error(&Error::new(ErrorCode::InvalidRequest, what, why).hint("mvmctl --help"), true);
    }
    let _ = error.print();
    MVM_FAILED
}

/// Prints the versions of this program and of the API.
pub fn versions(json: bool) -> u8 {
    const VERSION: &str = env!("CARGO_PKG_VERSION");
    let ApiVersions { oldest, newest } = API_VERSIONS;
    if json {
        print_json(&json!({ "version": VERSION, "api": API_VERSIONS }));
    } else {
        let older = if oldest < newest { format!("{oldest} to ") } else { String::new() };
        line(&format!("mvmctl {VERSION} (API {older}{newest})"));
    }
    SUCCESS
}

/// So many of something.
pub fn count(number: u64, one: &str, many: &str) -> String {
    format!("{number} {}", if number == 1 { one } else { many })
}

/// Bytes for people: `12 KiB`, `3.4 GiB`.
pub fn bytes(count: u64) -> String {
    const UNITS: [&str; 5] = ["B", "KiB", "MiB", "GiB", "TiB"];
    let mut value = count as f64;
    let mut unit = 0;
    while value >= 1024.0 && unit + 1 < UNITS.len() {
        value /= 1024.0;
        unit += 1;
    }
    if value < 10.0 && unit > 0 { format!("{value:.1} {}", UNITS[unit]) } else { format!("{value:.0} {}", UNITS[unit]) }
}

/// Prints rows in aligned columns; the first row is the heading.
pub fn table(rows: &[Vec<String>]) {
    let columns = rows.iter().map(Vec::len).max().unwrap_or(0);
    let width = |column: usize| rows.iter().filter_map(|row| row.get(column)).map(|cell| cell.chars().count()).max();
    let widths: Vec<usize> = (0..columns).map(|column| width(column).unwrap_or(0)).collect();
    for row in rows {
        let cells = row.iter().zip(&widths).map(|(cell, width)| format!("{cell:width$}"));
        line(cells.collect::<Vec<_>>().join("  ").trim_end());
    }
}
