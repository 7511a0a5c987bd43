//! What this backend can do, each with its limits, and what it cannot. One list: `doctor`, `inspect` and the API show it, and
//! the refusal of what is lacking names its entry.

use mvm_wire::ErrorCode;
use mvm_wire::api::Capability;

use crate::error::Error;
use crate::host::{Accelerator, Host};
use crate::point::MAX_LAYERS;

/// The backend that this is the list of.
pub const BACKEND: &str = "qemu";

/// Forwarding of UDP.
pub const PORTS_UDP: &str = "ports.udp";

/// The list, for this host.
pub fn of(host: &Host) -> Vec<Capability> {
    let can = |name: &str, limits: &str| Capability { name: name.into(), supported: true, limits: limits.into() };
    let cannot = |name: &str, why: &str| Capability { name: name.into(), supported: false, limits: why.into() };
    const SAME: &str =
        "comes back with the same QEMU, firmware, kernel, image, processor model, TSC rate and machine shape";
    let mut list = vec![
        can("run", "a fresh machine for each command"),
        can("exec", "200 commands at once in a sandbox; terminals, signals, time limits"),
        can("files", "regular files, directories and links, as root of the guest"),
        can("logs", "8 MiB are kept of each sandbox's"),
        can("ports.tcp", "64 in a sandbox, 400 connections at once; to servers on the guest's loopback"),
        can("freeze", "memory stays where it is; connections are reset, ports work again after it"),
        can("cold", SAME),
        can(
            "snapshot",
            &format!("{SAME}; a disk of at most {MAX_LAYERS} layers, one more for each restore it came from"),
        ),
        can("fork", "64 copies at once; random generators of programs are copied with their memory"),
    ];
    match host.accelerator() {
        Accelerator::Kvm => list.push(can("kvm", "a guest has booted on it here")),
        Accelerator::Tcg => list.push(cannot("kvm", "no guest has booted on it here (mvmctl doctor says why)")),
    }
    list.extend([
        cannot(PORTS_UDP, "the guest has no network device, and its channel carries streams"),
        cannot("network", "the guest has no network device"),
        cannot("mounts", "no directory of the host is shared with a guest; files are copied (mvmctl cp)"),
        cannot("snapshot.move", "what was saved comes back on the host that saved it"),
        cannot("resize", "processors, memory and disk are fixed when a sandbox is made"),
        cannot("devices", "no device of the host is passed on, graphics processors included"),
    ]);
    list
}

/// The refusal of something that this backend lacks: an entry of the list.
pub fn lacking(host: &Host, name: &str, what: impl Into<String>) -> Error {
    let entry = of(host).into_iter().find(|entry| entry.name == name);
    let why = entry.map_or_else(String::new, |entry| format!(": {}", entry.limits));
    Error::new(ErrorCode::BackendUnsupported, what, format!("the backend {BACKEND} has no {name}{why}"))
        .hint("mvmctl doctor lists what it has")
        .capability(name)
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn each_entry_is_there_once_and_says_its_limits() {
        let host = Host::load(&crate::Home::at(tempfile::tempdir().unwrap().path())).unwrap();
        let list = of(&host);
        let names: HashSet<&str> = list.iter().map(|entry| entry.name.as_str()).collect();
        assert_eq!(names.len(), list.len());
        assert!(list.iter().all(|entry| !entry.limits.is_empty()));
        let error = lacking(&host, PORTS_UDP, "cannot forward the port");
        assert_eq!((error.code, error.capability.as_deref()), (ErrorCode::BackendUnsupported, Some(PORTS_UDP)));
        assert!(
            error.why.contains("qemu") && error.why.contains("ports.udp") && error.why.contains("no network device")
        );
    }
}
