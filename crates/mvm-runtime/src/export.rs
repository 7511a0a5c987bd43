//! Images for others: an OCI image layout of one layer, in one archive.
//!
//! A disk is read by nobody but a guest's kernel: a machine without a network, on a copy of the disk, sends what is on it,
//! and nothing of it runs there. What comes is taken for what anybody may have sent. It is bounded, and made into an archive
//! as the layers of an image are that is imported ([`crate::layers`]). The same image is the same bytes.

use std::fs::{self, File};
use std::io::{self, BufWriter, Seek, Write};
use std::path::Path;
use std::time::Duration;

use mvm_wire::ErrorCode;
use mvm_wire::guest::{Reply, Request};
use mvm_wire::tar::{self, Entry, Kind};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use crate::error::{Error, IoContext, Result};
use crate::home::{Home, parent, replace};
use crate::image::{Image, ImageConfig};
use crate::layers::{Layer, Limits, Region, Spool, flatten, no_removals, too_large};
use crate::point::copy_layer;
use crate::progress::Progress;
use crate::setup::{self, Ready};
use crate::template::BOOT_LIMIT;
use crate::vmm::guest::{Frame, Guest, broken, describe};

/// How long an agent may take to pack all that a disk can have.
const PACK_LIMIT: Duration = Duration::from_secs(2 * 3600);
/// How long an agent that packs may be silent.
const SILENCE: Duration = Duration::from_secs(60);

/// An image that was exported.
#[derive(Debug)]
pub struct Exported {
    /// The image.
    pub image: Image,
    /// Size of the file.
    pub bytes: u64,
}

/// Writes an image into `file`, which is replaced if it is one.
///
/// # Errors
///
/// `NotFound` if there is no such image, `AlreadyExists` if something else than a file is there, `ResourceExhausted` if there
/// is more on its disk than [`Limits`] have.
pub async fn export(home: &Home, name: &str, file: &Path, progress: &dyn Progress) -> Result<Exported> {
    if fs::symlink_metadata(file).is_ok_and(|there| !there.is_file()) {
        let why = format!("{} is something else than a file", file.display());
        return Err(Error::new(ErrorCode::AlreadyExists, format!("cannot export the image {name}"), why));
    }
    let parent = parent(file);
    fs::metadata(parent).map_err(|e| Error::named(format!("cannot write to {}", parent.display()), e))?;
    let ready = setup::ready(home, name, progress).await?;
    let cannot = |e: Error| Error { what: format!("cannot export the image {name}"), ..e };
    progress.step(&format!("image {name}: reading its disk in a machine"));
    let staging = home.staging("export")?;
    let limits = Limits::within(staging.path())?;
    let spool = Spool::new(staging.path(), &limits);
    let region = read(&ready, staging.path(), spool.file()?, &limits, progress).await.map_err(cannot)?;
    let disk = Layer { name: "its disk".to_owned(), region };
    // Others would take them for removals.
    no_removals(&disk).map_err(cannot)?;
    let mut layer = Summed::of(spool.file()?);
    flatten(&[disk], &limits, &mut layer).map_err(cannot)?;
    let bytes = write(file, &ready.image, layer).context(|| format!("cannot write {}", file.display()))?;
    progress.done(&format!("{} MiB", bytes >> 20));
    Ok(Exported { image: ready.image, bytes })
}

/// Has a machine send what is on a copy of the image's disk.
async fn read(ready: &Ready, dir: &Path, into: File, limits: &Limits, progress: &dyn Progress) -> Result<Region> {
    let Ready { host, kernel, image } = ready;
    let disk = dir.join("disk");
    // Checks that it is the disk that was built.
    drop(image.open_disk()?);
    copy_layer(&image.disk, &disk)?;
    let accelerator = host.accelerator();
    let (mut machine, guest) =
        setup::boot(host, accelerator, kernel, true, &disk, image.disk_bytes, BOOT_LIMIT).await?;
    match receive(&guest, into, limits, progress).await {
        Ok(region) => {
            machine.kill();
            Ok(region)
        }
        Err(e) => Err(machine.explain(e).await),
    }
}

/// Keeps what a machine sends of its disk, which need not be an archive.
///
/// # Errors
///
/// `ResourceExhausted` if it is more than the limits have, `TransportError` if the machine breaks the protocol, is silent or
/// takes too long.
pub async fn receive(guest: &Guest, into: File, limits: &Limits, progress: &dyn Progress) -> Result<Region> {
    let late = |_| Err(broken("read the disk", "the machine takes too long"));
    tokio::time::timeout(PACK_LIMIT, keep(guest, into, limits, progress)).await.unwrap_or_else(late)
}

