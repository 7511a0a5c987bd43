//! QEMU's command line: which machine, which memory, which disk, and how it starts.
//!
//! Flags that look odd are measured ones. `pic=off` with the timer on and the kernel told the TSC's rate is the only
//! combination that never hung a boot; ACPI is on because distribution kernels take no devices from the command line.

use std::ffi::OsString;

use serde_json::json;

use crate::host::Accelerator;

/// The name of the agent's port, the same in the guest.
const AGENT_PORT: &str = "org.mvm.agent";
/// What `mem-path` says. QEMU's open of it is answered with a descriptor, so no such file exists.
pub const MEMORY_PATH: &str = "/mvm/memory";
/// Cache for translated code. The default grows to a gigabyte for each machine.
const TRANSLATION_CACHE_MIB: u32 = 128;

/// The shape of a machine. It is part of a template's key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Shape {
    /// Memory in MiB.
    pub memory_mib: u32,
    /// Virtual processors.
    pub cpus: u32,
    /// Size of the root disk in bytes, as the guest sees it.
    pub disk_bytes: u64,
}

/// Where the guest's memory is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MemoryMode {
    /// In a file that it is written through to: a template being made.
    Shared,
    /// In a file that is only read; writes stay private: a clone, or a machine that boots on zeros.
    CopyOnWrite,
}

/// Descriptor numbers in the QEMU process. Disks follow from [`FIRST_DISK_FD`].
pub const QMP_FD: i32 = 3;
/// The agent channel.
pub const AGENT_FD: i32 = 4;
/// The serial console.
pub const CONSOLE_FD: i32 = 5;
/// Saved state to start from.
pub const STATE_FD: i32 = 6;
/// The kernel.
pub const KERNEL_FD: i32 = 7;
/// The initial file system.
pub const INITRAMFS_FD: i32 = 8;
/// The raw base, then each overlay from the lowest to the highest.
pub const FIRST_DISK_FD: i32 = 10;

/// How the machine comes to life.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Start {
    /// From a kernel, with this command line.
    Boot(String),
    /// From saved state; it runs as soon as that is loaded, unless it is to wait.
    Restore {
        /// Wait for `cont`.
        paused: bool,
    },
}

/// Everything that decides the command line.
#[derive(Debug, Clone)]
pub struct Line<'a> {
    /// Accelerator.
    pub accelerator: Accelerator,
    /// Shape.
    pub shape: &'a Shape,
    /// Memory.
    pub memory: MemoryMode,
    /// Number of disk descriptors: the base and its overlays. The last is written to.
    pub disks: usize,
    /// Start.
    pub start: Start,
}

impl Line<'_> {
    /// The arguments.
    pub fn arguments(&self) -> Vec<OsString> {
        let mut args: Vec<String> = Vec::new();
        let mut add = |flag: &str, value: String| {
            args.push(flag.to_owned());
            args.push(value);
        };
        let shape = self.shape;
        add(
            "-machine",
            "microvm,acpi=on,pic=off,pit=on,rtc=on,isa-serial=on,auto-kernel-cmdline=off,memory-backend=ram,\
             suppress-vmdesc=on"
                .into(),
        );
        // What is saved is the state of the devices alone, without the sections that frame a migration.
        add("-global", "migration.send-configuration=off".into());
        match self.accelerator {
            Accelerator::Kvm => add("-accel", "kvm".into()),
            Accelerator::Tcg => add("-accel", format!("tcg,tb-size={TRANSLATION_CACHE_MIB}")),
        }
        add("-cpu", cpu(self.accelerator).into());
        add("-smp", shape.cpus.to_string());
        add("-m", format!("{}M", shape.memory_mib));
        let share = if self.memory == MemoryMode::Shared { "on" } else { "off" };
        let size = shape.memory_mib;
        add("-object", format!("memory-backend-file,id=ram,size={size}M,mem-path={MEMORY_PATH},share={share}"));
        add("-chardev", format!("socket,id=qmp,fd={QMP_FD}"));
        add("-mon", "chardev=qmp,mode=control".into());
        add("-chardev", format!("socket,id=console,fd={CONSOLE_FD}"));
        add("-serial", "chardev:console".into());
        add("-chardev", format!("socket,id=agent,fd={AGENT_FD}"));
        add("-device", "virtio-serial-device".into());
        add("-device", format!("virtserialport,chardev=agent,name={AGENT_PORT}"));
        for index in 0..self.disks {
            add("-add-fd", format!("fd={},set={index}", FIRST_DISK_FD + index as i32));
            add("-blockdev", disk_node(index, index + 1 == self.disks).to_string());
        }
        // A full host disk is an error for the guest to see. By default QEMU would stop the machine and wait.
        add("-device", format!("virtio-blk-device,drive=disk{},werror=report,rerror=report", self.disks - 1));
        match &self.start {
            Start::Boot(cmdline) => {
                add("-kernel", format!("/proc/self/fd/{KERNEL_FD}"));
                add("-initrd", format!("/proc/self/fd/{INITRAMFS_FD}"));
                add("-append", cmdline.clone());
            }
            Start::Restore { .. } => add("-incoming", "defer".into()),
        }
        add("-sandbox", "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny".into());
        add("-display", "none".into());
        args.extend(["-nodefaults", "-no-user-config", "-no-reboot"].map(str::to_owned));
        if self.start == (Start::Restore { paused: true }) {
            args.push("-S".to_owned());
        }
        args.into_iter().map(OsString::from).collect()
    }
}

