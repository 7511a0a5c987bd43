//! What `docker save` and `podman save` write: an archive with a list of images, their configurations and layers.

use std::io::Read;

use serde::Deserialize;

use super::config::Document;
use super::parts::Parts;
use super::{Blob, Candidate, Chosen, document, is_hex};
use crate::error::Result;
use crate::layers::Expected;

const LIST: &str = "manifest.json";

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Manifest {
    config: String,
    #[serde(default)]
    repo_tags: Option<Vec<String>>,
    layers: Vec<String>,
}

/// Whether it is one: it has a file of the list's name with a list in it.
pub fn is_one(parts: &Parts) -> bool {
    let mut first = [0];
    parts.open(LIST).is_ok_and(|mut list| list.read_exact(&mut first).is_ok() && first == *b"[")
}

pub fn choose(parts: &Parts, reference: Option<&str>) -> Result<Chosen> {
    let manifests: Vec<Manifest> = document(parts, LIST, &Expected::default())?;
    let candidates = manifests.into_iter().map(|mut manifest| {
        let names = manifest.repo_tags.take().unwrap_or_default();
        Candidate { names, platform: None, is: manifest }
    });
    let manifest = super::choose(candidates.collect(), reference)?;
    let config: Document = document(parts, &manifest.config, &named(&manifest.config))?;
    let (digests, config) = config.read(manifest.layers.len())?;
    let blobs = manifest.layers.into_iter().zip(digests).map(|(path, digest)| {
        let expected = Expected { content_sha256: Some(digest), ..Expected::default() };
        Blob { path, expected }
    });
    Ok(Chosen { config, blobs: blobs.collect() })
}

/// A configuration is called by its digest.
fn named(path: &str) -> Expected {
    let name = path.rsplit('/').next().unwrap_or_default().trim_end_matches(".json");
    Expected { sha256: is_hex(name).then(|| name.to_owned()), ..Expected::default() }
}
