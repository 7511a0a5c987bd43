//! How a sandbox ends when nobody ends it: its time to live, its lease, and what changes them.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use axum::Json;
use axum::extract::State;
use mvm_wire::ErrorCode;
use mvm_wire::api::{
    Cleanup, CreateRequest, DetachRequest, ErrorBody, KeepRequest, OnExpiry, Sandbox, State as SandboxState,
};

use super::Supervisor;
use super::http::{Answer, Given, Shared, invalid};
use crate::error::{Error, Result};
use crate::lifecycle;
use crate::policy::{Ask, Operation};
use crate::request::{MAX_TIME_MS, complete_end, ttl_of};

/// How long a sandbox with a lease waits to be claimed.
const CLAIM_LIMIT: Duration = Duration::from_secs(5);
/// The longest sleep before the clock is looked at again: it runs on while the host is asleep, timers do not.
const CLOCK_LOOK: Duration = Duration::from_secs(20);

/// Ends the sandbox when its time is up, or its owner never came.
pub async fn keep_time(supervisor: &Arc<Supervisor>) {
    let mut claimed = false;
    loop {
        let Ok(record) = supervisor.record() else { return };
        if record.state == SandboxState::Destroyed {
            // By somebody else, who takes us for dead or could not wait. What it left is ours to remove.
            supervisor.place.remove();
            return;
        }
        match (&record.cleanup, record.remaining()) {
            // Who claimed it watches over it until it is detached.
            (Cleanup::Lease, _) if claimed => supervisor.kept.notified().await,
            (Cleanup::Lease, _) => tokio::select! {
                () = supervisor.claimed.notified() => claimed = true,
                () = supervisor.kept.notified() => {}
                () = tokio::time::sleep(CLAIM_LIMIT) => {
                    if supervisor.end_lease() {
                        let _ = supervisor.destroy("nobody claimed its lease within 5 s").await;
                        return std::future::pending().await;
                    }
                }
            },
            (_, Some(Duration::ZERO)) => {
                if !supervisor.end_time() {
                    continue;
                }
                supervisor.expire(&record).await;
                if record.on_expiry() == OnExpiry::Destroy {
                    return std::future::pending().await;
                }
                supervisor.kept.notified().await;
            }
            (_, remaining) => {
                let sleep = tokio::time::sleep(remaining.unwrap_or(CLOCK_LOOK).min(CLOCK_LOOK));
                tokio::select! {
                    () = sleep => {}
                    () = supervisor.kept.notified() => {}
                }
            }
        }
    }
}

/// Gives the sandbox another time to live, from now on.
#[utoipa::path(post, path = "/v1/sandbox/keep", request_body = KeepRequest, responses((status = 200, body = Sandbox), (status = "default", body = ErrorBody)))]
pub async fn keep(State(supervisor): Shared, Given(request): Given<KeepRequest>) -> Answer<Sandbox> {
    if request.ttl_ms == 0 || request.ttl_ms > MAX_TIME_MS {
        return Err(invalid("a time to live is above zero and at most a year"));
    }
    Ok(Json(supervisor.keep(Duration::from_millis(request.ttl_ms), request.on_expiry)?))
}

/// Has the sandbox no longer end with its client: from now on it has the owner and the end that are given here, whatever it had
/// before.
#[utoipa::path(post, path = "/v1/sandbox/detach", request_body = DetachRequest, responses((status = 200, body = Sandbox), (status = "default", body = ErrorBody)))]
pub async fn detach(State(supervisor): Shared, Given(request): Given<DetachRequest>) -> Answer<Sandbox> {
    Ok(Json(supervisor.detach(request)?))
}

impl Supervisor {
    fn keep(&self, ttl: Duration, on_expiry: Option<OnExpiry>) -> Result<Sandbox> {
        let record = self.record()?;
        if record.state == SandboxState::Destroyed {
            return Err(lifecycle::refusal(&record.name, record.state, "keep"));
        }
        if record.cleanup == Cleanup::Lease {
            let what = format!("cannot give the sandbox {} a time to live", record.name);
            return Err(Error::new(ErrorCode::InvalidState, what, "it ends with the lease of its owner")
                .hint(format!("mvmctl detach {} has it go on without", record.name)));
        }
        let ttl_ms = Some(Some(ttl.as_millis() as u64));
        self.authorise(Operation::Keep, &Ask { ttl_ms, ..Ask::default() }, "")?;
        let on_expiry = on_expiry.unwrap_or(record.on_expiry());
        let mut store = self.store();
        self.unless_ended(&record.name, "keep")?;
        store.keep(&self.id, ttl, on_expiry)?;
        drop(store);
        self.kept.notify_one();
        self.sandbox()
    }

    fn detach(&self, request: DetachRequest) -> Result<Sandbox> {
        let record = self.record()?;
        if record.state == SandboxState::Destroyed {
            return Err(lifecycle::refusal(&record.name, record.state, "detach"));
        }
        let DetachRequest { owner, ttl_ms, no_ttl, on_expiry } = request;
        let owner = if owner.is_empty() { record.request.owner } else { owner };
        let mut end = CreateRequest { owner, ttl_ms, no_ttl, on_expiry, ..CreateRequest::default() };
        complete_end(&mut end, || Ok(self.policy.profile.limits.ttl))
            .map_err(|e| Error { what: format!("cannot detach the sandbox {}", record.name), ..e })?;
        self.authorise(Operation::Keep, &Ask { ttl_ms: ttl_of(&end), ..Ask::default() }, "")?;
        let mut store = self.store();
        self.unless_ended(&record.name, "detach")?;
        store.detach(&self.id, &end)?;
        self.detached.store(true, Ordering::Relaxed);
        drop(store);
        self.kept.notify_one();
        self.sandbox()
    }

    /// Whether the end of its lease is the sandbox's: not if it was detached. If it is, it can no longer be.
    pub(super) fn end_lease(&self) -> bool {
        let store = self.store();
        // A store that cannot be read is no reason to end what was detached, nor to keep what was not.
        let undetached = !self.detached.load(Ordering::Relaxed);
        let leased = store.get(&self.id).map_or(undetached, |record| record.cleanup == Cleanup::Lease);
        self.ended.fetch_or(leased, Ordering::Relaxed);
        leased
    }

    /// Whether its time is still up: not if it was given more at the last moment. If it is and that is its end, it can no longer
    /// be given more.
    fn end_time(&self) -> bool {
        let store = self.store();
        let Ok(record) = store.get(&self.id) else { return true };
        let up = record.remaining().is_some_and(|remaining| remaining.is_zero());
        self.ended.fetch_or(up && record.on_expiry() == OnExpiry::Destroy, Ordering::Relaxed);
        up
    }

    /// Refuses to change the end of what has ended. Holds for as long as the store is locked.
    fn unless_ended(&self, name: &str, wanted: &str) -> Result<()> {
        match self.ended.load(Ordering::Relaxed) {
            true => Err(lifecycle::refusal(name, SandboxState::Destroyed, wanted)),
            false => Ok(()),
        }
    }
}
