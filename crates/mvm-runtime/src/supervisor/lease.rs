//! The owner's lease: a request that a client holds open. When the connection ends, or the process that opened it (a
//! forked child may still hold the socket), the sandbox is destroyed, unless it was detached before.

use std::os::fd::OwnedFd;
use std::sync::Arc;

use axum::extract::State;
use axum::extract::connect_info::{ConnectInfo, Connected};
use axum::response::Response;
use axum::serve::IncomingStream;
use futures_util::stream;
use mvm_wire::ErrorCode;
use mvm_wire::api::{Cleanup, ErrorBody, LeaseEvent};
use rustix::process::{Pid, PidfdFlags, pidfd_open};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::net::UnixListener;
use tokio::sync::oneshot;

use super::Supervisor;
use super::http::{Failed, ndjson};
use crate::error::{Error, IoContext, Result};

/// Who opened a connection.
#[derive(Debug, Clone, Copy)]
pub struct Peer(Option<i32>);

impl Connected<IncomingStream<'_, UnixListener>> for Peer {
    fn connect_info(stream: IncomingStream<'_, UnixListener>) -> Self {
        Peer(stream.io().peer_cred().ok().and_then(|peer| peer.pid()))
    }
}

/// Claims the sandbox. The response says so and then stays open; the sandbox is destroyed within a second of the
/// connection's end or the caller's, unless it was detached (`/v1/sandbox/detach`) before.
#[utoipa::path(get, path = "/v1/lease", responses(
    (status = 200, body = LeaseEvent, content_type = "application/x-ndjson"), (status = "default", body = ErrorBody)))]
pub async fn claim(
    State(supervisor): State<Arc<Supervisor>>,
    ConnectInfo(Peer(pid)): ConnectInfo<Peer>,
) -> std::result::Result<Response, Failed> {
    let record = supervisor.record()?;
    if record.cleanup != Cleanup::Lease {
        let what = format!("cannot claim the sandbox {}", record.name);
        return Err(Error::new(ErrorCode::InvalidState, what, "it has no lease, or was detached").into());
    }
    let owner = owner(pid)?;
    let (held, dropped) = oneshot::channel::<()>();
    supervisor.claimed.notify_one();
    tokio::spawn(watch(supervisor, owner, dropped));
    let claimed = LeaseEvent { claimed: true };
    Ok(ndjson(stream::unfold((Some(claimed), held), |(event, held)| async move {
        match event {
            Some(event) => Some((event, (None, held))),
            None => std::future::pending().await,
        }
    })))
}

fn owner(pid: Option<i32>) -> Result<AsyncFd<OwnedFd>> {
    let gone = || Error::new(ErrorCode::InvalidRequest, "cannot claim the sandbox", "the caller cannot be watched");
    let pid = pid.and_then(Pid::from_raw).ok_or_else(gone)?;
    let pidfd = pidfd_open(pid, PidfdFlags::NONBLOCK).map_err(|_| gone())?;
    // SAFETY: an `OwnedFd` stays the same open descriptor for as long as the `AsyncFd` owns it.
    unsafe { AsyncFd::register_with_interest(pidfd, Interest::READABLE) }.context(|| "cannot watch the caller".into())
}

async fn watch(supervisor: Arc<Supervisor>, owner: AsyncFd<OwnedFd>, dropped: oneshot::Receiver<()>) {
    let cause = tokio::select! {
        _ = owner.readable() => "its owner's process ended",
        _ = dropped => "its owner closed the lease",
    };
    if supervisor.end_lease() {
        let _ = supervisor.destroy(cause).await;
    }
}
