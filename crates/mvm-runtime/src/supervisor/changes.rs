//! Each change of state: what is done to the machine, in which order, and when it is recorded.
//!
//! One change at a time: each holds the machine's lock from its first look at the state to its end.

use std::sync::Arc;
use std::time::Duration;

use mvm_wire::ErrorCode;
use mvm_wire::api::{DeletionReport, JobRequest, OnExpiry, Sandbox, State};
use tokio::sync::OwnedRwLockWriteGuard;

use super::Supervisor;
use super::machine::Running;
use crate::error::{Error, Result};
use crate::lifecycle::{self, Action, Verdict};
use crate::point;
use crate::policy::{Ask, Operation};
use crate::sandboxes;
use crate::store::{Outcome, Record};

/// How long a change that ends the session with the guest waits for files that are on their way.
const TRANSFER_PATIENCE: Duration = Duration::from_secs(10);

impl Supervisor {
    /// Brings the machine up: from what was saved of it, or else, the first time, from a template, and later from its disk.
    pub async fn start_machine(self: &Arc<Self>, record: &Record, first: bool) -> Result<()> {
        let mut slot = self.machine.lock().await;
        let started = match self.place.saved().exists() {
            true => Running::restore(&self.home, &self.place, record, &self.jobs).await,
            false => Running::start(&self.home, &self.place, record, first).await,
        };
        match started {
            Ok(running) => self.came_up(&mut slot, running, "its agent answered"),
            Err(e) => {
                self.jobs.lose_all("its machine could not be started");
                self.apply(Action::Fail, &e.to_string())?;
                Err(self.redacted(e))
            }
        }
    }

    /// Takes a machine in that has just come up: its console is logged, and somebody notices when it ends.
    fn came_up(self: &Arc<Self>, slot: &mut Option<Running>, running: Running, cause: &str) -> Result<()> {
        running.log_console(self.log.clone(), self.known.clone());
        let running = slot.insert(running);
        self.apply(Action::Ready, cause)?;
        self.watch_guest(running);
        tokio::spawn(self.clone().watch_held_machine(running.ended()?));
        Ok(())
    }

    /// Has somebody notice when the session ends that has just begun.
    fn watch_guest(self: &Arc<Self>, running: &Running) {
        if let Some(guest) = running.guest() {
            tokio::spawn(self.clone().watch_session(guest.clone()));
        }
    }

    /// Records the end of a machine that nobody asked for.
    async fn watch_session(self: Arc<Self>, guest: crate::vmm::guest::Guest) {
        guest.closed().await;
        let mut slot = self.machine.lock().await;
        // Whoever ended it on purpose has taken it out.
        if slot.as_ref().is_some_and(|running| running.has_session(&guest)) {
            self.record_end(&mut slot).await;
        }
    }

    /// The same of a machine that has no session because it is held.
    async fn watch_held_machine(self: Arc<Self>, ended: impl Future<Output = ()>) {
        ended.await;
        let mut slot = self.machine.lock().await;
        if slot.as_mut().is_some_and(|running| running.guest().is_none() && running.has_ended()) {
            self.record_end(&mut slot).await;
        }
    }

    /// Ends a machine whose agent does not end what it is told to kill: a time limit holds whatever the guest does.
    pub async fn hold_to_limits(self: Arc<Self>) {
        loop {
            self.jobs.disobeyed().await;
            let mut slot = self.machine.lock().await;
            if slot.take().is_some() {
                const CAUSE: &str = "its agent did not end a command whose time was up";
                self.jobs.lose_all(CAUSE);
                let _ = self.apply(Action::Fail, CAUSE);
            }
        }
    }

    async fn record_end(&self, slot: &mut Option<Running>) {
        let Some(mut running) = slot.take() else { return };
        let end = running.end().await;
        self.jobs.lose_all(&end.cause);
        let action = if end.in_order { Action::Halt } else { Action::Fail };
        let _ = self.apply(action, &end.cause);
    }

