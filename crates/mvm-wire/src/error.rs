//! The one list of error codes, the same in Rust, JSON and every SDK.

use serde::{Deserialize, Serialize};

/// What kind of failure this is. Codes are stable: scripts and SDK classes are keyed by them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "api", derive(utoipa::ToSchema))]
pub enum ErrorCode {
    /// The guest command exited non-zero and the caller asked for that to be an error.
    CommandFailed,
    /// A deadline passed.
    Timeout,
    /// A policy rule refused the request.
    PolicyDenied,
    /// The operation is not legal in the sandbox's present state.
    InvalidState,
    /// The sandbox exists but its machine cannot be reached.
    SandboxUnavailable,
    /// The named thing does not exist.
    NotFound,
    /// The name is taken.
    AlreadyExists,
    /// A file operation failed in the guest or on the host.
    FileError,
    /// Memory, disk, processes or another bounded resource ran out.
    ResourceExhausted,
    /// This backend, accelerator or host lacks the capability.
    BackendUnsupported,
    /// A saved state does not match what it would be restored on.
    RestoreRefused,
    /// Two parts of mvm, or a guest and a host, share no protocol version.
    Incompatible,
    /// The call has no meaning in a recording.
    NotRecordable,
    /// The handle was closed before.
    ClosedHandle,
    /// The connection to the guest or to the supervisor broke.
    TransportError,
    /// The request itself is wrong.
    InvalidRequest,
    /// A defect in mvm or a host that behaves as no host should.
    Internal,
}

impl ErrorCode {
    /// Every code, in the order of the documentation.
    pub const ALL: [ErrorCode; 17] = [
        ErrorCode::CommandFailed,
        ErrorCode::Timeout,
        ErrorCode::PolicyDenied,
        ErrorCode::InvalidState,
        ErrorCode::SandboxUnavailable,
        ErrorCode::NotFound,
        ErrorCode::AlreadyExists,
        ErrorCode::FileError,
        ErrorCode::ResourceExhausted,
        ErrorCode::BackendUnsupported,
        ErrorCode::RestoreRefused,
        ErrorCode::Incompatible,
        ErrorCode::NotRecordable,
        ErrorCode::ClosedHandle,
        ErrorCode::TransportError,
        ErrorCode::InvalidRequest,
        ErrorCode::Internal,
    ];

    /// The exit status of `mvmctl` when mvm itself failed with this code.
    pub fn exit_status(self) -> u8 {
        match self {
            ErrorCode::Timeout => 124,
            ErrorCode::PolicyDenied => 126,
            _ => 125,
        }
    }
}

impl std::fmt::Display for ErrorCode {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        std::fmt::Debug::fmt(self, f)
    }
}
