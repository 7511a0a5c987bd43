//! Sandboxes that stay, as their users see them, in real machines.

mod common;

use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::process::{Child, Stdio};

use common::{Ran, Sandbox, alive, command, eventually, home, json, kill, machine_of, machines_of, mvmctl};
use serde_json::Value;

#[test]
fn it_stays_and_ends_for_good() {
    let sandbox = Sandbox::up("stays", &[]);
    assert_eq!(sandbox.sh("echo kept > /root/f; exit 7").code, 7);
    assert_eq!(sandbox.sh("cat /root/f").stdout, "kept\n");
    let pid = sandbox.supervisor();
    let place = std::path::PathBuf::from(sandbox.inspect()["socket"].as_str().unwrap()).parent().unwrap().to_owned();
    assert!(place.join("disk.qcow2").exists());
    let report = json(&["destroy", "stays", "--json"]);
    assert_eq!(report["destroyed"][0]["name"], "stays");
    assert!(report["destroyed"][0]["limits"].as_array().unwrap().len() > 1);
    eventually("its supervisor has ended", || !alive(pid));
    assert!(!place.exists());
    // The name is free, the record remains, and a second time does nothing.
    assert_eq!(json(&["inspect", "stays", "--json"])["state"], "destroyed");
    assert_eq!(mvmctl(&["destroy", "stays"]).code, 0);
    drop(Sandbox::up("stays", &[]));
}

#[test]
fn a_stopped_one_keeps_its_disk_and_refuses_the_rest() {
    let sandbox = Sandbox::up("stopped", &[]);
    sandbox.sh("echo kept > /root/f");
    for _ in 0..2 {
        assert_eq!(mvmctl(&["stop", "stopped"]).code, 0);
        assert_eq!(sandbox.state(), "stopped");
    }
    let refused = json(&["exec", "stopped", "--json", "--", "true"]);
    assert_eq!(refused["error"]["code"], "InvalidState");
    assert!(refused["error"]["hint"].as_str().unwrap().contains("start, destroy"), "{refused}");
    for _ in 0..2 {
        assert_eq!(mvmctl(&["start", "stopped"]).code, 0);
    }
    assert_eq!(sandbox.sh("cat /root/f").stdout, "kept\n");
    let causes: Vec<String> =
        sandbox.inspect()["history"].as_array().unwrap().iter().map(|change| change["to"].to_string()).collect();
    assert_eq!(causes, ["\"running\"", "\"stopped\"", "\"creating\"", "\"running\""]);
}

#[test]
fn one_whose_disk_is_gone_never_starts_on_an_empty_one() {
    let sandbox = Sandbox::up("diskless", &[]);
    assert_eq!(mvmctl(&["stop", "diskless"]).code, 0);
    let socket = sandbox.inspect()["socket"].as_str().unwrap().to_owned();
    std::fs::remove_file(std::path::Path::new(&socket).with_file_name("disk.qcow2")).unwrap();
    let ran = mvmctl(&["start", "diskless"]);
    assert_eq!(ran.code, 125);
    assert!(ran.stderr.contains("cannot open the disk"), "{ran:?}");
    assert_eq!(sandbox.state(), "failed");
}

#[test]
fn names_are_plain_and_taken_once() {
    let _sandbox = Sandbox::up("taken", &[]);
    let again = json(&["up", "--image", "base", "--name", "taken", "--json"]);
    assert_eq!(again["error"]["code"], "AlreadyExists");
    let long = "x".repeat(64);
    for bad in ["../x", "a/b", "A", "-a", "a-", "ä", "mvm-1", "a b", long.as_str()] {
        let refused = json(&["up", "--image", "base", "--json", &format!("--name={bad}")]);
        assert_eq!(refused["error"]["code"], "InvalidRequest", "{bad}");
    }
    for verb in ["stop", "start", "destroy", "kill", "inspect", "stats", "jobs", "keep", "detach"] {
        let refused = json(&[verb, "nosuch", "--json"]);
        assert_eq!(refused["error"]["code"], "NotFound", "{verb}");
    }
}

