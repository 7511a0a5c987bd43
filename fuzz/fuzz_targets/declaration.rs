//! A program from anybody, in both languages: nothing of it is run; it declares a workload that can be written and read again,
//! or nothing, or it is refused at a place that it has, with a line that a terminal shows and nothing else.

#![no_main]

use libfuzzer_sys::fuzz_target;
use mvm_ir::declare::{Language, declaration};

fuzz_target!(|data: &[u8]| {
    let text = String::from_utf8_lossy(data);
    let lines: Vec<&str> = text.strip_prefix('\u{feff}').unwrap_or(&text).split('\n').collect();
    for language in [Language::Python, Language::TypeScript] {
        match declaration(language, data) {
            Ok(None) => {}
            Ok(Some(declared)) => {
                let canonical = mvm_ir::canonical(&declared.workload).expect("what was declared can be written");
                assert_eq!(mvm_ir::read(&canonical).as_ref(), Ok(&declared.workload));
                assert_eq!(declared.workload.source.is_some(), declared.local_path.is_some());
                assert!(lines.len() >= declared.place("/name").line as usize);
            }
            Err(problems) => {
                assert!((1..=20).contains(&problems.len()) && problems.is_sorted_by_key(|problem| problem.place));
                for problem in problems {
                    let line = lines.get(problem.place.line as usize - 1).expect("one of the lines");
                    assert!((1..=line.chars().count() + 1).contains(&(problem.place.column as usize)), "{problem}");
                    assert!(problem.source_line.chars().count() <= 200, "{problem}");
                    assert!(!problem.to_string().replace('\n', "").contains(char::is_control), "{problem:?}");
                }
            }
        }
    }
});
