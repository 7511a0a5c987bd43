//! Images of workloads. A machine boots on a copy of the disk of the image that a workload is built on, is given the
//! workload's files, and halts; what is on that disk then is the new image's. The machine has no network and nothing of the
//! host, and no program of the workload runs in it.

use std::fs::File;
use std::path::Path;

use mvm_ir::{Entrypoint, Image as Base, Workload};
use mvm_wire::ErrorCode;
use mvm_wire::files::Write;
use mvm_wire::guest::Request;
use serde_json::json;
use sha2::{Digest, Sha256};

use crate::bundle::Bundle;
use crate::error::{Error, IoContext, Result};
use crate::home::Home;
use crate::image::{self, BUILTIN, Image, ImageConfig};
use crate::point::copy_layer;
use crate::progress::Progress;
use crate::sandbox::{self, Identity};
use crate::setup::{self, Ready};
use crate::template::{self, BOOT_LIMIT, Recipe};
use crate::vmm::guest::Guest;
use crate::vmm::qemu::Shape;

/// Raised when the same workload comes out as another image.
const FORMAT: u32 = 1;
/// Room on a disk besides its files, in bytes.
const SLACK: u64 = 48 << 20;

/// An image that was built, or was there.
#[derive(Debug)]
pub struct Built {
    /// The image, under its tag.
    pub image: Image,
    /// Whether the same one had been built before.
    pub cached: bool,
}

/// Builds the image of a workload and calls it `tag`, whatever that was before. Its template is prepared, too.
pub async fn build(home: &Home, bundle: &Bundle, tag: &str, progress: &dyn Progress) -> Result<Built> {
    image::validate_name(tag)?;
    let workload = bundle.workload();
    if BUILTIN.contains(&tag) {
        let why = format!("{tag} is an image that mvm makes itself");
        return Err(invalid(tag, why).hint("choose another name with --tag"));
    }
    let ready = setup::ready(home, base(workload)?, progress).await?;
    let config = config(&ready.image.config, workload);
    let digest = digest(&ready.image, workload, &config)?;
    let built = {
        let _building = home.lock("setup", || progress.warn("another mvmctl is setting up; waiting for it"))?;
        match image::with_digest(home, &digest) {
            Some(found) => Built { image: image::tag(home, found, tag, bundle)?, cached: true },
            None => {
                let image = make(home, &ready, bundle, tag, config, digest, progress).await?;
                Built { image, cached: false }
            }
        }
    };
    let resources = workload.resources;
    let shape = Shape {
        memory_mib: resources.memory_mib,
        cpus: resources.cpus,
        disk_bytes: u64::from(resources.disk_mib) << 20,
    };
    let accelerator = ready.host.accelerator();
    let recipe = Recipe { host: &ready.host, kernel: &ready.kernel, image: &built.image, shape: &shape, accelerator };
    template::ensure(home, recipe, progress).await?;
    Ok(built)
}

fn invalid(tag: &str, why: impl std::fmt::Display) -> Error {
    Error::new(ErrorCode::InvalidRequest, format!("cannot build the image {tag}"), why)
}

/// The name of the image that a workload is built on.
fn base(workload: &Workload) -> Result<&str> {
    match &workload.image {
        Base::Named(name) => Ok(name),
        Base::Debian { packages } if packages.is_empty() => Ok("debian"),
        Base::Debian { .. } => Err(Error::new(
            ErrorCode::BackendUnsupported,
            "cannot build the image",
            "this version installs no packages (/image/debian/packages)",
        )
        .hint("build it on an image that has them")),
    }
}

/// What commands in it start from: as in its base, but in the directory of the source.
fn config(base: &ImageConfig, workload: &Workload) -> ImageConfig {
    let workdir = workload.source.as_ref().map_or(&base.workdir, |source| &source.guest_path);
    ImageConfig { workdir: workdir.clone(), ..base.clone() }
}

