//! Secrets as users and their commands see them, and as nobody else does, in real machines.

mod common;

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use common::{Ran, Sandbox, alive, command, eventually, home, json, kill, machine_of, mvmctl, run_command};
use serde_json::Value;

/// Two of the values that the tests use; no other text of theirs has one in it.
const TOKEN: &str = "tok/en+V4lue-of?the test";
const OTHER: &str = "0ther-V4lue-of-the-test";

/// A file that holds a value, for as long as it is held.
struct Kept(tempfile::TempDir);

impl Kept {
    fn new(value: impl AsRef<[u8]>) -> Kept {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("value"), value).unwrap();
        fs::set_permissions(dir.path().join("value"), Permissions::from_mode(0o600)).unwrap();
        Kept(dir)
    }

    fn path(&self) -> PathBuf {
        self.0.path().join("value")
    }

    /// `NAME=file:PATH`.
    fn named(&self, name: &str) -> String {
        format!("{name}=file:{}", self.path().display())
    }
}

/// Runs a verb with a variable set for it alone.
fn with_variable(name: &str, value: &str, args: &[&str]) -> Ran {
    command(home()).args(args).env(name, value).output().unwrap().into()
}

fn run_with_token(options: &[&str], script: &str) -> Ran {
    let mut command = run_command(&[&["--secret", "TOKEN"], options].concat(), &["sh", "-c", script]);
    command.env("TOKEN", TOKEN).output().unwrap().into()
}

fn error_of(ran: &Ran) -> Value {
    let last = ran.stdout.lines().last().unwrap_or_else(|| panic!("{ran:?}"));
    serde_json::from_str::<Value>(last).unwrap()["error"].clone()
}

fn start(name: &str, secret: &str, script: &str) -> String {
    let ran = mvmctl(&["exec", name, "--detach", "--secret", secret, "--", "sh", "-c", script]);
    assert_eq!(ran.code, 0, "{ran:?}");
    ran.stdout.trim().to_owned()
}

#[test]
fn a_run_has_its_secret_and_shows_it_in_no_form() {
    let byte_by_byte =
        "s=$TOKEN; while [ -n \"$s\" ]; do r=${s#?}; printf '%s' \"${s%\"$r\"}\"; s=$r; sleep 0.01; done";
    let marker = "[redacted:TOKEN]";
    for (script, shown) in [
        ("printf '%s' \"$TOKEN\"", marker.to_owned()),
        ("printf 'a%sb' \"$TOKEN\"", format!("a{marker}b")),
        (byte_by_byte, marker.to_owned()),
        ("printf tok/en; sleep 0.1; printf +V4lue; sleep 0.1; printf -- '-of?the test'", marker.to_owned()),
        ("printf '%s' \"$TOKEN\" | hexdump -v -e '1/1 \"%02x\"'", marker.to_owned()),
        ("printf '%s' \"$TOKEN\" | hexdump -v -e '1/1 \"%02X\"' | sed 's/../%&/g'", marker.to_owned()),
        ("printf tok%%2Fen%%2BV4lue-of%%3Fthe%%20test", marker.to_owned()),
        ("printf tok%%2fen%%2bV4lue-of%%3fthe+test", marker.to_owned()),
        ("printf '%s' tok/en+V4lue-of", "tok/en+V4lue-of".to_owned()),
        ("printf '%s' \"$TOKEN\" >&2; printf ${#TOKEN}", TOKEN.len().to_string()),
    ] {
        let ran = run_with_token(&[], script);
        assert_eq!((ran.code, ran.stdout), (0, shown), "{script}");
        assert!(ran.stderr.is_empty() || ran.stderr == marker, "{}", ran.stderr);
    }
    for script in ["printf '%s' \"$TOKEN\" | base64", "printf 'u:%s:%s:%s' \"$TOKEN\" \"$TOKEN\" \"$TOKEN\" | base64"] {
        let shown = run_with_token(&[], script).stdout;
        assert!(shown.contains(marker) && shown.len() < 4 * marker.len(), "{shown}");
    }
}

