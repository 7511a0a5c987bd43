//! The one-shot run: one command in one machine that exists for nothing else.

use std::fs::File;
use std::sync::Arc;
use std::time::{Duration, Instant};

use mvm_wire::ErrorCode;
use mvm_wire::api::{JobResult, Machine as Shown, SecretValues};
use mvm_wire::guest::{Exec, TermSize};
use serde::{Deserialize, Serialize};
use tokio::sync::mpsc;

use crate::capabilities;
use crate::command::{self, Control, Streams};
use crate::error::{Error, Result};
use crate::evidence::{self, Evidence, Of, Testimony};
use crate::home::Home;
use crate::host::{self, Accelerator, Host};
use crate::image::Image;
use crate::kernel::Kernel;
use crate::policy::{self, Ask, Operation, Policy, Profile};
use crate::progress::Progress;
use crate::sandbox::{self, Identity};
use crate::secrets::{self, Patterns, Redacted};
use crate::setup;
use crate::template::{self, BOOT_LIMIT, Recipe};
use crate::time;
use crate::vmm;
use crate::vmm::confine::LayerReport;
use crate::vmm::guest::Guest;
use crate::vmm::machine::{Launch, Machine, Memory};
use crate::vmm::qemu::Shape;
use crate::witness::Witness;

/// How long a restored clone may take to answer. It takes about 20 ms on an idle host.
const CLONE_LIMIT: Duration = Duration::from_secs(30);
/// What to run, and in what.
#[derive(Debug, Clone)]
pub struct RunRequest {
    /// Image name.
    pub image: String,
    /// Machine shape.
    pub shape: Shape,
    /// Program and arguments.
    pub argv: Vec<String>,
    /// Environment, on top of the image's.
    pub env: Vec<(String, String)>,
    /// Secrets, which it has as variables.
    pub secrets: SecretValues,
    /// Leave them in the output as they are.
    pub no_redact: bool,
    /// Working directory; empty for the image's.
    pub cwd: String,
    /// User; empty for the image's.
    pub user: String,
    /// Whether input is passed.
    pub stdin: bool,
    /// Give it a terminal of this size.
    pub tty: Option<TermSize>,
    /// Boot afresh instead of cloning a template.
    pub no_template: bool,
    /// What was decided about it.
    pub policy: Policy,
}

/// Decides about a run or a sandbox on this host, before anything of it happens.
pub fn decide(home: &Home, operation: Operation, ask: &Ask<'_>, profile: Profile) -> Result<Policy> {
    let host = Host::load(home)?;
    let bound = policy::bound();
    Policy::decide(operation, &Ask { layers: &host.layers, bound: bound.as_deref(), ..ask.clone() }, profile)
}

/// How a run ended.
#[derive(Debug, Clone)]
pub struct RunResult {
    /// The sandbox's id.
    pub sandbox_id: String,
    /// How the command ended.
    pub result: JobResult,
    /// Digest of the image.
    pub image_digest: String,
    /// What kept it apart from the host.
    pub isolation: Arc<Isolation>,
}

/// What kept a run apart from the host.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Isolation {
    /// The VMM.
    pub backend: String,
    /// Its version.
    pub backend_version: String,
    /// Accelerator.
    pub accelerator: Accelerator,
    /// Whether the machine was a clone of something saved: a template, a snapshot, its own memory.
    pub template: bool,
    /// Each layer of the VMM's confinement and whether it applied.
    pub layers: Vec<LayerReport>,
}

impl Isolation {
    /// What keeps a machine apart from its host.
    pub fn of(host: &Host, machine: &Machine, template: bool) -> Isolation {
        Isolation {
            backend: capabilities::BACKEND.into(),
            backend_version: host.qemu.version.clone(),
            accelerator: host.accelerator(),
            template,
            layers: machine.layers().to_vec(),
        }
    }
}

/// Everything that a run needs before its machine can start, found or made.
#[derive(Debug)]
pub struct Prepared {
    home: Home,
    host: Host,
    kernel: Kernel,
    image: Image,
    template: Option<template::Template>,
}

/// Finds what the run needs; makes what is missing, aloud.
pub async fn prepare(home: &Home, request: &RunRequest, progress: &dyn Progress) -> Result<Prepared> {
    check_shape(&request.shape)?;
    let ready = setup::ready(home, &request.image, progress).await?;
    with_template(home, ready, &request.shape, !request.no_template, progress).await
}

