//! What a request for a sandbox comes to: its defaults, what the policy says to it, and what no sandbox can be.

use std::collections::BTreeMap;
use std::time::Duration;

use mvm_wire::ErrorCode;
use mvm_wire::api::{CreateRequest, Machine, RunRequest, SecretValues};
use sha2::{Digest, Sha256};

use crate::error::{Error, Result};
use crate::home::Home;
use crate::policy::{self, Ask, Operation, Policy};
use crate::run;
use crate::sandbox;
use crate::secrets;
use crate::snapshots;
use crate::supervisor;
use crate::vmm::qemu::Shape;

/// The time to live of a sandbox for which nothing was said.
pub const DEFAULT_TTL: Duration = Duration::from_secs(3600);
/// The longest name.
const MAX_NAME: usize = 63;
/// The longest owner or idempotency key, in bytes.
pub const MAX_KEY: usize = 256;
/// The longest time that anything can be given, in milliseconds: a year.
pub const MAX_TIME_MS: u64 = 366 * 86_400_000;
/// The largest environment, in bytes, of a request.
const MAX_ENV: usize = 128 << 10;

/// Decides about a sandbox, before anything of it happens. Of a request that is not complete, about what its defaults make
/// of it.
pub fn plan(home: &Home, request: CreateRequest) -> Result<Policy> {
    let request = match request.snapshot.clone().as_str() {
        "" => request,
        name => as_in_snapshot(request, &snapshots::find(home, name)?.record()?.request)?,
    };
    decide(home, &complete(home, request)?)
}

/// Decides about a completed request.
pub fn decide(home: &Home, request: &CreateRequest) -> Result<Policy> {
    let ask = Ask {
        accept_risk: request.accept_risk,
        env: request.env.keys().map(String::as_str).collect(),
        secrets: request.secrets.keys().map(String::as_str).collect(),
        ports: &request.ports,
        machine: Some(machine(request)),
        ttl_ms: ttl_of(request),
        require: &request.require,
        allow_missing: &request.allow_missing,
        ..Ask::default()
    };
    run::decide(home, Operation::Up, &ask, policy::load(&request.profile)?)
}

/// How long a request has a sandbox live, as a policy takes it: none for one that lives as long as its client.
pub fn ttl_of(request: &CreateRequest) -> Option<Option<u64>> {
    (!request.lease).then_some(request.ttl_ms.filter(|_| !request.no_ttl))
}

/// A request for what was saved: image and shape are not for the caller to choose, the environment is added to.
pub fn as_in_snapshot(request: CreateRequest, saved: &CreateRequest) -> Result<CreateRequest> {
    let same = |given: u64, saved: u64| given == 0 || given == saved;
    let CreateRequest { cpus, memory_mib, disk_bytes, .. } = request;
    if !(request.image.is_empty() || request.image == saved.image)
        || !same(cpus.into(), saved.cpus.into())
        || !same(memory_mib.into(), saved.memory_mib.into())
        || !same(disk_bytes, saved.disk_bytes)
    {
        return Err(invalid("image and shape are the snapshot's", "leave out image, cpus, memory and disk"));
    }
    let profile = match (request.profile.as_str(), request.disk_only) {
        // The disk alone holds nothing of what was started under the other one.
        ("", true) if policy::bound().is_some() => String::new(),
        ("", _) => saved.profile.clone(),
        (asked, false) if asked != profile_name(&saved.profile) => {
            let why = "memory goes on under the profile that it was saved under";
            return Err(invalid(why, "leave out the profile, or take only the disk (--disk-only)"));
        }
        (asked, _) => asked.to_owned(),
    };
    let mut env = saved.env.clone();
    env.extend(request.env);
    let both = |saved: &[String], asked: &[String]| [saved, asked].concat();
    Ok(CreateRequest {
        image: saved.image.clone(),
        cpus: saved.cpus,
        memory_mib: saved.memory_mib,
        disk_bytes: saved.disk_bytes,
        env,
        profile,
        accept_risk: request.accept_risk || saved.accept_risk,
        entrypoint: saved.entrypoint.clone(),
        require: both(&saved.require, &request.require),
        allow_missing: both(&saved.allow_missing, &request.allow_missing),
        ..request
    })
}

