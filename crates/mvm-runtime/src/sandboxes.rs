//! All sandboxes of a home, as a process sees them that owns none: making one, finding one, and setting right what
//! crashes left.

use std::fs::{self, File};
use std::io::{BufRead, BufReader, Seek, SeekFrom, Write};
use std::os::fd::AsRawFd;
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use mvm_wire::ErrorCode;
use mvm_wire::api::{
    CreateRequest, DeletionReport, ErrorBody, Inspection, Removed, Sandbox, SecretInfo, SecretKind, SecretValues,
    State, Transition,
};
use rustix::fs::FlockOperation;
use zeroize::Zeroizing;

use crate::capabilities;
use crate::error::{Error, IoContext, Result};
use crate::evidence::{Evidence, Of};
use crate::home::{Home, write_atomically};
use crate::host::Host;
use crate::image::Image;
use crate::lifecycle::{self, Action};
use crate::place::{Place, space};
use crate::point;
use crate::policy::{self, Operation, Policy};
use crate::progress::Progress;
use crate::reconcile::destroy_by_force;
use crate::request::{as_in_snapshot, check_env, complete, decide, invalid, machine, shape};
use crate::run;
use crate::sandbox;
use crate::secrets::Handover;
use crate::setup;
use crate::snapshots::{self, Snapshot};
use crate::store::{Record, Store};
use crate::supervisor::LOCK_FD;

/// The longest path that a Unix socket can have, in bytes.
const MAX_SOCKET_PATH: usize = 107;
/// Enough for a thread that does nothing but wait.
const REAPER_STACK: usize = 64 << 10;
/// The images that the disks of sandboxes and snapshots lie on, whether a name still points to them or not.
pub fn images_in_use(home: &Home) -> Vec<Image> {
    let dirs = [home.sandboxes(), home.snapshots()];
    let entries = dirs.iter().flat_map(|dir| fs::read_dir(dir).into_iter().flatten().flatten());
    entries.filter_map(|entry| Place::at(entry.path()).image().ok()).collect()
}

/// Makes a sandbox and waits until commands can run in it. False if the idempotency key had made it before.
///
/// `read` gets the values of the secrets that the request refers to, once it was admitted. They go to the supervisor and nowhere
/// else.
pub async fn create(
    home: &Home,
    request: CreateRequest,
    read: impl FnOnce(&CreateRequest) -> Result<SecretValues>,
    progress: &dyn Progress,
) -> Result<(Sandbox, bool)> {
    let snapshot = match request.snapshot.as_str() {
        "" if request.disk_only => {
            return Err(invalid("there is no snapshot to take the disk of", "mvmctl restore SNAPSHOT"));
        }
        "" => None,
        name => Some(snapshots::find(home, name)?),
    };
    let request = complete(
        home,
        match &snapshot {
            Some(snapshot) => as_in_snapshot(request, &snapshot.record()?.request)?,
            None => request,
        },
    )?;
    let policy = decide(home, &request)?;
    Evidence::open(home)?.allowed(Operation::Up, &policy.plan, Of::default())?;
    if let (Some(snapshot), false) = (&snapshot, request.disk_only) {
        same_profile(snapshot, &policy)?;
    }
    // Before anything is booted for it.
    let store = Store::open(home)?;
    if let (Ok(holder), true) = (store.find(&request.name), request.idempotency_key.is_empty()) {
        return Err(taken(&request.name, holder.state));
    }
    drop(store);
    let shape = shape(&request);
    run::check_shape(&shape)?;
    let secrets = read(&request)?;
    if let Err(why) = check_env(&request.env, &secrets) {
        return Err(invalid(why, "write it NAME=VALUE, and pass large data as files"));
    }
    let handover = Handover::of(secrets);
    let Some(snapshot) = snapshot else {
        let ready = setup::ready(home, &request.image, progress).await?;
        let prepared = run::with_template(home, ready, &shape, true, progress).await?;
        return found(home, request, policy, &handover, prepared.image(), |_| Ok(()));
    };
    let whole = match (snapshot.point(), request.disk_only) {
        (Ok(point), true) => point.check_disk(&snapshot.dir),
        (Ok(point), false) => point.check(&snapshot.dir),
        // The disk needs no record to be booted on.
        (Err(_), true) => Ok(()),
        (Err(e), false) => Err(e),
    };
    whole.map_err(|e| instead(e, &snapshot))?;
    let disk_only = request.disk_only;
    let image = snapshot.image()?;
    let made =
        found(home, request, policy, &handover, &image, |place| snapshots::give(&snapshot.dir, place, disk_only));
    made.map_err(|e| instead(e, &snapshot))
}

/// Makes a sandbox that goes on from the point in a directory, under the policy and with the secrets of the one that it is a
/// copy of.
pub fn create_from(
    home: &Home,
    point: &Path,
    request: CreateRequest,
    policy: Policy,
    handover: &Handover,
) -> Result<Sandbox> {
    let image = Place::at(point).image()?;
    found(home, complete(home, request)?, policy, handover, &image, |place| snapshots::give(point, place, false))
        .map(|(sandbox, _)| sandbox)
}

