//! The machine of a sandbox while it runs: how it comes up on the sandbox's disk, and how it ends.

use std::sync::Arc;
use std::time::Duration;

use mvm_wire::ErrorCode;
use mvm_wire::api::{JobRequest, LogSource};
use mvm_wire::guest::{Exec, Request};

use super::log::{self, Log};
use crate::error::{Error, Result};
use crate::home::Home;
use crate::host::Host;
use crate::progress::Silent;
use crate::run::{self, Isolation, Ready};
use crate::sandboxes::{self, Place};
use crate::store::Record;
use crate::vmm::guest::Guest;
use crate::{kernel, setup};

/// How long a guest may take to write everything to its disk before it is switched off anyway.
const HALT_LIMIT: Duration = Duration::from_secs(10);

/// A machine, and what its commands get.
pub struct Running {
    ready: Ready,
    env: Vec<(String, String)>,
    cwd: String,
    user: String,
}

/// How a machine ended that nobody ended.
pub struct End {
    /// Whether the guest switched itself off.
    pub in_order: bool,
    /// In words; guest text in it is harmless.
    pub cause: String,
}

impl Running {
    /// Starts it: as a clone of its template the first time, else booted on the disk that was kept, because memory of
    /// another moment must never meet a changed disk.
    pub async fn start(home: &Home, place: &Place, record: &Record, first: bool) -> Result<Running> {
        let image = place.image()?;
        let shape = sandboxes::shape(&record.request);
        let kernel = kernel::installed(home)?.ok_or_else(|| {
            Error::new(ErrorCode::NotFound, "cannot start the machine", "there is no guest kernel").hint("mvmctl setup")
        })?;
        let stands_on = setup::Ready { host: Host::load(home)?, kernel, image: image.clone() };
        let prepared = run::with_template(home, stands_on, &shape, first, &Silent).await?;
        if let Some(template) = prepared.template() {
            place.create_disk(&mut template.open_overlay()?)?;
        }
        let disks = vec![image.open_disk()?, place.open_disk()?];
        let ready = run::start_on(&prepared, &shape, record.id.clone(), disks).await?;
        let mut env = image.config.env.clone();
        env.extend(record.request.env.clone());
        Ok(Running { ready, env, cwd: image.config.workdir, user: image.config.user })
    }

    /// The session with its agent.
    pub fn guest(&self) -> &Guest {
        &self.ready.guest
    }

    /// Whether this is the session of this machine, not of an earlier one.
    pub fn has_session(&self, guest: &Guest) -> bool {
        self.ready.guest.is(guest)
    }

    /// What keeps it apart from the host.
    pub fn isolation(&self) -> &Isolation {
        &self.ready.isolation
    }

    /// Logs what the console prints.
    pub fn log_console(&self, log: Arc<Log>) {
        let mut lines = log::Lines::new(LogSource::Console, None);
        self.ready.machine.listen_to_console(Box::new(move |bytes| lines.push(&log, bytes)));
    }

    /// QEMU's process id.
    pub fn pid(&self) -> u32 {
        self.ready.machine.pid()
    }

    /// A request for a command as the guest takes it.
    pub fn exec(&self, request: &JobRequest) -> Exec {
        let or_default = |value: &String, default: &String| if value.is_empty() { default } else { value }.clone();
        let mut env = self.env.clone();
        env.extend(request.env.clone());
        Exec {
            argv: request.argv.clone(),
            env,
            cwd: or_default(&request.cwd, &self.cwd),
            user: or_default(&request.user, &self.user),
            tty: super::jobs::terminal(request),
            stdin: request.stdin,
        }
    }

    /// Has the guest write everything to its disk, then ends the machine. Says if the guest did not.
    pub async fn halt(mut self) -> &'static str {
        let written = tokio::time::timeout(HALT_LIMIT, self.ready.guest.call(&Request::Halt)).await;
        self.ready.machine.kill();
        if matches!(written, Ok(Ok(_))) { "" } else { "; the guest did not write its last changes to the disk" }
    }

    /// How the machine ended, now that its session has.
    pub async fn end(&mut self) -> End {
        let machine = &mut self.ready.machine;
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
