//! A recording from anybody: it is lowered or refused, and what it is lowered to reads well.

#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let Ok(lowered) = mvm_ir::lower(data) else { return };
    let canonical = mvm_ir::canonical(&lowered.workload).expect("what was lowered can be written");
    assert_eq!(mvm_ir::read(&canonical), Ok(lowered.workload.clone()));
    for content in lowered.workload.contents() {
        assert_eq!(lowered.contents[&content.sha256].len() as u64, content.bytes);
    }
});
