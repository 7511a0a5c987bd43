//! The API on a sandbox's socket. One function for each request; [`document`] describes them all.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::middleware::from_fn;
use mvm_wire::ErrorCode;
use mvm_wire::api::{
    API_VERSIONS, CreateRequest, DeletionReport, ErrorBody, Inspection, RunRequest, Sandbox, State as SandboxState,
    Stats,
};
use serde::Deserialize;
use tokio::sync::OwnedRwLockReadGuard;
use utoipa::{IntoParams, OpenApi};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::http::{Answer, Asked, Shared, patience, take_all, unknown, wrong_method};
use super::{Supervisor, commands, ending, files, lease, logs, ports, secrets, snapshots};
use crate::error::Error;
use crate::lifecycle;
use crate::place::space;
use crate::policy::{Ask, Operation};
use crate::vmm::guest::Guest;

#[derive(OpenApi)]
#[openapi(
    info(
        title = "mvm sandbox",
        description = "The API of one sandbox, on its Unix socket. Plain HTTP/1.1: JSON bodies, raw bytes for input, one \
                       JSON object a line for streams, with an empty line for each 10 s of silence. Every error is an \
                       `ErrorBody`. `CreateRequest` and `RunRequest` \
                       are what `mvmctl up --request -` and `mvmctl run --request -` read."
    ),
    components(schemas(CreateRequest, RunRequest))
)]
struct Document;

fn routes() -> OpenApiRouter<Arc<Supervisor>> {
    OpenApiRouter::with_openapi(Document::openapi())
        .routes(routes!(inspect))
        .routes(routes!(wait))
        .routes(routes!(stats))
        .routes(routes!(stop))
        .routes(routes!(start))
        .routes(routes!(destroy))
        .routes(routes!(freeze))
        .routes(routes!(pause))
        .routes(routes!(resume))
        .routes(routes!(snapshots::fork))
        .routes(routes!(snapshots::save))
        .routes(routes!(ending::keep))
        .routes(routes!(ending::detach))
        .routes(routes!(lease::claim))
        .routes(routes!(commands::start_job, commands::list_jobs))
        .routes(routes!(commands::describe_job))
        .routes(routes!(commands::job_output))
        .routes(routes!(commands::wait_for_job))
        .routes(routes!(commands::job_receipt))
        .routes(routes!(commands::send_input))
        .routes(routes!(commands::signal_job))
        .routes(routes!(commands::resize_job))
        .routes(routes!(logs::logs))
        .routes(routes!(secrets::list_secrets))
        .routes(routes!(files::read, files::write))
        .routes(routes!(files::list))
        .routes(routes!(files::stat))
        .routes(routes!(files::mkdir))
        .routes(routes!(files::rename))
        .routes(routes!(files::remove))
        .routes(routes!(files::copy_in))
        .routes(routes!(files::copy_out))
        .routes(routes!(ports::add_port, ports::list_ports))
        .routes(routes!(ports::remove_port))
}

/// The service.
pub fn router(
    supervisor: Arc<Supervisor>,
) -> axum::extract::connect_info::IntoMakeServiceWithConnectInfo<axum::Router, lease::Peer> {
    let (router, _) = routes().split_for_parts();
    let router = router.fallback(unknown).method_not_allowed_fallback(wrong_method).layer(from_fn(take_all));
    router.with_state(supervisor).into_make_service_with_connect_info::<lease::Peer>()
}

/// The OpenAPI document, as JSON.
pub fn document() -> String {
    let (_, mut document) = routes().split_for_parts();
    document.info.version = API_VERSIONS.newest.to_string();
    document.to_pretty_json().unwrap_or_default()
}

/// The sandbox, its history and what isolates it.
#[utoipa::path(get, path = "/v1/sandbox", responses((status = 200, body = Inspection), (status = "default", body = ErrorBody)))]
async fn inspect(State(supervisor): Shared) -> Answer<Inspection> {
    Ok(Json(supervisor.inspect().await?))
}

#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
struct WaitQuery {
    /// The state to wait for.
    state: SandboxState,
    /// For how many milliseconds at most; a minute if this is left out or more.
    timeout_ms: Option<u64>,
}

/// Waits until the sandbox is in a state. `Timeout` if it is not in time.
#[utoipa::path(get, path = "/v1/sandbox/wait", params(WaitQuery), responses((status = 200, body = Sandbox), (status = "default", body = ErrorBody)))]
async fn wait(State(supervisor): Shared, Asked(query): Asked<WaitQuery>) -> Answer<Sandbox> {
    let mut state = supervisor.state.subscribe();
    let reached = state.wait_for(|state| *state == query.state);
    let reached = tokio::time::timeout(patience(query.timeout_ms), reached).await.is_ok();
    let sandbox = supervisor.sandbox()?;
    if reached {
        return Ok(Json(sandbox));
    }
    let what = format!("the sandbox {} is not {}", sandbox.name, query.state);
    Err(Error::new(ErrorCode::Timeout, what, format!("it is {}", sandbox.state)).into())
}

