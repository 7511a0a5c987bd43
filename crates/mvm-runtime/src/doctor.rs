//! What this machine has and lacks for mvm, each finding with its reason and the exact fix.

use std::fs;
use std::path::Path;

use serde::Serialize;

use crate::home::Home;
use crate::host::{self, Host, Kvm};
use crate::vmm::confine::{self, Layer};
use crate::{image, kernel, snapshots, template, tool};

/// Versions of QEMU that mvm was tried with.
const QEMU_OLDEST: (u32, u32) = (7, 2);
const QEMU_NEWEST_MAJOR: u32 = 10;
/// From here on QEMU itself can open shared memory read-only.
const QEMU_READ_ONLY_MEMORY: (u32, u32) = (8, 2);
/// Below this a first setup may not fit: kernel, two images and their templates take about 1 GiB.
const LOW_SPACE: u64 = 3 << 30;
const LOW_MEMORY: u64 = 1 << 30;

/// How a requirement stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Status {
    /// As it should be.
    Ok,
    /// mvm works, but not as well as it could.
    Warning,
    /// mvm does not work.
    Failing,
}

/// One finding.
#[derive(Debug, Clone, Serialize)]
pub struct Finding {
    /// What was looked at.
    pub name: String,
    /// How it stands.
    pub status: Status,
    /// What was found, and why it matters.
    pub detail: String,
    /// What to do; empty when nothing is to be done.
    pub fix: String,
}

fn finding(name: &str, status: Status, detail: impl Into<String>, fix: impl Into<String>) -> Finding {
    Finding { name: name.to_owned(), status, detail: detail.into(), fix: fix.into() }
}

fn ok(name: &str, detail: impl Into<String>) -> Finding {
    finding(name, Status::Ok, detail, "")
}

fn warning(name: &str, detail: impl Into<String>, fix: impl Into<String>) -> Finding {
    finding(name, Status::Warning, detail, fix)
}

fn failing(name: &str, detail: impl Into<String>, fix: impl Into<String>) -> Finding {
    finding(name, Status::Failing, detail, fix)
}

/// Looks at everything. Reads every byte of images and templates, so it takes a few seconds; changes nothing but the
/// remembered facts about the host.
pub fn examine(home: &Home) -> Vec<Finding> {
    let mut findings = vec![platform(), writable(home), space(home), memory()];
    match Host::load(home) {
        Ok(host) => findings.extend([qemu(&host), accelerator(&host)]),
        Err(error) => findings.push(failing("qemu", format!("{}: {}", error.what, error.why), error.hint)),
    }
    findings.extend(confinement());
    findings.extend(tracing());
    findings.extend(tools());
    findings.push(guest_kernel(home));
    findings.extend(images(home));
    findings.extend(templates(home));
    findings.extend(saved(home));
    findings
}

fn platform() -> Finding {
    let (os, arch) = (std::env::consts::OS, std::env::consts::ARCH);
    match (os, arch) {
        ("linux", "x86_64") => ok("platform", "Linux on x86_64"),
        _ => failing(
            "platform",
            format!("{os} on {arch} is not supported"),
            "use a Linux machine with an x86_64 processor",
        ),
    }
}

fn writable(home: &Home) -> Finding {
    let root = home.root().display();
    let probe = || -> crate::Result<()> {
        home.create()?;
        home.staging("doctor").map(drop)
    };
    match probe() {
        Ok(()) => ok("home", format!("{root} can be written")),
        Err(error) => {
            failing("home", format!("{}: {}", error.what, error.why), "point MVM_HOME at a directory of yours")
        }
    }
}

fn space(home: &Home) -> Finding {
    let existing = home.root().ancestors().find(|dir| dir.exists()).unwrap_or(Path::new("/"));
    match rustix::fs::statvfs(existing) {
        Ok(stat) => {
            let free = stat.f_bavail * stat.f_frsize;
            let detail =
                format!("{:.1} GiB free on the disk of {}", free as f64 / f64::from(1 << 30), home.root().display());
            if free < LOW_SPACE {
                warning("disk space", detail, "free some space, or point MVM_HOME at a larger disk")
            } else {
                ok("disk space", detail)
            }
        }
        Err(e) => warning("disk space", format!("cannot be told: {e}"), ""),
    }
}

fn memory() -> Finding {
    match host::memory_available() {
        Some(bytes) if bytes < LOW_MEMORY => warning(
            "memory",
            format!("{} MiB available; each machine takes about 60 MiB and what its guest uses", bytes >> 20),
            "end other programs",
        ),
        Some(bytes) => ok("memory", format!("{} MiB available", bytes >> 20)),
        None => warning("memory", "cannot be told", ""),
    }
}

fn qemu(host: &Host) -> Finding {
    let version = &host.qemu.version;
    let number = host.qemu.number();
    if number < QEMU_OLDEST {
        return failing(
            "qemu",
            format!("{version} is older than 7.2"),
            "apt-get install -t bookworm-backports qemu-system-x86",
        );
    }
    let lacks = if number < QEMU_READ_ONLY_MEMORY {
        "; before 8.2 it opens template memory for writing, so mvm hands it a read-only descriptor instead"
    } else {
        ""
    };
    let detail = format!("{version} at {}{lacks}", host.qemu.path.display());
    if number.0 > QEMU_NEWEST_MAJOR {
        return warning("qemu", format!("{detail}; newer than 10.x, which was the last to be tried"), "");
    }
    ok("qemu", detail)
}

