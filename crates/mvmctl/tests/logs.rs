//! What `mvmctl logs` shows, in real machines.

mod common;

use std::io::{BufRead, BufReader};
use std::process::Stdio;

use common::{Sandbox, alive, command, eventually, home, kill, mvmctl};
use serde_json::Value;

/// All events but the last, which sums them up.
fn logged(name: &str, options: &[&str]) -> Vec<Value> {
    let ran = mvmctl(&[&["logs", name, "--json"], options].concat());
    assert_eq!(ran.code, 0, "{ran:?}");
    let mut events: Vec<Value> = ran.stdout.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let summary = events.pop().unwrap();
    let lines = events.iter().filter(|event| event["type"] == "line").count();
    assert_eq!((&summary["type"], &summary["lines"]), (&"summary".into(), &lines.into()));
    events
}

fn texts(events: &[Value]) -> Vec<&str> {
    events.iter().map(|event| event["text"].as_str().unwrap_or("gap")).collect()
}

#[test]
fn console_jobs_and_the_supervisor_are_told_apart() {
    let sandbox = Sandbox::up("logged", &[]);
    let script = "echo out; echo err >&2; echo '<2>from the kernel' > /dev/kmsg; echo last";
    let job = mvmctl(&["exec", "logged", "--detach", "--", "sh", "-c", script]).stdout.trim().to_owned();
    assert_eq!(mvmctl(&["wait", "logged", &job]).code, 0);
    assert_eq!(sandbox.sh("echo for its caller only").code, 0);
    let of_job = logged("logged", &["--source", "job"]);
    let mut lines = texts(&of_job);
    lines.sort_unstable();
    assert_eq!(lines, ["err", "last", "out"]);
    assert!(of_job.iter().all(|event| event["run_id"] == job.as_str()), "{of_job:?}");
    assert!(of_job.iter().any(|event| event["stream"] == "stderr" && event["text"] == "err"));
    eventually("the console has arrived", || {
        texts(&logged("logged", &["--source", "console"])).iter().any(|text| text.contains("from the kernel"))
    });
    let supervisor = logged("logged", &["--source", "supervisor"]);
    let told = texts(&supervisor).join("\n");
    assert!(told.contains("creating → running") && told.contains(&format!("{job} ended: exit 0")), "{told}");
    let numbers: Vec<u64> = logged("logged", &[]).iter().map(|event| event["seq"].as_u64().unwrap()).collect();
    assert_eq!(numbers, (1..=numbers.len() as u64).collect::<Vec<_>>());
    assert_eq!(logged("logged", &["--tail", "2"]).len(), 2);
}

#[test]
fn it_outlives_the_machine_and_its_supervisor() {
    let sandbox = Sandbox::up("logged-on", &[]);
    let before = logged("logged-on", &[]).len();
    assert_eq!(mvmctl(&["stop", "logged-on"]).code, 0);
    let supervisor = sandbox.supervisor();
    kill(supervisor);
    eventually("it is dead", || !alive(supervisor));
    let after = logged("logged-on", &[]);
    assert!(after.len() > before);
    assert!(texts(&after).last().unwrap().contains("running → stopped"), "{after:?}");
}

#[test]
fn a_follower_sees_what_comes_and_ends_with_the_sandbox() {
    let sandbox = Sandbox::up("followed", &[]);
    let mut child = command(home())
        .args(["logs", "followed", "--follow", "--source", "job", "--json"])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let script = "for i in $(seq 1 200); do echo line $i; done";
    assert_eq!(mvmctl(&["exec", "followed", "--detach", "--", "sh", "-c", script]).code, 0);
    let mut seen = BufReader::new(child.stdout.take().unwrap()).lines();
    for number in 1..=200 {
        let event: Value = serde_json::from_str(&seen.next().unwrap().unwrap()).unwrap();
        assert_eq!(event["text"], format!("line {number}"));
    }
    drop(sandbox);
    assert!(child.wait().is_ok());
    assert!(seen.next().is_none());
}

#[test]
fn a_guest_that_floods_its_log_is_cut_and_counted() {
    let _sandbox = Sandbox::up("flooded", &[]);
    let job = mvmctl(&["exec", "flooded", "--detach", "--", "sh", "-c", "yes 0123456789 | head -n 400000"]);
    assert_eq!(mvmctl(&["wait", "flooded", job.stdout.trim()]).code, 0);
    let events = logged("flooded", &[]);
    let missing: u64 = events.iter().filter_map(|event| event["lines"].as_u64()).sum();
    let lines = events.iter().filter(|event| event["source"] == "job" && event["type"] == "line").count() as u64;
    assert!(missing > 0 && events.iter().any(|event| event["cause"] == "flood"));
    assert_eq!(lines + missing, 400_000, "the supervisor's own lines are not among those that are missing");
}

#[test]
fn nonsense_is_refused() {
    for options in [&["--since", "yesterday"][..], &["--until", "-1"], &["--tail", "x"], &["--source", "moon"]] {
        assert_eq!(mvmctl(&[&["logs", "any"], options].concat()).code, 125, "{options:?}");
    }
    let unknown = mvmctl(&["logs", "no-such-sandbox", "--json"]);
    assert!(unknown.stdout.contains("NotFound"), "{unknown:?}");
}
