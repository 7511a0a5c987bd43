//! The machine of a sandbox while it runs: how it comes up on the sandbox's disk, and how it ends.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use mvm_wire::ErrorCode;
use mvm_wire::api::{Enforced, JobRequest, LogSource, SecretValues};
use mvm_wire::guest::{Exec, Quiesce, Request};

use super::jobs::Jobs;
use super::log::{self, Log};
use crate::error::{Error, Result};
use crate::home::Home;
use crate::host::Host;
use crate::image::{Image, ImageConfig};
use crate::kernel::{self, Kernel};
use crate::place::Place;
use crate::point::{self, Needs};
use crate::policy;
use crate::progress::Silent;
use crate::request;
use crate::run::{self, Isolation};
use crate::sandbox::Identity;
use crate::secrets::{Known, Redactor};
use crate::setup;
use crate::store::Record;
use crate::vmm::guest::Guest;
use crate::vmm::machine::{Launch, Machine, Memory, Origin};
use crate::vmm::qemu::Shape;

/// How long a machine may take to answer when it runs again. It takes about 20 ms on an idle host.
const WAKE_LIMIT: Duration = Duration::from_secs(30);
/// How long a guest may take to write everything to its disk before it is switched off anyway.
const HALT_LIMIT: Duration = Duration::from_secs(10);

/// A machine, and what its commands get.
pub struct Running {
    machine: Machine,
    /// The session with its agent; none while its processors are stopped.
    guest: Option<Guest>,
    identity: Identity,
    needs: Needs,
    isolation: Arc<Isolation>,
    /// What its commands start from: the image's, with the sandbox's environment.
    config: ImageConfig,
    /// Room beside a root that is read-only, in bytes; 0 if it can be written to.
    scratch_bytes: u64,
}

/// How a machine ended that nobody ended.
pub struct End {
    /// Whether the guest switched itself off.
    pub in_order: bool,
    /// In words; guest text in it is harmless.
    pub cause: String,
}

/// What a sandbox's machine is made from.
struct Ground {
    home: Home,
    host: Host,
    kernel: Kernel,
    image: Image,
    shape: Shape,
}

impl Ground {
    fn of(home: &Home, place: &Place, record: &Record) -> Result<Ground> {
        let kernel = kernel::installed(home)?.ok_or_else(|| {
            Error::new(ErrorCode::NotFound, "cannot start the machine", "there is no guest kernel").hint("mvmctl setup")
        })?;
        let (host, image) = (Host::load(home)?, place.image()?);
        Ok(Ground { home: home.clone(), host, kernel, image, shape: request::shape(&record.request) })
    }

    fn needs(&self) -> Needs {
        point::needs(&self.host, &self.kernel, &self.image, &self.shape)
    }

    fn run(self, machine: Machine, guest: Guest, identity: Identity, isolation: Isolation, record: &Record) -> Running {
        let isolation = Arc::new(isolation);
        let needs = self.needs();
        let mut config = self.image.config;
        config.env.extend(record.request.env.clone());
        let scratch_bytes = record.policy.scratch_bytes();
        Running { machine, guest: Some(guest), identity, needs, isolation, config, scratch_bytes }
    }
}

impl Running {
    /// Starts it on the sandbox's disk: the first time as a clone of its template, unless it was given layers; else by a
    /// boot, because memory of another moment must never meet a changed disk.
    pub async fn start(home: &Home, place: &Place, record: &Record, first: bool) -> Result<Running> {
        let ground = Ground::of(home, place, record)?;
        let clone = first && place.layers().is_empty();
        let stands_on =
            setup::Ready { host: ground.host.clone(), kernel: ground.kernel.clone(), image: ground.image.clone() };
        let prepared = run::with_template(&ground.home, stands_on, &ground.shape, clone, &Silent).await?;
        match prepared.template() {
            Some(template) => place.create_disk(&mut template.open_overlay()?)?,
            None if first => place.create_empty_disk(ground.shape.disk_bytes)?,
            None => {}
        }
        let disks = place.open_disks(&ground.image)?;
        let run::Ready { machine, guest, identity, isolation, .. } =
            run::start_on(&prepared, &ground.shape, &record.policy, record.id.clone(), disks).await?;
        Ok(ground.run(machine, guest, identity, isolation, record))
    }

