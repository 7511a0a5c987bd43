//! Admission, and what holds of it in real machines.

mod common;

use std::io::Write;
use std::path::PathBuf;
use std::process::Stdio;

use common::{Ran, Sandbox, command, home, json, mvmctl, run};
use mvm_runtime::units;
use serde_json::Value;

/// A directory of profiles for one test.
struct Profiles(tempfile::TempDir);

impl Profiles {
    fn new(profiles: &[(&str, &str)]) -> Profiles {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(dir.path().join("mvm/profiles")).unwrap();
        let profiles_dir = Profiles(dir);
        profiles.iter().for_each(|(name, text)| std::fs::write(profiles_dir.path(name), text).unwrap());
        profiles_dir
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(format!("mvm/profiles/{name}.toml"))
    }

    fn mvmctl(&self, args: &[&str]) -> Ran {
        command(home()).env("XDG_CONFIG_HOME", self.0.path()).args(args).output().unwrap().into()
    }
}

fn restrictive(script: &str) -> Ran {
    run(&["--profile", "restrictive"], &["sh", "-c", script])
}

/// A layer of isolation that this host lacks.
fn missing_layer() -> Option<String> {
    let ran = run(&["--json"], &["true"]);
    let result: Value = serde_json::from_str(&ran.stdout).unwrap();
    let layers = result["isolation"]["layers"].as_array().unwrap();
    let missing = layers.iter().find(|layer| layer["applied"] == false)?;
    Some(missing["layer"].as_str().unwrap().to_owned())
}

#[test]
fn a_refusal_is_the_same_wherever_it_is_said() {
    let missing = missing_layer();
    let mut refused = vec![
        ("run", vec!["--env", "TOKEN=1"], "env.variables"),
        ("run", vec!["--memory", "4G"], "limits.memory"),
        ("run", vec!["--timeout", "1h"], "limits.time"),
        ("run", vec!["--user", "0"], "user.unprivileged"),
        ("up", vec!["--name", "never", "--port", "8080:80"], "ports.forward"),
    ];
    match &missing {
        Some(layer) => refused.push(("run", vec!["--require", layer], "isolation.layers")),
        // Where nothing is missing, everything can be demanded.
        None => assert_eq!(run(&["--require", "cgroup", "--require", "own-user"], &["true"]).code, 0),
    }
    for (verb, options, rule) in refused {
        let args = |extra: &[&str]| -> Vec<String> {
            let all = [&[verb, "--profile", "restrictive"], &options[..], extra, &["--", "true"]].concat();
            all.into_iter().map(str::to_owned).collect()
        };
        let call = |extra: &[&str]| -> Ran { command(home()).args(args(extra)).output().unwrap().into() };
        let said = call(&[]);
        let (plain, dry, in_json) = (call(&["--dry-run"]), call(&["--dry-run", "--json"]), call(&["--json"]));
        let plan: Value = serde_json::from_str(&dry.stdout).unwrap();
        let error: Value = serde_json::from_str(&in_json.stdout).unwrap();
        let denial = &plan["denials"][0];
        assert_eq!(denial["rule"], rule);
        assert_eq!(&error["error"]["denials"], &plan["denials"]);
        assert_eq!((plan["allowed"].as_bool(), error["error"]["code"].as_str()), (Some(false), Some("PolicyDenied")));
        for text in [&said.stderr, &plain.stdout] {
            for part in ["rule", "reason", "remedy"] {
                assert!(text.contains(denial[part].as_str().unwrap()), "{part}: {text}");
            }
        }
        assert_eq!([said.code, plain.code, dry.code, in_json.code], [126; 4]);
    }
}