async fn keep(guest: &Guest, into: File, limits: &Limits, progress: &dyn Progress) -> Result<Region> {
    let mut channel = guest.open(&Request::Pack).await?;
    let cannot_write = || "cannot keep what is on the disk".to_owned();
    let (mut into, mut bytes) = (BufWriter::with_capacity(1 << 20, into), 0);
    loop {
        let frame = tokio::time::timeout(SILENCE, channel.frames.next()).await;
        match frame.map_err(|_| broken("read the disk", "the machine says nothing"))?? {
            // One without content would keep us for nothing.
            Frame::Stdout([]) => return Err(broken("read the disk", "a piece with nothing in it")),
            Frame::Stdout(piece) => {
                bytes += piece.len() as u64;
                if bytes > limits.bytes {
                    return Err(too_large(limits.bytes));
                }
                into.write_all(piece).context(cannot_write)?;
                progress.detail(&format!("{} MiB", bytes >> 20));
            }
            Frame::Reply(Reply::Done) => break,
            Frame::Reply(Reply::Failed(failure)) => return Err(broken("read the disk", describe(&failure))),
            Frame::Reply(_) | Frame::Stderr(_) => {
                return Err(broken("read the disk", "an answer that was not asked for"));
            }
        }
    }
    let into = into.into_inner().map_err(|e| e.into_error()).context(cannot_write)?;
    Region::whole(into).context(cannot_write)
}

/// A file that is written, with its length and digest.
struct Summed {
    file: BufWriter<File>,
    length: u64,
    hasher: Sha256,
}

impl Summed {
    fn of(file: File) -> Summed {
        Summed { file: BufWriter::with_capacity(1 << 20, file), length: 0, hasher: Sha256::new() }
    }
}

impl Write for Summed {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.file.write(bytes)?;
        self.length += written as u64;
        self.hasher.update(&bytes[..written]);
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

/// Writes the layout beside its place, and puts it there.
fn write(file: &Path, image: &Image, layer: Summed) -> io::Result<u64> {
    replace(file, |draft| {
        let mut out = BufWriter::with_capacity(1 << 20, draft);
        layout(&mut out, image, layer)?;
        out.into_inner().map_err(|e| e.into_error())?.metadata().map(|meta| meta.len())
    })
}

fn layout(out: &mut impl Write, image: &Image, layer: Summed) -> io::Result<()> {
    let Summed { file, length, hasher } = layer;
    let (mut content, digest) = (file.into_inner().map_err(|e| e.into_error())?, hex::encode(hasher.finalize()));
    let config = config(&image.config, &digest).to_string();
    let manifest = json!({
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": descriptor("config.v1+json", &sha256(&config), config.len() as u64),
        "layers": [descriptor("layer.v1.tar", &digest, length)],
    })
    .to_string();
    let mut described = descriptor("manifest.v1+json", &sha256(&manifest), manifest.len() as u64);
    described["annotations"] = json!({ "org.opencontainers.image.ref.name": image.name });
    described["platform"] = json!({ "architecture": "amd64", "os": "linux" });
    let index = json!({ "schemaVersion": 2, "manifests": [described] }).to_string();
    text(out, "oci-layout", &json!({ "imageLayoutVersion": "1.0.0" }).to_string())?;
    text(out, "index.json", &index)?;
    for dir in ["blobs", "blobs/sha256"] {
        tar::write(out, &entry(dir, Kind::Directory, 0))?;
    }
    text(out, &blob(&sha256(&config)), &config)?;
    text(out, &blob(&sha256(&manifest)), &manifest)?;
    tar::write(out, &entry(&blob(&digest), Kind::File, length))?;
    content.rewind()?;
    io::copy(&mut content, out)?;
    out.write_all(&tar::END[..tar::padding(length) as usize])?;
    out.write_all(&tar::END)
}

fn config(config: &ImageConfig, layer: &str) -> Value {
    let env: Vec<String> = config.env.iter().map(|(name, value)| format!("{name}={value}")).collect();
    json!({
        "architecture": "amd64",
        "os": "linux",
        "config": { "Env": env, "Entrypoint": config.entrypoint, "WorkingDir": config.workdir, "User": config.user },
        "rootfs": { "type": "layers", "diff_ids": [format!("sha256:{layer}")] },
    })
}

fn descriptor(kind: &str, sha256: &str, size: u64) -> Value {
    json!({ "mediaType": format!("application/vnd.oci.image.{kind}"), "digest": format!("sha256:{sha256}"), "size": size })
}

fn sha256(text: &str) -> String {
    hex::encode(Sha256::digest(text))
}

fn blob(sha256: &str) -> String {
    format!("blobs/sha256/{sha256}")
}

fn text(out: &mut impl Write, path: &str, text: &str) -> io::Result<()> {
    let size = text.len() as u64;
    tar::write(out, &entry(path, Kind::File, size))?;
    out.write_all(text.as_bytes())?;
    out.write_all(&tar::END[..tar::padding(size) as usize])
}

fn entry(path: &str, kind: Kind, size: u64) -> Entry {
    let mode = if kind == Kind::Directory { 0o755 } else { 0o644 };
    Entry { path: path.as_bytes().to_vec(), kind, mode, uid: 0, gid: 0, mtime: 0, size, xattrs: Default::default() }
}
