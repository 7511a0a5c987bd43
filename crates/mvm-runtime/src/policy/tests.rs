use mvm_wire::api::{Machine, PortRequest};
use proptest::prelude::*;

use super::*;
use crate::vmm::confine::Layer;

fn all_layers() -> Vec<LayerReport> {
    Layer::ALL.into_iter().map(|layer| LayerReport { layer, applied: true, missing: String::new() }).collect()
}

fn without(missing: &[Layer]) -> Vec<LayerReport> {
    let report = |layer| LayerReport { layer, applied: !missing.contains(&layer), missing: "not here".into() };
    Layer::ALL.into_iter().map(report).collect()
}

fn port(address: &str) -> PortRequest {
    let address = address.parse().unwrap();
    PortRequest { address, host_port: 8080, guest_port: 80, protocol: "tcp".into() }
}

const SMALL: Machine = Machine { cpus: 1, memory_mib: 256, disk_bytes: 4 << 30 };

fn denied_by(operation: Operation, ask: &Ask<'_>, profile: &str) -> Vec<String> {
    let plan = admit(operation, ask, &built_in(profile).unwrap());
    assert_eq!(plan.allowed, plan.denials.is_empty());
    for denial in &plan.denials {
        assert!(!denial.reason.is_empty() && !denial.remedy.is_empty());
        assert!(find(&denial.rule).is_some(), "{}", denial.rule);
    }
    assert!(plan.lines.iter().all(|line| find(&line.rule).is_some()));
    plan.denials.into_iter().map(|denial| denial.rule).collect()
}

#[test]
fn what_a_caller_brings_is_shown_harmless_and_cut() {
    let layers = all_layers();
    let long = "A".repeat(100_000);
    for name in [long.as_str(), "A\x1b[2J\u{202e}"] {
        let fine = Ask { machine: Some(SMALL), layers: &layers, ..Ask::default() };
        for ask in [
            Ask { env: vec![name], ..fine.clone() },
            Ask { secrets: vec![name], ..fine.clone() },
            Ask { user: &format!("0:{name}"), ..fine },
        ] {
            let plan = admit(Operation::Up, &ask, &built_in("restrictive").unwrap());
            let text = serde_json::to_string(&(&plan.lines, &plan.denials)).unwrap();
            assert!(!plan.allowed && text.len() < 20_000, "{}", text.len());
            assert!(!text.contains("\\u001b") && !text.contains('\u{202e}'), "{text}");
        }
        for error in [check_layers(&[name.to_owned()]).unwrap_err(), load(name).unwrap_err()] {
            assert!(error.to_string().len() < 10_000 && !error.to_string().contains('\x1b'));
        }
    }
}

#[test]
fn restrictive_refuses_each_thing_by_its_own_rule() {
    let layers = all_layers();
    let fine = Ask { machine: Some(SMALL), layers: &layers, ..Ask::default() };
    assert!(denied_by(Operation::Run, &fine, "restrictive").is_empty());
    let ports = [port("127.0.0.1")];
    let missing = without(&[Layer::Seccomp]);
    for (ask, rule) in [
        (Ask { env: vec!["TOKEN"], ..fine.clone() }, "env.variables"),
        (Ask { secrets: vec!["TOKEN"], ..fine.clone() }, "secrets.grants"),
        (Ask { user: "root", ..fine.clone() }, "user.unprivileged"),
        (Ask { user: "1000:0", ..fine.clone() }, "user.unprivileged"),
        (Ask { machine: Some(Machine { cpus: 99, ..SMALL }), ..fine.clone() }, "limits.cpus"),
        (Ask { machine: Some(Machine { memory_mib: 1025, ..SMALL }), ..fine.clone() }, "limits.memory"),
        (Ask { machine: Some(Machine { disk_bytes: 5 << 30, ..SMALL }), ..fine.clone() }, "limits.disk"),
        (Ask { timeout_ms: Some(600_001), ..fine.clone() }, "limits.time"),
        (Ask { output_bytes: Some(17 << 20), ..fine.clone() }, "limits.output"),
        (Ask { layers: &missing, ..fine.clone() }, "isolation.layers"),
        (Ask { ports: &ports, ..fine.clone() }, "ports.forward"),
        (Ask { ttl_ms: Some(None), ..fine.clone() }, "limits.ttl"),
        (Ask { ttl_ms: Some(Some(3_600_001)), ..fine.clone() }, "limits.ttl"),
    ] {
        assert_eq!(denied_by(Operation::Up, &ask, "restrictive"), [rule]);
    }
}

