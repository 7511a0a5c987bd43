//! The command line apart from running: bad input, templates, doctor, and a home that is not as it should be.

mod common;

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};

use common::{Ran, command, home, run};
use serde_json::Value;

fn mvmctl(home: &Path, args: &[&str]) -> Ran {
    command(home).args(args).output().unwrap().into()
}

fn object(ran: &Ran) -> Value {
    serde_json::from_str(&ran.stdout).unwrap_or_else(|e| panic!("{e}: {ran:?}"))
}

#[test]
fn bad_input_is_explained_before_anything_starts() {
    let dir = tempfile::tempdir().unwrap();
    let untouched = dir.path().join("home");
    for (args, says) in [
        (vec!["run"], "<CMD>"),
        (vec!["run", "--"], "<CMD>"),
        (vec!["run", "--image", "nope", "--", "true"], "known images: base, debian"),
        (vec!["run", "--image", "../x", "--", "true"], "image name"),
        (vec!["run", "--memory", "1", "--", "true"], "128 MiB"),
        (vec!["run", "--memory", "9000G", "--", "true"], "this host has"),
        (vec!["run", "--memory", "x", "--", "true"], "not a size"),
        (vec!["run", "--cpus", "0", "--", "true"], "processors"),
        (vec!["run", "--cpus", "4000", "--", "true"], "processors"),
        (vec!["up", "--cpus", "0"], "1 or more processors"),
        (vec!["up", "--memory", "0"], "256M or more"),
        (vec!["up", "--disk", "0"], "64M or more"),
        (vec!["run", "--disk", "1", "--", "true"], "64 MiB"),
        (vec!["run", "--timeout", "0", "--", "true"], "above zero"),
        (vec!["run", "--timeout", "-1", "--", "true"], "not a time"),
        (vec!["run", "--timeout", "abc", "--", "true"], "not a time"),
        (vec!["run", "--env", "A", "--", "true"], "NAME=VALUE"),
        (vec!["template", "rm", "../.."], "there is none with this key"),
        (vec!["setup", "--kernel", "/dev/null"], "kernel"),
        (vec!["no-such-verb"], "unrecognized"),
    ] {
        let ran = mvmctl(&untouched, &args);
        assert_eq!(ran.code, 125, "{args:?}: {ran:?}");
        assert!(ran.stderr.contains(says), "{args:?}: {ran:?}");
        assert_eq!(ran.stdout, "", "{args:?}");
    }
    assert!(!untouched.join("images/base.json").exists());
}

#[test]
fn errors_are_objects_with_json() {
    let dir = tempfile::tempdir().unwrap();
    for args in [["run", "--json", "--image", "nope", "--", "true"], ["run", "--json", "--timeout", "0", "--", "true"]]
    {
        let ran = mvmctl(dir.path(), &args);
        let error = object(&ran)["error"].clone();
        assert_eq!(ran.stdout.lines().count(), 1, "{ran:?}");
        assert_eq!(error.get("errno"), Some(&serde_json::Value::Null), "{error}");
        for key in ["code", "what", "why", "hint"] {
            assert!(error[key].is_string(), "{error}");
        }
    }
}

#[test]
fn a_home_that_cannot_be_used_is_named() {
    for (home, says) in [("/proc/nope", "/proc/nope"), ("relative", "relative")] {
        let ran = mvmctl(Path::new(home), &["run", "--image", "base", "--", "true"]);
        assert_eq!(ran.code, 125);
        assert!(ran.stderr.contains(says) && ran.stderr.contains("MVM_HOME"), "{ran:?}");
    }
}

#[test]
fn a_missing_qemu_is_named_with_its_package() {
    let ran: Ran = command(home())
        .env("MVM_QEMU", "/nope")
        .args(["run", "--image", "base", "--", "true"])
        .output()
        .unwrap()
        .into();
    assert_eq!(ran.code, 125);
    assert!(ran.stderr.contains("qemu-system-x86"), "{ran:?}");
}

