//! Credentials that nobody named a secret, known by their shape: redacted in log lines as they are read.

use std::borrow::Cow;
use std::collections::HashSet;
use std::sync::LazyLock;

use aho_corasick::AhoCorasick;
use mvm_wire::api::{LogLine, LogSource, Stream};

use super::marker;

/// A kind of credential: how it begins and what follows.
struct Shape {
    id: &'static str,
    text: &'static str,
    /// It begins with one of these, where no word goes on.
    begins: &'static [&'static str],
    /// The beginning is in any case, and is left as it is: it is no part of the credential.
    announced: bool,
    /// Bytes that may follow.
    of: fn(&u8) -> bool,
    /// Whether what follows is one.
    is: fn(&str) -> bool,
}

const PRIVATE_KEY: (&str, &str) =
    ("private-key", "the body of a PEM block of a private key, in one line or in several");

const SHAPES: [Shape; 8] = [
    Shape {
        id: "aws-access-key-id",
        text: "AWS access key ids: AKIA or ASIA and 16 capital letters or digits",
        begins: &["AKIA", "ASIA"],
        announced: false,
        of: |b| b.is_ascii_alphanumeric(),
        is: |rest| rest.len() == 16 && !rest.bytes().any(|b| b.is_ascii_lowercase()),
    },
    Shape {
        id: "github-token",
        text: "GitHub tokens: ghp_, gho_, ghu_, ghs_ or ghr_ and 36 letters or digits or more, github_pat_ and 22 or more",
        begins: &["ghp_", "gho_", "ghu_", "ghs_", "ghr_", "github_pat_"],
        announced: false,
        of: |b| b.is_ascii_alphanumeric() || *b == b'_',
        is: |rest| rest.len() >= 22,
    },
    Shape {
        id: "gitlab-token",
        text: "GitLab tokens: glpat- and 20 letters, digits, _ or - or more",
        begins: &["glpat-"],
        announced: false,
        of: url_safe,
        is: |rest| rest.len() >= 20,
    },
    Shape {
        id: "slack-token",
        text: "Slack tokens: xoxa-, xoxb-, xoxe-, xoxp-, xoxr- or xoxs- and 10 letters, digits or - or more",
        begins: &["xoxa-", "xoxb-", "xoxe-", "xoxp-", "xoxr-", "xoxs-"],
        announced: false,
        of: url_safe,
        is: |rest| rest.len() >= 10,
    },
    Shape {
        id: "sk-key",
        text: "API keys as of OpenAI, Anthropic and Stripe: sk- or sk_ and 20 letters, digits, _ or - or more, digits among them",
        begins: &["sk-", "sk_"],
        announced: false,
        of: url_safe,
        is: |rest| rest.len() >= 20 && rest.bytes().any(|b| b.is_ascii_digit()),
    },
    Shape {
        id: "jwt",
        text: "JSON web tokens: three parts in URL-safe base64, the first of which begins with eyJ",
        begins: &["eyJ"],
        announced: false,
        of: |b| url_safe(b) || *b == b'.',
        is: |rest| {
            let parts: Vec<&str> = rest.trim_end_matches('.').split('.').collect();
            parts.len() == 3 && parts[0].len() >= 8 && parts[1].len() >= 8 && parts[2].len() >= 16
        },
    },
    Shape {
        id: "bearer-token",
        text: "what follows Bearer, as in Authorization: Bearer …: 16 characters of a token or more",
        begins: &["bearer "],
        announced: true,
        of: token,
        is: |rest| rest.len() >= 16,
    },
    Shape {
        id: "basic-credentials",
        text: "what follows Authorization: Basic",
        begins: &["authorization: basic "],
        announced: true,
        of: token,
        is: |rest| rest.len() >= 6,
    },
];

fn url_safe(byte: &u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-')
}

fn token(byte: &u8) -> bool {
    url_safe(byte) || matches!(byte, b'.' | b'~' | b'+' | b'/' | b'=')
}

/// Where each shape may begin, with the number of the shape.
static FINDER: LazyLock<Option<(AhoCorasick, Vec<usize>)>> = LazyLock::new(|| {
    let begins =
        SHAPES.iter().enumerate().flat_map(|(number, shape)| shape.begins.iter().map(move |text| (text, number)));
    let (texts, shapes): (Vec<&str>, Vec<usize>) = begins.unzip();
    let finder = AhoCorasick::builder().ascii_case_insensitive(true).build(texts).ok()?;
    Some((finder, shapes))
});

/// Ids and texts of all rules.
pub fn rules() -> impl Iterator<Item = (&'static str, &'static str)> {
    [PRIVATE_KEY].into_iter().chain(SHAPES.iter().map(|shape| (shape.id, shape.text)))
}

