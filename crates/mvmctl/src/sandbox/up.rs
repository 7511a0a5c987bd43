//! `mvmctl up`: makes a sandbox and returns when it is ready; with `--attach` stays and destroys it at the end.

use hyper::Method;
use mvm_runtime::client::{Client, Lines};
use mvm_runtime::request::plan;
use mvm_runtime::{Home, Result, reconcile, sandboxes};
use mvm_wire::api::{Cleanup, CreateRequest, DeletionReport, Job, JobRequest, LeaseEvent, Port, Sandbox};
use serde_json::json;

use super::args::UpArgs;
use super::{ending, exec, port, snapshot, verb, workload};
use crate::args::MachineArgs;
use crate::commands::block_on;
use crate::input::Failure;
use crate::output;
use crate::policy;
use crate::progress::Drawn;
use crate::{request, secrets, signals};

/// Runs the verb.
pub fn up(args: UpArgs) -> u8 {
    if let Some(named) = &args.workload {
        let brought_up = block_on(async { Ok(workload::up(&args, named).await) });
        let status = brought_up.map_err(Failure::from).and_then(std::convert::identity);
        return status.unwrap_or_else(|failure| failure.report(args.json));
    }
    verb(args.json, async move {
        let home = Home::locate()?;
        let request = asked(&args)?;
        if args.policy.dry_run {
            return Ok(policy::print(&plan(&home, request)?.plan, args.json));
        }
        let asked_for_ports = !request.ports.is_empty();
        let from_snapshot = !request.snapshot.is_empty();
        let missing = if from_snapshot { Some(snapshot::missing_secrets(&home, &request)?) } else { None };
        let mut control = signals::listen();
        let _ = reconcile::reconcile(&home)?;
        let progress = Drawn::new(args.quiet || args.json);
        let mut warnings = Vec::new();
        let read = |request: &CreateRequest| secrets::read(&request.secrets, &request.env, &mut warnings);
        let (sandbox, made) = sandboxes::create(&home, request, read, &progress).await?;
        drop(progress);
        secrets::warn(&warnings, args.quiet || args.json);
        let client = Client::new(&sandbox.socket);
        let ports: Vec<Port> = if asked_for_ports { client.get("/v1/ports").await? } else { Vec::new() };
        if args.attach {
            // Standard output is the command's.
            ports.iter().filter(|_| !args.quiet).for_each(|port| eprintln!("mvmctl: port {}", port::shown(port)));
            return attached(&args, &sandbox, &client, &mut control).await;
        }
        let job = if args.command.is_empty() { None } else { Some(start(&client, &args).await?) };
        print(&args, &Done { sandbox, made, job, ports, warnings, missing });
        Ok(output::SUCCESS)
    })
}

fn asked(args: &UpArgs) -> Result<CreateRequest> {
    if args.request.is_some() {
        return request::all("echo '{\"name\": \"box\"}' | mvmctl up --request -");
    }
    let MachineArgs { image, cpus, memory, disk } = args.machine.clone();
    Ok(CreateRequest {
        name: args.name.clone(),
        image,
        cpus,
        memory_mib: memory,
        disk_bytes: disk,
        env: args.env.iter().cloned().collect(),
        secrets: args.secrets.references()?,
        owner: args.end.owner.clone(),
        ports: args.ports.clone(),
        ttl_ms: args.end.ttl_ms(),
        no_ttl: args.end.no_ttl(),
        on_expiry: args.on_expiry.into(),
        lease: args.end.lease || args.attach,
        idempotency_key: args.idempotency_key.clone(),
        profile: args.policy.profile.clone().unwrap_or_default(),
        accept_risk: args.policy.accept_risk,
        require: args.policy.require.clone(),
        allow_missing: args.policy.allow_missing.clone(),
        ..CreateRequest::default()
    })
}

async fn start(client: &Client, args: &UpArgs) -> Result<Job> {
    let request = JobRequest { argv: args.command.clone(), ..JobRequest::default() };
    client.post("/v1/jobs", Some(&request)).await
}

/// What there is to say of a sandbox that is up.
pub struct Done {
    pub sandbox: Sandbox,
    pub made: bool,
    pub job: Option<Job>,
    pub ports: Vec<Port>,
    pub warnings: Vec<String>,
    /// Of one that was made from a snapshot.
    pub missing: Option<Vec<String>>,
}

/// Prints it.
pub fn print(args: &UpArgs, done: &Done) {
    let Done { sandbox, made, job, ports, warnings, missing } = done;
    if args.json {
        let mut object = json!(sandbox);
        object["created"] = json!(made);
        object["job"] = json!(job);
        object["ports"] = json!(ports);
        object["warnings"] = json!(warnings);
        if let Some(missing) = missing {
            object["missing_secrets"] = json!(missing);
        }
        output::print_json(&object);
        return;
    }
    if args.quiet {
        output::line(&sandbox.name);
        return;
    }
    let machine = sandbox.machine;
    let there = if *made { "is" } else { "was there already and is" };
    output::line(&format!(
        "{} {there} {} ({}, {} CPU, {} MiB)",
        sandbox.name, sandbox.state, sandbox.image, machine.cpus, machine.memory_mib
    ));
    if let Some(job) = job {
        output::line(&format!("  job {}: mvmctl attach {} {}", job.run_id, sandbox.name, job.run_id));
    }
    ports.iter().for_each(|port| output::line(&format!("  port {}", port::shown(port))));
    let keep = match sandbox.cleanup {
        Cleanup::Ttl { .. } => format!(" (mvmctl keep {} --ttl 8h)", sandbox.name),
        Cleanup::Lease | Cleanup::Explicit => String::new(),
    };
    output::line(&format!("  ends: {}{keep}", ending(sandbox)));
    output::line(&format!("  try:  mvmctl exec {} -- uname -a", sandbox.name));
}

/// Holds the lease, runs the command, and destroys the sandbox, whatever becomes of either, unless it was detached.
async fn attached(
    args: &UpArgs,
    sandbox: &Sandbox,
    client: &Client,
    control: &mut tokio::sync::mpsc::Receiver<mvm_runtime::command::Control>,
) -> Result<u8> {
    let _lease = claim(client).await?;
    signals::command_runs();
    let result = if args.command.is_empty() {
        if !args.quiet {
            output::line(&format!("{} is {}; it is destroyed when this ends (Ctrl-C)", sandbox.name, sandbox.state));
        }
        let _ = control.recv().await;
        Ok(output::SUCCESS)
    } else {
        let request = JobRequest { argv: args.command.clone(), attached: true, ..JobRequest::default() };
        exec::stream(
            client,
            &request,
            control,
            &exec::Shown { image: &sandbox.image, quiet: args.quiet, ..Default::default() },
        )
        .await
        .map(|result| result.exit_status())
    };
    let now: Result<Sandbox> = client.get("/v1/sandbox").await;
    if now.is_ok_and(|now| now.cleanup != Cleanup::Lease) {
        return result;
    }
    let destroyed: Result<DeletionReport> = client.post_slowly("/v1/sandbox/destroy").await;
    destroyed.and(result)
}

/// Claims the lease; it is held for as long as the result lives.
pub async fn claim(client: &Client) -> Result<Lines> {
    let mut lease = client.lines(Method::GET, "/v1/lease", None::<&()>).await?;
    let _: Option<LeaseEvent> = lease.next().await?;
    Ok(lease)
}
