//! Saving a machine's memory without the VMM's help.
//!
//! The memory is a private mapping of a file in the VMM's process: what the machine has written is pages of its own, and
//! the rest is the file still. The kernel tells which is which. So a save copies the pages that were written from the
//! process, and all others from the file; the result is a file that other machines can map in the same way.
//!
//! The VMM may have been taken over. Then what is copied is what it likes, as it could have changed the guest's memory
//! anyway; sizes and places are ours.

use std::fs::File;
use std::io::{BufRead, BufReader};
use std::os::unix::fs::{FileExt, MetadataExt};

use mvm_wire::ErrorCode;

use crate::error::{Error, IoContext, Result};

/// Pages have this size on x86-64.
const PAGE: u64 = 4096;
/// How much is copied at once.
const PIECE: u64 = 1 << 20;
/// Lines of a process's list of mappings that are looked at.
const MAX_MAPPINGS: usize = 20_000;
/// In an entry of the page map: the page is in memory, is in swap, belongs to a file.
const PRESENT: u64 = 1 << 63;
const SWAPPED: u64 = 1 << 62;
const OF_FILE: u64 = 1 << 61;

/// Copies `bytes` of a stopped machine's memory into `out`, which is empty. `base` is the file that it is a mapping of.
/// Pages of zeros become holes.
pub fn copy(pid: u32, base: &File, bytes: u64, out: &File) -> Result<()> {
    let what = || "cannot save the machine's memory".to_owned();
    let start = find(pid, base, bytes)?;
    let map = File::open(format!("/proc/{pid}/pagemap")).context(what)?;
    out.set_len(bytes).context(what)?;
    // What is no regular file is /dev/zero.
    let base = base.metadata().context(what)?.is_file().then_some(base);
    let mut buffer = vec![0; PIECE as usize];
    let mut entries = vec![0; (PIECE / PAGE * 8) as usize];
    for offset in (0..bytes).step_by(PIECE as usize) {
        let len = PIECE.min(bytes - offset);
        let entries = &mut entries[..(len / PAGE * 8) as usize];
        map.read_exact_at(entries, (start + offset) / PAGE * 8).context(what)?;
        for run in runs(entries) {
            let (from, len) = (offset + run.first * PAGE, (run.pages * PAGE) as usize);
            match (run.written, base) {
                (true, _) => read_process(pid, start + from, &mut buffer[..len]).context(what)?,
                (false, Some(base)) if has_data(base, from, len) => {
                    base.read_exact_at(&mut buffer[..len], from).context(what)?;
                }
                (false, _) => continue,
            }
            write_pages(out, from, &buffer[..len]).context(what)?;
        }
    }
    Ok(())
}

/// Pages in a row of which all were written or none.
struct Run {
    first: u64,
    pages: u64,
    written: bool,
}

fn runs(entries: &[u8]) -> Vec<Run> {
    let mut runs: Vec<Run> = Vec::new();
    for (first, entry) in (0..).zip(entries.chunks_exact(8)) {
        let entry = u64::from_le_bytes(entry.try_into().unwrap_or_default());
        let written = entry & SWAPPED != 0 || (entry & PRESENT != 0 && entry & OF_FILE == 0);
        match runs.last_mut() {
            Some(run) if run.written == written => run.pages += 1,
            _ => runs.push(Run { first, pages: 1, written }),
        }
    }
    runs
}

/// Whether anything but a hole is in this part of a file.
fn has_data(file: &File, from: u64, len: usize) -> bool {
    match rustix::fs::seek(file, rustix::fs::SeekFrom::Data(from)) {
        Ok(data) => data < from + len as u64,
        Err(e) => e != rustix::io::Errno::NXIO,
    }
}

/// Writes what is not zeros.
fn write_pages(out: &File, offset: u64, bytes: &[u8]) -> std::io::Result<()> {
    const ZEROS: [u8; PAGE as usize] = [0; PAGE as usize];
    let mut at = offset;
    let pages: Vec<&[u8]> = bytes.chunks(PAGE as usize).collect();
    for group in pages.chunk_by(|a, b| (*a == ZEROS) == (*b == ZEROS)) {
        let len = group.iter().map(|page| page.len()).sum::<usize>();
        if group[0] != ZEROS {
            let start = (at - offset) as usize;
            out.write_all_at(&bytes[start..start + len], at)?;
        }
        at += len as u64;
    }
    Ok(())
}

fn read_process(pid: u32, address: u64, buffer: &mut [u8]) -> std::io::Result<()> {
    let mut done = 0;
    while done < buffer.len() {
        let rest = &mut buffer[done..];
        let local = libc::iovec { iov_base: rest.as_mut_ptr().cast(), iov_len: rest.len() };
        let remote = libc::iovec { iov_base: (address as usize + done) as *mut libc::c_void, iov_len: rest.len() };
        // SAFETY: the local part lies inside the buffer; the remote part is checked by the kernel.
        match unsafe { libc::process_vm_readv(pid as libc::pid_t, &raw const local, 1, &raw const remote, 1, 0) } {
            0 => return Err(std::io::ErrorKind::UnexpectedEof.into()),
            read if read < 0 => return Err(std::io::Error::last_os_error()),
            read => done += read as usize,
        }
    }
    Ok(())
}