#[test]
fn the_result_counts_what_was_written_and_redacted() {
    let ran = run_with_token(&["--json"], "echo $TOKEN $TOKEN; echo $TOKEN >&2; exit 3");
    let object: Value = serde_json::from_str(&ran.stdout).unwrap();
    assert_eq!((object["exit_code"].as_u64(), object["redactions"].as_u64()), (Some(3), Some(3)));
    assert_eq!(object["stdout"], "[redacted:TOKEN] [redacted:TOKEN]\n");
    assert_eq!(object["stdout_bytes"], 2 * TOKEN.len() + 2);
    assert_eq!((&object["stderr_bytes"], &object["stdout_truncated"]), (&(TOKEN.len() + 1).into(), &false.into()));
    let ran = run_with_token(&["--no-redact", "--json"], "echo $TOKEN");
    let object: Value = serde_json::from_str(&ran.stdout).unwrap();
    assert_eq!(
        (object["stdout"].as_str(), object["redactions"].as_u64()),
        (Some(format!("{TOKEN}\n").as_str()), Some(0))
    );
    let ran = run_with_token(&["--max-output", "5"], "echo $TOKEN");
    assert_eq!(ran.stdout, "[reda", "what is cut was redacted before");
    assert_eq!(run_with_token(&["--cwd", "/nope"], "true").code, 125);
}

#[test]
fn what_a_guest_leaves_in_errors_is_redacted() {
    let secret = Kept::new(TOKEN);
    let secret = secret.named("TOKEN");
    let ran = run_command(&["--secret", &secret], &[TOKEN]).output().unwrap();
    let ran = Ran::from(ran);
    assert_eq!(ran.code, 127);
    assert!(ran.stderr.contains("[redacted:TOKEN]") && !ran.stderr.contains(TOKEN), "{ran:?}");
    let script =
        "echo 1 > /proc/sys/kernel/sysrq; echo \"$TOKEN\" > /dev/kmsg; echo c > /proc/sysrq-trigger; sleep 1000";
    let ran = run_with_token(&["--timeout", "20"], script);
    assert_eq!(ran.code, 125, "{ran:?}");
    assert!(ran.stderr.contains("console ends with") && !ran.stderr.contains(TOKEN), "{ran:?}");
}

#[test]
fn what_can_be_no_secret_is_refused_before_anything_runs_and_is_not_shown() {
    let _sandbox = Sandbox::up("keeps-none", &[]);
    let dir = tempfile::tempdir().unwrap();
    let fifo = dir.path().join("fifo");
    assert!(Command::new("mkfifo").arg(&fifo).status().unwrap().success());
    let file = |content: &[u8]| Kept::new(content);
    let (binary, nul, empty) = (file(b"hunter2\xff\xfe\xfd"), file(b"hunter2\0hunter2"), file(b"\n"));
    let huge = file(&b"hunter2".repeat(10_000));
    let of_path = |path: &Path| format!("TOKEN=file:{}", path.display());
    for (given, code, why) in [
        ("TOKEN=hunter2hunter2", "InvalidRequest", "may not be given here"),
        ("TOKEN=", "InvalidRequest", "may not be given here"),
        ("TOKEN=env:", "InvalidRequest", "no variable's name"),
        ("hunter2-hunter2", "InvalidRequest", "no variable's"),
        ("=hunter2", "InvalidRequest", "no variable's"),
        ("EMPTY", "InvalidRequest", "empty"),
        ("SHORT", "InvalidRequest", "shorter than 8 bytes"),
        ("MVM_NEVER_SET", "NotFound", "the variable MVM_NEVER_SET is not set"),
        ("TOKEN=file:/nowhere/at/all", "NotFound", "No such file"),
        (&of_path(dir.path()), "InvalidRequest", "no regular file"),
        (&of_path(&fifo), "InvalidRequest", "no regular file"),
        ("TOKEN=file:/dev/zero", "InvalidRequest", "no regular file"),
        (&binary.named("TOKEN"), "InvalidRequest", "not UTF-8"),
        (&nul.named("TOKEN"), "InvalidRequest", "NUL"),
        (&empty.named("TOKEN"), "InvalidRequest", "empty"),
        (&huge.named("TOKEN"), "InvalidRequest", "larger than 64 KiB"),
    ] {
        for verb in [&["run", "--image", "base"][..], &["exec", "keeps-none"], &["up", "--image", "base"]] {
            let ran: Ran = command(home())
                .args(verb)
                .args(["--json", "--secret", given, "--", "true"])
                .env("EMPTY", "")
                .env("SHORT", "hunter2")
                .output()
                .unwrap()
                .into();
            let error = error_of(&ran);
            assert_eq!((ran.code, &error["code"]), (125, &code.into()), "{given}: {ran:?}");
            assert!(error["why"].as_str().unwrap().contains(why), "{given}: {error}");
            assert!(!error["hint"].as_str().unwrap().is_empty(), "{given}: {error}");
            assert!(!ran.stdout.contains("hunter2") && !ran.stderr.contains("hunter2"), "{given}: {ran:?}");
        }
    }
    let twice = run_with_token(&["--secret", "TOKEN", "--json"], "true");
    assert!(error_of(&twice)["why"].as_str().unwrap().contains("twice"), "{twice:?}");
    let open = run_with_token(&["--env", "TOKEN=x", "--json"], "true");
    assert!(error_of(&open)["why"].as_str().unwrap().contains("openly"), "{open:?}");
    let many: Vec<String> = (0..33).flat_map(|n| ["--secret".to_owned(), format!("S{n}=env:PATH")]).collect();
    let many: Vec<&str> = many.iter().map(String::as_str).collect();
    assert!(
        error_of(&run_with_token(&[&many[..], &["--json"]].concat(), "true"))["why"].to_string().contains("at most 32")
    );
}

