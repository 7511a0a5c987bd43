//! One descriptor over a socket.

use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};

/// Room for one descriptor's control message, aligned as the kernel wants it.
#[repr(align(8))]
struct ControlSpace([u8; 32]);

fn message<'a>(byte: &'a mut libc::iovec, space: &'a mut ControlSpace) -> libc::msghdr {
    // SAFETY: all-zero is a valid empty header.
    let mut header: libc::msghdr = unsafe { std::mem::zeroed() };
    header.msg_iov = byte;
    header.msg_iovlen = 1;
    header.msg_control = space.0.as_mut_ptr().cast();
    // SAFETY: a pure computation.
    header.msg_controllen = unsafe { libc::CMSG_SPACE(size_of::<RawFd>() as u32) } as usize;
    header
}

/// Sends a descriptor. Allocates nothing: it runs between fork and exec.
pub fn send(socket: RawFd, fd: RawFd) -> std::io::Result<()> {
    let mut byte = [1u8];
    let mut vector = libc::iovec { iov_base: byte.as_mut_ptr().cast(), iov_len: 1 };
    let mut space = ControlSpace([0; 32]);
    let header = message(&mut vector, &mut space);
    // SAFETY: the header points to values of this frame, and the space holds one control message of one descriptor.
    unsafe {
        let control = libc::CMSG_FIRSTHDR(&raw const header);
        (*control).cmsg_level = libc::SOL_SOCKET;
        (*control).cmsg_type = libc::SCM_RIGHTS;
        (*control).cmsg_len = libc::CMSG_LEN(size_of::<RawFd>() as u32) as usize;
        libc::CMSG_DATA(control).cast::<RawFd>().write_unaligned(fd);
        if libc::sendmsg(socket, &raw const header, libc::MSG_NOSIGNAL) < 0 {
            return Err(std::io::Error::last_os_error());
        }
        Ok(())
    }
}

/// Waits for a descriptor. `None` if the child ended before it sent one; the report says why.
pub fn receive(socket: &OwnedFd) -> Option<OwnedFd> {
    let mut byte = [0u8];
    let mut vector = libc::iovec { iov_base: byte.as_mut_ptr().cast(), iov_len: 1 };
    let mut space = ControlSpace([0; 32]);
    let mut header = message(&mut vector, &mut space);
    // SAFETY: as above; a descriptor that arrives is new and ours.
    unsafe {
        if libc::recvmsg(socket.as_raw_fd(), &raw mut header, libc::MSG_CMSG_CLOEXEC) < 1 {
            return None;
        }
        let control = libc::CMSG_FIRSTHDR(&raw const header);
        if control.is_null() || (*control).cmsg_type != libc::SCM_RIGHTS {
            return None;
        }
        Some(OwnedFd::from_raw_fd(libc::CMSG_DATA(control).cast::<RawFd>().read_unaligned()))
    }
}