/// Memory of another policy's making may hold what this one forbids.
fn same_profile(snapshot: &Snapshot, policy: &Policy) -> Result<()> {
    if snapshot.record()?.profile_digest == policy::digest(&policy.profile) {
        return Ok(());
    }
    let why = format!("its programs were started under another profile than {} is now", policy.profile.name);
    Err(instead(point::refused(why), snapshot))
}

/// Says what can be done with a snapshot that cannot be gone on from.
fn instead(error: Error, snapshot: &Snapshot) -> Error {
    if error.code != ErrorCode::RestoreRefused {
        return error;
    }
    let name = snapshot.name();
    let why = error.why.clone();
    Error { what: format!("cannot restore the snapshot {name}"), why, ..error }
        .hint(format!("mvmctl restore {name} --disk-only boots from its disk alone"))
}

/// Lays a sandbox's directory, takes its name, and starts its supervisor. Its lock first, then its name: whoever finds the
/// directory or the name finds that somebody holds the lock.
fn found(
    home: &Home,
    request: CreateRequest,
    policy: Policy,
    handover: &Handover,
    image: &Image,
    lay: impl FnOnce(&Place) -> Result<()>,
) -> Result<(Sandbox, bool)> {
    let id = sandbox::new_id()?;
    let place = Place::of(home, &id);
    if place.socket().as_os_str().len() > MAX_SOCKET_PATH {
        let why = "the path of its socket would be longer than a socket's can be";
        return Err(Error::new(ErrorCode::InvalidRequest, format!("cannot create the sandbox {}", request.name), why)
            .hint("point MVM_HOME at a directory with a shorter path"));
    }
    let mut store = Store::open(home)?;
    let staging = home.staging("sandbox")?;
    let draft = Place::at(staging.path());
    let lock = File::options().create_new(true).read(true).write(true).mode(0o600).open(draft.lock());
    let lock = lock.context(|| "cannot create the sandbox's lock".into())?;
    rustix::fs::flock(&lock, FlockOperation::NonBlockingLockExclusive).context(|| "cannot lock the sandbox".into())?;
    let record = serde_json::to_vec(image).map_err(|e| Error::internal("cannot record the sandbox's image", e))?;
    write_atomically(&draft.image_record(), &record)?;
    lay(&draft)?;
    staging.commit(place.dir())?;
    match store.create(&id, &request, &image.digest, &policy) {
        Ok((_, true)) => {}
        Ok((record, false)) => {
            place.remove();
            return Ok((describe(home, &record), false));
        }
        Err(e) => {
            place.remove();
            return Err(e);
        }
    }
    let started = authorise(&store, &id, policy).and_then(|()| launch(home, &place, &id, lock, handover));
    if let Err(e) = started {
        // By force: another command may have found it without a supervisor and given it one.
        destroy_by_force(home, &id, &e.to_string())?;
        return Err(e);
    }
    Ok((describe(home, &store.get(&id)?), true))
}

/// Puts on record that a sandbox may be, before anything of it runs.
fn authorise(store: &Store, id: &str, policy: Policy) -> Result<()> {
    let audit_id = store.evidence().authorise(Operation::Up, &policy.plan, Of { sandbox: id, run: "" })?;
    store.authorised(id, &Policy { audit_id: Some(audit_id), ..policy })
}

/// Starts the supervisor, which inherits the lock and is handed secrets on its standard input, and waits until it is ready.
pub fn launch(home: &Home, place: &Place, id: &str, lock: File, handover: &Handover) -> Result<()> {
    let what = || "cannot start the sandbox's supervisor".to_owned();
    let log = File::options().create(true).append(true).mode(0o600).open(place.stderr()).context(what)?;
    let mut command = Command::new(std::env::current_exe().context(what)?);
    command.args(["supervise", id]).env_clear().env("MVM_HOME", home.root()).current_dir("/");
    for name in ["PATH", "MVM_QEMU"] {
        command.envs(std::env::var_os(name).map(|value| (name, value)));
    }
    command.stdin(if handover.is_empty() { Stdio::null() } else { Stdio::piped() }).stdout(Stdio::piped()).stderr(log);
    let lock_fd = lock.as_raw_fd();
    // SAFETY: system calls on integers, nothing is allocated.
    unsafe {
        command.pre_exec(move || {
            // Its own session: no signal of the caller's terminal reaches it.
            rustix::process::setsid()?;
            let done = match lock_fd {
                LOCK_FD => libc::fcntl(LOCK_FD, libc::F_SETFD, 0),
                other => libc::dup2(other, LOCK_FD),
            };
            // Nothing else that the caller may have open stays open with it; until the exec it is still needed.
            let first = LOCK_FD as libc::c_uint + 1;
            let closed = libc::syscall(libc::SYS_close_range, first, libc::c_uint::MAX, libc::CLOSE_RANGE_CLOEXEC);
            if done < 0 || closed < 0 { Err(std::io::Error::last_os_error()) } else { Ok(()) }
        });
    }
    let mut child = command.spawn().context(what)?;
    let _ = lock.set_len(0).and_then(|()| (&lock).seek(SeekFrom::Start(0)));
    let _ = write!(&lock, "{}", child.id());
    drop(lock);
    if let Some(mut stdin) = child.stdin.take() {
        let text = Zeroizing::new(serde_json::to_vec(handover).map_err(|e| Error::internal(what(), e))?);
        // If it does not take them it says why.
        let _ = stdin.write_all(&text);
    }
    let mut line = String::new();
    if let Some(stdout) = child.stdout.take() {
        BufReader::new(stdout).read_line(&mut line).context(what)?;
    }
    match serde_json::from_str::<ErrorBody>(&line) {
        Ok(body) => {
            let _ = child.wait();
            Err(body.error.into())
        }
        Err(_) if line.trim() == "{}" => {
            // A supervisor that has forked its sandbox lives on beside the children: none shall remain as a zombie.
            let reaper = std::thread::Builder::new().name("supervisor".into()).stack_size(REAPER_STACK);
            drop(reaper.spawn(move || child.wait()));
            Ok(())
        }
        Err(_) => {
            let _ = child.wait();
            let said = fs::read_to_string(place.stderr()).unwrap_or_default();
            Err(Error::internal(what(), format!("it ended at once: {}", crate::text::harmless(said.trim()))))
        }
    }
}

