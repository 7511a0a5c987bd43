//! Names and values in aligned rows, and times.

use crate::output;

/// Prints rows of name and value, each behind `indent`. What is empty is left out.
pub fn rows(indent: &str, rows: &[(&str, String)]) {
    let there: Vec<_> = rows.iter().filter(|(_, value)| !value.is_empty()).collect();
    let width = there.iter().map(|(name, _)| name.len()).max().unwrap_or(0);
    for (name, value) in there {
        output::line(&format!("{indent}{name:width$}  {value}"));
    }
}

/// Milliseconds since 1970 as a date and a time in UTC.
pub fn time(at_ms: u64) -> String {
    // Later than any that can be written is what a log with an impossible clock has.
    let latest = 253_402_300_799_999;
    let time = std::time::UNIX_EPOCH + std::time::Duration::from_millis(at_ms.min(latest));
    humantime::format_rfc3339_millis(time).to_string()
}
