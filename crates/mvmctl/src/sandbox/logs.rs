//! `mvmctl logs`: what went on in a sandbox.

use std::time::{Duration, UNIX_EPOCH};

use hyper::Method;
use mvm_runtime::secrets::{self, Step};
use mvm_runtime::text::harmless;
use mvm_runtime::{Error, ErrorCode, reconcile};
use mvm_wire::api::{GapCause, LogEvent, LogGap, LogLine, LogSummary, State, Stream};
use serde_json::json;

use super::args::{LogsArgs, RedactMode};
use super::{Found, find, verb};
use crate::output;

/// Runs the verb.
pub fn logs(args: LogsArgs) -> u8 {
    verb(args.json, async {
        if args.redact == RedactMode::ShowRules {
            show_rules(args.json);
            return Ok(output::SUCCESS);
        }
        let found = find(args.sandbox.as_deref().ok_or_else(nameless)?)?;
        let mut lines = found.client.lines(Method::GET, &path(&args), None::<&()>).await?;
        loop {
            let event: LogEvent = match lines.next().await {
                Ok(Some(event)) => event,
                Ok(None) => break,
                Err(_) if gone(&found).await => break,
                Err(e) => return Err(e),
            };
            match (&event, args.json) {
                (LogEvent::Summary(summary), false) => summarize(summary),
                (_, as_json) => {
                    let told = if as_json { json!(event).to_string() } else { in_words(&event) };
                    if !output::try_line(&told) {
                        break;
                    }
                }
            }
        }
        Ok(output::SUCCESS)
    })
}

/// Whether the sandbox was destroyed, which is a log's natural end. One that is killed loses its supervisor first and is
/// recorded as destroyed a moment later.
async fn gone(found: &Found) -> bool {
    for _ in 0..20 {
        let record = reconcile::reconcile(&found.home).and_then(|store| store.get(&found.record.id));
        if record.is_ok_and(|record| record.state == State::Destroyed) {
            return true;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    false
}

fn path(args: &LogsArgs) -> String {
    let redact = if args.redact == RedactMode::Off { "off" } else { "on" };
    let mut path = format!("/v1/logs?follow={}&redact={redact}", args.follow);
    let numbers = [("since_ms", args.since), ("until_ms", args.until), ("tail", args.tail.map(|lines| lines as u64))];
    for (name, value) in numbers {
        path += &value.map(|value| format!("&{name}={value}")).unwrap_or_default();
    }
    path + &args.source.map(|source| format!("&source={}", source.name())).unwrap_or_default()
}

fn in_words(event: &LogEvent) -> String {
    match event {
        LogEvent::Line(LogLine { at_ms, source, run_id, stream, text, .. }) => {
            let from = run_id.as_deref().unwrap_or(source.name());
            let mark = if *stream == Some(Stream::Stderr) { '!' } else { '|' };
            format!("{} {from} {mark} {}", moment(*at_ms), harmless(text).replace('\n', "\u{fffd}"))
        }
        LogEvent::Gap(LogGap { lines, cause, run_id, .. }) => {
            let why = match cause {
                GapCause::Overrun => "no longer kept",
                GapCause::Flood => "not logged, they came too fast",
            };
            let of = run_id.as_ref().map(|run_id| format!(" of {run_id}")).unwrap_or_default();
            format!("… {lines} lines{of} {why}")
        }
        LogEvent::Summary(_) => String::new(),
    }
}

/// Says on standard error, beside the lines, what is not in them.
fn summarize(summary: &LogSummary) {
    let &LogSummary { redactions, on_reading, .. } = summary;
    let off = if on_reading > 0 { format!("; --redact off shows {on_reading} of them") } else { String::new() };
    if redactions > 0 {
        eprintln!("mvmctl: {}{off}", output::count(redactions, "redaction", "redactions"));
    }
}

fn show_rules(as_json: bool) {
    let rules = secrets::rules();
    if as_json {
        return output::print_json(&json!({ "rules": rules }));
    }
    let mut rows = vec![["RULE", "APPLIED", "FINDS"].map(str::to_owned).to_vec()];
    rows.extend(rules.iter().map(|rule| {
        let when = if rule.step == Step::Writing { "when written" } else { "when read" };
        vec![rule.id.to_owned(), when.to_owned(), rule.text.to_owned()]
    }));
    output::table(&rows);
}

fn nameless() -> Error {
    Error::new(ErrorCode::InvalidRequest, "cannot show a log", "no sandbox is named").hint("mvmctl logs SANDBOX")
}

fn moment(at_ms: u64) -> impl std::fmt::Display {
    humantime::format_rfc3339_millis(UNIX_EPOCH + Duration::from_millis(at_ms))
}

#[cfg(test)]
mod tests {
    use mvm_wire::api::LogSource;

    use super::*;

    #[test]
    fn a_line_of_a_guest_is_one_line_and_harmless() {
        let line = LogLine {
            seq: 1,
            at_ms: 1_700_000_000_123,
            source: LogSource::Console,
            run_id: None,
            stream: None,
            text: "a\x1b[2J\nb".into(),
            redactions: 0,
        };
        let told = in_words(&LogEvent::Line(line));
        assert_eq!(told, "2023-11-14T22:13:20.123Z console | a\u{fffd}[2J\u{fffd}b");
    }
}
