//! What admission says to a whole workload: to the sandbox that is made of it, and to each thing that is done in it, before
//! any of it happens.

use std::collections::BTreeMap;

use mvm_ir::{Command, Entrypoint, Fault, Image, Lowered, Port, Refusal, Step, Variable, Workload, escaped};
use mvm_wire::ErrorCode;
use mvm_wire::api::{CreateRequest, Denial, JobRequest, Plan, PortRequest};
use serde::Serialize;

use crate::error::{Error, Result};
use crate::function;
use crate::home::Home;
use crate::policy::{Ask, Operation, Policy};
use crate::request;
use crate::secrets;

/// What a plan of a workload says it is.
pub const PLAN_SCHEMA: &str = "mvm.workload-plan/v1";

/// The image that packages of Debian are added to.
const DEBIAN: &str = "debian";

/// What was decided about a workload.
#[derive(Debug, Clone, Serialize)]
pub struct WorkloadPlan {
    /// `mvm.workload-plan/v1`.
    pub schema: &'static str,
    /// The workload's name.
    pub name: String,
    /// `sha256:` and the digest of its canonical form.
    pub digest: String,
    /// Whether all of it may happen.
    pub allowed: bool,
    /// What was decided about the sandbox, its files, its entrypoint and its steps, in this order.
    pub decisions: Vec<Decision>,
    /// What a reviewer should look at, and admission has no say in.
    pub warnings: Vec<Warning>,
}

/// What was decided about one part of a workload.
#[derive(Debug, Clone, Serialize)]
pub struct Decision {
    /// Which part: a JSON pointer into the document; empty for the sandbox.
    pub pointer: String,
    /// The decision.
    pub plan: Plan,
}

/// Something to look at.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Warning {
    /// Where: a JSON pointer into the document.
    pub pointer: String,
    /// What is there. The value is not in it.
    pub text: String,
}

/// Reads a document; `from` names it in errors.
pub fn read(from: &str, bytes: &[u8]) -> Result<Workload> {
    mvm_ir::read(bytes).map_err(|refusal| refused(from, &refusal))
}

/// Lowers a recording; `from` names it in errors.
pub fn lower(from: &str, bytes: &[u8]) -> Result<Lowered> {
    mvm_ir::lower(bytes).map_err(|refusal| {
        let error = refused(from, &refusal);
        Error { what: format!("cannot compile the recording {from}"), hint: String::new(), ..error }
    })
}

/// The canonical document.
pub fn canonical(workload: &Workload) -> Result<Vec<u8>> {
    mvm_ir::canonical(workload).map_err(|refusal| refused(&workload.name, &refusal))
}

/// `sha256:` and the digest of the canonical document.
pub fn digest(workload: &Workload) -> Result<String> {
    mvm_ir::digest(workload).map_err(|refusal| refused(&workload.name, &refusal))
}

fn refused(from: &str, refusal: &Refusal) -> Error {
    let (code, hint) = match refusal.fault {
        Fault::Version => (ErrorCode::Incompatible, "use the mvmctl of that version, or write it for this one"),
        Fault::Invalid => (ErrorCode::InvalidRequest, "mvmctl policy schema workload prints what a workload may say"),
    };
    Error::new(code, format!("cannot read the workload {from}"), refusal).hint(hint)
}

/// Decides about a workload whose sandbox is asked for like this. Nothing is made, and no secret is read.
pub fn plan(home: &Home, workload: &Workload, request: CreateRequest) -> Result<WorkloadPlan> {
    let digest = digest(workload)?;
    let mut policy = request::plan(home, request)?;
    let unheld = unheld(workload);
    policy.plan.allowed &= unheld.is_empty();
    policy.plan.denials.extend(unheld);
    let mut decisions = vec![Decision { pointer: String::new(), plan: policy.plan.clone() }];
    let mut decide = |pointer: String, plan: Plan| decisions.push(Decision { pointer, plan });
    let inwards = || policy.admit(Operation::FilesIn, &Ask::default());
    if !workload.files.is_empty() {
        decide("/files".into(), inwards());
    }
    if workload.source.is_some() {
        decide("/source".into(), inwards());
    }
    if let Some(entrypoint) = &workload.entrypoint {
        let request = JobRequest { argv: argv(entrypoint), ..JobRequest::default() };
        decide("/entrypoint".into(), command(&policy, &request, &BTreeMap::new()));
    }
    for (index, step) in workload.steps.iter().enumerate() {
        decide(format!("/steps/{index}"), self::step(&policy, index, step)?);
    }
    let allowed = decisions.iter().all(|decision| decision.plan.allowed);
    let name = workload.name.clone();
    Ok(WorkloadPlan { schema: PLAN_SCHEMA, name, digest, allowed, decisions, warnings: warnings(workload) })
}

/// What the runtime cannot do at all, refused by the rules that say so.
fn unheld(workload: &Workload) -> Vec<Denial> {
    let denial = |rule: &str, reason: &str, remedy: &str| Denial {
        rule: rule.into(),
        reason: reason.into(),
        remedy: remedy.into(),
    };
    let egress = (!workload.network.egress.is_empty()).then(|| {
        denial(
            "network.none",
            "the workload reaches hosts (/network/egress), and a guest has no network",
            "leave out network.egress",
        )
    });
    let mounts = (!workload.mounts.is_empty()).then(|| {
        denial(
            "directories.host",
            "the workload sees directories of the host (/mounts), and this backend shares none",
            "leave out mounts; files and source put files into it",
        )
    });
    egress.into_iter().chain(mounts).collect()
}