/// Adds the template to what a run stands on.
pub async fn with_template(
    home: &Home,
    ready: setup::Ready,
    shape: &Shape,
    wanted: bool,
    progress: &dyn Progress,
) -> Result<Prepared> {
    let setup::Ready { host, kernel, image } = ready;
    check_disk(shape, &image)?;
    let accelerator = host.accelerator();
    let recipe = Recipe { host: &host, kernel: &kernel, image: &image, shape, accelerator };
    let template = if wanted { Some(template::ensure(home, recipe, progress).await?) } else { None };
    Ok(Prepared { home: home.clone(), host, kernel, image, template })
}

/// Refuses a disk that is smaller than that of its image.
pub fn check_disk(shape: &Shape, image: &Image) -> Result<()> {
    let mib = |bytes: u64| bytes.div_ceil(1 << 20);
    if shape.disk_bytes >= image.disk_bytes {
        return Ok(());
    }
    let what = format!("cannot give a machine a disk of {} MiB", mib(shape.disk_bytes));
    let least = mib(image.disk_bytes);
    Err(Error::new(ErrorCode::InvalidRequest, what, format!("the image {} is one of {least} MiB", image.name))
        .hint(format!("use --disk {least}M or more (in a workload: /resources/disk_mib)")))
}

impl Prepared {
    /// The template, if one was wanted.
    pub fn template(&self) -> Option<&template::Template> {
        self.template.as_ref()
    }

    /// The image.
    pub fn image(&self) -> &Image {
        &self.image
    }
}

/// A machine that was admitted and waits for its first command.
#[derive(Debug)]
pub struct Ready {
    /// The machine.
    pub machine: Machine,
    /// The session with its agent.
    pub guest: Guest,
    /// Its id.
    pub id: String,
    /// What it is known by.
    pub identity: Identity,
    /// What confines it.
    pub isolation: Isolation,
}

/// Starts a machine and admits it: a clone of the template, or a fresh boot. No admission, no machine. Its disk is gone
/// when it is.
pub async fn start(prepared: &Prepared, request: &RunRequest) -> Result<Ready> {
    start_as(prepared, request, sandbox::new_id()?).await
}

async fn start_as(prepared: &Prepared, request: &RunRequest, id: String) -> Result<Ready> {
    let (shape, policy) = (&request.shape, &request.policy);
    let mut disks = vec![prepared.image.open_disk()?];
    disks.extend(prepared.template.as_ref().map(template::Template::open_overlay).transpose()?);
    disks.push(template::overlay(&prepared.home, shape.disk_bytes)?);
    start_on(prepared, shape, policy, id, disks).await
}

/// The same on disks of the caller's: the image, overlays, and last the one that is written to. For a clone their
/// content must be that of its template.
pub async fn start_on(
    prepared: &Prepared,
    shape: &Shape,
    policy: &Policy,
    id: String,
    disks: Vec<File>,
) -> Result<Ready> {
    let host = &prepared.host;
    let accelerator = host.accelerator();
    let (memory, origin, limit) = match &prepared.template {
        Some(template) => {
            let (memory, state) = template.open_machine()?;
            let origin = vmm::machine::Origin::Restore { devices: state, paused: false };
            (Memory::CopyOnWrite(memory), origin, CLONE_LIMIT)
        }
        None => (Memory::Fresh, template::boot_origin(&prepared.kernel, false)?, BOOT_LIMIT),
    };
    let mut machine =
        Machine::start(Launch { host, accelerator, shape, memory, disks, origin, require: &policy.require })?;
    let guest = machine.greet(limit).await?;
    let identity = Identity::new(&id)?;
    if let Err(e) = guest.admit(identity.admission(policy.scratch_bytes())?).await {
        return Err(machine.explain(e).await);
    }
    let isolation = Isolation::of(host, &machine, prepared.template.is_some());
    Ok(Ready { machine, guest, id, identity, isolation })
}

