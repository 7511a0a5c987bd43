//! Every type that crosses a process boundary: guest frames, the host API, error codes, archives. Pure data: no I/O of its
//! own, no `unsafe`.

#![forbid(unsafe_code)]

#[cfg(feature = "api")]
pub mod api;
mod error;
pub mod files;
pub mod frame;
pub mod guest;
pub mod hello;
#[cfg(feature = "api")]
pub mod object;
pub mod tar;

pub use error::ErrorCode;
