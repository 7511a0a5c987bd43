//! The text of a file: what is no text of its language, where its lines are, and how a line is shown.

use std::ops::Range;

use super::{Finding, Language, MAX_BYTES, Place, Problem};

/// The most characters of a line that are shown, and how many of them are before the place in a longer line.
const MAX_SHOWN: usize = 200;
const SHOWN_BEFORE: usize = 120;
const STRIDE: usize = 1 << 10;
/// The most characters of a name that are shown.
const MAX_NAME: usize = 40;
/// The most widths of indentation in a file of Python. The grammar's scanner keeps the open ones in 1024 bytes, two for each,
/// with up to 257 for other things, and aborts the process beyond. Python itself takes 100.
const MAX_INDENTS: usize = 300;

/// The text of a file, unless its parser and its language could disagree about what it says.
pub(super) fn sound(language: Language, source: &[u8]) -> Result<&str, Finding> {
    if source.len() > MAX_BYTES {
        let instead = "put what is not needed here into a file of its own";
        return Err(Finding::new(0..0, format!("the file is larger than {} KiB", MAX_BYTES >> 10), instead));
    }
    let text = std::str::from_utf8(source).map_err(|e| {
        let at = e.valid_up_to();
        Finding::new(at..at + 1, "the file is not UTF-8 here", "save it as UTF-8")
    })?;
    if let Some(at) = text.find('\0') {
        return Err(Finding::new(at..at + 1, "there is a NUL in the file", "remove it"));
    }
    // For both languages a line ends here, and for their grammars it does not: a comment could hide code.
    if let Some((at, _)) = text.match_indices('\r').find(|(at, _)| text.as_bytes().get(at + 1) != Some(&b'\n')) {
        let instead = "end lines with a line feed";
        return Err(Finding::new(at..at + 1, "there is a carriage return without a line feed", instead));
    }
    if language == Language::Python {
        encoding(text)?;
        indentation(text)?;
    }
    Ok(text)
}

/// Refuses a file of Python that says it is in another encoding, as PEP 263 has it: Python would read another text.
fn encoding(text: &str) -> Result<(), Finding> {
    let mut start = 0;
    for line in text.split_inclusive('\n').take(2) {
        let content = line.trim_start_matches([' ', '\t', '\u{c}']);
        if content.starts_with('#') {
            if let Some(named) = coding(line) {
                let name = line[named.clone()].to_ascii_lowercase().replace('_', "-");
                if !matches!(name.as_str(), "utf-8" | "utf8" | "utf-8-sig" | "ascii" | "us-ascii") {
                    let at = start + named.start..start + named.end;
                    return Err(Finding::new(at, "the file says that it is not UTF-8", "save it as UTF-8"));
                }
            }
        } else if !content.trim_end().is_empty() {
            break;
        }
        start += line.len();
    }
    Ok(())
}

/// Where a comment names an encoding.
fn coding(line: &str) -> Option<Range<usize>> {
    line.match_indices("coding").find_map(|(at, word)| {
        let rest = line[at + word.len()..].strip_prefix([':', '='])?.trim_start_matches([' ', '\t']);
        let start = line.len() - rest.len();
        let named = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
        let len = rest.find(|c| !named(c)).unwrap_or(rest.len());
        (len > 0).then_some(start..start + len)
    })
}

/// Refuses more widths of indentation than the grammar's scanner has room for. It is measured as the scanner does: a tab is
/// eight columns, a form feed begins anew, and a line of nothing but a backslash goes on in the next one.
fn indentation(text: &str) -> Result<(), Finding> {
    let mut seen = vec![false; 1 << 16];
    let mut widths = 0;
    let mut start = 0;
    let mut joined = 0u16;
    for line in text.split_inclusive('\n') {
        let content = line.trim_start_matches([' ', '\t', '\u{c}', '\r']);
        let blank = &line[..line.len() - content.len()];
        let width = |from: u16| {
            blank.bytes().fold(from, |width, byte| match byte {
                b' ' => width.wrapping_add(1),
                b'\t' => width.wrapping_add(8),
                _ => 0,
            })
        };
        for width in [width(0), width(joined)] {
            widths += usize::from(!std::mem::replace(&mut seen[usize::from(width)], true));
        }
        if widths > MAX_INDENTS {
            let at = start..start + blank.len();
            let why = format!("the file is indented in more than {MAX_INDENTS} widths");
            return Err(Finding::new(at, why, "move the declaration to a file of its own"));
        }
        joined = if content.trim_end() == "\\" { width(joined) } else { 0 };
        start += line.len();
    }
    Ok(())
}

