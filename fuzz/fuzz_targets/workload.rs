//! A workload from anybody: it is read or refused, its refusal shows nothing that a terminal would obey, and what is read has
//! one canonical form and digest.

#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let workload = match mvm_ir::read(data) {
        Ok(workload) => workload,
        Err(refusal) => {
            // The rest of it is names of the document, which are made harmless where they are printed.
            assert!(refusal.pointer.is_empty() || refusal.pointer.starts_with('/'), "{refusal:?}");
            return;
        }
    };
    let canonical = mvm_ir::canonical(&workload).expect("what was read can be written");
    let again = mvm_ir::read(&canonical).expect("what was written can be read");
    assert_eq!(again, workload);
    assert_eq!(mvm_ir::canonical(&again).as_ref(), Ok(&canonical));
    assert_eq!(mvm_ir::digest(&again), mvm_ir::digest(&workload));
});
