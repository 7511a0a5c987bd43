//! The API on a sandbox's socket. One function for each request; [`document`] describes them all.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use axum::Json;
use axum::body::{Body, BodyDataStream, Bytes};
use axum::extract::rejection::{JsonRejection, QueryRejection};
use axum::extract::{FromRequest, FromRequestParts, Path, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use base64::Engine;
use futures_util::stream::{self, Stream, StreamExt};
use mvm_wire::ErrorCode;
use mvm_wire::api::{
    DeletionReport, ErrorBody, Inspection, Job as JobView, JobEvent, JobRequest, JobResult, KeepRequest, OnExpiry,
    Sandbox, SignalRequest, State as SandboxState, Stats, TerminalSize,
};
use mvm_wire::guest::TermSize;
use serde::Deserialize;
use tokio::sync::OwnedRwLockReadGuard;
use utoipa::{IntoParams, OpenApi};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::Supervisor;
use super::files;
use super::jobs::Job;
use super::lease;
use super::logs;
use super::output::Piece;
use super::snapshots;
use crate::command::Control;
use crate::error::Error;
use crate::lifecycle;
use crate::vmm::guest::Guest;

/// The longest that a request may wait for something to happen.
const LONGEST_WAIT: Duration = Duration::from_secs(60);

pub type Shared = State<Arc<Supervisor>>;
pub type Answer<T> = std::result::Result<Json<T>, Failed>;

#[derive(OpenApi)]
#[openapi(info(
    title = "mvm sandbox",
    description = "The API of one sandbox, on its Unix socket. Plain HTTP/1.1: JSON bodies, raw bytes for input, one \
                   JSON object a line for streams. Every error is an `ErrorBody`."
))]
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
        .routes(routes!(keep))
        .routes(routes!(lease::claim))
        .routes(routes!(start_job, list_jobs))
        .routes(routes!(describe_job))
        .routes(routes!(job_output))
        .routes(routes!(wait_for_job))
        .routes(routes!(send_input))
        .routes(routes!(signal_job))
        .routes(routes!(resize_job))
        .routes(routes!(logs::logs))
        .routes(routes!(files::read, files::write))
        .routes(routes!(files::list))
        .routes(routes!(files::stat))
        .routes(routes!(files::mkdir))
        .routes(routes!(files::rename))
        .routes(routes!(files::remove))
        .routes(routes!(files::copy_in))
        .routes(routes!(files::copy_out))
}

/// The service.
pub fn router(
    supervisor: Arc<Supervisor>,
) -> axum::extract::connect_info::IntoMakeServiceWithConnectInfo<axum::Router, lease::Peer> {
    let (router, _) = routes().split_for_parts();
    router.fallback(unknown).with_state(supervisor).into_make_service_with_connect_info::<lease::Peer>()
}

/// The OpenAPI document, as JSON.
pub fn document() -> String {
    let (_, document) = routes().split_for_parts();
    document.to_pretty_json().unwrap_or_default()
}

/// An error as a response.
pub struct Failed(pub Error);

impl From<Error> for Failed {
    fn from(error: Error) -> Self {
        Failed(error)
    }
}

impl IntoResponse for Failed {
    fn into_response(self) -> Response {
        let status = match self.0.code {
            ErrorCode::InvalidRequest => StatusCode::BAD_REQUEST,
            ErrorCode::PolicyDenied => StatusCode::FORBIDDEN,
            ErrorCode::NotFound => StatusCode::NOT_FOUND,
            ErrorCode::AlreadyExists | ErrorCode::InvalidState | ErrorCode::RestoreRefused => StatusCode::CONFLICT,
            ErrorCode::FileError => StatusCode::UNPROCESSABLE_ENTITY,
            ErrorCode::BackendUnsupported => StatusCode::NOT_IMPLEMENTED,
            ErrorCode::TransportError => StatusCode::BAD_GATEWAY,
            ErrorCode::SandboxUnavailable => StatusCode::SERVICE_UNAVAILABLE,
            ErrorCode::Timeout => StatusCode::GATEWAY_TIMEOUT,
            ErrorCode::ResourceExhausted => StatusCode::INSUFFICIENT_STORAGE,
            _ => StatusCode::INTERNAL_SERVER_ERROR,
        };
        (status, Json(ErrorBody { error: self.0.into() })).into_response()
    }
}

