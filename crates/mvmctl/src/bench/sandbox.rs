//! Lanes of sandboxes that stay, as their users reach them: over the API, and by the command line.

use std::process::{Command, Stdio};
use std::time::Instant;

use hyper::Method;
use mvm_runtime::client::Client;
use mvm_runtime::{Error, Home, Result, reconcile, sandboxes};
use mvm_wire::api::{
    CreateRequest, DeletionReport, ForkRequest, Forked, JobEvent, JobRequest, Sandbox, Stats, Written,
};
use tokio::sync::mpsc;

use super::{Lane, milliseconds, sample, wants};
use crate::run::DEFAULT_SHAPE;

const FILE_BYTES: usize = 64 << 20;
const PIECE: usize = 256 << 10;
/// What takes a good part of a second each.
const MOST_SLOW_SAMPLES: usize = 10;
/// Round trips are short.
const ROUND_TRIPS_PER_SAMPLE: usize = 4;
/// Copies made at once to tell what each further one costs.
const FURTHER: u32 = 4;
/// Fills 100 MiB of the guest's memory with something else than zeros.
const FILL: &str = "yes 0123456789abcdef | head -c 104857600 > /dev/shm/fill";

/// A sandbox that is destroyed with its measurement.
struct Measured {
    home: Home,
    id: String,
    name: String,
    client: Client,
}

impl Measured {
    async fn up(home: &Home) -> Result<Measured> {
        let request = CreateRequest {
            image: "base".into(),
            cpus: DEFAULT_SHAPE.cpus,
            memory_mib: DEFAULT_SHAPE.memory_mib,
            disk_bytes: DEFAULT_SHAPE.disk_bytes,
            ttl_ms: Some(600_000),
            ..CreateRequest::default()
        };
        let (sandbox, _) =
            sandboxes::create(home, request, |_| Ok(Default::default()), &mvm_runtime::progress::Silent).await?;
        Ok(Measured::of(home, sandbox))
    }

    fn of(home: &Home, sandbox: Sandbox) -> Measured {
        let client = Client::new(&sandbox.socket);
        Measured { home: home.clone(), id: sandbox.id, name: sandbox.name, client }
    }

    async fn exec(&self, argv: &[&str]) -> Result<()> {
        let argv = argv.iter().map(|arg| (*arg).to_owned()).collect();
        let request = JobRequest { argv, attached: true, ..JobRequest::default() };
        let mut events = self.client.lines(Method::POST, "/v1/jobs", Some(&request)).await?;
        while let Some(event) = events.next().await? {
            match event {
                JobEvent::Ended { result } if result.exit_code == Some(0) => return Ok(()),
                JobEvent::Ended { result } => return Err(Error::internal("a sample failed", result.in_words())),
                _ => {}
            }
        }
        Err(Error::internal("a sample failed", "the command has no result"))
    }

    async fn write(&self) -> Result<()> {
        let (sender, pieces) = mpsc::channel(4);
        tokio::spawn(async move {
            for _ in 0..FILE_BYTES / PIECE {
                let _ = sender.send(vec![7; PIECE]).await;
            }
        });
        let written: Written = self.client.put("/v1/files?path=%2Froot%2Ff", pieces).await?;
        expect(written.bytes as usize)
    }

    async fn read(&self) -> Result<()> {
        let (mut bytes, mut seen) = (self.client.bytes("/v1/files?path=%2Froot%2Ff").await?, 0);
        while let Some(piece) = bytes.next().await? {
            seen += piece.len();
        }
        expect(seen)
    }

    async fn change(&self, how: &str) -> Result<f64> {
        let started = Instant::now();
        let _: Sandbox = self.client.post_slowly(&format!("/v1/sandbox/{how}")).await?;
        Ok(milliseconds(started))
    }

    async fn fork(&self, count: u32) -> Result<Vec<Measured>> {
        let request = ForkRequest { count, ..ForkRequest::default() };
        let forked: Forked = self.client.post_patiently("/v1/sandbox/fork", &request).await?;
        Ok(forked.sandboxes.into_iter().map(|sandbox| Measured::of(&self.home, sandbox)).collect())
    }

    async fn destroy(self) -> Result<()> {
        let _: DeletionReport = self.client.post_slowly("/v1/sandbox/destroy").await?;
        Ok(())
    }
}

impl Drop for Measured {
    fn drop(&mut self) {
        let _ = reconcile::destroy_by_force(&self.home, &self.id, "its measurement is over");
    }
}

fn expect(bytes: usize) -> Result<()> {
    if bytes == FILE_BYTES { Ok(()) } else { Err(Error::internal("a transfer lost bytes", bytes)) }
}