/// The id of the first rule that finds a credential in a text, which may have several lines; none if there is none.
pub fn looks_like(text: &str) -> Option<&'static str> {
    text.lines()
        .find_map(|line| key_begins(line).map(|_| PRIVATE_KEY.0).or_else(|| tokens(line).found.first().copied()))
}

/// A text without the credentials in it, and the ids of the rules that found them, one for each.
struct Shaped<'a> {
    text: Cow<'a, str>,
    found: Vec<&'static str>,
}

/// A line without the credentials in it that are known by their beginning.
fn tokens(line: &str) -> Shaped<'_> {
    let mut shaped = Shaped { text: line.into(), found: Vec::new() };
    let Some((finder, shapes)) = &*FINDER else { return shaped };
    let (mut left, mut done) = (String::new(), 0);
    for found in finder.find_overlapping_iter(line) {
        let shape = &SHAPES[shapes[found.pattern().as_usize()]];
        let Some((start, end)) = shape.at(line, found.start(), found.end()).filter(|(start, _)| *start >= done) else {
            continue;
        };
        left.push_str(&line[done..start]);
        left.push_str(&marker(shape.id));
        done = end;
        shaped.found.push(shape.id);
    }
    if done > 0 {
        left.push_str(&line[done..]);
        shaped.text = left.into();
    }
    shaped
}

impl Shape {
    /// Where the credential is that begins here, if there is one.
    fn at(&self, line: &str, start: usize, begun: usize) -> Option<(usize, usize)> {
        let goes_on = line[..start].bytes().next_back().is_some_and(|b| b.is_ascii_alphanumeric() || b == b'_');
        if goes_on || !(self.announced || self.begins.contains(&&line[start..begun])) {
            return None;
        }
        let end = begun + line[begun..].bytes().take_while(|b| (self.of)(b)).count();
        (self.is)(&line[begun..end]).then_some((if self.announced { begun } else { start }, end))
    }
}

/// Where the body of a private key begins in a line, if one does.
fn key_begins(line: &str) -> Option<usize> {
    let begin = line.find("-----BEGIN ")?;
    let end = begin + line[begin..].find("PRIVATE KEY-----")?;
    (!line[begin + 11..end].contains("-----")).then_some(end + "PRIVATE KEY-----".len())
}

/// Whether a line can be one of the body of a key: base64, a header, or nothing.
fn of_a_key(line: &str) -> bool {
    let line = line.trim();
    let base64 = line.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'+' | b'/' | b'='));
    base64 || line.starts_with("Proc-Type:") || line.starts_with("DEK-Info:") || line.starts_with("Comment:")
}

/// What a line came from: lines of several sources lie in the log between each other.
type Origin = (LogSource, Option<String>, Option<Stream>);

/// Redacts log lines one after the other. It must see all lines, in their order, so that it knows where keys begin.
#[derive(Debug, Default)]
pub struct LogFilter {
    /// Where the last line was one of a key.
    in_key: HashSet<Origin>,
}

/// How many sources may be in the middle of a key at once.
const MAX_KEYS: usize = 1024;

impl LogFilter {
    /// Redacts one line. Returns the ids of the rules that found something, one for each finding.
    pub fn redact(&mut self, line: &mut LogLine) -> Vec<&'static str> {
        let from = (line.source, line.run_id.clone(), line.stream);
        let mut found = Vec::new();
        if let Some(text) = self.without_key(from, &line.text) {
            line.text = text;
            found.push(PRIVATE_KEY.0);
        }
        let shaped = tokens(&line.text);
        found.extend(shaped.found);
        if let Cow::Owned(text) = shaped.text {
            line.text = text;
        }
        line.redactions += found.len() as u64;
        found
    }

    /// The line without what it has of a private key, if it has something.
    fn without_key(&mut self, from: Origin, text: &str) -> Option<String> {
        const END: &str = "-----END ";
        let inside = self.in_key.remove(&from);
        let body = match key_begins(text) {
            Some(body) => body,
            None if inside && (of_a_key(text) || text.contains(END)) => 0,
            None => return None,
        };
        let end = text[body..].find(END).map(|end| body + end);
        if end.is_none() && self.in_key.len() < MAX_KEYS {
            self.in_key.insert(from);
        }
        let hidden = &text[body..end.unwrap_or(text.len())];
        let there = !hidden.trim().is_empty();
        there.then(|| format!("{}{}{}", &text[..body], marker(PRIVATE_KEY.0), &text[body + hidden.len()..]))
    }
}

#[cfg(test)]
#[path = "shapes_tests.rs"]
mod tests;