pub fn invalid(why: impl std::fmt::Display) -> Failed {
    Failed(Error::new(ErrorCode::InvalidRequest, "cannot understand the request", why).hint("see the API's document"))
}

async fn unknown(method: axum::http::Method, uri: axum::http::Uri) -> Failed {
    Failed(Error::new(
        ErrorCode::NotFound,
        "cannot understand the request",
        format!("there is no {method} {}", uri.path()),
    ))
}

/// A JSON body, refused as one of our errors.
#[derive(FromRequest)]
#[from_request(via(Json), rejection(Failed))]
pub struct Given<T>(pub T);

impl From<JsonRejection> for Failed {
    fn from(rejection: JsonRejection) -> Self {
        invalid(rejection.body_text())
    }
}

/// The query, refused as one of our errors.
#[derive(FromRequestParts)]
#[from_request(via(axum::extract::Query), rejection(Failed))]
pub struct Asked<T>(pub T);

impl From<QueryRejection> for Failed {
    fn from(rejection: QueryRejection) -> Self {
        invalid(rejection.body_text())
    }
}

/// The sandbox, its history and what isolates it.
#[utoipa::path(get, path = "/v1/sandbox", responses((status = 200, body = Inspection), (status = "default", body = ErrorBody)))]
async fn inspect(State(supervisor): Shared) -> Answer<Inspection> {
    Ok(Json(supervisor.inspect().await?))
}

#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
struct WaitQuery {
    /// The state to wait for.
    state: SandboxState,
    /// For how many milliseconds at most; a minute if this is left out or more.
    timeout_ms: Option<u64>,
}

fn patience(timeout_ms: Option<u64>) -> Duration {
    timeout_ms.map_or(LONGEST_WAIT, Duration::from_millis).min(LONGEST_WAIT)
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

/// Gives the sandbox another time to live, from now on.
#[utoipa::path(post, path = "/v1/sandbox/keep", request_body = KeepRequest, responses((status = 200, body = Sandbox), (status = "default", body = ErrorBody)))]
async fn keep(State(supervisor): Shared, Given(request): Given<KeepRequest>) -> Answer<Sandbox> {
    if request.ttl_ms == 0 || request.ttl_ms > 366 * 86_400_000 {
        return Err(invalid("a time to live is above zero and at most a year"));
    }
    Ok(Json(supervisor.keep(Duration::from_millis(request.ttl_ms), request.on_expiry)?))
}

/// Starts a command. Answers with the job; for an attached one with its events, and the command ends when the
/// connection does.
#[utoipa::path(post, path = "/v1/jobs", request_body = JobRequest, responses(
    (status = 200, description = "the job; or, if attached, its events", content((JobView = "application/json"), (JobEvent = "application/x-ndjson"))),
    (status = "default", body = ErrorBody)))]
async fn start_job(
    State(supervisor): Shared,
    Given(request): Given<JobRequest>,
) -> std::result::Result<Response, Failed> {
    let attached = request.attached;
    let job = supervisor.start_job(request).await?;
    if !attached {
        return Ok(Json(job.describe()).into_response());
    }
    let guard = EndsWithConnection(job.clone());
    let started = stream::iter([JobEvent::Started { run_id: job.run_id.clone() }]);
    Ok(ndjson(started.chain(events(job, 0, true)).map(move |event| {
        let _held = &guard;
        event
    })))
}

/// Ends an attached command when its connection has ended.
struct EndsWithConnection(Arc<Job>);

impl Drop for EndsWithConnection {
    fn drop(&mut self) {
        self.0.abandon();
    }
}

/// A job's events from an offset: to its end, or what there is now.
fn events(job: Arc<Job>, offset: u64, follow: bool) -> impl Stream<Item = JobEvent> + Send {
    stream::unfold(Some((job, offset)), move |state| async move {
        let (job, offset) = state?;
        let piece = if follow { Some(job.output.read(offset).await) } else { job.output.look(offset) };
        match piece? {
            Piece::Bytes(stream, offset, bytes) => {
                let next = offset + bytes.len() as u64;
                let data = base64::engine::general_purpose::STANDARD.encode(bytes);
                Some((JobEvent::Output { stream, offset, data }, Some((job, next))))
            }
            Piece::Gap(offset, bytes) => Some((JobEvent::Gap { offset, bytes }, Some((job, offset + bytes)))),
            Piece::End => {
                let result = job.ended().await;
                Some((JobEvent::Ended { result }, None))
            }
        }
    })
}