/// The tests' kernel as somebody's own: a kernel file and a directory of modules, readable by everybody.
fn own_kernel(dir: &Path) -> (String, String) {
    let kernel: Value = serde_json::from_slice(&fs::read(home().join("kernels/current.json")).unwrap()).unwrap();
    let publish = |from: &str, to: &Path| {
        fs::copy(from, to).unwrap();
        fs::set_permissions(to, std::os::unix::fs::PermissionsExt::from_mode(0o644)).unwrap();
    };
    let modules = dir.join("lib/modules/test");
    fs::create_dir_all(&modules).unwrap();
    let (mut dep, mut before) = (String::new(), String::new());
    for module in kernel["modules"].as_array().unwrap() {
        // The names carry their place in the load order: 00-virtio_ring.ko.
        let name = module.as_str().unwrap().rsplit_once('/').unwrap().1[3..].to_owned();
        publish(module.as_str().unwrap(), &modules.join(&name));
        dep += &format!("{name}:{before}\n");
        before = format!(" {name}{before}");
    }
    fs::write(modules.join("modules.dep"), dep).unwrap();
    fs::write(modules.join("modules.builtin"), "kernel/fs/ext4/ext4.ko\n").unwrap();
    let vmlinuz = dir.join("vmlinuz");
    publish(kernel["vmlinuz"].as_str().unwrap(), &vmlinuz);
    (vmlinuz.display().to_string(), modules.display().to_string())
}

/// A home of the test's own, set up with its own kernel so that nothing is downloaded.
fn own_home() -> tempfile::TempDir {
    let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let (kernel, modules) = own_kernel(dir.path());
    let ran =
        mvmctl(&dir.path().join("home"), &["setup", "--image", "base", "--kernel", &kernel, "--modules", &modules]);
    assert_eq!(ran.code, 0, "{ran:?}");
    dir
}

#[test]
fn tampered_files_are_never_started_from() {
    let dir = own_home();
    let home = dir.path().join("home");
    let run = |expected: &str| {
        let ran = mvmctl(&home, &["run", "--image", "base", "--", "echo", "fine"]);
        assert_eq!(ran.stdout, "fine\n", "{ran:?}");
        assert!(ran.stderr.contains(expected), "{expected}: {ran:?}");
    };
    let find = |folder: &str, name: &str| {
        let entries = fs::read_dir(home.join(folder)).unwrap().flatten();
        entries.map(|e| e.path().join(name)).find(|path| path.exists()).unwrap()
    };
    run("");
    // Truncated, resized, replaced, and changed in place: each is built anew, aloud.
    fs::File::options().write(true).open(find("templates", "memory")).unwrap().set_len(1 << 20).unwrap();
    run("template: booting");
    let overlay = find("templates", "overlay.qcow2");
    fs::copy(&overlay, overlay.with_extension("copy")).unwrap();
    fs::rename(overlay.with_extension("copy"), &overlay).unwrap();
    run("template: booting");
    let state = find("templates", "state");
    let mut bytes = fs::read(&state).unwrap();
    bytes[5000] ^= 1;
    fs::write(&state, bytes).unwrap();
    run("template: booting");
    let image = find("images", "rootfs.ext4");
    let length = fs::metadata(&image).unwrap().len();
    fs::File::options().write(true).open(&image).unwrap().set_len(length + 4096).unwrap();
    let found = object(&mvmctl(&home, &["doctor", "--json"]));
    let finding = found["findings"].as_array().unwrap().iter().find(|f| f["name"] == "image base").unwrap().clone();
    assert_eq!(finding["status"], "warning", "{finding}");
    run("image base");
}

#[test]
fn two_setups_at_once_share_the_work() {
    let dir = own_home();
    let home = dir.path().join("home");
    fs::remove_dir_all(home.join("images")).unwrap();
    fs::remove_dir_all(home.join("templates")).unwrap();
    let start = || {
        command(&home).args(["setup", "--image", "base"]).stderr(Stdio::piped()).stdout(Stdio::null()).spawn().unwrap()
    };
    let children = [start(), start()];
    let outputs: Vec<Ran> = children.into_iter().map(|child| child.wait_with_output().unwrap().into()).collect();
    assert!(outputs.iter().all(|ran| ran.code == 0), "{outputs:?}");
    assert_eq!(fs::read_dir(home.join("tmp")).unwrap().count(), 0);
    let images = fs::read_dir(home.join("images")).unwrap().flatten().filter(|e| e.path().is_dir()).count();
    assert_eq!(images, 1);
}

