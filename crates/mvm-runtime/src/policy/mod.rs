//! Admission: a request and a profile in, a plan or its denials out, before anything of it happens. Pure: no I/O, no clock.
//!
//! Every surface and every operation comes through [`admit`]. What is enforced later is what the plan says.

mod file;
mod judge;
mod profile;
mod rules;
#[cfg(test)]
mod tests;
mod written;

use mvm_wire::api::{Denial, Enforced, JobRequest, Machine, Plan, PlanLine, PortRequest};
use mvm_wire::guest::Exec;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use utoipa::PartialSchema;
use utoipa::openapi::{RefOr, Schema};

pub use file::{bound, check, directory, load, names, or_default, parse};
pub use profile::{BUILT_IN, Directories, NO_NETWORK, Names, Ports, Profile, built_in, mandatory};
pub use rules::{PORTS_FORWARD, PROFILE_ACKNOWLEDGED, RULES, Rule, find};

use crate::error::{Error, Result};
use crate::text::harmless;
use crate::vmm::confine::{Layer, LayerReport};

/// The profile where none was named.
pub const DEFAULT_PROFILE: &str = "standard";
/// What a plan says it is.
pub const PLAN_SCHEMA: &str = "mvm.plan/v1";
/// The JSON Schema of a profile's file.
pub const PROFILE_JSON_SCHEMA: &str = include_str!("../../../../docs/schemas/profile.schema.json");
/// Where commands find room to write, and start, when the root is read-only.
const SCRATCH: &str = "/tmp";

/// What is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Operation {
    /// A one-shot run.
    Run,
    /// A sandbox that stays.
    Up,
    /// A command in a sandbox.
    Exec,
    /// A port of the host that leads into one.
    Port,
    /// Writing, moving or removing files of one.
    FilesIn,
    /// Reading or listing them.
    FilesOut,
    /// Saving its memory.
    Snapshot,
    /// Giving it another time to live.
    Keep,
}

impl Operation {
    /// Its name in plans and in the audit log.
    pub fn name(self) -> &'static str {
        match self {
            Operation::Run => "run",
            Operation::Up => "up",
            Operation::Exec => "exec",
            Operation::Port => "port",
            Operation::FilesIn => "files.in",
            Operation::FilesOut => "files.out",
            Operation::Snapshot => "snapshot",
            Operation::Keep => "keep",
        }
    }

    /// What a denial says could not be done.
    pub fn what(self) -> &'static str {
        match self {
            Operation::Run => "cannot run the command",
            Operation::Up => "cannot create the sandbox",
            Operation::Exec => "cannot start the command",
            Operation::Port => "cannot forward the port",
            Operation::FilesIn => "cannot change files of the sandbox",
            Operation::FilesOut => "cannot read files of the sandbox",
            Operation::Snapshot => "cannot save the sandbox's memory",
            Operation::Keep => "cannot keep the sandbox",
        }
    }
}

/// A request, as far as a policy is concerned. What an operation has nothing to do with is left empty.
#[derive(Debug, Clone, Default)]
pub struct Ask<'a> {
    /// The caller knows what the profile does not refuse.
    pub accept_risk: bool,
    /// The profile that the caller's environment demands, if it does.
    pub bound: Option<&'a str>,
    /// Names of environment variables.
    pub env: Vec<&'a str>,
    /// Names of secrets.
    pub secrets: Vec<&'a str>,
    /// User of the guest; empty if none was named.
    pub user: &'a str,
    /// Ports of the host.
    pub ports: &'a [PortRequest],
    /// The machine's shape.
    pub machine: Option<Machine>,
    /// Milliseconds that the command may run, if that was said.
    pub timeout_ms: Option<u64>,
    /// Bytes of each output stream that are wanted, if that was said.
    pub output_bytes: Option<u64>,
    /// Milliseconds that the sandbox shall live. Inside: none if it ends only when somebody asks.
    pub ttl_ms: Option<Option<u64>>,
    /// Layers that must apply besides the profile's.
    pub require: &'a [String],
    /// Layers that may be missing.
    pub allow_missing: &'a [String],
    /// What applies on this host.
    pub layers: &'a [LayerReport],
}

impl<'a> Ask<'a> {
    /// A command, which comes with secrets of these names.
    pub fn of_command(request: &'a JobRequest, secrets: impl Iterator<Item = &'a String>) -> Ask<'a> {
        Ask {
            env: request.env.keys().map(String::as_str).collect(),
            secrets: secrets.map(String::as_str).collect(),
            user: &request.user,
            timeout_ms: request.timeout_ms,
            ..Ask::default()
        }
    }
}

