//! The verbs for sandboxes that stay: found by name, reached through the API on their sockets.

pub mod args;
pub mod change;
pub mod exec;
pub mod fs;
pub mod logs;
pub mod port;
mod replay;
pub mod secret;
pub mod show;
pub mod snapshot;
pub mod up;
mod workload;

use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use mvm_runtime::client::Client;
use mvm_runtime::place::Place;
use mvm_runtime::store::Record;
use mvm_runtime::{Error, ErrorCode, Home, Result, reconcile};
use mvm_wire::api::{Cleanup, OnExpiry, Sandbox, State};

use crate::commands::block_on;
use crate::output;

/// How long the end of a killed supervisor is waited for.
const DYING_LIMIT: Duration = Duration::from_secs(2);

/// A sandbox that was found, and the way to it.
struct Found {
    home: Home,
    record: Record,
    client: Client,
}

/// Finds a live sandbox by name or id, after what crashes left was set right. A supervisor that was killed a moment ago may
/// not be quite dead yet, and only then can another take its place.
fn find(name: &str) -> Result<Found> {
    let home = Home::locate()?;
    let patience = Instant::now() + DYING_LIMIT;
    loop {
        let record = reconcile::reconcile(&home)?.find(name)?;
        if record.state == State::Destroyed {
            let what = format!("cannot find the sandbox {name}");
            let why = format!("it was destroyed: {}", record.cause);
            return Err(Error::new(ErrorCode::NotFound, what, why).hint("mvmctl ps --all"));
        }
        let socket = Place::of(&home, &record.id).socket();
        if UnixStream::connect(&socket).is_ok() || Instant::now() > patience {
            return Ok(Found { home, record, client: Client::new(socket) });
        }
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// Runs a verb: prints what it says, or its error.
fn verb(json: bool, work: impl Future<Output = Result<u8>>) -> u8 {
    block_on(work).unwrap_or_else(|error| output::error(&error, json))
}

/// Milliseconds as people say it, to the nearest: `45 s`, `12 min`, `3 h`, `2 d`.
fn span(ms: u64) -> String {
    let nearest = |unit: u64| ms.saturating_add(unit / 2) / unit;
    match nearest(1000) {
        seconds @ 0..=119 => format!("{seconds} s"),
        120..=7199 => format!("{} min", nearest(60_000)),
        7200..=172_799 => format!("{} h", nearest(3_600_000)),
        _ => format!("{} d", nearest(86_400_000)),
    }
}

/// How a sandbox ends when nobody ends it, in a few words.
fn ending(sandbox: &Sandbox) -> String {
    match &sandbox.cleanup {
        Cleanup::Ttl { expires_at_ms, on_expiry, .. } => {
            let verb = match on_expiry {
                OnExpiry::Destroy => "destroyed",
                OnExpiry::Stop => "stopped",
                OnExpiry::Cold => "paused",
            };
            format!("{verb} in {}", span(expires_at_ms.saturating_sub(mvm_runtime::time::now_ms())))
        }
        Cleanup::Lease => "with its client".to_owned(),
        Cleanup::Explicit => "when asked".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn spans() {
        for (ms, text) in [
            (400, "0 s"),
            (119_400, "119 s"),
            (119_600, "2 min"),
            (3_599_000, "60 min"),
            (7_200_000, "2 h"),
            (28_799_000, "8 h"),
            (200_000_000, "2 d"),
        ] {
            assert_eq!(super::span(ms), text);
        }
    }
}
