//! What requests and answers of the API have in common: the forms they come in, and errors, each of which is an
//! `ErrorBody`.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use axum::Json;
use axum::body::{Body, Bytes};
use axum::extract::rejection::{JsonRejection, QueryRejection};
use axum::extract::{FromRequest, FromRequestParts, State};
use axum::http::{Method, StatusCode, Uri, header};
use axum::response::{IntoResponse, Response};
use futures_util::stream::{Stream, StreamExt};
use mvm_wire::ErrorCode;
use mvm_wire::api::ErrorBody;

use super::Supervisor;
use crate::error::Error;

/// The longest that a request may wait for something to happen.
const LONGEST_WAIT: Duration = Duration::from_secs(60);

/// The supervisor, for a handler.
pub type Shared = State<Arc<Supervisor>>;
/// What a handler answers.
pub type Answer<T> = std::result::Result<Json<T>, Failed>;

/// How long a request waits.
pub fn patience(timeout_ms: Option<u64>) -> Duration {
    timeout_ms.map_or(LONGEST_WAIT, Duration::from_millis).min(LONGEST_WAIT)
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

/// The refusal of what cannot be meant.
pub fn invalid(why: impl std::fmt::Display) -> Failed {
    Failed(Error::new(ErrorCode::InvalidRequest, "cannot understand the request", why).hint("see the API's document"))
}

/// The answer to a request of no operation.
pub async fn unknown(method: Method, uri: Uri) -> Failed {
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

/// A response of one JSON object a line.
pub fn ndjson<T: serde::Serialize + 'static>(events: impl Stream<Item = T> + Send + 'static) -> Response {
    let lines = events.map(|event| {
        let mut line = serde_json::to_vec(&event).unwrap_or_default();
        line.push(b'\n');
        Ok::<_, Infallible>(Bytes::from(line))
    });
    ([(header::CONTENT_TYPE, "application/x-ndjson")], Body::from_stream(lines)).into_response()
}
