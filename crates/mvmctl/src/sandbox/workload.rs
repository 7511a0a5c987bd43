//! `mvmctl up WORKLOAD`: a sandbox of a workload, with its steps done and its entrypoint started.
//!
//! Until all of that is done the sandbox lives no longer than this process: one that is half made is nobody's.

use std::path::Path;

use mvm_ir::{Step, Workload};
use mvm_runtime::bundle::Bundle;
use mvm_runtime::client::Client;
use mvm_runtime::image::{self, Image};
use mvm_runtime::workload::{self, WorkloadPlan};
use mvm_runtime::{Error, ErrorCode, Home, Result, build, sandboxes};
use mvm_wire::api::{CreateRequest, DeletionReport, DetachRequest, Job, JobRequest, Port, Sandbox};

use super::args::UpArgs;
use super::replay;
use super::up::{Done, claim, print};
use crate::build::keep_lock;
use crate::input::{self, Found};
use crate::progress::Drawn;
use crate::{output, plan, secrets};

/// Brings one up, and returns the exit status.
pub async fn up(args: &UpArgs, named: &Path) -> Found<u8> {
    let home = Home::locate()?;
    let Named { bundle, tag, is_built } = found(&home, named)?;
    let request = request(args, bundle.workload(), &tag)?;
    let planned = workload::plan(&home, bundle.workload(), request.clone())?;
    if args.policy.dry_run {
        return Ok(plan::print(&planned, args.json));
    }
    allowed(planned)?;
    let progress = Drawn::new(args.quiet || args.json);
    let bundle = match is_built {
        true => bundle,
        false => {
            let locked = bundle.lock().cloned();
            let built = build::build(&home, bundle, &tag, &progress).await?.bundle;
            keep_lock(named, args.quiet || args.json, locked.as_ref(), &built)?;
            built
        }
    };
    let mut warnings = Vec::new();
    let read = |request: &CreateRequest| secrets::read(&request.secrets, &request.env, &mut warnings);
    let held = CreateRequest { lease: true, ttl_ms: None, no_ttl: false, ..request.clone() };
    let (sandbox, made) = sandboxes::create(&home, held, read, &progress).await?;
    let client = Client::new(&sandbox.socket);
    let launched = launch(&client, &bundle, &request, &progress).await;
    drop(progress);
    let (sandbox, job) = match launched {
        Ok(launched) => launched,
        Err(error) => {
            // What there is of it goes now, and not only with its lease.
            let _: Result<DeletionReport> = client.post_slowly("/v1/sandbox/destroy").await;
            return Err(error.into());
        }
    };
    secrets::warn(&warnings, args.quiet || args.json);
    let is_port = |step: &Step| matches!(step, Step::Forward(_));
    let has_ports = !request.ports.is_empty() || bundle.workload().steps.iter().any(is_port);
    let ports: Vec<Port> = if has_ports { client.get("/v1/ports").await? } else { Vec::new() };
    print(args, &Done { sandbox, made, job, ports, warnings, missing: None });
    Ok(output::SUCCESS)
}

/// A workload, and the name of its image.
struct Named {
    bundle: Bundle,
    tag: String,
    is_built: bool,
}

/// Finds it. What is called as an image is one; a file of that name is named as `./NAME`.
fn found(home: &Home, named: &Path) -> Found<Named> {
    let name = named.to_str().filter(|name| image::validate_name(name).is_ok());
    let image = name.map(|name| image::lookup(home, name)).transpose()?.flatten();
    match (name, image) {
        (Some(name), Some(image)) => {
            Ok(Named { bundle: of_image(home, &image)?, tag: name.to_owned(), is_built: true })
        }
        (Some(name), None) if !named.exists() => Err(image::unknown(home, name).into()),
        _ => {
            let bundle = input::bundle(named, None)?;
            let tag = bundle.workload().name.clone();
            Ok(Named { bundle, tag, is_built: false })
        }
    }
}

fn of_image(home: &Home, image: &Image) -> Result<Bundle> {
    image::workload(home, image)?.ok_or_else(|| {
        let (what, why) = (format!("cannot bring up the image {}", image.name), "it was not built of a workload");
        Error::new(ErrorCode::InvalidRequest, what, why).hint(format!("mvmctl up --image {}", image.name))
    })
}

/// The sandbox, with what is said of this launch of it.
fn request(args: &UpArgs, workload: &Workload, tag: &str) -> Result<CreateRequest> {
    let request = workload::create_request(workload)?;
    Ok(CreateRequest {
        name: if args.name.is_empty() { request.name } else { args.name.clone() },
        image: tag.to_owned(),
        owner: args.end.owner.clone(),
        ttl_ms: args.end.ttl_ms().or(request.ttl_ms),
        no_ttl: args.end.no_ttl(),
        accept_risk: args.policy.accept_risk,
        require: args.policy.require.clone(),
        allow_missing: args.policy.allow_missing.clone(),
        ..request
    })
}

/// Refuses a workload of which something would be refused later, before anything of it is made.
fn allowed(plan: WorkloadPlan) -> Result<()> {
    let what = format!("cannot bring up {}", plan.name);
    let denials = plan.decisions.into_iter().flat_map(|decision| decision.plan.denials).collect::<Vec<_>>();
    if denials.is_empty() { Ok(()) } else { Err(Error::denied(what, denials)) }
}

/// Does the steps, starts the entrypoint, and has the sandbox go on without this process.
async fn launch(
    client: &Client,
    bundle: &Bundle,
    request: &CreateRequest,
    progress: &Drawn,
) -> Result<(Sandbox, Option<Job>)> {
    let _lease = claim(client).await?;
    replay::steps(client, bundle, progress).await?;
    let job = match request.entrypoint.as_slice() {
        [] => None,
        argv => {
            Some(client.post("/v1/jobs", Some(&JobRequest { argv: argv.to_vec(), ..JobRequest::default() })).await?)
        }
    };
    let CreateRequest { owner, ttl_ms, no_ttl, on_expiry, .. } = request;
    let detach = DetachRequest { owner: owner.clone(), ttl_ms: *ttl_ms, no_ttl: *no_ttl, on_expiry: *on_expiry };
    Ok((client.post("/v1/sandbox/detach", Some(&detach)).await?, job))
}
