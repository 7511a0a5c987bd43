//! The commands of the sandbox over the API: started, followed, fed, ended.

use std::sync::Arc;

use axum::Json;
use axum::body::{Body, BodyDataStream};
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use base64::Engine;
use futures_util::stream::{self, Stream, StreamExt};
use mvm_wire::ErrorCode;
use mvm_wire::api::{ErrorBody, Job as JobView, JobEvent, JobRequest, JobResult, Receipt, SignalRequest, TerminalSize};
use mvm_wire::guest::TermSize;
use serde::Deserialize;
use utoipa::IntoParams;

use super::Supervisor;
use super::http::{Answer, Asked, Failed, Given, Named, Octets, Shared, invalid, live_ndjson, patience};
use super::jobs::{Holds, Job, Start};
use super::output::Piece;
use crate::command::Control;
use crate::error::Error;
use crate::evidence::{self, Ended, Testimony};
use crate::policy::{Ask, Operation};
use crate::request;
use crate::sandbox;
use crate::secrets;
use crate::time;
use crate::witness::Witness;

/// Starts a command. Answers with the job; for an attached one with its events, and the command ends when the
/// connection does.
#[utoipa::path(post, path = "/v1/jobs", request_body = JobRequest, responses(
    (status = 200, description = "the job; or, if attached, its events", content((JobView = "application/json"), (JobEvent = "application/x-ndjson"))),
    (status = "default", body = ErrorBody)))]
pub async fn start_job(
    State(supervisor): Shared,
    Given(request): Given<JobRequest>,
) -> std::result::Result<Response, Failed> {
    let attached = request.attached;
    let job = supervisor.start_job(request).await?;
    if !attached {
        return Ok(Json(job.describe()).into_response());
    }
    let guard = EndsWithConnection(job.clone());
    let started = stream::iter([JobEvent::Started { run_id: job.run_id.clone(), audit_id: job.testimony.audit_id }]);
    Ok(live_ndjson(started.chain(events(job, 0, true)).map(move |event| {
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
                Some((JobEvent::Ended { result: Box::new(result) }, None))
            }
        }
    })
}

/// All commands since the supervisor started, the oldest first.
#[utoipa::path(get, path = "/v1/jobs", responses((status = 200, body = Vec<JobView>), (status = "default", body = ErrorBody)))]
pub async fn list_jobs(State(supervisor): Shared) -> Json<Vec<JobView>> {
    Json(supervisor.jobs.list().iter().map(|job| job.describe()).collect())
}

/// One command.
#[utoipa::path(get, path = "/v1/jobs/{run_id}", params(("run_id" = String, Path)), responses((status = 200, body = JobView), (status = "default", body = ErrorBody)))]
pub async fn describe_job(State(supervisor): Shared, Named(run_id): Named<String>) -> Answer<JobView> {
    Ok(Json(supervisor.jobs.find(&run_id)?.describe()))
}

#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct OutputQuery {
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
pub async fn job_output(
    State(supervisor): Shared,
    Named(run_id): Named<String>,
    Asked(query): Asked<OutputQuery>,
) -> std::result::Result<Response, Failed> {
    let job = supervisor.jobs.find(&run_id)?;
    let end = job.describe().end_offset;
    if query.offset > end {
        return Err(invalid(format!("the offset {} is beyond the output's end, {end}", query.offset)));
    }
    Ok(live_ndjson(events(job, query.offset, query.follow)))
}

#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct JobWaitQuery {
    /// For how many milliseconds at most; a minute if this is left out or more.
    timeout_ms: Option<u64>,
}

/// Waits for a command's end. `Timeout` if it runs on; the command is not touched.
#[utoipa::path(get, path = "/v1/jobs/{run_id}/wait", params(("run_id" = String, Path), JobWaitQuery), responses((status = 200, body = JobResult), (status = "default", body = ErrorBody)))]
pub async fn wait_for_job(
    State(supervisor): Shared,
    Named(run_id): Named<String>,
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

/// The receipt of a command that has ended. It is signed when it is first asked for, in a process of its own.
#[utoipa::path(get, path = "/v1/jobs/{run_id}/receipt", params(("run_id" = String, Path)), responses((status = 200, body = Receipt), (status = "default", body = ErrorBody)))]
pub async fn job_receipt(State(supervisor): Shared, Named(run_id): Named<String>) -> Answer<Receipt> {
    let job = supervisor.jobs.find(&run_id)?;
    if job.runs() {
        let what = format!("there is no receipt of the job {run_id} yet");
        return Err(Error::new(ErrorCode::InvalidState, what, "it still runs").hint("wait for its end").into());
    }
    let (home, of) = (supervisor.home.clone(), Ended::new(&run_id, &supervisor.id)?);
    let signed = tokio::task::spawn_blocking(move || evidence::receipt(&home, &of)).await;
    let signed = signed.map_err(|e| Error::internal("cannot sign the receipt", e))??;
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).map_err(|e| Error::internal("cannot show the receipt", e));
    Ok(Json(Receipt { envelope: text(signed.envelope)?, proof: text(signed.proof)? }))
}