#[test]
fn what_is_kept_badly_is_a_warning() {
    let secret = Kept::new("correcthorse");
    fs::set_permissions(secret.path(), Permissions::from_mode(0o644)).unwrap();
    let secret = secret.named("WORD");
    let ran: Ran = run_command(&["--secret", &secret], &["true"]).output().unwrap().into();
    assert_eq!(ran.code, 0, "{ran:?}");
    assert!(ran.stderr.contains("others may read") && ran.stderr.contains("looks like a word"), "{ran:?}");
    let ran: Ran = run_command(&["--secret", &secret, "--json"], &["true"]).output().unwrap().into();
    let object: Value = serde_json::from_str(&ran.stdout).unwrap();
    assert_eq!((object["warnings"].as_array().unwrap().len(), ran.stderr.as_str()), (2, ""));
}

#[test]
fn one_command_has_it_and_no_other() {
    let _sandbox = Sandbox::up("granted", &[]);
    let secret = Kept::new(OTHER);
    let secret = secret.named("OTHER");
    let has = ["sh", "-c", "echo ${#OTHER} ${OTHER:-none}; echo \"$OTHER\" > /root/left"];
    let of = |options: &[&str]| mvmctl(&[&["exec", "granted"], options, &["--"], &has].concat()).stdout;
    assert_eq!(of(&["--secret", &secret]), format!("{} [redacted:OTHER]\n", OTHER.len()));
    let left = mvmctl(&["exec", "granted", "--", "sh", "-c", "cat /root/left; cat /root/left | base64"]);
    assert!(left.stdout.starts_with("[redacted:OTHER]\n[redacted:OTHER]"), "what it leaves is redacted: {left:?}");
    assert_eq!(of(&[]), "0 none\n");
    let ran = mvmctl(&["exec", "granted", "--secret", &secret, "--no-redact", "--", "sh", "-c", "echo $OTHER"]);
    assert_eq!(ran.stdout, format!("{OTHER}\n"));
    let object = json(&["exec", "granted", "--secret", &secret, "--json", "--", "sh", "-c", "echo $OTHER"]);
    assert_eq!((object["redactions"].as_u64(), object["stdout_bytes"].as_u64()), (Some(1), Some(24)));
    assert_eq!(object["stdout"], "[redacted:OTHER]\n");
}