/// Fills the lanes of sandboxes.
pub async fn measure(home: &Home, lanes: &mut [Lane], samples: usize) -> Result<()> {
    let few = samples.min(MOST_SLOW_SAMPLES);
    if wants(lanes, &["exec-api", "exec-cli", "file-write", "file-read", "memory-idle", "memory-supervisor"]) {
        in_one(home, lanes, samples, few).await?;
    }
    if wants(lanes, &["pause", "resume"]) {
        saved(home, lanes, few).await?;
    }
    if wants(lanes, &["port-out", "port-in", "port-latency"]) {
        let sandbox = Measured::up(home).await?;
        super::port::measure(&sandbox.client, lanes, samples).await?;
        sandbox.destroy().await?;
    }
    if wants(lanes, &["fork", "fork-further", "fork-10"]) {
        forks(home, lanes, few).await?;
    }
    if wants(lanes, &["up-30"]) {
        many(home, lanes, few.min(3)).await?;
    }
    Ok(())
}

async fn in_one(home: &Home, lanes: &mut [Lane], samples: usize, few: usize) -> Result<()> {
    let sandbox = Measured::up(home).await?;
    // Another one, as only then the host tells what they share from what each has alone.
    let other = Measured::up(home).await?;
    let stats: Stats = sandbox.client.get("/v1/sandbox/stats").await?;
    let mib = |bytes: u64| bytes as f64 / f64::from(1 << 20);
    sample(lanes, "memory-idle", mib(stats.vmm_private_bytes.unwrap_or(0) + stats.supervisor_private_bytes));
    sample(lanes, "memory-supervisor", mib(stats.supervisor_private_bytes));
    drop(other);
    for round in 0..=samples * ROUND_TRIPS_PER_SAMPLE {
        let started = Instant::now();
        sandbox.exec(&["true"]).await?;
        if round > 0 {
            sample(lanes, "exec-api", milliseconds(started));
        }
    }
    for _ in 0..samples * ROUND_TRIPS_PER_SAMPLE {
        let started = Instant::now();
        let program = std::env::current_exe().map_err(|e| Error::io("cannot find mvmctl itself", e))?;
        let command = ["exec", &sandbox.name, "--", "true"];
        let status = Command::new(program).args(command).stdin(Stdio::null()).stdout(Stdio::null()).status();
        match status {
            Ok(status) if status.success() => sample(lanes, "exec-cli", milliseconds(started)),
            other => return Err(Error::internal("a sample of exec-cli failed", format!("{other:?}"))),
        }
    }
    let rate = |started: Instant| FILE_BYTES as f64 / 1e6 / started.elapsed().as_secs_f64();
    for round in 0..=few {
        let started = Instant::now();
        sandbox.write().await?;
        let written = rate(started);
        let started = Instant::now();
        sandbox.read().await?;
        if round > 0 {
            sample(lanes, "file-write", written);
            sample(lanes, "file-read", rate(started));
        }
    }
    sandbox.destroy().await
}

async fn saved(home: &Home, lanes: &mut [Lane], few: usize) -> Result<()> {
    let sandbox = Measured::up(home).await?;
    sandbox.exec(&["sh", "-c", FILL]).await?;
    for _ in 0..few {
        let paused = sandbox.change("pause").await?;
        sample(lanes, "pause", paused);
        let resumed = sandbox.change("resume").await?;
        sample(lanes, "resume", resumed);
    }
    sandbox.destroy().await
}

async fn forks(home: &Home, lanes: &mut [Lane], few: usize) -> Result<()> {
    let sandbox = Measured::up(home).await?;
    sandbox.exec(&["true"]).await?;
    for _ in 0..few {
        let one = timed_forks(&sandbox, 1).await?;
        let all = timed_forks(&sandbox, 1 + FURTHER).await?;
        sample(lanes, "fork", one);
        sample(lanes, "fork-further", (all - one) / f64::from(FURTHER));
        let started = Instant::now();
        let ten = sandbox.fork(10).await?;
        sample(lanes, "fork-10", milliseconds(started));
        drop(ten);
    }
    sandbox.destroy().await
}

/// From the request to the last copy's first command, in milliseconds.
async fn timed_forks(sandbox: &Measured, count: u32) -> Result<f64> {
    let started = Instant::now();
    let copies = sandbox.fork(count).await?;
    for copy in &copies {
        copy.exec(&["true"]).await?;
    }
    Ok(milliseconds(started))
}

async fn many(home: &Home, lanes: &mut [Lane], rounds: usize) -> Result<()> {
    for _ in 0..rounds {
        let started = Instant::now();
        let births: Vec<_> = (0..30)
            .map(|_| {
                let home = home.clone();
                std::thread::spawn(move || crate::commands::block_on(Measured::up(&home)))
            })
            .collect();
        let failed = |_| Error::internal("a sample of up-30 failed", "its thread panicked");
        let born: Vec<Result<Measured>> = births.into_iter().map(|birth| birth.join().map_err(failed)?).collect();
        let elapsed = milliseconds(started);
        born.into_iter().collect::<Result<Vec<_>>>()?;
        sample(lanes, "up-30", elapsed);
    }
    Ok(())
}
