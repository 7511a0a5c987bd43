//! Builds the guest agent as a static program and hands its bytes and digest to the crate, so that an ordinary
//! `cargo build` yields one complete `mvmctl`.

use std::path::{Path, PathBuf};
use std::process::Command;

use sha2::{Digest, Sha256};

fn main() {
    let var = |name: &str| std::env::var(name).unwrap_or_else(|_| panic!("cargo sets {name}"));
    let manifest = PathBuf::from(var("CARGO_MANIFEST_DIR"));
    let workspace = manifest.ancestors().nth(2).expect("the crate lies two levels below the workspace");
    for input in
        ["crates/mvm-agent/src", "crates/mvm-agent/Cargo.toml", "crates/mvm-wire/src", "Cargo.toml", "Cargo.lock"]
    {
        println!("cargo:rerun-if-changed={}", workspace.join(input).display());
    }
    let out = PathBuf::from(var("OUT_DIR"));
    // <target>/<profile>/build/<crate>/out: beside the profiles, so that they share one agent. A directory of its own,
    // because the outer cargo holds the lock of the usual one.
    let target_dir = out.ancestors().nth(4).map_or_else(|| out.join("agent"), |target| target.join("guest-agent"));
    let target = var("TARGET");
    let agent = build(workspace, &target, &target_dir);
    let bytes = std::fs::read(&agent).unwrap_or_else(|e| panic!("cannot read {}: {e}", agent.display()));
    std::fs::write(out.join("mvm-agent"), &bytes).expect("OUT_DIR can be written");
    println!("cargo:rustc-env=MVM_AGENT_SHA256={}", hex::encode(Sha256::digest(&bytes)));
}

fn build(workspace: &Path, target: &str, target_dir: &Path) -> PathBuf {
    let mut cargo = Command::new(std::env::var_os("CARGO").expect("cargo sets CARGO"));
    cargo.current_dir(workspace).args(["build", "--package", "mvm-agent", "--profile", "agent", "--target", target]);
    cargo.arg("--target-dir").arg(target_dir);
    // Settings of the outer build (lints' compiler, coverage flags) must not change what goes into a guest.
    for name in ["CARGO_ENCODED_RUSTFLAGS", "RUSTC_WORKSPACE_WRAPPER", "RUSTC_WRAPPER", "CARGO_BUILD_TARGET"] {
        cargo.env_remove(name);
    }
    let paths = format!("--remap-path-prefix={}=mvm", workspace.display());
    cargo.env("RUSTFLAGS", format!("-C target-feature=+crt-static {paths}"));
    let status = cargo.status().expect("cargo starts");
    assert!(status.success(), "the guest agent did not build");
    target_dir.join(target).join("agent/mvm-agent")
}