#[test]
fn an_interrupted_setup_leaves_nothing_and_can_be_repeated() {
    let dir = own_home();
    let home = dir.path().join("home");
    for (signal, left) in [("-INT", false), ("-KILL", true)] {
        let _ = fs::remove_dir_all(home.join("images"));
        let _ = fs::remove_dir_all(home.join("templates"));
        let mut child = command(&home)
            .args(["setup", "--image", "base"])
            .stderr(Stdio::null())
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        common::eventually("it builds", || fs::read_dir(home.join("tmp")).is_ok_and(|d| d.count() > 0));
        std::thread::sleep(std::time::Duration::from_millis(700));
        assert!(Command::new("kill").args([signal, &child.id().to_string()]).status().unwrap().success());
        child.wait().unwrap();
        assert_eq!(fs::read_dir(home.join("tmp")).unwrap().count() > 0, left, "after {signal}");
        assert!(!home.join("images/base.json").exists());
    }
    let ran = mvmctl(&home, &["setup", "--image", "base"]);
    assert_eq!(ran.code, 0, "{ran:?}");
    assert_eq!(fs::read_dir(home.join("tmp")).unwrap().count(), 0, "what was left is swept");
}

#[test]
fn templates_are_listed_and_removed() {
    assert_eq!(run(&["--memory", "192M"], &["true"]).code, 0);
    let list = || object(&mvmctl(home(), &["template", "ls", "--json"]))["templates"].clone();
    let before = list();
    let mine = before.as_array().unwrap().iter().find(|t| t["shape"]["memory_mib"] == 192).unwrap().clone();
    assert_eq!(mine["image"], "base");
    assert!(mine["disk_bytes_used"].as_u64().unwrap() > 0);
    let ran = mvmctl(home(), &["template", "rm", mine["key"].as_str().unwrap()]);
    assert_eq!(ran.code, 0, "{ran:?}");
    assert!(list().as_array().unwrap().iter().all(|t| t["key"] != mine["key"]));
    assert_eq!(mvmctl(home(), &["template", "rm", mine["key"].as_str().unwrap()]).code, 125);
}

#[test]
fn doctor_names_what_it_looked_at() {
    let _ = home();
    let found = object(&mvmctl(home(), &["doctor", "--json"]));
    assert_eq!(found["ok"], true, "{found}");
    let findings = found["findings"].as_array().unwrap();
    for name in [
        "platform",
        "home",
        "disk space",
        "memory",
        "qemu",
        "accelerator",
        "confinement",
        "guest kernel",
        "image base",
        "templates",
    ] {
        let finding =
            findings.iter().find(|f| f["name"] == name).unwrap_or_else(|| panic!("no finding {name}: {found}"));
        assert!(finding["detail"].as_str().is_some_and(|d| !d.is_empty()));
    }
    for finding in findings.iter().filter(|f| f["status"] == "failing") {
        assert!(!finding["fix"].as_str().unwrap().is_empty(), "{finding}");
    }
}

#[test]
fn help_completions_and_manual_pages_exist() {
    let dir = tempfile::tempdir().unwrap();
    assert!(mvmctl(dir.path(), &["--help"]).stdout.contains("mvmctl setup"));
    for shell in ["bash", "zsh", "fish"] {
        assert!(mvmctl(dir.path(), &["completions", shell]).stdout.contains("mvmctl"), "{shell}");
    }
    assert_eq!(mvmctl(dir.path(), &["man", dir.path().to_str().unwrap()]).code, 0);
    assert!(dir.path().join("mvmctl-run.1").exists());
}

