//! Ports of the host that lead into the sandbox. The supervisor listens on them for as long as the sandbox exists, so
//! nobody else gets them meanwhile; while no machine runs, a connection is reset.
//!
//! Which ports there are is written beside the disk: a supervisor that takes another one's place listens on them again.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use mvm_wire::ErrorCode;
use mvm_wire::api::{ErrorBody, Port, PortName, PortRequest, PortStatus, State as SandboxState};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::Semaphore;
use tokio::task::{JoinHandle, JoinSet};

use super::Supervisor;
use super::http::{Answer, Failed, Given, Shared};
use crate::capabilities;
use crate::connect;
use crate::error::{Error, Result};
use crate::home::{Home, read_json, write_atomically};
use crate::host::Host;
use crate::lifecycle;
use crate::policy::{Ask, Operation, PORTS_FORWARD};
use crate::vmm::guest::Channel;

/// Ports of one sandbox.
const MAX_PORTS: usize = 64;
/// Connections at once to one port, and to all of them: a port that is full leaves some for the others. With a piece and
/// a window of the session each way, a connection holds some hundred KiB at most.
const MAX_CONNECTIONS_EACH: usize = 320;
const MAX_CONNECTIONS: usize = 400;
/// Connections that the kernel holds until they are accepted: as many as may come at once.
const BACKLOG: u32 = 1024;
/// How long to wait when the host is out of descriptors.
const BREATH: Duration = Duration::from_millis(100);

/// The ports that lead into one sandbox.
pub struct Ports {
    file: PathBuf,
    all: Mutex<Vec<Forward>>,
    connections: Arc<Semaphore>,
}

/// One of them.
struct Forward {
    name: PortName,
    guest_port: u16,
    listening: Result<Listening>,
}

/// One on which somebody listens. Ends, with its connections, when it is dropped.
struct Listening {
    task: JoinHandle<()>,
    shared: Arc<OnePort>,
}

/// What a port's connections share.
struct OnePort {
    guest_port: u16,
    connections: Arc<Semaphore>,
    /// What became of the last connection that did not come about.
    trouble: Mutex<String>,
}

impl Drop for Listening {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Ports {
    /// Those that are written in `file`, once they are opened again.
    pub fn new(file: PathBuf) -> Ports {
        Ports { file, all: Mutex::default(), connections: Arc::new(Semaphore::new(MAX_CONNECTIONS)) }
    }

    fn all(&self) -> MutexGuard<'_, Vec<Forward>> {
        self.all.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Listens on none of them any more, and resets all connections.
    pub fn close(&self) {
        self.all().clear();
    }

    fn write<'a>(&self, all: impl Iterator<Item = &'a Forward>) -> Result<()> {
        let all: Vec<PortRequest> = all.map(Forward::request).collect();
        let bytes = serde_json::to_vec(&all).map_err(|e| Error::internal("cannot record the ports", e))?;
        write_atomically(&self.file, &bytes)
    }
}

impl Forward {
    fn request(&self) -> PortRequest {
        let PortName { address, host_port } = self.name;
        PortRequest { address, host_port, guest_port: self.guest_port, protocol: "tcp".to_owned() }
    }

    fn describe(&self, state: SandboxState) -> Port {
        let (status, why) = match &self.listening {
            Err(error) => (PortStatus::Failed, error.why.clone()),
            Ok(_) if state != SandboxState::Running => (PortStatus::Refused, format!("the sandbox is {state}")),
            Ok(listening) => (PortStatus::Open, listening.shared.trouble().clone()),
        };
        let free = self.listening.as_ref().map_or(MAX_CONNECTIONS_EACH, |l| l.shared.connections.available_permits());
        let PortRequest { address, host_port, guest_port, protocol } = self.request();
        Port {
            address,
            host_port,
            guest_port,
            protocol,
            exposed: self.name.exposed(),
            status,
            why,
            connections: (MAX_CONNECTIONS_EACH - free) as u32,
            rule: PORTS_FORWARD.to_owned(),
            audit_id: None,
        }
    }
}