/// Where the process has the memory: its one private mapping of the whole file.
fn find(pid: u32, base: &File, bytes: u64) -> Result<u64> {
    let what = || "cannot find the machine's memory".to_owned();
    let inode = base.metadata().context(what)?.ino();
    let maps = File::open(format!("/proc/{pid}/maps")).context(what)?;
    for line in BufReader::new(maps).lines().take(MAX_MAPPINGS) {
        let line = line.context(what)?;
        if let Some(mapping) = Mapping::parse(&line).filter(|m| m.inode == inode && m.end - m.start == bytes) {
            return Ok(mapping.start);
        }
    }
    Err(Error::new(ErrorCode::Internal, what(), "its process has no such mapping"))
}

/// A private, writable mapping of the beginning of a file.
#[derive(Debug, PartialEq, Eq)]
struct Mapping {
    start: u64,
    end: u64,
    inode: u64,
}

impl Mapping {
    /// From a line such as `7f00-7f40 rw-p 00000000 08:01 1234 /path`. `None` for any other kind of mapping.
    fn parse(line: &str) -> Option<Mapping> {
        let mut fields = line.split_ascii_whitespace();
        let (start, end) = fields.next()?.split_once('-')?;
        let (flags, offset) = (fields.next()?, fields.next()?);
        let inode = fields.nth(1)?.parse().ok()?;
        if !flags.starts_with("rw") || !flags.ends_with('p') || offset.bytes().any(|digit| digit != b'0') {
            return None;
        }
        let address = |text| u64::from_str_radix(text, 16).ok();
        Some(Mapping { start: address(start)?, end: address(end)?, inode }).filter(|m| m.start < m.end)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn only_private_writable_mappings_from_the_start_of_a_file_count() {
        let parse = Mapping::parse;
        let mapping = Mapping { start: 0x7f00, end: 0x8f00, inode: 12 };
        assert_eq!(parse("7f00-8f00 rw-p 00000000 08:01 12   /a b (deleted)"), Some(mapping));
        for line in
            ["7f00-8f00 r--p 00000000 08:01 12", "7f00-8f00 rw-s 00000000 08:01 12", "x", "", "1-0 rw-p 0 0:0 1"]
        {
            assert_eq!(parse(line), None, "{line}");
        }
        assert_eq!(parse("7f00-8f00 rw-p 00001000 08:01 12"), None);
    }

    proptest! {
        #[test]
        fn lines_never_panic(line in ".*") {
            let _ = Mapping::parse(&line);
        }
    }

    /// Our own memory, mapped as a VMM maps a machine's.
    struct Mapped(*mut u8, usize);

    impl Mapped {
        fn of(file: &File, len: usize) -> Mapped {
            use std::os::fd::AsRawFd;
            let (access, private) = (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_PRIVATE);
            // SAFETY: a new mapping, of which the result is checked.
            let start = unsafe { libc::mmap(std::ptr::null_mut(), len, access, private, file.as_raw_fd(), 0) };
            assert_ne!(start, libc::MAP_FAILED);
            Mapped(start.cast(), len)
        }

        fn bytes(&mut self) -> &mut [u8] {
            // SAFETY: the mapping is ours alone and lives as long as `self`.
            unsafe { std::slice::from_raw_parts_mut(self.0, self.1) }
        }
    }

    impl Drop for Mapped {
        fn drop(&mut self) {
            // SAFETY: the mapping is ours and nobody uses it any more.
            unsafe { libc::munmap(self.0.cast(), self.1) };
        }
    }

    #[test]
    fn what_is_saved_is_what_the_machine_saw() {
        const LEN: usize = 3 << 20;
        let base = tempfile::tempfile().unwrap();
        base.set_len(LEN as u64).unwrap();
        base.write_all_at(&vec![7; 100_000], 1 << 20).unwrap();
        for base in [base, File::open("/dev/zero").unwrap()] {
            let mut mapped = Mapped::of(&base, LEN);
            let memory = mapped.bytes();
            memory[5000] = 1;
            // Zeros over what was not zero, and a page that is only read.
            memory[(1 << 20) + 4096..][..8192].fill(0);
            assert_eq!(memory[2 << 20], 0);
            memory[LEN - 1] = 9;
            let out = tempfile::tempfile().unwrap();
            copy(std::process::id(), &base, LEN as u64, &out).unwrap();
            let mut saved = vec![1; LEN];
            out.read_exact_at(&mut saved, 0).unwrap();
            assert!(saved == mapped.bytes());
            assert!(out.metadata().unwrap().blocks() * 512 < 200_000, "zeros are holes");
        }
    }

    #[test]
    fn a_process_without_the_mapping_is_an_error() {
        let error = copy(std::process::id(), &tempfile::tempfile().unwrap(), 1 << 20, &tempfile::tempfile().unwrap());
        assert_eq!(error.unwrap_err().why, "its process has no such mapping");
    }
}