/// Refuses what can be no name of a sandbox or a snapshot. `ids` is how ids begin, which no name does.
pub fn check_name(name: &str, wanted: &str, ids: &str) -> Result<()> {
    let refuse = |why: String| {
        let error = Error::new(ErrorCode::InvalidRequest, format!("cannot {wanted}"), why);
        Err(error.hint("choose a name such as my-box"))
    };
    let plain = |b: &u8| b.is_ascii_lowercase() || b.is_ascii_digit() || *b == b'-';
    let bytes = name.as_bytes();
    let edges = bytes.starts_with(b"-") || bytes.ends_with(b"-");
    if bytes.is_empty() || bytes.len() > MAX_NAME || !bytes.iter().all(plain) || edges {
        let rule = "a name has 1 to 63 characters: lower-case letters, digits and, between them, hyphens";
        return refuse(rule.to_owned());
    }
    if name.starts_with(ids) {
        return refuse(format!("names that begin with {ids} are ids"));
    }
    Ok(())
}

/// Refuses what can be no environment, and says why. Secrets are a part of it.
pub fn check_env(env: &BTreeMap<String, String>, secrets: &SecretValues) -> std::result::Result<(), &'static str> {
    let open = env.iter().map(|(name, value)| name.len() + value.len()).sum::<usize>();
    let secret = secrets.iter().map(|(name, value)| name.len() + value.expose().len()).sum::<usize>();
    if open + secret > MAX_ENV {
        return Err("its environment, with its secrets, is larger than 128 KiB");
    }
    if env.iter().any(|(name, value)| name.is_empty() || name.contains(['=', '\0']) || value.contains('\0')) {
        return Err("a variable's name is empty or has a = in it, or a NUL is in it");
    }
    Ok(())
}

/// The refusal of a request, and what to ask for instead.
pub fn invalid(why: &str, hint: &str) -> Error {
    Error::new(ErrorCode::InvalidRequest, "cannot create the sandbox", why).hint(hint)
}

/// Fills in what a request leaves open, and refuses what no sandbox can be.
pub fn complete(home: &Home, mut request: CreateRequest) -> Result<CreateRequest> {
    let invalid = |why: &str, hint: &str| Err(invalid(why, hint));
    if request.name.is_empty() {
        // One for each key, so that a repeated request is the same request.
        request.name = match request.idempotency_key.as_str() {
            "" => format!("box-{}", &sandbox::new_id()?[4..]),
            key => format!("box-{}", &hex::encode(Sha256::digest(key))[..12]),
        };
    }
    check_name(&request.name, "create the sandbox", "mvm-")?;
    if let Err(why) = check_env(&request.env, &SecretValues::new()) {
        return invalid(why, "write it NAME=VALUE, and pass large data as files");
    }
    request.secrets = complete_secrets(&request.secrets, &request.env)?;
    supervisor::check_ports(home, &request.ports)?;
    request.profile = policy::or_default(request.profile);
    let profile = request.profile.clone();
    complete_end(&mut request, || Ok(policy::load(&profile)?.limits.ttl))?;
    let CreateRequest { image, cpus, memory_mib, disk_bytes, .. } = &mut request;
    complete_machine(image, cpus, memory_mib, disk_bytes);
    Ok(request)
}

/// The same of a one-shot run.
pub fn complete_run(mut request: RunRequest) -> Result<RunRequest> {
    const WHAT: &str = "cannot run the command";
    let RunRequest { argv, cwd, user, timeout_ms, env, .. } = &request;
    check_command(argv, cwd, user, *timeout_ms)
        .and_then(|()| check_env(env, &SecretValues::new()))
        .map_err(|why| Error::new(ErrorCode::InvalidRequest, WHAT, why))?;
    request.secrets = complete_secrets(&request.secrets, &request.env)?;
    request.profile = policy::or_default(request.profile);
    let RunRequest { image, cpus, memory_mib, disk_bytes, .. } = &mut request;
    complete_machine(image, cpus, memory_mib, disk_bytes);
    Ok(request)
}

