//! The user's own terminal: its size, and raw mode that is always undone.

use std::io::IsTerminal;
use std::sync::Mutex;

use mvm_runtime::policy::Profile;
use mvm_wire::guest::TermSize;
use rustix::termios::{OptionalActions, Termios, tcgetattr, tcgetwinsize, tcsetattr};

/// How the terminal was before raw mode, for whoever ends the process.
static BEFORE: Mutex<Option<Termios>> = Mutex::new(None);

/// The terminal's size; that of a classic one if there is none.
pub fn size() -> TermSize {
    let streams = [rustix::stdio::stdin(), rustix::stdio::stdout(), rustix::stdio::stderr()];
    let known = streams.iter().find_map(|stream| tcgetwinsize(stream).ok()).filter(|size| size.ws_col > 0);
    known.map_or(TermSize { rows: 24, cols: 80 }, |size| TermSize { rows: size.ws_row, cols: size.ws_col })
}

/// Raw mode for as long as this lives: every key goes to the guest.
#[derive(Debug)]
pub struct Raw;

impl Raw {
    /// Enters raw mode if standard input is a terminal.
    pub fn enter() -> Option<Raw> {
        if !std::io::stdin().is_terminal() {
            return None;
        }
        let before = tcgetattr(rustix::stdio::stdin()).ok()?;
        let mut raw = before.clone();
        raw.make_raw();
        *BEFORE.lock().ok()? = Some(before);
        tcsetattr(rustix::stdio::stdin(), OptionalActions::Now, &raw).ok()?;
        Some(Raw)
    }
}

impl Drop for Raw {
    fn drop(&mut self) {
        restore();
    }
}

/// Leaves raw mode, if it was entered.
pub fn restore() {
    if let Some(before) = BEFORE.lock().ok().and_then(|mut before| before.take()) {
        let _ = tcsetattr(rustix::stdio::stdin(), OptionalActions::Now, &before);
    }
}

/// What the user's terminal is, unless the policy keeps that from a guest.
pub fn kind(profile: &Profile) -> Option<String> {
    profile.env.allow("TERM").then(|| std::env::var("TERM").ok()).flatten()
}
