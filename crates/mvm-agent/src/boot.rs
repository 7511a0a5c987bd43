//! From the kernel's hand-over to a machine with its root disk: mounts, modules, root.

use std::fs;
use std::io::{Error, Result, Write};
use std::path::Path;

use rustix::mount::{MountFlags, mount, mount_move};

/// Where the root disk is mounted while it is not yet `/`, and where a build machine fills it.
pub const NEW_ROOT: &str = "/newroot";
/// Files that stand in for ones that must differ in every machine, on memory, so that no disk carries them.
pub const IDENTITY: &str = "/run/mvm";
const ROOT_DISK: &str = "/dev/vda";

/// What this machine is for, from the kernel command line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// Runs commands; the root disk is `/`.
    Sandbox,
    /// Fills an empty root disk (`mvm.build` on the command line).
    Builder,
}

/// Mounts what a program expects, loads the drivers and enters the root disk.
pub fn boot() -> Result<Role> {
    for (fstype, target, options) in [
        ("proc", "/proc", ""),
        ("sysfs", "/sys", ""),
        ("devtmpfs", "/dev", "mode=0755"),
        ("tmpfs", "/run", "mode=0755"),
    ] {
        mount_at(fstype, target, options)?;
    }
    load_modules()?;
    shorten_disk_queue();
    let role = if fs::read_to_string("/proc/cmdline")?.split_whitespace().any(|word| word == "mvm.build") {
        Role::Builder
    } else {
        Role::Sandbox
    };
    mount(ROOT_DISK, NEW_ROOT, "ext4", MountFlags::NOATIME, c"noinit_itable")
        .map_err(|e| named("mount the root disk", e.into()))?;
    if role == Role::Sandbox {
        grow_root();
        enter_root()?;
        furnish()?;
    }
    Ok(role)
}

/// Writes a line to the console, where the host keeps it for a failed boot.
pub fn log(text: &str) {
    if let Ok(mut kmsg) = fs::File::options().write(true).open("/dev/kmsg") {
        // Level 3, an error: the only ones that a quiet kernel shows.
        let _ = writeln!(kmsg, "<3>mvm-agent: {text}");
    }
}

/// Ends the machine.
pub fn power_off() -> ! {
    rustix::fs::sync();
    let _ = rustix::system::reboot(rustix::system::RebootCommand::Restart);
    loop {
        std::thread::park();
    }
}

fn named(what: &str, err: Error) -> Error {
    Error::new(err.kind(), format!("cannot {what}: {err}"))
}

fn mount_at(fstype: &str, target: &str, options: &str) -> Result<()> {
    fs::create_dir_all(target)?;
    let flags = if fstype.starts_with("dev") { MountFlags::NOSUID } else { MountFlags::NOSUID | MountFlags::NODEV };
    let options = std::ffi::CString::new(options)?;
    mount(fstype, target, fstype, flags, options.as_c_str())
        .map_err(|e| named(&format!("mount {fstype} on {target}"), e.into()))
}

/// Loads the modules in the order the host worked out. One that is already there is fine.
fn load_modules() -> Result<()> {
    for name in fs::read_to_string("/modules/order")?.lines() {
        let file = fs::File::open(Path::new("/modules").join(name))?;
        match rustix::system::finit_module(&file, c"", 0) {
            Ok(()) | Err(rustix::io::Errno::EXIST) => {}
            Err(e) => return Err(named(&format!("load the module {name}"), e.into())),
        }
    }
    Ok(())
}

/// The image's file system is as small as its content; the disk may be larger. Failing to grow is not fatal.
fn grow_root() {
    let grow = || -> Result<()> {
        const EXT4_IOC_RESIZE_FS: libc::c_ulong = 0x4008_6610;
        let disk = fs::File::open(ROOT_DISK)?;
        let bytes = std::io::Seek::seek(&mut &disk, std::io::SeekFrom::End(0))?;
        let blocks: u64 = bytes / rustix::fs::statvfs(NEW_ROOT)?.f_bsize;
        let root = fs::File::open(NEW_ROOT)?;
        // SAFETY: the ioctl reads one u64 through the pointer, which outlives the call.
        let done =
            unsafe { libc::ioctl(std::os::fd::AsRawFd::as_raw_fd(&root), EXT4_IOC_RESIZE_FS as _, &raw const blocks) };
        if done == 0 { Ok(()) } else { Err(Error::last_os_error()) }
    };
    if let Err(e) = grow() {
        log(&format!("cannot grow the root file system: {e}"));
    }
}

/// The host schedules and throttles its disk; doing it again in the guest only lengthens the way of every request.
fn shorten_disk_queue() {
    for (setting, value) in [("scheduler", "none"), ("wbt_lat_usec", "0"), ("iostats", "0"), ("add_random", "0")] {
        let _ = fs::write(format!("/sys/block/vda/queue/{setting}"), value);
    }
}

