//! `mvmctl run` as its users see it, in real machines.

mod common;

use std::io::{Read, Write};
use std::os::unix::process::ExitStatusExt;
use std::process::Stdio;

use common::{Ran, alive, command, eventually, home, machines_of, run, run_command, sh};
use serde_json::Value;

fn json(options: &[&str], argv: &[&str]) -> Value {
    let ran = run(&[&["--json"], options].concat(), argv);
    serde_json::from_str(&ran.stdout).unwrap_or_else(|e| panic!("{e}: {ran:?}"))
}

#[test]
fn the_exit_code_is_the_commands() {
    for code in [0, 1, 7, 124, 255] {
        assert_eq!(sh(&[], &format!("exit {code}")).code, code);
    }
    assert_eq!(sh(&[], "kill -SEGV $$").code, 128 + 11);
    assert_eq!(sh(&[], "kill -KILL $$").code, 128 + 9);
}

#[test]
fn output_comes_apart_and_complete() {
    let ran = sh(&[], "echo out; echo err >&2; dd if=/dev/zero bs=1000 count=3000 2>/dev/null | tr '\\0' x");
    assert_eq!(ran.stderr, "err\n");
    assert_eq!(ran.stdout.len(), 4 + 3_000_000);
}

#[test]
fn it_is_a_machine_of_its_own() {
    let ran = sh(&[], "cat /proc/1/comm; id -u; ls /sys/class/net; hostname");
    let lines: Vec<&str> = ran.stdout.lines().collect();
    assert_eq!(lines[..3], ["mvm-agent", "0", "lo"], "{ran:?}");
    assert!(lines[3].starts_with("mvm-"), "{ran:?}");
}

#[test]
fn clones_share_no_identity_and_no_randomness() {
    let script = "hostname; cat /etc/machine-id /proc/sys/kernel/random/boot_id /proc/sys/kernel/random/uuid; head -c 16 /dev/urandom | hexdump -C";
    let outputs: Vec<String> = (0..6).map(|_| sh(&[], script).stdout).collect();
    let mut lines: Vec<&str> = outputs.iter().flat_map(|text| text.lines().take(5)).collect();
    assert_eq!(lines.len(), 30);
    lines.sort_unstable();
    lines.dedup();
    assert_eq!(lines.len(), 30, "something repeats: {outputs:?}");
}

#[test]
fn the_clock_is_the_hosts() {
    let guest: u64 = sh(&[], "date +%s").stdout.trim().parse().unwrap();
    let host = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs();
    assert!(guest.abs_diff(host) <= 5, "guest {guest}, host {host}");
}

#[test]
fn input_is_passed_only_when_asked_for() {
    let mut child =
        run_command(&["-i"], &["tr", "a-z", "A-Z"]).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(b"hi\n").unwrap();
    assert_eq!(child.wait_with_output().unwrap().stdout, b"HI\n");
    let mut child = run_command(&[], &["cat"]).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    let _ = child.stdin.take().unwrap().write_all(b"hi\n");
    assert_eq!(child.wait_with_output().unwrap().stdout, b"");
}

#[test]
fn large_input_survives_a_command_that_does_not_read_it() {
    let mut child = run_command(&["-i"], &["true"]).stdin(Stdio::piped()).spawn().unwrap();
    let mut stdin = child.stdin.take().unwrap();
    let writer = std::thread::spawn(move || drop(stdin.write_all(&vec![0; 32 << 20])));
    assert_eq!(child.wait().unwrap().code(), Some(0));
    writer.join().unwrap();
}

#[test]
fn environment_directory_and_user_are_as_asked() {
    let ran = sh(
        &["--env", "A=b=c", "--env", "B=", "--cwd", "/tmp", "--user", "user"],
        "echo \"$A,$B,$PWD,$HOME,$(id -un),$(id -g)\"",
    );
    assert_eq!(ran.stdout, "b=c,,/tmp,/home/user,user,1000\n");
    let ran = run_command(&[], &["env"]).env("SECRET_OF_THE_HOST", "x").output().unwrap();
    assert!(!String::from_utf8_lossy(&ran.stdout).contains("SECRET_OF_THE_HOST"));
    for (options, why) in [(["--cwd", "/nope"], "working directory"), (["--user", "nobody-here"], "no user")] {
        let ran = run(&options, &["true"]);
        assert_eq!(ran.code, 125);
        assert!(ran.stderr.contains(why), "{ran:?}");
    }
}

