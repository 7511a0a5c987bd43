//! OCI image layouts: an index, and everything else by its digest.

use std::collections::{HashMap, HashSet};

use serde::Deserialize;

use super::config::Document;
use super::parts::Parts;
use super::{Blob, Candidate, Chosen, document, sha256};
use crate::error::Result;
use crate::layers::{Expected, exhausted, invalid};

/// The file that says it is a layout.
pub const MARK: &str = "oci-layout";
/// The file that says what is in it.
pub const INDEX: &str = "index.json";
/// How deep an index may be in others.
const MAX_DEPTH: usize = 4;
/// How many images and indexes there may be, all together.
const MAX_IMAGES: usize = 1000;
/// The longest name that an image can be chosen by, in bytes. Longer ones are passed over.
const MAX_REFERENCE: usize = 1024;
/// The annotations that name an image. The second is containerd's, and docker's.
const NAMES: [&str; 2] = ["org.opencontainers.image.ref.name", "io.containerd.image.name"];
/// What of an index is no image, but says something of one.
const ATTESTATION: &str = "vnd.docker.reference.type";

#[derive(Deserialize)]
struct Layout {
    #[serde(rename = "imageLayoutVersion")]
    version: String,
}

#[derive(Deserialize)]
struct Index {
    #[serde(default)]
    manifests: Vec<Descriptor>,
}

#[derive(Deserialize)]
struct Manifest {
    config: Descriptor,
    layers: Vec<Descriptor>,
}

#[derive(Clone, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Descriptor {
    #[serde(default)]
    media_type: String,
    digest: String,
    size: u64,
    #[serde(default)]
    platform: Option<Platform>,
    #[serde(default)]
    annotations: Option<HashMap<String, String>>,
}

#[derive(Clone, Deserialize)]
struct Platform {
    #[serde(default)]
    os: String,
    #[serde(default)]
    architecture: String,
}

impl Descriptor {
    fn path(&self) -> Result<String> {
        Ok(format!("blobs/sha256/{}", sha256(&self.digest)?))
    }

    fn expected(&self) -> Result<Expected> {
        let sha256 = Some(sha256(&self.digest)?.to_owned());
        Ok(Expected { sha256, size: Some(self.size), content_sha256: None })
    }

    fn names(&self) -> impl Iterator<Item = String> {
        let annotations = self.annotations.as_ref();
        let names = NAMES.iter().filter_map(move |name| annotations?.get(*name));
        names.filter(|name| name.len() <= MAX_REFERENCE).cloned()
    }

    fn is_attestation(&self) -> bool {
        self.annotations.as_ref().is_some_and(|annotations| annotations.contains_key(ATTESTATION))
    }
}

pub fn choose(parts: &Parts, reference: Option<&str>) -> Result<Chosen> {
    let layout: Layout = document(parts, MARK, &Expected::default())?;
    if !layout.version.starts_with("1.") {
        return Err(invalid(format!("its layout is of version {:?}, which this mvmctl cannot read", layout.version)));
    }
    let index: Index = document(parts, INDEX, &Expected::default())?;
    let mut search = Search { parts, found: Vec::new(), read: HashSet::new(), seen: 0 };
    search.descend(index, &[], 0)?;
    let manifest = super::choose(search.found, reference)?;
    let manifest: Manifest = document(parts, &manifest.path()?, &manifest.expected()?)?;
    let config: Document = document(parts, &manifest.config.path()?, &manifest.config.expected()?)?;
    let (digests, config) = config.read(manifest.layers.len())?;
    let blobs = manifest.layers.iter().zip(digests).map(|(layer, digest)| {
        let kind = &layer.media_type;
        if !["tar", "tar+gzip", "tar+zstd", "tar.gzip", "tar.zstd"].iter().any(|known| kind.ends_with(known)) {
            return Err(invalid(format!("a layer is of the kind {kind:?}, which this mvmctl cannot read")));
        }
        Ok(Blob { path: layer.path()?, expected: Expected { content_sha256: Some(digest), ..layer.expected()? } })
    });
    Ok(Chosen { config, blobs: blobs.collect::<Result<_>>()? })
}

/// All images of an index, and of the indexes in it.
struct Search<'a> {
    parts: &'a Parts,
    found: Vec<Candidate<Descriptor>>,
    /// The indexes that were read.
    read: HashSet<String>,
    /// How many images and indexes were named, the same ones again, too.
    seen: usize,
}

impl Search<'_> {
    fn descend(&mut self, index: Index, above: &[String], depth: usize) -> Result<()> {
        if depth > MAX_DEPTH {
            return Err(invalid("its indexes lie too deep in one another"));
        }
        for descriptor in index.manifests.into_iter().filter(|descriptor| !descriptor.is_attestation()) {
            self.seen += 1;
            if self.seen > MAX_IMAGES {
                return Err(exhausted(format!("there are more than {MAX_IMAGES} images in it")));
            }
            let mut names = above.to_vec();
            names.extend(descriptor.names().filter(|name| !above.contains(name)));
            if descriptor.media_type.contains("index") || descriptor.media_type.contains("manifest.list") {
                // One that is there twice would be read for ever again.
                if self.read.insert(descriptor.digest.clone()) {
                    let index = document(self.parts, &descriptor.path()?, &descriptor.expected()?)?;
                    self.descend(index, &names, depth + 1)?;
                }
                continue;
            }
            match self.found.iter_mut().find(|found| found.is.digest == descriptor.digest) {
                Some(same) => same.names.extend(names),
                None => {
                    let platform = descriptor.platform.as_ref();
                    let platform = platform.map(|platform| format!("{}/{}", platform.os, platform.architecture));
                    self.found.push(Candidate { names, platform, is: descriptor });
                }
            }
        }
        Ok(())
    }
}