/// Sends standard input: the request's body, as it comes. Its end is the input's.
#[utoipa::path(put, path = "/v1/jobs/{run_id}/stdin", params(("run_id" = String, Path)), request_body(content = inline(Octets), content_type = "application/octet-stream"), responses((status = 204), (status = "default", body = ErrorBody)))]
pub async fn send_input(
    State(supervisor): Shared,
    Named(run_id): Named<String>,
    body: Body,
) -> std::result::Result<StatusCode, Failed> {
    let input = supervisor.jobs.find(&run_id)?.take_input()?;
    let mut pieces: BodyDataStream = body.into_data_stream();
    while let Some(piece) = pieces.next().await {
        let piece = piece.map_err(|_| invalid("the input broke off; the command was killed"))?;
        if !input.send(piece.to_vec()).await {
            break;
        }
    }
    input.end();
    Ok(StatusCode::NO_CONTENT)
}

/// Sends a signal: 9 to the whole tree, any other to the command's process group. Harmless if it has ended.
#[utoipa::path(post, path = "/v1/jobs/{run_id}/signal", params(("run_id" = String, Path)), request_body = SignalRequest, responses((status = 204), (status = "default", body = ErrorBody)))]
pub async fn signal_job(
    State(supervisor): Shared,
    Named(run_id): Named<String>,
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
pub async fn resize_job(
    State(supervisor): Shared,
    Named(run_id): Named<String>,
    Given(size): Given<TerminalSize>,
) -> std::result::Result<StatusCode, Failed> {
    let control = Control::Resize(TermSize { rows: size.rows, cols: size.cols });
    supervisor.jobs.find(&run_id)?.control(control).await;
    Ok(StatusCode::NO_CONTENT)
}

impl Supervisor {
    pub(super) async fn start_job(&self, request: JobRequest) -> crate::Result<Arc<Job>> {
        check(&request)?;
        let mut request = request;
        let secrets = std::mem::take(&mut request.secrets);
        let slot = self.machine.lock().await;
        let running = slot.as_ref().and_then(|running| Some((running, running.guest()?)));
        let (running, guest) = running.ok_or_else(|| self.not_running("run a command in"))?;
        let brought = |name: &str| secrets.contains_key(name) || request.env.contains_key(name);
        let of_sandbox = self.known.of_sandbox(brought)?;
        if let Some(job) = self.jobs.started_before(&request, &secrets)? {
            return Ok(job);
        }
        let holds = Holds::of(&secrets, &of_sandbox)?;
        let ask = Ask::of_command(&request, secrets.keys());
        self.jobs.room()?;
        let run_id = sandbox::new_run_id()?;
        let (plan, audit_id) = self.authorise(Operation::Exec, &ask, &run_id)?;
        let exec = running.exec(&request, [&of_sandbox, &secrets], &plan.enforced);
        let witness = Witness::new()?;
        let granted: Vec<String> = secrets.keys().chain(of_sandbox.keys()).cloned().collect();
        let testimony = Testimony {
            run_id,
            sandbox_id: self.id.clone(),
            alone: false,
            audit_id,
            image: self.made.image.clone(),
            plan,
            machine: self.made.machine,
            require: self.policy.require.clone(),
            isolation: running.isolation().clone(),
            argv: exec.argv.clone(),
            env: evidence::environment(&exec, &granted, &witness)?,
            secrets: granted,
            started_at_ms: time::now_ms(),
        };
        self.jobs.start(guest, Start { request, secrets, holds, exec, testimony, witness })
    }
}

/// Refuses what no command can be.
fn check(request: &JobRequest) -> crate::Result<()> {
    let refuse = |why: &str| Err(Error::new(ErrorCode::InvalidRequest, "cannot start the command", why));
    request::check_command(&request.argv, &request.cwd, &request.user, request.timeout_ms).or_else(refuse)?;
    if request.idempotency_key.len() > request::MAX_KEY {
        return refuse("an idempotency key has at most 256 bytes");
    }
    if request.no_redact && !request.attached {
        return refuse("output that is kept has its secrets redacted; only an attached command's can be left as it is");
    }
    secrets::check(&request.secrets, &request.env)?;
    request::check_env(&request.env, &request.secrets).or_else(refuse)
}