impl OnePort {
    fn trouble(&self) -> MutexGuard<'_, String> {
        self.trouble.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Refuses ports that no sandbox can have.
pub fn check(home: &Home, requests: &[PortRequest]) -> Result<()> {
    for (index, request) in requests.iter().enumerate() {
        let what = || format!("cannot forward the port {}", name_of(request));
        let invalid = |why: &str| Err(Error::new(ErrorCode::InvalidRequest, what(), why));
        match request.protocol.as_str() {
            "tcp" => {}
            "udp" => {
                let lacking = capabilities::lacking(&Host::load(home)?, capabilities::PORTS_UDP, what());
                return Err(lacking.hint("leave out /udp to forward TCP"));
            }
            _ => return invalid("there is no such protocol: there is tcp"),
        }
        if request.guest_port == 0 {
            return invalid("0 is no port in the sandbox: only the host's can be any that is free");
        }
        let same = |other: &&PortRequest| other.host_port != 0 && name_of(other) == name_of(request);
        if requests[..index].iter().find(same).is_some() {
            return invalid("it is asked for twice");
        }
    }
    match requests.len() {
        0..=MAX_PORTS => Ok(()),
        _ => Err(too_many()),
    }
}

fn name_of(request: &PortRequest) -> PortName {
    PortName { address: request.address.to_canonical(), host_port: request.host_port }
}

fn too_many() -> Error {
    Error::new(
        ErrorCode::ResourceExhausted,
        "cannot forward another port",
        format!("a sandbox has {MAX_PORTS} at most"),
    )
    .hint("mvmctl port rm NAME PORT")
}

impl Supervisor {
    /// Opens a port. It leads into the sandbox when this returns, and again after the supervisor was replaced.
    pub fn add_port(self: &Arc<Self>, request: &PortRequest) -> Result<Port> {
        check(&self.home, std::slice::from_ref(request))?;
        let ask = Ask { ports: std::slice::from_ref(request), ..Ask::default() };
        let (_, audit_id) = self.authorise(Operation::Port, &ask, "")?;
        Ok(Port { audit_id: Some(audit_id), ..self.open_asked_port(request)? })
    }

    /// The same of one that was decided about already.
    pub fn open_asked_port(self: &Arc<Self>, request: &PortRequest) -> Result<Port> {
        let name = name_of(request);
        let mut all = self.ports.all();
        if let Some(there) = all.iter().find(|there| there.name == name) {
            let what = format!("cannot forward the port {name}");
            let why = format!("it leads to port {} of this sandbox already", there.guest_port);
            return Err(Error::new(ErrorCode::InvalidRequest, what, why).hint("remove that first (mvmctl port rm)"));
        }
        if all.len() >= MAX_PORTS {
            return Err(too_many());
        }
        let forward = self.open_port(name, request.guest_port)?;
        self.ports.write(all.iter().chain([&forward]))?;
        let port = forward.describe(*self.state.borrow());
        all.push(forward);
        Ok(port)
    }

    /// Opens the ports that an earlier supervisor had. One that cannot be had again says why when it is listed.
    pub fn reopen_ports(self: &Arc<Self>) {
        let known: Vec<PortRequest> = read_json(&self.ports.file).unwrap_or_default();
        let reopened = known.iter().take(MAX_PORTS).map(|request| {
            let (name, guest_port) = (name_of(request), request.guest_port);
            self.open_port(name.clone(), guest_port).unwrap_or_else(|e| Forward { name, guest_port, listening: Err(e) })
        });
        *self.ports.all() = reopened.collect();
    }

    /// Closes a port, and resets its connections. Nobody listens there any more when this returns.
    pub async fn remove_port(&self, name: &PortName) -> Result<()> {
        let removed = self.forget_port(name)?;
        if let Ok(mut listening) = removed.listening {
            listening.task.abort();
            let _ = (&mut listening.task).await;
        }
        Ok(())
    }

