//! The guest kernel: taken from the distribution by its own package client, or the user's own. Nothing is installed
//! into the host; the kernel and the few modules a guest needs are unpacked beneath `MVM_HOME`.

mod initramfs;
mod modules;

use std::fs;
use std::path::{Path, PathBuf};

use mvm_wire::ErrorCode;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::error::{Error, IoContext, Result};
use crate::home::{Home, Staging, read_json, write_atomically};
use crate::progress::Progress;
use crate::stamp::FileStamp;
use crate::tool::Tool;

pub use initramfs::initramfs;

const VMLINUZ: &str = "vmlinuz";
const CURRENT: &str = "current.json";

/// A kernel that guests can boot.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Kernel {
    /// `sha256:` and a digest of the kernel and its modules in load order.
    pub digest: String,
    /// Its release, e.g. `6.1.0-53-cloud-amd64`.
    pub release: String,
    /// The package and version it came from, or the user's path.
    pub source: String,
    /// The bzImage or ELF file.
    pub vmlinuz: PathBuf,
    /// The modules that are not built in, in load order.
    pub modules: Vec<PathBuf>,
    stamps: Vec<FileStamp>,
}

impl Kernel {
    fn files(&self) -> impl Iterator<Item = (&PathBuf, &FileStamp)> {
        std::iter::once(&self.vmlinuz).chain(&self.modules).zip(&self.stamps)
    }

    /// Every byte of every file.
    pub fn verify(&self) -> std::result::Result<(), String> {
        self.files().try_for_each(|(path, stamp)| stamp.verify(path))
    }
}

/// The kernel in use, if there is one and its files are as they were left.
pub fn installed(home: &Home) -> Result<Option<Kernel>> {
    let kernel: Option<Kernel> = read_json(&home.kernels().join(CURRENT));
    Ok(kernel.filter(|kernel| kernel.files().all(|(path, stamp)| stamp.check(path).is_ok())))
}

/// Gets the distribution's kernel for virtual machines.
pub fn fetch(home: &Home, progress: &dyn Progress) -> Result<Kernel> {
    progress.step("kernel: asking the package client");
    let staging = home.staging("kernel")?;
    let apt = Apt::new(staging.path(), progress)?;
    let package = apt.kernel_package()?;
    progress.step(&format!("kernel: downloading {package}"));
    let unpacked = staging.path().join("unpacked");
    let version = apt.download_and_unpack(&package, &unpacked)?;
    let release = package.trim_start_matches("linux-image-").trim_start_matches("unsigned-").to_owned();
    // Ubuntu keeps the modules in a package of their own.
    if !unpacked.join("lib/modules").join(&release).join("kernel").exists() {
        let modules = format!("linux-modules-{release}");
        progress.detail(&modules);
        apt.download_and_unpack(&modules, &unpacked)?;
    }
    let lib = ["lib/modules", "usr/lib/modules"]
        .map(|dir| unpacked.join(dir))
        .into_iter()
        .find(|dir| dir.join(&release).exists());
    let modules = lib.map(|dir| dir.join(&release));
    let vmlinuz = unpacked.join(format!("boot/vmlinuz-{release}"));
    let kernel = install(home, &vmlinuz, modules.as_deref(), &release, &format!("{package} {version}"))?;
    progress.done(&kernel.release);
    Ok(kernel)
}

/// Takes the user's own kernel: a bzImage or an ELF vmlinux, with its modules' directory unless all is built in.
pub fn import(home: &Home, path: &Path, modules: Option<&Path>, progress: &dyn Progress) -> Result<Kernel> {
    progress.step(&format!("kernel: taking {}", path.display()));
    let head = fs::File::open(path).and_then(|mut file| {
        let mut head = vec![0; 0x206];
        std::io::Read::read_exact(&mut file, &mut head).map(|()| head)
    });
    let head = head.context(|| format!("cannot read the kernel {}", path.display()))?;
    if &head[..4] != b"\x7fELF" && &head[0x202..] != b"HdrS" {
        return Err(Error::new(
            ErrorCode::InvalidRequest,
            format!("cannot use {} as a kernel", path.display()),
            "it is neither a bzImage nor an ELF file",
        )
        .hint("give a file such as /boot/vmlinuz-* or a vmlinux"));
    }
    let release =
        modules.and_then(Path::file_name).map_or_else(|| "custom".into(), |name| name.to_string_lossy().into_owned());
    let kernel = install(home, path, modules, &release, &path.display().to_string())?;
    progress.done(&kernel.release);
    Ok(kernel)
}

