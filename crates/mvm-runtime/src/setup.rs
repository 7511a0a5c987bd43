//! From a bare host to one that can run: the kernel, the accelerator's verdict, the images. `mvmctl setup` does all of
//! it; a run does what it misses, aloud.

use std::fs::File;
use std::io::Read;
use std::path::Path;
use std::time::Duration;

use mvm_wire::ErrorCode;
use mvm_wire::frame;
use mvm_wire::guest::{Reply, Request};
use tokio::sync::mpsc;

use crate::error::{Error, IoContext, Result};
use crate::home::{Home, Staging};
use crate::host::{Accelerator, Host, Kvm};
use crate::image::{self, Image, ImageSource};
use crate::kernel::{self, Kernel};
use crate::progress::Progress;
use crate::template::{self, BOOT_LIMIT, Recipe};
use crate::vmm::guest::{Guest, describe};
use crate::vmm::machine::{Launch, Machine, Memory};
use crate::vmm::qemu::Shape;

/// How long a guest on KVM may take to reach its agent. Where KVM works it takes half a second.
const KVM_LIMIT: Duration = Duration::from_secs(15);
/// Room on a disk besides its files, in bytes. A clone's disk grows to the size that was asked for.
pub(crate) const SLACK: u64 = 48 << 20;
/// The disk of the machine that is only there to see whether KVM boots it.
const PROBE_DISK: u64 = 16 << 20;

/// What every run stands on.
#[derive(Debug)]
pub struct Ready {
    /// Facts about this host.
    pub host: Host,
    /// The guest kernel.
    pub kernel: Kernel,
    /// The image.
    pub image: Image,
}

/// Finds host facts, kernel and image; makes what is missing. Two at once wait for each other.
pub async fn ready(home: &Home, image: &str, progress: &dyn Progress) -> Result<Ready> {
    image::validate_name(image)?;
    let host = Host::load(home)?;
    match (kernel::installed(home)?, image::lookup(home, image)?) {
        (Some(kernel), Some(found)) if host.kvm != Kvm::Untried => return Ok(Ready { host, kernel, image: found }),
        _ => {}
    }
    if !image::BUILTIN.contains(&image) && image::lookup(home, image)?.is_none() {
        return Err(image::unknown(home, image));
    }
    home.create()?;
    let _setting_up = home.lock("setup", || progress.warn("another mvmctl is setting up; waiting for it"))?;
    let (host, kernel) = ground(home, progress).await?;
    let image = match image::lookup(home, image)? {
        Some(found) => found,
        None => {
            let staging = home.staging("image")?;
            let source = image::source(image, staging.path(), progress)?;
            let digest = image::digest(&source)?;
            build_image(home, (&host, &kernel), staging, source, digest, progress).await?
        }
    };
    Ok(Ready { host, kernel, image })
}

/// What machines run on: makes what is missing. The caller holds the lock `setup`.
pub(crate) async fn ground(home: &Home, progress: &dyn Progress) -> Result<(Host, Kernel)> {
    let kernel = match kernel::installed(home)? {
        Some(kernel) => kernel,
        None => kernel::fetch(home, progress)?,
    };
    let host = judge_kvm(home, Host::load(home)?, &kernel, progress).await?;
    Ok((host, kernel))
}

/// Everything a later run could wait for: kernel, verdict, all built-in images, their templates.
pub async fn everything(home: &Home, shape: &Shape, images: &[String], progress: &dyn Progress) -> Result<()> {
    for name in images {
        let Ready { host, kernel, image } = ready(home, name, progress).await?;
        let accelerator = host.accelerator();
        let recipe = Recipe { host: &host, kernel: &kernel, image: &image, shape, accelerator };
        template::ensure(home, recipe, progress).await?;
    }
    Ok(())
}

/// Uses the user's own kernel from now on.
pub fn use_kernel(home: &Home, path: &Path, modules: Option<&Path>, progress: &dyn Progress) -> Result<Kernel> {
    home.create()?;
    let _setting_up = home.lock("setup", || progress.warn("another mvmctl is setting up; waiting for it"))?;
    kernel::import(home, path, modules, progress)
}

/// Finds out, once for each boot of the host, whether KVM really boots a guest.
async fn judge_kvm(home: &Home, mut host: Host, kernel: &Kernel, progress: &dyn Progress) -> Result<Host> {
    if host.kvm != Kvm::Untried {
        return Ok(host);
    }
    progress.step("kvm: booting a guest to see whether it works here");
    let staging = home.staging("kvm-probe")?;
    let disk = staging.path().join("disk");
    image::empty_disk(&disk, PROBE_DISK)?;
    let boot = boot(&host, Accelerator::Kvm, kernel, true, &disk, PROBE_DISK, KVM_LIMIT);
    host.kvm = match boot.await {
        Ok(_) => {
            progress.done("it does");
            Kvm::Usable
        }
        Err(e) => {
            progress
                .warn(&format!("KVM is there but does not boot a guest; using emulation, which is slower ({})", e.why));
            Kvm::Unusable(format!("a guest did not reach its agent: {}", e.why))
        }
    };
    host.save(home)?;
    Ok(host)
}

