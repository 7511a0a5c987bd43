//! A source file from anybody: what it declares is read or refused, and each problem lies in it and shows nothing that a
//! terminal would obey.

#![no_main]

use libfuzzer_sys::fuzz_target;
use mvm_ir::declare::{Language, declaration};

fuzz_target!(|data: &[u8]| {
    let Some((first, source)) = data.split_first() else { return };
    let language = if first % 2 == 0 { Language::Python } else { Language::TypeScript };
    match declaration(language, source) {
        Ok(None) => {}
        Ok(Some(declared)) => {
            let canonical = mvm_ir::canonical(&declared.workload).expect("what was declared can be written");
            assert_eq!(mvm_ir::read(&canonical), Ok(declared.workload));
        }
        Err(problems) => {
            let lines = source.iter().filter(|byte| **byte == b'\n').count() + 1;
            assert!(!problems.is_empty());
            for problem in problems {
                assert!(problem.place.line as usize <= lines && problem.place.column >= 1, "{problem:?}");
                assert!(!problem.source_line.chars().any(char::is_control), "{problem:?}");
            }
        }
    }
});
