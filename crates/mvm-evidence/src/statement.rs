//! What a receipt says of one run: an in-toto Statement, version 1, with mvm's own predicate.
//!
//! It holds no argument, no variable, no byte of input or output and no path: those are [commitments](crate::commitment).
//! What the host saw and what the guest said are kept apart, because the guest may lie.

mod check;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::canonical;
use crate::digest::Digest;
use crate::refusal::{Part, Refusal};

/// The `_type` of every statement.
pub const STATEMENT_TYPE: &str = "https://in-toto.io/Statement/v1";
/// The `predicateType` of a run's receipt.
pub const PREDICATE_TYPE: &str = "urn:mvm:run-receipt:v1";
/// The longest payload, in bytes.
pub const MAX_PAYLOAD: usize = 64 << 10;

/// The predicate of a receipt. Its subject follows from it: the run's id, and the digest of the plan that admitted it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Statement {
    /// Which run.
    pub run: Run,
    /// What it ran in.
    pub image: Image,
    /// What allowed it.
    pub policy: Policy,
    /// What bounded it.
    pub limits: Limits,
    /// What kept it in.
    pub isolation: Isolation,
    /// What went in and came out, by commitment.
    pub commitments: Commitments,
    /// The names of the secrets it was given, sorted. Never a value.
    pub secrets: Vec<String>,
    /// What the host saw.
    pub host_observed: HostObserved,
    /// What the guest said. `None` if it said nothing.
    pub guest_reported: Option<GuestReported>,
    /// Who made this.
    pub tool: Tool,
}

/// Which run a receipt is about.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Run {
    /// Its id.
    pub run_id: String,
    /// The sandbox it ran in.
    pub sandbox_id: String,
    /// Whether the sandbox was only for it.
    pub kind: RunKind,
    /// The origin of the audit log that has its entries.
    pub log: String,
    /// The index, in that log, of the entry that authorised it.
    pub audit_id: u64,
}

/// Whether a run has a sandbox of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum RunKind {
    /// It has: the sandbox was made for it and destroyed after it.
    Run,
    /// It was one of several in a sandbox.
    Exec,
}

/// The image of the sandbox.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Image {
    /// Its name at that time.
    pub name: String,
    /// The digest of its content and configuration.
    pub digest: Digest,
}

/// The policy that admitted the run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Policy {
    /// The profile's name.
    pub profile: String,
    /// The digest of the profile's rules.
    pub profile_digest: Digest,
    /// The digest of the plan that admission made of request and profile.
    pub plan_digest: Digest,
    /// Layers of isolation that were allowed to be missing.
    pub allowed_missing: Vec<String>,
}

/// The bounds of the run. `None` is no bound.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Limits {
    /// Virtual processors.
    pub cpus: u32,
    /// Memory of the machine, in MiB.
    pub memory_mib: u32,
    /// Size of its disk.
    pub disk_bytes: u64,
    /// Size of what it may keep in memory file systems.
    pub scratch_bytes: Option<u64>,
    /// Processes at once.
    pub processes: Option<u64>,
    /// Output that was kept.
    pub output_bytes: Option<u64>,
    /// Time, in milliseconds.
    pub timeout_ms: Option<u64>,
}

/// The isolation that was in force, layer by layer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Isolation {
    /// The virtual machine monitor.
    pub backend: String,
    /// Its version.
    pub backend_version: String,
    /// What executed the guest's instructions: `kvm`, or `tcg` for full emulation.
    pub accelerator: String,
    /// Whether the machine was cloned from a saved one.
    pub template: bool,
    /// Every layer there is, applied or not.
    pub layers: Vec<Layer>,
}

/// One layer of isolation.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Layer {
    /// Its name.
    pub layer: String,
    /// Whether it was in force.
    pub applied: bool,
    /// Whether the run would have been refused without it.
    pub mandatory: bool,
}

/// Salted commitments; see [`crate::commitment`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Commitments {
    /// To the command and its arguments.
    pub argv: Digest,
    /// To the environment it was given.
    pub env: Digest,
    /// To its standard input.
    pub stdin: Digest,
    /// To all of its standard output.
    pub stdout: Digest,
    /// To all of its standard error.
    pub stderr: Digest,
}

