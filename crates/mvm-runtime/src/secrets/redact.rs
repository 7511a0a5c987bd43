//! Redacting output while it streams. What a secret looks like is found across any boundaries of its pieces.
//!
//! Only the first bytes of each form are in the automaton, and the rest is compared where they are found: an automaton of
//! whole values, and all their encodings, would be many times as large as they are. Of all forms that begin at one place
//! the longest counts, and of all places the first.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::sync::Arc;

use aho_corasick::{AhoCorasick, Input};
use mvm_wire::api::SecretValue;
use zeroize::Zeroizing;

use super::{MIN_VALUE, forms, marker};

/// How much of each form is in the automaton: all forms have that much, so all keys are of one length.
const KEY: usize = MIN_VALUE;

/// What is looked for.
pub struct Patterns {
    finder: AhoCorasick,
    /// In the order of their bytes, which is that of the automaton.
    keys: Vec<Key>,
    forms: Vec<Form>,
    /// Names, with what stands for each.
    names: Vec<(String, String)>,
}

struct Key {
    bytes: [u8; KEY],
    /// The forms that begin so.
    forms: Vec<usize>,
}

struct Form {
    bytes: Zeroizing<Vec<u8>>,
    /// Line ends are skipped in it.
    wrapped: bool,
    /// Whose it is, among the names.
    name: usize,
}

/// What is at a place.
enum Look {
    /// A form of this length, of this name.
    Whole(usize, usize),
    /// What there is so far may become one.
    Begun,
    /// None.
    Other,
}

/// A piece of redacted output.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Piece<'a> {
    /// Bytes as they came.
    Text(&'a [u8]),
    /// A secret was here.
    Secret {
        /// Its name.
        name: &'a str,
        /// What stands for it.
        marker: &'a str,
    },
}

impl Piece<'_> {
    /// What is to be shown.
    pub fn bytes(&self) -> &[u8] {
        match self {
            Piece::Text(bytes) => bytes,
            Piece::Secret { marker, .. } => marker.as_bytes(),
        }
    }
}

impl std::fmt::Debug for Patterns {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_list().entries(self.names.iter().map(|(name, _)| name)).finish()
    }
}

impl Patterns {
    /// Of these values, each of which `check_value` has found good; `None` if there are none, which then costs nothing.
    pub fn of<'a>(secrets: impl IntoIterator<Item = (&'a str, &'a SecretValue)>) -> Option<Arc<Patterns>> {
        let mut names: Vec<(String, String)> = Vec::new();
        let mut all: BTreeMap<Vec<u8>, (bool, usize)> = BTreeMap::new();
        for (name, value) in secrets {
            let number = names.iter().position(|(known, _)| known == name).unwrap_or(names.len());
            if number == names.len() {
                names.push((name.to_owned(), marker(name)));
            }
            for (form, wrapped) in forms::of(value.expose()) {
                all.entry(form).or_insert((false, number)).0 |= wrapped;
            }
        }
        let mut keys: BTreeMap<[u8; KEY], Vec<usize>> = BTreeMap::new();
        for (number, (form, (wrapped, _))) in all.iter().enumerate() {
            beginnings(form, *wrapped).for_each(|key| keys.entry(key).or_default().push(number));
        }
        let finder = (!keys.is_empty()).then(|| AhoCorasick::new(keys.keys()))?.ok()?;
        let keys = keys.into_iter().map(|(bytes, forms)| Key { bytes, forms }).collect();
        let form = |(bytes, (wrapped, name))| Form { bytes: Zeroizing::new(bytes), wrapped, name };
        Some(Arc::new(Patterns { finder, keys, forms: all.into_iter().map(form).collect(), names }))
    }

    /// A text that is there as a whole, such as an error's.
    pub fn text<'a>(&self, text: &'a str) -> Cow<'a, str> {
        let mut redacted = Vec::new();
        self.scan(text.as_bytes(), true, &mut |piece| redacted.extend_from_slice(piece.bytes()));
        if redacted == text.as_bytes() { text.into() } else { String::from_utf8_lossy(&redacted).into_owned().into() }
    }

    /// Passes on what is certain and returns how much of the text that was. `last`: no more will come.
    fn scan(&self, text: &[u8], last: bool, emit: &mut dyn FnMut(Piece<'_>)) -> usize {
        let (mut done, mut from) = (0, 0);
        while let Some(found) = self.finder.find(Input::new(text).range(from..)) {
            let start = found.start();
            match self.look(&self.keys[found.pattern().as_usize()], &text[start..], last) {
                Look::Whole(len, name) => {
                    plain(&text[done..start], emit);
                    done = start + len;
                    from = done;
                    let (name, marker) = &self.names[name];
                    emit(Piece::Secret { name, marker });
                }
                Look::Begun => {
                    plain(&text[done..start], emit);
                    return start;
                }
                Look::Other => from = start + 1,
            }
        }
        let held = if last { text.len() } else { self.first_begun(text, from) };
        plain(&text[done..held], emit);
        held
    }

    /// What is at the beginning of this text, which is that of a key.
    fn look(&self, key: &Key, text: &[u8], last: bool) -> Look {
        let mut longest = Look::Other;
        for form in key.forms.iter().map(|number| &self.forms[*number]) {
            match form.look(text) {
                // It would be longer than any that is there as a whole.
                Look::Begun if !last => return Look::Begun,
                Look::Whole(len, name) if !matches!(longest, Look::Whole(best, _) if best >= len) => {
                    longest = Look::Whole(len, name);
                }
                _ => {}
            }
        }
        longest
    }

    /// Where the first key begins of which the text has not enough.
    fn first_begun(&self, text: &[u8], from: usize) -> usize {
        let begins = |place: &usize| {
            let rest = &text[*place..];
            let next = self.keys.partition_point(|key| key.bytes.as_slice() < rest);
            self.keys.get(next).is_some_and(|key| key.bytes.starts_with(rest))
        };
        (from.max(text.len().saturating_sub(KEY - 1))..text.len()).find(begins).unwrap_or(text.len())
    }
}

