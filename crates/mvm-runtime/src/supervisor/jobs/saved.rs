//! Our side of a sandbox's commands, as it is saved with the machine: what they wrote, what they are still to read, how
//! they ended.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use mvm_wire::api::{JobRequest, JobResult, Stream};
use mvm_wire::guest::{Request, Signal};
use serde::{Deserialize, Serialize};
use tokio::sync::{Notify, mpsc, watch};

use super::redaction::{Holds, Redaction};
use super::{INPUT_PIECES, Job, Jobs, Parked};
use crate::command::Feed;
use crate::error::{Error, Result};
use crate::evidence::Testimony;
use crate::point;
use crate::secrets::Known;
use crate::supervisor::output::Output;
use crate::vmm::guest::Guest;
use crate::witness::{self, Witness};

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct SavedJob {
    number: u64,
    run_id: String,
    request: JobRequest,
    /// Which secrets it has; the request itself has none any more.
    holds: Holds,
    started_at_ms: u64,
    output: SavedOutput,
    result: Option<JobResult>,
    running: Option<SavedRun>,
    testimony: Testimony,
    witness: witness::Saved,
}

/// A command that goes on.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct SavedRun {
    number: u64,
    ran_ms: u64,
    /// Input that came and was not sent yet, in base64.
    unsent: Vec<String>,
    /// The command knows that its input has ended.
    input_ended: bool,
}

/// What is kept of a command's output.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SavedOutput {
    /// Offset of the first byte that is kept.
    pub first: u64,
    /// Bytes on standard output.
    pub stdout: u64,
    /// Bytes on standard error.
    pub stderr: u64,
    /// What is kept, in base64.
    pub pieces: Vec<(Stream, String)>,
}

impl Jobs {
    /// All of them, at a moment at which nobody stays with any.
    pub fn save(&self) -> Result<Vec<u8>> {
        let all = self.all().iter().map(|(number, job)| job.save(*number)).collect::<Vec<_>>();
        serde_json::to_vec(&all).map_err(|e| Error::internal("cannot save the commands", e))
    }

    /// Takes over what was saved, for the sandbox with this id. What was attached has lost its caller.
    pub fn load(&self, saved: &[u8], sandbox_id: &str) -> Result<()> {
        let saved: Vec<SavedJob> =
            serde_json::from_slice(saved).map_err(|e| point::refused(format!("its commands cannot be read: {e}")))?;
        let loaded: BTreeMap<u64, Arc<Job>> = saved
            .into_iter()
            .map(|saved| Ok((saved.number, Arc::new(load(saved, &self.known, sandbox_id)?))))
            .collect::<Result<_>>()?;
        *self.all() = loaded;
        Ok(())
    }

    /// Kills the commands whose caller is not here, before anything in the machine goes on.
    pub async fn kill_orphans(&self, guest: &Guest) -> Result<()> {
        for job in self.list() {
            let number = job.parked.borrow().as_ref().filter(|_| job.orphaned).map(|side| side.number);
            if let Some(job) = number {
                guest.call(&Request::Signal(Signal { job, number: libc::SIGKILL as u8 })).await?;
            }
        }
        Ok(())
    }
}

impl Job {
    fn save(&self, number: u64) -> SavedJob {
        let mut running = None;
        self.parked.send_if_modified(|parked| {
            running = parked.as_mut().map(|side| {
                let (unsent, input_ended) = side.feed.unsent();
                SavedRun {
                    number: side.number,
                    ran_ms: side.ran.as_millis() as u64,
                    unsent: unsent.iter().map(|piece| STANDARD.encode(piece)).collect(),
                    input_ended,
                }
            });
            false
        });
        SavedJob {
            number,
            run_id: self.run_id.clone(),
            request: self.request.clone(),
            holds: self.holds.clone(),
            started_at_ms: self.started_at_ms,
            output: self.output.save(!self.redaction().is_off()),
            result: self.result.borrow().clone(),
            running,
            testimony: self.testimony.clone(),
            witness: self.witness.save(),
        }
    }
}

fn load(saved: SavedJob, known: &Arc<Known>, sandbox_id: &str) -> Result<Job> {
    let damaged = |e| point::refused(format!("the input of a command cannot be read: {e}"));
    let (control, controlled) = mpsc::channel(super::CONTROLS);
    let mut input = None;
    let mut parked = None;
    if let Some(run) = saved.running {
        let (sender, pieces) = mpsc::channel(INPUT_PIECES);
        input = (saved.request.stdin && !run.input_ended).then_some(sender);
        let unsent = run.unsent.iter().map(|piece| STANDARD.decode(piece)).collect::<std::result::Result<_, _>>();
        let feed = Feed::after(unsent.map_err(damaged)?, run.input_ended, pieces);
        parked = Some(Parked { number: run.number, ran: Duration::from_millis(run.ran_ms), feed, control: controlled });
    }
    Ok(Job {
        run_id: saved.run_id,
        program: known.redacted(saved.request.argv.first().map_or("", String::as_str)),
        key: saved.request.idempotency_key.clone(),
        redaction: Mutex::new(Redaction::of_saved(&saved.holds, known)),
        known: known.clone(),
        holds: saved.holds,
        started_at_ms: saved.started_at_ms,
        attached: saved.request.attached,
        orphaned: saved.request.attached,
        output: Output::load(saved.output, saved.result.is_some())?,
        control,
        input: Mutex::new(input),
        broken_off: Mutex::default(),
        result: watch::Sender::new(saved.result),
        ending: Mutex::default(),
        suspend: Notify::new(),
        parked: watch::Sender::new(parked),
        request: saved.request,
        testimony: Testimony { sandbox_id: sandbox_id.to_owned(), ..saved.testimony },
        witness: Witness::load(saved.witness)?,
    })
}
