//! Workloads that are brought up in real machines: their image is built, their steps are done, their entrypoint runs.

mod common;

use std::collections::BTreeMap;
use std::fs;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::PathBuf;
use std::process::Stdio;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use common::{Ran, Sandbox, command, eventually, home, mvmctl};
use mvm_evidence::Digest;
use serde_json::{Value, json as object};

/// A workload on the image `base`, called as nothing else is. What is made of it does not outlive its test.
struct Workload {
    dir: tempfile::TempDir,
    name: String,
}

impl Workload {
    /// One that a file declares with these arguments and this source.
    fn declared(arguments: &str, files: &[(&str, &str)]) -> Workload {
        let workload = Workload::new();
        let text = format!(
            "import mvm\n@mvm.app(name='{}', image=mvm.image('base'), {arguments})\ndef run(): ...\n",
            workload.name
        );
        fs::write(workload.path(), text).unwrap();
        for (name, text) in files {
            let file = workload.dir.path().join(name);
            fs::create_dir_all(file.parent().unwrap()).unwrap();
            fs::write(file, text).unwrap();
        }
        workload
    }

    /// One that was recorded: its calls after `create`, with these arguments of that, and the texts that they name.
    fn recorded(create: Value, calls: &[Value], contents: &[&str]) -> Workload {
        let workload = Workload::new();
        let mut create = create;
        create["name"] = object!(workload.name);
        create["image"] = object!("base");
        let calls = std::iter::once(object!({"create": create})).chain(calls.iter().cloned());
        let contents: BTreeMap<String, String> =
            contents.iter().map(|text| (digest(text), STANDARD.encode(text))).collect();
        let recording = object!({
            "schema": "mvm.recording/v1", "contents": contents,
            "calls": calls.map(|call| object!({"call": call})).collect::<Vec<_>>(),
        });
        let file = workload.dir.path().join("calls.json");
        fs::write(&file, recording.to_string()).unwrap();
        let ran = workload.ran(&["compile", "--from-recording", "calls.json", "--out", "bundle"]);
        assert_eq!(ran.code, 0, "{ran:?}");
        workload
    }

    fn new() -> Workload {
        let dir = tempfile::tempdir().unwrap();
        let unique = dir.path().file_name().unwrap().to_str().unwrap().trim_start_matches(".tmp").to_lowercase();
        Workload { name: format!("up-{unique}"), dir }
    }

    /// The file that declares it.
    fn path(&self) -> PathBuf {
        self.dir.path().join("app.py")
    }

    /// What `up` takes.
    fn input(&self) -> &str {
        if self.path().exists() { "app.py" } else { "bundle" }
    }

    fn ran(&self, args: &[&str]) -> Ran {
        command(home()).args(args).current_dir(self.dir.path()).env("SECRET", "hush-hush").output().unwrap().into()
    }

    fn up(&self, options: &[&str]) -> Ran {
        self.ran(&[&["up", self.input()], options].concat())
    }

    /// Brings it up.
    fn sandbox(&self) -> Sandbox {
        let ran = self.up(&["--quiet"]);
        assert_eq!((ran.code, ran.stdout), (0, format!("{}\n", self.name)), "{}", ran.stderr);
        Sandbox(self.name.clone())
    }

    fn exists(&self) -> bool {
        mvmctl(&["ps"]).stdout.lines().any(|line| line.starts_with(&format!("{} ", self.name)))
    }
}

impl Drop for Workload {
    fn drop(&mut self) {
        mvmctl(&["kill", &self.name]);
        mvmctl(&["image", "rm", &self.name]);
    }
}

fn digest(text: &str) -> String {
    Digest::of(text.as_bytes()).to_string()
}

/// The answer of a web server on the port of the host that leads into a sandbox.
fn got(sandbox: &Sandbox, path: &str) -> Option<String> {
    let listed: Value = serde_json::from_str(&mvmctl(&["port", "ls", &sandbox.0, "--json"]).stdout).ok()?;
    let port = listed["ports"][0]["host_port"].as_u64()?;
    let mut stream = TcpStream::connect(("127.0.0.1", port as u16)).ok()?;
    stream.write_all(format!("GET {path} HTTP/1.0\r\n\r\n").as_bytes()).ok()?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).ok()?;
    answer.split_once("\r\n\r\n").map(|(_, body)| body.to_owned()).filter(|_| answer.contains(" 200 "))
}