/// Makes the image of an archive that lies in `staging`. The caller holds the lock `setup`.
pub(crate) async fn build_image(
    home: &Home,
    (host, kernel): (&Host, &Kernel),
    staging: Staging,
    source: ImageSource,
    digest: String,
    progress: &dyn Progress,
) -> Result<Image> {
    progress.step(&format!("image {}: writing its disk in a build machine", source.name));
    let archive_bytes =
        std::fs::metadata(&source.tar).context(|| format!("cannot read {}", source.tar.display()))?.len();
    let disk_bytes = (image::room(archive_bytes, source.entries) + SLACK).next_multiple_of(4 << 20);
    let disk = staging.path().join(image::DISK);
    image::empty_disk(&disk, disk_bytes)?;
    fill(host, kernel, &source, &disk, disk_bytes, archive_bytes, progress).await?;
    std::fs::remove_file(&source.tar).context(|| format!("cannot remove {}", source.tar.display()))?;
    let image = image::record(home, staging, source.name, source.config, digest, disk_bytes, None)?;
    progress.done(&format!("{} MiB", image.disk_bytes >> 20));
    Ok(image)
}

/// Sends the archive into a machine whose only disk is the image's, where it is unpacked as root.
async fn fill(
    host: &Host,
    kernel: &Kernel,
    source: &ImageSource,
    disk: &Path,
    disk_bytes: u64,
    archive_bytes: u64,
    progress: &dyn Progress,
) -> Result<()> {
    let (mut machine, guest) = boot(host, host.accelerator(), kernel, true, disk, disk_bytes, BOOT_LIMIT).await?;
    let channel = guest.open(&Request::Unpack).await?;
    let (sender, mut chunks) = mpsc::channel::<std::io::Result<Vec<u8>>>(4);
    let mut archive = File::open(&source.tar).context(|| format!("cannot open {}", source.tar.display()))?;
    let reader = std::thread::spawn(move || {
        loop {
            let mut chunk = vec![0; frame::MAX_PAYLOAD];
            let result = archive.read(&mut chunk).map(|len| {
                chunk.truncate(len);
                chunk
            });
            let last = !matches!(&result, Ok(chunk) if !chunk.is_empty());
            if sender.blocking_send(result).is_err() || last {
                return;
            }
        }
    });
    let (mut frames, mut input) = (channel.frames, channel.input);
    let send = async {
        let mut sent = 0;
        while let Some(chunk) = chunks.recv().await {
            let chunk = chunk.context(|| format!("cannot read {}", source.tar.display()))?;
            input.send(&chunk).await?;
            sent += chunk.len() as u64;
            progress.detail(&format!("{}%", sent * 100 / archive_bytes.max(1)));
            if chunk.is_empty() {
                break;
            }
        }
        input.end().await?;
        std::future::pending::<Result<()>>().await
    };
    let answer = async {
        match frames.next().await? {
            crate::vmm::guest::Frame::Reply(Reply::Done) => Ok(()),
            crate::vmm::guest::Frame::Reply(Reply::Failed(failure)) => {
                Err(Error::internal("the build machine cannot write the image", describe(&failure)))
            }
            _ => Err(Error::internal("the build machine cannot write the image", "an answer that was not asked for")),
        }
    };
    let result = tokio::select! {
        biased;
        result = answer => result,
        result = send => result,
    };
    drop(chunks);
    let _ = reader.join();
    match result {
        Ok(()) => {
            machine.kill();
            Ok(())
        }
        Err(e) => Err(machine.explain(e).await),
    }
}

/// Boots a machine whose only disk is written to: one that fills it (`builder`), or one that has it as its root.
pub(crate) async fn boot(
    host: &Host,
    accelerator: Accelerator,
    kernel: &Kernel,
    builder: bool,
    disk: &Path,
    disk_bytes: u64,
    limit: Duration,
) -> Result<(Machine, Guest)> {
    let shape = Shape { memory_mib: 512, cpus: 1, disk_bytes };
    let mut failed = false;
    loop {
        let file =
            File::options().read(true).write(true).open(disk).context(|| format!("cannot open {}", disk.display()))?;
        let mut machine = Machine::start(Launch {
            host,
            accelerator,
            shape: &shape,
            memory: Memory::Fresh,
            disks: vec![file],
            origin: template::boot_origin(kernel, builder)?,
            // Nothing of a stranger's runs in it.
            require: &[],
        })?;
        match machine.greet(limit).await {
            Ok(guest) => return Ok((machine, guest)),
            // As for a template: one retry.
            Err(e) if !failed && accelerator == Accelerator::Tcg && e.code != ErrorCode::Incompatible => failed = true,
            Err(e) => return Err(e),
        }
    }
}
