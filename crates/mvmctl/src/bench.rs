//! `mvmctl bench`: measures this machine, each lane apart from the others, raw samples included.
//!
//! Lanes that are whole processes are taken in turn, round by round, with a bare QEMU start among them, so that their
//! ratio to it holds on a machine whose speed drifts.

mod guest;
mod port;
mod process;
mod report;
mod sandbox;

use std::time::Instant;

use mvm_runtime::home::Home;
use mvm_runtime::host::Host;
use mvm_runtime::{Error, ErrorCode, Progress, Result, setup as runtime_setup};
use serde::Serialize;
use serde_json::{Value, json};

use crate::args::BenchArgs;
use crate::commands::block_on;
use crate::progress::Drawn;
use crate::run::DEFAULT_SHAPE;
use crate::{output, signals};
use process::Process;

/// What a lane's samples are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub enum Unit {
    /// Milliseconds.
    #[serde(rename = "ms")]
    Milliseconds,
    /// Megabytes (10^6) in a second.
    #[serde(rename = "MB/s")]
    MegabytesPerSecond,
    /// Mebibytes.
    #[serde(rename = "MiB")]
    Mebibytes,
}

/// One lane and what was measured.
#[derive(Debug, Clone, Serialize)]
pub struct Lane {
    /// Its name.
    pub name: &'static str,
    /// What it measures.
    pub about: &'static str,
    /// Unit of the samples.
    pub unit: Unit,
    /// Budget for the median, in words.
    pub budget: &'static str,
    /// In the order they were taken.
    pub samples: Vec<f64>,
}

/// Names of all lanes, in the order of the report.
const LANES: [(&str, &str, Unit, &str); 30] = [
    ("qemu-start", "bare QEMU process to its control socket", Unit::Milliseconds, "the yardstick"),
    ("version", "mvmctl --version", Unit::Milliseconds, "5 ms"),
    ("compile", "mvmctl compile of a file that declares a workload", Unit::Milliseconds, "30 ms"),
    ("run-base", "mvmctl run --image base -- true", Unit::Milliseconds, "8 × qemu-start"),
    ("run-restrictive", "the same with --profile restrictive", Unit::Milliseconds, ""),
    ("run-receipt", "run-base with --receipt FILE", Unit::Milliseconds, "run-base + 10 ms"),
    ("run-debian", "mvmctl run -- true", Unit::Milliseconds, "10 × qemu-start"),
    ("cold-base", "the same as run-base, booted without a template", Unit::Milliseconds, ""),
    ("up-base", "mvmctl up --image base", Unit::Milliseconds, ""),
    ("up-workload", "mvmctl up of a workload that was built on it", Unit::Milliseconds, "1.5 × up-base"),
    ("exec", "true in a running machine, over the agent channel", Unit::Milliseconds, "5 ms"),
    ("transfer-in", "64 MiB into a running machine", Unit::MegabytesPerSecond, "60 MB/s"),
    ("transfer-out", "64 MiB out of a running machine", Unit::MegabytesPerSecond, "60 MB/s"),
    ("memory-vmm", "private memory of QEMU for a clone in use", Unit::Mebibytes, "50 MiB"),
    ("memory-all", "the same with mvm's own process", Unit::Mebibytes, "62 MiB"),
    ("exec-api", "true in a sandbox, over its API", Unit::Milliseconds, "5 ms"),
    ("exec-cli", "mvmctl exec SANDBOX -- true", Unit::Milliseconds, "12 ms"),
    ("file-write", "a file of 64 MiB into a sandbox, over its API", Unit::MegabytesPerSecond, "60 MB/s"),
    ("file-read", "a file of 64 MiB out of a sandbox, over its API", Unit::MegabytesPerSecond, "60 MB/s"),
    ("memory-idle", "private memory of an idle sandbox: QEMU and supervisor", Unit::Mebibytes, "62 MiB"),
    ("memory-supervisor", "the supervisor's part of that", Unit::Mebibytes, "12 MiB"),
    ("pause", "to cold, 256 MiB guest with 100 MiB in use", Unit::Milliseconds, "500 ms"),
    ("resume", "back from that", Unit::Milliseconds, "200 ms"),
    ("port-out", "64 MiB out of a sandbox, through a port", Unit::MegabytesPerSecond, "50 MB/s"),
    ("port-in", "64 MiB into a sandbox, through a port", Unit::MegabytesPerSecond, "50 MB/s"),
    ("port-latency", "64 bytes there and back through a port", Unit::Milliseconds, "2 ms"),
    ("fork", "one copy of a running sandbox, to its first exec", Unit::Milliseconds, ""),
    ("fork-further", "each further copy, to its first exec", Unit::Milliseconds, "200 ms"),
    ("fork-10", "ten copies at once, until all run", Unit::Milliseconds, ""),
    ("up-30", "30 sandboxes at once, until all run", Unit::Milliseconds, ""),
];