    fn forget_port(&self, name: &PortName) -> Result<Forward> {
        let mut all = self.ports.all();
        let name = PortName { address: name.address.to_canonical(), host_port: name.host_port };
        let index = all.iter().position(|forward| forward.name == name).ok_or_else(|| {
            let why = "this sandbox has no such port";
            Error::new(ErrorCode::NotFound, format!("cannot remove the port {name}"), why).hint("mvmctl port ls NAME")
        })?;
        self.ports.write(all.iter().enumerate().filter(|(at, _)| *at != index).map(|(_, forward)| forward))?;
        Ok(all.remove(index))
    }

    /// All ports, in the order in which they were opened.
    pub fn list_ports(&self) -> Vec<Port> {
        let state = *self.state.borrow();
        self.ports.all().iter().map(|forward| forward.describe(state)).collect()
    }

    fn open_port(self: &Arc<Self>, name: PortName, guest_port: u16) -> Result<Forward> {
        let opened = listen(name.address, name.host_port).and_then(|listener| Ok((listener.local_addr()?, listener)));
        let (bound, listener) = opened.map_err(|e| cannot_listen(&name, e))?;
        let connections = Arc::new(Semaphore::new(MAX_CONNECTIONS_EACH));
        let shared = Arc::new(OnePort { guest_port, connections, trouble: Mutex::default() });
        let task = tokio::spawn(self.clone().accept(listener, shared.clone()));
        let name = PortName { host_port: bound.port(), ..name };
        Ok(Forward { name, guest_port, listening: Ok(Listening { task, shared }) })
    }

    /// Accepts connections until it is aborted; they end with it.
    async fn accept(self: Arc<Self>, listener: TcpListener, port: Arc<OnePort>) {
        let mut connections = JoinSet::new();
        loop {
            let client = tokio::select! {
                accepted = listener.accept() => match accepted {
                    Ok((client, _)) => client,
                    Err(_) => {
                        tokio::time::sleep(BREATH).await;
                        continue;
                    }
                },
                Some(_) = connections.join_next() => continue,
            };
            let permits =
                (self.ports.connections.clone().try_acquire_owned(), port.connections.clone().try_acquire_owned());
            let (Ok(of_all), Ok(of_one)) = permits else {
                // Even unprepared: what is not read is reset.
                let _ = connect::prepare(&client);
                *port.trouble() = format!(
                    "a connection was refused: {MAX_CONNECTIONS_EACH} to this port, or \
                                           {MAX_CONNECTIONS} to the sandbox, are the most"
                );
                continue;
            };
            let (supervisor, port) = (self.clone(), port.clone());
            connections.spawn(async move {
                let _held = (of_all, of_one);
                supervisor.connection(client, &port).await;
            });
        }
    }

    async fn connection(&self, client: TcpStream, port: &OnePort) {
        if connect::prepare(&client).is_err() {
            return;
        }
        let dialled = tokio::time::timeout(connect::LIMIT, self.dial(port.guest_port)).await;
        let outcome = match dialled {
            Ok(Ok(channel)) => Ok(channel),
            Ok(Err(e)) => Err(e.why),
            Err(_) => Err("the machine does not answer".to_owned()),
        };
        *port.trouble() =
            outcome.as_ref().err().map_or_else(String::new, |why| format!("a connection was refused: {why}"));
        if let Ok(channel) = outcome {
            let _ = connect::carry(client, channel).await;
        }
    }

    async fn dial(&self, port: u16) -> Result<Channel> {
        let state = *self.state.borrow();
        if state != SandboxState::Running {
            return Err(lifecycle::refusal(&self.id, state, "connect to"));
        }
        self.session("connect to").await?.connect_to(port).await
    }
}

fn listen(address: IpAddr, port: u16) -> std::io::Result<TcpListener> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
    if address.is_ipv6() {
        // Only what was spelled out.
        rustix::net::sockopt::set_ipv6_v6only(&socket, true)?;
    }
    // Connections of an earlier listener that have not quite ended are no hindrance.
    socket.set_reuseaddr(true)?;
    socket.bind(SocketAddr::new(address, port))?;
    socket.listen(BACKLOG)
}