#[test]
fn a_job_that_pauses_within_a_secret_shows_none_of_it() {
    let _sandbox = Sandbox::up("paused-within", &[]);
    let secret = Kept::new(OTHER);
    let secret = secret.named("OTHER");
    let script =
        "printf 'before 0ther-V4lue'; sleep 2; echo -of-the-test; echo done; printf 'and 0ther-V4'; sleep 1000";
    let job = start("paused-within", &secret, script);
    let shown = || -> String {
        let all = mvmctl(&["exec", "paused-within", "--", "true"]);
        assert_eq!(all.code, 0, "{all:?}");
        let events = api(&format!("/v1/jobs/{job}/output"), "paused-within");
        let piece = |line: &str| {
            let event: Value = serde_json::from_str(line).unwrap();
            STANDARD.decode(event["data"].as_str().unwrap_or_default()).unwrap()
        };
        String::from_utf8(events.lines().flat_map(piece).collect()).unwrap()
    };
    eventually("the first part is there", || shown() == "before ");
    eventually("the end is there", || shown() == "before [redacted:OTHER]\ndone\nand ");
    assert_eq!(mvmctl(&["kill", "paused-within", &job]).code, 0);
    assert_eq!(mvmctl(&["wait", "paused-within", &job]).code, 137);
    assert_eq!(shown(), "before [redacted:OTHER]\ndone\nand 0ther-V4", "what was no secret comes at the end");
    let result = json(&["wait", "paused-within", &job, "--json"])["result"].clone();
    assert_eq!(result["redactions"], 1);
    assert_eq!(result["stdout_bytes"], "before \ndone\nand 0ther-V4".len() + OTHER.len());
}

/// What the API of a sandbox answers, as it is.
fn api(path: &str, name: &str) -> String {
    let socket = json(&["inspect", name, "--json"])["socket"].as_str().unwrap().to_owned();
    let mut connection = std::os::unix::net::UnixStream::connect(socket).unwrap();
    let request = format!("GET {path} HTTP/1.0\r\nHost: sandbox\r\n\r\n");
    std::io::Write::write_all(&mut connection, request.as_bytes()).unwrap();
    let mut answer = String::new();
    std::io::Read::read_to_string(&mut connection, &mut answer).unwrap();
    answer.split_once("\r\n\r\n").unwrap().1.to_owned()
}

#[test]
fn every_command_of_a_sandbox_has_what_it_was_made_with() {
    let file = Kept::new(OTHER);
    let up = [
        "up",
        "--image",
        "base",
        "--name",
        "made-with",
        "--secret",
        "TOKEN",
        "--secret",
        &file.named("FILE"),
        "--json",
    ];
    let made = with_variable("TOKEN", TOKEN, &up);
    assert_eq!(made.code, 0, "{made:?}");
    let sandbox = Sandbox("made-with".to_owned());
    assert_eq!(sandbox.sh("echo $TOKEN; echo $FILE").stdout, "[redacted:TOKEN]\n[redacted:FILE]\n");
    let listed = json(&["secret", "ls", "made-with", "--json"])["secrets"].clone();
    assert_eq!(listed[0]["reference"], format!("file:{}", file.path().display()));
    assert_eq!((&listed[0]["kind"], &listed[1]["kind"]), (&"file".into(), &"env".into()));
    assert_eq!((&listed[1]["reference"], &listed[1]["known"]), (&"env:TOKEN".into(), &true.into()));
    assert_eq!(sandbox.inspect()["secrets"], serde_json::json!(["FILE", "TOKEN"]));

    kill(sandbox.supervisor());
    eventually("another one supervises it", || sandbox.state() == "stopped");
    assert_eq!(mvmctl(&["start", "made-with"]).code, 0);
    let refused = mvmctl(&["exec", "made-with", "--json", "--", "true"]);
    let error = error_of(&refused);
    assert_eq!((refused.code, &error["code"]), (125, &"InvalidState".into()));
    assert!(error["why"].as_str().unwrap().contains("came from the environment of the command that made"), "{error}");
    let given = ["exec", "made-with", "--secret", "TOKEN", "--", "sh", "-c", "echo $TOKEN; echo $FILE; echo ${#FILE}"];
    let again = with_variable("TOKEN", TOKEN, &given).stdout;
    assert_eq!(again, "[redacted:TOKEN]\n[redacted:FILE]\n23\n", "a file is read again");
    let known =
        |listed: &Value| listed["secrets"].as_array().unwrap().iter().map(|s| s["known"] == true).collect::<Vec<_>>();
    assert_eq!(known(&json(&["secret", "ls", "made-with", "--json"])), [true, false]);
}

