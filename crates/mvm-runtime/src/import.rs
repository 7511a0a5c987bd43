//! Images that others made: a root file system as an archive or as a directory, what `docker save` writes, and OCI image
//! layouts. Which of these a source is, is told by what is in it.
//!
//! All come down to layers ([`crate::layers`]) and a configuration. Nothing that an image names is looked up on the host:
//! the files of a layout are opened by single names beneath its directory, never through a link, those of an archive are
//! parts of it. What an image says of sizes and digests is checked before anything is made of it.

mod config;
mod docker;
mod oci;
mod parts;
mod root;

use std::fs::File;
use std::io::{BufWriter, Read};
use std::path::Path;

use mvm_wire::ErrorCode;
use serde::de::DeserializeOwned;

use crate::copy::beneath::Dir;
use crate::error::{Error, IoContext, Result};
use crate::home::Home;
use crate::image::{self, BUILTIN, Image, ImageConfig, ImageSource};
use crate::layers::{Expected, Layer, Limits, Region, Spool, damaged, flatten, invalid, no_removals};
use crate::progress::Progress;
use crate::setup;
use parts::{Index, Parts};

/// The most that a manifest or a configuration may have, in bytes.
const MAX_DOCUMENT: u64 = 4 << 20;

/// An image that was imported, or was there.
#[derive(Debug)]
pub struct Imported {
    /// The image, under its name.
    pub image: Image,
    /// Whether the same one was there before.
    pub cached: bool,
}

/// Makes an image of `source` and calls it `name`, whatever that was before. Of several images in it, `reference` names one.
///
/// # Errors
///
/// `NotFound` if the source or the reference is not there, `InvalidRequest` if it cannot be an image, `ResourceExhausted`
/// if it is more than [`Limits`] have.
pub async fn import(
    home: &Home,
    source: &Path,
    name: &str,
    reference: Option<&str>,
    progress: &dyn Progress,
) -> Result<Imported> {
    image::validate_name(name)?;
    if BUILTIN.contains(&name) {
        return Err(invalid(format!("{name} is an image that mvm makes itself")).hint("choose another name"));
    }
    let staging = home.staging("image")?;
    progress.step(&format!("image {name}: reading {}", source.display()));
    let source = ImageSource { name: name.to_owned(), ..archive(source, reference, staging.path())? };
    let digest = image::digest(&source)?;
    let _building = home.lock("setup", || progress.warn("another mvmctl is setting up; waiting for it"))?;
    if let Some(found) = image::with_digest(home, &digest) {
        return Ok(Imported { image: image::tag(home, found, name, None)?, cached: true });
    }
    let (host, kernel) = setup::ground(home, progress).await?;
    let image = setup::build_image(home, (&host, &kernel), staging, source, digest, progress).await?;
    Ok(Imported { image, cached: false })
}

/// Writes the archive of an image into `dir`.
fn archive(source: &Path, reference: Option<&str>, dir: &Path) -> Result<ImageSource> {
    let limits = Limits::within(dir)?;
    let mut spool = Spool::new(dir, &limits);
    let (layers, config) = layers(source, reference, &mut spool, &limits)?;
    let tar = dir.join("root.tar");
    let file = File::create_new(&tar).context(|| format!("cannot create {}", tar.display()))?;
    let mut file = BufWriter::with_capacity(1 << 20, file);
    let entries = flatten(&layers, &limits, &mut file)?;
    file.into_inner().map_err(|e| e.into_error()).context(|| format!("cannot write {}", tar.display()))?;
    Ok(ImageSource { name: String::new(), tar, config, entries })
}

fn layers(
    source: &Path,
    reference: Option<&str>,
    spool: &mut Spool,
    limits: &Limits,
) -> Result<(Vec<Layer>, ImageConfig)> {
    let cannot = |e| Error::named(format!("cannot read {}", source.display()), e);
    let kind = std::fs::metadata(source).map_err(cannot)?;
    let (parts, chosen) = if kind.is_dir() {
        let dir = Dir::open(source).map_err(cannot)?;
        let is_layout = dir.read(oci::MARK.as_bytes()).is_ok() && dir.read(oci::INDEX.as_bytes()).is_ok();
        if !is_layout {
            return root(root::pack(&dir, spool.file()?, limits)?, reference);
        }
        let parts = Parts::Directory(dir);
        let chosen = oci::choose(&parts, reference)?;
        (parts, chosen)
    } else if kind.is_file() {
        let mut whole = Region::whole(File::open(source).map_err(cannot)?).map_err(cannot)?;
        let compressed = whole.is_compressed().map_err(cannot)?;
        if compressed {
            whole = spool.take(SOURCE, whole.reader(), &Expected::default())?;
        }
        let parts = Parts::Archive(Index::of(&whole).map_err(|e| damaged(SOURCE, &e))?);
        let chosen = if docker::is_one(&parts) {
            docker::choose(&parts, reference)?
        } else if parts.has(oci::MARK) && parts.has(oci::INDEX) {
            oci::choose(&parts, reference)?
        } else if compressed {
            return root(whole, reference);
        } else {
            // It is read twice, and must be the same both times.
            return root(spool.take(SOURCE, whole.reader(), &Expected::default())?, reference);
        };
        (parts, chosen)
    } else {
        return Err(invalid(format!("{} is neither a file nor a directory", source.display())));
    };
    if chosen.blobs.len() > limits.layers {
        return Err(crate::layers::exhausted(format!("it has more than {} layers", limits.layers)));
    }
    let layers = chosen.blobs.iter().enumerate().map(|(number, blob)| {
        let name = format!("layer {} ({})", number + 1, blob.path);
        let region = spool.take(&name, parts.open(&blob.path)?, &blob.expected)?;
        Ok(Layer { name, region })
    });
    Ok((layers.collect::<Result<_>>()?, chosen.config))
}

