//! File system, network and scope rules that the kernel enforces whatever user the VMM runs as.

use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use landlock::{
    ABI, Access, AccessFs, AccessNet, CompatLevel, Compatible, Ruleset, RulesetAttr, RulesetCreatedAttr, Scope,
    path_beneath_rules,
};

/// Programs, libraries, firmware, and what the C library reads at every start. `/proc` is not among them: for an
/// ordinary user it holds the environment of all their programs.
const READABLE: [&str; 9] = [
    "/usr",
    "/lib",
    "/lib64",
    "/bin",
    "/etc/ld.so.cache",
    "/etc/ld.so.preload",
    "/etc/localtime",
    "/dev/urandom",
    "/sys/devices/system",
];

/// The rules as a descriptor, made before the fork. The error says why there are none.
pub fn ruleset(program: &Path, readable: &[PathBuf]) -> Result<OwnedFd, String> {
    const NEWEST: ABI = ABI::V6;
    let read = AccessFs::from_read(NEWEST);
    let make = || {
        // Paths that do not exist are passed over.
        let paths = READABLE.iter().map(Path::new).chain([program]).chain(readable.iter().map(PathBuf::as_path));
        Ruleset::default()
            .set_compatibility(CompatLevel::BestEffort)
            .handle_access(AccessFs::from_all(NEWEST))?
            .handle_access(AccessNet::from_all(NEWEST))?
            .scope(Scope::from_all(NEWEST))?
            .create()?
            .add_rules(path_beneath_rules(paths, read))
    };
    let rules = make().map_err(|e| e.to_string())?;
    Option::<OwnedFd>::from(rules).ok_or_else(|| "this kernel has no Landlock".to_owned())
}
