//! Text that came from a guest and goes to a terminal.

/// Replaces control characters, so that the text can neither move the cursor nor hide what stands before it.
/// Line ends and tabs stay. The length is bounded.
pub fn harmless(text: &str) -> String {
    const MAX_CHARS: usize = 4096;
    let safe = |c: char| match c {
        '\n' | '\t' => c,
        // Bidirectional controls reorder what a person reads.
        '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' => '\u{fffd}',
        c if c.is_control() => '\u{fffd}',
        c => c,
    };
    text.chars().take(MAX_CHARS).map(safe).collect()
}

#[cfg(test)]
mod tests {
    use super::harmless;

    #[test]
    fn escapes_and_bidirectional_controls_lose_their_power() {
        assert_eq!(harmless("a\x1b[2Jb\r\u{9b}1m\u{202e}c\n"), "a\u{fffd}[2Jb\u{fffd}\u{fffd}1m\u{fffd}c\n");
        assert_eq!(harmless(&"x".repeat(10_000)).len(), 4096);
    }
}