/// The processor model. It is part of a template's key.
pub fn cpu(accelerator: Accelerator) -> &'static str {
    match accelerator {
        Accelerator::Kvm => "host",
        // Each of these makes emulation dearer than it makes a guest better. Without byte-wise string instructions the
        // kernel copies four times as fast (both of them: with fsrm alone, Linux 6.1 hangs on QEMU 10); a fifth level of
        // page tables makes every walk longer; checks around each access to user memory are half of a short command's
        // time. The guest's kernel is not what keeps code apart here.
        Accelerator::Tcg => "max,-erms,-fsrm,-la57,-smap,-pku,-umip",
    }
}

/// One level of the disk. Backing files are nodes given here, never names read from a header that a guest could change.
fn disk_node(index: usize, top: bool) -> serde_json::Value {
    let file = json!({
        "driver": "file",
        "filename": format!("/dev/fdset/{index}"),
        "locking": "off",
        "discard": "unmap",
    });
    let mut node = json!({ "node-name": format!("disk{index}"), "read-only": !top, "file": file, "discard": "unmap" });
    node["file"]["read-only"] = json!(!top);
    if index == 0 {
        node["driver"] = json!("raw");
    } else {
        node["driver"] = json!("qcow2");
        node["backing"] = json!(format!("disk{}", index - 1));
    }
    node
}

/// What a machine that restores finds on its control connection when it is ready to read: QEMU loads the state of its
/// devices, and nobody waits for an answer in between. Memory is not in the state, it is in its file.
pub fn restore_commands() -> [serde_json::Value; 2] {
    [
        json!({ "execute": "qmp_capabilities" }),
        json!({ "execute": "migrate-incoming", "arguments": { "uri": format!("fd:{STATE_FD}") } }),
    ]
}

/// What the kernel is told. Each entry shortens a boot or, more important, the code that a clone runs for the first time:
/// under emulation that code is translated anew in every clone.
const KERNEL_SETTINGS: [&str; 13] = [
    "console=ttyS0",
    "quiet",
    // A panic ends the machine; the host sees it and keeps the console's end.
    "panic=-1",
    "reboot=t",
    "random.trust_cpu=on",
    // The guest's kernel is not what keeps code apart here, and its mitigations are dear to emulate.
    "mitigations=off",
    "lsm=",
    "psi=0",
    "audit=0",
    "noautogroup",
    "nowatchdog",
    "tsc=reliable",
    // Memory limits of commands count pages, not every small object of the kernel.
    "cgroup.memory=nokmem",
];

/// The kernel's command line.
pub fn kernel_cmdline(accelerator: Accelerator, tsc_khz: u64, builder: bool) -> String {
    let role = if builder { " mvm.build" } else { "" };
    // Translated code is kept by its virtual address, so a library that lies elsewhere in each process is translated
    // again for each process. What a randomised layout defends is the guest against its own data.
    let layout = if accelerator == Accelerator::Tcg { " norandmaps" } else { "" };
    format!("{}{layout} tsc_early_khz={tsc_khz} rdinit=/mvm-agent{role}", KERNEL_SETTINGS.join(" "))
}
