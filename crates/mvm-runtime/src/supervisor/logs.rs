//! The log over the API.

use axum::extract::State;
use axum::response::Response;
use futures_util::stream;
use mvm_wire::api::{ErrorBody, LogEvent, LogSource, Redact};
use serde::Deserialize;
use utoipa::IntoParams;

use super::http::{Asked, Failed, Shared, live_ndjson};
use super::log::{Reader, Wanted};

#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct LogsQuery {
    /// Whether to stay and wait for more; otherwise what there is.
    #[serde(default)]
    follow: bool,
    /// Nothing earlier, milliseconds since 1970.
    since_ms: Option<u64>,
    /// Nothing later, milliseconds since 1970. A follower ends then.
    until_ms: Option<u64>,
    /// Of what there is already, only so many of the last lines.
    tail: Option<usize>,
    /// Only lines from there.
    source: Option<LogSource>,
    /// Whether credentials that are known by their shape are redacted in this answer; `on` if left out. Secrets that commands
    /// were given were redacted before the log was written.
    #[serde(default)]
    #[param(inline)]
    redact: Redact,
}

/// The log: console, supervisor, and output of started commands, line by line. It is bounded: what is no longer kept, or
/// came faster than it is logged, is a gap event with its count. The last event is a summary.
#[utoipa::path(get, path = "/v1/logs", params(LogsQuery), responses(
    (status = 200, body = LogEvent, content_type = "application/x-ndjson"), (status = "default", body = ErrorBody)))]
pub async fn logs(State(supervisor): Shared, Asked(query): Asked<LogsQuery>) -> std::result::Result<Response, Failed> {
    let LogsQuery { follow, since_ms, until_ms, tail, source, redact } = query;
    let wanted = Wanted { follow, since_ms, until_ms, tail, source, redact: redact == Redact::On };
    let reader = Reader::new(supervisor.log.clone(), wanted);
    Ok(live_ndjson(stream::unfold(Some(reader), |reader| async move {
        let mut reader = reader?;
        match reader.next().await {
            Some(event) => Some((event, Some(reader))),
            None => Some((LogEvent::Summary(reader.summary()), None)),
        }
    })))
}