/// The sandbox that a workload is run in, with nothing of what is said when it is launched.
pub fn create_request(workload: &Workload) -> Result<CreateRequest> {
    let (env, secrets) = split(&workload.env);
    // The policy has no say in images; packages go on top of this one.
    let image = match &workload.image {
        Image::Named(name) => name.clone(),
        Image::Debian { .. } => DEBIAN.to_owned(),
    };
    let ports = workload.network.ports.iter().enumerate();
    Ok(CreateRequest {
        name: workload.name.clone(),
        image,
        cpus: workload.resources.cpus,
        memory_mib: workload.resources.memory_mib,
        disk_bytes: u64::from(workload.resources.disk_mib) << 20,
        env,
        secrets,
        ports: ports
            .map(|(index, port)| port_request(&format!("/network/ports/{index}"), port))
            .collect::<Result<_>>()?,
        profile: workload.profile.clone(),
        ttl_ms: workload.ttl_ms,
        on_expiry: workload.on_expiry,
        entrypoint: workload.entrypoint.as_ref().map_or_else(Vec::new, argv),
        ..CreateRequest::default()
    })
}

/// What runs for an entrypoint. It starts in the directory of the source.
fn argv(entrypoint: &Entrypoint) -> Vec<String> {
    match entrypoint {
        Entrypoint::Command(argv) => argv.clone(),
        Entrypoint::Function(function) => function::argv(function),
    }
}

/// A port as the API takes it; `pointer` is where it is in the document.
pub fn port_request(pointer: &str, port: &Port) -> Result<PortRequest> {
    let address = port.host.parse().map_err(|e| {
        Error::new(ErrorCode::InvalidRequest, "cannot plan the workload", format!("at {pointer}/host: {e}"))
    })?;
    let (host_port, guest_port, protocol) = (port.host_port, port.guest_port, port.protocol.clone());
    Ok(PortRequest { address, host_port, guest_port, protocol })
}

/// What is open of an environment, and the references to secrets in it.
pub fn split(env: &BTreeMap<String, Variable>) -> (BTreeMap<String, String>, BTreeMap<String, String>) {
    let (mut open, mut secret) = (BTreeMap::new(), BTreeMap::new());
    for (name, variable) in env {
        match variable {
            Variable::Literal(value) => open.insert(name.clone(), value.clone()),
            Variable::Secret(reference) => secret.insert(name.clone(), reference.clone()),
        };
    }
    (open, secret)
}

fn step(policy: &Policy, index: usize, step: &Step) -> Result<Plan> {
    Ok(match step {
        Step::Run(asked) | Step::Start(asked) => recorded(policy, asked),
        Step::Write(_) | Step::MakeDirectory(_) | Step::Move(_) | Step::Remove(_) | Step::Upload(_) => {
            policy.admit(Operation::FilesIn, &Ask::default())
        }
        Step::Forward(port) => {
            let ports = [port_request(&format!("/steps/{index}/ports.forward"), port)?];
            policy.admit(Operation::Port, &Ask { ports: &ports, ..Ask::default() })
        }
        Step::Snapshot(_) => policy.admit(Operation::Snapshot, &Ask::default()),
    })
}

fn recorded(policy: &Policy, asked: &Command) -> Plan {
    let (env, secrets) = split(&asked.env);
    let (argv, user, timeout_ms) = (asked.argv.clone(), asked.user.clone(), asked.timeout_ms);
    command(policy, &JobRequest { argv, env, user, timeout_ms, ..JobRequest::default() }, &secrets)
}

fn command(policy: &Policy, request: &JobRequest, secrets: &BTreeMap<String, String>) -> Plan {
    policy.admit(Operation::Exec, &Ask::of_command(request, secrets.keys()))
}

/// Literals that look like credentials: a workload is for everybody to read.
pub fn warnings(workload: &Workload) -> Vec<Warning> {
    let mut warnings = Vec::new();
    let mut look = |pointer: String, text: &str| {
        if let Some(rule) = secrets::looks_like(text) {
            let text =
                format!("it looks like a credential ({rule}), and everybody can read it here: give it as a secret");
            warnings.push(Warning { pointer, text });
        }
    };
    let environment = |pointer: &str, env: &BTreeMap<String, Variable>, look: &mut dyn FnMut(String, &str)| {
        for (name, variable) in env {
            if let Variable::Literal(value) = variable {
                look(format!("{pointer}/{}", escaped(name)), value);
            }
        }
    };
    environment("/env", &workload.env, &mut look);
    if let Some(Entrypoint::Command(argv)) = &workload.entrypoint {
        argv.iter().enumerate().for_each(|(at, argument)| look(format!("/entrypoint/command/{at}"), argument));
    }
    for (index, step) in workload.steps.iter().enumerate() {
        let (Step::Run(command) | Step::Start(command)) = step else { continue };
        let pointer = format!("/steps/{index}/{}", step.name());
        environment(&format!("{pointer}/env"), &command.env, &mut look);
        command.argv.iter().enumerate().for_each(|(at, argument)| look(format!("{pointer}/argv/{at}"), argument));
    }
    warnings
}
