//! One function for each kind of thing that can be asked for. Each adds a line for the rule that it applies, or a denial.

use mvm_wire::api::{Denial, Enforced, PlanLine, PortRequest};

use super::profile::{Directories, Names, Ports, Profile};
use super::rules::{PORTS_FORWARD, PROFILE_ACKNOWLEDGED, PROFILE_BOUND};
use super::{Ask, missing, required};
use crate::text::harmless;
use crate::units;

/// More output than anything writes: it can still be stated exactly.
const MAX_OUTPUT: u64 = 1 << 50;

/// What has been decided so far.
pub struct Judge<'a> {
    profile: &'a Profile,
    lines: Vec<PlanLine>,
    denials: Vec<Denial>,
    enforced: Enforced,
}

impl<'a> Judge<'a> {
    /// Nothing is decided yet.
    pub fn new(profile: &'a Profile) -> Judge<'a> {
        Judge { profile, lines: Vec::new(), denials: Vec::new(), enforced: Enforced::default() }
    }

    /// What was decided.
    pub fn verdict(self) -> (Vec<PlanLine>, Vec<Denial>, Enforced) {
        (self.lines, self.denials, self.enforced)
    }

    /// What callers bring is part of these texts, so they are made harmless and cut.
    fn line(&mut self, rule: &str, effect: impl AsRef<str>) {
        self.lines.push(PlanLine { rule: rule.into(), effect: harmless(effect.as_ref()) });
    }

    fn deny(&mut self, rule: &str, reason: impl std::fmt::Display, remedy: impl AsRef<str>) {
        let reason = harmless(&format!("the profile {} {reason}", self.profile.name));
        self.line(rule, format!("denied: {reason}"));
        self.denials.push(Denial { rule: rule.into(), reason, remedy: harmless(remedy.as_ref()) });
    }

    /// Whether the profile may be used.
    pub fn profile(&mut self, ask: &Ask<'_>) {
        const RULE: &str = PROFILE_ACKNOWLEDGED;
        match ask.bound {
            Some(bound) if bound != self.profile.name => self.deny(
                PROFILE_BOUND,
                format!("is not {bound}, the only one that MVM_PROFILE allows here"),
                format!(
                    "name no profile, or {bound}; of a snapshot under another one take only the disk (--disk-only)"
                ),
            ),
            Some(_) => self.line(PROFILE_BOUND, "it is the one that MVM_PROFILE demands"),
            None => {}
        }
        match (self.profile.acknowledge, ask.accept_risk) {
            (true, false) => self.deny(
                RULE,
                "refuses next to nothing, and nobody said that this is known",
                "--accept-risk (accept_risk: true), or another profile",
            ),
            (true, true) => self.line(RULE, "its risk was accepted by the caller"),
            (false, _) => {}
        }
    }

    /// What a command may have, and what bounds it.
    pub fn command(&mut self, ask: &Ask<'_>) {
        self.env(&ask.env);
        self.secrets(&ask.secrets);
        self.user(ask.user);
        self.root();
        let limits = &self.profile.limits;
        self.enforced.processes = limits.processes;
        match limits.processes {
            Some(most) => self.line("limits.processes", format!("at most {most} processes and threads at once")),
            None => self.line("limits.processes", "as many as the machine can have"),
        }
        self.output(ask.output_bytes);
        self.time(ask.timeout_ms);
    }

    fn env(&mut self, names: &[&str]) {
        const RULE: &str = "env.variables";
        if self.names(RULE, "env", "environment variable", &self.profile.env, names) {
            match names {
                [] => self.line(RULE, "none is passed on"),
                _ => self.line(RULE, format!("{} and nothing else of the caller's", listed(names))),
            }
        }
    }

    fn secrets(&mut self, names: &[&str]) {
        const RULE: &str = "secrets.grants";
        if self.names(RULE, "secret", "secret", &self.profile.secrets, names) {
            match names {
                [] => self.line(RULE, "none is granted"),
                _ => self.line(RULE, format!("{}: given to this command, redacted from its output", listed(names))),
            }
        }
    }

    /// Whether all of these names are allowed; denies those that are not.
    fn names(&mut self, rule: &str, flag: &str, what: &str, allowed: &Names, names: &[&str]) -> bool {
        let refused: Vec<&str> = names.iter().filter(|name| !allowed.allow(name)).copied().collect();
        let Some(first) = refused.first() else { return true };
        let section = rule.split('.').next().unwrap_or_default();
        let reason = format!("{}, and {} was asked for", passes(allowed, what), listed(&refused));
        let list = toml_list(&refused);
        self.deny(rule, reason, format!("leave out --{flag} {first}, or a profile with {section}.allow = {list}"));
        false
    }

    fn user(&mut self, asked: &str) {
        const RULE: &str = "user.unprivileged";
        let rules = &self.profile.user;
        self.enforced.user = if asked.is_empty() { rules.default.clone() } else { asked.to_owned() };
        self.enforced.unprivileged = !rules.root;
        let named = crate::text::harmless(&self.enforced.user);
        let who = if named.is_empty() { "the image's user" } else { &named };
        if rules.root {
            return self.line(RULE, format!("runs as {who}; root is allowed"));
        }
        if names_root(&self.enforced.user) {
            let reason = format!("runs nothing as root, and {who} was asked for");
            return self.deny(RULE, reason, "name an ordinary user with --user, or a profile with user.root = true");
        }
        let effect = format!("runs as {who}, which must not be root, and never gains privileges");
        self.line(RULE, effect);
    }

    fn root(&mut self) {
        let root = &self.profile.root;
        self.enforced.scratch_bytes = (!root.writable).then_some(root.scratch);
        match root.writable {
            true => self.line("root.read-only", "the root file system can be written to"),
            false => {
                let scratch = units::size(root.scratch);
                self.line("root.read-only", format!("the root file system is read-only; {scratch} of room in /tmp"));
            }
        }
    }

    fn output(&mut self, asked: Option<u64>) {
        const RULE: &str = "limits.output";
        self.enforced.output_bytes = match (asked, self.profile.limits.output) {
            (Some(asked), Some(most)) if asked > most => {
                let reason =
                    format!("passes on at most {} of each output, not {}", units::size(most), units::size(asked));
                let remedy = format!("--max-output {} or less, or a profile with limits.output", units::size(most));
                return self.deny(RULE, reason, remedy);
            }
            (asked, most) => asked.or(most).map(|bytes| bytes.min(MAX_OUTPUT)),
        };
        match self.enforced.output_bytes {
            Some(most) => self.line(RULE, format!("at most {} of each output", units::size(most))),
            None => self.line(RULE, "all of it"),
        }
    }

    fn time(&mut self, asked: Option<u64>) {
        const RULE: &str = "limits.time";
        self.enforced.timeout_ms = match (asked, self.profile.limits.time) {
            (Some(asked), Some(most)) if asked > most => {
                let (asked, most) = (units::duration(asked), units::duration(most));
                let reason = format!("lets a command run for at most {most}, not {asked}");
                return self.deny(RULE, reason, format!("--timeout {most} or less, or a profile with limits.time"));
            }
            (asked, most) => asked.or(most),
        };
        match self.enforced.timeout_ms {
            Some(most) => self.line(RULE, format!("killed after {}", units::duration(most))),
            None => self.line(RULE, "as long as it takes"),
        }
    }

    /// The machine's shape and what keeps it apart.
    pub fn machine(&mut self, ask: &Ask<'_>) {
        if let Some(machine) = ask.machine {
            let limits = &self.profile.limits;
            let memory = u64::from(machine.memory_mib) << 20;
            let (cpus, memory_most, disk_most) = (limits.cpus.map(u64::from), limits.memory, limits.disk);
            self.shape("cpus", machine.cpus.into(), cpus, &|n| n.to_string());
            self.shape("memory", memory, memory_most, &units::size);
            self.shape("disk", machine.disk_bytes, disk_most, &units::size);
            self.enforced.cpus = machine.cpus;
            self.enforced.memory_mib = machine.memory_mib;
            self.enforced.disk_bytes = machine.disk_bytes;
        }
        self.layers(ask);
        let directories = match self.profile.host.directories {
            Directories::None => "none is shared, and none may be",
            Directories::ReadOnly => "none is shared; to read they might be",
            Directories::Writable => "none is shared; they might be",
        };
        self.line("directories.host", directories);
        self.line("network.none", "the machine has no network device");
    }

    fn shape(&mut self, what: &str, asked: u64, most: Option<u64>, show: &dyn Fn(u64) -> String) {
        let rule = format!("limits.{what}");
        match most.filter(|most| asked > *most) {
            Some(most) => {
                let (asked, most) = (show(asked), show(most));
                let remedy = format!("--{what} {most} or less, or a profile with limits.{what}");
                self.deny(&rule, format!("bounds {what} by {most}, and {asked} was asked for"), remedy);
            }
            None => self.line(&rule, show(asked)),
        }
    }

    fn layers(&mut self, ask: &Ask<'_>) {
        const RULE: &str = "isolation.layers";
        let required = required(self.profile, ask.require, ask.allow_missing);
        let lacking = required.iter().filter_map(|name| Some((name.clone(), missing(name, ask.layers)?)));
        let lacking: Vec<(String, String)> = lacking.collect();
        for (name, why) in &lacking {
            let asked_for = ask.require.contains(name) && !self.profile.isolation.require.contains(name);
            let who = if asked_for { "was asked to demand" } else { "demands" };
            let reason = format!("{who} the layer {name}, which this host lacks: {why}");
            self.deny(RULE, reason, format!("--allow-missing {name}, or mend the host (mvmctl doctor)"));
        }
        if lacking.is_empty() {
            let demanded = if required.is_empty() { "none is demanded".to_owned() } else { required.join(", ") };
            let waived = match super::sorted(ask.allow_missing) {
                waived if waived.is_empty() => String::new(),
                waived => format!("; may be missing, as the caller said: {}", waived.join(", ")),
            };
            self.line(RULE, format!("a virtual machine, whose VMM is confined by: {demanded}{waived}"));
        }
    }

    /// Ports of the host.
    pub fn ports(&mut self, ports: &[PortRequest]) {
        const RULE: &str = PORTS_FORWARD;
        let denied = self.denials.len();
        for port in ports {
            let name = format!("{}:{}", port.address, port.host_port);
            match (self.profile.ports, port.address.is_loopback()) {
                (Ports::Any, _) | (Ports::Loopback, true) => {}
                (Ports::Loopback, false) => self.deny(
                    RULE,
                    format!("forwards ports on loopback addresses only, not on {name}"),
                    "use 127.0.0.1, the profile dev, or one with ports.allow = \"any\"",
                ),
                (Ports::None, _) => self.deny(
                    RULE,
                    format!("forwards no ports, and {name} was asked for"),
                    "leave out --port, or a profile with ports.allow = \"loopback\"",
                ),
            }
        }
        if self.denials.len() == denied {
            let effect = match (ports.len(), self.profile.ports) {
                (0, _) => "none".to_owned(),
                (_, Ports::Any) => format!("{}, on any address", self.listed_ports(ports)),
                _ => format!("{}, on loopback", self.listed_ports(ports)),
            };
            self.line(RULE, effect);
        }
    }

    fn listed_ports(&self, ports: &[PortRequest]) -> String {
        let names = ports.iter().map(|port| format!("{}:{} → {}", port.address, port.host_port, port.guest_port));
        names.collect::<Vec<_>>().join(", ")
    }

    /// How long a sandbox lives.
    pub fn ttl(&mut self, ttl: Option<Option<u64>>) {
        const RULE: &str = "limits.ttl";
        let most = self.profile.limits.ttl;
        match (ttl, most) {
            (None, _) => self.line(RULE, "as long as its client"),
            (Some(asked), Some(most)) if asked.is_none_or(|asked| asked > most) => {
                let asked = asked.map_or_else(|| "until somebody asks".to_owned(), units::duration);
                let most = units::duration(most);
                let reason = format!("lets a sandbox live for at most {most}, not {asked}");
                self.deny(RULE, reason, format!("--ttl {most} or less, or a profile with limits.ttl"));
            }
            (Some(None), _) => self.line(RULE, "until somebody asks"),
            (Some(Some(asked)), _) => self.line(RULE, units::duration(asked)),
        }
    }

    /// Files that go in.
    pub fn files_in(&mut self) {
        match self.profile.files.into {
            true => self.line("files.in", "allowed"),
            false => self.deny("files.in", "lets nobody change files of a sandbox", "a profile with files.in = true"),
        }
    }

    /// Files that come out.
    pub fn files_out(&mut self) {
        match self.profile.files.out {
            true => self.line("files.out", "allowed"),
            false => self.deny("files.out", "lets nobody read files of a sandbox", "a profile with files.out = true"),
        }
    }

    /// Saved memory.
    pub fn snapshots(&mut self) {
        match self.profile.snapshots.save {
            true => self.line("snapshots.save", "allowed; what is saved is sensitive"),
            false => {
                self.deny("snapshots.save", "saves no memory", "a profile with snapshots.save = true");
            }
        }
    }
}

/// What a profile says about names, for a denial.
fn passes(names: &Names, what: &str) -> String {
    match names {
        Names::Any => format!("passes on any {what}"),
        Names::Only(names) if names.is_empty() => format!("passes on no {what}"),
        Names::Only(names) => {
            let names: Vec<&str> = names.iter().map(String::as_str).collect();
            format!("passes on no {what} but {}", listed(&names))
        }
    }
}

/// A few of many names.
fn listed(names: &[&str]) -> String {
    const SHOWN: usize = 8;
    let shown = names.iter().take(SHOWN).copied().collect::<Vec<_>>().join(", ");
    let more = names.len().saturating_sub(SHOWN);
    if more > 0 { format!("{shown} and {more} more") } else { shown }
}

fn toml_list(names: &[&str]) -> String {
    let quoted: Vec<String> = names.iter().take(8).map(|name| format!("{name:?}")).collect();
    format!("[{}]", quoted.join(", "))
}

/// Whether this is root under a name that needs no look into the guest; others are found out there.
pub fn names_root(user: &str) -> bool {
    // The last number means to the kernel that nothing is to change: root stays root.
    let root = |part: &str| part == "root" || matches!(part.parse(), Ok(0 | u32::MAX));
    user.split(':').any(root)
}
