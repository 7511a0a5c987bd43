//! What an SDK writes down in record mode, and the workload that it is lowered to.
//!
//! A recording has the calls of one program in their order, and the bytes that they write, once each. It is what the SDKs of
//! all languages write for the same program, but for the places of the calls; a workload has no places.

use std::collections::{BTreeMap, BTreeSet};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use mvm_evidence::Digest;

use crate::check;
use crate::model::{
    Command, Content, Image, Network, Resources, SCHEMA, Step, Upload, UploadEntry, UploadFile, UploadKind, Variable,
    Workload, WriteFile, standard,
};
use crate::read::{self, Refusal, escaped};

mod calls;

use calls::{Call, Create, Entry, RecordedCommand, RecordedKind, RecordedUpload, RecordedWrite, Recording};

/// The version of recordings that this crate reads.
pub const RECORDING_SCHEMA: &str = "mvm.recording/v1";

/// The largest recording, in bytes. The contents in it have at most 64 MiB.
pub const MAX_RECORDING_BYTES: usize = 96 << 20;

/// A workload, and the bytes that it names, by their SHA-256 in hex.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lowered {
    /// The workload.
    pub workload: Workload,
    /// The bytes.
    pub contents: BTreeMap<String, Vec<u8>>,
}

/// Lowers a recording. A refusal's pointer begins with the call that it is of, and its text with the place of that call.
pub fn lower(bytes: &[u8]) -> Result<Lowered, Refusal> {
    if bytes.len() > MAX_RECORDING_BYTES {
        return Err(Refusal::invalid("", format!("it is larger than {} MiB", MAX_RECORDING_BYTES >> 20)));
    }
    let (_, recording): (_, Recording) = read::versioned(bytes, RECORDING_SCHEMA)?;
    let mut lowering = Lowering { contents: decoded(&recording.contents)?, ..Lowering::default() };
    for (index, entry) in recording.calls.iter().enumerate() {
        lowering.call(&entry.call, index).map_err(|refusal| placed(refusal, index, entry))?;
    }
    let Some((created, mut workload)) = lowering.workload.take() else {
        return Err(Refusal::invalid("/calls", "it creates no sandbox"));
    };
    let at = |refusal, index: usize| placed(refusal, index, &recording.calls[index]);
    if workload.name.is_empty() {
        workload.name = name_of(&recording.program).ok_or_else(|| {
            at(Refusal::invalid("/name", "its sandbox has no name, and the program has none to call it by"), created)
        })?;
    }
    workload.steps = std::mem::take(&mut lowering.steps);
    check::check(&workload).map_err(|refusal| {
        let (index, pointer) = lowering.origin(&refusal.pointer).unwrap_or((created, refusal.pointer.clone()));
        at(Refusal { pointer, ..refusal }, index)
    })?;
    match lowering.contents.keys().find(|digest| !lowering.named.contains(*digest)) {
        Some(unnamed) => Err(Refusal::invalid(format!("/contents/{unnamed}"), "no call names it")),
        None => Ok(Lowered { workload, contents: lowering.contents }),
    }
}

/// A refusal of one call: with its pointer in the recording, and its place.
fn placed(refusal: Refusal, index: usize, entry: &Entry) -> Refusal {
    let pointer = format!("/calls/{index}/call/{}{}", entry.call.name(), refusal.pointer);
    let why = if entry.place.is_empty() { refusal.why } else { format!("{}: {}", entry.place, refusal.why) };
    Refusal { pointer, why, ..refusal }
}

/// The bytes of all contents, each of which is what its digest says.
fn decoded(contents: &BTreeMap<String, String>) -> Result<BTreeMap<String, Vec<u8>>, Refusal> {
    let decode = |(digest, text): (&String, &String)| {
        let refuse = |why| Refusal::invalid(format!("/contents/{}", escaped(digest)), why);
        let bytes = STANDARD.decode(text).map_err(|_| refuse("it is no base64"))?;
        if Digest::of(&bytes).to_string() != *digest {
            return Err(refuse("its bytes have another SHA-256"));
        }
        Ok((digest.clone(), bytes))
    };
    contents.iter().map(decode).collect()
}

/// A name for what a program makes, by the program's own: `Agent 2.py` makes `agent-2`.
fn name_of(program: &str) -> Option<String> {
    let stem = program.split_once('.').map_or(program, |(stem, _)| stem).to_ascii_lowercase();
    let words = stem.split(|c: char| !c.is_ascii_alphanumeric()).filter(|word| !word.is_empty());
    let name: String = words.collect::<Vec<_>>().join("-").chars().take(63).collect();
    let name = name.trim_end_matches('-').to_owned();
    (!name.is_empty()).then_some(name)
}

/// What was lowered so far.
#[derive(Default)]
struct Lowering {
    /// The workload, and the call that made it.
    workload: Option<(usize, Workload)>,
    steps: Vec<Step>,
    /// The call that each step is of.
    origins: Vec<usize>,
    /// Whether the sandbox was ended, or left.
    ended: bool,
    contents: BTreeMap<String, Vec<u8>>,
    named: BTreeSet<String>,
}