/// What decides about a sandbox and all that is asked of it, for as long as it exists: fixed when it is made.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Policy {
    /// The profile as it was then.
    pub profile: Profile,
    /// What was decided about the sandbox.
    pub plan: Plan,
    /// The layers without which its machine does not run.
    pub require: Vec<String>,
    /// The entry of the audit log that authorised it; none for what mvm starts itself.
    #[serde(default)]
    pub audit_id: Option<u64>,
    /// What was decided cannot be read: nothing may happen any more but its end.
    #[serde(skip)]
    pub unreadable: bool,
}

/// The default profile, of which nothing was asked: for what mvm starts itself.
impl Default for Policy {
    fn default() -> Policy {
        let profile = built_in(DEFAULT_PROFILE).unwrap_or_else(|| unreachable!("it is built in"));
        let require = profile.isolation.require.clone();
        Policy { profile, plan: Plan::default(), require, audit_id: None, unreadable: false }
    }
}

impl Policy {
    /// Room that commands find beside a root that is read-only, in bytes; 0 if they can write to it.
    pub fn scratch_bytes(&self) -> u64 {
        self.plan.enforced.scratch_bytes.unwrap_or(0)
    }

    /// Decides about a sandbox or a one-shot run.
    pub fn decide(operation: Operation, ask: &Ask<'_>, profile: Profile) -> Result<Policy> {
        check_layers(ask.require)?;
        check_layers(ask.allow_missing)?;
        let plan = admit(operation, ask, &profile);
        let require = required(&profile, ask.require, ask.allow_missing);
        Ok(Policy { profile, plan, require, audit_id: None, unreadable: false })
    }

    /// Decides about something that is asked of the sandbox.
    pub fn admit(&self, operation: Operation, ask: &Ask<'_>) -> Plan {
        // Whose risk it is was said when it was made.
        let ask = Ask { accept_risk: true, ..ask.clone() };
        // Worked out when it was decided about the sandbox.
        let plan = match self.plan.profile_digest.as_str() {
            "" => admit(operation, &ask, &self.profile),
            known => admit_under(operation, &ask, &self.profile, known.to_owned()),
        };
        if !self.unreadable {
            return plan;
        }
        let denial = Denial {
            rule: "profile.recorded".into(),
            reason: "what was decided about this sandbox cannot be read: another version of mvmctl wrote it, or it is damaged"
                .into(),
            remedy: "mvmctl destroy it, and make it again".into(),
        };
        Plan { allowed: false, denials: vec![denial], ..plan }
    }

    /// In place of what was decided about a sandbox and cannot be read.
    pub fn unreadable() -> Policy {
        let require = vec!["a-policy-that-can-be-read".to_owned()];
        Policy { require, unreadable: true, ..Policy::default() }
    }
}

/// Decides. The plan says whether it is allowed; [`decided`] makes an error of one that is not.
pub fn admit(operation: Operation, ask: &Ask<'_>, profile: &Profile) -> Plan {
    admit_under(operation, ask, profile, digest(profile))
}

fn admit_under(operation: Operation, ask: &Ask<'_>, profile: &Profile, profile_digest: String) -> Plan {
    let mut judge = judge::Judge::new(profile);
    judge.profile(ask);
    match operation {
        Operation::Run => {
            judge.command(ask);
            judge.machine(ask);
        }
        Operation::Up => {
            judge.command(ask);
            judge.machine(ask);
            judge.ports(ask.ports);
            judge.ttl(ask.ttl_ms);
        }
        Operation::Exec => judge.command(ask),
        Operation::Port => judge.ports(ask.ports),
        Operation::FilesIn => judge.files_in(),
        Operation::FilesOut => judge.files_out(),
        Operation::Snapshot => judge.snapshots(),
        Operation::Keep => judge.ttl(ask.ttl_ms),
    }
    let (lines, denials, enforced) = judge.verdict();
    Plan {
        schema: PLAN_SCHEMA.into(),
        operation: operation.name().into(),
        profile: profile.name.clone(),
        profile_digest,
        allowed: denials.is_empty(),
        lines,
        denials,
        enforced,
        allowed_missing: sorted(ask.allow_missing),
    }
}

/// Why a profile may not be used, whatever is asked of it; nothing if it may.
pub fn unusable(ask: &Ask<'_>, profile: &Profile) -> Vec<Denial> {
    let mut judge = judge::Judge::new(profile);
    judge.profile(ask);
    judge.verdict().1
}

