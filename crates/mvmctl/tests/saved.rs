//! Sandboxes that are frozen, paused, saved, restored and forked, in real machines.

mod common;

use std::collections::HashSet;
use std::fs;
use std::io::Write;
use std::os::unix::fs::{FileExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::Stdio;

use common::{Sandbox, alive, command, eventually, home, json, kill, machine_of, mvmctl};
use serde_json::Value;

/// Counts for ever, a number each tenth of a second, from a variable in its memory.
const COUNTER: &str = "i=0; while :; do i=$((i+1)); echo $i; sleep 0.1; done";

fn start(name: &str, script: &str) -> String {
    let ran = mvmctl(&["exec", name, "--detach", "--", "sh", "-c", script]);
    assert_eq!(ran.code, 0, "{ran:?}");
    ran.stdout.trim().to_owned()
}

/// All that a job has written so far.
fn written(name: &str, job: &str) -> String {
    let mut text = String::new();
    let mut child = command(home()).args(["attach", name, job, "--json"]).stdout(Stdio::piped()).spawn().unwrap();
    let before = json(&["jobs", name, "--json"])["jobs"].clone();
    let end = before.as_array().unwrap().iter().find(|found| found["run_id"] == job).unwrap()["end_offset"].as_u64();
    let mut lines = std::io::BufRead::lines(std::io::BufReader::new(child.stdout.take().unwrap()));
    let mut seen = 0;
    while seen < end.unwrap() {
        let event: Value = serde_json::from_str(&lines.next().unwrap().unwrap()).unwrap();
        assert_eq!(event["type"], "output", "{event}");
        let bytes = decode(event["data"].as_str().unwrap());
        seen += bytes.len() as u64;
        text += std::str::from_utf8(&bytes).unwrap();
    }
    child.kill().unwrap();
    child.wait().unwrap();
    text
}

fn decode(base64: &str) -> Vec<u8> {
    let digit =
        |c: u8| b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/".iter().position(|d| *d == c);
    let digits: Vec<usize> = base64.bytes().filter_map(digit).collect();
    let group = |group: &[usize]| {
        let number = (0..4).fold(0, |number, index| number << 6 | group.get(index).copied().unwrap_or(0));
        [(number >> 16) as u8, (number >> 8) as u8, number as u8][..group.len() - 1].to_vec()
    };
    digits.chunks(4).flat_map(group).collect()
}

/// The numbers are 1, 2, 3, … without a gap or a repetition; returns the last.
fn counted(text: &str) -> usize {
    let numbers: Vec<usize> = text.lines().map(|line| line.parse().unwrap()).collect();
    assert_eq!(numbers, (1..=numbers.len()).collect::<Vec<_>>());
    numbers.len()
}

fn place(name: &str) -> PathBuf {
    PathBuf::from(json(&["inspect", name, "--json"])["socket"].as_str().unwrap()).parent().unwrap().to_owned()
}

fn error(args: &[&str]) -> Value {
    let end = args.iter().position(|arg| *arg == "--").unwrap_or(args.len());
    let ran = mvmctl(&[&args[..end], &["--json"], &args[end..]].concat());
    assert_eq!(ran.code, 125, "{ran:?}");
    serde_json::from_str::<Value>(&ran.stdout).unwrap()["error"].clone()
}

/// A snapshot that does not outlive its test.
struct Snapshot(&'static str);

impl Snapshot {
    fn of(sandbox: &str, name: &'static str) -> Snapshot {
        let saved = mvmctl(&["snapshot", "save", sandbox, "--name", name]);
        assert_eq!(saved.code, 0, "{saved:?}");
        assert!(saved.stdout.contains("sensitive"));
        Snapshot(name)
    }

    fn dir(&self) -> PathBuf {
        home().join("snapshots").join(json(&["snapshot", "inspect", self.0, "--json"])["id"].as_str().unwrap())
    }
}

impl Drop for Snapshot {
    fn drop(&mut self) {
        mvmctl(&["snapshot", "rm", self.0]);
    }
}

#[test]
fn a_command_goes_on_after_freeze_and_pause_and_loses_no_output() {
    let sandbox = Sandbox::up("goes-on", &[]);
    let job = start("goes-on", COUNTER);
    let mut last = 0;
    for (how, state) in [("freeze", "frozen"), ("pause", "cold"), ("freeze", "frozen"), ("pause", "cold")] {
        eventually("it counts on", || counted(&written("goes-on", &job)) > last + 2);
        for _ in 0..2 {
            assert_eq!(mvmctl(&[how, "goes-on"]).code, 0);
            assert_eq!(sandbox.state(), state);
        }
        last = counted(&written("goes-on", &job));
        let refused = error(&["exec", "goes-on", "--", "true"]);
        assert_eq!(refused["code"], "InvalidState");
        assert!(refused["hint"].as_str().unwrap().contains("resume"), "{refused}");
        assert_eq!(mvmctl(&["resume", "goes-on"]).code, 0);
        assert_eq!(sandbox.state(), "running");
    }
    eventually("it counts on", || counted(&written("goes-on", &job)) > last + 2);
    assert_eq!(mvmctl(&["resume", "goes-on"]).code, 0, "what runs may be resumed");
}

#[test]
fn a_paused_one_takes_no_process_and_outlives_its_supervisor() {
    let sandbox = Sandbox::up("cold", &[]);
    let job = start("cold", COUNTER);
    eventually("it counts", || counted(&written("cold", &job)) > 1);
    let machine = machine_of(sandbox.supervisor());
    assert_eq!(mvmctl(&["pause", "cold"]).code, 0);
    assert!(!alive(machine));
    let before = counted(&written("cold", &job));
    let supervisor = sandbox.supervisor();
    kill(supervisor);
    eventually("it is dead", || !alive(supervisor));
    assert_eq!(sandbox.state(), "cold");
    assert_eq!(counted(&written("cold", &job)), before, "what it wrote is there while it is cold");
    assert_eq!(mvmctl(&["resume", "cold"]).code, 0);
    eventually("it counts on", || counted(&written("cold", &job)) > before + 2);
}

#[test]
fn input_on_its_way_is_read_once_after_a_pause() {
    let _sandbox = Sandbox::up("input", &[]);
    let mut child = command(home())
        .args(["exec", "input", "-i", "--", "sh", "-c", "sleep 3; md5sum"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let data: Vec<u8> = (0..2_000_000u32).map(|n| (n / 7) as u8).collect();
    let mut stdin = child.stdin.take().unwrap();
    let (first, rest) = data.split_at(1_500_000);
    let rest = rest.to_owned();
    let first = first.to_owned();
    let writer = std::thread::spawn(move || {
        stdin.write_all(&first).unwrap();
        std::thread::sleep(std::time::Duration::from_millis(500));
        stdin.write_all(&rest).unwrap();
    });
    eventually("it runs", || json(&["jobs", "input", "--json"])["jobs"].as_array().unwrap().len() == 1);
    for _ in 0..2 {
        assert_eq!(mvmctl(&["pause", "input"]).code, 0);
        assert_eq!(mvmctl(&["resume", "input"]).code, 0);
    }
    writer.join().unwrap();
    let output = child.wait_with_output().unwrap();
    let mut md5 = std::process::Command::new("md5sum").stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    md5.stdin.take().unwrap().write_all(&data).unwrap();
    let expected = md5.wait_with_output().unwrap().stdout;
    assert_eq!(String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&expected));
    assert_eq!(output.status.code(), Some(0));
}

#[test]
fn the_clock_is_right_after_a_pause_and_timeouts_count_running_time() {
    let sandbox = Sandbox::up("clock", &[]);
    let timed = mvmctl(&["exec", "clock", "--detach", "--timeout", "20", "--", "sleep", "1000"]);
    let boot = sandbox.sh("cat /proc/sys/kernel/random/boot_id; hostname").stdout;
    assert_eq!(mvmctl(&["pause", "clock"]).code, 0);
    std::thread::sleep(std::time::Duration::from_secs(3));
    assert_eq!(mvmctl(&["resume", "clock"]).code, 0);
    let guest: f64 = sandbox.sh("date +%s").stdout.trim().parse().unwrap();
    let host = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs_f64();
    assert!((guest - host).abs() < 3.0, "guest {guest}, host {host}");
    assert_eq!(sandbox.sh("cat /proc/sys/kernel/random/boot_id; hostname").stdout, boot, "it is the same machine");
    let ended = json(&["wait", "clock", timed.stdout.trim(), "--json"]);
    assert_eq!(ended["result"]["timed_out"], true);
    assert!(ended["result"]["duration_ms"].as_f64().unwrap() < 25_000.0, "{ended}");
}

#[test]
fn forks_go_on_apart_and_share_no_randomness() {
    let sandbox = Sandbox::up("parent", &[]);
    let job = start("parent", COUNTER);
    // Draws from the kernel's generator from its first instruction after the fork on.
    let draws = start("parent", "while :; do cat /proc/sys/kernel/random/uuid; done");
    sandbox.sh("echo shared > /root/f");
    eventually("it counts", || counted(&written("parent", &job)) > 2);
    let forked = json(&["fork", "parent", "--count", "5", "--name", "child", "--json"]);
    let children: Vec<Sandbox> = (1..=5).map(|n| Sandbox(format!("child-{n}"))).collect();
    assert_eq!(forked["sandboxes"].as_array().unwrap().len(), 5, "{forked}");
    let mut identities = HashSet::new();
    let mut numbers: Vec<String> = written("parent", &draws).lines().map(str::to_owned).collect();
    let shared: HashSet<String> = numbers.iter().cloned().collect();
    for child in children.iter().chain([&sandbox]) {
        let before = counted(&written(&child.0, &job));
        eventually("it counts on", || counted(&written(&child.0, &job)) > before + 2);
        let script = "hostname; cat /etc/machine-id /proc/sys/kernel/random/boot_id";
        child.sh(script).stdout.lines().for_each(|line| assert!(identities.insert(line.to_owned()), "{line} twice"));
        assert_eq!(child.sh("cat /root/f; echo mine > /root/f").stdout, "shared\n");
        if child.0 != "parent" {
            numbers.extend(written(&child.0, &draws).lines().map(str::to_owned).filter(|uuid| !shared.contains(uuid)));
        }
    }
    let distinct: HashSet<&String> = numbers.iter().collect();
    assert_eq!(distinct.len(), numbers.len(), "two machines drew the same number");
    assert!(distinct.len() > shared.len());
    // The parent leaves nothing of a child behind, may go first, and a fork may be forked.
    let supervisor = sandbox.supervisor();
    assert_eq!(mvmctl(&["destroy", "child-5"]).code, 0);
    let entries = || fs::read_dir("/proc").unwrap().flatten();
    let stats = || entries().filter_map(|entry| fs::read_to_string(entry.path().join("stat")).ok());
    let zombies = || stats().filter(|stat| stat.contains(&format!(") Z {supervisor} "))).count();
    eventually("no zombie is left", || zombies() == 0);
    drop(sandbox);
    assert_eq!(json(&["fork", "child-1", "--name", "grandchild", "--json"])["sandboxes"][0]["name"], "grandchild-1");
    let grandchild = Sandbox("grandchild-1".to_owned());
    assert_eq!(grandchild.sh("cat /root/f").stdout, "mine\n");
}

#[test]
fn all_forks_are_made_or_none() {
    let _sandbox = Sandbox::up("all-or-none", &[]);
    let _taken = Sandbox::up("many-3", &[]);
    assert_eq!(error(&["fork", "all-or-none", "--count", "4", "--name", "many"])["code"], "AlreadyExists");
    let all = json(&["ps", "--json"]);
    let names = all["sandboxes"].as_array().unwrap().iter().map(|sandbox| sandbox["name"].as_str().unwrap());
    let many: Vec<&str> = names.filter(|name| name.starts_with("many-")).collect();
    assert_eq!(many, ["many-3"]);
    assert_eq!(error(&["fork", "all-or-none", "--count", "1000"])["code"], "InvalidRequest");
}

#[test]
fn a_snapshot_is_restored_twice_and_outlived() {
    let sandbox = Sandbox::up("saved", &["--env", "GREETING=hello"]);
    let job = start("saved", COUNTER);
    sandbox.sh("echo before > /root/f; mkdir /dev/shm/d; echo in memory > /dev/shm/d/f");
    eventually("it counts", || counted(&written("saved", &job)) > 2);
    let snapshot = Snapshot::of("saved", "twice");
    assert_eq!(error(&["snapshot", "save", "saved", "--name", "twice"])["code"], "AlreadyExists");
    for file in ["memory", "devices", "layers/0", "jobs.json"] {
        let mode = fs::metadata(snapshot.dir().join(file)).unwrap().permissions().mode();
        assert_eq!(mode & 0o077, 0, "{file}");
    }
    sandbox.sh("echo after > /root/f");
    let restored: Vec<Sandbox> = ["first", "second"].map(|name| Sandbox(name.to_owned())).into();
    for sandbox in &restored {
        assert_eq!(mvmctl(&["restore", "twice", "--name", &sandbox.0]).code, 0);
        assert_eq!(sandbox.sh("cat /root/f /dev/shm/d/f; echo $GREETING").stdout, "before\nin memory\nhello\n");
        let before = counted(&written(&sandbox.0, &job));
        eventually("it counts on", || counted(&written(&sandbox.0, &job)) > before + 2);
    }
    let apart = Sandbox("disk-only".to_owned());
    assert_eq!(mvmctl(&["restore", "twice", "--name", "disk-only", "--disk-only"]).code, 0);
    assert_eq!(apart.sh("cat /root/f; ls /dev/shm").stdout, "before\n");
    drop((snapshot, sandbox));
    assert_eq!(mvmctl(&["gc"]).code, 0);
    assert_eq!(mvmctl(&["stop", "first"]).code, 0);
    assert_eq!(mvmctl(&["start", "first"]).code, 0);
    assert_eq!(restored[0].sh("cat /root/f").stdout, "before\n", "it has its disk without the snapshot");
    let again = Snapshot::of("second", "of-a-restored-one");
    drop(restored);
    let third = Sandbox("third".to_owned());
    assert_eq!(mvmctl(&["restore", again.0, "--name", "third"]).code, 0);
    assert_eq!(third.sh("cat /root/f").stdout, "before\n");
    assert_eq!(error(&["restore", "no-such"])["code"], "NotFound");
}

#[test]
fn snapshots_are_saved_in_every_state_that_has_memory_and_refused_in_others() {
    let sandbox = Sandbox::up("states", &[]);
    sandbox.sh("echo here > /dev/shm/f");
    let mut snapshots = Vec::new();
    for (change, name) in [("freeze", "of-frozen"), ("pause", "of-cold")] {
        assert_eq!(mvmctl(&[change, "states"]).code, 0);
        snapshots.push(Snapshot::of("states", name));
        let copy = Sandbox(format!("copy-{name}"));
        assert_eq!(mvmctl(&["restore", name, "--name", &copy.0]).code, 0);
        assert_eq!(copy.sh("cat /dev/shm/f").stdout, "here\n");
    }
    assert_eq!(mvmctl(&["resume", "states"]).code, 0);
    assert_eq!(sandbox.sh("cat /dev/shm/f").stdout, "here\n");
    assert_eq!(mvmctl(&["stop", "states"]).code, 0);
    for refused in [&["pause", "states"][..], &["freeze", "states"], &["resume", "states"], &["fork", "states"]] {
        let error = error(refused);
        assert_eq!(error["code"], "InvalidState", "{refused:?}");
        assert!(error["hint"].as_str().unwrap().contains("start"), "{error}");
    }
    assert_eq!(error(&["snapshot", "save", "states"])["code"], "InvalidState");
}

#[test]
fn a_cold_one_can_be_stopped_and_then_starts_from_its_disk() {
    let sandbox = Sandbox::up("cold-stop", &[]);
    sandbox.sh("echo kept > /root/f; echo gone > /dev/shm/f");
    assert_eq!(mvmctl(&["pause", "cold-stop"]).code, 0);
    assert_eq!(error(&["start", "cold-stop"])["code"], "InvalidState");
    assert_eq!(mvmctl(&["stop", "cold-stop"]).code, 0);
    assert!(!place("cold-stop").join("saved").exists());
    assert_eq!(mvmctl(&["start", "cold-stop"]).code, 0);
    assert_eq!(sandbox.sh("cat /root/f; ls /dev/shm").stdout, "kept\n");
}

#[test]
fn memory_is_given_up_before_it_is_used() {
    let sandbox = Sandbox::up("once", &[]);
    assert_eq!(mvmctl(&["pause", "once"]).code, 0);
    assert!(place("once").join("saved/memory").exists());
    assert!(json(&["stats", "once", "--json"])["saved_bytes"].as_u64().unwrap() > 1 << 20);
    assert_eq!(mvmctl(&["resume", "once"]).code, 0);
    assert!(!place("once").join("saved").exists());
    sandbox.sh("echo later > /root/f; sync");
    let supervisor = sandbox.supervisor();
    kill(supervisor);
    eventually("it is dead", || !alive(supervisor));
    eventually("it is stopped: there is nothing that it could come back from", || sandbox.state() == "stopped");
    assert_eq!(mvmctl(&["start", "once"]).code, 0);
    assert_eq!(sandbox.sh("cat /root/f").stdout, "later\n");
}

fn sha256(text: &str) -> String {
    let mut child =
        std::process::Command::new("sha256sum").stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(text.as_bytes()).unwrap();
    String::from_utf8_lossy(&child.wait_with_output().unwrap().stdout)[..64].to_owned()
}

/// Changes one byte in the middle of a file.
fn flip(path: &Path) {
    let file = fs::File::options().read(true).write(true).open(path).unwrap();
    let at = file.metadata().unwrap().len() / 2;
    let mut byte = [0];
    file.read_exact_at(&mut byte, at).unwrap();
    file.write_all_at(&[byte[0] ^ 1], at).unwrap();
}

#[test]
fn what_does_not_fit_or_is_damaged_is_refused() {
    let _sandbox = Sandbox::up("damaged", &[]);
    let snapshot = Snapshot::of("damaged", "to-damage");
    let dir = snapshot.dir();
    for file in ["memory", "devices", "layers/0", "jobs.json", "point.json"] {
        let path = dir.join(file);
        let original = fs::read(&path).unwrap();
        for damage in ["flipped", "truncated"] {
            match damage {
                "flipped" => flip(&path),
                _ => fs::File::options().write(true).open(&path).unwrap().set_len(original.len() as u64 / 2).unwrap(),
            }
            let error = error(&["restore", "to-damage", "--name", "never"]);
            assert_eq!(error["code"], "RestoreRefused", "{file} {damage}: {error}");
            assert!(error["hint"].as_str().unwrap().contains("--disk-only"), "{error}");
            fs::write(&path, &original).unwrap();
        }
        assert!(!mvmctl(&["ps", "--json"]).stdout.contains("\"never\""), "nothing is left of it");
    }
    let record = fs::read_to_string(dir.join("point.json")).unwrap();
    let needs = [("\"TSC rate\":\"", "1"), ("\"kernel\":\"", "x"), ("\"QEMU\":\"", "9"), ("\"machine\":\"", "9")];
    for (name, other) in needs {
        let line = record.lines().next().unwrap().replace(name, &format!("{name}{other}"));
        fs::write(dir.join("point.json"), format!("{line}\n{}\n", sha256(&line))).unwrap();
        let error = error(&["restore", "to-damage", "--name", "never"]);
        assert_eq!(error["code"], "RestoreRefused", "{name}");
        assert!(error["why"].as_str().unwrap().contains(name.trim_matches([':', '"'])), "{error}");
        assert_eq!(json(&["inspect", "never", "--json"])["state"], "destroyed");
    }
    fs::write(dir.join("point.json"), &record).unwrap();
    let whole = Sandbox("whole".to_owned());
    assert_eq!(mvmctl(&["restore", "to-damage", "--name", "whole"]).code, 0, "the same bytes again are as good");
    assert_eq!(whole.sh("echo yes").stdout, "yes\n");
}

#[test]
fn one_whose_records_are_damaged_is_listed_and_can_be_removed() {
    let _sandbox = Sandbox::up("torn", &[]);
    for file in ["snapshot.json", "point.json"] {
        let snapshot = Snapshot::of("torn", "to-tear");
        let dir = snapshot.dir();
        let id = dir.file_name().unwrap().to_str().unwrap().to_owned();
        fs::write(dir.join(file), "{").unwrap();
        let all = json(&["snapshot", "ls", "--json"])["snapshots"].clone();
        let listed = all.as_array().unwrap().iter().find(|listed| listed["id"] == id.as_str()).unwrap();
        assert!(listed["damage"].as_str().unwrap().contains("damaged"), "{listed}");
        assert_eq!(listed["name"], if file == "snapshot.json" { id.as_str() } else { "to-tear" }, "{listed}");
        let line = mvmctl(&["snapshot", "ls"]).stdout;
        assert!(line.contains("damaged: "), "{line}");
        assert_eq!(json(&["snapshot", "inspect", &id, "--json"])["damage"], listed["damage"]);
        assert_eq!(error(&["restore", &id, "--name", "never"])["code"], "RestoreRefused");
        assert_eq!(json(&["snapshot", "rm", &id, "--json"])["removed"][0]["id"], id.as_str());
        assert!(!dir.exists());
    }
}

#[test]
fn a_paused_one_that_was_damaged_stays_cold_and_can_start_from_its_disk() {
    let sandbox = Sandbox::up("cold-damaged", &[]);
    sandbox.sh("echo kept > /root/f");
    assert_eq!(mvmctl(&["pause", "cold-damaged"]).code, 0);
    flip(&place("cold-damaged").join("saved/memory"));
    let refused = error(&["resume", "cold-damaged"]);
    assert_eq!(refused["code"], "RestoreRefused");
    assert!(refused["hint"].as_str().unwrap().contains("mvmctl stop cold-damaged"), "{refused}");
    assert_eq!(sandbox.state(), "cold");
    assert_eq!(mvmctl(&["stop", "cold-damaged"]).code, 0);
    assert_eq!(mvmctl(&["start", "cold-damaged"]).code, 0);
    assert_eq!(sandbox.sh("cat /root/f").stdout, "kept\n");
}

#[test]
fn many_who_change_one_at_once_all_get_an_answer() {
    let sandbox = Sandbox::up("contended", &[]);
    let job = start("contended", COUNTER);
    let children: Vec<_> = ["pause", "pause", "freeze", "resume", "pause", "resume", "resume", "freeze"]
        .map(|how| {
            command(home()).args([how, "contended"]).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
        })
        .into();
    for child in children {
        let output = child.wait_with_output().unwrap();
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.success() || text.contains("cannot freeze") || text.contains("cannot pause"), "{text}");
    }
    mvmctl(&["resume", "contended"]);
    assert_eq!(sandbox.state(), "running");
    let before = counted(&written("contended", &job));
    eventually("it counts on", || counted(&written("contended", &job)) > before + 2);
}

#[test]
fn a_frozen_machine_that_dies_is_noticed() {
    let sandbox = Sandbox::up("frozen-dies", &[]);
    assert_eq!(mvmctl(&["freeze", "frozen-dies"]).code, 0);
    kill(machine_of(sandbox.supervisor()));
    eventually("it failed", || sandbox.state() == "failed");
    assert_eq!(mvmctl(&["start", "frozen-dies"]).code, 0);
}

#[test]
fn time_runs_out_while_cold_and_a_pause_can_be_what_happens_then() {
    let brief = Sandbox::up("expires-cold", &["--ttl", "3s"]);
    assert_eq!(mvmctl(&["pause", "expires-cold"]).code, 0);
    eventually("it is gone", || brief.state() == "destroyed");
    let kept = Sandbox::up("expires-to-cold", &["--ttl", "2s", "--on-expiry", "cold"]);
    kept.sh("echo here > /dev/shm/f");
    eventually("it is cold", || kept.state() == "cold");
    assert_eq!(mvmctl(&["keep", "expires-to-cold", "--ttl", "1h"]).code, 0);
    assert_eq!(mvmctl(&["resume", "expires-to-cold"]).code, 0);
    assert_eq!(kept.sh("cat /dev/shm/f").stdout, "here\n");
}
