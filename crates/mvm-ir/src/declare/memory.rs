//! A bound on the memory that a parser takes. It is C code that knows none, and takes the square of a text's length where that
//! can be read in many ways; and if it is given no memory it ends the process.
//!
//! So the thread that would go beyond is stopped where it stands, for ever. What it has is lost until the process ends.
#![allow(unsafe_code)]

use std::cell::{Cell, RefCell};
use std::ffi::c_void;
use std::sync::Once;

thread_local! {
    /// Bytes that this thread's parser may still take.
    static LEFT: Cell<usize> = const { Cell::new(usize::MAX) };
    /// What is to be done when there are none left.
    static BEYOND: RefCell<Option<Box<dyn FnOnce()>>> = const { RefCell::new(None) };
}

/// Bounds what parsers take on this thread from now on. Beyond that `beyond` is called, and the thread never goes on.
pub(super) fn bound(bytes: usize, beyond: impl FnOnce() + 'static) {
    static COUNTED: Once = Once::new();
    // SAFETY: these are the allocator that parsers have by default, and count. What was allocated before is theirs, too.
    COUNTED.call_once(|| unsafe {
        tree_sitter::set_allocator(Some(malloc), Some(calloc), Some(realloc), Some(free));
    });
    LEFT.set(bytes);
    BEYOND.set(Some(Box::new(beyond)));
}

/// Counts what was allocated, and passes it on.
fn taken(memory: *mut c_void) -> *mut c_void {
    if memory.is_null() {
        // As the default does. Parsers do not look.
        std::process::abort();
    }
    match LEFT.get().checked_sub(size(memory)) {
        _ if LEFT.get() == usize::MAX => {}
        Some(left) => LEFT.set(left),
        None => {
            if let Some(beyond) = BEYOND.take() {
                beyond();
            }
            loop {
                std::thread::park();
            }
        }
    }
    memory
}

fn given(memory: *mut c_void) {
    LEFT.set(LEFT.get().saturating_add(size(memory)));
}

fn size(memory: *mut c_void) -> usize {
    // SAFETY: it is null, or of this allocator and not freed.
    unsafe { libc::malloc_usable_size(memory) }
}

unsafe extern "C" fn malloc(size: usize) -> *mut c_void {
    // SAFETY: any size can be asked for.
    taken(unsafe { libc::malloc(size.max(1)) })
}

unsafe extern "C" fn calloc(count: usize, size: usize) -> *mut c_void {
    // SAFETY: any size can be asked for.
    taken(unsafe { libc::calloc(count.max(1), size.max(1)) })
}

unsafe extern "C" fn realloc(memory: *mut c_void, size: usize) -> *mut c_void {
    given(memory);
    // SAFETY: it is null, or of this allocator and not freed, as the parser vouches for.
    taken(unsafe { libc::realloc(memory, size.max(1)) })
}

unsafe extern "C" fn free(memory: *mut c_void) {
    given(memory);
    // SAFETY: it is null, or of this allocator and not freed, as the parser vouches for.
    unsafe { libc::free(memory) }
}