/// What decides about the image: its base and all that is put into it. Ports, environment and the like do not.
fn digest(base: &Image, workload: &Workload, config: &ImageConfig) -> Result<String> {
    let python = calls_python(workload)?.then_some(PYTHON);
    let parts = json!({
        "format": FORMAT, "base": base.digest, "config": config, "files": workload.files, "source": workload.source,
        "python": python,
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

/// What modules of Python import as `mvm` in a guest, where declarations mean nothing.
const PYTHON: (&str, &str) = ("/usr/lib/mvm/python/mvm.py", include_str!("../../../sdk/python/src/mvm/_declare.py"));

/// Whether a function of Python is what runs.
fn calls_python(workload: &Workload) -> Result<bool> {
    match &workload.entrypoint {
        Some(Entrypoint::Function(function)) if function.language == "python" => Ok(true),
        Some(Entrypoint::Function(_)) => Err(Error::new(
            ErrorCode::BackendUnsupported,
            "cannot build the image",
            "functions of TypeScript are not called in a guest yet (/entrypoint/function)",
        )
        .hint("compile it to JavaScript, and declare entrypointCommand(['node', 'dist/main.js'])")),
        _ => Ok(false),
    }
}

/// Everything that is put into it.
fn puts<'a>(bundle: &'a Bundle, tag: &str) -> Result<Vec<Put<'a>>> {
    let workload = bundle.workload();
    let (path, text) = PYTHON;
    let declarations = Put { path: path.to_owned(), mode: 0o644, bytes: text.as_bytes() };
    let declarations = calls_python(workload)?.then_some(Ok(declarations));
    let files = workload.files.iter().map(|file| (file.path.clone(), file.mode, &file.content));
    let source = workload.source.iter().flat_map(|source| {
        source.files.iter().map(|file| {
            let mode = if file.executable { 0o755 } else { 0o644 };
            (format!("{}/{}", source.guest_path, file.path), mode, &file.content)
        })
    });
    source
        .chain(files)
        .map(|(path, mode, content)| {
            let bytes = bundle.content(content).ok_or_else(|| invalid(tag, format!("{path} has no content")))?;
            Ok(Put { path, mode, bytes })
        })
        .chain(declarations)
        .collect()
}

async fn make(
    home: &Home,
    ready: &Ready,
    bundle: &Bundle,
    tag: &str,
    config: ImageConfig,
    digest: String,
    progress: &dyn Progress,
) -> Result<Image> {
    let puts = puts(bundle, tag)?;
    progress.step(&format!("image {tag}: {} on {}", counted(puts.len()), ready.image.name));
    let staging = home.staging("image")?;
    let disk = staging.path().join(image::DISK);
    // Checks that it is the disk that was built.
    drop(ready.image.open_disk()?);
    copy_layer(&ready.image.disk, &disk)?;
    let bytes: u64 = puts.iter().map(|put| (put.bytes.len() as u64).next_multiple_of(4096)).sum();
    let disk_bytes = (ready.image.disk_bytes + bytes * 3 / 2 + SLACK).next_multiple_of(4 << 20);
    let grow = || File::options().write(true).open(&disk)?.set_len(disk_bytes);
    grow().context(|| format!("cannot size {}", disk.display()))?;
    fill(ready, &disk, disk_bytes, &puts, progress).await?;
    let image = image::record(home, staging, tag.to_owned(), config, digest, disk_bytes, Some(bundle))?;
    progress.done(&format!("{} MiB", image.disk_bytes >> 20));
    Ok(image)
}

fn counted(files: usize) -> String {
    if files == 1 { "1 file".to_owned() } else { format!("{files} files") }
}

/// Boots a machine on a disk, puts files there, and halts it, so that its file system is clean.
async fn fill(ready: &Ready, disk: &Path, disk_bytes: u64, puts: &[Put<'_>], progress: &dyn Progress) -> Result<()> {
    let Ready { host, kernel, .. } = ready;
    let (mut machine, guest) =
        setup::boot(host, host.accelerator(), kernel, false, disk, disk_bytes, BOOT_LIMIT).await?;
    let work = async {
        guest.admit(Identity::new(&sandbox::new_id()?)?.admission(0)?).await?;
        for (done, put) in puts.iter().enumerate() {
            progress.detail(&format!("{} of {}", done + 1, puts.len()));
            write(&guest, put).await?;
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

async fn write(guest: &Guest, put: &Put<'_>) -> Result<()> {
    let write = Write {
        path: put.path.clone().into_bytes(),
        mode: Some(put.mode),
        owner: "0:0".to_owned(),
        create_parents: true,
        ..Write::default()
    };
    let mut writing = guest.write_file(write).await?;
    writing.send(put.bytes).await?;
    writing.finish().await.map(drop)
}