/// Refuses what can be no command, and says why.
pub fn check_command(
    argv: &[String],
    cwd: &str,
    user: &str,
    timeout_ms: Option<u64>,
) -> std::result::Result<(), &'static str> {
    if argv.is_empty() || argv.iter().any(|arg| arg.contains('\0')) {
        return Err("a command has a program, and no NUL");
    }
    if cwd.contains('\0') || user.contains('\0') {
        return Err("there is a NUL in its working directory or its user");
    }
    if timeout_ms.is_some_and(|timeout| timeout == 0 || timeout > MAX_TIME_MS) {
        return Err("a time limit is above zero and at most a year");
    }
    Ok(())
}

/// References to secrets as they are kept. `env` is what is given openly beside them.
fn complete_secrets(
    secrets: &BTreeMap<String, String>,
    env: &BTreeMap<String, String>,
) -> Result<BTreeMap<String, String>> {
    let sources = secrets::references(secrets)?;
    secrets::check_names(secrets.keys().map(String::as_str), env.keys().map(String::as_str))?;
    Ok(sources.iter().map(|source| (source.name().to_owned(), source.reference())).collect())
}

/// The machine for which nothing else was said.
fn complete_machine(image: &mut String, cpus: &mut u32, memory_mib: &mut u32, disk_bytes: &mut u64) {
    let or = |value: &mut u32, default: u32| *value = if *value == 0 { default } else { *value };
    or(cpus, 1);
    or(memory_mib, 256);
    *disk_bytes = if *disk_bytes == 0 { 4 << 30 } else { *disk_bytes };
    if image.is_empty() {
        *image = "debian".into();
    }
}

/// Fills in how it ends and who answers for it, and refuses what no sandbox can end by. `most` is how long its profile lets it
/// live.
pub fn complete_end(request: &mut CreateRequest, most: impl FnOnce() -> Result<Option<u64>>) -> Result<()> {
    let invalid = |why: &str, hint: &str| Err(invalid(why, hint));
    if request.lease as u8 + request.no_ttl as u8 + request.ttl_ms.is_some() as u8 > 1 {
        return invalid("a lease, no time to live and a time to live exclude each other", "give one of them");
    }
    if request.no_ttl && request.owner.is_empty() {
        return invalid(
            "without a time to live somebody must answer for it",
            "name who with --owner NAME, or give a --ttl",
        );
    }
    if request.owner.len() > MAX_KEY || request.idempotency_key.len() > MAX_KEY {
        return invalid("an owner or an idempotency key has at most 256 bytes", "use a shorter one");
    }
    if !request.lease && !request.no_ttl && request.ttl_ms.is_none() {
        request.ttl_ms = Some(most()?.unwrap_or(u64::MAX).min(DEFAULT_TTL.as_millis() as u64));
    }
    if request.ttl_ms == Some(0) || request.ttl_ms.is_some_and(|ttl| ttl > MAX_TIME_MS) {
        return invalid("a time to live is above zero and at most a year", "give a --ttl such as 30m");
    }
    Ok(())
}

/// The shape of a completed request.
pub fn shape(request: &CreateRequest) -> Shape {
    Shape { memory_mib: request.memory_mib, cpus: request.cpus, disk_bytes: request.disk_bytes }
}

/// The same, as the API shows it.
pub fn machine(request: &CreateRequest) -> Machine {
    Machine { cpus: request.cpus, memory_mib: request.memory_mib, disk_bytes: request.disk_bytes }
}

/// The name of the profile that holds for a request.
fn profile_name(name: &str) -> &str {
    if name.is_empty() { policy::DEFAULT_PROFILE } else { name }
}
