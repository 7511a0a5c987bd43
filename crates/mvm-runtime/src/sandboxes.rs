//! All sandboxes of a home, as a process sees them that owns none: making one, finding one, and setting right what
//! crashes left.

use std::fs::{self, File};
use std::io::{BufRead, BufReader, Seek, SeekFrom, Write};
use std::os::fd::AsRawFd;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use mvm_wire::ErrorCode;
use mvm_wire::api::{
    CreateRequest, DeletionReport, ErrorBody, Inspection, Machine, Removed, Sandbox, State, Transition,
};
use rustix::fs::FlockOperation;

use crate::error::{Error, IoContext, Result};
use crate::home::{Home, read_json, write_atomically};
use crate::image::Image;
use crate::lifecycle::{self, Action};
use crate::progress::Progress;
use crate::run;
use crate::sandbox;
use crate::setup;
use crate::store::{Record, Store};
use crate::supervisor::LOCK_FD;
use crate::vmm::qemu::Shape;

/// The time to live of a sandbox for which nothing was said.
pub const DEFAULT_TTL: Duration = Duration::from_secs(3600);
/// The longest name.
const MAX_NAME: usize = 63;
/// The longest path that a Unix socket can have, in bytes.
const MAX_SOCKET_PATH: usize = 107;
/// The largest environment, in bytes, of a request.
const MAX_ENV: usize = 128 << 10;

/// The directory of one sandbox.
#[derive(Debug, Clone)]
pub struct Place {
    dir: PathBuf,
}

impl Place {
    /// Where the sandbox with this id is.
    pub fn of(home: &Home, id: &str) -> Place {
        Place { dir: home.sandboxes().join(id) }
    }

    /// The directory itself.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// The socket of its API.
    pub fn socket(&self) -> PathBuf {
        self.dir.join("api.sock")
    }

    /// Its disk, an overlay on the image's.
    pub fn disk(&self) -> PathBuf {
        self.dir.join("disk.qcow2")
    }

    fn lock(&self) -> PathBuf {
        self.dir.join("lock")
    }

    fn image_record(&self) -> PathBuf {
        self.dir.join("image.json")
    }

    /// What the supervisor says, should it ever break.
    fn log(&self) -> PathBuf {
        self.dir.join("supervisor.log")
    }

    /// The image that its disk lies on.
    pub fn image(&self) -> Result<Image> {
        read_json(&self.image_record())
            .ok_or_else(|| Error::internal("cannot read which image the sandbox has", "its record is damaged"))
    }

    /// Makes its disk, with the content of its template's.
    pub fn create_disk(&self, template: &mut File) -> Result<()> {
        let what = || format!("cannot create the disk {}", self.disk().display());
        let mut disk = File::options().create_new(true).write(true).mode(0o600).open(self.disk()).context(what)?;
        std::io::copy(template, &mut disk).and_then(|_| disk.sync_all()).context(what)
    }

    /// Opens its disk for writing.
    pub fn open_disk(&self) -> Result<File> {
        let open = File::options().read(true).write(true).open(self.disk());
        open.context(|| format!("cannot open the disk {}", self.disk().display()))
    }

    /// Disk space that its disk takes, in bytes.
    pub fn disk_usage(&self) -> u64 {
        fs::metadata(self.disk()).map_or(0, |meta| meta.blocks() * 512)
    }

    /// Removes all of it.
    pub fn remove(&self) {
        let _ = fs::remove_dir_all(&self.dir);
    }

    /// Takes its lock if no supervisor holds it.
    fn take_lock(&self) -> Option<File> {
        let lock = File::options().read(true).write(true).open(self.lock()).ok()?;
        rustix::fs::flock(&lock, FlockOperation::NonBlockingLockExclusive).ok()?;
        // The file may have been removed, and another be there now.
        let same = |a: &fs::Metadata, b: &fs::Metadata| a.ino() == b.ino() && a.dev() == b.dev();
        let current = fs::metadata(self.lock()).ok()?;
        lock.metadata().ok().filter(|held| same(held, &current))?;
        Some(lock)
    }

    /// The process that holds the lock, as it wrote it there itself.
    fn holder(&self) -> Option<rustix::process::Pid> {
        rustix::process::Pid::from_raw(fs::read_to_string(self.lock()).ok()?.trim().parse().ok()?)
    }
}

/// The images that the disks of sandboxes lie on, whether a name still points to them or not.
pub fn images_in_use(home: &Home) -> Vec<Image> {
    let entries = fs::read_dir(home.sandboxes()).into_iter().flatten().flatten();
    entries.filter_map(|entry| Place { dir: entry.path() }.image().ok()).collect()
}