/// As root there is a second way to run mvm that must work as well: as somebody else.
#[test]
fn an_ordinary_user_can_run_it() {
    if !rustix::process::geteuid().is_root() {
        return; // Every other test has just shown it.
    }
    let dir = tempfile::tempdir().unwrap();
    fs::set_permissions(dir.path(), std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    let program = dir.path().join("mvmctl");
    fs::copy(env!("CARGO_BIN_EXE_mvmctl"), &program).unwrap();
    let (kernel, modules) = own_kernel(dir.path());
    let home = dir.path().join("home");
    fs::create_dir(&home).unwrap();
    std::os::unix::fs::chown(&home, Some(65534), Some(65534)).unwrap();
    let as_nobody = |args: &[&str]| -> Ran {
        let mut command = Command::new("setpriv");
        command.args(["--reuid=65534", "--regid=65534", "--clear-groups", "--"]).arg(&program).args(args);
        command.env("MVM_HOME", &home).env("HOME", &home).stdin(Stdio::null()).output().unwrap().into()
    };
    let ran = as_nobody(&["setup", "--image", "base", "--kernel", &kernel, "--modules", &modules]);
    assert_eq!(ran.code, 0, "{ran:?}");
    let ran = as_nobody(&["run", "--json", "--image", "base", "--", "stat", "-c", "%u", "/bin/busybox"]);
    let object = object(&ran);
    assert_eq!(object["stdout"], "0\n", "files of an image belong to whom its archive says");
    let layers = object["isolation"]["layers"].as_array().unwrap();
    assert!(layers.iter().any(|layer| layer["layer"] == "own-user" && layer["applied"] == false), "{layers:?}");
    for verb in
        [&["up", "--image", "base", "--name", "own"][..], &["pause", "own"], &["resume", "own"], &["fork", "own"]]
    {
        let ran = as_nobody(verb);
        assert_eq!(ran.code, 0, "{verb:?}: {ran:?}");
    }
    assert_eq!(as_nobody(&["exec", "own", "--", "echo", "again"]).stdout, "again\n");
    assert_eq!(as_nobody(&["destroy", "--all"]).code, 0);
}

/// A generated file of the repository.
fn checked_in(path: &str) -> String {
    let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    std::fs::read_to_string(root.join(path)).unwrap_or_default()
}

#[test]
fn the_api_document_is_up_to_date() {
    let dir = tempfile::tempdir().unwrap();
    let printed = mvmctl(dir.path(), &["openapi"]).stdout;
    assert!(printed == checked_in("docs/openapi.json"), "run: make openapi");
}

#[test]
fn versions_are_told_to_people_and_programs() {
    let dir = tempfile::tempdir().unwrap();
    let version = env!("CARGO_PKG_VERSION");
    assert_eq!(mvmctl(dir.path(), &["version"]).stdout, format!("mvmctl {version} (API 1)\n"));
    let said = object(&mvmctl(dir.path(), &["version", "--json"]));
    assert_eq!(said, serde_json::json!({ "version": version, "api": { "oldest": 1, "newest": 1 } }));
    let document: Value = serde_json::from_str(&checked_in("docs/openapi.json")).unwrap();
    assert_eq!(document["info"]["version"], said["api"]["newest"].to_string());
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0, "nothing is made for that");
}

#[test]
fn the_schemas_are_up_to_date() {
    let dir = tempfile::tempdir().unwrap();
    for of in ["profile", "plan", "workload"] {
        let printed = mvmctl(dir.path(), &["policy", "schema", of]).stdout;
        assert!(printed == checked_in(&format!("docs/schemas/{of}.schema.json")), "{of}: run: make schemas");
    }
}

#[test]
fn the_readme_names_every_command() {
    let dir = tempfile::tempdir().unwrap();
    let help = mvmctl(dir.path(), &["--help"]).stdout;
    let commands = help.lines().skip_while(|line| *line != "Commands:").skip(1).take_while(|line| !line.is_empty());
    let readme = checked_in("README.md");
    let mut seen = 0;
    for command in commands.filter(|line| line.starts_with("  ") && !line.starts_with("   ")) {
        let name = command.split_whitespace().next().unwrap();
        assert!(name == "help" || readme.contains(&format!("mvmctl {name}")), "README.md does not name {name}");
        seen += 1;
    }
    assert!(seen > 15, "{help}");
}
