//! How long work tells its user what it is doing, whoever draws it.

/// Receives the steps of long work. The command line draws them as a spinner on a terminal and as plain lines elsewhere.
pub trait Progress: Sync {
    /// A new step begins; the one before it, if any, is done.
    fn step(&self, label: &str);
    /// A detail of the current step changed (a count, a percentage, the last line of a helper's output).
    fn detail(&self, text: &str);
    /// The current step ended well, with a short result.
    fn done(&self, result: &str);
    /// Something the user should know that is not a failure.
    fn warn(&self, text: &str);
}

/// Discards everything: for callers that show nothing.
pub struct Silent;

impl Progress for Silent {
    fn step(&self, _: &str) {}
    fn detail(&self, _: &str) {}
    fn done(&self, _: &str) {}
    fn warn(&self, _: &str) {}
}