#[test]
fn what_was_not_asked_for_gets_the_profiles_bounds() {
    let layers = all_layers();
    let ask = Ask { machine: Some(SMALL), layers: &layers, ..Ask::default() };
    let enforced = admit(Operation::Run, &ask, &built_in("restrictive").unwrap()).enforced;
    assert_eq!(enforced.timeout_ms, Some(600_000));
    assert_eq!((enforced.processes, enforced.output_bytes), (Some(128), Some(16 << 20)));
    assert_eq!((enforced.scratch_bytes, enforced.unprivileged), (Some(64 << 20), true));
    let mut exec = Exec { argv: vec!["id".into()], ..Exec::default() };
    enforce(&enforced, &mut exec);
    assert_eq!((exec.user.as_str(), exec.cwd.as_str(), exec.max_processes), ("65534:65534", "/tmp", 128));
    let free = admit(Operation::Run, &ask, &built_in("standard").unwrap()).enforced;
    assert_eq!(free, Enforced { cpus: 1, memory_mib: 256, disk_bytes: 4 << 30, ..Enforced::default() });
}

#[test]
fn ports_are_for_this_host_unless_a_profile_says_otherwise() {
    let (here, everywhere) = ([port("127.0.0.1"), port("::1")], [port("0.0.0.0")]);
    let ask = |ports| Ask { ports, ..Ask::default() };
    assert!(denied_by(Operation::Port, &ask(&here), "standard").is_empty());
    assert_eq!(denied_by(Operation::Port, &ask(&everywhere), "standard"), ["ports.forward"]);
    assert!(denied_by(Operation::Port, &ask(&everywhere), "dev").is_empty());
    assert_eq!(denied_by(Operation::Port, &ask(&here), "restrictive"), ["ports.forward", "ports.forward"]);
}

#[test]
fn permissive_wants_to_be_meant_and_then_asks_for_no_layer() {
    let missing = without(&[Layer::Seccomp, Layer::NetworkNamespace]);
    let ask = Ask { machine: Some(SMALL), layers: &missing, ..Ask::default() };
    assert_eq!(denied_by(Operation::Run, &ask, "permissive"), ["profile.acknowledged"]);
    assert!(denied_by(Operation::Run, &Ask { accept_risk: true, ..ask.clone() }, "permissive").is_empty());
    assert_eq!(denied_by(Operation::Run, &ask, "dev"), ["isolation.layers", "isolation.layers"]);
}

#[test]
fn a_layer_can_be_demanded_and_waived_by_name() {
    let missing = without(&[Layer::Cgroup]);
    let (cgroup, both) = (["cgroup".to_owned()], ["cgroup".to_owned()]);
    let ask = Ask { machine: Some(SMALL), layers: &missing, require: &cgroup, ..Ask::default() };
    let plan = admit(Operation::Run, &ask, &built_in("restrictive").unwrap());
    assert!(plan.denials[0].reason.contains("cgroup") && plan.denials[0].remedy.contains("--allow-missing cgroup"));
    let plan = admit(Operation::Run, &Ask { allow_missing: &both, ..ask }, &built_in("restrictive").unwrap());
    assert!(plan.allowed);
    assert_eq!(plan.allowed_missing, ["cgroup"]);
    assert!(check_layers(&["cgroop".to_owned()]).is_err());
}