/// Makes a sandbox and waits until commands can run in it. False if the idempotency key had made it before.
pub async fn create(home: &Home, request: CreateRequest, progress: &dyn Progress) -> Result<(Sandbox, bool)> {
    let request = complete(request)?;
    let id = sandbox::new_id()?;
    let place = Place::of(home, &id);
    if place.socket().as_os_str().len() > MAX_SOCKET_PATH {
        return Err(Error::new(
            ErrorCode::InvalidRequest,
            format!("cannot create the sandbox {}", request.name),
            "the path of its socket would be longer than a socket's can be",
        )
        .hint("point MVM_HOME at a directory with a shorter path"));
    }
    let mut store = Store::open(home)?;
    // Before anything is booted for it.
    if let (Ok(holder), true) = (store.find(&request.name), request.idempotency_key.is_empty()) {
        return Err(taken(&request.name, holder.state));
    }
    let shape = shape(&request);
    run::check_shape(&shape)?;
    let ready = setup::ready(home, &request.image, progress).await?;
    let prepared = run::with_template(home, ready, &shape, true, progress).await?;
    let image = prepared.image();
    let made = found(home, &place, &id, &request, image, &mut store);
    let lock = match made {
        Ok(Founded::New(lock)) => lock,
        Ok(Founded::Before(record)) => {
            place.remove();
            return Ok((describe(home, &record), false));
        }
        Err(e) => {
            place.remove();
            return Err(e);
        }
    };
    if let Err(e) = launch(home, &place, &id, lock) {
        let report = deletion_report(&place, &store.get(&id)?);
        store.destroyed(&id, &e.to_string(), &report)?;
        place.remove();
        return Err(e);
    }
    Ok((describe(home, &store.get(&id)?), true))
}

enum Founded {
    New(File),
    Before(Box<Record>),
}

/// Its lock first, then its name: whoever finds the directory or the name finds that somebody holds the lock.
fn found(
    home: &Home,
    place: &Place,
    id: &str,
    request: &CreateRequest,
    image: &Image,
    store: &mut Store,
) -> Result<Founded> {
    let staging = home.staging("sandbox")?;
    let draft = Place { dir: staging.path().to_owned() };
    let lock = File::options().create_new(true).read(true).write(true).mode(0o600).open(draft.lock());
    let lock = lock.context(|| "cannot create the sandbox's lock".into())?;
    rustix::fs::flock(&lock, FlockOperation::NonBlockingLockExclusive).context(|| "cannot lock the sandbox".into())?;
    let record = serde_json::to_vec(image).map_err(|e| Error::internal("cannot record the sandbox's image", e))?;
    write_atomically(&draft.image_record(), &record)?;
    staging.commit(&place.dir)?;
    match store.create(id, request, &image.digest)? {
        (_, true) => Ok(Founded::New(lock)),
        (record, false) => Ok(Founded::Before(Box::new(record))),
    }
}

/// Starts the supervisor, which inherits the lock, and waits until it is ready.
fn launch(home: &Home, place: &Place, id: &str, lock: File) -> Result<()> {
    let what = || "cannot start the sandbox's supervisor".to_owned();
    let log = File::options().create(true).append(true).mode(0o600).open(place.log()).context(what)?;
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
    let _ = (&lock).seek(SeekFrom::Start(0)).and_then(|_| write!(&lock, "{}", child.id()));
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
        Err(_) if line.trim() == "{}" => Ok(()),
        Err(_) => {
            let _ = child.wait();
            let said = fs::read_to_string(place.log()).unwrap_or_default();
            Err(Error::internal(what(), format!("it ended at once: {}", crate::text::harmless(said.trim()))))
        }
    }
}

/// Fills in what a request leaves open, and refuses what no sandbox can be.
fn complete(mut request: CreateRequest) -> Result<CreateRequest> {
    let invalid =
        |why: &str, hint: &str| Err(Error::new(ErrorCode::InvalidRequest, "cannot create the sandbox", why).hint(hint));
    if request.name.is_empty() {
        request.name = format!("box-{}", &sandbox::new_id()?[4..]);
    }
    let plain = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
    let name = request.name.as_bytes();
    if name.len() > MAX_NAME || !name.iter().all(|b| plain(*b)) || name.starts_with(b"-") || name.ends_with(b"-") {
        return invalid(
            "a name has 1 to 63 characters: lower-case letters, digits and, between them, hyphens",
            "mvmctl up --name my-box",
        );
    }
    if name.starts_with(b"mvm-") {
        return invalid("names that begin with mvm- are ids", "mvmctl up --name my-box");
    }
    if request.lease as u8 + request.no_ttl as u8 + request.ttl_ms.is_some() as u8 > 1 {
        return invalid("a lease, no time to live and a time to live exclude each other", "give one of them");
    }
    if request.no_ttl && request.owner.is_empty() {
        return invalid(
            "without a time to live somebody must answer for it",
            "name who with --owner NAME, or give a --ttl",
        );
    }
    if request.owner.len() > 256 || request.idempotency_key.len() > 256 {
        return invalid("an owner or an idempotency key has at most 256 bytes", "use a shorter one");
    }
    if request.env.iter().map(|(name, value)| name.len() + value.len()).sum::<usize>() > MAX_ENV {
        return invalid("its environment is larger than 128 KiB", "pass large data as files");
    }
    if request.env.iter().any(|(name, value)| name.is_empty() || name.contains(['=', '\0']) || value.contains('\0')) {
        return invalid("a variable's name is empty or has a = in it, or a NUL is in it", "write it NAME=VALUE");
    }
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
    Inspection { sandbox: describe(home, record), isolation, env, history }
}

