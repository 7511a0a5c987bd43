//! The recorded steps of a workload, done in a sandbox that has just been made.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;

use mvm_ir::{Command, Content, Step, Upload, UploadKind, WriteFile};
use mvm_runtime::bundle::Bundle;
use mvm_runtime::client::{Client, encoded};
use mvm_runtime::text::harmless;
use mvm_runtime::{Error, ErrorCode, Home, Progress, Result, workload};
use mvm_wire::api::{
    CopyReport, CopyRequest, Job, JobRequest, JobResult, MkdirRequest, Port, RemoveRequest, RenameRequest, Snapshot,
    SnapshotRequest, Written,
};
use tokio::sync::mpsc;

use crate::secrets;

/// Bytes of a piece in which contents are sent.
const PIECE: usize = 256 << 10;
/// How long one look at a command lasts, in milliseconds.
const LOOK_MS: u32 = 60_000;
/// The permissions that the owner of a copied tree needs, so that it can be read here.
const READABLE: u32 = 0o500;

/// Does all of them, in their order. The first that fails ends it; its error names it.
pub async fn steps(client: &Client, bundle: &Bundle, progress: &dyn Progress) -> Result<()> {
    let workload = bundle.workload();
    let replay = Replay { client, bundle };
    for (index, step) in workload.steps.iter().enumerate() {
        progress.step(&format!("step {} of {}: {}", index + 1, workload.steps.len(), step.name()));
        replay.step(index, step).await.map_err(|error| {
            let what = format!("cannot bring up {}: step {}, {}", workload.name, index + 1, step.name());
            Error { why: format!("{}: {}", error.what, error.why), what, ..error }
        })?;
    }
    Ok(())
}

struct Replay<'a> {
    client: &'a Client,
    bundle: &'a Bundle,
}