#[test]
fn no_network_is_had_by_either_layer() {
    let by = |missing: &[Layer]| first_missing(&[NO_NETWORK.to_owned()], &without(missing)).is_none();
    assert!(by(&[]) && by(&[Layer::Seccomp]) && by(&[Layer::NetworkNamespace]));
    assert!(!by(&[Layer::Seccomp, Layer::NetworkNamespace]));
}

#[test]
fn the_mandatory_layers_are_layers() {
    check_layers(&mandatory()).unwrap();
}

#[test]
fn equal_plans_have_equal_digests_and_others_do_not() {
    let layers = all_layers();
    let ask = Ask { machine: Some(SMALL), layers: &layers, ..Ask::default() };
    let plan = |profile: &str| digest(&admit(Operation::Run, &ask, &built_in(profile).unwrap()));
    assert_eq!(plan("standard"), plan("standard"));
    assert_ne!(plan("standard"), plan("dev"));
}

proptest! {
    /// What a profile allows, a profile that allows more allows too.
    #[test]
    fn a_looser_profile_refuses_nothing_that_a_stricter_one_allows(
        env in prop::collection::vec("[A-Z]{1,3}", 0..3),
        user in prop::sample::select(vec!["", "root", "0:0", "nobody"]),
        cpus in 1u32..8, memory_mib in 128u32..4096,
        timeout_ms in prop::option::of(1u64..2_000_000),
        exposed: bool, with_port: bool, ttl in prop::option::of(prop::option::of(1u64..9_000_000)),
    ) {
        let layers = all_layers();
        let ports: Vec<PortRequest> = with_port.then(|| port(if exposed { "0.0.0.0" } else { "127.0.0.1" })).into_iter().collect();
        let ask = Ask {
            accept_risk: true,
            env: env.iter().map(String::as_str).collect(),
            user,
            ports: &ports,
            machine: Some(Machine { cpus, memory_mib, ..SMALL }),
            timeout_ms,
            ttl_ms: ttl,
            layers: &layers,
            ..Ask::default()
        };
        let allowed: Vec<bool> =
            BUILT_IN.iter().map(|name| admit(Operation::Up, &ask, &built_in(name).unwrap()).allowed).collect();
        prop_assert!(allowed.is_sorted(), "{allowed:?}");
    }

    #[test]
    fn any_text_is_a_profile_or_an_error(text in ".{0,200}") {
        let _ = parse("any", "a text", &text);
    }
}

fn written(text: &str) -> Result<Profile> {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("mine.toml");
    std::fs::write(&path, text).unwrap();
    let found = check(&path);
    assert_eq!(found, parse("mine", &path.display().to_string(), text), "a file is what its text is");
    found
}

#[test]
fn a_written_profile_differs_where_it_says_so() {
    let profile = written(
        "extends = \"restrictive\"\n[env]\nallow = [\"LANG\"]\n[limits]\nmemory = \"2G\"\ntime = \"none\"\ncpus = 4\nttl = 60\n",
    )
    .unwrap();
    let base = built_in("restrictive").unwrap();
    assert_eq!(profile.env, Names::Only(vec!["LANG".into()]));
    assert_eq!((profile.limits.memory, profile.limits.time, profile.limits.cpus), (Some(2 << 30), None, Some(4)));
    assert_eq!((profile.limits.ttl, profile.limits.processes), (Some(60_000), base.limits.processes));
    assert_eq!((profile.ports, profile.user.clone()), (base.ports, base.user));
    assert_eq!(written("").unwrap(), Profile { name: "mine".into(), ..built_in("standard").unwrap() });
}

