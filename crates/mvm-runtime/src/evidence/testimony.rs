//! What is known of a command from its start, and the statement that it becomes when the command has ended.

use std::collections::BTreeMap;
use std::sync::Arc;

use mvm_evidence::statement::{
    Commitments, GuestReported, HostObserved, Image, Isolation as Stated, Layer, Limits, Policy, Run, RunKind, Tool,
};
use mvm_evidence::{Digest, Entry, Field, Statement, commitment, notary};
use mvm_wire::ErrorCode;
use mvm_wire::api::{JobResult, Machine, Plan};
use mvm_wire::guest::Exec;
use serde::{Deserialize, Serialize};

use super::{Evidence, records};
use crate::error::{Error, Result};
use crate::policy::{self, NO_NETWORK};
use crate::run::Isolation;
use crate::time;
use crate::witness::Witness;

/// What is known of a command when it starts. It holds its arguments, so it is as private as they are.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Testimony {
    /// Its id.
    pub run_id: String,
    /// The sandbox that it runs in.
    pub sandbox_id: String,
    /// Whether the sandbox was made for it alone.
    pub alone: bool,
    /// The entry of the audit log that authorised it.
    pub audit_id: u64,
    /// Name and digest of the image.
    pub image: (String, String),
    /// What was decided about it.
    pub plan: Plan,
    /// Its machine.
    pub machine: Machine,
    /// The layers that had to apply.
    pub require: Vec<String>,
    /// What keeps its machine apart from the host.
    pub isolation: Arc<Isolation>,
    /// Program and arguments.
    pub argv: Vec<String>,
    /// The commitment to its environment, without secrets.
    pub env: Digest,
    /// Names of the secrets that it was granted.
    pub secrets: Vec<String>,
    /// When it started, milliseconds since 1970.
    pub started_at_ms: u64,
}

/// The commitment to the environment of a command, as the guest gets it, without the secrets of these names.
pub fn environment(exec: &Exec, secrets: &[String], witness: &Witness) -> Result<Digest> {
    // The last of equal names counts, as in the guest.
    let all: BTreeMap<String, String> = exec.env.iter().cloned().collect();
    let open = all.into_iter().filter(|(name, _)| !secrets.contains(name)).collect();
    commitment::commit_env(&witness.salt().of_field(Field::Env), &open).map_err(uncommitted)
}

impl Testimony {
    fn statement(&self, log: &str, witness: &Witness, result: &JobResult) -> Result<Statement> {
        let (name, digest) = &self.image;
        let plan = &self.plan;
        let sums = witness.sums();
        let mut secrets = self.secrets.clone();
        secrets.sort();
        let Machine { cpus, memory_mib, disk_bytes } = self.machine;
        let enforced = &plan.enforced;
        Ok(Statement {
            run: Run {
                run_id: self.run_id.clone(),
                sandbox_id: self.sandbox_id.clone(),
                kind: if self.alone { RunKind::Run } else { RunKind::Exec },
                log: log.to_owned(),
                audit_id: self.audit_id,
            },
            image: Image { name: name.clone(), digest: sha256(digest.trim_start_matches("sha256:"))? },
            policy: Policy {
                profile: plan.profile.clone(),
                profile_digest: sha256(&plan.profile_digest)?,
                plan_digest: sha256(&policy::digest(plan))?,
                allowed_missing: plan.allowed_missing.clone(),
            },
            limits: Limits {
                cpus,
                memory_mib,
                disk_bytes,
                scratch_bytes: enforced.scratch_bytes,
                processes: enforced.processes.map(u64::from),
                output_bytes: enforced.output_bytes,
                timeout_ms: enforced.timeout_ms,
            },
            isolation: self.isolation(),
            commitments: Commitments {
                argv: commitment::commit_argv(&witness.salt().of_field(Field::Argv), &self.argv)
                    .map_err(uncommitted)?,
                env: self.env,
                stdin: sums.stdin.commitment,
                stdout: sums.stdout.commitment,
                stderr: sums.stderr.commitment,
            },
            secrets,
            host_observed: HostObserved {
                started_at_ms: self.started_at_ms,
                ended_at_ms: time::now_ms(),
                duration_us: (result.duration_ms * 1000.0) as u64,
                timed_out: result.timed_out,
                stdin_bytes: sums.stdin.bytes,
                stdout_bytes: sums.stdout.bytes,
                stderr_bytes: sums.stderr.bytes,
                redactions: result.redactions,
                error: result.error.as_ref().map(|error| error.code.to_string()),
            },
            guest_reported: spoke(result).then(|| GuestReported {
                exit_code: result.exit_code,
                signal: result.signal,
                oom_killed: result.oom_killed,
                not_started: result.not_started.as_ref().map(|not| not.reason.clone()),
            }),
            tool: Tool { name: "mvmctl".into(), version: env!("CARGO_PKG_VERSION").into() },
        })
    }

