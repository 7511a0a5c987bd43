//! PID 1 of every mvm guest. It makes the machine usable, then serves one host over one byte stream: it admits the
//! machine after a restore, runs commands in a cgroup each, and quiesces before a save.
//!
//! It depends on the wire types and on little else, because under emulation every instruction it runs for the first
//! time after a restore is translated anew, and that is what a user waits for.

mod admit;
mod boot;
mod cgroup;
mod child;
mod connect;
mod files;
mod input;
mod job;
mod link;
mod pack;
mod process;
mod raw;
mod serve;
mod unpack;
mod user;

use std::process::ExitCode;

fn main() -> ExitCode {
    if std::process::id() != 1 {
        eprintln!("mvm-agent is the first process of a guest and does nothing elsewhere");
        return ExitCode::FAILURE;
    }
    keep_heap_resident();
    let result = boot::boot().and_then(|root| {
        let mut runtime = tokio::runtime::Builder::new_current_thread();
        let runtime = runtime.enable_io().enable_time().max_blocking_threads(files::MAX_THREADS).build()?;
        runtime.block_on(serve::serve(root))
    });
    let why = result.err().map_or_else(|| "the channel ended".to_owned(), |e| e.to_string());
    boot::log(&format!("cannot go on: {why}"));
    boot::power_off()
}

/// Has the heap grow once, now, and never shrink or leave for `mmap`: growing it and faulting its pages in after a
/// restore is kernel code that every clone would translate anew (measured: it halves the session's first use).
fn keep_heap_resident() {
    const HEAP: usize = 768 << 10;
    // SAFETY: settings of the C library's allocator, made before there is a second thread.
    unsafe {
        libc::mallopt(libc::M_MMAP_THRESHOLD, 1 << 30);
        libc::mallopt(libc::M_TRIM_THRESHOLD, 1 << 30);
        libc::mallopt(libc::M_TOP_PAD, HEAP as libc::c_int);
    }
    drop(std::hint::black_box(vec![1u8; HEAP]));
}