#[test]
fn copies_have_the_values_and_what_comes_from_a_snapshot_does_not() {
    let (all, one) = (Kept::new(TOKEN), Kept::new(OTHER));
    let sandbox = Sandbox::up("handed-on", &["--secret", &all.named("ALL")]);
    let job = start("handed-on", &one.named("ONE"), "while :; do echo $ALL $ONE.; sleep 0.1; done");
    let redacted = "[redacted:ALL] [redacted:ONE].";
    let lines = |name: &str| texts(&json_lines(&["logs", name, "--json", "--source", "job", "--tail", "5"]));
    eventually("it writes", || lines("handed-on").len() == 5);
    assert_eq!(mvmctl(&["fork", "handed-on", "--name", "copy"]).code, 0);
    let copy = Sandbox("copy-1".to_owned());
    eventually("it goes on", || lines("copy-1").last().is_some_and(|line| line == redacted));
    assert_eq!(copy.sh("echo $ALL ${ONE:-none}").stdout, "[redacted:ALL] none\n");
    assert_eq!(mvmctl(&["pause", "handed-on"]).code, 0);
    assert_eq!(mvmctl(&["resume", "handed-on"]).code, 0);
    eventually("it goes on", || lines("handed-on").last().is_some_and(|line| line == redacted));

    assert_eq!(mvmctl(&["snapshot", "save", "handed-on", "--name", "without"]).code, 0);
    let restored = mvmctl(&["restore", "without", "--name", "restored"]);
    assert!(restored.stdout.contains("no longer get the secrets ALL"), "{restored:?}");
    let restored = Sandbox("restored".to_owned());
    assert_eq!(restored.sh("echo ${ALL:-none}").stdout, "none\n");
    eventually("it says why it shows nothing", || {
        lines("restored").last().is_some_and(|line| line.starts_with("[withheld:") && line.contains("ONE, ALL"))
    });
    drop(restored);
    let given = ["restore", "without", "--name", "given", "--secret", &all.named("ALL"), "--secret", &one.named("ONE")];
    assert_eq!(mvmctl(&given).code, 0);
    let given = Sandbox("given".to_owned());
    eventually("it goes on", || lines("given").last().is_some_and(|line| line == redacted));
    assert_eq!(given.sh("echo $ONE").stdout, "[redacted:ONE]\n");
    // Another value under the same name is not the one that the command has.
    let (other_all, other_one) = (Kept::new("another-value-for-all"), Kept::new("another-value-for-one"));
    let (other_all, other_one) = (other_all.named("ALL"), other_one.named("ONE"));
    let changed = ["restore", "without", "--name", "changed", "--secret", &other_all, "--secret", &other_one];
    assert_eq!(mvmctl(&changed).code, 0);
    let changed = Sandbox("changed".to_owned());
    eventually("it says why it shows nothing", || {
        lines("changed").last().is_some_and(|line| line.starts_with("[withheld:") && line.contains("ONE, ALL"))
    });
    assert_eq!(changed.sh("echo $ALL").stdout, "[redacted:ALL]\n");
    let snapshot =
        home().join("snapshots").join(json(&["snapshot", "inspect", "without", "--json"])["id"].as_str().unwrap());
    let found = holding(&snapshot, &[TOKEN, OTHER]);
    assert_eq!(found, Vec::<PathBuf>::new(), "its records have no value");
    assert_eq!(mvmctl(&["snapshot", "rm", "without"]).code, 0);
    assert!(job.starts_with("run-") && sandbox.state() == "running");
}