    /// Boots the machine again on the disk that was kept.
    pub async fn start_again(self: &Arc<Self>) -> Result<Sandbox> {
        if self.apply(Action::Start, "start was asked for")? == Outcome::Moved {
            // What was saved before the stop belongs to another moment of the disk.
            self.place.consume_saved()?;
            let record = self.record()?;
            self.start_machine(&record, false).await?;
            if !record.request.entrypoint.is_empty() {
                let request = JobRequest { argv: record.request.entrypoint, ..JobRequest::default() };
                self.start_job(request).await?;
            }
        }
        self.sandbox()
    }

    /// Ends the machine and keeps the disk.
    pub async fn stop(&self, cause: &str) -> Result<Sandbox> {
        let mut slot = self.machine.lock().await;
        if !self.moves(Action::Stop)? {
            return self.sandbox();
        }
        let how = match slot.take() {
            Some(running) => running.halt().await,
            None => "; its saved memory was given up",
        };
        self.jobs.lose_all("the sandbox was stopped");
        self.apply(Action::Stop, &format!("{cause}{how}"))?;
        self.place.consume_saved()?;
        self.sandbox()
    }

    /// Stops its processors and keeps its memory where it is.
    pub async fn freeze(self: &Arc<Self>, cause: &str) -> Result<Sandbox> {
        let _transfers = self.no_transfers("freeze").await?;
        let mut slot = self.machine.lock().await;
        if !self.moves(Action::Freeze)? {
            return self.sandbox();
        }
        self.hold(&mut slot).await?;
        if let Err(e) = self.apply(Action::Freeze, cause) {
            self.go_on(&mut slot).await?;
            return Err(e);
        }
        self.sandbox()
    }

    /// Saves it, and ends everything of it that runs.
    pub async fn pause(self: &Arc<Self>, cause: &str) -> Result<Sandbox> {
        self.admit(Operation::Snapshot, &Ask::default())?;
        let _transfers = self.no_transfers("pause").await?;
        let mut slot = self.machine.lock().await;
        if !self.moves(Action::Pause)? {
            return self.sandbox();
        }
        let was_running = self.record()?.state == State::Running;
        self.hold(&mut slot).await?;
        let saved = self.save_cold(&mut slot).await.and_then(|()| self.apply(Action::Pause, cause));
        if let Err(e) = saved {
            // Nothing may come back from what was saved once the machine goes on.
            match self.place.consume_saved() {
                Ok(()) if was_running => self.go_on(&mut slot).await?,
                Ok(()) => {}
                Err(_) => self.record_end(&mut slot).await,
            }
            return Err(e);
        }
        drop(slot.take());
        self.sandbox()
    }

    async fn save_cold(&self, slot: &mut Option<Running>) -> Result<()> {
        let Some(running) = slot else { return Err(self.not_running("pause")) };
        let staging = self.home.staging("saved")?;
        running.save(&self.jobs, staging.path()).await?;
        let mut disk = self.place.layers();
        disk.push(self.place.disk());
        let (needs, disks) = (running.needs().clone(), (self.place.dir(), disk.as_slice()));
        point::seal(staging.path(), &self.id, running.identity(), needs, disks, false)?;
        self.place.consume_saved()?;
        staging.commit(&self.place.saved())
    }

    /// Has it go on where it was frozen or paused.
    pub async fn resume(self: &Arc<Self>, cause: &str) -> Result<Sandbox> {
        let mut slot = self.machine.lock().await;
        if !self.moves(Action::Resume)? {
            return self.sandbox();
        }
        let record = self.record()?;
        if record.state == State::Frozen {
            self.go_on(&mut slot).await?;
            self.apply(Action::Resume, cause)?;
            return self.sandbox();
        }
        self.apply(Action::Resume, cause)?;
        match Running::restore(&self.home, &self.place, &record, &self.jobs).await {
            Ok(running) => {
                self.came_up(&mut slot, running, "it came back from its saved memory")?;
                self.sandbox()
            }
            Err(e) if self.place.saved().exists() => {
                self.apply(Action::Refuse, &e.to_string())?;
                let name = &record.name;
                Err(self
                    .redacted(e)
                    .hint(format!("mvmctl stop {name} && mvmctl start {name} boots it from its disk alone")))
            }
            Err(e) => {
                self.jobs.lose_all("its machine did not come back");
                self.apply(Action::Fail, &e.to_string())?;
                Err(self.redacted(e))
            }
        }
    }