const SERVICE: &str = "source=mvm.local_path('src'), network=mvm.network(ports=[mvm.port(guest=8000, host=0)]), \
     env={'GREETING': mvm.literal('hello'), 'TOKEN': mvm.secret('env:SECRET')}, ttl=600, on_expiry='stop', \
     entrypoint=mvm.entrypoint_command(['sh', '-c', 'echo $GREETING $TOKEN; exec httpd -f -p 8000 -h /app'])";

#[test]
fn a_service_is_built_brought_up_read_stopped_and_started_again() {
    let workload = Workload::declared(SERVICE, &[("src/page", "a page")]);
    // It is built of a bundle and brought up by the name of its image, without what it was compiled from.
    for args in [&["compile", "app.py", "--out", "web.tar.zst"][..], &["build", "web.tar.zst", "--quiet"]] {
        assert_eq!(workload.ran(args).code, 0);
    }
    let up = workload.ran(&["up", &workload.name, "--json"]);
    let up: Value = serde_json::from_str(&up.stdout).unwrap_or_else(|e| panic!("{e}: {up:?}"));
    assert_eq!((&up["state"], &up["image"]), (&object!("running"), &object!(workload.name)));
    assert_eq!((&up["cleanup"]["kind"], &up["cleanup"]["on_expiry"]), (&object!("ttl"), &object!("stop")));
    assert_eq!((&up["job"]["program"], &up["ports"][0]["guest_port"]), (&object!("sh"), &object!(8000)));
    let sandbox = Sandbox(workload.name.clone());
    eventually("it serves", || got(&sandbox, "/page").as_deref() == Some("a page"));
    let logs = || mvmctl(&["logs", &sandbox.0, "--source", "job"]).stdout;
    eventually("its output is in its log", || logs().contains("hello "));
    assert!(!logs().contains("hush-hush"), "{}", logs());
    assert_eq!(mvmctl(&["down", &sandbox.0]).code, 0);
    assert_eq!(sandbox.state(), "stopped");
    assert_eq!(mvmctl(&["start", &sandbox.0]).code, 0);
    eventually("it serves again", || got(&sandbox, "/page").as_deref() == Some("a page"));
}

#[test]
fn recorded_steps_are_done_in_order_and_once() {
    let file = |content: &str, mode: u32| object!({"file": {"content": digest(content), "mode": mode}});
    let port = object!({"guest_port": 8000, "host_port": 0, "host": "127.0.0.1", "protocol": "tcp"});
    let workload = Workload::recorded(
        object!({"env": {"WHO": "all"}}),
        &[
            object!({"files.mkdir": {"path": "/w/x", "parents": true, "mode": 0o700}}),
            object!({"files.write": {"path": "/w/a", "content": digest("one\n"), "mode": 0o640, "owner": "1000:1000"}}),
            object!({"files.write": {"path": "/w/a", "content": digest("two\n"), "append": true}}),
            object!({"files.move": {"source": "/w/a", "destination": "/w/b"}}),
            object!({"commands.run": {"argv": ["sh", "-c", "cat - /w/b >> /w/c; echo $WHO $MINE $T >> /w/c"], "check": true,
                "stdin": digest("in\n"), "env": {"MINE": "mine"}, "secrets": {"T": "env:SECRET"}, "cwd": "/w"}}),
            // That it fails is nothing to this one.
            object!({"commands.run": {"argv": ["false"]}}),
            object!({"commands.run": {"argv": ["/no/such/program"]}}),
            object!({"files.upload": {"guest_path": "/srv/tree", "entries": [
                {"path": "", "what": {"directory": {"mode": 0o555}}}, {"path": "d", "what": {"directory": {"mode": 0o755}}},
                {"path": "d/f", "what": file("two\n", 0o755)}, {"path": "l", "what": {"link": "d/f"}}]}}),
            object!({"files.remove": {"path": "/w/x", "recursive": true}}),
            object!({"ports.forward": port}),
            object!({"commands.start": {"argv": ["httpd", "-f", "-p", "8000", "-h", "/srv/tree"]}}),
        ],
        &["one\n", "two\n", "in\n"],
    );
    let sandbox = workload.sandbox();
    let look = "cat /w/c; ls /w; stat -c '%a %u:%g' /w/b; stat -c %a /srv/tree /srv/tree/d/f; readlink /srv/tree/l";
    let said = "in\none\ntwo\nall mine [redacted:T]\nb\nc\n640 1000:1000\n555\n755\nd/f\n";
    let ran = sandbox.sh(look);
    assert_eq!(ran.stdout, said, "{}", ran.stderr);
    eventually("what was started serves", || got(&sandbox, "/d/f").as_deref() == Some("two\n"));
    for verb in ["stop", "start"] {
        assert_eq!(mvmctl(&[verb, &sandbox.0]).code, 0);
    }
    assert_eq!(sandbox.sh(look).stdout, said, "nothing is done again");
}

