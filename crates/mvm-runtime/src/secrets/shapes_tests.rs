use proptest::prelude::*;

use super::*;

fn of(text: &str) -> (String, Vec<&'static str>) {
    let shaped = tokens(text);
    (shaped.text.into_owned(), shaped.found)
}

fn line(run_id: &str, text: &str) -> LogLine {
    LogLine {
        seq: 1,
        at_ms: 1,
        source: LogSource::Job,
        run_id: Some(run_id.into()),
        stream: Some(Stream::Stdout),
        text: text.into(),
        redactions: 0,
    }
}

#[test]
fn credentials_are_known_by_their_shape() {
    let letters = "aB3dE5gH7jK9mN1pQ3sT5vW7yZ9bC1eF3hJ5";
    let jwt = format!("eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxIn0.{letters}");
    for (id, credential) in [
        ("aws-access-key-id", "AKIAIOSFODNN7EXAMPLE"),
        ("aws-access-key-id", "ASIAIOSFODNN7EXAMPLE"),
        ("github-token", &format!("ghp_{letters}")),
        ("github-token", &format!("ghs_{letters}")),
        ("github-token", &format!("github_pat_{letters}_{letters}")),
        ("gitlab-token", &format!("glpat-{letters}")),
        ("slack-token", "xoxb-123456789012-abcdefgh"),
        ("sk-key", &format!("sk-{letters}")),
        ("sk-key", &format!("sk-proj-{letters}-{letters}")),
        ("sk-key", &format!("sk_live_{letters}")),
        ("jwt", &jwt),
    ] {
        for (before, after) in [("", ""), ("token=", "&x=1"), ("\"", "\","), ("ü ", " ü"), ("[", "]")] {
            let text = format!("{before}{credential}{after}");
            assert_eq!(of(&text), (format!("{before}[redacted:{id}]{after}"), vec![id]), "{text}");
        }
    }
}

#[test]
fn what_is_announced_stays_announced() {
    for (text, told) in [
        ("Authorization: Bearer abcdef0123456789", "Authorization: Bearer [redacted:bearer-token]"),
        ("authorization: bearer abcdef0123456789.x/y==;", "authorization: bearer [redacted:bearer-token];"),
        ("\"Authorization\": \"Bearer abcdef0123456789\"", "\"Authorization\": \"Bearer [redacted:bearer-token]\""),
        ("Authorization: Basic dXNlcjpwYXNz", "Authorization: Basic [redacted:basic-credentials]"),
    ] {
        assert_eq!(of(text).0, told);
    }
}

#[test]
fn ordinary_text_is_left_alone() {
    for text in [
        "task-runner-with-a-long-name-1234567",
        "risk-assessment-of-the-year-2024-final",
        "the bearer of bad news",
        "Bearer short",
        "AKIAIOSFODNN7EXAMPLEX",
        "akiaiosfodnn7example",
        "XAKIAIOSFODNN7EXAMPLE",
        "ghp_short",
        "sk-this-is-only-a-long-name-of-something",
        "eyJhbGciOiJIUzI1NiJ9",
        "eyJ.eyJ.eyJ",
        "GHP_aB3dE5gH7jK9mN1pQ3sT5vW7yZ9bC1eF3hJ5",
        "",
    ] {
        assert_eq!(of(text), (text.to_owned(), vec![]), "{text}");
    }
}

#[test]
fn several_in_a_line_are_counted() {
    let (told, found) = of("AKIAIOSFODNN7EXAMPLE xoxb-123456789012 AKIAIOSFODNN7EXAMPLE");
    assert_eq!(told, "[redacted:aws-access-key-id] [redacted:slack-token] [redacted:aws-access-key-id]");
    assert_eq!(found, ["aws-access-key-id", "slack-token", "aws-access-key-id"]);
}

/// What is left of lines of one job.
fn filtered(lines: &[&str]) -> Vec<String> {
    let mut filter = LogFilter::default();
    let redact = |text: &&str| {
        let mut line = line("run-1", text);
        filter.redact(&mut line);
        line.text
    };
    lines.iter().map(redact).collect()
}

#[test]
fn the_body_of_a_private_key_is_hidden_to_its_end() {
    let hidden = "[redacted:private-key]";
    for kind in ["", "RSA ", "EC ", "OPENSSH ", "ENCRYPTED "] {
        let (begin, end) = (format!("-----BEGIN {kind}PRIVATE KEY-----"), format!("-----END {kind}PRIVATE KEY-----"));
        let lines = [begin.as_str(), "MIIEvQIBADANBgkq", "  hkiG9w0B+/AQ==", "", &end, "after"];
        assert_eq!(filtered(&lines), [begin.as_str(), hidden, hidden, "", end.as_str(), "after"]);
        let inline = format!("key={begin}MIIEvQ\\nIBAD{end}.");
        assert_eq!(filtered(&[&inline]), [format!("key={begin}{hidden}{end}.")]);
    }
    let lines = ["-----BEGIN PRIVATE KEY-----", "MIIE", "this is not base64", "MIIE"];
    assert_eq!(filtered(&lines), [lines[0], hidden, lines[2], "MIIE"], "one without an end hides nothing else");
    let lines = ["-----BEGIN PUBLIC KEY-----", "MIIE", "-----BEGIN CERTIFICATE-----", "MIIE"];
    assert_eq!(filtered(&lines), lines);
}

#[test]
fn keys_of_two_jobs_at_once_do_not_mix() {
    let mut filter = LogFilter::default();
    let mut of = |run_id: &str, text: &str| {
        let mut line = line(run_id, text);
        let found = filter.redact(&mut line);
        assert_eq!(line.redactions, found.len() as u64);
        (line.text, found)
    };
    of("run-1", "-----BEGIN PRIVATE KEY-----");
    assert_eq!(of("run-2", "MIIE"), ("MIIE".to_owned(), vec![]));
    assert_eq!(of("run-1", "MIIE"), ("[redacted:private-key]".to_owned(), vec!["private-key"]));
}

proptest! {
    #[test]
    fn any_text_is_taken(text in "\\PC{0,60}", of_them in prop::sample::select(vec![
        "AKIA", "ghp_", "eyJ", "bearer ", "Bearer ü", "-----BEGIN ", "-----BEGIN PRIVATE KEY-----", "-----END ", "sk-",
    ]), more in "[ü-ÿ.a-z0-9-]{0,60}") {
        let mut filter = LogFilter::default();
        for text in [format!("{text}{of_them}{more}"), format!("{more}{text}")] {
            filter.redact(&mut line("run-1", &text));
        }
    }
}