/// What the sandbox uses.
#[utoipa::path(get, path = "/v1/sandbox/stats", responses((status = 200, body = Stats), (status = "default", body = ErrorBody)))]
async fn stats(State(supervisor): Shared) -> Answer<Stats> {
    Ok(Json(supervisor.stats()))
}

/// Ends the machine and keeps the disk.
#[utoipa::path(post, path = "/v1/sandbox/stop", responses((status = 200, body = Sandbox), (status = "default", body = ErrorBody)))]
async fn stop(State(supervisor): Shared) -> Answer<Sandbox> {
    Ok(Json(detached(async move { supervisor.stop("stop was asked for").await }).await?))
}

/// Boots the machine on its disk.
#[utoipa::path(post, path = "/v1/sandbox/start", responses((status = 200, body = Sandbox), (status = "default", body = ErrorBody)))]
async fn start(State(supervisor): Shared) -> Answer<Sandbox> {
    Ok(Json(detached(async move { supervisor.start_again().await }).await?))
}

/// Stops the processors of the machine; its memory stays where it is.
#[utoipa::path(post, path = "/v1/sandbox/freeze", responses((status = 200, body = Sandbox), (status = "default", body = ErrorBody)))]
async fn freeze(State(supervisor): Shared) -> Answer<Sandbox> {
    Ok(Json(detached(async move { supervisor.freeze("freeze was asked for").await }).await?))
}

/// Saves the machine's memory with its disk and ends all that runs of it: the sandbox is cold.
#[utoipa::path(post, path = "/v1/sandbox/pause", responses((status = 200, body = Sandbox), (status = "default", body = ErrorBody)))]
async fn pause(State(supervisor): Shared) -> Answer<Sandbox> {
    Ok(Json(detached(async move { supervisor.pause("pause was asked for").await }).await?))
}

/// Has a frozen or cold sandbox go on where it was.
#[utoipa::path(post, path = "/v1/sandbox/resume", responses((status = 200, body = Sandbox), (status = "default", body = ErrorBody)))]
async fn resume(State(supervisor): Shared) -> Answer<Sandbox> {
    Ok(Json(detached(async move { supervisor.resume("resume was asked for").await }).await?))
}

/// Ends the sandbox for good and says what was deleted.
#[utoipa::path(post, path = "/v1/sandbox/destroy", responses((status = 200, body = DeletionReport), (status = "default", body = ErrorBody)))]
async fn destroy(State(supervisor): Shared) -> Answer<DeletionReport> {
    Ok(Json(detached(async move { supervisor.destroy("destroy was asked for").await }).await?))
}

/// A change of state is completed also if whoever asked for it has gone.
pub async fn detached<T: Send + 'static>(
    work: impl Future<Output = crate::Result<T>> + Send + 'static,
) -> crate::Result<T> {
    tokio::spawn(work).await.map_err(|e| Error::internal("cannot change the sandbox's state", e))?
}

/// The session with the guest while something uses it.
pub struct Reached {
    guest: Guest,
    _transfer: OwnedRwLockReadGuard<()>,
}

impl std::ops::Deref for Reached {
    type Target = Guest;

    fn deref(&self) -> &Guest {
        &self.guest
    }
}

impl Supervisor {
    /// The session with the guest, for what moves files, if the policy allows that.
    pub async fn guest(&self, operation: Operation, wanted: &str) -> crate::Result<Reached> {
        self.admit(operation, &Ask::default())?;
        self.session(wanted).await
    }

    /// The session with the guest. It lasts at least until the result is dropped, unless it breaks.
    pub async fn session(&self, wanted: &str) -> crate::Result<Reached> {
        let transfer = self.transfers.clone().read_owned().await;
        let slot = self.machine.lock().await;
        let guest = slot.as_ref().and_then(|running| running.guest().cloned());
        Ok(Reached { guest: guest.ok_or_else(|| self.not_running(wanted))?, _transfer: transfer })
    }

    pub(super) fn not_running(&self, wanted: &str) -> Error {
        self.record().map_or_else(|e| e, |record| lifecycle::refusal(&record.name, record.state, wanted))
    }

    fn stats(&self) -> Stats {
        let pid = self.machine.try_lock().ok().and_then(|slot| slot.as_ref().map(super::Running::pid));
        Stats {
            cpu_seconds: pid.and_then(crate::process::cpu_seconds),
            vmm_private_bytes: pid.and_then(crate::process::private_bytes),
            supervisor_private_bytes: crate::process::private_bytes(std::process::id()).unwrap_or(0),
            disk_bytes: self.place.disk_usage(),
            saved_bytes: space(&self.place.saved()),
            running_jobs: self.jobs.running() as u64,
        }
    }
}
