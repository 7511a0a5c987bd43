//! Workloads that source files declare, through the command line: read, with the files beside them, and never run.

mod common;

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::PathBuf;
use std::process::Stdio;

use common::{Ran, command};
use serde_json::{Value, json as object};

/// A directory with files to compile.
struct Place(tempfile::TempDir);

impl Place {
    fn new(files: &[(&str, &str)]) -> Place {
        let place = Place(tempfile::tempdir().unwrap());
        for (name, text) in files {
            let path = place.path(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        place
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn ran(&self, args: &[&str]) -> Ran {
        let home = tempfile::tempdir().unwrap();
        let mut command = command(home.path());
        // Interpreters are found in the place first.
        let path = format!("{}:{}", self.0.path().display(), std::env::var("PATH").unwrap());
        command.env("PATH", path).args(args).current_dir(self.0.path()).stdin(Stdio::null());
        command.output().unwrap().into()
    }
}

fn json(ran: &Ran) -> Value {
    serde_json::from_str(&ran.stdout).unwrap_or_else(|e| panic!("{e}: {ran:?}"))
}

/// A module that declares a workload with these arguments besides its name, and does harm when it is run.
fn module(arguments: &str) -> String {
    format!("import mvm\n@mvm.app(name='web', {arguments})\ndef run(): ...\nopen('ran', 'w')\nwhile True: pass\n")
}

const SOURCE: &str = "source=mvm.local_path('src', include=['**/*.py'], exclude=['**/test_*'])";

#[test]
fn what_is_declared_is_compiled_and_nothing_of_it_runs() {
    let entrypoint = "entrypoint=mvm.entrypoint_function(module='app.main', function='serve')";
    let declared = "import * as mvm from '@mvm/sdk';\nexport default mvm.app({ name: 'web', source: mvm.localPath('src', \
         { include: ['**/*.py'], exclude: ['**/test_*'] }), entrypoint: mvm.entrypointCommand(['true']) })(() => {});\n\
         while (true);\n";
    let place = Place::new(&[
        ("web.py", &module(&format!("{SOURCE}, {entrypoint}"))),
        ("web.ts", declared),
        ("web.mts", declared),
        ("src/app/main.py", "def serve(): ..."),
        ("src/app/test_main.py", ""),
        ("src/notes", ""),
        // Whoever starts one of these leaves a trace.
        ("python3", "#!/bin/sh\n: > ran\n"),
        ("node", "#!/bin/sh\n: > ran\n"),
    ]);
    for program in ["python3", "node"] {
        fs::set_permissions(place.path(program), fs::Permissions::from_mode(0o755)).unwrap();
    }
    for verb in [&["compile"][..], &["plan", "--json"], &["run", "--mode", "plan", "--json"]] {
        for file in ["web.py", "./web.ts", "web.mts"] {
            let ran = place.ran(&[verb, &[file]].concat());
            assert_eq!((ran.code, ran.stderr.as_str()), (0, ""), "{verb:?} {file}");
            assert_eq!(json(&ran)["name"], "web");
        }
    }
    let workload = json(&place.ran(&["compile", "web.py"]));
    let files: Vec<&Value> = workload["source"]["files"].as_array().unwrap().iter().map(|file| &file["path"]).collect();
    assert_eq!(files, ["app/main.py"]);
    assert_eq!(
        workload["entrypoint"]["function"],
        object!({"language": "python", "module": "app.main", "function": "serve"})
    );
    assert!(!place.path("ran").exists());
}

#[test]
fn a_bundle_is_the_same_from_another_folder_and_on_another_day() {
    let bundle = |age: u64| {
        let place = Place::new(&[("web.py", &module(SOURCE)), ("src/a.py", "a"), ("src/b/c.py", "c")]);
        let file = fs::File::options().write(true).open(place.path("src/a.py")).unwrap();
        file.set_modified(std::time::SystemTime::now() - std::time::Duration::from_secs(age)).unwrap();
        // What was made before, in the source or not, is no part of what is made.
        for out in ["src/bundle.tar.zst", "src/bundle.tar.zst", "bundle"] {
            let ran = place.ran(&["compile", "web.py", "--out", out, "--quiet"]);
            assert_eq!((ran.code, ran.stdout.as_str(), ran.stderr.as_str()), (0, "", ""));
        }
        (fs::read(place.path("src/bundle.tar.zst")).unwrap(), fs::read(place.path("bundle/workload.json")).unwrap())
    };
    assert_eq!(bundle(0), bundle(86_400));
}

#[test]
fn every_problem_is_said_with_its_place() {
    let place =
        Place::new(&[("web.py", &module("image=pick(), ttl=now()")), ("none.py", "print(1)\n"), ("bad.ts", "const (")]);
    let ran = place.ran(&["compile", "web.py"]);
    assert_eq!(ran.code, 125);
    assert!(ran.stderr.starts_with("web.py:2:28: "), "{}", ran.stderr);
    assert!(ran.stderr.contains("  @mvm.app(name='web', image=pick(), ttl=now())\n"), "{}", ran.stderr);
    assert!(ran.stderr.contains("\n                             ^^^^^^\n  try: "), "{}", ran.stderr);
    assert!(ran.stderr.ends_with("mvmctl: cannot read what web.py declares: 2 problems\n"), "{}", ran.stderr);
    for verb in [&["compile", "--out", "x"][..], &["plan"]] {
        let said = json(&place.ran(&[verb, &["--json", "web.py"]].concat()));
        assert_eq!(said["error"]["code"], "InvalidRequest");
        let places: Vec<(&Value, &Value)> =
            said["problems"].as_array().unwrap().iter().map(|problem| (&problem["line"], &problem["column"])).collect();
        assert_eq!(places, [(&object!(2), &object!(28)), (&object!(2), &object!(40))]);
    }
    assert!(place.ran(&["compile", "bad.ts"]).stderr.contains("syntax error"));
    let ran = place.ran(&["compile", "none.py"]);
    assert!(ran.stderr.contains("declares no workload\n  try: mvmctl compile --record none.py"), "{}", ran.stderr);
}

#[test]
fn a_source_stays_where_its_file_is() {
    let refused = |arguments: &str, why: &str| {
        let place = Place::new(&[("web.py", &module(arguments)), ("src/a.py", ""), ("src/sub/b", "")]);
        symlink("/etc/passwd", place.path("src/passwd")).unwrap();
        symlink("/etc", place.path("etc")).unwrap();
        let ran = place.ran(&["compile", "web.py"]);
        assert!(ran.code == 125 && ran.stderr.contains(why), "{arguments}: {ran:?}");
        assert!(ran.stderr.contains("web.py:2:"), "{arguments}: {ran:?}");
    };
    refused("source=mvm.local_path('..')", "leads out");
    refused("source=mvm.local_path('/etc')", "leads out");
    refused("source=mvm.local_path('src/../../x')", "leads out");
    refused("source=mvm.local_path('etc')", "no directory");
    refused("source=mvm.local_path('none')", "No such file");
    refused("source=mvm.local_path('src')", "passwd: it is a symbolic link");
    refused("source=mvm.local_path('src', include=['[', '*'])", "\"[\"");
    let function = "entrypoint=mvm.entrypoint_function(module='sub.b', function='f')";
    refused(&format!("{SOURCE}, {function}"), "no sub/b.py and no sub/b/__init__.py");
}

#[test]
fn a_credential_that_was_pasted_in_is_warned_of_and_not_shown() {
    const TOKEN: &str = "ghp_0123456789abcdefghijABCDEFGHIJ012345";
    let place = Place::new(&[
        ("web.py", &module(&format!("env={{'A': mvm.literal('{TOKEN}')}}"))),
        ("bad.py", &module(&format!("env={{'A': mvm.secret('{TOKEN}')}}"))),
    ]);
    let ran = place.ran(&["compile", "web.py", "--out", "bundle"]);
    assert_eq!(ran.code, 0);
    assert!(ran.stderr.starts_with("mvmctl: warning: /env/A: it looks like a credential"), "{}", ran.stderr);
    let refused = place.ran(&["compile", "bad.py"]);
    assert_eq!(refused.code, 125);
    for ran in [ran, refused] {
        assert!(!ran.stderr.contains("0123456789") && !ran.stdout.contains("0123456789"), "{ran:?}");
    }
}
