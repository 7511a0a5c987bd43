//! `mvmctl run --mode live`: a script that uses an SDK, on this host. It is trusted; the sandboxes that it makes are what is
//! confined.

mod interpreter;
mod receipts;

use std::os::fd::OwnedFd;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::Path;
use std::process::{Command, ExitStatus};

use mvm_runtime::policy::{self, Ask};
use mvm_runtime::{Error, ErrorCode, Home, Result};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};

use crate::args::RunArgs;
use crate::{output, signals};
use receipts::Wanted;

/// What the user may send, and the script is to get.
const SIGNALS: [libc::c_int; 4] = [libc::SIGINT, libc::SIGTERM, libc::SIGHUP, libc::SIGQUIT];

/// Runs the script to its end and returns its exit status.
pub fn run(args: &RunArgs) -> Result<u8> {
    let [script, arguments @ ..] = args.command.as_slice() else { return Err(no_script()) };
    check_profile(args.policy.profile.as_deref())?;
    let script = Path::new(script);
    let meta = std::fs::metadata(script).map_err(|e| Error::named(what(script), e))?;
    if !meta.is_file() {
        return Err(Error::new(ErrorCode::InvalidRequest, what(script), "it is no file"));
    }
    let mut command = interpreter::of(script)?;
    command.args(arguments).env("MVM_SDK_MODE", "live");
    let ourselves = std::env::current_exe().map_err(|e| Error::io(what(script), e))?;
    command.env("MVM_CLI_BIN", ourselves).envs(args.policy.profile.as_ref().map(|profile| ("MVM_PROFILE", profile)));
    let home = Home::locate()?;
    let receipts = args.receipt.as_deref().map(|dir| Wanted::prepare(&home, dir)).transpose()?;
    command.envs(receipts.as_ref().map(|receipts| ("MVM_SDK_RUNS", receipts.list())));
    if !args.quiet {
        eprintln!(
            "mvmctl: {} runs on this host and is not sandboxed; the sandboxes that it makes are",
            script.display()
        );
    }
    let status = attend(&mut command).map_err(|e| Error::io(what(script), e))?;
    let complete = receipts.is_none_or(|receipts| receipts.collect(args.quiet));
    Ok(match exit_status(status) {
        output::SUCCESS if !complete => output::MVM_FAILED,
        code => code,
    })
}

fn what(script: &Path) -> String {
    format!("cannot run the script {}", script.display())
}

fn no_script() -> Error {
    Error::new(ErrorCode::InvalidRequest, "cannot run a script", "none was named").hint("mvmctl run --mode live ./x.py")
}

/// Refuses a profile that cannot be used, before anything starts. One that has to be acknowledged is for each sandbox to name.
fn check_profile(name: Option<&str>) -> Result<()> {
    let Some(profile) = name.map(policy::load).transpose()? else { return Ok(()) };
    let bound = policy::bound();
    let mut denials = policy::unusable(&Ask { bound: bound.as_deref(), ..Ask::default() }, &profile);
    for denial in denials.iter_mut().filter(|denial| denial.rule == policy::PROFILE_ACKNOWLEDGED) {
        denial.remedy = "another profile; or none here, and accept_risk for each sandbox in the script".into();
    }
    if denials.is_empty() { Ok(()) } else { Err(Error::denied("cannot run the script", denials)) }
}

/// Runs a program to its end. It has our standard streams and our group, so what the terminal sends it gets by itself; what is
/// sent to us is passed on. It is asked to end if we are killed.
fn attend(command: &mut Command) -> std::io::Result<ExitStatus> {
    let signals = block(&SIGNALS)?;
    let parent = rustix::process::getpid();
    // SAFETY: the closure makes system calls on what it holds, and allocates nothing.
    unsafe {
        command.pre_exec(move || {
            libc::pthread_sigmask(libc::SIG_UNBLOCK, &signals, std::ptr::null_mut());
            rustix::process::set_parent_process_death_signal(Some(Signal::TERM))?;
            // It may have died before the line above.
            if rustix::process::getppid() == Some(parent) { Ok(()) } else { Err(std::io::ErrorKind::NotFound.into()) }
        });
    }
    let mut child = command.spawn()?;
    let pid = Pid::from_raw(child.id() as i32).ok_or(std::io::ErrorKind::NotFound)?;
    let process = pidfd_open(pid, PidfdFlags::empty())?;
    std::thread::spawn(move || pass_on(&signals, &process));
    child.wait()
}

/// Holds signals back from this process until they are waited for.
fn block(numbers: &[libc::c_int]) -> std::io::Result<libc::sigset_t> {
    // SAFETY: the set is initialised by `sigemptyset` before it is read; the numbers are signals.
    unsafe {
        let mut set: libc::sigset_t = std::mem::zeroed();
        libc::sigemptyset(&mut set);
        for number in numbers {
            libc::sigaddset(&mut set, *number);
        }
        match libc::pthread_sigmask(libc::SIG_BLOCK, &set, std::ptr::null_mut()) {
            0 => Ok(set),
            errno => Err(std::io::Error::from_raw_os_error(errno)),
        }
    }
}

/// Passes on what is sent to us. The terminal sends it to the whole group. Once the script has ended it is for us.
fn pass_on(signals: &libc::sigset_t, process: &OwnedFd) {
    loop {
        // SAFETY: zeros are a valid `siginfo_t`, and both pointers are valid for the call.
        let info = unsafe {
            let mut info: libc::siginfo_t = std::mem::zeroed();
            if libc::sigwaitinfo(signals, &mut info) < 0 {
                continue;
            }
            info
        };
        let Some(signal) = Signal::from_named_raw(info.si_signo) else { continue };
        let ended = match info.si_code {
            libc::SI_KERNEL => has_ended(process),
            _ => pidfd_send_signal(process, signal).is_err(),
        };
        if ended {
            signals::end_now(info.si_signo as u8);
        }
    }
}

fn has_ended(process: &OwnedFd) -> bool {
    poll(&mut [PollFd::new(process, PollFlags::IN)], Some(&Timespec::default())).is_ok_and(|ready| ready > 0)
}

/// As a shell reports it.
fn exit_status(status: ExitStatus) -> u8 {
    let code = status.code().or_else(|| status.signal().map(|signal| 128 + signal));
    code.and_then(|code| u8::try_from(code).ok()).unwrap_or(output::MVM_FAILED)
}

/// The refusal of a command that does not stand after `--`: it may be meant as one, or as a script of this host.
pub fn unclear(command: &[String]) -> Error {
    let program = command.first().map_or("", String::as_str);
    let error = |why: &str| Error::new(ErrorCode::InvalidRequest, format!("cannot run {program}"), why);
    match interpreter::in_a_guest(Path::new(program)) {
        Some(inside) => error("it was not said where").hint(format!(
            "mvmctl run --mode live {program} on this host, or mvmctl run -- {inside} {program} in a microVM, where the file \
             must be (mvmctl cp copies it into a sandbox)"
        )),
        None => error("a command stands after --").hint(format!("mvmctl run -- {program}")),
    }
}
