//! The guest's files over the API: content as raw bytes, everything else as JSON.

use std::path::{Path, PathBuf};

use axum::Json;
use axum::body::{Body, Bytes};
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use base64::Engine;
use futures_util::{StreamExt, stream};
use mvm_wire::ErrorCode;
use mvm_wire::api::{
    CopyReport, CopyRequest, ErrorBody, FileInfo, MkdirRequest, RemoveRequest, RenameRequest, Skipped, Written,
};
use mvm_wire::files::{Entry, FileKind, Write};
use serde::Deserialize;
use utoipa::IntoParams;

use super::http::{Answer, Asked, Failed, Given, Octets, Shared, invalid};
use crate::copy::{self, Limits, Report};
use crate::error::Error;
use crate::policy::Operation;
use crate::text::harmless;

const DIRECTORY_MODE: u32 = 0o755;

#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct ReadQuery {
    /// An absolute path of the guest, without `..`.
    path: String,
    /// Where to begin, in bytes.
    #[serde(default)]
    offset: u64,
    /// How many bytes at most.
    len: Option<u64>,
}

/// A file's bytes. A read that breaks off ends the connection, so half a file is never taken for a whole one.
#[utoipa::path(get, path = "/v1/files", params(ReadQuery), responses(
    (status = 200, body = inline(Octets), content_type = "application/octet-stream"), (status = "default", body = ErrorBody)))]
pub async fn read(State(supervisor): Shared, Asked(query): Asked<ReadQuery>) -> std::result::Result<Response, Failed> {
    let guest = supervisor.guest(Operation::FilesOut, "read a file of").await?;
    let mut reading = guest.read_file(query.path.as_bytes(), query.offset, query.len).await?;
    // What fails at once is an error response; what fails later can only break the body off.
    let first = reading.next().await?.map(Bytes::copy_from_slice);
    let rest = stream::unfold(Some((reading, guest)), |state| async {
        let (mut reading, guest) = state?;
        match reading.next().await {
            Ok(Some(piece)) => {
                let piece = Bytes::copy_from_slice(piece);
                Some((Ok(piece), Some((reading, guest))))
            }
            Ok(None) => None,
            Err(e) => Some((Err(e), None)),
        }
    });
    let body = Body::from_stream(stream::iter(first.map(Ok)).chain(rest));
    Ok(([(header::CONTENT_TYPE, "application/octet-stream")], body).into_response())
}

#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct WriteQuery {
    /// An absolute path of the guest, without `..`.
    path: String,
    /// Its permissions, as a number; as they are, or 420 (octal 644), if left out.
    mode: Option<u32>,
    /// Whose it shall be: name, uid, name:group or uid:gid; as it is, or root, if left out.
    #[serde(default)]
    owner: String,
    /// Write at its end instead of replacing it.
    #[serde(default)]
    append: bool,
    /// Answer only once the write survives the loss of the machine.
    #[serde(default)]
    sync: bool,
    /// Make missing directories on the way.
    #[serde(default)]
    parents: bool,
}

/// Writes a file: the request's body. A reader in the guest sees the old content or all of the new.
#[utoipa::path(put, path = "/v1/files", params(WriteQuery), request_body(content = inline(Octets), content_type = "application/octet-stream"), responses(
    (status = 200, body = Written), (status = "default", body = ErrorBody)))]
pub async fn write(State(supervisor): Shared, Asked(query): Asked<WriteQuery>, body: Body) -> Answer<Written> {
    let guest = supervisor.guest(Operation::FilesIn, "write a file of").await?;
    let write = Write {
        path: query.path.into_bytes(),
        mode: query.mode,
        owner: query.owner,
        append: query.append,
        sync: query.sync,
        create_parents: query.parents,
    };
    let mut writing = guest.write_file(write).await?;
    let mut pieces = body.into_data_stream();
    while let Some(piece) = pieces.next().await {
        // Dropped unfinished, the guest keeps the old file.
        writing.send(&piece.map_err(|_| invalid("the body broke off; the file is as it was"))?).await?;
    }
    Ok(Json(Written { bytes: writing.finish().await?, synced: query.sync }))
}

#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct PathQuery {
    /// An absolute path of the guest, without `..`.
    path: String,
}

/// What is in a directory, sorted by name.
#[utoipa::path(get, path = "/v1/files/list", params(PathQuery), responses((status = 200, body = Vec<FileInfo>), (status = "default", body = ErrorBody)))]
pub async fn list(State(supervisor): Shared, Asked(query): Asked<PathQuery>) -> Answer<Vec<FileInfo>> {
    let guest = supervisor.guest(Operation::FilesOut, "list a directory of").await?;
    let entries = guest.list_dir(query.path.as_bytes()).await?;
    Ok(Json(entries.into_iter().map(info).collect()))
}

#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct StatQuery {
    /// An absolute path of the guest, without `..`.
    path: String,
    /// Describe what a link points to, not the link.
    #[serde(default)]
    follow: bool,
}