fn json_lines(args: &[&str]) -> Vec<Value> {
    let ran = mvmctl(args);
    assert_eq!(ran.code, 0, "{ran:?}");
    ran.stdout.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

fn texts(events: &[Value]) -> Vec<String> {
    events.iter().filter_map(|event| Some(event["text"].as_str()?.to_owned())).collect()
}

/// Files of mvm's that hold one of these values, as it is or in base64; not the guest's memory and disks.
fn holding(dir: &Path, values: &[&str]) -> Vec<PathBuf> {
    const OF_THE_GUEST: [&str; 6] = ["memory", "disk.qcow2", "layers", "images", "templates", "kernels"];
    let mut found = Vec::new();
    for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
        let path = entry.path();
        if OF_THE_GUEST.contains(&entry.file_name().to_str().unwrap()) {
            continue;
        }
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            found.extend(holding(&path, values));
        } else if fs::read(&path).is_ok_and(|content| shows(&content, values)) {
            found.push(path);
        }
    }
    found
}

fn shows(content: &[u8], values: &[&str]) -> bool {
    let has = |form: &[u8]| content.windows(form.len()).any(|window| window == form);
    values.iter().any(|value| has(value.as_bytes()) || has(&STANDARD.encode(value).as_bytes()[..20]))
}

/// The processes of this host among whose arguments or in whose environment one of these values is.
fn processes_showing(values: &[&str]) -> Vec<u32> {
    let entries = fs::read_dir("/proc").unwrap().flatten();
    let shown = |pid: &u32| {
        let of = |name: &str| fs::read(format!("/proc/{pid}/{name}")).unwrap_or_default();
        shows(&of("cmdline"), values) || shows(&of("environ"), values)
    };
    entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok()).filter(shown).collect()
}

/// A process that shows a value, to see that it would be found.
fn shower(value: &str) -> Child {
    Command::new("sleep").arg("1000").env("SHOWN", value).stdin(Stdio::null()).spawn().unwrap()
}

#[test]
fn no_argument_no_environment_and_no_file_has_a_value() {
    let value = "n0-process-shows-this-V4lue";
    let variable = "n0-file-holds-this-V4lue";
    let secret = Kept::new(value);
    let secret = secret.named("ONE");
    let up = ["up", "--image", "base", "--name", "shown-nowhere", "--secret", "ALL=env:MVM_TEST_ALL"];
    assert_eq!(with_variable("MVM_TEST_ALL", variable, &up).code, 0);
    let sandbox = Sandbox("shown-nowhere".to_owned());
    let mut waiting = command(home());
    waiting.args(["exec", "shown-nowhere", "--secret", &secret, "--", "sh", "-c", "echo $ALL $ONE; exec sleep 1000"]);
    let mut waiting = waiting.stdout(Stdio::piped()).spawn().unwrap();
    let mut line = String::new();
    std::io::BufRead::read_line(&mut std::io::BufReader::new(waiting.stdout.take().unwrap()), &mut line).unwrap();
    assert_eq!(line, "[redacted:ALL] [redacted:ONE]\n");
    start(
        "shown-nowhere",
        &secret,
        "echo $ALL $ONE | tee /dev/kmsg; echo $ONE | base64 >&2; printf n0-process-; sleep 1000",
    );
    eventually("it has written", || mvmctl(&["logs", "shown-nowhere", "--source", "job"]).stdout.lines().count() >= 2);

    let values = [value, variable];
    let mut shower = shower(value);
    eventually("what shows a value is found", || processes_showing(&values) == [shower.id()]);
    shower.kill().unwrap();
    shower.wait().unwrap();
    let supervisor = sandbox.supervisor();
    for pid in [supervisor, machine_of(supervisor), waiting.id()] {
        assert!(alive(pid) && !fs::read(format!("/proc/{pid}/cmdline")).unwrap().is_empty());
    }
    let limits = fs::read_to_string(format!("/proc/{supervisor}/limits")).unwrap();
    let core = limits.lines().find(|line| line.starts_with("Max core file size")).unwrap();
    assert_eq!(core.split_whitespace().nth(4), Some("1"), "no core dump: {core}");

    for told in [
        mvmctl(&["inspect", "shown-nowhere", "--json"]),
        mvmctl(&["jobs", "shown-nowhere", "--json"]),
        mvmctl(&["logs", "shown-nowhere", "--json", "--redact", "off"]),
        mvmctl(&["secret", "ls", "--json"]),
        mvmctl(&["ps", "--json"]),
    ] {
        assert!(told.code == 0 && !shows(told.stdout.as_bytes(), &values), "{told:?}");
    }
    // With the commands' records saved beside the memory.
    waiting.kill().unwrap();
    waiting.wait().unwrap();
    assert_eq!(mvmctl(&["pause", "shown-nowhere"]).code, 0);
    assert_eq!(holding(home(), &values), Vec::<PathBuf>::new());
    let kept = home().join("shown-for-the-test");
    fs::write(&kept, format!("x{value}")).unwrap();
    assert_eq!(holding(home(), &values), std::slice::from_ref(&kept), "one would be found");
    fs::remove_file(kept).unwrap();
}

