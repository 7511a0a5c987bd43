//! Setting right what crashes left, and ending what does not end by itself. Every command that deals with sandboxes does
//! the first before anything else.

use std::fs::{self, File};
use std::time::Duration;

use mvm_wire::api::{Cleanup, DeletionReport, OnExpiry, State};

use crate::error::{IoContext, Result};
use crate::home::Home;
use crate::lifecycle::Action;
use crate::place::Place;
use crate::sandboxes::{deletion_report, launch};
use crate::secrets::Handover;
use crate::store::{Record, Store};

/// How often a supervisor that is to be killed is looked at, and how long after each look.
const KILL_LOOKS: u32 = 500;
const KILL_LOOK: Duration = Duration::from_millis(10);

/// Sets right what crashes left: the record of a machine that went with its supervisor, supervisors that are missing,
/// directories of sandboxes that are gone. Every command that deals with sandboxes does this first.
pub fn reconcile(home: &Home) -> Result<Store> {
    let mut store = Store::open(home)?;
    for record in store.list(false)? {
        let place = Place::of(home, &record.id);
        let Some(lock) = place.take_lock() else {
            if !place.lock().exists() {
                store.destroyed(&record.id, "its directory is gone", DeletionReport::default())?;
            }
            continue;
        };
        // Another command may have set it right between the two looks.
        let record = store.get(&record.id)?;
        if let Err(e) = revive(home, &mut store, &place, &record, lock) {
            store.apply(&record.id, Action::Fail, &e.to_string()).ok();
        }
    }
    sweep(home, &store)?;
    Ok(store)
}

/// A sandbox whose supervisor is gone gets another one, unless it was never complete or its time is up.
fn revive(home: &Home, store: &mut Store, place: &Place, record: &Record, lock: File) -> Result<()> {
    let expired = record.remaining().is_some_and(|remaining| remaining.is_zero());
    let unborn = record.state == State::Creating && store.history(&record.id)?.is_empty();
    let cause = match (unborn, expired, &record.cleanup) {
        (true, ..) => Some("its creation was interrupted"),
        (_, true, _) if record.on_expiry() == OnExpiry::Destroy => Some("its time to live was over"),
        (.., Cleanup::Lease) => Some("its lease ended with its supervisor"),
        _ => None,
    };
    if let Some(cause) = cause {
        store.destroyed(&record.id, cause, deletion_report(place, record))?;
        place.remove();
        return Ok(());
    }
    if let Some((action, cause)) = lost_with_supervisor(place, record.state) {
        store.apply(&record.id, action, cause)?;
    }
    launch(home, place, &record.id, lock, &Handover::again(&record.request.secrets))
}

/// What became of a machine whose supervisor is gone, from where it was. What was saved of it is there only as long as
/// it has not run since.
fn lost_with_supervisor(place: &Place, state: State) -> Option<(Action, &'static str)> {
    let saved = || place.point().is_ok_and(|point| point.check(place.dir()).is_ok());
    match state {
        State::Running | State::Frozen if saved() => {
            Some((Action::Pause, "it was saved before its supervisor was lost"))
        }
        State::Restoring if saved() => Some((Action::Refuse, "its supervisor was lost before it came back")),
        State::Creating | State::Running | State::Frozen | State::Restoring => {
            Some((Action::Halt, "its supervisor was lost, and its machine with it; its disk is kept"))
        }
        State::Cold | State::Stopped | State::Failed | State::Destroyed => None,
    }
}

/// Removes directories that belong to no living sandbox.
fn sweep(home: &Home, store: &Store) -> Result<()> {
    let entries = fs::read_dir(home.sandboxes()).context(|| "cannot read the directory of sandboxes".into())?;
    for entry in entries.flatten() {
        let id = entry.file_name().to_string_lossy().into_owned();
        let place = Place::of(home, &id);
        let alive = || store.get(&id).is_ok_and(|record| record.state != State::Destroyed);
        // A directory appears with its lock held; one without a lock is half removed.
        let abandoned = !place.lock().exists() || place.take_lock().is_some();
        if abandoned && !alive() {
            place.remove();
        }
    }
    Ok(())
}

/// Ends a sandbox whose supervisor does not do it. Harmless if it is gone already.
///
/// That it is destroyed is recorded first: a supervisor that another command starts at this moment finds it so and ends.
/// Then whoever supervises it is killed, and the machine with that.
pub fn destroy_by_force(home: &Home, id: &str, cause: &str) -> Result<DeletionReport> {
    let place = Place::of(home, id);
    let mut store = Store::open(home)?;
    let report = deletion_report(&place, &store.get(id)?);
    let report = store.destroyed(id, cause, report)?;
    for _ in 0..KILL_LOOKS {
        if !place.lock().exists() || place.take_lock().is_some() {
            break;
        }
        // Looked at each time: it may be another one by now.
        if let Some(pid) = place.holder().filter(|pid| supervises(*pid, id)) {
            let _ = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
        }
        std::thread::sleep(KILL_LOOK);
    }
    place.remove();
    Ok(report)
}

/// Whether a process is the supervisor of this sandbox, and not one that got its number since.
fn supervises(pid: rustix::process::Pid, id: &str) -> bool {
    let arguments = fs::read(format!("/proc/{}/cmdline", pid.as_raw_nonzero())).unwrap_or_default();
    arguments.split(|byte| *byte == 0).skip(1).take(2).eq([b"supervise".as_slice(), id.as_bytes()])
}
