//! Images of workloads. A machine boots on a copy of the disk of the image that a workload is built on, is given the
//! workload's files, and halts; what is on that disk then is the new image's. The machine has no network and nothing of the
//! host, and no program of the workload runs in it.

use std::collections::{BTreeMap, HashSet};
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::time::Duration;

use mvm_ir::{Entrypoint, EntrypointFunction, Image as Base, Workload};
use mvm_wire::ErrorCode;
use mvm_wire::files::Write;
use mvm_wire::guest::{Exec, Reply, Request, Status};
use serde_json::json;
use sha2::{Digest, Sha256};

use crate::bundle::Bundle;
use crate::error::{Error, IoContext, Result};
use crate::function;
use crate::home::{Home, Staging};
use crate::image::{self, BUILTIN, Image, ImageConfig};
use crate::packages::{self, Fetched};
use crate::point::copy_layer;
use crate::progress::Progress;
use crate::run;
use crate::sandbox::{self, Identity};
use crate::setup::{self, Ready};
use crate::template::BOOT_LIMIT;
use crate::text::harmless;
use crate::vmm::guest::{Frame, Guest};
use crate::vmm::qemu::Shape;

/// Raised when the same workload comes out as another image, also when types are taken out otherwise.
const FORMAT: u32 = 2;
/// How much larger packages may be than their archives.
const UNPACKED: u64 = 6;
/// The largest list of packages that a base may have, in bytes.
const MAX_STATUS: u64 = 64 << 20;
/// How long packages may take to be installed.
const INSTALL_LIMIT: Duration = Duration::from_secs(1800);
/// The longest line that is shown of what a package client says, in characters.
const MAX_LINE: usize = 200;
/// Where packages are fetched to, in the staging directory.
const APT: &str = "apt";

/// An image that was built, or was there.
#[derive(Debug)]
pub struct Built {
    /// The image, under its tag.
    pub image: Image,
    /// Whether the same one had been built before.
    pub cached: bool,
    /// The bundle, with the packages that were taken.
    pub bundle: Bundle,
}

/// Builds the image of a workload and calls it `tag`, whatever that was before. Its template is prepared, too. Packages are
/// those that the bundle has locked, or else the newest.
pub async fn build(home: &Home, bundle: Bundle, tag: &str, progress: &dyn Progress) -> Result<Built> {
    image::validate_name(tag)?;
    if BUILTIN.contains(&tag) {
        let why = format!("{tag} is an image that mvm makes itself");
        return Err(invalid(tag, why).hint("choose another name with --tag"));
    }
    let (base, wanted) = base(bundle.workload());
    let (ready, wanted) = (setup::ready(home, base, progress).await?, wanted.to_vec());
    let resources = bundle.workload().resources;
    let shape = Shape {
        memory_mib: resources.memory_mib,
        cpus: resources.cpus,
        disk_bytes: u64::from(resources.disk_mib) << 20,
    };
    run::check_disk(&shape, &ready.image)?;
    let built = {
        let _building = home.lock("setup", || progress.warn("another mvmctl is setting up; waiting for it"))?;
        let lock = bundle.lock().filter(|lock| lock.wanted == wanted).cloned();
        let is_known = wanted.is_empty() || lock.is_some();
        let bundle = bundle.with_lock(lock);
        match if is_known { found(home, &ready, &bundle, tag)? } else { None } {
            Some(image) => Built { image, cached: true, bundle },
            None => make(home, &ready, bundle, tag, progress).await?,
        }
    };
    let ready = Ready { image: built.image.clone(), ..ready };
    run::with_template(home, ready, &shape, true, progress).await?;
    Ok(built)
}

/// The image of the same things, which is called so from now on.
fn found(home: &Home, ready: &Ready, bundle: &Bundle, tag: &str) -> Result<Option<Image>> {
    let digest = digest(&ready.image, bundle, &config(&ready.image.config, bundle.workload()))?;
    image::with_digest(home, &digest).map(|found| image::tag(home, found, tag, Some(bundle))).transpose()
}

