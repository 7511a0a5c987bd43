//! Processes that append all at once and are killed at any moment: nothing that one of them was told is in the log is
//! missing from it, nothing is there twice, and the log verifies.
//!
//! `MVM_EVIDENCE_APPENDS=10000` makes it a long run.

#![allow(clippy::print_stdout, reason = "processes of a test tell it what they did")]

mod common;

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use common::{log, signer};
use mvm_evidence::{Durability, Entry, Log, verify};

/// The log's directory, for the processes of this test.
const DIR: &str = "MVM_EVIDENCE_TEST_APPEND";
const PROCESSES: usize = 8;

fn start(log: &Log, who: usize) -> Child {
    Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "an_appending_process", "--nocapture"])
        .env(DIR, format!("{who} {}", log.dir().display()))
        .stdout(Stdio::piped())
        .spawn()
        .unwrap()
}

/// Collects what a process was told, until it is killed: index and mark of each entry.
fn collect(child: &mut Child) -> std::thread::JoinHandle<Vec<(u64, String)>> {
    let out = BufReader::new(child.stdout.take().unwrap());
    std::thread::spawn(move || {
        let told = |line: String| {
            // A line that was cut short is one that nobody was told.
            let (index, mark) = line.strip_prefix("told ")?.strip_suffix(" .")?.split_once(' ')?;
            Some((index.parse().unwrap(), mark.to_owned()))
        };
        out.lines().map_while(Result::ok).filter_map(told).collect()
    })
}

#[test]
fn killed_processes_lose_nothing_that_was_acknowledged() {
    let wanted: usize = std::env::var("MVM_EVIDENCE_APPENDS").map_or(1500, |n| n.parse().unwrap());
    let (_dir, log) = log();
    let (mut told, mut killed) = (Vec::new(), 0);
    let mut chance = 0x9e37_79b9_7f4a_7c15_u64;
    let mut who = 0;
    while told.len() < wanted {
        let mut running: Vec<_> = (0..PROCESSES)
            .map(|_| {
                who += 1;
                let mut child = start(&log, who);
                let lines = collect(&mut child);
                (child, lines)
            })
            .collect();
        for (child, _) in &mut running {
            chance = chance.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            std::thread::sleep(Duration::from_micros(chance >> 49));
            child.kill().unwrap();
            killed += 1;
        }
        for (mut child, lines) in running {
            child.wait().unwrap();
            told.extend(lines.join().unwrap());
        }
    }
    let size = log.size().unwrap();
    assert!(killed >= PROCESSES && size >= told.len() as u64);
    let entries: BTreeMap<u64, Entry> = log.entries(0).map(Result::unwrap).collect();
    assert_eq!(entries.len() as u64, size);
    for (index, mark) in &told {
        assert_eq!(&entries[index].fields["mark"], mark, "entry {index}");
    }
    let mut marks: Vec<_> = entries.values().map(|entry| &entry.fields["mark"]).collect();
    marks.sort();
    marks.dedup();
    assert_eq!(marks.len(), entries.len(), "an entry is there twice");
    log.checkpoint(&signer()).unwrap();
    let report = verify(log.dir(), &[signer().public().clone()], &[]).unwrap();
    assert!(report.is_good() && report.torn_bytes == 0, "{report:?}");
    println!("{} acknowledged of {size}, {killed} processes killed", told.len());
}

/// Not a test by itself: a process of the one above, which appends until it is killed.
#[test]
fn an_appending_process() {
    let Ok(told) = std::env::var(DIR) else { return };
    let (who, dir) = told.split_once(' ').unwrap();
    let log = Log::open_existing(dir).unwrap();
    for number in 0u64.. {
        let mark = format!("{who}-{number}");
        let entry =
            Entry::now("test.process").field("mark", &mark).field("filler", "x".repeat((number % 50) as usize * 15));
        let durability = if number % 3 == 0 { Durability::Durable } else { Durability::Batched };
        let index = log.append(&entry, durability).unwrap();
        println!("told {index} {mark} .");
        std::io::stdout().flush().unwrap();
        if number % 20 == 19 {
            log.checkpoint(&signer()).unwrap();
        }
    }
}
