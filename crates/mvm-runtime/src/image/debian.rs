//! The image `debian`: a small Debian with Python, made by mmdebstrap from the distribution's own archive.

use std::fs;
use std::path::Path;

use super::base::USER;
use super::{ImageConfig, ImageSource};
use crate::error::Result;
use crate::progress::Progress;
use crate::tool::Tool;

/// What is in it besides Debian's essential packages (bash and coreutils among those).
const INCLUDE: &str = "python3,ca-certificates";
/// Used where the host is no Debian.
const DEFAULT_SUITE: &str = "bookworm";
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
    let mut tool = Tool::new("mmdebstrap")?
        .args([
            "--variant=minbase",
            "--format=tar",
            "--aptopt=Acquire::Languages \"none\"",
            "--aptopt=APT::Install-Recommends \"false\"",
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
    let result = tool.arg(suite).arg(&tar).run(|line| progress.detail(line.trim_start_matches("I: ")));
    result.map_err(|mut error| {
        error.what = "cannot build the image debian (mmdebstrap failed)".into();
        error.hint(
            "check the network and `mvmctl doctor`; the image base needs no network: mvmctl run --image base -- ...",
        )
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
    Ok(ImageSource { name: "debian".into(), tar, config })
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