#[test]
fn a_supervisor_that_is_killed_takes_its_machine_along_and_the_disk_stays() {
    let sandbox = Sandbox::up("orphan", &[]);
    sandbox.sh("echo kept > /root/f; sync");
    let supervisor = sandbox.supervisor();
    let machine = machine_of(supervisor);
    kill(supervisor);
    eventually("its machine is gone", || !alive(machine));
    assert_eq!(sandbox.state(), "stopped");
    assert!(sandbox.inspect()["cause"].as_str().unwrap().contains("supervisor was lost"));
    mvmctl(&["start", "orphan"]);
    assert_eq!(sandbox.sh("cat /root/f").stdout, "kept\n");
}

#[test]
fn how_a_machine_ended_is_told_apart() {
    let sandbox = Sandbox::up("ends", &[]);
    sandbox.sh("echo o > /proc/sysrq-trigger; sleep 60");
    eventually("it is stopped", || sandbox.state() == "stopped");
    assert!(sandbox.inspect()["cause"].as_str().unwrap().contains("switched itself off"));
    mvmctl(&["start", "ends"]);
    sandbox.sh("echo c > /proc/sysrq-trigger; sleep 60");
    eventually("it is failed", || sandbox.state() == "failed");
    assert!(sandbox.inspect()["cause"].as_str().unwrap().contains("sysrq"), "{}", sandbox.inspect()["cause"]);
    mvmctl(&["start", "ends"]);
    kill(machine_of(sandbox.supervisor()));
    eventually("it is failed again", || sandbox.state() == "failed");
    assert!(sandbox.inspect()["cause"].as_str().unwrap().contains("killed by signal 9"));
}

#[test]
fn its_time_to_live_is_kept_in_every_state() {
    let running = Sandbox::up("short", &["--ttl", "3s"]);
    let stopped = Sandbox::up("short-stopped", &["--ttl", "4s"]);
    let kept = Sandbox::up("short-kept", &["--ttl", "4s", "--on-expiry", "stop"]);
    let (pid, other) = (running.supervisor(), stopped.supervisor());
    mvmctl(&["stop", "short-stopped"]);
    // Without a command that could set it right.
    eventually("their supervisors have ended", || !alive(pid) && !alive(other));
    assert_eq!(running.state(), "destroyed");
    assert!(stopped.inspect()["cause"].as_str().unwrap().contains("time to live"));
    eventually("it is stopped", || kept.state() == "stopped");
    assert_eq!(mvmctl(&["keep", "short-kept", "--ttl", "1h"]).code, 0);
    mvmctl(&["start", "short-kept"]);
    assert_eq!(kept.state(), "running");
}

#[test]
fn without_a_time_to_live_somebody_answers_for_it() {
    let refused = json(&["up", "--image", "base", "--name", "for-ever", "--ttl", "none", "--json"]);
    assert_eq!(refused["error"]["code"], "InvalidRequest");
    let sandbox = Sandbox::up("for-ever", &["--ttl", "none", "--owner", "me"]);
    let inspection = sandbox.inspect();
    assert_eq!((&inspection["cleanup"]["kind"], &inspection["owner"]), (&"explicit".into(), &"me".into()));
}

