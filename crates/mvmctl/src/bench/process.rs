//! Lanes that are one whole process each.

use std::io::{BufRead, BufReader};
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::Instant;

use mvm_runtime::home::{Home, Staging};
use mvm_runtime::host::Host;
use mvm_runtime::{Error, Result};

use super::milliseconds;

/// Cold boots take seconds; more of them tell nothing new.
const MOST_COLD_SAMPLES: usize = 5;
/// The sandbox that is brought up, and the workload.
const SANDBOX: &str = "bench-up";
const WORKLOAD: &str = "bench-workload";

/// What the lane `compile` reads, and `up-workload` brings up.
const DECLARATION: &str = "import mvm\n\n@mvm.app(name='bench-workload', source=mvm.local_path('.'), \
    image=mvm.image('base'), network=mvm.network(ports=[mvm.port(guest=8000, host=0)]), \
    env={'LANG': mvm.literal('C.UTF-8')}, entrypoint=mvm.entrypoint_command(['sleep', '600']), ttl=600)\n\
    def serve():\n    pass\n";

/// Starts processes and times them.
pub struct Process<'a> {
    home: &'a Home,
    host: &'a Host,
    /// This program.
    program: PathBuf,
    /// How many rounds count.
    samples: usize,
    staging: Staging,
}

impl<'a> Process<'a> {
    /// With a place for what they read and write.
    pub fn new(home: &'a Home, host: &'a Host, samples: usize) -> Result<Process<'a>> {
        let program = std::env::current_exe().map_err(|e| Error::io("cannot find mvmctl itself", e))?;
        let staging = home.staging("bench")?;
        let process = Process { home, host, program, samples, staging };
        let written = std::fs::write(process.file("web.py"), DECLARATION);
        written.map_err(|e| Error::io("cannot write a declaration", e))?;
        Ok(process)
    }

    fn file(&self, name: &str) -> String {
        self.staging.path().join(name).display().to_string()
    }

    /// A sample of a lane, if it is one of these; the first round does not count.
    pub fn sample(&self, name: &str, round: usize) -> Result<Option<f64>> {
        let own = |args: &[&str]| self.own(name, args).map(Some);
        match name {
            "qemu-start" => bare_qemu(self.host).map(Some),
            "version" => own(&["--version"]),
            "compile" => own(&["compile", "--quiet", &self.file("web.py")]),
            "run-base" => own(&["run", "--quiet", "--image", "base", "--", "true"]),
            "run-restrictive" => own(&["run", "--quiet", "--image", "base", "--profile", "restrictive", "--", "true"]),
            "run-receipt" => {
                let receipt = self.file("receipt.json");
                own(&["run", "--quiet", "--image", "base", "--receipt", &receipt, "--", "true"])
            }
            "run-debian" => own(&["run", "--quiet", "--", "true"]),
            "cold-base" if round <= self.samples.min(MOST_COLD_SAMPLES) => {
                own(&["run", "--quiet", "--image", "base", "--no-template", "--", "true"])
            }
            "up-base" => self.up(name, &["--image", "base"]).map(Some),
            "up-workload" => {
                self.own(name, &["build", "--quiet", &self.file("web.py")])?;
                let sample = self.up(name, &[WORKLOAD])?;
                if round == self.samples {
                    mvm_runtime::image::remove(self.home, WORKLOAD)?;
                }
                Ok(Some(sample))
            }
            _ => Ok(None),
        }
    }

    /// Times this program.
    fn own(&self, name: &str, args: &[&str]) -> Result<f64> {
        let started = Instant::now();
        let status = Command::new(&self.program).args(args).stdin(Stdio::null()).stdout(Stdio::null()).status();
        let elapsed = milliseconds(started);
        match status {
            Ok(status) if status.success() => Ok(elapsed),
            Ok(status) => Err(Error::internal(format!("a sample of {name} failed"), status)),
            Err(e) => Err(Error::io(format!("cannot take a sample of {name}"), e)),
        }
    }

    /// Times the making of a sandbox, which is destroyed again.
    fn up(&self, name: &str, what: &[&str]) -> Result<f64> {
        let sample = self.own(name, &[&["up", "--quiet", "--name", SANDBOX], what].concat());
        let destroyed = self.own(name, &["destroy", SANDBOX]);
        sample.and_then(|sample| destroyed.map(|_| sample))
    }
}

/// From the start of a QEMU process without any guest to the greeting on its control socket.
fn bare_qemu(host: &Host) -> Result<f64> {
    let what = "cannot start QEMU for comparison";
    let started = Instant::now();
    let mut child = Command::new(&host.qemu.path)
        .args(["-machine", "microvm", "-nodefaults", "-no-user-config", "-display", "none", "-S", "-qmp", "stdio"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .map_err(|e| Error::io(what, e))?;
    let mut greeting = String::new();
    let read = child.stdout.take().map(|stdout| BufReader::new(stdout).read_line(&mut greeting));
    let elapsed = milliseconds(started);
    let _ = child.kill();
    let _ = child.wait();
    match read {
        Some(Ok(_)) if greeting.contains("QMP") => Ok(elapsed),
        _ => Err(Error::internal(what, "it did not greet")),
    }
}
