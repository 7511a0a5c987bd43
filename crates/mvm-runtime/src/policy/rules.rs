//! The rules of admission, each with an id that plans, denials and the documentation use.

/// A rule.
#[derive(Debug, Clone, Copy, serde::Serialize)]
pub struct Rule {
    /// Its id.
    pub id: &'static str,
    /// What it decides.
    pub decides: &'static str,
    /// The field of a profile that sets it.
    pub field: &'static str,
    /// What holds it, once something was admitted.
    pub held_by: &'static str,
}

/// The rule about profiles that have to be meant.
pub const PROFILE_ACKNOWLEDGED: &str = "profile.acknowledged";
/// The rule about the profile that an environment demands.
pub const PROFILE_BOUND: &str = "profile.bound";
/// The rule about ports of the host, which every port names.
pub const PORTS_FORWARD: &str = "ports.forward";

/// Every rule, in the order in which plans name them.
pub const RULES: [Rule; 21] = [
    rule(
        PROFILE_ACKNOWLEDGED,
        "a profile that refuses next to nothing is used by those who say that they know",
        "acknowledge",
        "the command line and the API: --accept-risk, accept_risk",
    ),
    rule(
        PROFILE_BOUND,
        "where the variable MVM_PROFILE names a profile, sandboxes are made under that profile and no other",
        "-",
        "mvmctl, for each sandbox that it makes",
    ),
    rule(
        "profile.recorded",
        "a sandbox whose recorded policy cannot be read does nothing any more but end",
        "-",
        "the supervisor, and whoever would start its machine",
    ),
    rule(
        "env.variables",
        "which environment variables callers may set in a guest; nothing of the host's environment is ever passed on by itself",
        "env.allow",
        "the supervisor: the guest gets what was admitted and nothing else",
    ),
    rule(
        "secrets.grants",
        "which secrets callers may grant to a command",
        "secrets.allow",
        "the host gives the value to that command alone, and redacts it from what is printed; in the guest, processes of the same user can read each other",
    ),
    rule(
        "user.unprivileged",
        "whether commands may run as root of the guest, or gain privileges",
        "user.root, user.default",
        "the guest's agent: user and groups are looked up there, and no_new_privs is set before the program starts",
    ),
    rule(
        "root.read-only",
        "whether commands may write to the root file system, or only to a scratch space of bounded size in /tmp",
        "root.writable, root.scratch",
        "the guest's kernel: the root is mounted read-only before the machine is admitted",
    ),
    rule(
        PORTS_FORWARD,
        "on which addresses of the host ports may lead into a sandbox",
        "ports.allow",
        "the supervisor, which is the only one that listens",
    ),
    rule("files.in", "whether callers may write, move and remove files of a sandbox", "files.in", "the supervisor"),
    rule("files.out", "whether callers may read and list files of a sandbox", "files.out", "the supervisor"),
    rule(
        "snapshots.save",
        "whether a sandbox's memory may be saved: pause, snapshots, forks; what is saved is sensitive",
        "snapshots.save",
        "the supervisor",
    ),
    rule(
        "directories.host",
        "which directories of the host a guest may see; this backend shares none, whatever a profile allows",
        "host.directories",
        "the backend, which has no such device",
    ),
    rule(
        "network.none",
        "whether a guest reaches a network; this backend gives it no network device, whatever a profile allows",
        "-",
        "the backend, which has no such device",
    ),
    rule("limits.cpus", "how many virtual processors a machine may have", "limits.cpus", "the VMM"),
    rule("limits.memory", "how much memory a machine may have", "limits.memory", "the VMM"),
    rule(
        "limits.disk",
        "how large a machine's disk may be",
        "limits.disk",
        "the VMM, and a limit on the size of its files",
    ),
    rule(
        "limits.processes",
        "how many processes and threads a command may have at once",
        "limits.processes",
        "the guest's kernel: a cgroup for each command",
    ),
    rule(
        "limits.output",
        "how much of each of a command's output streams is passed on; the rest is counted and dropped",
        "limits.output",
        "the host",
    ),
    rule(
        "limits.time",
        "how long a command may run; it is killed with its whole tree after that",
        "limits.time",
        "the host, which ends the machine if the guest does not obey",
    ),
    rule("limits.ttl", "how long a sandbox may live before somebody asks for more", "limits.ttl", "the supervisor"),
    rule(
        "isolation.layers",
        "which layers must keep the VMM apart from the host; a machine without one of them does not start",
        "isolation.require",
        "the host: what applied is looked at before the guest's first command",
    ),
];

const fn rule(id: &'static str, decides: &'static str, field: &'static str, held_by: &'static str) -> Rule {
    Rule { id, decides, field, held_by }
}

/// The rule with this id.
pub fn find(id: &str) -> Option<&'static Rule> {
    RULES.iter().find(|rule| rule.id == id)
}