async fn make(home: &Home, ready: &Ready, bundle: Bundle, tag: &str, progress: &dyn Progress) -> Result<Built> {
    let staging = home.staging("image")?;
    // What cannot be is refused before anything is fetched.
    let prepared = prepared(&bundle, tag)?;
    let fetched = packages(ready, &bundle, &staging, progress).await?;
    let (lock, packages) = fetched.map(|fetched| (fetched.lock, fetched.files)).unzip();
    let (bundle, packages) = (bundle.with_lock(lock), packages.unwrap_or_default());
    // Now it is known which they are.
    if let Some(image) = found(home, ready, &bundle, tag)? {
        return Ok(Built { image, cached: true, bundle });
    }
    let mut puts = puts(&bundle, tag)?;
    for put in &mut puts {
        put.bytes = prepared.get(&put.path).map_or(put.bytes, String::as_bytes);
    }
    let packaged = if packages.is_empty() { String::new() } else { format!(", {} packages", packages.len()) };
    progress.step(&format!("image {tag}: {} files{packaged} on {}", puts.len(), ready.image.name));
    let disk_bytes = lay(ready, &staging, &puts, &packages)?;
    fill(ready, &staging.path().join(image::DISK), disk_bytes, &puts, &packages, progress).await?;
    let apt = staging.path().join(APT);
    if apt.exists() {
        fs::remove_dir_all(&apt).context(|| format!("cannot remove {}", apt.display()))?;
    }
    let config = config(&ready.image.config, bundle.workload());
    let digest = digest(&ready.image, &bundle, &config)?;
    let image = image::record(home, staging, tag.to_owned(), config, digest, disk_bytes, Some(&bundle))?;
    progress.done(&format!("{} MiB", image.disk_bytes >> 20));
    Ok(Built { image, cached: false, bundle })
}

fn invalid(tag: &str, why: impl std::fmt::Display) -> Error {
    Error::new(ErrorCode::InvalidRequest, format!("cannot build the image {tag}"), why)
}

/// The name of the image that a workload is built on, and the packages that go on top.
fn base(workload: &Workload) -> (&str, &[String]) {
    match &workload.image {
        Base::Named(name) => (name, &[]),
        Base::Debian { packages } => ("debian", packages),
    }
}

/// Fetches the packages that go on top of a base, of which a machine says what it has; none if there are none.
async fn packages(
    ready: &Ready,
    bundle: &Bundle,
    staging: &Staging,
    progress: &dyn Progress,
) -> Result<Option<Fetched>> {
    let (_, wanted) = base(bundle.workload());
    if wanted.is_empty() {
        return Ok(None);
    }
    let disk = staging.path().join("base");
    drop(ready.image.open_disk()?);
    copy_layer(&ready.image.disk, &disk)?;
    let Ready { host, kernel, image } = ready;
    progress.step(&format!("packages: asking {} what it has", image.name));
    let (mut machine, guest) =
        setup::boot(host, host.accelerator(), kernel, false, &disk, image.disk_bytes, BOOT_LIMIT).await?;
    let status = async {
        guest.admit(Identity::new(&sandbox::new_id()?)?.admission(0)?).await?;
        let release = read(&guest, "/usr/lib/os-release").await?;
        let ours = fs::read_to_string("/etc/os-release").unwrap_or_default();
        packages::check_release(&String::from_utf8_lossy(&release), &ours)?;
        read(&guest, "/var/lib/dpkg/status").await
    };
    let status = match status.await {
        Ok(status) => status,
        Err(e) => return Err(machine.explain(e).await),
    };
    machine.kill();
    fs::remove_file(&disk).context(|| format!("cannot remove {}", disk.display()))?;
    packages::fetch(wanted, &status, bundle.lock(), &staging.path().join(APT), progress).map(Some)
}

/// What commands in it start from: as in its base, but in the directory of the source.
fn config(base: &ImageConfig, workload: &Workload) -> ImageConfig {
    let workdir = workload.source.as_ref().map_or(&base.workdir, |source| &source.guest_path);
    ImageConfig { workdir: workdir.clone(), ..base.clone() }
}

