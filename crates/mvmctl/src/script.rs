//! Scripts that use an SDK, on this host. They are trusted: what is confined is the sandboxes that they make.

mod interpreter;
pub mod live;
mod receipts;
pub mod record;

use std::os::fd::OwnedFd;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::Path;
use std::process::{Command, ExitStatus};

use mvm_runtime::{Error, ErrorCode, Result};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};

use crate::args::{Mode, RunArgs};
use crate::input::Found;
use crate::{output, signals};

/// What the user may send, and the script is to get.
const SIGNALS: [libc::c_int; 4] = [libc::SIGINT, libc::SIGTERM, libc::SIGHUP, libc::SIGQUIT];

/// Runs `mvmctl run --mode MODE`, and returns its exit status.
pub fn run(mode: Mode, args: &RunArgs) -> Found<u8> {
    let invalid = |what: &str, why: &str| Error::new(ErrorCode::InvalidRequest, what, why);
    let [script, arguments @ ..] = args.command.as_slice() else {
        return Err(invalid("cannot run a script", "none was named").hint("mvmctl run --mode live ./x.py").into());
    };
    let script = Path::new(script);
    let only = |given: bool, option: &str, mode: &str| match given {
        true => {
            Err(invalid(&what(script), &format!("{option} is for --mode {mode}")).hint(format!("leave out {option}")))
        }
        false => Ok(()),
    };
    only(args.json && mode != Mode::Plan, "--json", "plan")?;
    only(args.out.is_some() && mode != Mode::Record, "--out", "record")?;
    only(args.policy.profile.is_some() && mode != Mode::Live, "--profile", "live")?;
    only(args.receipt.is_some() && mode != Mode::Live, "--receipt", "live")?;
    match mode {
        Mode::Live => Ok(live::run(script, arguments, args)?),
        Mode::Record => Ok(record::run(script, arguments, args)?),
        Mode::Plan => record::plan(script, arguments, args),
    }
}

/// What runs a script with its arguments, with the mode that its SDK is in.
fn command(script: &Path, arguments: &[String], mode: &str) -> Result<Command> {
    let meta = std::fs::metadata(script).map_err(|e| Error::named(what(script), e))?;
    if !meta.is_file() {
        return Err(Error::new(ErrorCode::InvalidRequest, what(script), "it is no file"));
    }
    let mut command = interpreter::of(script)?;
    command.args(arguments).env("MVM_SDK_MODE", mode);
    Ok(command)
}

fn what(script: &Path) -> String {
    format!("cannot run the script {}", script.display())
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