impl Lowering {
    fn call(&mut self, call: &Call, index: usize) -> Result<(), Refusal> {
        if self.ended {
            return Err(Refusal::invalid("", "the sandbox was ended before"));
        }
        let Some((_, workload)) = &mut self.workload else {
            let Call::Create(create) = call else {
                return Err(Refusal::invalid("", "no sandbox was created before"));
            };
            self.workload = Some((index, self::workload(create)?));
            return Ok(());
        };
        let step = match call {
            Call::Create(_) => return Err(Refusal::invalid("", "a workload is one sandbox, and this is another")),
            Call::Keep(life) => {
                (workload.ttl_ms, workload.on_expiry) = (life.ttl_ms, life.on_expiry.unwrap_or(workload.on_expiry));
                return Ok(());
            }
            Call::Detach(life) => {
                (workload.ttl_ms, workload.on_expiry) = (life.ttl_ms, life.on_expiry.unwrap_or_default());
                return Ok(());
            }
            Call::Close(_) | Call::Destroy(_) | Call::Kill(_) => {
                self.ended = true;
                return Ok(());
            }
            Call::Run(command) => Step::Run(self.command(command)?),
            Call::Start(command) => Step::Start(self.command(command)?),
            Call::Write(write) => Step::Write(self.write(write)?),
            Call::MakeDirectory(make) => Step::MakeDirectory(make.clone()),
            Call::Move(moved) => Step::Move(moved.clone()),
            Call::Remove(remove) => Step::Remove(remove.clone()),
            Call::Upload(upload) => Step::Upload(self.upload(upload)?),
            Call::Forward(port) => Step::Forward(port.clone()),
            Call::Snapshot(snapshot) => Step::Snapshot(snapshot.clone()),
        };
        self.steps.push(step);
        self.origins.push(index);
        Ok(())
    }

    fn command(&mut self, asked: &RecordedCommand) -> Result<Command, Refusal> {
        Ok(Command {
            argv: asked.argv.clone(),
            env: environment(&asked.env, &asked.secrets)?,
            cwd: asked.cwd.clone(),
            user: asked.user.clone(),
            timeout_ms: asked.timeout_ms,
            stdin: asked.stdin.as_ref().map(|digest| self.content("/stdin", digest)).transpose()?,
            check: asked.check,
        })
    }

    fn write(&mut self, asked: &RecordedWrite) -> Result<WriteFile, Refusal> {
        Ok(WriteFile {
            path: asked.path.clone(),
            content: self.content("/content", &asked.content)?,
            mode: asked.mode,
            owner: asked.owner.clone(),
            append: asked.append,
            parents: asked.parents,
        })
    }

    fn upload(&mut self, asked: &RecordedUpload) -> Result<Upload, Refusal> {
        let entries = asked.entries.iter().enumerate().map(|(index, entry)| {
            let what = match &entry.what {
                RecordedKind::Directory(directory) => UploadKind::Directory(directory.clone()),
                RecordedKind::File(file) => {
                    let content = self.content(&format!("/entries/{index}/what/file/content"), &file.content)?;
                    UploadKind::File(UploadFile { content, mode: file.mode })
                }
                RecordedKind::Link(target) => UploadKind::Link(target.clone()),
            };
            Ok(UploadEntry { path: entry.path.clone(), what })
        });
        Ok(Upload { entries: entries.collect::<Result<_, Refusal>>()?, guest_path: asked.guest_path.clone() })
    }

    fn content(&mut self, pointer: &str, digest: &str) -> Result<Content, Refusal> {
        let bytes = self.contents.get(digest).ok_or_else(|| Refusal::invalid(pointer, "its bytes are not there"))?;
        let content = Content { sha256: digest.to_owned(), bytes: bytes.len() as u64 };
        self.named.insert(digest.to_owned());
        Ok(content)
    }

    /// The call that a pointer into a step comes from, and the pointer into that call.
    fn origin(&self, pointer: &str) -> Option<(usize, String)> {
        let (index, rest) = pointer.strip_prefix("/steps/")?.split_once('/')?;
        let field = rest.split_once('/').map_or(String::new(), |(_, field)| format!("/{field}"));
        Some((*self.origins.get(index.parse::<usize>().ok()?)?, field))
    }
}

/// The workload that a sandbox is the beginning of.
fn workload(asked: &Create) -> Result<Workload, Refusal> {
    let shape = Resources::default();
    Ok(Workload {
        schema: SCHEMA.to_owned(),
        name: asked.name.clone().unwrap_or_default(),
        image: asked.image.clone().map_or_else(Image::default, Image::Named),
        resources: Resources {
            cpus: asked.cpus.unwrap_or(shape.cpus),
            memory_mib: asked.memory_mib.unwrap_or(shape.memory_mib),
            disk_mib: asked.disk_mib.unwrap_or(shape.disk_mib),
        },
        network: Network { ports: asked.ports.clone(), ..Network::default() },
        mounts: Vec::new(),
        env: environment(&asked.env, &asked.secrets)?,
        files: Vec::new(),
        source: None,
        profile: asked.profile.clone().unwrap_or_else(standard),
        ttl_ms: asked.ttl_ms,
        on_expiry: asked.on_expiry.unwrap_or_default(),
        entrypoint: None,
        steps: Vec::new(),
    })
}

fn environment(
    literals: &BTreeMap<String, String>,
    secrets: &BTreeMap<String, String>,
) -> Result<BTreeMap<String, Variable>, Refusal> {
    let mut env: BTreeMap<_, _> =
        literals.iter().map(|(name, value)| (name.clone(), Variable::Literal(value.clone()))).collect();
    for (name, reference) in secrets {
        if env.insert(name.clone(), Variable::Secret(reference.clone())).is_some() {
            return Err(Refusal::invalid(format!("/secrets/{}", escaped(name)), "it is also a variable in env"));
        }
    }
    Ok(env)
}
