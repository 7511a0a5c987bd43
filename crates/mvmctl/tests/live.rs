//! Scripts of this host, as `mvmctl run --mode live` runs them, and the profile that their environment demands.

mod common;

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use common::{Ran, Sandbox, alive, command, eventually, home, json, mvmctl};
use serde_json::Value;

/// A directory with scripts, and with programs that stand in for interpreters.
struct Scripts(tempfile::TempDir);

impl Scripts {
    fn new(files: &[(&str, &str)]) -> Scripts {
        let scripts = Scripts(tempfile::tempdir().unwrap());
        for (name, text) in files {
            let path = scripts.path(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(&path, text).unwrap();
            fs::set_permissions(&path, PermissionsExt::from_mode(0o755)).unwrap();
        }
        scripts
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    /// `mvmctl run --mode live ARGS`, in the directory.
    fn live(&self, args: &[&str]) -> Command {
        let mut command = command(home());
        command.args(["run", "--mode", "live"]).args(args).current_dir(self.0.path());
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    }

    fn ran(&self, args: &[&str]) -> Ran {
        self.live(args).output().unwrap().into()
    }
}

fn end(child: Child) -> Ran {
    child.wait_with_output().unwrap().into()
}

/// The first line of its output.
fn first_line(child: &mut Child) -> String {
    let mut line = String::new();
    // A byte at a time: the rest is for whoever waits for its end.
    BufReader::with_capacity(1, child.stdout.as_mut().unwrap()).read_line(&mut line).unwrap();
    line.trim_end().to_owned()
}

fn send(signal: &str, pid: u32) {
    assert!(Command::new("kill").args([signal, &pid.to_string()]).status().unwrap().success());
}

#[test]
fn a_script_has_our_streams_arguments_and_environment() {
    let scripts = Scripts::new(&[(
        "x.py",
        "import os, sys\nprint(sys.argv[1:], sys.stdin.read(), os.environ.get('MINE'), os.environ['MVM_SDK_MODE'])\n\
         print(os.environ['MVM_CLI_BIN'], os.environ.get('MVM_PROFILE'), 'MVM_SDK_RUNS' in os.environ)\nsys.exit(7)\n",
    )]);
    let mut child =
        scripts.live(&["x.py", "--json", "-q", "--", "a b"]).env("MINE", "mine").stdin(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(b"said").unwrap();
    let ran = end(child);
    let program = fs::canonicalize(env!("CARGO_BIN_EXE_mvmctl")).unwrap();
    let expected = format!("['--json', '-q', '--', 'a b'] said mine live\n{} None False\n", program.display());
    assert_eq!((ran.stdout, ran.code), (expected, 7));
    assert_eq!(ran.stderr, "mvmctl: x.py runs on this host and is not sandboxed; the sandboxes that it makes are\n");
    let ran = scripts.ran(&["--quiet", "--profile", "dev", "x.py"]);
    assert!(ran.stderr.is_empty() && ran.stdout.contains(" dev False"), "{ran:?}");
}

#[test]
fn signals_reach_the_script_and_its_end_is_ours() {
    let scripts = Scripts::new(&[
        ("dies.py", "import os, signal\nos.kill(os.getpid(), signal.SIGKILL)\n"),
        (
            "ends.py",
            "import signal, sys, time\n\
             def stop(number, frame):\n  print('got', number, flush=True)\n  sys.exit(5)\n\
             for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP): signal.signal(number, stop)\n\
             print('on', flush=True)\ntime.sleep(1000)\n",
        ),
        ("stays.py", "import os, time\nprint(os.getpid(), flush=True)\ntime.sleep(1000)\n"),
    ]);
    assert_eq!(scripts.ran(&["dies.py"]).code, 128 + 9);
    for (signal, number) in [("-TERM", 15), ("-INT", 2), ("-HUP", 1)] {
        let mut child = scripts.live(&["ends.py"]).spawn().unwrap();
        assert_eq!(first_line(&mut child), "on");
        send(signal, child.id());
        let ran = end(child);
        assert_eq!((ran.stdout, ran.code), (format!("got {number}\n"), 5));
    }
    let mut child = scripts.live(&["stays.py"]).spawn().unwrap();
    let script = first_line(&mut child).parse().unwrap();
    send("-TERM", child.id());
    assert_eq!(end(child).code, 128 + 15);
    assert!(!alive(script));
    // A kill takes it along.
    let mut child = scripts.live(&["stays.py"]).spawn().unwrap();
    let script = first_line(&mut child).parse().unwrap();
    child.kill().unwrap();
    end(child);
    eventually("the script is gone", || !alive(script));
}

/// Runs commands as an SDK does, and notes them as one does.
const SDK: &str = "import json, os, subprocess\n\
    def mvmctl(*args):\n\
    \x20 return json.loads(subprocess.run([os.environ['MVM_CLI_BIN'], *args], stdout=subprocess.PIPE).stdout)\n\
    def note(line):\n\
    \x20 with open(os.environ['MVM_SDK_RUNS'], 'a') as runs: runs.write(line)\n\
    def run(*argv):\n\
    \x20 done = mvmctl('run', '--image', 'base', '--json', '--', *argv)\n\
    \x20 note(f\"{done['sandbox_id']} {done['run_id']}\\n\")\n\
    \x20 return done\n";

#[test]
fn there_is_a_receipt_of_each_command_that_was_noted() {
    let receipts = "run('true'); a = run('sh', '-c', 'exit 3')\nnote('nonsense\\n../../x run-1\\n\\n')\n\
        note(f\"{a['sandbox_id']} {a['run_id']}\\n\")\n\
        box = mvmctl('up', '--image', 'base', '--json', '--ttl', '5m', '--', 'sleep', '1000')\n\
        note(f\"{box['id']} {box['job']['run_id']}\\n\")\nprint(a['run_id'], box['name'])\n";
    let blocked = "a = run('true')\nos.mkdir(f\"out/{a['run_id']}.json\")\nimport sys; sys.exit(int(sys.argv[1]))\n";
    let scripts = Scripts::new(&[("x.py", &format!("{SDK}{receipts}")), ("blocked.py", &format!("{SDK}{blocked}"))]);
    let ran = scripts.ran(&["--profile", "restrictive", "--receipt", "out/new", "x.py"]);
    let (run, name) = ran.stdout.trim_end().split_once(' ').unwrap_or_else(|| panic!("{ran:?}"));
    let sandbox = Sandbox(name.to_owned());
    assert_eq!(ran.code, 0, "{ran:?}");
    assert!(ran.stderr.contains("mvmctl: 2 receipts in out/new\n"), "{ran:?}");
    let unfinished = json(&["jobs", name, "--json"])["jobs"][0]["run_id"].as_str().unwrap().to_owned();
    assert!(
        ran.stderr.contains(&format!("no receipt of {unfinished}")) && ran.stderr.contains("has not ended"),
        "{ran:?}"
    );
    drop(sandbox);
    let dir = scripts.path("out/new");
    assert_eq!(fs::metadata(&dir).unwrap().permissions().mode() & 0o777, 0o700);
    assert_eq!(fs::read_dir(&dir).unwrap().count(), 4, "two receipts and two proofs");
    let file = dir.join(format!("{run}.json"));
    assert!(dir.join(format!("{run}.json.tlog-proof")).exists());
    let verified = json(&["receipt", "verify", "--json", file.to_str().unwrap()]);
    assert_eq!(
        (&verified["verified"], &verified["statement"]["run"]["run_id"]),
        (&true.into(), &run.into()),
        "{verified}"
    );
    assert_eq!(verified["statement"]["policy"]["profile"], "restrictive", "{verified}");
    // One that cannot be written is a failure, unless the script has one to tell.
    for (asked, code) in [("0", 125), ("3", 3)] {
        let ran = scripts.ran(&["--quiet", "--receipt", "out", "blocked.py", asked]);
        assert_eq!(ran.code, code, "{ran:?}");
        assert!(ran.stderr.contains("it is a directory") && !ran.stderr.contains("receipts in"), "{ran:?}");
    }
    // What nobody noted is no failure.
    let quiet = Scripts::new(&[("y.py", "pass\n")]);
    assert!(quiet.ran(&["--receipt", ".", "y.py"]).stderr.contains("mvmctl: 0 receipts in .\n"));
}

#[test]
fn what_cannot_be_run_is_refused_before_the_script_starts() {
    let scripts = Scripts::new(&[("x.py", "print('started')\n"), ("x.sh", "echo started\n"), ("dir.py/x", "")]);
    let file = scripts.path("x.sh").display().to_string();
    for (args, code, why) in [
        (&["nosuch.py"][..], 125, "No such file"),
        (&["dir.py"], 125, "it is no file"),
        (&["x.sh"], 125, ".py, .ts, .mts, .js or .mjs"),
        (&["--profile", "nosuch", "x.py"], 125, "there is none of this name"),
        (&["--profile", "permissive", "x.py"], 126, "[profile.acknowledged]"),
        (&["--receipt", &file, "x.py"], 125, "cannot write"),
        (&["--image", "base", "x.py"], 125, "cannot be used with"),
        (&["--request", "-", "x.py"], 125, "cannot be used with"),
        (&["--json", "x.py"], 125, "--json is for --mode plan"),
        (&[], 125, "required"),
    ] {
        let ran = scripts.ran(args);
        assert_eq!(ran.code, code, "{args:?}: {ran:?}");
        let said = format!("{}{}", ran.stdout, ran.stderr);
        assert!(said.contains(why) && !said.contains("started"), "{args:?}: {ran:?}");
    }
    let ran: Ran =
        scripts.live(&["--profile", "dev", "x.py"]).env("MVM_PROFILE", "restrictive").output().unwrap().into();
    assert!(ran.code == 126 && ran.stderr.contains("[profile.bound]"), "{ran:?}");
    // Which of the two was meant nobody knows.
    let ran = mvmctl(&["run", "./x.py", "--fast"]);
    assert!(ran.code == 125 && ran.stderr.contains("mvmctl run --mode live ./x.py on this host"), "{ran:?}");
    assert!(ran.stderr.contains("mvmctl run -- python3 ./x.py in a microVM"), "{ran:?}");
    let ran = json(&["run", "--json", "ls", "-l"]);
    assert_eq!(ran["error"]["hint"], "mvmctl run -- ls", "{ran}");
}

/// What `mvmctl run --mode live SCRIPT` starts if PATH leads to `bin` alone: the stand-ins say who they are.
fn started(scripts: &Scripts, script: &str) -> Result<String, String> {
    let ran: Ran = scripts.live(&["--quiet", script]).env("PATH", scripts.path("bin")).output().unwrap().into();
    if ran.code == 0 { Ok(ran.stdout.trim_end().to_owned()) } else { Err(ran.stderr) }
}

#[test]
fn javascript_is_run_by_what_knows_it() {
    const PLAIN: &str = "let x = 1;\n";
    const USING: &str = "await using box = x();\n";
    let node = |version: &str| format!("#!/bin/sh\n[ \"$1\" = --version ] && echo v{version}.0 || echo node \"$@\"\n");
    let (old, strips, new) = (node("20.20"), node("22.18"), node("24.0"));
    let other = |name: &str| format!("#!/bin/sh\necho {name} \"$@\"\n");
    let (tsx, deno) = (other("tsx"), other("deno"));
    let sources = [("a.ts", PLAIN), ("u.mts", USING), ("a.js", PLAIN), ("u.mjs", USING)];
    let with = |programs: &[(&str, &str)]| {
        let scripts = Scripts::new(&[&sources[..], programs].concat());
        sources.map(|(name, _)| started(&scripts, name).unwrap_or_else(|e| format!("none: {e}")))
    };
    let node_only = with(&[("bin/node", &old)]);
    assert_eq!(node_only[2], "node a.js");
    for (said, install) in [(&node_only[0], "Node 22.18"), (&node_only[1], "Node 24"), (&node_only[3], "Node 24")] {
        assert!(said.starts_with("none: ") && said.contains(install) && said.contains("node 20.20"), "{said}");
    }
    let stripping = with(&[("bin/node", &strips)]);
    assert_eq!([&stripping[0], &stripping[2]], ["node a.ts", "node a.js"]);
    assert!(stripping[1].contains("Node 24") && stripping[3].contains("Node 24"), "{stripping:?}");
    assert_eq!(with(&[("bin/node", &new)]), ["node a.ts", "node u.mts", "node a.js", "node u.mjs"]);
    assert_eq!(with(&[("bin/node", &old), ("bin/tsx", &tsx)]), ["tsx a.ts", "tsx u.mts", "node a.js", "tsx u.mjs"]);
    let both = with(&[("bin/deno", &deno)]);
    assert_eq!([&both[0], &both[2]], ["deno run --allow-all a.ts", "deno run --allow-all a.js"]);
    assert!(both[1].contains("there is no node"), "{both:?}");
    // The project's own comes first, wherever in it the script is.
    let own = other("own");
    let scripts = Scripts::new(&[("p/node_modules/.bin/tsx", &own), ("p/src/deep/a.ts", PLAIN), ("bin/tsx", &tsx)]);
    assert_eq!(started(&scripts, "p/src/deep/a.ts").unwrap(), "own p/src/deep/a.ts");
    // So does a virtual environment's.
    let scripts = Scripts::new(&[("venv/bin/python3", &own), ("x.py", "")]);
    let ran: Ran = scripts.live(&["x.py"]).env("VIRTUAL_ENV", scripts.path("venv")).output().unwrap().into();
    assert_eq!(ran.stdout, "own x.py\n");
}

/// Under `MVM_PROFILE=restrictive`.
fn bound(args: &[&str], input: &str) -> Value {
    let mut command = command(home());
    command.env("MVM_PROFILE", "restrictive").args(args).stdin(Stdio::piped());
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let _ = child.stdin.take().unwrap().write_all(input.as_bytes());
    let ran = end(child);
    serde_json::from_str(&ran.stdout).unwrap_or_else(|e| panic!("{e}: {args:?}: {ran:?}"))
}

#[test]
fn where_a_profile_is_demanded_no_other_is_used() {
    let plan = bound(&["run", "--dry-run", "--json", "--", "true"], "");
    assert_eq!((&plan["profile"], &plan["allowed"]), (&"restrictive".into(), &true.into()));
    assert_eq!(plan["lines"][0]["rule"], "profile.bound");
    assert_eq!(bound(&["run", "--image", "base", "--json", "--", "id", "-u"], "")["stdout"], "65534\n");
    assert_eq!(bound(&["run", "--dry-run", "--profile", "restrictive", "--json", "--", "true"], "")["allowed"], true);
    let requests = [r#"{"argv": ["true"], "profile": "dev"}"#, r#"{"profile": "dev"}"#];
    let snapshot = Sandbox::up("unbound", &[]);
    json(&["snapshot", "save", "unbound", "--name", "unbound-snap", "--json"]);
    for (args, input) in [
        (&["run", "--profile", "standard", "--json", "--", "true"][..], ""),
        (&["run", "--request", "-", "--json"], requests[0]),
        (&["up", "--image", "base", "--profile", "dev", "--json"], ""),
        (&["up", "--request", "-", "--json"], requests[1]),
        (&["restore", "unbound-snap", "--json"], ""),
    ] {
        let refused = &bound(args, input)["error"];
        assert_eq!(refused["code"], "PolicyDenied", "{args:?}: {refused}");
        assert_eq!(refused["denials"][0]["rule"], "profile.bound", "{refused}");
    }
    let disk = bound(&["restore", "unbound-snap", "--disk-only", "--name", "bound-disk", "--json"], "");
    let restored = Sandbox(disk["name"].as_str().unwrap_or_else(|| panic!("{disk}")).to_owned());
    assert_eq!(restored.inspect()["plan"]["profile"], "restrictive");
    json(&["snapshot", "rm", "unbound-snap", "--json"]);
    drop(snapshot);
    let made = bound(&["up", "--request", "-", "--json"], r#"{"image": "base", "name": "bound-up"}"#);
    let made = Sandbox(made["name"].as_str().unwrap_or_else(|| panic!("{made}")).to_owned());
    assert_eq!(made.inspect()["plan"]["profile"], "restrictive");
}
