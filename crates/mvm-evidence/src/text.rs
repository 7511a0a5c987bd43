//! Which characters the strings of a document may have.

/// Makes text that others wrote fit for an error: printable ASCII, and not much of it.
pub(crate) fn printable(text: &str) -> String {
    text.chars().take(160).map(|c| if c.is_ascii_graphic() || c == ' ' { c } else { '?' }).collect()
}

/// One to `max` printable ASCII characters, spaces among them.
pub(crate) fn is_line(text: &str, max: usize) -> bool {
    (1..=max).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_graphic() || b == b' ')
}

/// One to `max` letters, digits and `-._/:@+`: an id, a name, a code.
pub(crate) fn is_name(text: &str, max: usize) -> bool {
    (1..=max).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_alphanumeric() || b"-._/:@+".contains(&b))
}

/// At most `max` bytes of text without control characters, and without those that reorder or hide others on a screen.
pub(crate) fn is_prose(text: &str, max: usize) -> bool {
    text.len() <= max && !text.chars().any(misleads)
}

/// Text of somebody else's in a form that a document may hold: what [`is_prose`] forbids is replaced, the rest cut off.
pub(crate) fn to_prose(text: &str, max: usize) -> String {
    let mut kept = String::new();
    for c in text.chars().map(|c| if misleads(c) { '\u{fffd}' } else { c }) {
        if kept.len() + c.len_utf8() > max {
            break;
        }
        kept.push(c);
    }
    kept
}

fn misleads(c: char) -> bool {
    c.is_control()
        || matches!(c, '\u{ad}' | '\u{61c}' | '\u{180e}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}'
            | '\u{2060}'..='\u{206f}' | '\u{feff}' | '\u{fff9}'..='\u{fffb}' | '\u{e0000}'..='\u{e007f}')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prose_keeps_letters_and_loses_what_misleads() {
        let hostile = "é\u{1b}[2J\u{202e}x\u{200b}\n";
        assert!(!is_prose(hostile, 100));
        assert_eq!(to_prose(hostile, 100), "é\u{fffd}[2J\u{fffd}x\u{fffd}\u{fffd}");
        assert!(is_prose(&to_prose(hostile, 100), 100));
        assert_eq!(to_prose("ééé", 5), "éé");
    }
}
