//! Lanes of ports: a plain socket of this host, and busybox's `nc` with a program in the sandbox.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpStream};
use std::time::{Duration, Instant};

use mvm_runtime::client::Client;
use mvm_runtime::{Error, Result};
use mvm_wire::api::{Job, JobRequest, Port, PortRequest};

use super::{Lane, milliseconds, sample, wants};

const BYTES: usize = 64 << 20;
const PIECE: usize = 256 << 10;
const MESSAGE: usize = 64;
const MOST_TRANSFERS: usize = 10;
const MOST_MESSAGES: usize = 200;
/// How long a server in the sandbox may take to listen.
const LISTENS: Duration = Duration::from_secs(10);

/// Fills the lanes of ports.
pub async fn measure(client: &Client, lanes: &mut [Lane], samples: usize) -> Result<()> {
    let transfers = samples.min(MOST_TRANSFERS);
    let rate = |seconds: f64| BYTES as f64 / 1e6 / seconds;
    if wants(lanes, &["port-out"]) {
        let port = serve(client, 7001, &["dd", "if=/dev/zero", "bs=256k", "count=256"]).await?;
        for round in 0..=transfers {
            let seconds = blocking(move || receive(port)).await?;
            if round > 0 {
                sample(lanes, "port-out", rate(seconds));
            }
        }
    }
    if wants(lanes, &["port-in"]) {
        let port = serve(client, 7002, &["sh", "-c", "cat > /dev/null"]).await?;
        for round in 0..=transfers {
            let seconds = blocking(move || send(port)).await?;
            if round > 0 {
                sample(lanes, "port-in", rate(seconds));
            }
        }
    }
    if wants(lanes, &["port-latency"]) {
        let port = serve(client, 7003, &["cat"]).await?;
        for trip in blocking(move || round_trips(port, samples.min(MOST_MESSAGES) * 4)).await? {
            sample(lanes, "port-latency", trip);
        }
    }
    Ok(())
}

/// Starts a server that runs a program for each connection; returns the port of this host that leads to it.
async fn serve(client: &Client, guest_port: u16, program: &[&str]) -> Result<u16> {
    let number = guest_port.to_string();
    let argv = ["nc", "-ll", "-p", &number, "-e"].iter().chain(program).map(|arg| (*arg).to_owned()).collect();
    let _: Job = client.post("/v1/jobs", Some(&JobRequest { argv, ..JobRequest::default() })).await?;
    let (address, protocol) = (std::net::Ipv4Addr::LOCALHOST.into(), "tcp".to_owned());
    let request = PortRequest { address, host_port: 0, guest_port, protocol };
    let port: Port = client.post("/v1/ports", Some(&request)).await?;
    let host_port = port.host_port;
    blocking(move || until_it_listens(host_port)).await?;
    Ok(host_port)
}

/// Sockets that block, away from the event loop.
async fn blocking<T: Send + 'static>(work: impl FnOnce() -> std::io::Result<T> + Send + 'static) -> Result<T> {
    let done = tokio::task::spawn_blocking(work).await;
    let failed = |e: std::io::Error| Error::io("a connection through a port failed", e);
    done.map_err(|e| Error::internal("a measurement failed", e))?.map_err(failed)
}

/// A connection to a port whose server does not listen yet is reset.
fn until_it_listens(port: u16) -> std::io::Result<()> {
    let since = Instant::now();
    loop {
        match receive_all(&mut connect(port)?) {
            Err(e) if since.elapsed() > LISTENS => return Err(e),
            Err(_) => std::thread::sleep(Duration::from_millis(20)),
            Ok(_) => return Ok(()),
        }
    }
}

fn connect(port: u16) -> std::io::Result<TcpStream> {
    let stream = TcpStream::connect(("127.0.0.1", port))?;
    stream.set_nodelay(true)?;
    Ok(stream)
}

fn receive_all(stream: &mut TcpStream) -> std::io::Result<usize> {
    stream.shutdown(Shutdown::Write)?;
    let (mut piece, mut bytes) = (vec![0; PIECE], 0);
    loop {
        match stream.read(&mut piece)? {
            0 => return Ok(bytes),
            len => bytes += len,
        }
    }
}

fn receive(port: u16) -> std::io::Result<f64> {
    let started = Instant::now();
    match receive_all(&mut connect(port)?)? {
        BYTES => Ok(started.elapsed().as_secs_f64()),
        other => Err(std::io::Error::other(format!("{other} bytes came instead of {BYTES}"))),
    }
}

fn send(port: u16) -> std::io::Result<f64> {
    let (mut stream, piece) = (connect(port)?, vec![7; PIECE]);
    let started = Instant::now();
    (0..BYTES / PIECE).try_for_each(|_| stream.write_all(&piece))?;
    // Its end comes when the program in the sandbox has read everything.
    receive_all(&mut stream)?;
    Ok(started.elapsed().as_secs_f64())
}

fn round_trips(port: u16, count: usize) -> std::io::Result<Vec<f64>> {
    let mut stream = connect(port)?;
    let mut message = [7; MESSAGE];
    let mut trips = Vec::new();
    for round in 0..=count {
        let started = Instant::now();
        stream.write_all(&message)?;
        stream.read_exact(&mut message)?;
        trips.extend((round > 0).then(|| milliseconds(started)));
    }
    Ok(trips)
}