    fn isolation(&self) -> Stated {
        let isolation = &self.isolation;
        let no_network = self.require.iter().any(|name| name == NO_NETWORK);
        let layer = |report: &crate::vmm::confine::LayerReport| {
            let layer = report.layer.name();
            // Demanded by itself, or as one of two that keep it from the network, where it is the one that does.
            let either = no_network && ["network-namespace", "seccomp"].contains(&layer.as_str()) && report.applied;
            Layer { mandatory: self.require.contains(&layer) || either, applied: report.applied, layer }
        };
        Stated {
            backend: isolation.backend.clone(),
            backend_version: isolation.backend_version.clone(),
            accelerator: isolation.accelerator.name().into(),
            template: isolation.template,
            layers: isolation.layers.iter().map(layer).collect(),
        }
    }
}

impl Evidence {
    /// Records that a command has ended: an entry in the log that binds the statement about it, and the private record from
    /// which a receipt can be made, and opened, later. Returns the result with what it is on record as, or why it is not.
    pub fn ended(&self, testimony: &Testimony, witness: &Witness, result: JobResult) -> JobResult {
        let recorded = self.record_end(testimony, witness, &result);
        let (run_id, audit_id) = (testimony.run_id.clone(), testimony.audit_id);
        JobResult { run_id, audit_id, unrecorded: recorded.err().map(|e| e.to_string()), ..result }
    }

    fn record_end(&self, testimony: &Testimony, witness: &Witness, result: &JobResult) -> Result<()> {
        let statement = testimony.statement(&self.log.origin()?, witness, result)?;
        let entry = Entry::now(notary::ENDED).field("outcome", outcome(result)).field("authorised", testimony.audit_id);
        let ended = notary::record_end(&self.log, &statement, entry)?;
        records::write(&self.home, testimony, witness, &statement, ended)
    }
}

/// Whether the guest said how it ended. One that was told to kill it may have said nothing.
fn spoke(result: &JobResult) -> bool {
    let said = result.exit_code.is_some() || result.signal.is_some() || result.not_started.is_some();
    result.error.is_none() && said
}

/// How a command ended, in a word.
fn outcome(result: &JobResult) -> &'static str {
    match result {
        JobResult { error: Some(error), .. } if error.code == ErrorCode::PolicyDenied => "denied",
        JobResult { error: Some(_), .. } => "lost",
        JobResult { timed_out: true, .. } => "timeout",
        JobResult { not_started: Some(_), .. } => "not-started",
        JobResult { signal: Some(_), .. } => "signal",
        JobResult { exit_code: Some(0), .. } => "success",
        _ => "failure",
    }
}

fn sha256(hex: &str) -> Result<Digest> {
    hex.parse().map_err(|e| Error::internal("cannot state what ran", e))
}

fn uncommitted(e: impl std::fmt::Display) -> Error {
    Error::internal("cannot commit to what ran", e)
}