#[test]
fn what_is_wrong_is_told_with_its_place() {
    for (text, told) in [
        ("colour = 1\n", "line 1, column 1"),
        ("[env]\nalow = \"any\"\n", "line 2, column 1"),
        ("[limits]\nmemory = \"lots\"\n", "line 2, column 10"),
        ("[limits]\n  cpus = 0\n", "line 2, column 10"),
        ("[limits]\ncpus = -1\n", "line 2, column 8"),
        ("[ports]\nallow = \"some\"\n", "line 2, column 9"),
        ("[env]\nallow = 3\n", "line 2, column 9"),
        ("[env]\nallow = \"all\"\n", "line 2, column 9"),
        ("[env\n", "line 1"),
        ("[env]\nallow = [\"A\"]\nallow = []\n", "line 3, column 1"),
        ("extends = \"nothing-such\"\n", "none of this name"),
        ("extends = \"../x\"\n", "lower-case letters"),
        ("[isolation]\nrequire = [\"walls\"]\n", "walls"),
        ("[isolation]\nrequire = [\"seccomp\", \"seccomp\"]\n", "twice"),
        ("[root]\nwritable = false\n", "user.root"),
        ("[user]\nroot = false\n", "user.default"),
        ("[user]\nroot = false\ndefault = \"0:5\"\n", "user.default"),
        ("extends = \"restrictive\"\n[limits]\nmemory = \"64M\"\n", "128M"),
        ("extends = \"restrictive\"\n[root]\nscratch = \"2G\"\n", "root.scratch"),
    ] {
        let error = written(text).expect_err(text);
        assert!(error.to_string().contains(told), "{text:?}: {error}");
        assert_eq!(error.code == mvm_wire::ErrorCode::NotFound, text.contains("nothing-such"));
    }
}

#[test]
fn a_profile_that_others_could_have_written_is_refused() {
    use std::os::unix::fs::PermissionsExt;
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("mine.toml");
    std::fs::write(&path, "").unwrap();
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o666)).unwrap();
    assert!(check(&path).unwrap_err().why.contains("others may write"));
    std::fs::create_dir(dir.path().join("folder.toml")).unwrap();
    assert!(check(&dir.path().join("folder.toml")).unwrap_err().why.contains("no regular file"));
    assert!(check(&dir.path().join("standard.toml")).unwrap_err().why.contains("built-in"));
    std::fs::write(&path, vec![b'#'; 70 << 10]).unwrap();
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
    assert!(check(&path).unwrap_err().why.contains("larger"));
}

/// The names of an object's members, with those of the objects in it.
fn members(prefix: &str, value: &serde_json::Value, into: &mut Vec<String>) {
    for (name, inner) in value.as_object().unwrap() {
        let name = format!("{prefix}{name}");
        match inner.is_object() {
            true => members(&format!("{name}."), inner, into),
            false => into.push(name),
        }
    }
}

#[test]
fn the_schema_knows_the_fields_and_the_layers_that_there_are() {
    let schema: serde_json::Value = serde_json::from_str(PROFILE_JSON_SCHEMA).unwrap();
    let mut described = Vec::new();
    for (name, field) in schema["properties"].as_object().unwrap() {
        let field = match field["$ref"].as_str() {
            Some(there) => schema.pointer(there.trim_start_matches('#')).unwrap(),
            None => field,
        };
        match field["properties"].as_object() {
            Some(inner) => described.extend(inner.keys().map(|inner| format!("{name}.{inner}"))),
            None => described.push(name.clone()),
        }
    }
    let mut there = vec!["extends".to_owned()];
    members("", &serde_json::to_value(built_in("restrictive").unwrap()).unwrap(), &mut there);
    let there = there.into_iter().filter(|name| name != "name").map(|name| match name.as_str() {
        "env" | "secrets" | "ports" => format!("{name}.allow"),
        _ => name,
    });
    let set = |names: Vec<String>| names.into_iter().collect::<std::collections::BTreeSet<_>>();
    assert_eq!(set(described), set(there.collect()));
    let layers = &schema["properties"]["isolation"]["properties"]["require"]["items"]["enum"];
    let all: Vec<String> = Layer::ALL.into_iter().map(Layer::name).chain([NO_NETWORK.to_owned()]).collect();
    assert_eq!(*layers, serde_json::json!(all));
}