#[test]
fn what_cannot_be_executed_is_told_apart() {
    let ran = run(&[], &["no-such-command"]);
    assert_eq!(ran.code, 127);
    assert!(ran.stderr.contains("there is no command \"no-such-command\""), "{ran:?}");
    let ran = run(&[], &["/etc/passwd"]);
    assert_eq!(ran.code, 126);
    assert!(ran.stderr.contains("cannot be executed"), "{ran:?}");
    let object = json(&[], &["/etc/passwd"]);
    assert_eq!(object["not_started"]["reason"], "command_not_executable");
    assert_eq!(object["exit_code"], 126);
}

#[test]
fn a_timeout_takes_the_whole_tree_and_keeps_what_was_written() {
    let script = "trap '' TERM INT HUP; setsid sh -c 'trap \"\" TERM; sleep 1000' & echo before; sleep 1000";
    let object = json(&["--timeout", "1"], &["sh", "-c", script]);
    assert_eq!(object["timed_out"], true);
    assert_eq!(object["stdout"], "before\n");
    let ran = sh(&["--timeout", "500ms"], "sleep 1000");
    assert_eq!(ran.code, 124);
    assert!(ran.stderr.contains("--timeout"), "{ran:?}");
}

#[test]
fn what_the_command_leaves_behind_does_not_keep_it() {
    let ran = sh(&[], "setsid sleep 1000 & sleep 1000 & echo done; exit 3");
    assert_eq!((ran.code, ran.stdout.as_str()), (3, "done\n"));
}

#[test]
fn json_holds_the_whole_result() {
    let object = json(&[], &["sh", "-c", "printf 'a\\377b'; echo err >&2; exit 4"]);
    assert_eq!(object["exit_code"], 4);
    assert_eq!(object["signal"], Value::Null);
    assert_eq!((object["stdout"].as_str(), object["stdout_encoding"].as_str()), (Some("Yf9i"), Some("base64")));
    assert_eq!((object["stderr"].as_str(), object["stderr_encoding"].as_str()), (Some("err\n"), Some("utf-8")));
    assert_eq!((object["stdout_bytes"].as_u64(), object["stdout_truncated"].as_bool()), (Some(3), Some(false)));
    assert!(object["run_id"].as_str().unwrap().starts_with("run-"));
    assert!(object["image_digest"].as_str().unwrap().starts_with("sha256:"));
    assert_eq!(object["isolation"]["backend"], "qemu");
    let layers = object["isolation"]["layers"].as_array().unwrap();
    assert!(layers.iter().any(|layer| layer["layer"] == "seccomp" && layer["applied"] == true));
    assert!(object["duration_ms"].as_f64().unwrap() > 0.0);
}

#[test]
fn output_beyond_the_limit_is_counted_and_dropped() {
    let object = json(&["--max-output", "1000"], &["dd", "if=/dev/zero", "bs=64k", "count=200"]);
    assert_eq!(object["stdout_bytes"], 200 * 65536);
    assert_eq!(object["stdout_truncated"], true);
    assert_eq!(object["stdout"].as_str().unwrap().len(), 1000);
    let ran = sh(&["--max-output", "10"], "echo 0123456789abc");
    assert_eq!(ran.stdout, "0123456789");
    assert!(ran.stderr.contains("10 of 14 bytes"), "{ran:?}");
}

#[test]
fn a_terminal_is_a_terminal() {
    let ran = sh(&["--tty"], "test -t 0 && test -t 1 && test -t 2 && stty size; tty");
    assert_eq!(ran.code, 0, "{ran:?}");
    assert!(ran.stdout.starts_with("24 80\r\n/dev/pts/"), "{ran:?}");
    assert_eq!(run(&["--tty", "--interactive"], &["true"]).code, 125, "standard input is no terminal here");
}

#[test]
fn a_guest_that_exhausts_itself_harms_only_itself() {
    let ran = sh(&["--timeout", "5"], "f() { f | f & }; f; sleep 1000");
    assert_eq!(ran.code, 124, "{ran:?}");
    let ran = sh(&[], "tail /dev/zero");
    assert_eq!(ran.code, 137, "{ran:?}");
    assert!(ran.stderr.contains("out of memory"), "{ran:?}");
    let ran = sh(&["--disk", "100M"], "dd if=/dev/zero of=/fill bs=1M 2>&1 | grep -o 'No space left'; echo after");
    assert_eq!(ran.stdout, "No space left\nafter\n");
}

#[test]
fn a_disk_is_as_large_as_asked() {
    let blocks: u64 = sh(&["--disk", "8G"], "df -k / | tail -1 | awk '{print $2}'").stdout.trim().parse().unwrap();
    assert!((7_500_000..8_500_000).contains(&blocks), "{blocks} KiB");
}

