//! The one error type of the runtime: what failed, why, and what to do about it.

use mvm_wire::ErrorCode;
use mvm_wire::api::{Denial, ErrorObject};

/// A failure a user can act on. `Display` gives `what: why`; the hint is printed on a line of its own.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Error {
    /// The stable code (see [`ErrorCode`]).
    pub code: ErrorCode,
    /// What could not be done, in the user's words.
    pub what: String,
    /// The cause.
    pub why: String,
    /// What the user can do; empty when there is nothing to add.
    pub hint: String,
    /// The Linux error number behind it, the guest's or the host's, where there is one.
    pub errno: Option<i32>,
    /// The capability that is missing, where that is what failed.
    pub capability: Option<Box<str>>,
    /// Every reason why a policy refused it.
    pub denials: Box<[Denial]>,
}

/// The runtime's result type.
pub type Result<T> = std::result::Result<T, Error>;

impl Error {
    /// An error with a cause and no hint yet.
    pub fn new(code: ErrorCode, what: impl Into<String>, why: impl std::fmt::Display) -> Self {
        let (what, why, hint) = (what.into(), why.to_string(), String::new());
        Error { code, what, why, hint, errno: None, capability: None, denials: Box::default() }
    }

    /// Adds what the user can do about it.
    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = hint.into();
        self
    }

    /// Adds the error number.
    #[must_use]
    pub fn errno(mut self, errno: i32) -> Self {
        self.errno = Some(errno);
        self
    }

    /// Names the capability that is missing.
    #[must_use]
    pub fn capability(mut self, name: &str) -> Self {
        self.capability = Some(name.into());
        self
    }

    /// What a policy refused, with each of its reasons; there is one at least.
    pub fn denied(what: impl Into<String>, denials: Vec<Denial>) -> Self {
        let first = denials.first().map(|first| format!("{} [{}]", first.reason, first.rule));
        let hint = denials.first().map_or_else(String::new, |first| first.remedy.clone());
        let more = denials.len().saturating_sub(1);
        let rest = if more > 0 { format!(" (and {more} more)") } else { String::new() };
        let why = format!("{}{rest}", first.unwrap_or_else(|| "a policy refused it".to_owned()));
        Error { denials: denials.into(), ..Error::new(ErrorCode::PolicyDenied, what, why).hint(hint) }
    }

    /// A host I/O error, told apart by its kind: a full disk is `ResourceExhausted`, the rest `FileError`.
    pub fn io(what: impl Into<String>, err: impl Into<std::io::Error>) -> Self {
        let err = err.into();
        let errno = err.raw_os_error();
        let error = match errno {
            Some(libc::ENOSPC | libc::EDQUOT) => Error::new(ErrorCode::ResourceExhausted, what, "the disk is full")
                .hint("free some space (`mvmctl template gc`), or point MVM_HOME at a larger disk"),
            Some(libc::EROFS) => Error::new(ErrorCode::FileError, what, "the file system is read-only")
                .hint("point MVM_HOME at a directory that can be written"),
            _ => Error::new(ErrorCode::FileError, what, err),
        };
        Error { errno, ..error }
    }

    /// The same of a path that the caller named: one that is not there is `NotFound`.
    pub fn named(what: impl Into<String>, err: impl Into<std::io::Error>) -> Self {
        let error = Error::io(what, err);
        if error.errno == Some(libc::ENOENT) { Error { code: ErrorCode::NotFound, ..error } } else { error }
    }

    /// A defect or a host that behaves unexpectedly.
    pub fn internal(what: impl Into<String>, why: impl std::fmt::Display) -> Self {
        Error::new(ErrorCode::Internal, what, why)
    }
}

impl From<Error> for ErrorObject {
    fn from(error: Error) -> Self {
        let Error { code, what, why, hint, errno, capability, denials } = error;
        let (capability, denials) = (capability.map(String::from), denials.into_vec());
        ErrorObject { code, what, why, hint, errno, capability, denials }
    }
}

impl From<ErrorObject> for Error {
    fn from(error: ErrorObject) -> Self {
        let ErrorObject { code, what, why, hint, errno, capability, denials } = error;
        Error { code, what, why, hint, errno, capability: capability.map(Into::into), denials: denials.into() }
    }
}

impl std::fmt::Display for Error {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}: {}", self.what, self.why)
    }
}

impl std::error::Error for Error {}

impl From<mvm_evidence::Error> for Error {
    fn from(error: mvm_evidence::Error) -> Self {
        let code = match error.kind {
            mvm_evidence::Kind::NotFound => ErrorCode::NotFound,
            mvm_evidence::Kind::Invalid => ErrorCode::InvalidRequest,
            mvm_evidence::Kind::Refused => ErrorCode::InvalidState,
            mvm_evidence::Kind::Full => ErrorCode::ResourceExhausted,
            mvm_evidence::Kind::Damaged | mvm_evidence::Kind::Unsafe | mvm_evidence::Kind::Io => ErrorCode::FileError,
        };
        let mvm_evidence::Error { what, why, hint, errno, .. } = error;
        Error { errno, ..Error::new(code, what, why).hint(hint) }
    }
}

/// Turns an I/O result into ours, naming what was being done.
pub trait IoContext<T> {
    /// Attaches `what` to the failure.
    fn context(self, what: impl FnOnce() -> String) -> Result<T>;
}

impl<T, E: Into<std::io::Error>> IoContext<T> for std::result::Result<T, E> {
    fn context(self, what: impl FnOnce() -> String) -> Result<T> {
        self.map_err(|e| Error::io(what(), e))
    }
}