/// What the host saw of the run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HostObserved {
    /// When it began, in milliseconds since 1970 by the host's clock.
    pub started_at_ms: u64,
    /// When it ended, likewise.
    pub ended_at_ms: u64,
    /// How long it took by a clock that nobody sets, in microseconds.
    pub duration_us: u64,
    /// Whether the host ended it because its time was up.
    pub timed_out: bool,
    /// Bytes that went in.
    pub stdin_bytes: u64,
    /// Bytes that came out, before any limit.
    pub stdout_bytes: u64,
    /// Likewise of standard error.
    pub stderr_bytes: u64,
    /// How many times a secret's value was taken out of the output.
    pub redactions: u64,
    /// The error code if the run was lost: what became of it is not known then.
    pub error: Option<String>,
}

/// What the guest said of the run. Nothing of it is proven.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GuestReported {
    /// The exit status.
    pub exit_code: Option<u8>,
    /// The signal that ended it.
    pub signal: Option<u8>,
    /// Whether the guest's kernel ended it for lack of memory.
    pub oom_killed: bool,
    /// Why it never started. See [`Statement::prose`].
    pub not_started: Option<String>,
}

/// What made the statement.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Tool {
    /// `mvmctl`.
    pub name: String,
    /// Its version.
    pub version: String,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Wire<P> {
    #[serde(rename = "_type")]
    statement_type: String,
    predicate: P,
    #[serde(rename = "predicateType")]
    predicate_type: String,
    subject: Vec<Subject>,
}

#[derive(Serialize, Deserialize, PartialEq)]
#[serde(deny_unknown_fields)]
struct Subject {
    digest: SubjectDigest,
    name: String,
}

#[derive(Serialize, Deserialize, PartialEq)]
#[serde(deny_unknown_fields)]
struct SubjectDigest {
    sha256: Digest,
}

impl Statement {
    /// The payload of the envelope: the whole in-toto statement as canonical JSON. A value that is too long or has
    /// characters that it must not have is refused here already, so that nothing is signed that nobody would accept.
    pub fn to_payload(&self) -> Result<Vec<u8>, Refusal> {
        self.check()?;
        let wire = Wire {
            statement_type: STATEMENT_TYPE.to_owned(),
            predicate: self,
            predicate_type: PREDICATE_TYPE.to_owned(),
            subject: vec![self.subject()],
        };
        let payload = canonical::to_vec(&wire).map_err(|why| Refusal::bounds(Part::Statement, why.to_string()))?;
        if payload.len() > MAX_PAYLOAD { Err(Refusal::TooLarge(Part::Statement)) } else { Ok(payload) }
    }

    /// The SHA-256 of the payload: what the audit log has of a run before its receipt is signed.
    pub fn digest(&self) -> Result<Digest, Refusal> {
        Ok(Digest::of(&self.to_payload()?))
    }

    /// Reads a payload, and only from the bytes that [`Statement::to_payload`] makes.
    pub fn from_payload(payload: &[u8]) -> Result<Statement, Refusal> {
        if payload.len() > MAX_PAYLOAD {
            return Err(Refusal::TooLarge(Part::Statement));
        }
        let json = |e: serde_json::Error| Refusal::json(Part::Statement, &e);
        let wire: Wire<Value> = serde_json::from_slice(payload).map_err(json)?;
        if wire.statement_type != STATEMENT_TYPE {
            return Err(Refusal::WrongStatementType);
        }
        if wire.predicate_type != PREDICATE_TYPE {
            return Err(Refusal::WrongPredicateType);
        }
        let statement: Statement = serde_json::from_value(wire.predicate).map_err(json)?;
        if wire.subject != [statement.subject()] {
            return Err(Refusal::WrongSubject);
        }
        // A null that was left out, a doubled key, white space and every other spelling end here.
        if statement.to_payload()? != payload {
            return Err(Refusal::NotCanonical(Part::Statement));
        }
        Ok(statement)
    }

    /// Text of the guest's in a form that [`GuestReported::not_started`] may have: bounded, and without characters that
    /// control a terminal or hide others.
    pub fn prose(text: &str) -> String {
        crate::text::to_prose(text, check::MAX_PROSE)
    }

    fn subject(&self) -> Subject {
        Subject { digest: SubjectDigest { sha256: self.policy.plan_digest }, name: self.run.run_id.clone() }
    }
}