/// Runs the command, once that is on record. `feed` yields its standard input, `control` what the caller wants meanwhile. Its
/// secrets are redacted in what `streams` gets, unless the request says otherwise, and in errors.
pub async fn run(
    prepared: &Prepared,
    request: &RunRequest,
    feed: mpsc::Receiver<Vec<u8>>,
    control: &mut mpsc::Receiver<Control>,
    streams: &mut (impl Streams + Send),
) -> Result<RunResult> {
    let (run_id, sandbox_id) = (sandbox::new_run_id()?, sandbox::new_id()?);
    let evidence = Evidence::open(&prepared.home)?;
    let plan = &request.policy.plan;
    let audit_id = evidence.authorise(Operation::Run, plan, Of { run: &run_id, sandbox: &sandbox_id })?;
    let mut ready = match start_as(prepared, request, sandbox_id.clone()).await {
        Ok(ready) => ready,
        Err(e) => {
            let of = Of { run: &run_id, sandbox: &sandbox_id };
            let _ = evidence.describe("run.lost", of, &[("authorised", &audit_id.to_string())]);
            return Err(e);
        }
    };
    let isolation = Arc::new(ready.isolation);
    let config = &prepared.image.config;
    let mut env = config.env.clone();
    env.extend(request.env.iter().cloned());
    env.extend(request.secrets.iter().map(|(name, value)| (name.clone(), value.expose().to_owned())));
    let patterns = Patterns::of(request.secrets.iter().map(|(name, value)| (name.as_str(), value)));
    let mut streams = Redacted::new(streams, patterns.as_ref().filter(|_| !request.no_redact));
    let enforced = &plan.enforced;
    let mut exec = Exec {
        argv: request.argv.clone(),
        env,
        cwd: request.cwd.clone(),
        user: request.user.clone(),
        tty: request.tty,
        stdin: request.stdin,
        ..Exec::default()
    };
    policy::enforce(enforced, &mut exec);
    config.complete(&mut exec);
    let timeout = enforced.timeout_ms.map(Duration::from_millis);
    let witness = Witness::new()?;
    let secrets: Vec<String> = request.secrets.keys().cloned().collect();
    let testimony = Testimony {
        run_id,
        sandbox_id,
        alone: true,
        audit_id,
        image: (request.image.clone(), prepared.image.digest.clone()),
        plan: plan.clone(),
        machine: Shown {
            cpus: request.shape.cpus,
            memory_mib: request.shape.memory_mib,
            disk_bytes: request.shape.disk_bytes,
        },
        require: request.policy.require.clone(),
        isolation: isolation.clone(),
        argv: exec.argv.clone(),
        env: evidence::environment(&exec, &secrets, &witness)?,
        secrets,
        started_at_ms: time::now_ms(),
    };
    let started = Instant::now();
    let attended = command::complete(&ready.guest, exec, timeout, feed, control, &mut streams, &witness).await;
    let attended = match attended {
        Err(e) if e.code == ErrorCode::TransportError => Err(ready.machine.explain(e).await),
        other => other,
    };
    let duration_ms = started.elapsed().as_secs_f64() * 1000.0;
    // What is wrong with the reader of its output is for later: first it is put on record how it ended.
    let shown = streams.end().await;
    let redactions = *shown.as_ref().unwrap_or(&0);
    let [stdout_bytes, stderr_bytes] = streams.written;
    ready.machine.kill();
    let (result, lost) = match attended {
        Ok(attended) => (attended.into(), None),
        Err(e) => (JobResult { error: Some(e.clone().into()), ..JobResult::default() }, Some(e)),
    };
    let result = JobResult { duration_ms, stdout_bytes, stderr_bytes, redactions, ..result };
    let result = evidence.ended(&testimony, &witness, secrets::redact_result(patterns.as_deref(), result));
    if let Some(e) = lost {
        return Err(secrets::redact_error(patterns.as_deref(), e));
    }
    shown?;
    Ok(RunResult { sandbox_id: testimony.sandbox_id, result, image_digest: prepared.image.digest.clone(), isolation })
}

/// Refuses a shape that no machine can have, or this host cannot give.
pub fn check_shape(shape: &Shape) -> Result<()> {
    const MIN_MEMORY_MIB: u32 = 128;
    const MIN_DISK: u64 = 64 << 20;
    let invalid =
        |what: String, why: String, hint: &str| Err(Error::new(ErrorCode::InvalidRequest, what, why).hint(hint));
    let memory = u64::from(shape.memory_mib) << 20;
    if shape.memory_mib < MIN_MEMORY_MIB {
        let what = format!("cannot give a machine {} MiB of memory", shape.memory_mib);
        return invalid(what, format!("a guest needs {MIN_MEMORY_MIB} MiB to boot"), "use --memory 256M or more");
    }
    if let Some(available) = host::memory_available().filter(|available| memory > *available) {
        return Err(Error::new(
            ErrorCode::ResourceExhausted,
            format!("cannot give a machine {} MiB of memory", shape.memory_mib),
            format!("this host has {} MiB free", available >> 20),
        )
        .hint("use a smaller --memory"));
    }
    let processors = std::thread::available_parallelism().map_or(1, |n| n.get() as u32);
    if shape.cpus == 0 || shape.cpus > processors {
        let what = format!("cannot give a machine {} processors", shape.cpus);
        return invalid(what, format!("this host has {processors}"), "use a --cpus that the host has");
    }
    if shape.disk_bytes < MIN_DISK || shape.disk_bytes > vmm::qcow2::MAX_DISK {
        let what = format!("cannot give a machine a disk of {} bytes", shape.disk_bytes);
        return invalid(what, "a disk has from 64 MiB to 4 TiB".into(), "use --disk 4G");
    }
    Ok(())
}
