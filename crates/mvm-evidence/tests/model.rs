//! The log against a list: any order of appends, checkpoints, torn writes and new processes leaves what a list would have.

mod common;

use std::fs;

use common::{entry, log, signer};
use mvm_evidence::{Durability, Log, Proof, verify};
use proptest::prelude::*;

#[derive(Debug, Clone)]
enum Step {
    /// Adds so many entries.
    Append(u64),
    /// Signs.
    Checkpoint,
    /// Another process takes over.
    Reopen,
    /// A write that was cut short: only so many bytes of a record are there. The next append clears them away.
    Tear(usize),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => (1u64..40).prop_map(Step::Append),
        2 => (200u64..300).prop_map(Step::Append),
        3 => Just(Step::Checkpoint),
        1 => Just(Step::Reopen),
        1 => (1usize..8).prop_map(Step::Tear),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(40))]

    #[test]
    fn a_log_is_a_list(steps in proptest::collection::vec(step(), 1..12), picks in proptest::collection::vec(any::<u64>(), 4)) {
        let (_dir, mut log) = log();
        let keys = [signer().public().clone()];
        let (mut size, mut torn, mut checkpoints) = (0, false, Vec::new());
        for step in steps {
            match step {
                Step::Append(count) => {
                    for number in size..size + count {
                        prop_assert_eq!(log.append(&entry(number), Durability::Batched).unwrap(), number);
                    }
                    size += count;
                    torn = false;
                }
                Step::Checkpoint => checkpoints.push(log.checkpoint(&signer()).unwrap()),
                Step::Reopen => log = Log::open(log.dir()).unwrap(),
                Step::Tear(_) if torn => {}
                Step::Tear(bytes) => {
                    let journal = log.dir().join("journal");
                    let with_a_part = [fs::read(&journal).unwrap(), vec![1; bytes]].concat();
                    fs::write(&journal, with_a_part).unwrap();
                    torn = true;
                }
            }
        }
        prop_assert_eq!(log.size().unwrap(), size);
        let all: Vec<_> = log.entries(0).map(Result::unwrap).collect();
        prop_assert_eq!(all, (0..size).map(|number| (number, entry(number))).collect::<Vec<_>>());
        let witnesses: Vec<_> = checkpoints.iter().map(|checkpoint| checkpoint.as_str().as_bytes().to_vec()).collect();
        let report = verify(log.dir(), &keys, &witnesses).unwrap();
        prop_assert!(report.is_good(), "{:?}", report);
        // What was signed at any time is still so, and every entry of it can be proven.
        for checkpoint in &checkpoints {
            log.must_agree(checkpoint).unwrap();
            for pick in picks.iter().filter(|_| checkpoint.size() > 0) {
                let index = pick % checkpoint.size();
                let proof = log.prove(index, checkpoint).unwrap().to_text();
                let included = Proof::verify(proof.as_bytes(), &keys).unwrap();
                prop_assert_eq!((included.index, included.entry), (index, entry(index)));
            }
        }
    }
}