#[test]
fn a_reader_that_leaves_ends_the_run_quietly() {
    let mut child = run_command(&[], &["yes"]).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut line = [0; 2];
    child.stdout.as_mut().unwrap().read_exact(&mut line).unwrap();
    drop(child.stdout.take());
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(141));
    assert_eq!(output.stderr, b"");
}

#[test]
fn many_at_once_do_not_disturb_each_other() {
    let children: Vec<_> =
        (0..8).map(|i| run_command(&[], &["echo", &i.to_string()]).stdout(Stdio::piped()).spawn().unwrap()).collect();
    for (i, child) in children.into_iter().enumerate() {
        assert_eq!(child.wait_with_output().unwrap().stdout, format!("{i}\n").into_bytes());
    }
}

#[test]
fn without_a_template_the_result_is_the_same() {
    let object = json(&["--no-template"], &["echo", "hi"]);
    assert_eq!(object["stdout"], "hi\n");
    assert_eq!(object["isolation"]["template"], false);
}

/// A run that says when its command has started.
fn started(argv: &[&str]) -> std::process::Child {
    let mut child = run_command(&[], argv).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut byte = [0];
    child.stdout.as_mut().unwrap().read_exact(&mut byte).unwrap();
    child
}

fn signal(pid: u32, number: i32) {
    let status = std::process::Command::new("kill").arg(format!("-{number}")).arg(pid.to_string()).status().unwrap();
    assert!(status.success());
}

#[test]
fn an_idle_machine_costs_nothing() {
    // Ticks of processor time that the agent used, before and after two hundred idle ones.
    let ticks = "set -- $(cut -d' ' -f14,15 /proc/1/stat); echo $(($1 + $2))";
    let ran = sh(&[], &format!("{ticks}; sleep 2; {ticks}"));
    let ticks: Vec<u64> = ran.stdout.lines().map(|line| line.parse().unwrap()).collect();
    assert!(ticks[1] - ticks[0] < 50, "{ran:?}");
}

#[test]
fn signals_reach_the_command() {
    let child = started(&["sh", "-c", "trap 'echo got it; exit 9' INT; echo; while :; do sleep 0.1; done"]);
    signal(child.id(), 2);
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(9));
    assert!(String::from_utf8_lossy(&output.stdout).contains("got it"));
    let child = started(&["sh", "-c", "trap '' INT; echo; while :; do sleep 0.1; done"]);
    signal(child.id(), 2);
    std::thread::sleep(std::time::Duration::from_millis(200));
    signal(child.id(), 2);
    assert_eq!(child.wait_with_output().unwrap().status.code(), Some(137), "the second time it means it");
}

#[test]
fn nothing_outlives_mvmctl_even_if_it_is_killed() {
    let mut child = started(&["sh", "-c", "echo; sleep 1000"]);
    let machines = machines_of(&child);
    assert_eq!(machines.len(), 1);
    child.kill().unwrap();
    assert_eq!(child.wait().unwrap().signal(), Some(9));
    eventually("the machine is gone", || !alive(machines[0]));
}

#[test]
fn a_machine_that_dies_is_reported_as_that() {
    let child = started(&["sh", "-c", "echo; sleep 1000"]);
    signal(machines_of(&child)[0], 9);
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(125));
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(stderr.contains("QEMU ended: killed by signal 9"), "{stderr}");
}

#[test]
fn a_guest_that_panics_leaves_its_last_words() {
    let ran = sh(&["--timeout", "20"], "echo 1 > /proc/sys/kernel/sysrq; echo c > /proc/sysrq-trigger; sleep 1000");
    assert_eq!(ran.code, 125, "{ran:?}");
    assert!(ran.stderr.contains("console ends with"), "{ran:?}");
}

/// `mvmctl run --request - OPTIONS` with this on standard input.
fn requested(options: &[&str], input: &[u8]) -> Ran {
    let mut command = command(home());
    command.args(["run", "--request", "-"]).args(options).stdin(Stdio::piped());
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    // One that is refused need not read all of it.
    let _ = child.stdin.take().unwrap().write_all(input);
    child.wait_with_output().unwrap().into()
}