/// The refusal, if a plan is one.
pub fn decided(operation: Operation, plan: &Plan) -> Result<()> {
    if plan.allowed { Ok(()) } else { Err(Error::denied(operation.what(), plan.denials.clone())) }
}

/// SHA-256 of a plan or a profile as compact JSON with sorted keys, in hex.
pub fn digest(value: &impl serde::Serialize) -> String {
    // By way of a value, whose maps are sorted.
    let text = serde_json::to_value(value).map(|value| value.to_string()).unwrap_or_default();
    hex::encode(Sha256::digest(text))
}

/// The JSON Schema of a plan.
pub fn plan_json_schema() -> serde_json::Value {
    let schema = |part: RefOr<Schema>| serde_json::to_value(part).unwrap_or_default();
    let mut whole = schema(Plan::schema());
    whole["$schema"] = "https://json-schema.org/draft/2020-12/schema".into();
    whole["title"] = "A plan of mvm's policy".into();
    whole["properties"]["schema"]["const"] = PLAN_SCHEMA.into();
    whole["$defs"] = serde_json::json!({
        "PlanLine": schema(PlanLine::schema()),
        "Denial": schema(Denial::schema()),
        "Enforced": schema(Enforced::schema()),
    });
    // Where the document of the API has them.
    let text = whole.to_string().replace("#/components/schemas/", "#/$defs/");
    serde_json::from_str(&text).unwrap_or_default()
}

/// The layers that must apply to a machine: the profile's and the caller's, without those that may be missing.
pub fn required(profile: &Profile, require: &[String], allow_missing: &[String]) -> Vec<String> {
    let all = profile.isolation.require.iter().chain(require);
    sorted(&all.filter(|name| !allow_missing.contains(name)).cloned().collect::<Vec<_>>())
}

/// The first required layer that does not apply, and why.
pub fn first_missing<'a>(required: &'a [String], layers: &[LayerReport]) -> Option<(&'a str, String)> {
    required.iter().find_map(|name| Some((name.as_str(), missing(name, layers)?)))
}

/// Why a layer does not apply; none if it does.
fn missing(name: &str, layers: &[LayerReport]) -> Option<String> {
    if name == NO_NETWORK {
        let either = [Layer::NetworkNamespace, Layer::Seccomp].map(|layer| missing(&layer.name(), layers));
        let [Some(namespace), Some(filter)] = either else { return None };
        return Some(format!("neither by a namespace ({namespace}) nor by a filter ({filter})"));
    }
    match layers.iter().find(|report| report.layer.name() == name) {
        Some(report) if report.applied => None,
        Some(report) => Some(report.missing.clone()),
        None => Some("nothing is known of it".to_owned()),
    }
}

/// The refusal of a machine without a layer that it must have.
pub fn lacks(layer: &str, why: &str) -> Error {
    let denial = Denial {
        rule: "isolation.layers".into(),
        reason: format!("the layer {layer} does not apply to this machine: {why}"),
        remedy: format!("--allow-missing {layer}, or mend the host (mvmctl doctor)"),
    };
    Error::denied("cannot start the machine", vec![denial])
}

/// Refuses names that no layer has.
pub fn check_layers(names: &[String]) -> Result<()> {
    let known = || Layer::ALL.iter().map(|layer| layer.name()).chain([NO_NETWORK.to_owned()]);
    match names.iter().find(|name| !known().any(|known| known == **name)) {
        None => Ok(()),
        Some(name) => {
            let what = harmless(&format!("there is no layer of isolation {name:?}"));
            let why = format!("the layers are {}", known().collect::<Vec<_>>().join(", "));
            Err(Error::new(mvm_wire::ErrorCode::InvalidRequest, what, why).hint("mvmctl doctor shows what applies"))
        }
    }
}

fn sorted(names: &[String]) -> Vec<String> {
    names.iter().cloned().collect::<std::collections::BTreeSet<_>>().into_iter().collect()
}

/// Gives a command the bounds that were decided, and what it then cannot do without.
pub fn enforce(enforced: &Enforced, exec: &mut Exec) {
    if exec.user.is_empty() {
        exec.user.clone_from(&enforced.user);
    }
    exec.unprivileged = enforced.unprivileged;
    exec.max_processes = enforced.processes.unwrap_or(0);
    if enforced.scratch_bytes.is_some() {
        // Its own home may not exist, and cannot be written to.
        if exec.cwd.is_empty() {
            exec.cwd = SCRATCH.into();
        }
        if !exec.env.iter().any(|(name, _)| name == "HOME") {
            exec.env.push(("HOME".into(), SCRATCH.into()));
        }
    }
}
