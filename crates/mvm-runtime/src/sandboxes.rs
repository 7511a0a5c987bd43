//! All sandboxes of a home, as a process sees them that owns none: making one, finding one, and setting right what
//! crashes left.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{BufRead, BufReader, Seek, SeekFrom, Write};
use std::os::fd::AsRawFd;
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use mvm_wire::ErrorCode;
use mvm_wire::api::{
    CreateRequest, DeletionReport, ErrorBody, Inspection, Machine, Removed, Sandbox, State, Transition,
};
use rustix::fs::FlockOperation;

use crate::capabilities;
use crate::error::{Error, IoContext, Result};
use crate::home::{Home, write_atomically};
use crate::host::Host;
use crate::image::Image;
use crate::lifecycle::{self, Action};
use crate::place::{Place, space};
use crate::progress::Progress;
use crate::reconcile::destroy_by_force;
use crate::run;
use crate::sandbox;
use crate::setup;
use crate::snapshots::{self, Snapshot};
use crate::store::{Record, Store};
use crate::supervisor::{self, LOCK_FD};
use crate::vmm::qemu::Shape;

/// The time to live of a sandbox for which nothing was said.
pub const DEFAULT_TTL: Duration = Duration::from_secs(3600);
/// The longest name.
const MAX_NAME: usize = 63;
/// The longest path that a Unix socket can have, in bytes.
const MAX_SOCKET_PATH: usize = 107;
/// Enough for a thread that does nothing but wait.
const REAPER_STACK: usize = 64 << 10;
/// The longest owner or idempotency key, in bytes.
pub const MAX_KEY: usize = 256;
/// The largest environment, in bytes, of a request.
const MAX_ENV: usize = 128 << 10;

/// The images that the disks of sandboxes and snapshots lie on, whether a name still points to them or not.
pub fn images_in_use(home: &Home) -> Vec<Image> {
    let dirs = [home.sandboxes(), home.snapshots()];
    let entries = dirs.iter().flat_map(|dir| fs::read_dir(dir).into_iter().flatten().flatten());
    entries.filter_map(|entry| Place::at(entry.path()).image().ok()).collect()
}

