//! Snapshots and forks of the sandbox that is supervised here, over the API.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use mvm_wire::ErrorCode;
use mvm_wire::api::{
    Cleanup, CreateRequest, ErrorBody, ForkRequest, Forked, Sandbox, Snapshot, SnapshotRequest, State as SandboxState,
};

use super::Supervisor;
use super::api::detached;
use super::http::{Answer, Given, Shared};
use super::machine::Running;
use crate::error::{Error, IoContext, Result};
use crate::home::Staging;
use crate::lifecycle;
use crate::point::{self, Needs};
use crate::policy::{self, Ask, Operation};
use crate::reconcile;
use crate::request::{DEFAULT_TTL, ttl_of};
use crate::sandbox::{self, Identity};
use crate::sandboxes;
use crate::snapshots;

/// The most copies that are made at once.
const MAX_FORKS: u32 = 64;

/// Saves the sandbox as it is at one moment: memory, devices, disk, commands. It goes on as before.
#[utoipa::path(post, path = "/v1/snapshots", request_body = SnapshotRequest, responses((status = 200, body = Snapshot), (status = "default", body = ErrorBody)))]
pub async fn save(State(supervisor): Shared, Given(request): Given<SnapshotRequest>) -> Answer<Snapshot> {
    Ok(Json(detached(async move { supervisor.snapshot(&request).await }).await?))
}

/// Makes running copies of the sandbox, all that are asked for or none. They share its memory and disk until they write.
/// It goes on as before.
#[utoipa::path(post, path = "/v1/sandbox/fork", request_body = ForkRequest, responses((status = 200, body = Forked), (status = "default", body = ErrorBody)))]
pub async fn fork(State(supervisor): Shared, Given(request): Given<ForkRequest>) -> Answer<Forked> {
    Ok(Json(detached(async move { supervisor.fork(request).await }).await?))
}

/// What was saved, and is not sealed yet.
struct Taken {
    identity: Identity,
    needs: Needs,
    disk: Vec<PathBuf>,
    running_jobs: u64,
}

impl Supervisor {
    async fn snapshot(self: &Arc<Self>, request: &SnapshotRequest) -> Result<Snapshot> {
        let (_, audit_id) = self.authorise(Operation::Snapshot, &Ask::default(), "")?;
        let id = sandbox::new_snapshot_id()?;
        let name = snapshots::name(&self.home, &request.name, &id)?;
        let staging = self.home.staging("snapshot")?;
        let taken = self.take(staging.path(), "save a snapshot of").await?;
        let record = self.record()?;
        // Ports of the host are granted to one sandbox, never to copies of it.
        let (key, snapshot, ports) = (String::new(), String::new(), Vec::new());
        let request = CreateRequest { idempotency_key: key, snapshot, ports, ..record.request };
        let running_jobs = taken.running_jobs;
        let profile_digest = policy::digest(&self.policy.profile);
        let record = snapshots::Record {
            id,
            name,
            sandbox_name: record.name,
            request,
            running_jobs,
            profile_digest,
            audit_id: Some(audit_id),
        };
        let (home, sandbox) = (self.home.clone(), self.id.clone());
        // Digests and syncs; the sandbox runs meanwhile.
        let finish = move || {
            seal(&staging, &sandbox, taken, true)?;
            Ok(snapshots::commit(&home, staging, record)?.describe())
        };
        tokio::task::spawn_blocking(finish).await.map_err(|e| Error::internal("cannot save the snapshot", e))?
    }

    async fn fork(self: &Arc<Self>, request: ForkRequest) -> Result<Forked> {
        let requests = self.children(request)?;
        for request in &requests {
            self.admit(Operation::Keep, &Ask { ttl_ms: ttl_of(request), ..Ask::default() })?;
        }
        self.authorise(Operation::Snapshot, &Ask::default(), "")?;
        let staging = self.home.staging("fork")?;
        let taken = self.take(staging.path(), "fork").await?;
        seal(&staging, &self.id, taken, false)?;
        let births: Vec<_> = requests
            .into_iter()
            .map(|request| {
                let (home, dir, policy) = (self.home.clone(), staging.path().to_owned(), self.policy.clone());
                let handover = self.known.hand_over();
                tokio::task::spawn_blocking(move || sandboxes::create_from(&home, &dir, request, policy, &handover))
            })
            .collect();
        let mut born = Vec::new();
        let mut failed = None;
        for birth in births {
            match birth.await.map_err(|e| Error::internal("cannot fork the sandbox", e)).and_then(|child| child) {
                Ok(child) => born.push(child),
                Err(e) => failed = Some(e),
            }
        }
        match failed {
            None => Ok(Forked { sandboxes: born }),
            Some(e) => {
                self.undo(born).await;
                Err(e)
            }
        }
    }