/// A response of one JSON object a line.
pub fn ndjson<T: serde::Serialize + 'static>(events: impl Stream<Item = T> + Send + 'static) -> Response {
    let lines = events.map(|event| {
        let mut line = serde_json::to_vec(&event).unwrap_or_default();
        line.push(b'\n');
        Ok::<_, Infallible>(Bytes::from(line))
    });
    ([(header::CONTENT_TYPE, "application/x-ndjson")], Body::from_stream(lines)).into_response()
}

/// All commands since the supervisor started, the oldest first.
#[utoipa::path(get, path = "/v1/jobs", responses((status = 200, body = Vec<JobView>), (status = "default", body = ErrorBody)))]
async fn list_jobs(State(supervisor): Shared) -> Json<Vec<JobView>> {
    Json(supervisor.jobs.list().iter().map(|job| job.describe()).collect())
}

/// One command.
#[utoipa::path(get, path = "/v1/jobs/{run_id}", params(("run_id" = String, Path)), responses((status = 200, body = JobView), (status = "default", body = ErrorBody)))]
async fn describe_job(State(supervisor): Shared, Path(run_id): Path<String>) -> Answer<JobView> {
    Ok(Json(supervisor.jobs.find(&run_id)?.describe()))
}

#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
struct OutputQuery {
    /// Where to begin; at the start if left out.
    #[serde(default)]
    offset: u64,
    /// Whether to stay until the command has ended; otherwise what there is.
    #[serde(default)]
    follow: bool,
}

/// A command's output by offset, on both streams in the order in which it came. What is no longer kept is a gap event.
#[utoipa::path(get, path = "/v1/jobs/{run_id}/output", params(("run_id" = String, Path), OutputQuery), responses(
    (status = 200, body = JobEvent, content_type = "application/x-ndjson"), (status = "default", body = ErrorBody)))]
async fn job_output(
    State(supervisor): Shared,
    Path(run_id): Path<String>,
    Asked(query): Asked<OutputQuery>,
) -> std::result::Result<Response, Failed> {
    let job = supervisor.jobs.find(&run_id)?;
    let end = job.describe().end_offset;
    if query.offset > end {
        return Err(invalid(format!("the offset {} is beyond the output's end, {end}", query.offset)));
    }
    Ok(ndjson(events(job, query.offset, query.follow)))
}

#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
struct JobWaitQuery {
    /// For how many milliseconds at most; a minute if this is left out or more.
    timeout_ms: Option<u64>,
}

/// Waits for a command's end. `Timeout` if it runs on; the command is not touched.
#[utoipa::path(get, path = "/v1/jobs/{run_id}/wait", params(("run_id" = String, Path), JobWaitQuery), responses((status = 200, body = JobResult), (status = "default", body = ErrorBody)))]
async fn wait_for_job(
    State(supervisor): Shared,
    Path(run_id): Path<String>,
    Asked(query): Asked<JobWaitQuery>,
) -> Answer<JobResult> {
    let job = supervisor.jobs.find(&run_id)?;
    match tokio::time::timeout(patience(query.timeout_ms), job.ended()).await {
        Ok(result) => Ok(Json(result)),
        Err(_) => {
            Err(Error::new(ErrorCode::Timeout, format!("the job {run_id} has not ended"), "it still runs").into())
        }
    }
}

/// Sends standard input: the request's body, as it comes. Its end is the input's.
#[utoipa::path(put, path = "/v1/jobs/{run_id}/stdin", params(("run_id" = String, Path)), request_body(content = Vec<u8>, content_type = "application/octet-stream"), responses((status = 204), (status = "default", body = ErrorBody)))]
async fn send_input(
    State(supervisor): Shared,
    Path(run_id): Path<String>,
    body: Body,
) -> std::result::Result<StatusCode, Failed> {
    let job = supervisor.jobs.find(&run_id)?;
    let input = job.take_input()?;
    let mut pieces: BodyDataStream = body.into_data_stream();
    while let Some(piece) = pieces.next().await {
        // A body that breaks off is not an input that ends: the command must not take half for all.
        let Ok(piece) = piece else {
            job.abandon();
            return Err(invalid("the input broke off; the command was killed"));
        };
        tokio::select! {
            sent = input.send(piece.to_vec()) => if sent.is_err() { break },
            _ = job.ended() => break,
        }
    }
    Ok(StatusCode::NO_CONTENT)
}