/// What is about to be deleted, and what that does not mean.
pub fn deletion_report(place: &Place, record: &Record) -> DeletionReport {
    let bytes = |path: &Path| fs::metadata(path).map_or(0, |meta| meta.blocks() * 512);
    let removed = |what: &str, path: PathBuf, how: &str| Removed {
        what: what.into(),
        bytes: bytes(&path),
        place: path.display().to_string(),
        how: how.into(),
    };
    let memory = Removed {
        what: "memory of the machine".into(),
        place: "this host's memory".into(),
        how: "the process that held it was killed; the kernel clears pages before it gives them to another".into(),
        bytes: 0,
    };
    DeletionReport {
        id: record.id.clone(),
        name: record.name.clone(),
        removed: vec![
            memory,
            removed("disk", place.disk(), "unlinked"),
            removed("log", place.dir.join("log.ndjson"), "unlinked"),
            removed("environment of its commands", place.dir.join("../sandboxes.db"), "cleared in the store"),
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

/// Sets right what crashes left: the record of a machine that went with its supervisor, supervisors that are missing,
/// directories of sandboxes that are gone. Every command that deals with sandboxes does this first.
pub fn reconcile(home: &Home) -> Result<Store> {
    let mut store = Store::open(home)?;
    for record in store.list(false)? {
        let place = Place::of(home, &record.id);
        let Some(lock) = place.take_lock() else {
            if !place.lock().exists() {
                store.destroyed(&record.id, "its directory is gone", &DeletionReport::default())?;
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
        (_, true, _) if record.on_expiry() == mvm_wire::api::OnExpiry::Destroy => Some("its time to live was over"),
        (.., mvm_wire::api::Cleanup::Lease) => Some("its lease ended with its supervisor"),
        _ => None,
    };
    if let Some(cause) = cause {
        store.destroyed(&record.id, cause, &deletion_report(place, record))?;
        place.remove();
        return Ok(());
    }
    if matches!(record.state, State::Creating | State::Running) {
        store.apply(&record.id, Action::Halt, "its supervisor was lost, and its machine with it; its disk is kept")?;
    }
    launch(home, place, &record.id, lock)
}

/// Removes directories that belong to no living sandbox.
fn sweep(home: &Home, store: &Store) -> Result<()> {
    let entries = fs::read_dir(home.sandboxes()).context(|| "cannot read the directory of sandboxes".into())?;
    for entry in entries.flatten() {
        let id = entry.file_name().to_string_lossy().into_owned();
        let place = Place::of(home, &id);
        let alive = || store.get(&id).is_ok_and(|record| record.state != State::Destroyed);
        // Younger than its record can be: its creator has not got there yet.
        let old = entry.metadata().and_then(|meta| meta.modified()).ok().and_then(|time| time.elapsed().ok());
        let abandoned = place.take_lock().is_some() || old.is_some_and(|age| age > Duration::from_secs(60));
        if abandoned && !alive() {
            place.remove();
        }
    }
    Ok(())
}

/// Ends a sandbox whose supervisor does not do it: kills that, and with it the machine. Harmless if it is gone already.
pub fn destroy_by_force(home: &Home, id: &str, cause: &str) -> Result<DeletionReport> {
    let place = Place::of(home, id);
    let mut store = Store::open(home)?;
    let mut lock = place.take_lock();
    if lock.is_none() {
        if let Some(pid) = place.holder() {
            let _ = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
        }
        for _ in 0..100 {
            lock = place.take_lock();
            if lock.is_some() || !place.lock().exists() {
                break;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
    }
    let record = store.get(id)?;
    if record.state == State::Destroyed {
        return Ok(record.report.unwrap_or_default());
    }
    let report = deletion_report(&place, &record);
    store.destroyed(id, cause, &report)?;
    place.remove();
    Ok(report)
}
