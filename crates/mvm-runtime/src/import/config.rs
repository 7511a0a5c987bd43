//! The configuration of an image, as docker and OCI have it.

use serde::Deserialize;

use super::{PLATFORM, sha256};
use crate::error::Result;
use crate::image::ImageConfig;
use crate::layers::invalid;

/// The most that commands of an image start from, in bytes: it is sent with each.
const MAX_SETTINGS: usize = 64 << 10;

/// What of it counts here.
#[derive(Deserialize)]
pub struct Document {
    #[serde(default)]
    architecture: String,
    #[serde(default)]
    os: String,
    #[serde(default)]
    config: Option<Settings>,
    rootfs: Rootfs,
}

#[derive(Default, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
struct Settings {
    env: Option<Vec<String>>,
    entrypoint: Option<Vec<String>>,
    cmd: Option<Vec<String>>,
    working_dir: Option<String>,
    user: Option<String>,
}

#[derive(Deserialize)]
struct Rootfs {
    #[serde(default)]
    diff_ids: Option<Vec<String>>,
}

impl Document {
    /// The digests of so many layers, uncompressed and in hex, and what commands start from.
    pub fn read(self, layers: usize) -> Result<(Vec<String>, ImageConfig)> {
        let platform = format!("{}/{}", self.os, self.architecture);
        if !(self.os.is_empty() && self.architecture.is_empty()) && platform != PLATFORM {
            return Err(invalid(format!("it is for {platform}, and machines are {PLATFORM}")));
        }
        let digests = self.rootfs.diff_ids.unwrap_or_default();
        if digests.len() != layers {
            return Err(invalid(format!("it has {layers} layers, and its configuration has {}", digests.len())));
        }
        let digests = digests.iter().map(|digest| sha256(digest).map(str::to_owned)).collect::<Result<_>>()?;
        Ok((digests, self.config.unwrap_or_default().read()?))
    }
}

impl Settings {
    fn read(self) -> Result<ImageConfig> {
        let env = self.env.unwrap_or_default();
        let entrypoint: Vec<String> = self.entrypoint.into_iter().chain(self.cmd).flatten().collect();
        let (mut workdir, user) = (self.working_dir.unwrap_or_default(), self.user.unwrap_or_default());
        let texts = || env.iter().chain(&entrypoint).chain([&workdir, &user]);
        if texts().any(|text| text.contains('\0')) {
            return Err(invalid("its configuration has a text with a zero byte"));
        }
        if texts().map(String::len).sum::<usize>() > MAX_SETTINGS {
            return Err(invalid(format!("its environment and command are more than {MAX_SETTINGS} bytes")));
        }
        let pair = |text: String| match text.split_once('=') {
            Some((name, value)) if !name.is_empty() => Ok((name.to_owned(), value.to_owned())),
            _ => Err(invalid(format!("{text:?} in its environment is not NAME=VALUE"))),
        };
        let env = env.into_iter().map(pair).collect::<Result<_>>()?;
        if !workdir.is_empty() && !workdir.starts_with('/') {
            workdir.insert(0, '/');
        }
        Ok(ImageConfig { env, workdir, user, entrypoint, warm: Vec::new() })
    }
}
