//! The image `debian`: a small Debian with Python, made by mmdebstrap from the distribution's own archive.

use std::fs;
use std::path::Path;
use std::time::Duration;

use mvm_wire::ErrorCode;

use super::base::USER;
use super::{ImageConfig, ImageSource};
use crate::error::{IoContext, Result};
use crate::progress::Progress;
use crate::tool::{self, Tool};

/// What is in it besides Debian's essential packages (bash and coreutils among those).
const INCLUDE: &str = "python3,ca-certificates";
/// What Debian's archive is checked with. Debian always has it, others may not.
const KEYRING: &str = "/usr/share/keyrings/debian-archive-keyring.gpg";
/// Used where the host is no Debian.
const DEFAULT_SUITE: &str = "bookworm";
/// Longer than a slow line needs for 60 MB and a slow disk for 150.
const LIMIT: Duration = Duration::from_secs(3600);
/// Left out: nobody reads them in a sandbox.
const EXCLUDE: [&str; 5] =
    ["/usr/share/doc/*", "/usr/share/man/*", "/usr/share/info/*", "/usr/share/locale/*", "/usr/share/lintian/*"];

/// Writes the archive `debian.tar` into `dir`.
pub fn archive(dir: &Path, progress: &dyn Progress) -> Result<ImageSource> {
    let os_release = fs::read_to_string("/etc/os-release").unwrap_or_default();
    let suite = suite(&os_release);
    progress.step(&format!("image debian: building {suite} with mmdebstrap"));
    let tar = dir.join("debian.tar");
    let (user, uid) = USER;
    let scratch = dir.join("mmdebstrap");
    let mut tool = mmdebstrap(&scratch)?
        .args([
            "--variant=minbase",
            "--format=tar",
            "--aptopt=Acquire::Languages \"none\"",
            "--aptopt=APT::Install-Recommends \"false\"",
            // Otherwise who owns apt's directories, and with it the digest, depends on who builds.
            "--aptopt=APT::Sandbox::User \"root\"",
        ])
        .arg(format!("--include={INCLUDE}"))
        .env("SOURCE_DATE_EPOCH", "0");
    for path in EXCLUDE {
        tool = tool.arg(format!("--dpkgopt=path-exclude={path}"));
    }
    let hooks = [
        format!("chroot \"$1\" useradd --create-home --uid {uid} --shell /bin/bash {user}"),
        "rm -rf \"$1\"/var/lib/apt/lists/* \"$1\"/var/cache/apt/*.bin \"$1\"/var/log/* \"$1\"/etc/hostname".to_owned(),
        "printf '127.0.0.1 localhost\\n::1 localhost\\n' > \"$1\"/etc/hosts; : > \"$1\"/etc/machine-id; rm -f \"$1\"/etc/resolv.conf".to_owned(),
    ];
    for hook in hooks {
        tool = tool.arg(format!("--customize-hook={hook}"));
    }
    let result = tool.limit(LIMIT).arg(suite).arg(&tar).run(|line| progress.detail(line.trim_start_matches("I: ")));
    result.map_err(|mut error| {
        error.what = "cannot build the image debian (mmdebstrap failed)".into();
        if error.code == ErrorCode::ResourceExhausted {
            return error;
        }
        error.hint(if Path::new(KEYRING).exists() {
            "check the network and `mvmctl doctor`; the image base needs no network: mvmctl run --image base -- ..."
        } else {
            "apt-get install debian-archive-keyring"
        })
    })?;
    let python = |code: &str| vec!["python3".to_owned(), "-c".to_owned(), code.to_owned()];
    let config = ImageConfig {
        env: vec![("LANG".into(), "C.UTF-8".into())],
        entrypoint: vec!["/bin/bash".into()],
        warm: vec![
            vec!["true".into()],
            vec!["/bin/sh".into(), "-c".into(), "true; /bin/true; cat /dev/null; bash -c true; id; uname -a".into()],
            python("import json, os, sys, subprocess, platform; platform.platform()"),
        ],
        ..ImageConfig::default()
    };
    Ok(ImageSource { name: "debian".into(), tar, config, entries: 0 })
}

/// The call of mmdebstrap, up to its options.
///
/// Run by root it mounts `/proc`, `/sys` and the host's `/dev/shm` inside the tree it builds, and when it is killed they
/// stay mounted there, for whoever removes the tree to empty (measured). So root runs it where mounts are nobody else's
/// and vanish with the last process, and where the end of the first process is the end of all. Who may not make such a
/// place may not mount either. An ordinary user's mmdebstrap makes one itself, and tidies up when it is asked to end.
fn mmdebstrap(scratch: &Path) -> Result<Tool> {
    const APART: [&str; 6] = ["--mount", "--propagation", "private", "--pid", "--kill-child", "--mount-proc"];
    let program = tool::find("mmdebstrap")?;
    if !rustix::process::geteuid().is_root() {
        return Tool::gentle("mmdebstrap");
    }
    let apart = Tool::new("unshare")?.args(APART);
    if apart.arg("--").arg(tool::find("true")?).run(|_| {}).is_err() {
        return Tool::gentle("mmdebstrap");
    }
    // Without the mounts the tree is plain files, which go when the staging directory goes.
    fs::create_dir(scratch).context(|| format!("cannot create {}", scratch.display()))?;
    Ok(Tool::new("unshare")?.args(APART).arg("--").arg(program).env("TMPDIR", scratch))
}

/// The host's own release if it is a Debian, whose keys and mirrors the host then has.
fn suite(os_release: &str) -> &str {
    let value = |name: &str| {
        let line = os_release.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix('='));
        line.map(|value| value.trim_matches('"'))
    };
    match (value("ID"), value("VERSION_CODENAME")) {
        (Some("debian"), Some(codename)) if !codename.is_empty() => codename,
        _ => DEFAULT_SUITE,
    }
}

#[cfg(test)]
mod tests {
    use super::suite;

    #[test]
    fn the_suite_is_the_hosts_own_on_debian_only() {
        assert_eq!(suite("ID=debian\nVERSION_CODENAME=trixie\n"), "trixie");
        assert_eq!(suite("ID=ubuntu\nVERSION_CODENAME=noble\n"), "bookworm");
        assert_eq!(suite(""), "bookworm");
    }
}