fn taken(name: &str, state: State) -> Error {
    let why = format!("there is one of this name, it is {state}");
    Error::new(ErrorCode::AlreadyExists, format!("cannot create the sandbox {name}"), why)
        .hint(format!("use another name, or mvmctl destroy {name}"))
}

/// A sandbox as the API shows it.
pub fn describe(home: &Home, record: &Record) -> Sandbox {
    let request = &record.request;
    Sandbox {
        id: record.id.clone(),
        name: record.name.clone(),
        state: record.state,
        cause: record.cause.clone(),
        since_ms: record.since_ms,
        created_at_ms: record.created_ms,
        owner: request.owner.clone(),
        cleanup: record.cleanup.clone(),
        image: request.image.clone(),
        image_digest: record.image_digest.clone(),
        machine: machine(request),
        legal: lifecycle::legal(record.state).iter().map(Action::to_string).collect(),
        socket: Place::of(home, &record.id).socket().display().to_string(),
        audit_id: record.policy.audit_id,
    }
}

/// The secrets that every command in it has, as it was asked for them. `known` tells of which the value is known.
pub fn secrets(record: &Record, known: impl Fn(&str) -> bool) -> Vec<SecretInfo> {
    let info = |(name, reference): (&String, &String)| SecretInfo {
        name: name.clone(),
        kind: if reference.starts_with("file:") { SecretKind::File } else { SecretKind::Env },
        reference: Some(reference.clone()),
        run_id: None,
        since_ms: record.created_ms,
        known: known(name),
    };
    record.request.secrets.iter().map(info).collect()
}

/// More about it.
pub fn inspection(
    home: &Home,
    record: &Record,
    history: Vec<Transition>,
    isolation: Option<serde_json::Value>,
) -> Inspection {
    let env = record.request.env.keys().cloned().collect();
    let secrets = record.request.secrets.keys().cloned().collect();
    let capabilities = Host::load(home).map(|host| capabilities::of(&host)).unwrap_or_default();
    let (sandbox, plan) = (describe(home, record), record.policy.plan.clone());
    Inspection { sandbox, plan, isolation, capabilities, env, secrets, ports: Vec::new(), history }
}

/// What is about to be deleted, and what that does not mean.
pub fn deletion_report(place: &Place, record: &Record) -> DeletionReport {
    let removed = |what: &str, path: PathBuf, how: &str| Removed {
        what: what.into(),
        bytes: space(&path),
        place: path.display().to_string(),
        how: how.into(),
    };
    let memory = Removed {
        what: "memory of the machine".into(),
        place: "this host's memory".into(),
        how: "the process that held it was killed; the kernel clears pages before it gives them to another".into(),
        bytes: 0,
    };
    let environment = Removed {
        what: "environment of its commands".into(),
        place: "the store of sandboxes".into(),
        how: "overwritten".into(),
        bytes: 0,
    };
    DeletionReport {
        id: record.id.clone(),
        name: record.name.clone(),
        removed: vec![
            memory,
            removed("disk", place.disk(), "unlinked"),
            removed("layers it shared", place.dir().join("layers"), "unlinked; snapshots and forks may have them too"),
            removed("saved memory", place.saved(), "unlinked; its snapshots may have it too"),
            removed("log", place.dir().join("log.ndjson"), "unlinked"),
            environment,
        ],
        limits: vec![
            "Unlinked blocks are not overwritten: until the file system uses them again, whoever reads the raw device \
             may find them, and on flash storage later still."
                .into(),
            "Snapshots and backups that the host made of its file system are not known here.".into(),
            "Memory that the host swapped out is not overwritten.".into(),
            "The name, the times, the causes and the image's digest are kept as a record.".into(),
            "The audit log keeps what was decided and when; private records of its commands keep their arguments, and \
             the salts of their receipts."
                .into(),
        ],
        audit_id: None,
    }
}