    /// Has it come back from what was saved of it, or of the one that it is a copy of. What was saved is given up before
    /// the machine runs: nothing may come back twice to one disk.
    pub async fn restore(home: &Home, place: &Place, record: &Record, jobs: &Jobs) -> Result<Running> {
        let ground = Ground::of(home, place, record)?;
        let point = place.point()?;
        point.fits(&ground.needs())?;
        point.check(place.dir())?;
        let identity = match point.record.sandbox == record.id {
            true => point.record.identity.clone(),
            // A copy: with a disk of its own on the layers that it was given.
            false => {
                place.create_empty_disk(ground.shape.disk_bytes)?;
                Identity::new(&record.id)?
            }
        };
        let (memory, devices) = point.open_machine()?;
        let mut machine = Machine::start(Launch {
            host: &ground.host,
            accelerator: ground.host.accelerator(),
            shape: &ground.shape,
            memory: Memory::CopyOnWrite(memory),
            disks: place.open_disks(&ground.image)?,
            origin: Origin::Restore { devices, paused: true },
            require: &record.policy.require,
        })?;
        machine.control().await?.loaded().await.map_err(|e| point::refused(format!("{}: {}", e.what, e.why)))?;
        place.consume_saved()?;
        let guest = wake(&mut machine, &identity, record.policy.scratch_bytes(), jobs).await?;
        let isolation = Isolation::of(&ground.host, &machine, true);
        Ok(ground.run(machine, guest, identity, isolation, record))
    }

    /// Stops it with nothing on its way: its commands are frozen and left, its disk is written, its session is over.
    /// After an error it runs on as before, unless that says that the machine itself broke.
    pub async fn hold(&mut self, jobs: &Jobs) -> Result<()> {
        let Some(guest) = self.guest.clone() else { return Ok(()) };
        let quiesce = async {
            jobs.suspend(&guest).await?;
            guest.demand(&Request::Quiesce(Quiesce { settle: false }), "quiesce").await
        };
        if let Err(e) = quiesce.await {
            let _ = guest.call(&Request::Thaw).await;
            jobs.resume(&guest);
            return Err(e);
        }
        self.guest = None;
        guest.ended().await;
        self.machine.control().await?.stop().await
    }

    /// Lets it go on from where [`Running::hold`] stopped it.
    pub async fn go_on(&mut self, jobs: &Jobs) -> Result<()> {
        self.guest = Some(wake(&mut self.machine, &self.identity, self.scratch_bytes, jobs).await?);
        Ok(())
    }

    /// Saves it where it was held, with our side of its commands.
    pub async fn save(&mut self, jobs: &Jobs, dir: &Path) -> Result<()> {
        point::save(&mut self.machine, &jobs.save()?, dir).await
    }

    /// What it is known by.
    pub fn identity(&self) -> &Identity {
        &self.identity
    }

    /// What it needs to come back.
    pub fn needs(&self) -> &Needs {
        &self.needs
    }

    /// The session with its agent, unless its processors are stopped.
    pub fn guest(&self) -> Option<&Guest> {
        self.guest.as_ref()
    }

    /// Whether this is the session of this machine, not of an earlier one.
    pub fn has_session(&self, guest: &Guest) -> bool {
        self.guest.as_ref().is_some_and(|mine| mine.is(guest))
    }

    /// Completes when the machine has ended.
    pub fn ended(&self) -> Result<impl Future<Output = ()> + Send + use<>> {
        self.machine.ended()
    }

    /// Whether it has ended.
    pub fn has_ended(&mut self) -> bool {
        self.machine.has_ended()
    }

    /// What keeps it apart from the host.
    pub fn isolation(&self) -> &Arc<Isolation> {
        &self.isolation
    }

