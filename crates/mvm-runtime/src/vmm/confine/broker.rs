//! Answers what the filter holds back until we have decided. An open for writing of a name that was foreseen gets our
//! descriptor; the first exec is that of the VMM itself and goes on; everything else is refused.

use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;

use rustix::event::{PollFd, PollFlags, poll};

use super::BrokeredOpen;

/// The longest name looked at.
const MAX_PATH: usize = 256;
const IOCTL_RECV: u64 = 0xc050_2100;
const IOCTL_SEND: u64 = 0xc018_2101;
const IOCTL_ID_VALID: u64 = 0x4008_2102;
const IOCTL_ADDFD: u64 = 0x4018_2103;
/// Adds the descriptor and answers the call with its number in one step.
const ADDFD_FLAG_SEND: u32 = 2;

/// Lets the call go on as if there were no filter.
const FLAG_CONTINUE: u32 = 1;

/// Waits for the exec of the VMM and lets it go on. The child does nothing else between its filter and its exec; whatever
/// kept it from that is in its report.
pub fn admit_exec(listener: &OwnedFd) {
    let Some(call) = next_call(listener) else { return };
    // That the call could change after we looked at it is no matter: it is our own code that makes it.
    let exec = i64::from(call.data.nr) == libc::SYS_execve;
    let (error, flags) = if exec { (0, FLAG_CONTINUE) } else { (-libc::EACCES, 0) };
    let mut response = libc::seccomp_notif_resp { id: call.id, val: 0, error, flags };
    ioctl(listener, IOCTL_SEND, &raw mut response);
}

/// Serves until the VMM is gone or has what it needs. After that the listener is closed, and the kernel itself refuses
/// every further exec and open for writing (`ENOSYS`).
pub fn serve(listener: OwnedFd, mut opens: Vec<BrokeredOpen>) -> std::io::Result<()> {
    if opens.is_empty() {
        return Ok(());
    }
    let serve = move || {
        while !opens.is_empty() {
            let Some(mut call) = next_call(&listener) else { return };
            let arguments = call.data.args;
            let given = match i64::from(call.data.nr) {
                libc::SYS_open => give(&listener, &mut call, arguments[0], &mut opens),
                libc::SYS_openat => give(&listener, &mut call, arguments[1], &mut opens),
                _ => false,
            };
            if !given {
                let mut refusal = libc::seccomp_notif_resp { id: call.id, val: 0, error: -libc::EACCES, flags: 0 };
                ioctl(&listener, IOCTL_SEND, &raw mut refusal);
            }
        }
    };
    std::thread::Builder::new().name("vmm-broker".into()).spawn(serve).map(drop)
}

/// Waits for a held call. `None` when no process with this filter is left.
fn next_call(listener: &OwnedFd) -> Option<libc::seccomp_notif> {
    loop {
        let mut waiting = [PollFd::new(listener, PollFlags::IN)];
        match poll(&mut waiting, None) {
            Err(rustix::io::Errno::INTR) => continue,
            Ok(_) if waiting[0].revents().contains(PollFlags::IN) => {}
            _ => return None,
        }
        // SAFETY: an all-zero notification is what the kernel asks for.
        let mut call: libc::seccomp_notif = unsafe { std::mem::zeroed() };
        // A call whose thread was killed meanwhile is no longer there.
        if ioctl(listener, IOCTL_RECV, &raw mut call) {
            return Some(call);
        }
    }
}

/// Answers an open with our descriptor, if its name was foreseen.
fn give(listener: &OwnedFd, call: &mut libc::seccomp_notif, name: u64, opens: &mut Vec<BrokeredOpen>) -> bool {
    let path = read_path(call.pid, name);
    // The process may have gone and its id may be another's: then what was read means nothing.
    if !ioctl(listener, IOCTL_ID_VALID, &raw mut call.id) {
        return false;
    }
    let known = path.and_then(|path| opens.iter().position(|open| open.path.as_os_str().as_bytes() == path));
    known.is_some_and(|index| {
        let open = opens.swap_remove(index);
        let mut add = libc::seccomp_notif_addfd {
            id: call.id,
            flags: ADDFD_FLAG_SEND,
            srcfd: open.fd.as_raw_fd() as u32,
            newfd: 0,
            newfd_flags: libc::O_CLOEXEC as u32,
        };
        ioctl(listener, IOCTL_ADDFD, &raw mut add)
    })
}

fn ioctl<T>(listener: &OwnedFd, request: u64, argument: *mut T) -> bool {
    // SAFETY: each caller passes the structure that belongs to the request, and it outlives the call.
    unsafe { libc::ioctl(listener.as_raw_fd(), request as _, argument) >= 0 }
}

/// The name that the held call points to, without its final zero.
fn read_path(pid: u32, address: u64) -> Option<Vec<u8>> {
    let mut buffer = vec![0u8; MAX_PATH];
    let mut len = 0;
    // Page by page: what follows the name may not be mapped.
    while len < MAX_PATH {
        let at = address.checked_add(len as u64)?;
        let piece = (MAX_PATH - len).min(4096 - (at % 4096) as usize);
        let local = libc::iovec { iov_base: buffer[len..].as_mut_ptr().cast(), iov_len: piece };
        let remote = libc::iovec { iov_base: at as *mut libc::c_void, iov_len: piece };
        // SAFETY: the local part lies inside the buffer; the remote part is checked by the kernel.
        let read = unsafe { libc::process_vm_readv(pid as libc::pid_t, &raw const local, 1, &raw const remote, 1, 0) };
        if read <= 0 {
            return None;
        }
        if let Some(end) = buffer[len..len + read as usize].iter().position(|b| *b == 0) {
            buffer.truncate(len + end);
            return Some(buffer);
        }
        len += read as usize;
    }
    None
}