/// Moves the mounts along and makes the root disk `/`.
fn enter_root() -> Result<()> {
    for dir in ["/proc", "/sys", "/dev", "/run"] {
        let target = format!("{NEW_ROOT}{dir}");
        fs::create_dir_all(&target)?;
        mount_move(dir, &target).map_err(|e| named(&format!("move {dir}"), e.into()))?;
    }
    rustix::process::chdir(NEW_ROOT)?;
    mount_move(".", "/").map_err(|e| named("move the root", e.into()))?;
    rustix::process::chroot(".")?;
    rustix::process::chdir("/")?;
    Ok(())
}

/// The rest of what programs expect, and the stand-ins for the files of identity.
fn furnish() -> Result<()> {
    mount_at("devpts", "/dev/pts", "gid=5,mode=0620,ptmxmode=0666")?;
    mount_at("tmpfs", "/dev/shm", "mode=1777")?;
    mount_at("cgroup2", "/sys/fs/cgroup", "")?;
    for (link, target) in [("fd", "/proc/self/fd"), ("stdin", "fd/0"), ("stdout", "fd/1"), ("stderr", "fd/2")] {
        let _ = std::os::unix::fs::symlink(target, format!("/dev/{link}"));
    }
    fs::create_dir_all("/etc")?;
    if !Path::new("/etc/machine-id").exists() {
        fs::write("/etc/machine-id", "")?;
    }
    fs::create_dir_all(IDENTITY)?;
    for (name, target) in [("machine-id", "/etc/machine-id"), ("boot_id", "/proc/sys/kernel/random/boot_id")] {
        let file = format!("{IDENTITY}/{name}");
        fs::write(&file, "")?;
        rustix::mount::mount_bind(&file, target).map_err(|e| named(&format!("bind {target}"), e.into()))?;
    }
    bring_loopback_up();
    Ok(())
}

/// Keeps commands from writing anywhere but into one place on memory, of bounded size: `/tmp`, and what programs take for
/// the same. An ordinary user cannot undo it. Nor can one make namespaces of its own, in which it would be root, or read the
/// kernel's messages.
pub fn seal_root(scratch_bytes: u64) -> Result<()> {
    const BYTES_EACH: u64 = 4096;
    let (tmp, inodes) = ("/tmp", (scratch_bytes / BYTES_EACH).max(64));
    // A disk can have a link in its place, and what it leads to is not to be covered.
    if fs::symlink_metadata(tmp).is_ok_and(|meta| !meta.is_dir()) {
        fs::remove_file(tmp)?;
    }
    let _ = fs::create_dir(tmp);
    mount_at("tmpfs", tmp, &format!("mode=1777,size={scratch_bytes},nr_inodes={inodes}"))?;
    for alias in ["/dev/shm", "/var/tmp"] {
        if fs::symlink_metadata(alias).is_ok_and(|meta| meta.is_dir()) {
            rustix::mount::mount_bind(tmp, alias).map_err(|e| named(&format!("bind {alias}"), e.into()))?;
        }
    }
    let read_only = MountFlags::BIND | MountFlags::RDONLY | MountFlags::NOATIME;
    rustix::mount::mount_remount("/", read_only, c"").map_err(|e| named("seal the root", e.into()))?;
    let settings = [
        ("user/max_user_namespaces", "0"),
        ("kernel/dmesg_restrict", "1"),
        // Memory of these kinds belongs to no command, and outlives it.
        ("kernel/shmmni", "0"),
        ("kernel/msgmni", "0"),
        ("kernel/sem", "0 0 0 0"),
        ("fs/mqueue/queues_max", "0"),
    ];
    for (setting, value) in settings {
        let _ = fs::write(format!("/proc/sys/{setting}"), value);
    }
    // Files that the host writes go where the guest's links lead: not to the kernel's settings.
    for kernels in ["/proc/sys", "/proc/sysrq-trigger", "/sys"] {
        // With what is mounted beneath, which stays as it is.
        rustix::mount::mount_bind_recursive(kernels, kernels)
            .map_err(|e| named(&format!("bind {kernels}"), e.into()))?;
        let read_only = MountFlags::BIND | MountFlags::RDONLY | MountFlags::NOSUID | MountFlags::NODEV;
        rustix::mount::mount_remount(kernels, read_only, c"")
            .map_err(|e| named(&format!("seal {kernels}"), e.into()))?;
    }
    Ok(())
}

/// Programs talk to themselves over 127.0.0.1; the machine has no other network.
fn bring_loopback_up() {
    // SAFETY: the request is zeroed, its name is NUL-terminated, and the kernel only reads it.
    unsafe {
        let socket = libc::socket(libc::AF_INET, libc::SOCK_DGRAM | libc::SOCK_CLOEXEC, 0);
        if socket < 0 {
            return;
        }
        let mut request: libc::ifreq = std::mem::zeroed();
        request.ifr_name[0] = b'l' as libc::c_char;
        request.ifr_name[1] = b'o' as libc::c_char;
        request.ifr_ifru.ifru_flags = (libc::IFF_UP | libc::IFF_RUNNING) as libc::c_short;
        libc::ioctl(socket, libc::SIOCSIFFLAGS, &raw const request);
        libc::close(socket);
    }
}