    /// Logs what the console prints, with these secrets redacted.
    pub fn log_console(&self, log: Arc<Log>, known: Arc<Known>) {
        let mut lines = log::Lines::new(LogSource::Console, None);
        let mut redactor: Option<Redactor> = None;
        self.machine.listen_to_console(Box::new(move |bytes| {
            let Some(patterns) = known.patterns() else { return lines.push(&log, bytes) };
            let redactor = redactor.get_or_insert_with(|| Redactor::new(patterns.clone()));
            redactor.renew(&patterns);
            redactor.pass(bytes, &mut |piece| lines.take(&log, piece));
        }));
    }

    /// QEMU's process id.
    pub fn pid(&self) -> u32 {
        self.machine.pid()
    }

    /// A request for a command as the guest takes it, within the bounds that were decided, with the secrets that every
    /// command has and its own.
    pub fn exec(&self, request: &JobRequest, secrets: [&SecretValues; 2], enforced: &Enforced) -> Exec {
        let [of_sandbox, with_request] = secrets.map(|values| {
            values.iter().map(|(name, value)| (name.clone(), value.expose().to_owned())).collect::<Vec<_>>()
        });
        let mut env = self.config.env.clone();
        env.extend(of_sandbox);
        env.extend(request.env.clone());
        env.extend(with_request);
        if request.tty.is_some() && !env.iter().any(|(name, _)| name == "TERM") {
            env.push(("TERM".into(), "xterm".into()));
        }
        let mut exec = Exec {
            argv: request.argv.clone(),
            env,
            cwd: request.cwd.clone(),
            user: request.user.clone(),
            tty: super::jobs::terminal(request),
            stdin: request.stdin,
            ..Exec::default()
        };
        policy::enforce(enforced, &mut exec);
        self.config.complete(&mut exec);
        exec
    }

    /// Has the guest write everything to its disk, then ends the machine. Says if the guest did not.
    pub async fn halt(mut self) -> &'static str {
        let written = match &self.guest {
            Some(guest) => {
                let halted = tokio::time::timeout(HALT_LIMIT, guest.demand(&Request::Halt, "halt")).await;
                matches!(halted, Ok(Ok(())))
            }
            // It wrote everything before it was held.
            None => true,
        };
        self.machine.kill();
        if written { "" } else { "; the guest did not write its last changes to the disk" }
    }

    /// How the machine ended, now that its session has.
    pub async fn end(&mut self) -> End {
        let machine = &mut self.machine;
        let error = Error::new(ErrorCode::SandboxUnavailable, "the machine ended", "its session ended");
        let explained = machine.explain(error).await;
        let console = machine.console_tail();
        let panic = console.lines().find_map(|line| Some(line[line.find("Kernel panic")?..].to_owned()));
        let in_order = machine.exited_well() && panic.is_none();
        machine.kill();
        // QEMU reports a panic and a reboot alike; the console tells them apart.
        let cause = match (in_order, panic) {
            (true, _) => "the guest switched itself off".to_owned(),
            (_, Some(panic)) => format!("the guest's kernel panicked: {panic}"),
            _ => format!("the VMM ended: {}", explained.why),
        };
        End { in_order, cause }
    }
}

/// Lets a stopped machine run, admits it, and takes part in its commands again. Nothing in it goes on before it has
/// confirmed who it is and what randomness it has.
async fn wake(machine: &mut Machine, identity: &Identity, scratch_bytes: u64, jobs: &Jobs) -> Result<Guest> {
    machine.control().await?.run().await?;
    let guest = machine.greet(WAKE_LIMIT).await?;
    let admitted = async {
        guest.admit(identity.admission(scratch_bytes)?).await?;
        jobs.kill_orphans(&guest).await?;
        guest.demand(&Request::Thaw, "go on").await
    };
    if let Err(e) = admitted.await {
        machine.kill();
        return Err(machine.explain(e).await);
    }
    jobs.resume(&guest);
    Ok(guest)
}
