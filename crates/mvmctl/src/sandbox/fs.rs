//! `mvmctl fs` and `cp`: the guest's files.

use std::io::Read;
use std::path::{Path, PathBuf};

use mvm_runtime::client::{Client, encoded};
use mvm_runtime::text::harmless;
use mvm_runtime::{Error, ErrorCode, Result};
use mvm_wire::api::{CopyReport, CopyRequest, FileInfo, MkdirRequest, RemoveRequest, RenameRequest, Written};
use serde_json::json;
use tokio::io::AsyncWriteExt;
use tokio::sync::mpsc;

use super::args::{CpArgs, FsCommand, FsPathArgs, FsReadArgs, FsWriteArgs};
use super::{find, verb};
use crate::commands::block_on;
use crate::output;

/// Bytes that are read from the host at once.
const PIECE: usize = 256 << 10;
/// How a shell reports a program whose reader has gone (128 + SIGPIPE).
const READER_GONE: u8 = 141;

/// Runs the verb.
pub fn fs(command: FsCommand) -> u8 {
    match command {
        FsCommand::Write(args) => verb(args.at.json, write(args)),
        FsCommand::Read(args) => read(args),
        FsCommand::Ls(args) => verb(args.json, list(args)),
        FsCommand::Stat { at, follow } => verb(at.json, stat(at, follow)),
        FsCommand::Mkdir { at, parents, mode } => {
            let request = MkdirRequest { path: at.path.clone(), mode: Some(mode), parents };
            verb(at.json, change(at, "mkdir", request))
        }
        FsCommand::Mv { at, to } => {
            let request = RenameRequest { from: at.path.clone(), to };
            verb(at.json, change(at, "rename", request))
        }
        FsCommand::Rm { at, recursive } => {
            let request = RemoveRequest { path: at.path.clone(), recursive };
            verb(at.json, change(at, "remove", request))
        }
    }
}

async fn change(at: FsPathArgs, what: &str, request: impl serde::Serialize) -> Result<u8> {
    let client = find(&at.sandbox)?.client;
    let () = client.post(&format!("/v1/files/{what}"), Some(&request)).await?;
    if at.json {
        output::print_json(&json!(request));
    }
    Ok(output::SUCCESS)
}

async fn write(args: FsWriteArgs) -> Result<u8> {
    let client = find(&args.at.sandbox)?.client;
    let pieces = pieces(&args.source)?;
    let mode = args.mode.map_or_else(String::new, |mode| format!("&mode={mode}"));
    let path = format!(
        "/v1/files?path={}&owner={}&append={}&sync={}&parents={}{mode}",
        encoded(&args.at.path),
        encoded(&args.owner),
        args.append,
        args.sync,
        args.parents
    );
    let written: Written = client.put(&path, pieces).await?;
    if args.at.json {
        output::print_json(&json!(written));
    }
    Ok(output::SUCCESS)
}

/// A file's bytes, read on a thread. A read that fails ends the process: the request must break off, not end.
fn pieces(source: &Path) -> Result<mpsc::Receiver<Vec<u8>>> {
    let mut file: Box<dyn Read + Send> = if source == Path::new("-") {
        Box::new(std::io::stdin())
    } else {
        let open = std::fs::File::open(source);
        Box::new(open.map_err(|e| Error::named(format!("cannot read {}", source.display()), e))?)
    };
    let (sender, receiver) = mpsc::channel(4);
    let name = source.display().to_string();
    std::thread::spawn(move || {
        loop {
            let mut piece = vec![0; PIECE];
            match file.read(&mut piece) {
                Ok(0) => return,
                Ok(len) => piece.truncate(len),
                Err(e) => {
                    let code = output::error(&Error::io(format!("cannot read {name}"), e), false);
                    std::process::exit(code.into());
                }
            }
            if sender.blocking_send(piece).is_err() {
                return;
            }
        }
    });
    Ok(receiver)
}

fn read(args: FsReadArgs) -> u8 {
    let mut printed = false;
    match block_on(copy_bytes(&args, &mut printed)) {
        Err(error) if args.json && printed => output::error_beside_bytes(&error),
        Err(error) => output::error(&error, args.json),
        Ok(status) => status,
    }
}

/// Says in `printed` when bytes go to standard output.
async fn copy_bytes(args: &FsReadArgs, printed: &mut bool) -> Result<u8> {
    let client = find(&args.sandbox)?.client;
    let len = args.len.map_or_else(String::new, |len| format!("&len={len}"));
    let mut bytes =
        client.bytes(&format!("/v1/files?path={}&offset={}{len}", encoded(&args.path), args.offset)).await?;
    let to_stdout = args.destination == Path::new("-");
    let what = || format!("cannot write {}", args.destination.display());
    let mut sink: Box<dyn tokio::io::AsyncWrite + Unpin> = if to_stdout {
        Box::new(tokio::io::stdout())
    } else {
        Box::new(tokio::fs::File::create(&args.destination).await.map_err(|e| Error::named(what(), e))?)
    };
    while let Some(piece) = bytes.next().await? {
        *printed = to_stdout;
        match sink.write_all(&piece).await {
            Err(e) if e.kind() == std::io::ErrorKind::BrokenPipe => return Ok(READER_GONE),
            result => result.map_err(|e| Error::io(what(), e))?,
        }
    }
    sink.flush().await.map_err(|e| Error::io(what(), e))?;
    Ok(output::SUCCESS)
}