/// What decides about the image: its base and all that is put into it. Ports, environment and the like do not.
fn digest(base: &Image, bundle: &Bundle, config: &ImageConfig) -> Result<String> {
    let workload = bundle.workload();
    let support = function(workload).map(function::support);
    let parts = json!({
        "format": FORMAT, "base": base.digest, "config": config, "files": workload.files, "source": workload.source,
        "support": support, "packages": bundle.lock().map(|lock| &lock.packages),
    });
    let text = serde_json::to_vec(&parts).map_err(|e| Error::internal("cannot encode what an image is made of", e))?;
    Ok(format!("sha256:{}", hex::encode(Sha256::digest(text))))
}

/// One file that is put into it.
struct Put<'a> {
    path: String,
    mode: u32,
    bytes: &'a [u8],
}

/// The function that is its entrypoint, if one is.
fn function(workload: &Workload) -> Option<&EntrypointFunction> {
    match &workload.entrypoint {
        Some(Entrypoint::Function(function)) => Some(function),
        _ => None,
    }
}

/// Everything that is put into it, as it is.
fn puts<'a>(bundle: &'a Bundle, tag: &str) -> Result<Vec<Put<'a>>> {
    let workload = bundle.workload();
    let source = workload.source.iter().flat_map(|source| {
        source.files.iter().map(|file| {
            let mode = if file.executable { 0o755 } else { 0o644 };
            (format!("{}/{}", source.guest_path, file.path), mode, &file.content)
        })
    });
    let files = workload.files.iter().map(|file| (file.path.clone(), file.mode, &file.content));
    let support = function(workload).map(function::support).unwrap_or_default();
    let support =
        support.iter().map(|(path, text)| Ok(Put { path: (*path).to_owned(), mode: 0o644, bytes: text.as_bytes() }));
    source
        .chain(files)
        .map(|(path, mode, content)| {
            let bytes = bundle.content(content).ok_or_else(|| invalid(tag, format!("{path} has no content")))?;
            Ok(Put { path, mode, bytes })
        })
        .chain(support)
        .collect()
}

/// What is put in place of some of it, by the path.
fn prepared(bundle: &Bundle, tag: &str) -> Result<BTreeMap<String, String>> {
    let workload = bundle.workload();
    let Some(function) = function(workload) else { return Ok(BTreeMap::new()) };
    let app = workload.source.as_ref().map(|source| format!("{}/", source.guest_path)).unwrap_or_default();
    let texts = puts(bundle, tag)?.into_iter().filter_map(|put| {
        // Errors name it as the user does.
        let path = put.path.strip_prefix(&app).unwrap_or(&put.path);
        let text = function::prepared(function, path, put.bytes).transpose()?;
        Some(text.map(|text| (put.path, text)))
    });
    texts.collect()
}

