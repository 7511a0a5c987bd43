//! Lanes inside one running machine: round trips, transfer rates, memory.

use std::time::Instant;

use mvm_runtime::command::{self, Outcome, Streams};
use mvm_runtime::policy::Policy;
use mvm_runtime::run::{self, Ready, RunRequest};
use mvm_runtime::{Error, Home, Result};
use mvm_wire::guest::{Exec, Status};
use tokio::sync::mpsc;

use super::Lane;
use crate::run::DEFAULT_SHAPE;

/// The lanes that are measured here.
pub const LANES: [&str; 5] = ["exec", "transfer-in", "transfer-out", "memory-vmm", "memory-all"];

const TRANSFER_BYTES: usize = 64 << 20;
const PIECE: usize = 256 << 10;
/// Transfers take most of a second each.
const MOST_TRANSFERS: usize = 10;
/// Round trips are short.
const ROUND_TRIPS_PER_SAMPLE: usize = 4;

/// Fills the lanes that have no samples yet.
pub async fn measure(home: &Home, lanes: &mut [Lane], samples: usize) -> Result<()> {
    let request = RunRequest {
        // Its programs are static: what is measured is mvm, not the dynamic linker.
        image: "base".into(),
        shape: DEFAULT_SHAPE,
        argv: Vec::new(),
        env: Vec::new(),
        secrets: Default::default(),
        no_redact: false,
        cwd: String::new(),
        user: String::new(),
        stdin: false,
        tty: None,
        no_template: false,
        policy: Policy::default(),
    };
    let prepared = run::prepare(home, &request, &mvm_runtime::progress::Silent).await?;
    let ready = run::start(&prepared, &request).await?;
    // Not counted: what runs for the first time is translated.
    exec(&ready, &["true"], None).await?;
    // A second one, as only then the host tells what they share from what each has alone.
    let second = run::start(&prepared, &request).await?;
    exec(&second, &["true"], None).await?;
    for lane in lanes.iter_mut().filter(|lane| matches!(lane.name, "memory-vmm" | "memory-all")) {
        let mut bytes = private_memory(ready.machine.pid())?;
        if lane.name == "memory-all" {
            bytes += private_memory(std::process::id())?;
        }
        lane.samples.push(bytes as f64 / f64::from(1 << 20));
    }
    drop(second);
    for lane in lanes.iter_mut().filter(|lane| LANES.contains(&lane.name) && lane.samples.is_empty()) {
        let count = if lane.name == "exec" { samples * ROUND_TRIPS_PER_SAMPLE } else { samples.min(MOST_TRANSFERS) };
        for round in 0..=count {
            let started = Instant::now();
            match lane.name {
                "exec" => drop(exec(&ready, &["true"], None).await?),
                "transfer-in" => drop(exec(&ready, &["sh", "-c", "cat > /dev/null"], Some(TRANSFER_BYTES)).await?),
                _ => expect(exec(&ready, &["dd", "if=/dev/zero", "bs=256k", "count=256"], None).await?)?,
            }
            let seconds = started.elapsed().as_secs_f64();
            let sample = if lane.name == "exec" { seconds * 1000.0 } else { TRANSFER_BYTES as f64 / 1e6 / seconds };
            lane.samples.extend((round > 0).then_some(sample));
        }
    }
    Ok(())
}

fn expect(bytes: usize) -> Result<()> {
    if bytes == TRANSFER_BYTES { Ok(()) } else { Err(Error::internal("a transfer lost bytes", bytes)) }
}

/// Runs a command with `input` bytes of zeros; returns how much it wrote.
async fn exec(ready: &Ready, argv: &[&str], input: Option<usize>) -> Result<usize> {
    let request =
        Exec { argv: argv.iter().map(|arg| (*arg).to_owned()).collect(), stdin: input.is_some(), ..Exec::default() };
    let (sender, feed) = mpsc::channel(4);
    let (_keep, mut control) = mpsc::channel(1);
    let send = async move {
        for _ in 0..input.unwrap_or(0) / PIECE {
            let _ = sender.send(vec![0; PIECE]).await;
        }
    };
    let mut counted = Counted(0);
    let witness = mvm_runtime::witness::Witness::new()?;
    let attend = command::complete(&ready.guest, request, None, feed, &mut control, &mut counted, &witness);
    let (attended, ()) = tokio::join!(attend, send);
    match attended?.outcome {
        Outcome::Exited(exited) if exited.status == Status::Code(0) => Ok(counted.0),
        other => Err(Error::internal("a command for measurement failed", format!("{other:?}"))),
    }
}

struct Counted(usize);

impl Streams for Counted {
    async fn stdout(&mut self, bytes: &[u8]) -> Result<()> {
        self.0 += bytes.len();
        Ok(())
    }

    async fn stderr(&mut self, _: &[u8]) -> Result<()> {
        Ok(())
    }
}

fn private_memory(pid: u32) -> Result<u64> {
    mvm_runtime::process::private_bytes(pid).ok_or_else(|| Error::internal("cannot measure memory", "no such process"))
}