#[test]
fn a_key_starts_a_command_once_also_with_a_secret() {
    let _sandbox = Sandbox::up("once", &[]);
    let (secret, another) = (Kept::new(OTHER), Kept::new("an0ther-V4lue"));
    let start = |secret: &Kept| {
        let named = secret.named("ONE");
        mvmctl(&[
            "exec",
            "once",
            "--detach",
            "--idempotency-key",
            "k",
            "--json",
            "--secret",
            &named,
            "--",
            "sleep",
            "1000",
        ])
    };
    let run_id = |ran: &Ran| serde_json::from_str::<Value>(&ran.stdout).unwrap()["run_id"].clone();
    let first = start(&secret);
    assert_eq!(run_id(&first), run_id(&start(&secret)));
    let other = start(&another);
    assert_eq!(error_of(&other)["code"], "InvalidRequest", "{other:?}");
    let listed = json(&["secret", "ls", "once", "--json"])["secrets"].clone();
    assert_eq!((listed.as_array().unwrap().len(), &listed[0]["run_id"]), (1, &run_id(&first)));
    assert_eq!((&listed[0]["kind"], &listed[0]["reference"]), (&"request".into(), &Value::Null));
}

#[test]
fn what_looks_like_a_credential_is_hidden_when_a_log_is_read() {
    let _sandbox = Sandbox::up("read", &[]);
    let secret = Kept::new(OTHER);
    let script = "echo id AKIAIOSFODNN7EXAMPLE; echo '-----BEGIN PRIVATE KEY-----'; echo MIIEvQ; \
                  echo '-----END PRIVATE KEY-----'; echo $ONE";
    let job = start("read", &secret.named("ONE"), script);
    assert_eq!(mvmctl(&["wait", "read", &job]).code, 0);
    let read = |options: &[&str]| json_lines(&[&["logs", "read", "--source", "job", "--json"], options].concat());
    let (on, off) = (read(&[]), read(&["--redact", "off"]));
    let hidden = ["id [redacted:aws-access-key-id]", "-----BEGIN PRIVATE KEY-----", "[redacted:private-key]"];
    assert_eq!(texts(&on)[..3], hidden);
    assert_eq!(texts(&off)[..3], ["id AKIAIOSFODNN7EXAMPLE", "-----BEGIN PRIVATE KEY-----", "MIIEvQ"]);
    assert!(texts(&on)[4] == "[redacted:ONE]" && texts(&off)[4] == "[redacted:ONE]");
    assert_eq!((&on[5]["redactions"], &on[5]["on_reading"], &on[5]["lines"]), (&3.into(), &2.into(), &5.into()));
    assert_eq!((&off[5]["redactions"], &off[5]["on_reading"]), (&1.into(), &0.into()));
    assert_eq!((&on[5]["type"], &off[0]["redactions"]), (&"summary".into(), &0.into()));
    let people = mvmctl(&["logs", "read"]);
    assert!(people.stderr.contains("3 redactions; --redact off shows 2 of them"), "{people:?}");
    let rules = mvmctl(&["logs", "--redact", "show-rules"]);
    assert!(rules.stdout.contains("secret-base64") && rules.stdout.contains("aws-access-key-id"), "{rules:?}");
    let rules = json(&["logs", "--redact", "show-rules", "--json"])["rules"].clone();
    assert!(rules.as_array().unwrap().iter().all(|rule| rule["step"] == "writing" || rule["step"] == "reading"));
    assert_eq!(mvmctl(&["logs", "--redact", "on"]).code, 125);
    assert_eq!(mvmctl(&["logs", "read", "--redact", "maybe"]).code, 125);
}