/// Lays the disk that it begins with, with room for what comes. Returns its size.
fn lay(ready: &Ready, staging: &Staging, puts: &[Put<'_>], packages: &[PathBuf]) -> Result<u64> {
    let disk = staging.path().join(image::DISK);
    // Checks that it is the disk that was built.
    drop(ready.image.open_disk()?);
    copy_layer(&ready.image.disk, &disk)?;
    let bytes: u64 = puts.iter().map(|put| put.bytes.len() as u64).sum();
    let entries: HashSet<&Path> = puts.iter().flat_map(|put| Path::new(&put.path).ancestors()).collect();
    let mut archives = 0;
    for package in packages {
        archives += fs::metadata(package).context(|| format!("cannot read {}", package.display()))?.len();
    }
    let more = image::room(bytes, entries.len() as u64) + archives * UNPACKED + setup::SLACK;
    let disk_bytes = (ready.image.disk_bytes + more).next_multiple_of(4 << 20);
    let grow = || File::options().write(true).open(&disk)?.set_len(disk_bytes);
    grow().context(|| format!("cannot size {}", disk.display()))?;
    Ok(disk_bytes)
}

/// Boots a machine on a disk, puts everything there, and halts it, so that its file system is clean.
async fn fill(
    ready: &Ready,
    disk: &Path,
    disk_bytes: u64,
    puts: &[Put<'_>],
    packages: &[PathBuf],
    progress: &dyn Progress,
) -> Result<()> {
    let Ready { host, kernel, .. } = ready;
    let (mut machine, guest) =
        setup::boot(host, host.accelerator(), kernel, false, disk, disk_bytes, BOOT_LIMIT).await?;
    let work = async {
        guest.admit(Identity::new(&sandbox::new_id()?)?.admission(0)?).await?;
        if !packages.is_empty() {
            install(&guest, packages, progress).await?;
        }
        for (done, put) in puts.iter().enumerate() {
            progress.detail(&format!("{} of {}", done + 1, puts.len()));
            write(&guest, &put.path, put.mode, put.bytes).await?;
        }
        guest.demand(&Request::Halt, "halt").await
    };
    match work.await {
        Ok(()) => {
            machine.kill();
            Ok(())
        }
        Err(e) => Err(machine.explain(e).await),
    }
}

/// Has the guest's own package client install files, without any source. No service is started for it, and nothing of how it
/// was done stays.
async fn install(guest: &Guest, packages: &[PathBuf], progress: &dyn Progress) -> Result<()> {
    const SCRIPT: &str = "set -e\n\
        printf '#!/bin/sh\\nexit 101\\n' > /usr/sbin/policy-rc.d && chmod 755 /usr/sbin/policy-rc.d\n\
        apt-get install -y -q --no-install-recommends -oDir::Etc::SourceList=/dev/null \
        -oDir::Etc::SourceParts=/dev/null -oAPT::Sandbox::User=root /var/cache/mvm-packages/*.deb\n\
        rm -rf /usr/sbin/policy-rc.d /var/cache/mvm-packages /var/cache/apt/*.bin /var/lib/apt/lists/* /var/log/apt \
        /var/log/dpkg.log /var/log/alternatives.log\n";
    for package in packages {
        let bytes = fs::read(package).context(|| format!("cannot read {}", package.display()))?;
        let name = package.file_name().unwrap_or_default().to_string_lossy();
        write(guest, &format!("/var/cache/mvm-packages/{name}"), 0o644, &bytes).await?;
    }
    let env = [("DEBIAN_FRONTEND", "noninteractive"), ("LC_ALL", "C.UTF-8")];
    let exec = Exec {
        argv: ["sh", "-c", SCRIPT].map(str::to_owned).to_vec(),
        env: env.map(|(name, value)| (name.to_owned(), value.to_owned())).to_vec(),
        ..Exec::default()
    };
    let late = |_| Err(Error::new(ErrorCode::Timeout, "cannot install the packages", "it takes too long"));
    tokio::time::timeout(INSTALL_LIMIT, attend(guest, exec, progress)).await.unwrap_or_else(late)
}

/// Stays with a command to its end, and shows what it says.
async fn attend(guest: &Guest, exec: Exec, progress: &dyn Progress) -> Result<()> {
    let mut channel = guest.exec(exec).await?;
    let mut last = String::new();
    loop {
        match channel.frames.next().await? {
            Frame::Reply(Reply::Started { .. }) => {}
            Frame::Stdout(bytes) | Frame::Stderr(bytes) => {
                let text = String::from_utf8_lossy(bytes);
                if let Some(line) = text.lines().rfind(|line| !line.trim().is_empty()) {
                    last = harmless(line.trim()).chars().take(MAX_LINE).collect();
                    progress.detail(&last);
                }
            }
            Frame::Reply(Reply::Exited(exited)) if exited.status == Status::Code(0) => return Ok(()),
            Frame::Reply(_) => {
                let why = if last.is_empty() { "their client failed".to_owned() } else { last };
                return Err(Error::new(ErrorCode::SandboxUnavailable, "cannot install the packages", why));
            }
        }
    }
}

async fn read(guest: &Guest, path: &str) -> Result<Vec<u8>> {
    let mut reading = guest.read_file(path.as_bytes(), 0, Some(MAX_STATUS)).await?;
    let mut bytes = Vec::new();
    while let Some(piece) = reading.next().await? {
        bytes.extend_from_slice(piece);
    }
    Ok(bytes)
}

async fn write(guest: &Guest, path: &str, mode: u32, bytes: &[u8]) -> Result<()> {
    let write = Write {
        path: path.as_bytes().to_vec(),
        mode: Some(mode),
        owner: "0:0".to_owned(),
        create_parents: true,
        ..Write::default()
    };
    let mut writing = guest.write_file(write).await?;
    writing.send(bytes).await?;
    writing.finish().await.map(drop)
}