async fn list(args: FsPathArgs) -> Result<u8> {
    let client = find(&args.sandbox)?.client;
    let files: Vec<FileInfo> = client.get_slowly(&format!("/v1/files/list?path={}", encoded(&args.path))).await?;
    if args.json {
        output::print_json(&json!({ "entries": files }));
    } else {
        output::table(&files.iter().map(row).collect::<Vec<_>>());
    }
    Ok(output::SUCCESS)
}

fn row(file: &FileInfo) -> Vec<String> {
    let slash = if file.kind == "directory" { "/" } else { "" };
    let target = file.target.as_ref().map_or_else(String::new, |target| format!(" -> {}", harmless(target)));
    // A line is one file, whatever its name.
    let name = harmless(&file.name).replace('\n', "\u{fffd}");
    vec![
        format!("{:04o}", file.mode),
        format!("{}:{}", file.uid, file.gid),
        file.size.to_string(),
        format!("{name}{slash}{target}"),
    ]
}

async fn stat(args: FsPathArgs, follow: bool) -> Result<u8> {
    let client = find(&args.sandbox)?.client;
    let file: FileInfo = client.get(&format!("/v1/files/stat?path={}&follow={follow}", encoded(&args.path))).await?;
    if args.json {
        output::print_json(&json!(file));
    } else {
        let mut row = row(&file);
        row.insert(0, file.kind);
        output::table(&[row]);
    }
    Ok(output::SUCCESS)
}

/// One side of a copy.
enum Side {
    Host(PathBuf),
    Guest(String, String),
}

impl Side {
    /// `NAME:/PATH` is a guest's. A path of the host with a colon in it is written with a `/` before that.
    fn parse(text: &str) -> Result<Side> {
        match text.split_once(':') {
            Some((sandbox, path)) if !sandbox.is_empty() && !sandbox.contains('/') => {
                Ok(Side::Guest(sandbox.to_owned(), path.to_owned()))
            }
            _ if text.is_empty() => {
                Err(Error::new(ErrorCode::InvalidRequest, "cannot copy", "a path is empty").hint("mvmctl cp --help"))
            }
            _ => Ok(Side::Host(PathBuf::from(text))),
        }
    }
}

/// `mvmctl cp`.
pub fn cp(args: CpArgs) -> u8 {
    verb(args.json, async {
        let report = match (Side::parse(&args.source)?, Side::parse(&args.destination)?) {
            (Side::Host(from), Side::Guest(sandbox, to)) => copy_in(&find(&sandbox)?.client, &from, to).await?,
            (Side::Guest(sandbox, from), Side::Host(to)) => copy_out(&find(&sandbox)?.client, from, &to).await?,
            _ => {
                let why = "one side must be of a sandbox and the other of the host";
                return Err(Error::new(ErrorCode::InvalidRequest, "cannot copy", why)
                    .hint("mvmctl cp ./file NAME:/path, or mvmctl cp NAME:/path ."));
            }
        };
        print_report(&report, args.json);
        Ok(output::SUCCESS)
    })
}

async fn copy_in(client: &Client, from: &Path, mut to: String) -> Result<CopyReport> {
    let from = std::fs::canonicalize(from).map_err(|e| Error::named(format!("cannot read {}", from.display()), e))?;
    let into = to.ends_with('/')
        || client
            .get::<FileInfo>(&format!("/v1/files/stat?path={}&follow=true", encoded(&to)))
            .await
            .is_ok_and(|file| file.kind == "directory");
    if into {
        let name = from.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
        to = format!("{}/{name}", to.trim_end_matches('/'));
    }
    ask(client, "copy-in", &from, to).await
}

async fn copy_out(client: &Client, from: String, to: &Path) -> Result<CopyReport> {
    let what = || format!("cannot write {}", to.display());
    let mut to = std::path::absolute(to).map_err(|e| Error::io(what(), e))?;
    if to.is_dir() {
        let name = from.trim_end_matches('/').rsplit('/').next().unwrap_or_default();
        if matches!(name, "" | "." | "..") {
            let why = "the source has no name that the copy could have";
            return Err(
                Error::new(ErrorCode::InvalidRequest, what(), why).hint("name the copy: mvmctl cp NAME:/ ./copy")
            );
        }
        to.push(name);
    }
    ask(client, "copy-out", &to, from).await
}

async fn ask(client: &Client, what: &str, host: &Path, guest_path: String) -> Result<CopyReport> {
    let host_path = host.to_str().ok_or_else(|| {
        let why = "the path of the host is no UTF-8 text";
        Error::new(ErrorCode::InvalidRequest, "cannot copy", why).hint("rename it, or cd there first")
    })?;
    let request = CopyRequest { host_path: host_path.to_owned(), guest_path };
    client.post_patiently(&format!("/v1/files/{what}"), &request).await
}

fn print_report(report: &CopyReport, json: bool) {
    if json {
        output::print_json(&json!(report));
        return;
    }
    for skipped in &report.skipped {
        eprintln!("mvmctl: left out {}: {}", skipped.path, skipped.why);
    }
    let directories = match report.directories {
        0 => String::new(),
        number => format!(" in {}", output::count(number, "directory", "directories")),
    };
    let files = output::count(report.files, "file", "files");
    output::line(&format!("{files}{directories}, {}", output::bytes(report.bytes)));
}