/// Copies the kernel and the modules it needs to a place of their own and makes them the current ones.
fn install(home: &Home, vmlinuz: &Path, modules: Option<&Path>, release: &str, source: &str) -> Result<Kernel> {
    let staging = home.staging("kernel-files")?;
    copy_public(vmlinuz, &staging.path().join(VMLINUZ))?;
    let names = match modules {
        Some(dir) => modules::collect(dir, staging.path())?,
        None => Vec::new(),
    };
    let files: Vec<&str> = std::iter::once(VMLINUZ).chain(names.iter().map(String::as_str)).collect();
    let stamps = files.iter().map(|name| FileStamp::of(&staging.path().join(name))).collect::<Result<Vec<_>>>()?;
    let mut hasher = Sha256::new();
    stamps.iter().for_each(|stamp| hasher.update(&stamp.sha256));
    let hex = hex::encode(hasher.finalize());
    let dir = home.kernels().join(&hex[..16]);
    if let Some(kernel) = installed(home)?.filter(|kernel| kernel.digest.ends_with(&hex)) {
        return Ok(kernel);
    }
    let kernel = Kernel {
        digest: format!("sha256:{hex}"),
        release: release.to_owned(),
        source: source.to_owned(),
        vmlinuz: dir.join(VMLINUZ),
        modules: names.iter().map(|name| dir.join(name)).collect(),
        stamps,
    };
    replace(home, staging, &dir)?;
    let text =
        serde_json::to_vec_pretty(&kernel).map_err(|e| Error::internal("cannot encode the kernel's record", e))?;
    write_atomically(&home.kernels().join(CURRENT), &text)?;
    Ok(kernel)
}

/// Puts a directory in the place of a damaged one.
fn replace(home: &Home, staging: Staging, dir: &Path) -> Result<()> {
    if dir.exists() {
        let removed = home.staging("removed")?;
        fs::rename(dir, removed.path().join("old")).context(|| format!("cannot remove {}", dir.display()))?;
    }
    staging.commit(dir)
}

/// Copies a file that QEMU will read as a user of its own. A kernel is no secret.
fn copy_public(from: &Path, to: &Path) -> Result<()> {
    fs::copy(from, to).context(|| format!("cannot copy {}", from.display()))?;
    let public = std::os::unix::fs::PermissionsExt::from_mode(0o644);
    fs::set_permissions(to, public).context(|| format!("cannot change the mode of {}", to.display()))
}

/// The package client, used in a way that neither needs root nor changes the host.
struct Apt<'a> {
    dir: &'a Path,
    options: Vec<String>,
    progress: &'a dyn Progress,
}

impl<'a> Apt<'a> {
    fn new(dir: &'a Path, progress: &'a dyn Progress) -> Result<Apt<'a>> {
        let mut apt = Apt { dir, options: Vec::new(), progress };
        // Downloads go to a directory that only we may enter, which the client's own user cannot.
        apt.options.push("-oAPT::Sandbox::User=root".into());
        if apt.kernel_package().is_err() {
            progress.detail("fetching package lists");
            for part in ["lists/partial", "cache/archives/partial"] {
                fs::create_dir_all(dir.join(part)).context(|| format!("cannot create {}", dir.join(part).display()))?;
            }
            apt.options.push(format!("-oDir::State::Lists={}", dir.join("lists").display()));
            apt.options.push(format!("-oDir::Cache={}", dir.join("cache").display()));
            apt.tool("apt-get")?.args(["update", "-q"]).run(|line| progress.detail(line))?;
        }
        Ok(apt)
    }

    fn tool(&self, program: &str) -> Result<Tool> {
        Ok(Tool::new(program)?.args(&self.options).dir(self.dir))
    }

    /// The real package behind the distribution's name for "the newest kernel for virtual machines".
    fn kernel_package(&self) -> Result<String> {
        for meta in ["linux-image-cloud-amd64", "linux-image-virtual", "linux-image-amd64"] {
            let Ok(printed) = self.tool("apt-cache")?.args(["depends", "--important", meta]).run(|_| {}) else {
                continue;
            };
            if let Some(package) = real_kernel(&printed.0) {
                return Ok(package);
            }
        }
        Err(Error::new(ErrorCode::NotFound, "cannot get a guest kernel", "the package client knows no kernel package")
            .hint("use one of your own: mvmctl setup --kernel /boot/vmlinuz-... --modules /lib/modules/..."))
    }

    fn download_and_unpack(&self, package: &str, into: &Path) -> Result<String> {
        let progress = self.progress;
        self.tool("apt-get")?.args(["download", "-q", package]).run(|line| progress.detail(line))?;
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

    #[test]
    fn what_is_no_kernel_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let home = Home::at(dir.path().join("home"));
        let path = dir.path().join("text");
        fs::write(&path, vec![b'x'; 4096]).unwrap();
        let error = import(&home, &path, None, &crate::progress::Silent).unwrap_err();
        assert_eq!(error.code, ErrorCode::InvalidRequest);
    }
}