/// Runs the verb.
pub fn bench(args: &BenchArgs) -> u8 {
    let _signals = signals::listen();
    match measure(args) {
        Ok(()) => output::SUCCESS,
        Err(error) => output::error(&error, args.json),
    }
}

fn measure(args: &BenchArgs) -> Result<()> {
    for name in &args.lanes {
        if !LANES.iter().any(|(known, ..)| known == name) {
            let known: Vec<&str> = LANES.iter().map(|(known, ..)| *known).collect();
            return Err(Error::new(
                ErrorCode::InvalidRequest,
                format!("there is no lane {name:?}"),
                format!("lanes: {}", known.join(", ")),
            ));
        }
    }
    let home = Home::locate()?;
    let progress = Drawn::new(args.json);
    block_on(runtime_setup::everything(&home, &DEFAULT_SHAPE, &["base".to_owned(), "debian".to_owned()], &progress))?;
    let host = Host::load(&home)?;
    let wanted =
        |name: &str| args.lanes.is_empty() || args.lanes.iter().any(|lane| lane == name) || name == "qemu-start";
    let mut lanes: Vec<Lane> = LANES
        .iter()
        .filter(|(name, ..)| wanted(name))
        .map(|(name, about, unit, budget)| Lane { name, about, unit: *unit, budget, samples: Vec::new() })
        .collect();
    let samples = args.samples as usize;
    let process = Process::new(&home, &host, samples)?;
    progress.step("measuring");
    // The first round warms the host's page cache and does not count.
    for round in 0..=samples {
        progress.detail(&format!("round {round} of {samples}"));
        for lane in &mut lanes {
            if let Some(sample) = process.sample(lane.name, round)? {
                lane.samples.extend((round > 0).then_some(sample));
            }
        }
    }
    if lanes.iter().any(|lane| guest::LANES.contains(&lane.name)) {
        block_on(guest::measure(&home, &mut lanes, samples))?;
    }
    if lanes.iter().any(|lane| lane.samples.is_empty()) {
        progress.detail("sandboxes");
        block_on(sandbox::measure(&home, &mut lanes, samples))?;
    }
    progress.done("");
    let results =
        json!({ "host": fingerprint(&host), "lanes": lanes.iter().map(report::summary).collect::<Vec<Value>>() });
    if let Some(path) = &args.markdown {
        report::write_markdown(path, &host, &results)?;
    }
    if args.json {
        output::print_json(&results);
    } else {
        report::print(&results);
    }
    Ok(())
}

/// Adds a sample to a lane, if it is wanted.
fn sample(lanes: &mut [Lane], name: &str, value: f64) {
    if let Some(lane) = lanes.iter_mut().find(|lane| lane.name == name) {
        lane.samples.push(value);
    }
}

fn wants(lanes: &[Lane], names: &[&str]) -> bool {
    lanes.iter().any(|lane| names.contains(&lane.name))
}

fn milliseconds(since: Instant) -> f64 {
    since.elapsed().as_secs_f64() * 1000.0
}

/// What the figures depend on.
fn fingerprint(host: &Host) -> Value {
    let kernel = rustix::system::uname().release().to_string_lossy().into_owned();
    let processors = std::thread::available_parallelism().map_or(0, |n| n.get());
    json!({
        "cpu": host.cpu_model,
        "processors": processors,
        "kernel": kernel,
        "qemu": host.qemu.version,
        "accelerator": host.accelerator(),
        "mvmctl": env!("CARGO_PKG_VERSION"),
        "build": if cfg!(debug_assertions) { "debug" } else { "release" },
    })
}
