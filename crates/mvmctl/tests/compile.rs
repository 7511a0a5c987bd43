//! Bundles of workloads: what they are made of, that they are the same wherever they are made, and that damage is refused.

mod common;

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use common::{Ran, command};
use serde_json::{Value, json as object};

/// SHA-256 of `hello` and its base64.
const HELLO: (&str, &str) = ("2cf24dba5fb0a30e26e83b2ac5b9e29e1b161e5c1fa7425e73043362938b9824", "aGVsbG8=");

/// A directory to work in.
struct Place(tempfile::TempDir);

impl Place {
    fn new() -> Place {
        Place(tempfile::tempdir().unwrap())
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn write(&self, name: &str, content: impl AsRef<[u8]>) {
        fs::write(self.path(name), content).unwrap();
    }

    /// `mvmctl ARGS` in it.
    fn ran(&self, args: &[&str]) -> Ran {
        let home = self.0.path().join(".home");
        command(&home).args(args).current_dir(self.0.path()).stdin(Stdio::null()).output().unwrap().into()
    }

    fn names(&self) -> Vec<String> {
        let mut names: Vec<_> = fs::read_dir(self.0.path())
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.retain(|name| name != ".home");
        names.sort();
        names
    }
}

fn json(ran: &Ran) -> Value {
    serde_json::from_str(&ran.stdout).unwrap_or_else(|e| panic!("{e}: {ran:?}"))
}

fn recording() -> Value {
    object!({
        "schema": "mvm.recording/v1", "program": "agent.py",
        "calls": [
            {"place": "agent.py:1", "call": {"create": {"image": "base"}}},
            {"place": "agent.py:2", "call": {"files.write": {"path": "/hello", "content": HELLO.0}}},
            {"place": "agent.py:3", "call": {"close": {}}},
        ],
        "contents": {HELLO.0: HELLO.1},
    })
}

/// A place with the bundles `bundle` and `bundle.tar.zst` of the recording.
fn compiled() -> Place {
    let place = Place::new();
    place.write("calls.json", recording().to_string());
    for out in ["bundle", "bundle.tar.zst"] {
        let ran = place.ran(&["compile", "--from-recording", "calls.json", "--out", out]);
        assert_eq!(ran.code, 0, "{}", ran.stderr);
    }
    place
}

#[test]
fn a_recording_becomes_a_bundle_that_compiles_to_itself() {
    let place = compiled();
    assert_eq!(fs::read(place.path("bundle/contents").join(HELLO.0)).unwrap(), b"hello");
    let printed = place.ran(&["compile", "--from-recording", "calls.json"]);
    assert_eq!(fs::read_to_string(place.path("bundle/workload.json")).unwrap() + "\n", printed.stdout);
    for input in ["bundle", "bundle.tar.zst", "bundle/workload.json"] {
        assert_eq!(place.ran(&["compile", input]).stdout, printed.stdout, "{input}");
        assert_eq!(json(&place.ran(&["plan", input, "--json"]))["allowed"], true, "{input}");
        let ran = place.ran(&["compile", input, "--out", "again.tar.zst", "--json"]);
        assert_eq!(json(&ran)["contents"], 1, "{ran:?}");
        assert_eq!(fs::read(place.path("again.tar.zst")).unwrap(), fs::read(place.path("bundle.tar.zst")).unwrap());
    }
    let shown = place.ran(&["compile", "bundle", "--out", "other"]);
    assert!(shown.stdout.contains("1 content, 5 B in other\n  try:  mvmctl plan other\n"), "{}", shown.stdout);
    // Another folder, another time: the same bytes.
    let other = compiled();
    assert_eq!(fs::read(other.path("bundle.tar.zst")).unwrap(), fs::read(place.path("bundle.tar.zst")).unwrap());
    // They are in other people's lock files: they change with the format of bundles, and with nothing else.
    let digest = place.ran(&["compile", "bundle", "--out", "bundle", "--json"]);
    assert_eq!(json(&digest)["digest"], "sha256:4358c63d26593173e696a99ed8762833335e5702b5658197bb85910b76471c72");
}

#[test]
fn a_bundle_replaces_a_bundle_and_nothing_else() {
    let place = compiled();
    place.write("workload.json", r#"{"schema": "mvm.workload/v1", "name": "web"}"#);
    for out in ["bundle", "bundle.tar.zst"] {
        assert_eq!(place.ran(&["compile", "workload.json", "--out", out]).code, 0);
        assert!(place.ran(&["compile", out]).stdout.contains(r#""name":"web""#));
    }
    assert!(!place.path("bundle/contents").exists());
    fs::create_dir(place.path("mine")).unwrap();
    place.write("mine/notes", "kept");
    place.write("file", "kept");
    symlink("mine", place.path("link")).unwrap();
    for out in ["mine", "file", "link"] {
        let ran = place.ran(&["compile", "workload.json", "--out", out, "--json"]);
        assert_eq!((ran.code, &json(&ran)["error"]["code"]), (125, &object!("AlreadyExists")), "{out}: {ran:?}");
    }
    assert_eq!(place.ran(&["compile", "workload.json", "--out", "none/bundle"]).code, 125);
    let names = ["bundle", "bundle.tar.zst", "calls.json", "file", "link", "mine", "workload.json"];
    assert_eq!(place.names(), names, "nothing is left behind");
    assert_eq!(fs::read_to_string(place.path("mine/notes")).unwrap(), "kept");
}

#[test]
fn a_bundle_that_is_no_longer_whole_is_refused() {
    let refused = |damage: &dyn Fn(&Path), why: &str| {
        let place = compiled();
        damage(&place.path("bundle"));
        let ran = place.ran(&["plan", "bundle"]);
        assert_eq!(ran.code, 125, "{why}: {}", ran.stdout);
        assert!(ran.stderr.contains("cannot read the bundle bundle") && ran.stderr.contains(why), "{}", ran.stderr);
    };
    let content = |bundle: &Path| bundle.join("contents").join(HELLO.0);
    refused(&|bundle| fs::write(content(bundle), "hallo").unwrap(), "not what its digest says");
    refused(&|bundle| fs::write(content(bundle), "hello, and more").unwrap(), "larger than it should be");
    refused(&|bundle| fs::remove_file(content(bundle)).unwrap(), "there is no");
    refused(&|bundle| fs::remove_dir_all(bundle.join("contents")).unwrap(), "contents: ");
    refused(&|bundle| fs::write(bundle.join("more"), "").unwrap(), "more is no part of a bundle");
    refused(&|bundle| fs::write(bundle.join("contents/more"), "").unwrap(), "more is no part of a bundle");
    refused(&|bundle| fs::write(bundle.join("workload.json"), "{").unwrap(), "workload.json: ");
    refused(&|bundle| fs::remove_file(bundle.join("workload.json")).unwrap(), "there is no workload.json");
    let elsewhere = tempfile::NamedTempFile::new().unwrap();
    fs::write(&elsewhere, "hello").unwrap();
    let linked = |bundle: &Path| {
        fs::remove_file(content(bundle)).unwrap();
        symlink(elsewhere.path(), content(bundle)).unwrap();
    };
    refused(&linked, HELLO.0);
}

/// A tar of these entries, compressed.
fn archive(entries: &[(&str, tar::EntryType, &[u8])]) -> Vec<u8> {
    let mut tar = tar::Builder::new(Vec::new());
    for (name, kind, bytes) in entries {
        let mut header = tar::Header::new_ustar();
        header.as_ustar_mut().unwrap().name[..name.len()].copy_from_slice(name.as_bytes());
        header.set_entry_type(*kind);
        header.set_size(bytes.len() as u64);
        header.set_mode(0o644);
        header.set_cksum();
        tar.append(&header, *bytes).unwrap();
    }
    zstd::encode_all(tar.into_inner().unwrap().as_slice(), 1).unwrap()
}

#[test]
fn a_hostile_archive_is_refused_and_writes_nothing() {
    let place = compiled();
    let document = fs::read(place.path("bundle/workload.json")).unwrap();
    let (whole, content) = (fs::read(place.path("bundle.tar.zst")).unwrap(), format!("contents/{}", HELLO.0));
    let (file, link) = (tar::EntryType::Regular, tar::EntryType::Symlink);
    let bomb = vec![0; 64 << 20];
    let said: &[(Vec<u8>, &str)] = &[
        (whole[..whole.len() - 40].to_vec(), "damaged"),
        (archive(&[]), "nothing in it"),
        (archive(&[(&content, file, b"hello"), ("workload.json", file, &document)]), "not the first"),
        (archive(&[("workload.json", file, &document)]), "missing"),
        (archive(&[("workload.json", file, &document), (&content, file, b"hallo")]), "not what its digest says"),
        (archive(&[("workload.json", file, &document), (&content, file, &bomb)]), "larger than it should be"),
        (archive(&[("workload.json", file, &bomb)]), "larger than it should be"),
        (archive(&[("workload.json", file, &document), ("../evil", file, b"hello")]), "../evil is no part"),
        (archive(&[("workload.json", file, &document), (&content, link, b"")]), "no regular file"),
        (
            archive(&[("workload.json", file, &document), (&content, file, b"hello"), (&content, file, b"hello")]),
            "twice",
        ),
    ];
    let before = place.names();
    for (bytes, why) in said {
        place.write("bundle.tar.zst", bytes);
        let ran = place.ran(&["plan", "bundle.tar.zst"]);
        assert_eq!(ran.code, 125, "{why}: {}", ran.stdout);
        assert!(ran.stderr.contains(why), "{why}: {}", ran.stderr);
    }
    assert_eq!(place.names(), before);
}

#[test]
fn what_cannot_be_compiled_says_why() {
    let place = Place::new();
    place.write("calls.json", recording().to_string().replace("/hello", "/../hello"));
    let ran = place.ran(&["compile", "--from-recording", "calls.json"]);
    assert_eq!(ran.code, 125);
    assert!(
        ran.stderr.contains("cannot compile the recording calls.json: at /calls/1/call/files.write/path: agent.py:2: ")
    );
    let with_contents = object!({
        "schema": "mvm.workload/v1", "name": "web",
        "files": [{"path": "/a", "content": {"sha256": HELLO.0, "bytes": 5}}],
    });
    place.write("web.json", with_contents.to_string());
    let ran = place.ran(&["compile", "web.json", "--out", "bundle"]);
    assert!(ran.code == 125 && ran.stderr.contains("it names contents"), "{}", ran.stderr);
    let huge = with_contents.to_string().replace(r#""bytes":5"#, r#""bytes":5000000000"#);
    fs::create_dir(place.path("huge")).unwrap();
    place.write("huge/workload.json", huge);
    let ran = place.ran(&["compile", "huge", "--json"]);
    assert!(ran.code == 125 && ran.stdout.contains("--out"), "{ran:?}");
    let ran = place.ran(&["plan", "huge", "--json"]);
    assert_eq!(json(&ran)["error"]["code"], "ResourceExhausted");
    assert_eq!(place.ran(&["compile"]).code, 125);
    assert_eq!(place.ran(&["compile", "nothing.json"]).code, 125);
}

/// A script that stands in for one that uses an SDK: it writes the recording as that would.
const SCRIPT: &str = "import os, sys\nassert os.environ['MVM_SDK_MODE'] == 'record'\nprint('said')\n\
     open(os.environ['MVM_SDK_OUT_PATH'], 'w').write(open('calls.json').read())\nsys.exit(int(sys.argv[1]))\n";

#[test]
fn a_script_is_recorded_on_this_host_and_only_if_it_ends_well() {
    let place = Place::new();
    place.write("calls.json", recording().to_string());
    place.write("agent.py", SCRIPT);
    let ran = place.ran(&["compile", "--record", "--out", "bundle", "agent.py", "0"]);
    assert_eq!(ran.code, 0, "{}", ran.stderr);
    assert!(ran.stderr.contains("agent.py runs on this host to be recorded, and is not sandboxed\nsaid\n"));
    let printed = place.ran(&["compile", "--record", "agent.py", "0"]);
    assert_eq!(printed.stdout, fs::read_to_string(place.path("bundle/workload.json")).unwrap() + "\n");
    let ran = place.ran(&["run", "--mode", "record", "--out", "again.json", "agent.py", "0"]);
    assert_eq!(ran.code, 0, "{}", ran.stderr);
    assert_eq!(fs::read(place.path("again.json")).unwrap(), fs::read(place.path("calls.json")).unwrap());
    let ran = place.ran(&["run", "--mode", "plan", "--json", "agent.py", "0"]);
    assert_eq!(json(&ran)["name"], "agent", "{ran:?}");
    place.write("none.py", "");
    let before = place.names();
    for (script, status, why) in [("agent.py", "3", "exit status 3"), ("none.py", "0", "wrote no recording")] {
        for verb in [&["compile", "--record", "--out", "new"][..], &["run", "--mode", "record", "--out", "new"]] {
            let ran = place.ran(&[verb, &[script, status]].concat());
            assert!(ran.code == 125 && ran.stderr.contains(why), "{verb:?}: {ran:?}");
        }
    }
    for options in
        [&["record"][..], &["record", "--json", "--out", "x"], &["live", "--out", "x"], &["plan", "--profile", "dev"]]
    {
        let ran = place.ran(&[&["run", "--mode"], options, &["agent.py", "0"]].concat());
        assert!(ran.code == 125 && !ran.stderr.contains("said"), "{options:?}: {ran:?}");
    }
    assert_eq!(place.names(), before);
}
