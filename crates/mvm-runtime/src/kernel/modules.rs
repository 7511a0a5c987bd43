//! Which modules a guest needs: the drivers below, minus what is built in, plus what they depend on, in load order.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use mvm_wire::ErrorCode;

use crate::error::{Error, IoContext, Result};
use crate::tool::Tool;

/// The bus, the agent's channel, the disk and its file system.
const NEEDED: [&str; 4] = ["virtio_mmio", "virtio_console", "virtio_blk", "ext4"];

/// Copies the needed modules from `dir` (such as `/lib/modules/6.1.0`) into `dest`, uncompressed, named so that their
/// order is their load order. Returns the names in that order.
pub fn collect(dir: &Path, dest: &Path) -> Result<Vec<String>> {
    let builtin = fs::read_to_string(dir.join("modules.builtin")).unwrap_or_default();
    let dep = match fs::read_to_string(dir.join("modules.dep")) {
        Ok(dep) => dep,
        Err(_) => index(dir)?,
    };
    let order = load_order(&NEEDED, &dep, &builtin).map_err(|name| {
        Error::new(
            ErrorCode::BackendUnsupported,
            "cannot use this kernel",
            format!("it has no driver {name}, neither built in nor in {}", dir.display()),
        )
        .hint("use a kernel with virtio-mmio, virtio-console, virtio-blk and ext4")
    })?;
    let mut names = Vec::new();
    for (index, path) in order.iter().enumerate() {
        let name = format!("{index:02}-{}.ko", module_name(path));
        let from = dir.join(path);
        let content = match from.extension().and_then(|e| e.to_str()) {
            Some("xz") => unpacked("xz", &from)?,
            Some("zst") => unpacked("zstd", &from)?,
            Some("gz") => unpacked("gzip", &from)?,
            _ => fs::read(&from).context(|| format!("cannot read {}", from.display()))?,
        };
        fs::write(dest.join(&name), content).context(|| format!("cannot write {name}"))?;
        names.push(name);
    }
    Ok(names)
}

/// What `modules.dep` would say. Packages carry none; the distribution writes it when it installs them, which we do not,
/// and the directory may be one that is not ours to write to.
fn index(dir: &Path) -> Result<String> {
    let (Some(release), Some(root)) = (dir.file_name(), dir.ancestors().nth(3)) else {
        return Err(Error::new(
            ErrorCode::InvalidRequest,
            "cannot use these modules",
            "the path is not .../lib/modules/RELEASE",
        ));
    };
    Ok(Tool::new("depmod")?.arg("-n").arg("-b").arg(root).arg(release).run(|_| {})?.0)
}

fn unpacked(program: &str, path: &Path) -> Result<Vec<u8>> {
    Tool::new(program)?.arg("-dc").arg(path).bytes()
}

/// Dependencies before their users, each once. The error is a name that is nowhere.
fn load_order(needed: &[&str], dep: &str, builtin: &str) -> std::result::Result<Vec<String>, String> {
    let built_in: Vec<String> = builtin.lines().map(module_name).collect();
    let index: BTreeMap<String, (&str, Vec<&str>)> = dep
        .lines()
        .filter_map(|line| line.split_once(':'))
        // depmod prints its other tables, aliases and symbols, behind this one.
        .filter(|(path, _)| path.contains(".ko") && !path.contains(char::is_whitespace))
        .map(|(path, needs)| (module_name(path), (path, needs.split_whitespace().collect())))
        .collect();
    let mut order: Vec<String> = Vec::new();
    for name in needed {
        if built_in.iter().any(|built_in| built_in == name) {
            continue;
        }
        let (path, needs) = index.get(*name).ok_or_else(|| (*name).to_owned())?;
        // modules.dep lists the direct user first and what it needs most basically last.
        for path in needs.iter().rev().chain([path]) {
            if !order.iter().any(|known| known == path) {
                order.push((*path).to_owned());
            }
        }
    }
    Ok(order)
}

/// `kernel/fs/ext4/ext4.ko.xz` → `ext4`; the kernel does not tell `-` from `_`.
fn module_name(path: &str) -> String {
    let file = path.rsplit('/').next().unwrap_or(path);
    file.split(".ko").next().unwrap_or(file).replace('-', "_")
}

#[cfg(test)]
mod tests {
    use super::*;

    const DEP: &str = "k/virtio.ko: k/virtio_ring.ko\nk/virtio_ring.ko:\n\
        k/virtio-mmio.ko.xz: k/virtio.ko k/virtio_ring.ko\nk/virtio_blk.ko: k/virtio.ko k/virtio_ring.ko\n";

    #[test]
    fn dependencies_come_first_and_once() {
        let order = load_order(&["virtio_mmio", "virtio_blk", "ext4"], DEP, "kernel/fs/ext4/ext4.ko\n").unwrap();
        assert_eq!(order, ["k/virtio_ring.ko", "k/virtio.ko", "k/virtio-mmio.ko.xz", "k/virtio_blk.ko"]);
    }

    #[test]
    fn the_other_tables_of_depmod_are_no_modules() {
        let printed =
            format!("{DEP}# Aliases extracted from modules themselves.\nalias virtio:d00000002v* virtio_blk\n");
        assert_eq!(load_order(&["virtio_blk"], &printed, ""), load_order(&["virtio_blk"], DEP, ""));
    }

    #[test]
    fn a_missing_driver_is_named() {
        assert_eq!(load_order(&["virtio_console"], DEP, ""), Err("virtio_console".into()));
    }
}