/// Describes a file.
#[utoipa::path(get, path = "/v1/files/stat", params(StatQuery), responses((status = 200, body = FileInfo), (status = "default", body = ErrorBody)))]
pub async fn stat(State(supervisor): Shared, Asked(query): Asked<StatQuery>) -> Answer<FileInfo> {
    let guest = supervisor.guest(Operation::FilesOut, "look at a file of").await?;
    Ok(Json(info(guest.stat(query.path.as_bytes(), query.follow).await?)))
}

fn info(entry: Entry) -> FileInfo {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let kind = match entry.kind {
        FileKind::File => "file",
        FileKind::Directory => "directory",
        FileKind::Symlink => "symlink",
        FileKind::Fifo => "fifo",
        FileKind::Socket => "socket",
        FileKind::CharDevice => "char-device",
        FileKind::BlockDevice => "block-device",
        FileKind::Unknown => "unknown",
    };
    let no_text = std::str::from_utf8(&entry.name).is_err();
    FileInfo {
        name: text(&entry.name),
        name_base64: no_text.then(|| base64::engine::general_purpose::STANDARD.encode(&entry.name)),
        kind: kind.to_owned(),
        size: entry.size,
        mode: entry.mode,
        uid: entry.uid,
        gid: entry.gid,
        mtime_ms: entry.mtime_ns / 1_000_000,
        target: entry.target.as_deref().map(text),
    }
}

/// Makes a directory.
#[utoipa::path(post, path = "/v1/files/mkdir", request_body = MkdirRequest, responses((status = 204), (status = "default", body = ErrorBody)))]
pub async fn mkdir(
    State(supervisor): Shared,
    Given(request): Given<MkdirRequest>,
) -> std::result::Result<StatusCode, Failed> {
    let guest = supervisor.guest(Operation::FilesIn, "make a directory in").await?;
    let mode = request.mode.unwrap_or(DIRECTORY_MODE);
    guest.mkdir(request.path.as_bytes(), mode, request.parents, "").await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Renames a file. What has the new name is replaced.
#[utoipa::path(post, path = "/v1/files/rename", request_body = RenameRequest, responses((status = 204), (status = "default", body = ErrorBody)))]
pub async fn rename(
    State(supervisor): Shared,
    Given(request): Given<RenameRequest>,
) -> std::result::Result<StatusCode, Failed> {
    let guest = supervisor.guest(Operation::FilesIn, "rename a file of").await?;
    guest.rename(request.from.as_bytes(), request.to.as_bytes()).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Removes a file or a directory.
#[utoipa::path(post, path = "/v1/files/remove", request_body = RemoveRequest, responses((status = 204), (status = "default", body = ErrorBody)))]
pub async fn remove(
    State(supervisor): Shared,
    Given(request): Given<RemoveRequest>,
) -> std::result::Result<StatusCode, Failed> {
    let guest = supervisor.guest(Operation::FilesIn, "remove a file of").await?;
    guest.remove(request.path.as_bytes(), request.recursive).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Copies a file or directory of the host into the guest.
#[utoipa::path(post, path = "/v1/files/copy-in", request_body = CopyRequest, responses((status = 200, body = CopyReport), (status = "default", body = ErrorBody)))]
pub async fn copy_in(State(supervisor): Shared, Given(request): Given<CopyRequest>) -> Answer<CopyReport> {
    let guest = supervisor.guest(Operation::FilesIn, "copy files to").await?;
    let from = host_path(&request)?;
    Ok(Json(report(copy::copy_in(&guest, &from, request.guest_path.as_bytes(), "", Limits::default()).await?)))
}

/// Copies a file or directory of the guest to the host, under exactly the name given. Nothing is written outside it,
/// whatever the guest says; links that lead out of the copy are left out and listed.
#[utoipa::path(post, path = "/v1/files/copy-out", request_body = CopyRequest, responses((status = 200, body = CopyReport), (status = "default", body = ErrorBody)))]
pub async fn copy_out(State(supervisor): Shared, Given(request): Given<CopyRequest>) -> Answer<CopyReport> {
    let guest = supervisor.guest(Operation::FilesOut, "copy files from").await?;
    let to = host_path(&request)?;
    Ok(Json(report(copy::copy_out(&*guest, request.guest_path.as_bytes(), &to, Limits::default()).await?)))
}

fn host_path(request: &CopyRequest) -> crate::Result<PathBuf> {
    let path = Path::new(&request.host_path);
    if path.is_absolute() && !request.host_path.contains('\0') {
        return Ok(path.to_owned());
    }
    Err(Error::new(ErrorCode::InvalidRequest, "cannot copy", "the path of the host is not absolute"))
}

fn report(report: Report) -> CopyReport {
    let skipped = |skipped: copy::Skipped| Skipped {
        path: harmless(&String::from_utf8_lossy(&skipped.path)),
        why: skipped.why.to_owned(),
    };
    CopyReport {
        files: report.files,
        directories: report.dirs,
        links: report.links,
        bytes: report.bytes,
        skipped: report.skipped.into_iter().map(skipped).collect(),
    }
}