    /// Holds the machine, if it runs.
    pub(super) async fn hold(self: &Arc<Self>, slot: &mut Option<Running>) -> Result<()> {
        let Some(running) = slot else { return Err(self.not_running("hold")) };
        match running.hold(&self.jobs).await {
            Ok(()) => Ok(()),
            Err(e) if running.guest().is_some() => Err(self.redacted(e)),
            Err(e) => {
                self.record_end(slot).await;
                Err(self.redacted(e))
            }
        }
    }

    /// Lets a held machine go on. One that does not has failed.
    pub(super) async fn go_on(self: &Arc<Self>, slot: &mut Option<Running>) -> Result<()> {
        let Some(running) = slot else { return Err(self.not_running("go on with")) };
        match running.go_on(&self.jobs).await {
            Ok(()) => {
                self.watch_guest(running);
                Ok(())
            }
            Err(e) => {
                self.record_end(slot).await;
                Err(self.redacted(e))
            }
        }
    }

    /// Whether an action changes the state; an error if it is not legal.
    pub(super) fn moves(&self, action: Action) -> Result<bool> {
        let record = self.record()?;
        match lifecycle::judge(record.state, action) {
            Verdict::Move(_) => Ok(true),
            Verdict::Already => Ok(false),
            Verdict::Refused => Err(lifecycle::refusal(&record.name, record.state, &action.to_string())),
        }
    }

    /// Waits until no files are on their way, and keeps others from setting out.
    pub(super) async fn no_transfers(&self, wanted: &str) -> Result<OwnedRwLockWriteGuard<()>> {
        let waited = tokio::time::timeout(TRANSFER_PATIENCE, self.transfers.clone().write_owned()).await;
        waited.map_err(|_| {
            let name = self.record().map_or_else(|_| self.id.clone(), |record| record.name);
            let why = "files are still on their way to or from it";
            Error::new(ErrorCode::InvalidState, format!("cannot {wanted} the sandbox {name}"), why)
                .hint("wait for the transfers to end, and try again")
        })
    }

    /// Ends it for good. The record of it is durable before anything is removed, so that a crash leaves only rubbish.
    pub async fn destroy(&self, cause: &str) -> Result<DeletionReport> {
        let mut slot = self.machine.lock().await;
        drop(slot.take());
        self.ports.close();
        self.jobs.lose_all("the sandbox was destroyed");
        let record = self.record()?;
        if record.state == State::Destroyed {
            self.over.notify_one();
            return Ok(record.report.unwrap_or_default());
        }
        let report = sandboxes::deletion_report(&self.place, &record);
        let report = self.store().destroyed(&self.id, cause, report)?;
        self.announce(cause)?;
        self.place.remove();
        self.over.notify_one();
        Ok(report)
    }

    /// What was asked for when the time is up; if that cannot be done, the next that ends the machine.
    pub(super) async fn expire(self: &Arc<Self>, record: &Record) {
        const CAUSE: &str = "its time to live was over";
        let done = match record.on_expiry() {
            OnExpiry::Destroy => self.destroy(CAUSE).await.is_ok(),
            OnExpiry::Stop => self.stop(CAUSE).await.is_ok(),
            OnExpiry::Cold => self.pause(CAUSE).await.is_ok() || self.stop(CAUSE).await.is_ok(),
        };
        if !done && !matches!(self.record().map(|record| record.state), Ok(State::Stopped | State::Failed)) {
            let _ = self.destroy(CAUSE).await;
        }
    }
}
