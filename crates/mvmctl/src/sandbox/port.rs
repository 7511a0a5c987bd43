//! `mvmctl port`: ports of this host that lead into a sandbox.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use mvm_runtime::Result;
use mvm_runtime::text::harmless;
use mvm_wire::api::{Port, PortName, PortRequest, PortStatus};
use serde_json::json;

use super::args::{OneArgs, PortCommand};
use super::{find, verb};
use crate::output;

/// Runs the verb.
pub fn port(command: PortCommand) -> u8 {
    match command {
        PortCommand::Add { sandbox, port, json } => verb(json, add(sandbox, port, json)),
        PortCommand::Ls(args) => verb(args.json, list(args)),
        PortCommand::Rm { sandbox, port, json } => verb(json, remove(sandbox, port, json)),
    }
}

async fn add(sandbox: String, request: PortRequest, json: bool) -> Result<u8> {
    let port: Port = find(&sandbox)?.client.post("/v1/ports", Some(&request)).await?;
    if json {
        output::print_json(&json!(port));
    } else {
        output::line(&shown(&port));
        output::line(&format!("  try: curl {}", url(&port)));
    }
    Ok(output::SUCCESS)
}

async fn list(args: OneArgs) -> Result<u8> {
    let ports: Vec<Port> = find(&args.sandbox)?.client.get("/v1/ports").await?;
    if args.json {
        output::print_json(&json!({ "ports": ports }));
    } else if ports.is_empty() {
        output::line(&format!("No ports. Try: mvmctl port add {} 8080:80", args.sandbox));
    } else {
        let mut rows = vec![["HOST", "SANDBOX", "CONNECTIONS", "RULE", "STATUS"].map(str::to_owned).to_vec()];
        rows.extend(ports.iter().map(|port| {
            let connections = port.connections.to_string();
            vec![port.name().to_string(), port.guest_port.to_string(), connections, port.rule.clone(), status(port)]
        }));
        output::table(&rows);
    }
    Ok(output::SUCCESS)
}

async fn remove(sandbox: String, name: PortName, json: bool) -> Result<u8> {
    let () = find(&sandbox)?.client.post("/v1/ports/remove", Some(&name)).await?;
    if json {
        output::print_json(&json!(name));
    } else {
        output::line(&format!("{name} is closed; try: mvmctl port ls {sandbox}"));
    }
    Ok(output::SUCCESS)
}

/// A port in a line: `127.0.0.1:8080 → 80`, and what there is to say about it.
pub fn shown(port: &Port) -> String {
    format!("{} → {} in the sandbox: {}", port.name(), port.guest_port, status(port))
}

fn status(port: &Port) -> String {
    let why = harmless(&port.why);
    let reach = if port.exposed { "; reachable from other machines" } else { "" };
    match port.status {
        PortStatus::Open if why.is_empty() => format!("open{reach}"),
        PortStatus::Open => format!("open{reach}; {why}"),
        PortStatus::Refused => format!("refused: {why}{reach}"),
        PortStatus::Failed => format!("failed: {why}"),
    }
}

/// Where this machine finds it.
fn url(port: &Port) -> String {
    let host = match port.address {
        IpAddr::V4(any) if any.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(any) if any.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
        address => address,
    };
    format!("http://{}", SocketAddr::new(host, port.host_port))
}