/// How many characters begin in these bytes of UTF-8.
fn begun(bytes: &[u8]) -> usize {
    bytes.iter().filter(|byte| **byte & 0xc0 != 0x80).count()
}

/// A text and its lines.
pub(super) struct Source<'s> {
    text: &'s str,
    /// Where each line begins.
    lines: Vec<usize>,
    /// How many characters are before each part of [`STRIDE`] bytes: all of a text may be one line.
    characters: Vec<usize>,
}

impl<'s> Source<'s> {
    pub(super) fn new(text: &'s str) -> Source<'s> {
        let lines = std::iter::once(0).chain(text.match_indices('\n').map(|(at, _)| at + 1)).collect();
        let mut characters = vec![0];
        for part in text.as_bytes().chunks(STRIDE) {
            characters.push(characters.last().unwrap_or(&0) + begun(part));
        }
        Source { text, lines, characters }
    }

    pub(super) fn whole(&self) -> &'s str {
        self.text
    }

    pub(super) fn text(&self, part: Range<usize>) -> &'s str {
        self.text.get(part).unwrap_or_default()
    }

    /// The number of the line that a byte is in, from 0, and its first byte.
    fn line(&self, at: usize) -> (usize, usize) {
        let index = self.lines.partition_point(|start| *start <= at).saturating_sub(1);
        (index, self.lines[index])
    }

    pub(super) fn place(&self, at: usize) -> Place {
        let (index, start) = self.line(at);
        let before = |at: usize| self.characters[at / STRIDE] + begun(&self.text.as_bytes()[at / STRIDE * STRIDE..at]);
        let count = |n: usize| u32::try_from(n + 1).unwrap_or(u32::MAX);
        Place { line: count(index), column: count(before(at) - before(start)) }
    }

    /// A problem with the line that it is in, in which these parts of the text are not shown.
    pub(super) fn problem(&self, finding: &Finding, hidden: &[Range<usize>]) -> Problem {
        let Finding { at, why, instead } = finding;
        let part = self.part(at.start);
        let hidden: Vec<_> = hidden.iter().filter(|one| one.start < part.end && part.start < one.end).collect();
        let (mut source_line, mut caret, mut width) = (String::new(), 0, 0);
        for (offset, c) in self.text[part.clone()].char_indices() {
            let offset = part.start + offset;
            let shown = match hidden.iter().find(|one| one.contains(&offset)) {
                Some(one) if offset > one.start.max(part.start) => continue,
                Some(_) => '…',
                None => harmless(c),
            };
            source_line.push(shown);
            caret += usize::from(offset < at.start);
            width += usize::from(at.contains(&offset));
        }
        let (why, instead) = (why.clone(), instead.clone());
        Problem { place: self.place(at.start), source_line, caret, width: width.max(1), why, instead }
    }

    /// What is shown of the line that a byte is in: all of it, or what is around that byte.
    fn part(&self, at: usize) -> Range<usize> {
        let (index, start) = self.line(at);
        let end = self.lines.get(index + 1).map_or(self.text.len(), |next| next - 1);
        let line = self.text[start..end].strip_suffix('\r').unwrap_or(&self.text[start..end]);
        let end = start + line.len();
        if line.chars().nth(MAX_SHOWN).is_none() {
            return start..end;
        }
        // A line feed is in the line that it ends, and not shown.
        let at = at.min(end);
        let before = self.text(start..at).char_indices().rev().nth(SHOWN_BEFORE - 1);
        let behind = self.text(at..end).char_indices().nth(MAX_SHOWN - SHOWN_BEFORE);
        before.map_or(start, |(offset, _)| start + offset)..behind.map_or(end, |(offset, _)| at + offset)
    }
}

/// A character, or what stands for it where a terminal would obey it, or show something else than is there.
fn harmless(c: char) -> char {
    match c {
        '\t' => ' ',
        '\u{ad}'
        | '\u{61c}'
        | '\u{200b}'..='\u{200f}'
        | '\u{2028}'..='\u{202e}'
        | '\u{2060}'..='\u{206f}'
        | '\u{feff}' => char::REPLACEMENT_CHARACTER,
        c if c.is_control() => char::REPLACEMENT_CHARACTER,
        c => c,
    }
}

/// A name of the file as it is shown in a sentence.
pub(super) fn shown(name: &str) -> String {
    let mut chars = name.chars();
    let mut shown: String = chars.by_ref().take(MAX_NAME).map(harmless).collect();
    if chars.next().is_some() {
        shown.push('…');
    }
    shown
}