fn accelerator(host: &Host) -> Finding {
    match &host.kvm {
        Kvm::Usable => ok("accelerator", "KVM: a guest booted on it"),
        Kvm::Untried => warning(
            "accelerator",
            "KVM opens, but whether it boots a guest was not tried since the host started",
            "mvmctl setup",
        ),
        Kvm::Unusable(why) => {
            let fix = if why.contains("Permission denied") {
                "add yourself to the group kvm: sudo adduser $USER kvm; then rm host.json in MVM_HOME"
            } else {
                ""
            };
            warning("accelerator", format!("full emulation (TCG), which is slower: {why}"), fix)
        }
    }
}

fn confinement() -> Vec<Finding> {
    let reports = match confine::detect() {
        Ok(reports) => reports,
        Err(error) => return vec![failing("confinement", format!("{}: {}", error.what, error.why), error.hint)],
    };
    let mut findings = Vec::new();
    let applied: Vec<String> = reports.iter().filter(|r| r.applied).map(|r| r.layer.name()).collect();
    findings.push(ok("confinement", applied.join(", ")));
    for report in reports.iter().filter(|report| !report.applied) {
        let fix = match report.layer {
            Layer::Cgroup => {
                "use a host with unified cgroups, and `systemd-run --user --scope -p Delegate=yes mvmctl ...` as an ordinary user"
            }
            Layer::NetworkNamespace => {
                "allow unprivileged user namespaces (sysctl kernel.unprivileged_userns_clone=1, kernel.apparmor_restrict_unprivileged_userns=0)"
            }
            Layer::Landlock => "use a kernel with Landlock (5.13 or later, lsm=landlock,...)",
            _ => "",
        };
        findings.push(warning(
            &format!("confinement: {}", report.layer.name()),
            format!("missing: {}", report.missing),
            fix,
        ));
    }
    findings
}

/// Programs that only `setup` needs are no failure: what was built stays usable.
/// Memory is saved by reading it in QEMU's process, which a strict host allows to root alone.
fn tracing() -> Option<Finding> {
    let scope = fs::read_to_string("/proc/sys/kernel/yama/ptrace_scope").ok()?;
    let strict = matches!(scope.trim(), "2" | "3") && !rustix::process::geteuid().is_root();
    let fix = "sysctl kernel.yama.ptrace_scope=1, or run mvmctl as root";
    strict.then(|| failing("tracing", "this host lets no process look into its own children (Yama)", fix))
}

fn tools() -> Vec<Finding> {
    let needed = ["mke2fs", "mmdebstrap", "busybox", "depmod", "dpkg-deb", "apt-get"];
    let missing: Vec<&str> = needed.into_iter().filter(|program| tool::find(program).is_err()).collect();
    if missing.is_empty() {
        return vec![ok("programs for setup", needed.join(", "))];
    }
    let packages: Vec<&str> =
        tool::PACKAGES.iter().filter(|(program, _)| missing.contains(program)).map(|(_, package)| *package).collect();
    vec![warning(
        "programs for setup",
        format!("missing: {}", missing.join(", ")),
        format!("apt-get install {}", packages.join(" ")),
    )]
}

fn guest_kernel(home: &Home) -> Finding {
    match kernel::installed(home) {
        Ok(Some(kernel)) => match kernel.verify() {
            Ok(()) => ok("guest kernel", format!("{} ({})", kernel.release, kernel.source)),
            Err(why) => warning("guest kernel", format!("damaged: {why}"), "mvmctl setup"),
        },
        _ => warning("guest kernel", "not there yet, or damaged", "mvmctl setup"),
    }
}

fn images(home: &Home) -> Vec<Finding> {
    let built = image::list(home);
    if built.is_empty() {
        return vec![warning("images", "none yet", "mvmctl setup")];
    }
    built
        .iter()
        .map(|image| {
            let name = format!("image {}", image.name);
            match image.verify() {
                Ok(()) => ok(&name, image.digest.clone()),
                Err(why) => warning(
                    &name,
                    format!("damaged, and so not used: {why}"),
                    format!("mvmctl setup --image {}", image.name),
                ),
            }
        })
        .collect()
}

fn templates(home: &Home) -> Vec<Finding> {
    let templates = template::all(home).unwrap_or_default();
    let mut findings: Vec<Finding> = templates
        .iter()
        .filter_map(|template| {
            let why = template.verify().err()?;
            Some(warning(
                &format!("template {}", template.record.key),
                format!("damaged, and so not used: {why}"),
                "mvmctl template gc",
            ))
        })
        .collect();
    let stray = fs::read_dir(home.tmp())
        .into_iter()
        .flatten()
        .flatten()
        .filter(|e| e.path().extension().is_some_and(|e| e == "lock"))
        .count();
    let detail = format!(
        "{} whole, {} damaged, {stray} under construction or left over",
        templates.len() - findings.len(),
        findings.len()
    );
    findings.insert(0, ok("templates", detail));
    findings
}

/// Snapshots, by every byte.
fn saved(home: &Home) -> Vec<Finding> {
    let all = snapshots::list(home);
    let damaged = |snapshot: &snapshots::Snapshot| {
        let name = snapshot.name();
        let why = snapshots::verify(snapshot).err()?;
        let fix = format!("mvmctl restore {name} --disk-only, or mvmctl snapshot rm {name}");
        Some(warning("snapshots", format!("{name} cannot be restored: {why}"), fix))
    };
    let damaged: Vec<Finding> = all.iter().filter_map(damaged).collect();
    match (all.len(), damaged.is_empty()) {
        (0, _) => damaged,
        (count, true) => vec![ok("snapshots", format!("{count}, whole"))],
        _ => damaged,
    }
}
