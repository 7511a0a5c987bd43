//! What can go wrong with keys and logs: what failed, why, and what to do. A document that is not as it must be is a
//! [`Refusal`](crate::Refusal) instead.

use rustix::io::Errno;

/// What kind of failure it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// There is no such key, entry or log.
    NotFound,
    /// What was asked makes no sense.
    Invalid,
    /// What was asked would contradict what is on record, so nothing was signed.
    Refused,
    /// A file of ours is not as we wrote it.
    Damaged,
    /// A file could be read by others, or is not the caller's.
    Unsafe,
    /// The disk is full, or a limit on files was reached.
    Full,
    /// The system refused a file operation.
    Io,
}

/// A failure that a user can act on. `Display` gives `what: why`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Error {
    /// What kind it is.
    pub kind: Kind,
    /// What could not be done.
    pub what: String,
    /// The cause.
    pub why: String,
    /// What the user can do; empty when there is nothing to add.
    pub hint: String,
    /// The system's error number, where there is one.
    pub errno: Option<i32>,
}

/// The crate's result type.
pub type Result<T> = std::result::Result<T, Error>;

impl Error {
    /// An error with a cause and no hint yet.
    pub fn new(kind: Kind, what: impl Into<String>, why: impl std::fmt::Display) -> Error {
        Error { kind, what: what.into(), why: why.to_string(), hint: String::new(), errno: None }
    }

    /// Adds what the user can do about it.
    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Error {
        self.hint = hint.into();
        self
    }

    /// What the system refused. A full disk is told apart, because the user can do something about it.
    pub fn io(what: impl Into<String>, cause: impl Into<std::io::Error>) -> Error {
        let cause = cause.into();
        let errno = cause.raw_os_error();
        let is = |known: Errno| errno == Some(known.raw_os_error());
        let error = if is(Errno::NOSPC) || is(Errno::DQUOT) || is(Errno::FBIG) {
            Error::new(Kind::Full, what, cause).hint("free some space; nothing was changed")
        } else if is(Errno::NOENT) {
            Error::new(Kind::NotFound, what, cause)
        } else {
            Error::new(Kind::Io, what, cause)
        };
        Error { errno, ..error }
    }
}

impl std::fmt::Display for Error {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}: {}", self.what, self.why)
    }
}

impl std::error::Error for Error {}

/// Turns what the system answers into ours, naming what was being done.
pub(crate) trait Context<T> {
    fn context(self, what: impl FnOnce() -> String) -> Result<T>;
}

impl<T, E: Into<std::io::Error>> Context<T> for std::result::Result<T, E> {
    fn context(self, what: impl FnOnce() -> String) -> Result<T> {
        self.map_err(|cause| Error::io(what(), cause))
    }
}