/// Sends a signal: 9 to the whole tree, any other to the command's process group. Harmless if it has ended.
#[utoipa::path(post, path = "/v1/jobs/{run_id}/signal", params(("run_id" = String, Path)), request_body = SignalRequest, responses((status = 204), (status = "default", body = ErrorBody)))]
async fn signal_job(
    State(supervisor): Shared,
    Path(run_id): Path<String>,
    Given(request): Given<SignalRequest>,
) -> std::result::Result<StatusCode, Failed> {
    if !(1..=64).contains(&request.signal) {
        return Err(invalid("signals have the numbers 1 to 64"));
    }
    supervisor.jobs.find(&run_id)?.control(Control::Signal(request.signal)).await;
    Ok(StatusCode::NO_CONTENT)
}

/// Gives a command's terminal another size.
#[utoipa::path(post, path = "/v1/jobs/{run_id}/resize", params(("run_id" = String, Path)), request_body = TerminalSize, responses((status = 204), (status = "default", body = ErrorBody)))]
async fn resize_job(
    State(supervisor): Shared,
    Path(run_id): Path<String>,
    Given(size): Given<TerminalSize>,
) -> std::result::Result<StatusCode, Failed> {
    let control = Control::Resize(TermSize { rows: size.rows, cols: size.cols });
    supervisor.jobs.find(&run_id)?.control(control).await;
    Ok(StatusCode::NO_CONTENT)
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
    async fn start_job(&self, request: JobRequest) -> crate::Result<Arc<Job>> {
        if request.argv.is_empty() || request.argv.iter().any(|arg| arg.contains('\0')) {
            let why = "a command has a program, and no NUL";
            return Err(Error::new(ErrorCode::InvalidRequest, "cannot start the command", why));
        }
        let slot = self.machine.lock().await;
        let running = slot.as_ref().and_then(|running| Some((running, running.guest()?)));
        let (running, guest) = running.ok_or_else(|| self.not_running("run a command in"))?;
        let exec = running.exec(&request);
        self.jobs.start(guest, request, exec)
    }

    /// The session with the guest, for what moves files. It lasts at least until the result is dropped, unless it breaks.
    pub async fn guest(&self, wanted: &str) -> crate::Result<Reached> {
        let transfer = self.transfers.clone().read_owned().await;
        let slot = self.machine.lock().await;
        let guest = slot.as_ref().and_then(|running| running.guest().cloned());
        Ok(Reached { guest: guest.ok_or_else(|| self.not_running(wanted))?, _transfer: transfer })
    }

    pub(super) fn not_running(&self, wanted: &str) -> Error {
        self.record().map_or_else(|e| e, |record| lifecycle::refusal(&record.name, record.state, wanted))
    }

    fn keep(&self, ttl: Duration, on_expiry: Option<OnExpiry>) -> crate::Result<Sandbox> {
        let record = self.record()?;
        if record.state == SandboxState::Destroyed {
            return Err(lifecycle::refusal(&record.name, record.state, "keep"));
        }
        if matches!(record.cleanup, mvm_wire::api::Cleanup::Lease) {
            let what = format!("cannot give the sandbox {} a time to live", record.name);
            return Err(Error::new(ErrorCode::InvalidState, what, "it ends with the lease of its owner"));
        }
        let on_expiry = on_expiry.unwrap_or(record.on_expiry());
        self.store().keep(&self.id, ttl, on_expiry)?;
        self.kept.notify_one();
        self.sandbox()
    }

    fn stats(&self) -> Stats {
        let pid = self.machine.try_lock().ok().and_then(|slot| slot.as_ref().map(super::Running::pid));
        Stats {
            cpu_seconds: pid.and_then(crate::process::cpu_seconds),
            vmm_private_bytes: pid.and_then(crate::process::private_bytes),
            supervisor_private_bytes: crate::process::private_bytes(std::process::id()).unwrap_or(0),
            disk_bytes: self.place.disk_usage(),
            running_jobs: self.jobs.running() as u64,
        }
    }
}