    /// All or none: the others go when one could not be made.
    async fn undo(&self, born: Vec<Sandbox>) {
        let home = self.home.clone();
        let undo = move || {
            for child in born {
                let _ = reconcile::destroy_by_force(&home, &child.id, "another copy could not be made");
            }
        };
        let _ = tokio::task::spawn_blocking(undo).await;
    }

    /// The requests that make the children.
    fn children(&self, request: ForkRequest) -> Result<Vec<CreateRequest>> {
        let count = request.count.max(1);
        if count > MAX_FORKS {
            let why = format!("at most {MAX_FORKS} copies are made at once, not {count}");
            return Err(Error::new(ErrorCode::InvalidRequest, "cannot fork the sandbox", why));
        }
        let parent = self.record()?;
        let as_parent = !request.lease && !request.no_ttl && request.ttl_ms.is_none();
        let inherited = match (&parent.cleanup, as_parent) {
            (Cleanup::Ttl { ttl_ms, .. }, true) => Some(*ttl_ms),
            (Cleanup::Lease, true) => Some(DEFAULT_TTL.as_millis() as u64),
            (Cleanup::Explicit, true) | (_, false) => request.ttl_ms,
        };
        let base = match request.name.as_str() {
            "" => format!("{}-{}", parent.name, &sandbox::new_id()?[8..]),
            name => name.to_owned(),
        };
        let owner = if request.owner.is_empty() { parent.request.owner.clone() } else { request.owner };
        Ok((1..=count)
            .map(|number| CreateRequest {
                name: format!("{base}-{number}"),
                owner: owner.clone(),
                ttl_ms: inherited,
                no_ttl: request.no_ttl || (as_parent && parent.cleanup == Cleanup::Explicit),
                on_expiry: request.on_expiry.unwrap_or(parent.on_expiry()),
                lease: request.lease,
                idempotency_key: String::new(),
                snapshot: String::new(),
                ports: Vec::new(),
                ..parent.request.clone()
            })
            .collect())
    }

    /// Saves the sandbox into a directory, in whatever state it has memory. It goes on as before, also after an error.
    async fn take(self: &Arc<Self>, dir: &Path, wanted: &str) -> Result<Taken> {
        let _transfers = self.no_transfers(wanted).await?;
        let mut slot = self.machine.lock().await;
        let record = self.record()?;
        match record.state {
            SandboxState::Running => {
                self.hold(&mut slot).await?;
                let taken = self.take_held(&mut slot, dir).await;
                self.go_on(&mut slot).await?;
                taken
            }
            SandboxState::Frozen => self.take_held(&mut slot, dir).await,
            SandboxState::Cold => self.take_cold(dir),
            SandboxState::Creating
            | SandboxState::Restoring
            | SandboxState::Stopped
            | SandboxState::Failed
            | SandboxState::Destroyed => Err(lifecycle::refusal(&record.name, record.state, wanted)),
        }
    }

    async fn take_held(&self, slot: &mut Option<Running>, dir: &Path) -> Result<Taken> {
        let Some(running) = slot else { return Err(self.not_running("save")) };
        let disk = snapshots::take_disk(&self.place, dir)?;
        running.save(&self.jobs, dir).await?;
        self.take_image(dir)?;
        let (identity, needs) = (running.identity().clone(), running.needs().clone());
        Ok(Taken { identity, needs, disk, running_jobs: self.jobs.running() as u64 })
    }

    fn take_cold(&self, dir: &Path) -> Result<Taken> {
        let point = self.place.point()?;
        point.check(self.place.dir())?;
        let disk = snapshots::take_disk(&self.place, dir)?;
        point::link(&point, dir)?;
        self.take_image(dir)?;
        let point::Record { identity, needs, .. } = point.record;
        Ok(Taken { identity, needs, disk, running_jobs: self.jobs.running() as u64 })
    }

    fn take_image(&self, dir: &Path) -> Result<()> {
        let copied = std::fs::copy(self.place.image_record(), crate::place::Place::at(dir).image_record());
        copied.map(drop).context(|| "cannot record the image".into())
    }
}

fn seal(staging: &Staging, sandbox: &str, taken: Taken, digests: bool) -> Result<()> {
    let dir = staging.path();
    point::seal(dir, sandbox, &taken.identity, taken.needs, (dir, &taken.disk), digests).map(drop)
}