#[test]
fn a_plan_is_made_without_a_machine_and_holds_when_there_is_one() {
    let plan = json(&["run", "--profile", "restrictive", "--dry-run", "--json", "--", "true"]);
    assert_eq!((plan["allowed"].as_bool(), plan["schema"].as_str()), (Some(true), Some("mvm.plan/v1")));
    assert_eq!(plan["enforced"]["timeout_ms"], 600_000);
    let sandbox = Sandbox::up("planned", &["--profile", "restrictive"]);
    let inspected = sandbox.inspect();
    assert_eq!(inspected["plan"]["enforced"], plan["enforced"]);
    assert_eq!(inspected["plan"]["profile_digest"], plan["profile_digest"]);
}

#[test]
fn restrictive_commands_are_ordinary_users_with_little_room() {
    let ran = restrictive("id -u; id -g; id -G; grep -E 'NoNewPrivs|Cap(Eff|Prm|Inh|Amb)' /proc/self/status; pwd");
    assert_eq!(ran.code, 0, "{ran:?}");
    let lines: Vec<&str> = ran.stdout.lines().collect();
    assert_eq!(&lines[..3], ["65534", "65534", "65534"]);
    assert!(ran.stdout.contains("NoNewPrivs:\t1") && lines.last() == Some(&"/tmp"));
    assert!(lines.iter().filter(|line| line.starts_with("Cap")).all(|line| line.ends_with("0000000000000000")));

    let ran = restrictive(
        "for f in /x /etc/x /root/x /run/x /dev/x /proc/sys/kernel/hostname /sys/x; do echo 1 > $f && echo $f; done; true",
    );
    assert_eq!((ran.code, ran.stdout.as_str()), (0, ""), "{ran:?}");

    let ran = restrictive(
        "dd if=/dev/zero of=/tmp/a bs=1M count=40; dd if=/dev/zero of=/dev/shm/b bs=1M count=40; \
         cat /tmp/a /tmp/b | wc -c; [ -e /var/tmp/b ] && echo same",
    );
    // One room under all names, of 64 MiB.
    assert_eq!(ran.stdout, "67108864\nsame\n", "{ran:?}");

    let ran = restrictive("i=0; while [ $i -lt 300 ]; do sleep 20 & i=$((i+1)); done; echo never");
    assert!(ran.code != 0 && ran.stderr.contains("Resource temporarily unavailable"), "{ran:?}");
    assert!(!ran.stdout.contains("never"));
}

#[test]
fn a_restrictive_guest_reaches_nothing_by_any_way_out() {
    // Each attempt says so if it succeeds.
    let attempts = "
        for d in /dev/vda /dev/mem /dev/kmem /dev/port /dev/kmsg /dev/vport* /dev/hvc* /dev/ttyS*; do
            [ -e $d ] && { head -c 1 $d; } 2>/dev/null && echo GOT read $d
            [ -e $d ] && (echo x > $d) 2>/dev/null && echo GOT wrote $d
        done
        mknod /tmp/disk b 254 0 && echo GOT mknod
        mount -t tmpfs none /tmp && echo GOT mount
        mount -o remount,rw / && echo GOT remount
        umount /tmp && echo GOT umount
        unshare -Ur true && echo GOT userns
        unshare -n true && echo GOT netns
        chroot / true && echo GOT chroot
        insmod /lib/modules/x.ko && echo GOT insmod
        ping -c 1 -W 1 10.0.2.2 && echo GOT ping
        nslookup example.com && echo GOT dns
        nc -w 1 10.0.2.2 80 < /dev/null && echo GOT tcp
        ip link add dummy0 type dummy && echo GOT link
        ip addr add 10.0.0.1/8 dev lo && echo GOT address
        dmesg && echo GOT dmesg
        cat /proc/1/environ /proc/1/maps /proc/1/mem && echo GOT agent
        ls /proc/1/fd /proc/1/root && echo GOT descriptors
        kill -9 1 && echo GOT kill
        echo 1 > /proc/sysrq-trigger && echo GOT sysrq
        echo c > /proc/sys/kernel/core_pattern && echo GOT core_pattern
        cat /proc/kcore /proc/kmsg && echo GOT kcore
        echo 0 > /sys/fs/cgroup/cgroup.procs && echo GOT cgroup
        echo max > /sys/fs/cgroup/jobs/pids.max && echo GOT pids
        hostname taken && echo GOT hostname
        date -s 2000-01-01; [ $(date +%Y) = 2000 ] && echo GOT clock
        reboot -f && echo GOT reboot
        su -c true && echo GOT su
        true";
    let ran = restrictive(attempts);
    let got: Vec<&str> = ran.stdout.lines().filter(|line| line.starts_with("GOT")).collect();
    assert!(ran.code == 0 && got.is_empty(), "{ran:?}");
    assert!(ran.stderr.lines().count() > 20, "{ran:?}");
    let left = restrictive("ls /sys/class/net; ls -A /lib/modules 2>/dev/null; cat /proc/net/tcp | wc -l");
    assert_eq!(left.stdout, "lo\n1\n", "{left:?}");
}

