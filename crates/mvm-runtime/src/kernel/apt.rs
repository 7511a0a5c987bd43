//! The distribution's package client, used in a way that neither needs root nor changes the host: what it downloads,
//! lists included, goes to a directory of ours.

use std::fs;
use std::path::Path;
use std::time::Duration;

use mvm_wire::ErrorCode;

use crate::error::{Error, IoContext, Result};
use crate::progress::Progress;
use crate::tool::Tool;

/// The distributions' names for "the newest kernel for virtual machines", the smallest first.
const META_PACKAGES: [&str; 3] = ["linux-image-cloud-amd64", "linux-image-virtual", "linux-image-amd64"];
/// Longer than a slow line needs for 100 MB; a mirror that answers nothing at all is given up earlier by the client.
const DOWNLOAD_LIMIT: Duration = Duration::from_secs(1800);

pub struct Apt<'a> {
    dir: &'a Path,
    options: Vec<String>,
    own_lists: bool,
    progress: &'a dyn Progress,
}

impl<'a> Apt<'a> {
    /// A client that works in `dir`, with the host's package lists if they know a kernel.
    pub fn new(dir: &'a Path, progress: &'a dyn Progress) -> Result<Apt<'a>> {
        // Downloads go to a directory that only we may enter, which the client's own user cannot.
        let options = vec!["-oAPT::Sandbox::User=root".to_owned(), "-oAcquire::Retries=2".to_owned()];
        let mut apt = Apt { dir, options, own_lists: false, progress };
        if apt.kernel_package().is_err() {
            apt.fetch_lists()?;
        }
        Ok(apt)
    }

    /// Downloads and unpacks the kernel. Returns its package and version.
    pub fn unpack_kernel(&mut self, into: &Path) -> Result<(String, String)> {
        let package = self.kernel_package()?;
        self.progress.step(&format!("kernel: downloading {package}"));
        match self.download_and_unpack(&package, into) {
            Ok(version) => Ok((package, version)),
            // The host's lists may be so old that the mirrors no longer have what they name.
            Err(_) if !self.own_lists => {
                self.fetch_lists()?;
                let package = self.kernel_package()?;
                self.progress.step(&format!("kernel: downloading {package}"));
                let version = self.download_and_unpack(&package, into)?;
                Ok((package, version))
            }
            Err(e) => Err(e.hint("check the network, or use a kernel of your own: mvmctl setup --kernel PATH")),
        }
    }

    /// Downloads and unpacks a package. Returns its version.
    pub fn download_and_unpack(&self, package: &str, into: &Path) -> Result<String> {
        let progress = self.progress;
        self.tool("apt-get")?.args(["download", "-q", package]).limit(DOWNLOAD_LIMIT).aloud(|l| progress.detail(l))?;
        let file = fs::read_dir(self.dir)
            .context(|| format!("cannot read {}", self.dir.display()))?
            .flatten()
            .map(|entry| entry.path())
            .find(|path| {
                let name = path.file_name().unwrap_or_default().to_string_lossy();
                name.starts_with(&format!("{package}_")) && name.ends_with(".deb")
            })
            .ok_or_else(|| Error::internal(format!("cannot download {package}"), "the package client left no file"))?;
        progress.detail("unpacking");
        Tool::new("dpkg-deb")?.arg("-x").arg(&file).arg(into).run(|_| {})?;
        let name = file.file_name().unwrap_or_default().to_string_lossy().into_owned();
        fs::remove_file(&file).context(|| format!("cannot remove {}", file.display()))?;
        Ok(name.split('_').nth(1).unwrap_or_default().replace("%3a", ":"))
    }

    fn fetch_lists(&mut self) -> Result<()> {
        self.progress.step("kernel: fetching package lists");
        for part in ["lists/partial", "cache/archives/partial"] {
            let dir = self.dir.join(part);
            fs::create_dir_all(&dir).context(|| format!("cannot create {}", dir.display()))?;
        }
        self.options.push(format!("-oDir::State::Lists={}", self.dir.join("lists").display()));
        self.options.push(format!("-oDir::Cache={}", self.dir.join("cache").display()));
        self.own_lists = true;
        let progress = self.progress;
        self.tool("apt-get")?.args(["update", "-q"]).limit(DOWNLOAD_LIMIT).aloud(|line| progress.detail(line))
    }

    fn tool(&self, program: &str) -> Result<Tool> {
        Ok(Tool::new(program)?.args(&self.options).dir(self.dir))
    }

    /// The real package behind the distribution's name.
    fn kernel_package(&self) -> Result<String> {
        for meta in META_PACKAGES {
            let depends = self.tool("apt-cache")?.args(["depends", "--important", meta]).run(|_| {});
            if let Some(package) = depends.ok().and_then(|printed| real_kernel(&printed.0)) {
                return Ok(package);
            }
        }
        Err(Error::new(ErrorCode::NotFound, "cannot get a guest kernel", "the package client knows no kernel package")
            .hint("use one of your own: mvmctl setup --kernel /boot/vmlinuz-... --modules /lib/modules/..."))
    }
}

/// The first versioned kernel among a meta package's dependencies.
fn real_kernel(depends: &str) -> Option<String> {
    depends
        .lines()
        .filter_map(|line| line.trim().strip_prefix("Depends: "))
        .find(|name| {
            name.strip_prefix("linux-image-").is_some_and(|rest| rest.starts_with(|c: char| c.is_ascii_digit()))
        })
        .map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_real_package_is_found_behind_the_meta_package() {
        let debian = "linux-image-cloud-amd64\n  Depends: linux-image-6.1.0-53-cloud-amd64\n";
        assert_eq!(real_kernel(debian).unwrap(), "linux-image-6.1.0-53-cloud-amd64");
        let ubuntu = "linux-image-virtual\n  Depends: linux-image-6.8.0-31-generic\n  Depends: linux-firmware\n";
        assert_eq!(real_kernel(ubuntu).unwrap(), "linux-image-6.8.0-31-generic");
        assert_eq!(real_kernel("x\n  Depends: linux-image-generic\n"), None);
    }
}
