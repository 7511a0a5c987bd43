//! Over the API: which secrets commands have. Their values are shown nowhere.

use axum::Json;
use axum::extract::State;
use mvm_wire::api::{ErrorBody, SecretInfo, SecretKind};

use super::http::{Answer, Shared};
use crate::sandboxes;

/// The secrets that commands of the sandbox have: first those of every command, then those of single ones that still run.
#[utoipa::path(get, path = "/v1/secrets", responses((status = 200, body = Vec<SecretInfo>), (status = "default", body = ErrorBody)))]
pub async fn list_secrets(State(supervisor): Shared) -> Answer<Vec<SecretInfo>> {
    let mut secrets = sandboxes::secrets(&supervisor.record()?, |name| supervisor.known.has_for_all(name));
    for job in supervisor.jobs.list().into_iter().filter(|job| job.runs()) {
        secrets.extend(job.holds().with_request().map(|name| SecretInfo {
            name: name.clone(),
            kind: SecretKind::Request,
            reference: None,
            run_id: Some(job.run_id.clone()),
            since_ms: job.started_at_ms(),
            known: supervisor.known.knows(name),
        }));
    }
    Ok(Json(secrets))
}
