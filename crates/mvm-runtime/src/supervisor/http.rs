//! What requests and answers of the API have in common: the forms they come in, and errors, each of which is an
//! `ErrorBody`.

use std::convert::Infallible;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use axum::Json;
use axum::body::{Body, Bytes, HttpBody};
use axum::extract::rejection::{PathRejection, QueryRejection};
use axum::extract::{FromRequest, FromRequestParts, Request, State};
use axum::http::{Method, StatusCode, Uri, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use futures_util::stream::{self, Stream, StreamExt};
use mvm_wire::ErrorCode;
use mvm_wire::api::ErrorBody;
use mvm_wire::object::Object;
use serde::de::DeserializeOwned;
use utoipa::openapi::RefOr;
use utoipa::openapi::schema::{KnownFormat, ObjectBuilder, Schema, SchemaFormat, Type};

use super::Supervisor;
use crate::error::Error;

/// How much of a request's body is taken in after its answer, so that whoever still sends it gets to read that.
const REST_BYTES: u64 = 64 << 20;
/// For how long.
const REST_TIME: Duration = Duration::from_secs(5);

/// How long a stream of events is silent at most.
const PULSE: Duration = Duration::from_secs(10);
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
        (status, self.body()).into_response()
    }
}

impl Failed {
    fn body(self) -> Json<ErrorBody> {
        Json(ErrorBody { error: self.0.into() })
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

/// The answer to a method that an operation does not have.
pub async fn wrong_method(method: Method, uri: Uri) -> Response {
    let why = format!("{} is not asked for with {method}", uri.path());
    (StatusCode::METHOD_NOT_ALLOWED, invalid(why).body()).into_response()
}

/// A JSON object, refused as one of our errors.
pub struct Given<T>(pub T);

impl<T: DeserializeOwned, S: Send + Sync> FromRequest<S> for Given<T> {
    type Rejection = Failed;

    async fn from_request(request: Request, state: &S) -> std::result::Result<Self, Failed> {
        let given = Json::<Object<T>>::from_request(request, state).await;
        given.map(|Json(Object(value))| Given(value)).map_err(|rejection| invalid(rejection.body_text()))
    }
}

/// A part of the path, refused as one of our errors.
#[derive(FromRequestParts)]
#[from_request(via(axum::extract::Path), rejection(Failed))]
pub struct Named<T>(pub T);

impl From<PathRejection> for Failed {
    fn from(rejection: PathRejection) -> Self {
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

/// A response of one JSON object a line, which lasts for as long as its owner does and is not read to its end.
pub fn ndjson<T: serde::Serialize + 'static>(events: impl Stream<Item = T> + Send + 'static) -> Response {
    respond(events.map(|event| line(&event)))
}

/// The same for those who read it: while there is nothing to say, an empty line says that somebody is still there.
pub fn live_ndjson<T: serde::Serialize + 'static>(events: impl Stream<Item = T> + Send + 'static) -> Response {
    respond(stream::unfold(Box::pin(events), |mut events| async move {
        match tokio::time::timeout(PULSE, events.next()).await {
            Ok(event) => Some((line(&event?), events)),
            Err(_) => Some((Bytes::from_static(b"\n"), events)),
        }
    }))
}

fn line(event: &impl serde::Serialize) -> Bytes {
    let mut line = serde_json::to_vec(event).unwrap_or_default();
    line.push(b'\n');
    line.into()
}

fn respond(lines: impl Stream<Item = Bytes> + Send + 'static) -> Response {
    let body = Body::from_stream(lines.map(Ok::<_, Infallible>));
    ([(header::CONTENT_TYPE, "application/x-ndjson")], body).into_response()
}

/// In the document: bytes as they are.
pub struct Octets;

impl utoipa::PartialSchema for Octets {
    fn schema() -> RefOr<Schema> {
        let format = SchemaFormat::KnownFormat(KnownFormat::Binary);
        ObjectBuilder::new().schema_type(Type::String).format(Some(format)).into()
    }
}

impl utoipa::ToSchema for Octets {}

/// Answers, and takes in what the handler left of the request's body. A connection that is closed on one that still sends
/// is an error there, and the answer is lost with it.
pub async fn take_all(request: Request, next: Next) -> Response {
    let (head, body) = request.into_parts();
    let rest = Rest(Arc::new(Mutex::new(body)));
    let response = next.run(Request::from_parts(head, Body::new(rest.clone()))).await;
    if !rest.is_end_stream() {
        tokio::spawn(tokio::time::timeout(REST_TIME, rest.discard()));
    }
    response
}

/// A request's body, of which something may be left when its handler has answered.
#[derive(Clone)]
struct Rest(Arc<Mutex<Body>>);

impl Rest {
    fn with<T>(&self, ask: impl FnOnce(Pin<&mut Body>) -> T) -> T {
        ask(Pin::new(&mut *self.0.lock().unwrap_or_else(PoisonError::into_inner)))
    }

    async fn discard(self) {
        let mut pieces = Body::new(self).into_data_stream();
        let mut left = REST_BYTES;
        while let Some(Ok(piece)) = pieces.next().await {
            match left.checked_sub(piece.len() as u64) {
                Some(less) => left = less,
                None => return,
            }
        }
    }
}

impl HttpBody for Rest {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<hyper::body::Frame<Bytes>, axum::Error>>> {
        self.with(|body| body.poll_frame(cx))
    }

    fn is_end_stream(&self) -> bool {
        self.with(|body| body.is_end_stream())
    }

    fn size_hint(&self) -> hyper::body::SizeHint {
        self.with(|body| body.size_hint())
    }
}