fn cannot_listen(name: &PortName, e: std::io::Error) -> Error {
    let what = format!("cannot listen on {name}");
    let errno = e.raw_os_error().unwrap_or(0);
    let error = match errno {
        libc::EADDRINUSE => Error::new(ErrorCode::AlreadyExists, what, "the port is in use")
            .hint("choose another one, or 0 for any that is free"),
        libc::EACCES => Error::new(ErrorCode::FileError, what, "ports this low are not for ordinary users")
            .hint("choose a port from 1024 up"),
        libc::EADDRNOTAVAIL => {
            Error::new(ErrorCode::InvalidRequest, what, "this host has no such address").hint("0.0.0.0 is all of them")
        }
        _ => return Error::io(what, e),
    };
    error.errno(errno)
}

/// Opens a port of the host that leads into the sandbox. It stays, also while no machine runs, until it is removed.
#[utoipa::path(post, path = "/v1/ports", request_body = PortRequest, responses((status = 200, body = Port), (status = "default", body = ErrorBody)))]
pub async fn add_port(State(supervisor): Shared, Given(request): Given<PortRequest>) -> Answer<Port> {
    Ok(Json(supervisor.add_port(&request)?))
}

/// The ports that lead into the sandbox, the oldest first.
#[utoipa::path(get, path = "/v1/ports", responses((status = 200, body = Vec<Port>), (status = "default", body = ErrorBody)))]
pub async fn list_ports(State(supervisor): Shared) -> Json<Vec<Port>> {
    Json(supervisor.list_ports())
}

/// Closes a port and resets its connections.
#[utoipa::path(post, path = "/v1/ports/remove", request_body = PortName, responses((status = 204), (status = "default", body = ErrorBody)))]
pub async fn remove_port(
    State(supervisor): Shared,
    Given(name): Given<PortName>,
) -> std::result::Result<StatusCode, Failed> {
    supervisor.remove_port(&name).await?;
    Ok(StatusCode::NO_CONTENT)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_kernel_refuses_is_told_apart() {
        let name: PortName = "0.0.0.0:80".parse().unwrap();
        for (errno, code) in [
            (libc::EADDRINUSE, ErrorCode::AlreadyExists),
            (libc::EACCES, ErrorCode::FileError),
            (libc::EADDRNOTAVAIL, ErrorCode::InvalidRequest),
            (libc::ENOBUFS, ErrorCode::FileError),
        ] {
            let error = cannot_listen(&name, std::io::Error::from_raw_os_error(errno));
            assert_eq!((error.code, error.errno), (code, Some(errno)));
            assert!(error.what.contains("0.0.0.0:80"));
        }
    }

    #[test]
    fn what_no_sandbox_can_have_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let home = Home::at(dir.path());
        let code = |texts: &[&str]| {
            let requests: Vec<PortRequest> = texts.iter().map(|text| text.parse().unwrap()).collect();
            check(&home, &requests).map_err(|e| (e.code, e.capability))
        };
        assert_eq!(code(&["8080:80", "127.0.0.2:8080:80", "0:80", "0:80", "[::1]:8080:80/tcp"]), Ok(()));
        assert_eq!(code(&["53:53/udp"]), Err((ErrorCode::BackendUnsupported, Some("ports.udp".into()))));
        for bad in
            [&["53:53/sctp"][..], &["8080:0"], &["8080:80", "8080:81"], &["8080:80", "[::ffff:127.0.0.1]:8080:80"]]
        {
            assert_eq!(code(bad), Err((ErrorCode::InvalidRequest, None)), "{bad:?}");
        }
        assert_eq!(code(&["0:80"; 65]), Err((ErrorCode::ResourceExhausted, None)));
    }
}