/// The host writes where the guest's links lead, but not into the kernel's settings; and no memory outlives a command.
#[test]
fn a_sealed_machine_cannot_be_unsealed_through_its_caller() {
    let sandbox = Sandbox::up("links", &["--profile", "restrictive"]);
    let links =
        "ln -s /proc/sys/kernel/core_pattern /tmp/a; ln -s /proc/sysrq-trigger /tmp/b; ln -s /sys/power/state /tmp/c";
    assert_eq!(sandbox.sh(links).code, 0);
    for link in ["a", "b", "c"] {
        let path = format!("/tmp/{link}");
        let mut child = command(home())
            .args(["fs", "write", "links", &path, "--append"])
            .stdin(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        child.stdin.take().unwrap().write_all(b"|/tmp/e").unwrap();
        let ran: Ran = child.wait_with_output().unwrap().into();
        assert!(ran.code == 125 && !ran.stderr.is_empty(), "{link}: {ran:?}");
    }
    let left = sandbox.sh("cat /proc/sys/kernel/core_pattern /proc/sys/kernel/shmmni /proc/sys/fs/mqueue/queues_max");
    assert_eq!(left.stdout, "core\n0\n0\n", "{left:?}");
    // Commands go on as before.
    assert_eq!(sandbox.sh("echo on").stdout, "on\n");
}

#[test]
fn root_is_refused_under_every_name_that_the_guest_has_for_it() {
    let sandbox = Sandbox::up("roots", &["--profile", "restrictive"]);
    for user in ["root", "0", "00", "0:0", "1000:root", "1000:0", "4294967295", "1000:4294967295"] {
        let ran = mvmctl(&["exec", &sandbox.0, "--user", user, "--", "id"]);
        assert_eq!(ran.code, 126, "{user}: {ran:?}");
        assert!(ran.stderr.contains("user.unprivileged"), "{user}: {ran:?}");
    }
    assert_eq!(mvmctl(&["exec", &sandbox.0, "--user", "1000:1000", "--", "id", "-u"]).stdout, "1000\n");
}

#[test]
fn what_is_asked_of_a_sandbox_later_is_decided_by_the_profile_that_made_it() {
    let own = "extends = \"restrictive\"\n[files]\nin = false\nout = false\n[snapshots]\nsave = false\n[limits]\nttl = \"10m\"\n";
    let profiles = Profiles::new(&[("closed", own)]);
    let sandbox = Sandbox("closed-box".into());
    let ran = profiles.mvmctl(&["up", "--image", "base", "--name", &sandbox.0, "--profile", "closed"]);
    assert_eq!(ran.code, 0, "{ran:?}");
    // Whatever becomes of the file meanwhile.
    std::fs::remove_file(profiles.path("closed")).unwrap();
    for (args, rule) in [
        (vec!["fs", "read", "closed-box", "/etc/passwd"], "files.out"),
        (vec!["fs", "ls", "closed-box", "/"], "files.out"),
        (vec!["fs", "mkdir", "closed-box", "/tmp/d"], "files.in"),
        (vec!["fs", "rm", "closed-box", "/tmp/d"], "files.in"),
        (vec!["cp", "/etc/hostname", "closed-box:/tmp/f"], "files.in"),
        (vec!["snapshot", "save", "closed-box"], "snapshots.save"),
        (vec!["pause", "closed-box"], "snapshots.save"),
        (vec!["fork", "closed-box"], "snapshots.save"),
        (vec!["port", "add", "closed-box", "8080:80"], "ports.forward"),
        (vec!["keep", "closed-box", "--ttl", "11m"], "limits.ttl"),
        (vec!["exec", "closed-box", "--env", "A=1", "--", "true"], "env.variables"),
        (vec!["exec", "closed-box", "--timeout", "11m", "--", "true"], "limits.time"),
    ] {
        let ran = mvmctl(&args);
        assert!(ran.code == 126 && ran.stderr.contains(rule), "{args:?}: {ran:?}");
    }
    assert_eq!(sandbox.state(), "running");
    assert_eq!(mvmctl(&["exec", "closed-box", "--", "echo", "on"]).stdout, "on\n");
}

#[test]
fn what_was_decided_survives_a_save_and_memory_keeps_its_profile() {
    let sandbox = Sandbox::up("sealed", &["--profile", "restrictive"]);
    let sealed = |name: &str| {
        let ran = mvmctl(&["exec", name, "--", "sh", "-c", "touch /x; id -u; cat /tmp/kept"]);
        assert!(ran.stderr.contains("Read-only") && ran.stdout == "65534\nkept\n", "{name}: {ran:?}");
    };
    assert_eq!(sandbox.sh("echo kept > /tmp/kept").code, 0);
    assert_eq!(mvmctl(&["pause", "sealed"]).code, 0);
    assert_eq!(mvmctl(&["resume", "sealed"]).code, 0);
    sealed("sealed");
    assert_eq!(mvmctl(&["snapshot", "save", "sealed", "--name", "sealed-snap"]).code, 0);
    let copy = Sandbox("sealed-2".into());
    assert_eq!(mvmctl(&["restore", "sealed-snap", "--name", &copy.0]).code, 0);
    sealed(&copy.0);
    let request = r#"{"snapshot": "sealed-snap", "profile": "standard"}"#;
    let mut child = command(home())
        .args(["up", "--request", "-", "--json"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(request.as_bytes()).unwrap();
    let ran: Ran = child.wait_with_output().unwrap().into();
    assert!(ran.stdout.contains("InvalidRequest") && ran.stdout.contains("profile"), "{ran:?}");
    mvmctl(&["snapshot", "rm", "sealed-snap"]);
}

#[test]
fn layers_that_the_caller_named_hold_for_what_is_restored_too() {
    let profiles = Profiles::new(&[("loose", "extends = \"restrictive\"\n[isolation]\nrequire = []\n")]);
    let (sandbox, copy) = (Sandbox("layered".into()), Sandbox("layered-2".into()));
    let up = ["up", "--image", "base", "--name", "layered", "--profile", "loose"];
    let named = ["--require", "seccomp", "--require", "cgroup", "--allow-missing", "cgroup"];
    for args in [
        &[&up[..], &named].concat()[..],
        &["snapshot", "save", "layered", "--name", "layered-snap"],
        &["restore", "layered-snap", "--name", "layered-2"],
        &["snapshot", "rm", "layered-snap"],
    ] {
        let ran = profiles.mvmctl(args);
        assert_eq!(ran.code, 0, "{args:?}: {ran:?}");
    }
    let layers = |sandbox: &Sandbox| {
        let lines = sandbox.inspect()["plan"]["lines"].as_array().unwrap().clone();
        lines.into_iter().find(|line| line["rule"] == "isolation.layers").unwrap()["effect"].clone()
    };
    assert_eq!(layers(&copy), layers(&sandbox));
    let said = layers(&copy).as_str().unwrap().to_owned();
    assert!(said.contains("confined by: seccomp;") && said.ends_with("as the caller said: cgroup"), "{said}");
}

#[test]
fn profiles_are_shown_checked_and_explained() {
    let profiles = Profiles::new(&[
        ("mine", "extends = \"restrictive\"\ndescription = \"for tests\"\n[env]\nallow = [\"LANG\"]\n"),
        ("bad", "[limits]\nmemmory = \"1G\"\n"),
        ("loop-a", "extends = \"loop-b\"\n"),
        ("loop-b", "extends = \"loop-a\"\n"),
    ]);
    let list = profiles.mvmctl(&["policy", "show"]);
    assert!(list.stdout.contains("restrictive") && list.stdout.contains("for tests"), "{list:?}");
    let shown = profiles.mvmctl(&["policy", "show", "mine"]);
    assert!(shown.stdout.contains("[\"LANG\"]") && shown.stdout.contains("\"1G\""), "{shown:?}");
    let checked = profiles.mvmctl(&["policy", "check"]);
    assert!(checked.code == 125 && checked.stdout.contains("mine.toml: sound"), "{checked:?}");
    assert!(checked.stderr.contains("line 2, column 1") && checked.stderr.contains("memmory"), "{checked:?}");
    assert!(checked.stderr.contains("builds on itself"), "{checked:?}");
    let ran = profiles.mvmctl(&["run", "--profile", "bad", "--", "true"]);
    assert!(ran.code == 125 && ran.stderr.contains("line 2, column 1"), "{ran:?}");
    let explained = mvmctl(&["policy", "explain", "env.variables"]);
    assert!(explained.stdout.contains("env.allow"), "{explained:?}");
    assert_eq!(mvmctl(&["policy", "explain", "no.rule"]).code, 125);
    let with_lang = profiles.mvmctl(&[
        "run",
        "--image",
        "base",
        "--profile",
        "mine",
        "-e",
        "LANG=x",
        "--",
        "sh",
        "-c",
        "echo $LANG",
    ]);
    assert_eq!(with_lang.stdout, "x\n", "{with_lang:?}");
    let schema: Value = serde_json::from_str(&mvmctl(&["policy", "schema"]).stdout).unwrap();
    let plan: Value = serde_json::from_str(&mvmctl(&["policy", "schema", "plan"]).stdout).unwrap();
    assert!(schema["properties"]["limits"].is_object() && plan["$defs"]["Denial"].is_object());
}

#[test]
fn permissive_has_to_be_meant() {
    let ran = run(&["--profile", "permissive"], &["true"]);
    assert!(ran.code == 126 && ran.stderr.contains("--accept-risk"), "{ran:?}");
    assert_eq!(run(&["--profile", "permissive", "--accept-risk"], &["true"]).code, 0);
}

/// `docs/policy.md`.
fn page() -> String {
    std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/policy.md")).unwrap()
}

/// A value of a profile as the page's table has it.
fn cell(field: &str, value: &Value) -> String {
    let number = value.as_u64();
    match (field, value) {
        ("limits.time" | "limits.ttl", Value::Number(_)) => units::duration(number.unwrap()),
        ("limits.memory" | "limits.disk" | "limits.output" | "root.scratch", Value::Number(_)) => {
            units::size(number.unwrap())
        }
        (_, Value::Null) => "none".to_owned(),
        (_, Value::Bool(yes)) => if *yes { "yes" } else { "no" }.to_owned(),
        ("user.default", Value::String(user)) if user.is_empty() => "the image's".to_owned(),
        (_, Value::String(text)) => text.clone(),
        (_, Value::Array(names)) if names.is_empty() => "none".to_owned(),
        ("isolation.require", Value::Array(layers)) => format!("{} layers, below", layers.len()),
        (_, other) => other.to_string(),
    }
}

/// The fields of a profile by their dotted names.
fn fields(profile: &Value) -> Vec<(String, Value)> {
    let mut all = Vec::new();
    for (section, value) in profile.as_object().unwrap().iter().filter(|(name, _)| *name != "name") {
        match value {
            Value::Object(inner) => all.extend(inner.iter().map(|(f, v)| (format!("{section}.{f}"), v.clone()))),
            value if ["env", "secrets", "ports"].contains(&section.as_str()) => {
                all.push((format!("{section}.allow"), value.clone()));
            }
            value => all.push((section.clone(), value.clone())),
        }
    }
    all
}

fn must_have(table: &str) {
    assert!(page().contains(table), "docs/policy.md must have this table:\n{table}");
}

#[test]
fn the_page_shows_the_profiles_as_they_are() {
    let names = ["restrictive", "standard", "dev", "permissive"];
    let profiles = names.map(|name| fields(&json(&["policy", "show", name, "--json"])["profile"]));
    let row = |index: usize, field: &str| -> String {
        let cells = profiles.iter().map(|profile| cell(field, &profile[index].1));
        format!("| `{field}` | {} |\n", cells.collect::<Vec<_>>().join(" | "))
    };
    // As `policy show` orders them.
    let shown = mvmctl(&["policy", "show", "restrictive"]).stdout;
    let order: Vec<&str> = shown.lines().filter_map(|line| line.strip_prefix("  ")?.split(' ').next()).collect();
    let known: Vec<&str> =
        profiles[0].iter().map(|(field, _)| field.as_str()).filter(|f| *f != "description").collect();
    assert_eq!(order.iter().filter(|field| known.contains(field)).count(), known.len(), "{known:?} {shown}");
    let place = |field: &str| profiles[0].iter().position(|(known, _)| known == field);
    let rows: String = order.iter().filter_map(|field| Some(row(place(field)?, field))).collect();
    let head = "| | `restrictive` | `standard` | `dev` | `permissive` |\n| --- | --- | --- | --- | --- |\n";
    must_have(&format!("{head}{rows}\n"));
}

#[test]
fn the_page_shows_the_rules_as_they_are() {
    let rules = json(&["policy", "explain", "--json"])["rules"].as_array().unwrap().clone();
    let row = |rule: &Value| {
        let text = |name: &str| rule[name].as_str().unwrap().to_owned();
        let fields: Vec<String> = text("field").split(", ").map(|field| format!("`{field}`")).collect();
        let set_by = if text("field") == "-" { "-".to_owned() } else { fields.join(", ") };
        format!("| `{}` | {} | {set_by} | {} |\n", text("id"), text("decides"), text("held_by"))
    };
    let head = "| rule | what it decides | set by | held by |\n| --- | --- | --- | --- |\n";
    must_have(&format!("{head}{}\n", rules.iter().map(row).collect::<String>()));
}

#[test]
fn the_page_shows_every_layer_and_which_are_demanded() {
    let schema: Value = serde_json::from_str(&mvmctl(&["policy", "schema"]).stdout).unwrap();
    let layers =
        schema["properties"]["isolation"]["properties"]["require"]["items"]["enum"].as_array().unwrap().clone();
    let demanded = |name: &str| json(&["policy", "show", name, "--json"])["profile"]["isolation"]["require"].clone();
    assert!(["standard", "dev"].iter().all(|name| demanded(name) == demanded("restrictive")));
    let of = demanded("restrictive");
    let rows: Vec<String> = layers
        .iter()
        .map(|layer| {
            let yes = if of.as_array().unwrap().contains(layer) { "yes" } else { "no" };
            format!("| `{}` | {yes} | ", layer.as_str().unwrap())
        })
        .collect();
    let page = page();
    let shown: Vec<&str> = page
        .lines()
        .skip_while(|line| !line.starts_with("| layer |"))
        .skip(2)
        .take_while(|line| line.starts_with('|'))
        .collect();
    assert_eq!(shown.len(), rows.len(), "{rows:?}");
    assert!(shown.iter().zip(&rows).all(|(line, row)| line.starts_with(row.as_str())), "must be {rows:?}");
}