impl Replay<'_> {
    async fn step(&self, index: usize, step: &Step) -> Result<()> {
        match step {
            Step::Run(command) => self.run(command).await,
            Step::Start(command) => self.start(command).await.map(drop),
            Step::Write(write) => self.write(write).await,
            Step::MakeDirectory(make) => {
                let (path, parents, mode) = (make.path.clone(), make.parents, make.mode);
                self.client.post("/v1/files/mkdir", Some(&MkdirRequest { path, parents, mode })).await
            }
            Step::Move(moved) => {
                let request = RenameRequest { from: moved.source.clone(), to: moved.destination.clone() };
                self.client.post("/v1/files/rename", Some(&request)).await
            }
            Step::Remove(remove) => {
                let request = RemoveRequest { path: remove.path.clone(), recursive: remove.recursive };
                self.client.post("/v1/files/remove", Some(&request)).await
            }
            Step::Upload(upload) => self.upload(upload).await,
            Step::Forward(port) => {
                let request = workload::port_request(&format!("/steps/{index}/ports.forward"), port)?;
                self.client.post::<Port>("/v1/ports", Some(&request)).await.map(drop)
            }
            Step::Snapshot(snapshot) => {
                let request = SnapshotRequest { name: snapshot.name.clone().unwrap_or_default() };
                self.client.post_patiently::<Snapshot>("/v1/snapshots", &request).await.map(drop)
            }
        }
    }

    fn content(&self, content: &Content) -> Result<&[u8]> {
        let missing = || Error::internal("the bundle is not whole", &content.sha256);
        self.bundle.content(content).ok_or_else(missing)
    }

    async fn start(&self, command: &Command) -> Result<Job> {
        let (env, references) = workload::split(&command.env);
        let secrets = secrets::read(&references, &env, &mut Vec::new())?;
        let request = JobRequest {
            argv: command.argv.clone(),
            env,
            secrets,
            cwd: command.cwd.clone(),
            user: command.user.clone(),
            timeout_ms: command.timeout_ms,
            stdin: command.stdin.is_some(),
            ..JobRequest::default()
        };
        self.client.post("/v1/jobs", Some(&request)).await
    }

    /// Runs a command to its end. What it writes is in the sandbox's log.
    async fn run(&self, command: &Command) -> Result<()> {
        let job = self.start(command).await?;
        let run_id = &job.run_id;
        if let Some(stdin) = &command.stdin {
            let path = format!("/v1/jobs/{run_id}/stdin");
            // One that has ended before it has read all of it has still ended as it has.
            let _: Result<()> = self.client.put(&path, pieces(self.content(stdin)?)).await;
        }
        let result: JobResult = loop {
            match self.client.get_slowly(&format!("/v1/jobs/{run_id}/wait?timeout_ms={LOOK_MS}")).await {
                Err(error) if error.code == ErrorCode::Timeout => {}
                ended => break ended?,
            }
        };
        if result.timed_out {
            return Err(Error::new(ErrorCode::Timeout, failed(command), "its time was up, and it was killed"));
        }
        if command.check && result.exit_code != Some(0) {
            return Err(Error::new(ErrorCode::CommandFailed, failed(command), ended(&result)));
        }
        Ok(())
    }

    async fn write(&self, write: &WriteFile) -> Result<()> {
        let mode = write.mode.map_or_else(String::new, |mode| format!("&mode={mode}"));
        let (path, owner) = (encoded(&write.path), encoded(&write.owner));
        let path =
            format!("/v1/files?path={path}&owner={owner}&append={}&parents={}{mode}", write.append, write.parents);
        self.client.put::<Written>(&path, pieces(self.content(&write.content)?)).await.map(drop)
    }

    /// Copies a tree, which is laid out for that on this host.
    async fn upload(&self, upload: &Upload) -> Result<()> {
        let staging = Home::locate()?.staging("upload")?;
        let root = staging.path().join("tree");
        self.lay(upload, &root).map_err(|e| Error::io("cannot lay out the files", e))?;
        let request = CopyRequest { host_path: root.display().to_string(), guest_path: upload.guest_path.clone() };
        self.client.post_patiently::<CopyReport>("/v1/files/copy-in", &request).await.map(drop)
    }

    /// The paths were checked: each lies in a directory that was made before, and nothing lies beneath a link.
    fn lay(&self, upload: &Upload, root: &Path) -> std::io::Result<()> {
        let at = |path: &str| if path.is_empty() { root.to_owned() } else { root.join(path) };
        let mut directories = Vec::new();
        for entry in &upload.entries {
            let place = at(&entry.path);
            match &entry.what {
                UploadKind::Directory(directory) => {
                    fs::create_dir(&place)?;
                    directories.push((place, directory.mode));
                }
                UploadKind::File(file) => {
                    fs::write(&place, self.content(&file.content).map_err(std::io::Error::other)?)?;
                    fs::set_permissions(&place, fs::Permissions::from_mode(file.mode | 0o400))?;
                }
                UploadKind::Link(target) => symlink(target, &place)?,
            }
        }
        // Last, so that one that is not to be written to can be filled.
        directories
            .iter()
            .rev()
            .try_for_each(|(place, mode)| fs::set_permissions(place, fs::Permissions::from_mode(mode | READABLE)))
    }
}

fn failed(command: &Command) -> String {
    let program = command.argv.first().map_or("", String::as_str);
    format!("{} did not succeed", harmless(program))
}

fn ended(result: &JobResult) -> String {
    match (result.exit_code, result.signal, &result.not_started) {
        (_, _, Some(not_started)) => format!("it was not started ({})", harmless(&not_started.reason)),
        (Some(code), ..) => format!("it ended with exit code {code}"),
        (None, Some(signal), _) => format!("signal {signal} ended it"),
        (None, None, _) => result.error.as_ref().map_or("its machine ended".to_owned(), |error| error.why.clone()),
    }
}

/// Bytes, as they are sent.
fn pieces(bytes: &[u8]) -> mpsc::Receiver<Vec<u8>> {
    let pieces: Vec<Vec<u8>> = bytes.chunks(PIECE).map(<[u8]>::to_vec).collect();
    let (sender, receiver) = mpsc::channel(pieces.len().max(1));
    pieces.into_iter().for_each(|piece| drop(sender.try_send(piece)));
    receiver
}