#[test]
fn a_request_from_standard_input_shows_its_values_to_nobody() {
    let request = r#"{"name": "secretive", "image": "base", "env": {"TOKEN": "hunter2"}, "idempotency_key": "k1"}"#;
    let up = |request: &str| -> Ran {
        let mut command = command(home());
        let child = command.args(["up", "--request", "-", "--json"]).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = child.stderr(Stdio::piped()).spawn().unwrap();
        child.stdin.take().unwrap().write_all(request.as_bytes()).unwrap();
        child.wait_with_output().unwrap().into()
    };
    let first: Value = serde_json::from_str(&up(request).stdout).unwrap();
    let sandbox = Sandbox("secretive".to_owned());
    assert_eq!(sandbox.sh("echo $TOKEN").stdout, "hunter2\n");
    let inspection = sandbox.inspect();
    assert!(!inspection.to_string().contains("hunter2"));
    assert_eq!(inspection["env"][0], "TOKEN");
    // The same request again finds the same sandbox; another one with its key is refused.
    let again: Value = serde_json::from_str(&up(request).stdout).unwrap();
    assert_eq!((&again["id"], &again["created"]), (&first["id"], &false.into()));
    assert!(up(&request.replace("hunter2", "hunter3")).stdout.contains("InvalidRequest"));
    let wrong = up(r#"{"name": "x", "env": "hunter2"}"#);
    assert!(wrong.code == 125 && !format!("{wrong:?}").contains("hunter2"), "{wrong:?}");
}

#[test]
fn jobs_survive_their_caller_and_are_read_by_offset() {
    let sandbox = Sandbox::up("jobs", &[]);
    let start = |key: &str| {
        let script = "echo one; sleep 1; echo two >&2; exit 5";
        mvmctl(&["exec", "jobs", "--detach", "--idempotency-key", key, "--", "sh", "-c", script])
            .stdout
            .trim()
            .to_owned()
    };
    let job = start("a");
    assert_eq!(start("a"), job, "started once");
    let followed = mvmctl(&["attach", "jobs", &job]);
    assert_eq!((followed.code, followed.stdout.as_str(), followed.stderr.as_str()), (5, "one\n", "two\n"));
    assert_eq!(mvmctl(&["attach", "jobs", &job, "--offset", "4"]).stdout, "");
    assert_eq!(mvmctl(&["wait", "jobs", &job]).code, 5);
    let long = mvmctl(&["exec", "jobs", "--detach", "--", "sh", "-c", "/bin/sleep 1000 & /bin/sleep 1000"])
        .stdout
        .trim()
        .to_owned();
    assert_eq!(mvmctl(&["wait", "jobs", &long, "--timeout", "200ms"]).code, 124);
    eventually("both run", || sandbox.sleepers() == "2");
    assert_eq!(mvmctl(&["kill", "jobs", &long]).code, 0);
    assert_eq!(mvmctl(&["wait", "jobs", &long]).code, 137);
    assert_eq!(sandbox.sleepers(), "0", "the whole tree is gone");
    let listed = json(&["jobs", "jobs", "--json"]);
    let ids: Vec<&str> = listed["jobs"].as_array().unwrap().iter().map(|job| job["run_id"].as_str().unwrap()).collect();
    assert!(ids.contains(&job.as_str()) && ids.contains(&long.as_str()));
}

#[test]
fn output_that_is_no_longer_kept_is_counted() {
    let _sandbox = Sandbox::up("gap", &[]);
    let script = "dd if=/dev/zero bs=1M count=3 2>/dev/null";
    let job = mvmctl(&["exec", "gap", "--detach", "--", "sh", "-c", script]).stdout.trim().to_owned();
    assert_eq!(mvmctl(&["wait", "gap", &job]).code, 0);
    let events = mvmctl(&["attach", "gap", &job, "--json"]).stdout;
    let gap: Value = serde_json::from_str(events.lines().next().unwrap()).unwrap();
    assert_eq!(gap["type"], "gap");
    let ended: Value = serde_json::from_str(events.lines().last().unwrap()).unwrap();
    assert_eq!(ended["result"]["stdout_bytes"], 3 << 20);
    // In the foreground nothing is dropped, however slow the reader.
    assert_eq!(mvmctl(&["exec", "gap", "--", "sh", "-c", script]).stdout.len(), 3 << 20);
}

#[test]
fn a_foreground_command_ends_with_its_caller() {
    let sandbox = Sandbox::up("caller", &[]);
    let mut caller = command(home())
        .args(["exec", "caller", "--", "sh", "-c", "/bin/sleep 1000 & echo on; /bin/sleep 1000"])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut line = String::new();
    BufReader::new(caller.stdout.as_mut().unwrap()).read_line(&mut line).unwrap();
    eventually("both run", || sandbox.sleepers() == "2");
    caller.kill().unwrap();
    caller.wait().unwrap();
    eventually("its tree is gone", || sandbox.sleepers() == "0");
}

#[test]
fn input_signals_and_terminals_reach_the_command() {
    let _sandbox = Sandbox::up("talks", &[]);
    let mut child = command(home())
        .args(["exec", "-i", "talks", "--", "tr", "a-z", "A-Z"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(&vec![b'a'; 3_000_000]).unwrap();
    let output = child.wait_with_output().unwrap();
    assert_eq!((output.stdout.len(), output.stdout[0]), (3_000_000, b'A'));
    assert_eq!(mvmctl(&["exec", "-t", "talks", "--", "tty"]).stdout.trim_end(), "/dev/pts/0");
    assert_eq!(mvmctl(&["exec", "--timeout", "1", "talks", "--", "sleep", "100"]).code, 124);
    assert_eq!(mvmctl(&["exec", "talks", "--", "nosuch"]).code, 127);
    assert_eq!(mvmctl(&["exec", "talks", "--", "/etc/passwd"]).code, 126);
}

/// A client that speaks plain HTTP over the socket.
fn claim(socket: &str) -> UnixStream {
    let mut stream = UnixStream::connect(socket).unwrap();
    stream.write_all(b"GET /v1/lease HTTP/1.1\r\nhost: sandbox\r\n\r\n").unwrap();
    let mut answer = Vec::new();
    while !answer.windows(16).any(|window| window == b"{\"claimed\":true}") {
        let mut byte = [0];
        assert_eq!(stream.read(&mut byte).unwrap(), 1, "{}", String::from_utf8_lossy(&answer));
        answer.push(byte[0]);
    }
    stream
}

#[test]
fn a_lease_ends_with_its_connection_or_unclaimed() {
    let leased = Sandbox::up("leased", &["--lease"]);
    let unclaimed = Sandbox::up("unclaimed", &["--lease"]);
    let (pid, other) = (leased.supervisor(), unclaimed.supervisor());
    let lease = claim(leased.inspect()["socket"].as_str().unwrap());
    eventually("nobody came", || !alive(other));
    assert_eq!(leased.state(), "running");
    drop(lease);
    eventually("the owner left", || !alive(pid));
    assert_eq!(leased.inspect()["cause"], "its owner closed the lease");
    assert!(unclaimed.inspect()["cause"].as_str().unwrap().contains("nobody claimed"));
}

#[test]
fn a_detached_one_goes_on_without_its_client_until_its_time_is_up() {
    let claimed = Sandbox::up("detached", &["--lease"]);
    let unclaimed = Sandbox::up("detached-unclaimed", &["--lease"]);
    // Longer than a lease waits for its client.
    let shown = json(&["detach", "detached-unclaimed", "--ttl", "8s", "--json"]);
    assert_eq!((&shown["cleanup"]["kind"], &shown["cleanup"]["ttl_ms"]), (&"ttl".into(), &8000.into()));
    let lease = claim(claimed.inspect()["socket"].as_str().unwrap());
    let (pid, other) = (claimed.supervisor(), unclaimed.supervisor());
    let refused = json(&["keep", "detached", "--json"]);
    assert_eq!(refused["error"]["code"], "InvalidState");
    assert!(refused["error"]["hint"].as_str().unwrap().contains("mvmctl detach detached"), "{refused}");
    assert_eq!(json(&["detach", "detached", "--ttl", "4s", "--owner", "ada", "--json"])["owner"], "ada");
    drop(lease);
    eventually("their time was up", || !alive(pid) && !alive(other));
    for sandbox in [claimed, unclaimed] {
        assert!(sandbox.inspect()["cause"].as_str().unwrap().contains("time to live"), "{}", sandbox.inspect());
    }
}

#[test]
fn what_a_detached_one_ends_by_survives_its_supervisor() {
    let sandbox = Sandbox::up("detached-kept", &["--lease", "--idempotency-key", "detached-kept"]);
    let refused = json(&["detach", "detached-kept", "--ttl", "none", "--json"]);
    assert_eq!(refused["error"]["code"], "InvalidRequest");
    assert_eq!(refused["error"]["what"], "cannot detach the sandbox detached-kept");
    let shown = mvmctl(&["detach", "detached-kept", "--ttl", "none", "--owner", "ada"]);
    assert_eq!(shown.stdout, "detached-kept is running; ends: when asked\n", "{shown:?}");
    // A repeated request still finds it.
    let again = json(&[
        "up",
        "--image",
        "base",
        "--name",
        "detached-kept",
        "--lease",
        "--idempotency-key",
        "detached-kept",
        "--json",
    ]);
    assert_eq!((&again["created"], &again["cleanup"]["kind"]), (&false.into(), &"explicit".into()), "{again}");
    kill(sandbox.supervisor());
    eventually("it is stopped", || sandbox.state() == "stopped");
    let now = json(&["detach", "detached-kept", "--on-expiry", "stop", "--json"]);
    assert_eq!((&now["state"], &now["owner"]), (&"stopped".into(), &"ada".into()), "{now}");
    assert_eq!((&now["cleanup"]["ttl_ms"], &now["cleanup"]["on_expiry"]), (&3_600_000.into(), &"stop".into()));
    mvmctl(&["destroy", "detached-kept"]);
    assert_eq!(json(&["detach", "detached-kept", "--json"])["error"]["code"], "NotFound");
}

#[test]
fn an_attached_one_that_is_detached_outlives_its_client() {
    let client = attached("scoped-detached", "until [ -p /root/go ]; do sleep 0.1; done; read line < /root/go");
    let sandbox = Sandbox("scoped-detached".to_owned());
    eventually("its command runs", || sandbox.sh("mkfifo /root/go").code == 0);
    assert_eq!(mvmctl(&["detach", "scoped-detached"]).code, 0);
    sandbox.sh("echo on > /root/go");
    assert_eq!(client.wait_with_output().unwrap().status.code(), Some(0));
    assert_eq!((sandbox.state().as_str(), sandbox.sh("exit 3").code), ("running", 3));
}

fn attached(name: &str, script: &str) -> Child {
    let mut command = command(home());
    command.args(["up", "--image", "base", "--name", name, "--attach", "--", "sh", "-c", script]);
    command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
}

#[test]
fn an_attached_one_is_gone_when_its_command_or_its_client_is() {
    let output = attached("scoped", "echo out; exit 3").wait_with_output().unwrap();
    assert_eq!((output.status.code(), output.stdout.as_slice()), (Some(3), b"out\n".as_slice()));
    assert_eq!(json(&["inspect", "scoped", "--json"])["state"], "destroyed");
    let mut client = attached("scoped-killed", "echo on; sleep 1000");
    let mut line = String::new();
    BufReader::new(client.stdout.as_mut().unwrap()).read_line(&mut line).unwrap();
    let sandbox = Sandbox("scoped-killed".to_owned());
    let supervisor = sandbox.supervisor();
    assert!(machines_of(&client).is_empty(), "the machine is the supervisor's");
    client.kill().unwrap();
    client.wait().unwrap();
    eventually("the sandbox is gone", || !alive(supervisor));
    assert_eq!(sandbox.state(), "destroyed");
}

#[test]
fn a_supervisor_that_hangs_is_an_error_and_can_be_killed() {
    let sandbox = Sandbox::up("hangs", &[]);
    let pid = sandbox.supervisor();
    assert!(std::process::Command::new("kill").args(["-STOP", &pid.to_string()]).status().unwrap().success());
    let refused = json(&["exec", "hangs", "--json", "--", "true"]);
    assert_eq!(refused["error"]["code"], "TransportError");
    assert_eq!(mvmctl(&["kill", "hangs"]).code, 0);
    eventually("it is gone", || !alive(pid));
    assert_eq!(sandbox.state(), "destroyed");
}

#[test]
fn two_who_end_it_at_once_both_succeed() {
    let _sandbox = Sandbox::up("contested", &[]);
    let end = |verb: &'static str| command(home()).args([verb, "contested"]).stdout(Stdio::null()).spawn().unwrap();
    let mut both = [end("destroy"), end("destroy"), end("kill")];
    assert!(both.iter_mut().all(|child| child.wait().unwrap().success()));
}