/// Makes a sandbox and waits until commands can run in it. False if the idempotency key had made it before.
pub async fn create(home: &Home, request: CreateRequest, progress: &dyn Progress) -> Result<(Sandbox, bool)> {
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
    // Before anything is booted for it.
    let store = Store::open(home)?;
    if let (Ok(holder), true) = (store.find(&request.name), request.idempotency_key.is_empty()) {
        return Err(taken(&request.name, holder.state));
    }
    drop(store);
    let shape = shape(&request);
    run::check_shape(&shape)?;
    let Some(snapshot) = snapshot else {
        let ready = setup::ready(home, &request.image, progress).await?;
        let prepared = run::with_template(home, ready, &shape, true, progress).await?;
        return found(home, request, prepared.image(), |_| Ok(()));
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
    let made = found(home, request, &snapshot.image()?, |place| snapshots::give(&snapshot.dir, place, disk_only));
    made.map_err(|e| instead(e, &snapshot))
}

/// Makes a sandbox that goes on from the point in a directory.
pub fn create_from(home: &Home, point: &Path, request: CreateRequest) -> Result<Sandbox> {
    let image = Place::at(point).image()?;
    found(home, complete(home, request)?, &image, |place| snapshots::give(point, place, false))
        .map(|(sandbox, _)| sandbox)
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

/// A request for what was saved: image and shape are not for the caller to choose, the environment is added to.
fn as_in_snapshot(request: CreateRequest, saved: &CreateRequest) -> Result<CreateRequest> {
    let same = |given: u64, saved: u64| given == 0 || given == saved;
    let CreateRequest { cpus, memory_mib, disk_bytes, .. } = request;
    if !(request.image.is_empty() || request.image == saved.image)
        || !same(cpus.into(), saved.cpus.into())
        || !same(memory_mib.into(), saved.memory_mib.into())
        || !same(disk_bytes, saved.disk_bytes)
    {
        return Err(invalid("image and shape are the snapshot's", "leave out image, cpus, memory and disk"));
    }
    let mut env = saved.env.clone();
    env.extend(request.env);
    Ok(CreateRequest {
        image: saved.image.clone(),
        cpus: saved.cpus,
        memory_mib: saved.memory_mib,
        disk_bytes: saved.disk_bytes,
        env,
        ..request
    })
}

/// Lays a sandbox's directory, takes its name, and starts its supervisor. Its lock first, then its name: whoever finds the
/// directory or the name finds that somebody holds the lock.
fn found(
    home: &Home,
    request: CreateRequest,
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
    match store.create(&id, &request, &image.digest) {
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
    if let Err(e) = launch(home, &place, &id, lock) {
        // By force: another command may have found it without a supervisor and given it one.
        destroy_by_force(home, &id, &e.to_string())?;
        return Err(e);
    }
    Ok((describe(home, &store.get(&id)?), true))
}

/// Starts the supervisor, which inherits the lock, and waits until it is ready.
pub fn launch(home: &Home, place: &Place, id: &str, lock: File) -> Result<()> {
    let what = || "cannot start the sandbox's supervisor".to_owned();
    let log = File::options().create(true).append(true).mode(0o600).open(place.stderr()).context(what)?;
    let mut command = Command::new(std::env::current_exe().context(what)?);
    command.args(["supervise", id]).env_clear().env("MVM_HOME", home.root()).current_dir("/");
    for name in ["PATH", "MVM_QEMU"] {
        command.envs(std::env::var_os(name).map(|value| (name, value)));
    }
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(log);
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

/// Refuses what can be no name of a sandbox or a snapshot. `ids` is how ids begin, which no name does.
pub fn check_name(name: &str, wanted: &str, ids: &str) -> Result<()> {
    let refuse = |why: String| {
        let error = Error::new(ErrorCode::InvalidRequest, format!("cannot {wanted}"), why);
        Err(error.hint("choose a name such as my-box"))
    };
    let plain = |b: &u8| b.is_ascii_lowercase() || b.is_ascii_digit() || *b == b'-';
    let bytes = name.as_bytes();
    let edges = bytes.starts_with(b"-") || bytes.ends_with(b"-");
    if bytes.is_empty() || bytes.len() > MAX_NAME || !bytes.iter().all(plain) || edges {
        let rule = "a name has 1 to 63 characters: lower-case letters, digits and, between them, hyphens";
        return refuse(rule.to_owned());
    }
    if name.starts_with(ids) {
        return refuse(format!("names that begin with {ids} are ids"));
    }
    Ok(())
}

/// Refuses what can be no environment, and says why.
pub fn check_env(env: &BTreeMap<String, String>) -> std::result::Result<(), &'static str> {
    if env.iter().map(|(name, value)| name.len() + value.len()).sum::<usize>() > MAX_ENV {
        return Err("its environment is larger than 128 KiB");
    }
    if env.iter().any(|(name, value)| name.is_empty() || name.contains(['=', '\0']) || value.contains('\0')) {
        return Err("a variable's name is empty or has a = in it, or a NUL is in it");
    }
    Ok(())
}

fn invalid(why: &str, hint: &str) -> Error {
    Error::new(ErrorCode::InvalidRequest, "cannot create the sandbox", why).hint(hint)
}

/// Fills in what a request leaves open, and refuses what no sandbox can be.
fn complete(home: &Home, mut request: CreateRequest) -> Result<CreateRequest> {
    let invalid = |why: &str, hint: &str| Err(invalid(why, hint));
    if request.name.is_empty() {
        request.name = format!("box-{}", &sandbox::new_id()?[4..]);
    }
    check_name(&request.name, "create the sandbox", "mvm-")?;
    if request.lease as u8 + request.no_ttl as u8 + request.ttl_ms.is_some() as u8 > 1 {
        return invalid("a lease, no time to live and a time to live exclude each other", "give one of them");
    }
    if request.no_ttl && request.owner.is_empty() {
        return invalid(
            "without a time to live somebody must answer for it",
            "name who with --owner NAME, or give a --ttl",
        );
    }
    if request.owner.len() > MAX_KEY || request.idempotency_key.len() > MAX_KEY {
        return invalid("an owner or an idempotency key has at most 256 bytes", "use a shorter one");
    }
    if let Err(why) = check_env(&request.env) {
        return invalid(why, "write it NAME=VALUE, and pass large data as files");
    }
    supervisor::check_ports(home, &request.ports)?;
    if !request.lease && !request.no_ttl && request.ttl_ms.is_none() {
        request.ttl_ms = Some(DEFAULT_TTL.as_millis() as u64);
    }
    if request.ttl_ms == Some(0) || request.ttl_ms.is_some_and(|ttl| ttl > 366 * 86_400_000) {
        return invalid("a time to live is above zero and at most a year", "give a --ttl such as 30m");
    }
    let or = |value: u32, default: u32| if value == 0 { default } else { value };
    request.cpus = or(request.cpus, 1);
    request.memory_mib = or(request.memory_mib, 256);
    request.disk_bytes = if request.disk_bytes == 0 { 4 << 30 } else { request.disk_bytes };
    if request.image.is_empty() {
        request.image = "debian".into();
    }
    Ok(request)
}

fn taken(name: &str, state: State) -> Error {
    let why = format!("there is one of this name, it is {state}");
    Error::new(ErrorCode::AlreadyExists, format!("cannot create the sandbox {name}"), why)
        .hint(format!("use another name, or mvmctl destroy {name}"))
}

/// The shape of a completed request.
pub fn shape(request: &CreateRequest) -> Shape {
    Shape { memory_mib: request.memory_mib, cpus: request.cpus, disk_bytes: request.disk_bytes }
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
        machine: Machine { cpus: request.cpus, memory_mib: request.memory_mib, disk_bytes: request.disk_bytes },
        legal: lifecycle::legal(record.state).iter().map(Action::to_string).collect(),
        socket: Place::of(home, &record.id).socket().display().to_string(),
    }
}

/// More about it.
pub fn inspection(
    home: &Home,
    record: &Record,
    history: Vec<Transition>,
    isolation: Option<serde_json::Value>,
) -> Inspection {
    let env = record.request.env.keys().cloned().collect();
    let capabilities = Host::load(home).map(|host| capabilities::of(&host)).unwrap_or_default();
    Inspection { sandbox: describe(home, record), isolation, capabilities, env, ports: Vec::new(), history }
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
        ],
    }
}