/// What errors call the source itself.
const SOURCE: &str = "the archive";

/// The one layer of a root file system.
fn root(region: Region, reference: Option<&str>) -> Result<(Vec<Layer>, ImageConfig)> {
    if reference.is_some() {
        return Err(invalid("it is a root file system, in which nothing has a reference"));
    }
    let layer = Layer { name: SOURCE.to_owned(), region };
    no_removals(&layer)?;
    Ok((vec![layer], ImageConfig::default()))
}

/// One image: what it is made of.
struct Chosen {
    config: ImageConfig,
    /// Its layers, the lowest first.
    blobs: Vec<Blob>,
}

/// A layer of it.
struct Blob {
    path: String,
    expected: Expected,
}

/// An image of several.
struct Candidate<T> {
    names: Vec<String>,
    platform: Option<String>,
    is: T,
}

/// The platform of mvm's machines.
const PLATFORM: &str = "linux/amd64";

/// The only one, or the one that has the name, or the one that machines can run.
fn choose<T>(mut candidates: Vec<Candidate<T>>, reference: Option<&str>) -> Result<T> {
    const SHOWN: usize = 20;
    let shown: Vec<String> = candidates.iter().take(SHOWN).map(Candidate::shown).collect();
    let list = shown.join(", ") + if candidates.len() > SHOWN { ", …" } else { "" };
    if let Some(reference) = reference {
        candidates.retain(|candidate| candidate.names.iter().any(|name| name == reference));
        if candidates.is_empty() {
            let why = crate::text::harmless(&format!("there is no {reference} in it; there is: {list}"));
            return Err(Error::new(ErrorCode::NotFound, "cannot import the image", why));
        }
    }
    if candidates.len() > 1 {
        candidates.retain(|candidate| candidate.platform.as_deref().is_none_or(|platform| platform == PLATFORM));
    }
    match (candidates.pop(), candidates.len()) {
        (Some(only), 0) => Ok(only.is),
        (Some(_), _) => {
            Err(invalid(format!("there are several images in it: {list}")).hint("name one of them with --reference"))
        }
        (None, _) if list.is_empty() => Err(invalid("there is no image in it")),
        (None, _) => Err(invalid(format!("no image in it is for {PLATFORM}; there is: {list}"))),
    }
}

impl<T> Candidate<T> {
    fn shown(&self) -> String {
        let name = if self.names.is_empty() { "one without a name".to_owned() } else { self.names.join(" = ") };
        self.platform.as_ref().map_or(name.clone(), |platform| format!("{name} ({platform})"))
    }
}

/// The hex digits of a digest, of which only one kind is known.
fn sha256(digest: &str) -> Result<&str> {
    let hex = digest.strip_prefix("sha256:").filter(|hex| is_hex(hex));
    hex.ok_or_else(|| invalid(format!("{digest:?} is no SHA-256 digest")))
}

fn is_hex(text: &str) -> bool {
    text.len() == 64 && text.bytes().all(|byte| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte))
}

/// A JSON document of the image, checked against what is said of it.
fn document<T: DeserializeOwned>(parts: &Parts, path: &str, expected: &Expected) -> Result<T> {
    use sha2::{Digest, Sha256};
    let mut text = Vec::new();
    parts.open(path)?.take(MAX_DOCUMENT + 1).read_to_end(&mut text).map_err(|e| damaged(path, &e))?;
    if text.len() as u64 > MAX_DOCUMENT {
        return Err(crate::layers::exhausted(format!("{path} has more than {MAX_DOCUMENT} bytes")));
    }
    if expected.size.is_some_and(|size| size != text.len() as u64) {
        return Err(invalid(format!("{path}: it does not have the size that the image says")));
    }
    if expected.sha256.as_ref().is_some_and(|sha256| *sha256 != hex::encode(Sha256::digest(&text))) {
        return Err(invalid(format!("{path}: it does not have the digest that the image says")));
    }
    serde_json::from_slice(&text).map_err(|e| invalid(format!("{path}: {e}")))
}