impl Form {
    /// Compares with the beginning of a text, of which there may not be enough yet.
    fn look(&self, text: &[u8]) -> Look {
        if !self.wrapped {
            return match text.starts_with(&self.bytes) {
                true => Look::Whole(self.bytes.len(), self.name),
                false if self.bytes.starts_with(text) => Look::Begun,
                false => Look::Other,
            };
        }
        let mut at = 0;
        for (index, byte) in self.bytes.iter().enumerate() {
            if index > 0 {
                match &text[at..] {
                    [b'\r', b'\n', ..] => at += 2,
                    [b'\n', ..] => at += 1,
                    _ => {}
                }
            }
            match text.get(at) {
                Some(found) if found == byte => at += 1,
                Some(b'\r') if index > 0 && at + 1 == text.len() => return Look::Begun,
                Some(_) => return Look::Other,
                None => return Look::Begun,
            }
        }
        Look::Whole(at, self.name)
    }
}

fn plain(bytes: &[u8], emit: &mut dyn FnMut(Piece<'_>)) {
    if !bytes.is_empty() {
        emit(Piece::Text(bytes));
    }
}

/// The keys under which a form is found: its first bytes, and if it may be wrapped, those with a line end among them.
fn beginnings(form: &[u8], wrapped: bool) -> impl Iterator<Item = [u8; KEY]> {
    let key = |bytes: &[u8]| std::array::from_fn(|index| bytes.get(index).copied().unwrap_or_default());
    let breaks = if wrapped { &[&b"\n"[..], b"\r\n"][..] } else { &[] };
    let broken = breaks.iter().flat_map(move |end| (1..KEY).map(move |at| [&form[..at], end, &form[at..]].concat()));
    let mut keys: Vec<[u8; KEY]> = std::iter::once(key(form)).chain(broken.map(|bytes| key(&bytes))).collect();
    keys.sort_unstable();
    keys.dedup();
    keys.into_iter()
}

/// One stream of output. Held back is only what may be the beginning of a secret: as long as the output pauses there it
/// stays held, because what was shown cannot be taken back; it is passed on when more comes or the stream ends.
#[derive(Debug)]
pub struct Redactor {
    patterns: Arc<Patterns>,
    held: Zeroizing<Vec<u8>>,
    counts: BTreeMap<String, u64>,
}

impl Redactor {
    /// For one stream.
    pub fn new(patterns: Arc<Patterns>) -> Redactor {
        Redactor { patterns, held: Zeroizing::default(), counts: BTreeMap::new() }
    }

    /// Looks for these from now on, in what is held as well.
    pub fn renew(&mut self, patterns: &Arc<Patterns>) {
        if !Arc::ptr_eq(&self.patterns, patterns) {
            self.patterns = patterns.clone();
        }
    }

    /// Takes what came, and appends what can be shown.
    pub fn push(&mut self, bytes: &[u8], shown: &mut Vec<u8>) {
        self.pass(bytes, &mut |piece| shown.extend_from_slice(piece.bytes()));
    }

    /// No more will come: appends what was held.
    pub fn flush(&mut self, shown: &mut Vec<u8>) {
        self.end(&mut |piece| shown.extend_from_slice(piece.bytes()));
    }

    /// Takes what came, and passes on in pieces what can be shown.
    pub fn pass(&mut self, bytes: &[u8], emit: &mut dyn FnMut(Piece<'_>)) {
        if self.held.is_empty() {
            let done = self.scan(bytes, false, emit);
            self.held.extend_from_slice(&bytes[done..]);
            return;
        }
        self.held.extend_from_slice(bytes);
        let mut text = std::mem::take(&mut self.held);
        let done = self.scan(&text, false, emit);
        text.drain(..done);
        self.held = text;
    }

    /// No more will come: passes on what was held.
    pub fn end(&mut self, emit: &mut dyn FnMut(Piece<'_>)) {
        let text = std::mem::take(&mut self.held);
        self.scan(&text, true, emit);
    }

    fn scan(&mut self, text: &[u8], last: bool, emit: &mut dyn FnMut(Piece<'_>)) -> usize {
        let counts = &mut self.counts;
        self.patterns.clone().scan(text, last, &mut |piece| {
            if let Piece::Secret { name, .. } = piece {
                *counts.entry(name.to_owned()).or_default() += 1;
            }
            emit(piece);
        })
    }

    /// How often each secret was redacted, by its name.
    pub fn counts(&self) -> &BTreeMap<String, u64> {
        &self.counts
    }

    /// How often any was.
    pub fn total(&self) -> u64 {
        self.counts.values().sum()
    }
}

#[cfg(test)]
#[path = "redact_tests.rs"]
mod tests;