#[test]
fn a_request_on_standard_input_is_the_same_run() {
    let script = "echo $A; id -u; pwd; seq 100; exit 3";
    let request = format!(
        r#"{{"argv": ["sh", "-c", "{script}"], "image": "base", "memory_mib": 192, "env": {{"A": "b"}}, "cwd": "/tmp",
            "user": "user", "timeout_ms": 60000, "max_output": 40, "profile": "dev", "allow_missing": ["cgroup"]}}"#
    )
    .replace('\n', "");
    let options =
        ["--memory", "192M", "--env", "A=b", "--cwd", "/tmp", "--user", "user", "--timeout", "60", "--profile"];
    let options = [&options[..], &["dev", "--max-output", "40", "--allow-missing", "cgroup"]].concat();
    let plans = [
        json(&[&options[..], &["--dry-run"]].concat(), &["sh", "-c", script]),
        serde_json::from_str(&requested(&["--json", "--dry-run"], request.as_bytes()).stdout).unwrap(),
    ];
    assert_eq!(plans[0], plans[1]);
    let results = [json(&options, &["sh", "-c", script]), {
        serde_json::from_str(&requested(&["--json"], request.as_bytes()).stdout).unwrap()
    }];
    for field in ["stdout", "stdout_bytes", "stdout_truncated", "exit_code", "image_digest", "isolation"] {
        assert_eq!(results[0][field], results[1][field], "{field}");
    }
    assert_eq!(results[1]["exit_code"], 3);
    // Without options the command's output is passed on, and what follows the request is its input.
    let ran = requested(&["-i"], b"{\"argv\": [\"cat\"], \"image\": \"base\"}\none\n\ntwo");
    assert_eq!((ran.stdout.as_str(), ran.code), ("one\n\ntwo", 0), "{ran:?}");
    let ran = requested(&[], b"{\"argv\": [\"cat\"], \"image\": \"base\"}\nnot for it\n");
    assert_eq!((ran.stdout.as_str(), ran.code), ("", 0), "{ran:?}");
}

#[test]
fn a_request_that_cannot_be_meant_is_refused_without_its_values() {
    for (input, why) in [
        (r#"{"argv": ["hunter2"], "commands": ["hunter2"]}"#.to_owned(), "unknown field `commands`"),
        (r#"{"argv": "hunter2"}"#.to_owned(), "another type than its field"),
        ("hunter2\n".to_owned(), "it is no JSON"),
        (r#"["hunter2"]"#.to_owned(), "another type"),
        (r#"{"argv": ["hunter2"]"#.to_owned(), "it ends too early"),
        (String::new(), "it ends too early"),
        (format!(r#"{{"argv": ["true", "{}"]}}"#, "hunter2".repeat(150_000)), "larger than 1 MiB"),
        (r#"{"argv": []}"#.to_owned(), "a command has a program"),
        (r#"{"argv": ["true", "a\u0000"]}"#.to_owned(), "no NUL"),
        (r#"{"argv": ["true"], "env": {"A=": "hunter2"}}"#.to_owned(), "has a = in it"),
        (r#"{"argv": ["true"], "secrets": {"A": "hunter2"}}"#.to_owned(), "may not be given here"),
        (r#"{"argv": ["true"], "timeout_ms": 0}"#.to_owned(), "above zero"),
    ] {
        let ran = requested(&["--json"], input.as_bytes());
        let error: Value = serde_json::from_str(&ran.stdout).unwrap_or_else(|e| panic!("{e}: {ran:?}"));
        let error = &error["error"];
        assert_eq!((&error["code"], ran.code), (&"InvalidRequest".into(), 125), "{error}");
        assert!(error["why"].as_str().unwrap().contains(why), "{why}: {error}");
        assert!(!format!("{ran:?}").contains("hunter2"), "{ran:?}");
    }
    for wrong in
        [&["--request", "-", "--image", "base"][..], &["--request", "-", "--", "true"], &["--request", "file"], &[]]
    {
        let ran: Ran = command(home()).arg("run").args(wrong).output().unwrap().into();
        assert!(ran.code == 125 && ran.stderr.contains("error: "), "{wrong:?}: {ran:?}");
    }
}

#[test]
fn a_requests_values_are_among_no_processs_arguments() {
    let mut command = command(home());
    command.args(["run", "--request", "-", "-i"]).stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut child = command.spawn().unwrap();
    let mut stdin = child.stdin.take().unwrap();
    let request = r#"{"argv": ["sh", "-c", "echo $TOKEN; read line"], "image": "base", "env": {"TOKEN": "hunter2"}}"#;
    writeln!(stdin, "{request}").unwrap();
    let mut output = [0; 8];
    child.stdout.as_mut().unwrap().read_exact(&mut output).unwrap();
    assert_eq!(&output, b"hunter2\n");
    let pids = std::fs::read_dir("/proc").unwrap().flatten().filter_map(|entry| entry.file_name().into_string().ok());
    for pid in pids.filter(|name| name.bytes().all(|b| b.is_ascii_digit())) {
        let arguments = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        assert!(!String::from_utf8_lossy(&arguments).contains("hunter2"), "{pid}");
    }
    drop(stdin);
    assert_eq!(child.wait().unwrap().code(), Some(1));
}