#[test]
fn a_step_that_fails_is_named_and_nothing_stays() {
    let mkdir = || object!({"files.mkdir": {"path": "/made"}});
    for (call, code, why) in [
        (object!({"commands.run": {"argv": ["sh", "-c", "exit 3"], "check": true}}), 125, "it ended with exit code 3"),
        (object!({"commands.run": {"argv": ["sleep", "1000"], "timeout_ms": 200}}), 124, "its time was up"),
        (object!({"commands.run": {"argv": ["/none"], "check": true}}), 125, "it was not started"),
        (object!({"files.mkdir": {"path": "/made"}}), 125, "File exists"),
        (object!({"files.remove": {"path": "/none"}}), 125, "No such file"),
    ] {
        let workload = Workload::recorded(object!({}), &[mkdir(), call.clone(), mkdir()], &[]);
        let ran = workload.up(&[]);
        let step = call.as_object().unwrap().keys().next().unwrap();
        assert_eq!(ran.code, code, "{call}: {}", ran.stderr);
        assert!(ran.stderr.contains(&format!("cannot bring up {}: step 2, {step}: ", workload.name)), "{}", ran.stderr);
        assert!(ran.stderr.contains(why), "{why}: {}", ran.stderr);
        assert!(!workload.exists(), "{call}");
    }
}

#[test]
fn one_that_is_half_made_goes_with_whoever_makes_it() {
    let workload = Workload::recorded(object!({}), &[object!({"commands.run": {"argv": ["sleep", "1000"]}})], &[]);
    let mut child = command(home())
        .args(["up", "bundle"])
        .current_dir(workload.dir.path())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    eventually("its step runs", || mvmctl(&["jobs", &workload.name]).stdout.contains("sleep"));
    common::kill(child.id());
    child.wait().unwrap();
    eventually("it is gone", || !workload.exists());
}

#[test]
fn what_is_refused_is_refused_before_anything_is_made() {
    let late = object!({"commands.run": {"argv": ["true"], "user": "0"}});
    let workload = Workload::recorded(object!({"profile": "restrictive"}), &[late], &[]);
    let ran = workload.up(&["--json"]);
    let said: Value = serde_json::from_str(&ran.stdout).unwrap_or_else(|e| panic!("{e}: {ran:?}"));
    assert_eq!((ran.code, &said["error"]["denials"][0]["rule"]), (126, &object!("user.unprivileged")));
    let planned = workload.up(&["--dry-run"]);
    assert!(planned.code == 126 && planned.stdout.ends_with("refused\n"), "{planned:?}");
    assert!(!mvmctl(&["image", "ls"]).stdout.contains(&workload.name));
    // An image that was built of no workload is none.
    let ran = mvmctl(&["up", "base"]);
    assert!(ran.code == 125 && ran.stderr.contains("it was not built of a workload"), "{ran:?}");
    let ran = mvmctl(&["up", "nobodys"]);
    assert!(ran.code == 125 && ran.stderr.contains("there is no image nobodys"), "{ran:?}");
    let ran = workload.up(&["--cpus", "2"]);
    assert!(ran.code == 125 && ran.stderr.contains("--cpus"), "{ran:?}");
}

#[test]
fn what_is_said_of_the_launch_is_decided_with_the_rest() {
    let permissive = Workload::recorded(object!({"profile": "permissive"}), &[], &[]);
    for (options, code) in [(&["--dry-run"][..], 126), (&["--dry-run", "--accept-risk"], 0)] {
        assert_eq!(permissive.up(options).code, code, "{options:?}");
    }
    let restrictive = Workload::recorded(object!({"profile": "restrictive"}), &[], &[]);
    for (ttl, code) in [("30m", 0), ("30d", 126)] {
        assert_eq!(restrictive.up(&["--dry-run", "--ttl", ttl]).code, code, "{ttl}");
    }
    let ran = restrictive.up(&["--ttl", "30d"]);
    assert!(ran.code == 126 && ran.stderr.contains("limits.ttl"), "{ran:?}");
    assert!(!mvmctl(&["image", "ls"]).stdout.contains(&restrictive.name));
}
