//! The guest kernel: taken from the distribution by its own package client, or the user's own. Nothing is installed
//! into the host; the kernel and the few modules a guest needs are unpacked beneath `MVM_HOME`.

mod apt;
mod elf;
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
use crate::tool;

pub use initramfs::initramfs;

use apt::Apt;

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

    #[cfg(test)]
    pub(crate) fn sample(modules: Vec<PathBuf>) -> Kernel {
        let (text, vmlinuz) = (String::new, PathBuf::new());
        Kernel { digest: text(), release: text(), source: text(), vmlinuz, modules, stamps: Vec::new() }
    }

    /// Every byte of every file.
    pub fn verify(&self) -> std::result::Result<(), String> {
        self.files().try_for_each(|(path, stamp)| stamp.verify(path))
    }
}

/// The kernel in use, if there is one and its files are as they were left.
pub fn installed(home: &Home) -> Result<Option<Kernel>> {
    let kernel: Option<Kernel> = read_json(&home.kernels().join(CURRENT));
    let whole = |kernel: &Kernel| {
        kernel.stamps.len() == 1 + kernel.modules.len() && kernel.files().all(|(path, stamp)| stamp.check(path).is_ok())
    };
    Ok(kernel.filter(whole))
}

/// Gets the distribution's kernel for virtual machines.
pub fn fetch(home: &Home, progress: &dyn Progress) -> Result<Kernel> {
    progress.step("kernel: asking the package client");
    let staging = home.staging("kernel")?;
    let unpacked = staging.path().join("unpacked");
    let mut apt = Apt::new(staging.path(), progress)?;
    let (package, version) = apt.unpack_kernel(&unpacked)?;
    let release = package.trim_start_matches("linux-image-").trim_start_matches("unsigned-").to_owned();
    let modules = match unpacked_modules(&unpacked, &release) {
        Some(found) => Some(found),
        // Ubuntu keeps the modules in a package of their own.
        None => {
            apt.download_and_unpack(&format!("linux-modules-{release}"), &unpacked)?;
            unpacked_modules(&unpacked, &release)
        }
    };
    let vmlinuz = unpacked.join(format!("boot/vmlinuz-{release}"));
    let source = format!("{package} {version}");
    let kernel = install(home, &vmlinuz, modules.as_deref(), &release, &source, progress)?;
    progress.done(&kernel.release);
    Ok(kernel)
}

/// Where a package put its modules: at the root of the file system until Debian 12, beneath `usr` since.
fn unpacked_modules(unpacked: &Path, release: &str) -> Option<PathBuf> {
    ["lib/modules", "usr/lib/modules"]
        .map(|dir| unpacked.join(dir).join(release))
        .into_iter()
        .find(|dir| dir.join("kernel").exists())
}

/// Takes the user's own kernel: a bzImage or an ELF vmlinux, with its modules' directory unless all is built in.
pub fn import(home: &Home, path: &Path, modules: Option<&Path>, progress: &dyn Progress) -> Result<Kernel> {
    progress.step(&format!("kernel: taking {}", path.display()));
    let file = fs::read(path).context(|| format!("cannot read the kernel {}", path.display()))?;
    let refused = |why: &str| {
        Error::new(ErrorCode::InvalidRequest, format!("cannot use {} as a kernel", path.display()), why)
            .hint("give a file such as /boot/vmlinuz-*, or a vmlinux that was built with CONFIG_PVH")
    };
    if file.starts_with(b"\x7fELF") {
        if !elf::has_direct_entry(&file) {
            return Err(refused("it has no entry point for virtual machines (PVH)"));
        }
    } else if !elf::is_bzimage(&file) {
        return Err(refused("it is neither a bzImage nor an ELF file"));
    }
    let release =
        modules.and_then(Path::file_name).map_or_else(|| "custom".into(), |name| name.to_string_lossy().into_owned());
    let kernel = install(home, path, modules, &release, &path.display().to_string(), progress)?;
    progress.done(&kernel.release);
    Ok(kernel)
}

/// Copies the kernel and the modules it needs to a place of their own and makes them the current ones.
fn install(
    home: &Home,
    vmlinuz: &Path,
    modules: Option<&Path>,
    release: &str,
    source: &str,
    progress: &dyn Progress,
) -> Result<Kernel> {
    let staging = home.staging("kernel-files")?;
    place(vmlinuz, staging.path(), progress)?;
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

/// Puts the kernel into `dir` in the form that boots fastest: unpacked where that can be done.
fn place(vmlinuz: &Path, dir: &Path, progress: &dyn Progress) -> Result<()> {
    let mut kernel = fs::read(vmlinuz).context(|| format!("cannot read {}", vmlinuz.display()))?;
    if let Some(program) = elf::unpacker(&kernel) {
        if tool::find(program).is_ok() {
            progress.detail("unpacking the kernel");
            kernel = elf::extract(&kernel, dir)?.unwrap_or(kernel);
        } else {
            progress
                .warn(&format!("without {program}, boots take longer (apt-get install {})", tool::package(program)));
        }
    }
    let to = dir.join(VMLINUZ);
    fs::write(&to, kernel).context(|| format!("cannot write {}", to.display()))?;
    // QEMU reads it as a user of its own. A kernel is no secret.
    let public = std::os::unix::fs::PermissionsExt::from_mode(0o644);
    fs::set_permissions(&to, public).context(|| format!("cannot change the mode of {}", to.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

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
