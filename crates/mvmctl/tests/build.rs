//! Images of workloads, built and used in real machines.

mod common;

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;

use common::{Ran, command, home};
use serde_json::{Value, json as object};

/// A directory with a file that declares a workload on the image `base`, called as nothing else is, with a source.
struct Place {
    dir: tempfile::TempDir,
    name: String,
}

impl Place {
    fn new(arguments: &str) -> Place {
        let dir = tempfile::tempdir().unwrap();
        let unique = dir.path().file_name().unwrap().to_str().unwrap().trim_start_matches(".tmp").to_lowercase();
        let place = Place { name: format!("built-{unique}"), dir };
        let declared = format!(
            "import mvm\n@mvm.app(name='{}', image=mvm.image('base'), source=mvm.local_path('src'), {arguments})\n\
             def run(): ...\n",
            place.name
        );
        place.write("app.py", &declared);
        place.write("src/run.sh", "#!/bin/sh\necho \"ran in $PWD\"\n");
        place.write("src/sub/data", "data");
        fs::set_permissions(place.path("src/run.sh"), fs::Permissions::from_mode(0o775)).unwrap();
        place
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn write(&self, name: &str, text: &str) {
        fs::create_dir_all(self.path(name).parent().unwrap()).unwrap();
        fs::write(self.path(name), text).unwrap();
    }

    fn mvmctl(&self, args: &[&str]) -> Ran {
        command(home()).args(args).current_dir(self.dir.path()).output().unwrap().into()
    }

    fn json(&self, args: &[&str]) -> Value {
        let ran = self.mvmctl(args);
        serde_json::from_str(&ran.stdout).unwrap_or_else(|e| panic!("{e}: {ran:?}"))
    }

    fn image(&self, name: &str) -> Option<Value> {
        let listed = self.json(&["image", "ls", "--json"]);
        listed["images"].as_array().unwrap().iter().find(|image| image["name"] == name).cloned()
    }

    /// What a shell script prints in a machine of an image.
    fn said(&self, image: &str, script: &str) -> String {
        let ran = self.mvmctl(&["run", "--image", image, "--", "sh", "-c", script]);
        assert_eq!(ran.code, 0, "{ran:?}");
        ran.stdout
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        for name in [self.name.clone(), format!("{}.2", self.name)] {
            let _ = command(home()).args(["image", "rm", &name]).output();
        }
    }
}

#[test]
fn a_workload_becomes_an_image_with_its_files() {
    let place = Place::new("");
    let ran = place.mvmctl(&["build", "app.py"]);
    assert_eq!(ran.code, 0, "{}", ran.stderr);
    assert!(ran.stdout.ends_with(&format!("  try:  mvmctl up {}\n", place.name)), "{}", ran.stdout);
    let script = "./run.sh; stat -c '%n %a %u:%g' * sub/*; cat sub/data";
    assert_eq!(place.said(&place.name, script), "ran in /app\nrun.sh 755 0:0\nsub 755 0:0\nsub/data 644 0:0\ndata");
    let image = place.image(&place.name).unwrap();
    assert_eq!((&image["state"], &image["config"]["workdir"]), (&object!("ok"), &object!("/app")));
    let inspected = place.json(&["image", "inspect", "--json", &place.name]);
    assert_eq!(inspected, image);
    let shown = place.mvmctl(&["image", "inspect", &place.name]).stdout;
    assert!(shown.contains("directory    /app\n") && shown.contains("entrypoint   /bin/sh\n"), "{shown}");
}

#[test]
fn modules_of_typescript_go_without_their_types_and_with_what_calls_them() {
    let place = Place::new("");
    let declare = |import: &str| {
        let text = format!(
            "import * as mvm from '@mvm/sdk';\n{import}\nexport const run = mvm.app({{ name: '{}', image: mvm.image('base'), \
             source: mvm.localPath('.', {{ include: ['*.ts'] }}), \
             entrypoint: mvm.entrypointFunction({{ module: 'app.ts', function: 'run' }}) }})((): void => {{}});\n",
            place.name
        );
        place.write("app.ts", &text);
        place.mvmctl(&["build", "app.ts"])
    };
    place.write("types.d.ts", "declare const a: string;\n");
    let ran = declare("import type { A } from './a.ts';");
    assert_eq!(ran.code, 0, "{}", ran.stderr);
    let script = "tail -n 2 app.ts | tr -s ' ' | head -n 1; tail -n 1 app.ts | grep -o '((.*'; cat types.d.ts; ls /usr/lib/mvm/node; \
        grep -c 'export function' /usr/lib/mvm/node/sdk.ts";
    assert_eq!(
        place.said(&place.name, script),
        " \n(()       => {});\ndeclare const a: string;\ncall.mjs\nhooks.mjs\nsdk.ts\n11\n"
    );
    let refused = |text: &str, why: &str| {
        let ran = declare(text);
        assert!(ran.code == 125 && ran.stderr.contains(why) && ran.stderr.len() < 5000, "{}", ran.stderr);
    };
    refused(
        "enum A { B }",
        "app.ts:2:1: TypeScript enum is not supported in strip-only mode\n  enum A { B }\n  ^^^^^^^^^^^^\n",
    );
    place.write("other.ts", "const é = 1; enum B { C }\nnamespace D { let e }\n");
    refused("", "other.ts:1:14: TypeScript enum is not");
    // Its parser's stack and time are bounded, and so is what it has to read.
    place.write("other.ts", &"(".repeat(500_000));
    refused("", "cannot take the types out of other.ts: it is too tangled to be read");
    place.write("other.ts", &"f<".repeat(30_000));
    refused("", "cannot take the types out of other.ts: it is too tangled to be read");
    place.write("other.ts", &"/".repeat((1 << 20) + 1));
    refused("", "it is larger than 1024 KiB");
    // Those of packages stay as they are.
    fs::remove_file(place.path("other.ts")).unwrap();
    place.write("node_modules/a/b.ts", "enum B { C }\n");
    place.write("app.ts", &fs::read_to_string(place.path("app.ts")).unwrap().replace("'*.ts'", "'**/*.ts'"));
    assert_eq!(place.mvmctl(&["build", "app.ts"]).code, 0);
    assert_eq!(place.said(&place.name, "cat node_modules/a/b.ts"), "enum B { C }\n");
}

#[test]
fn many_small_files_have_room() {
    let place = Place::new("");
    (0..7000).for_each(|number| place.write(&format!("src/d{}/{number}", number % 100), ""));
    let ran = place.mvmctl(&["build", "app.py"]);
    assert_eq!(ran.code, 0, "{}", ran.stderr);
    assert_eq!(place.said(&place.name, "find . -type f | wc -l"), "7002\n");
}

#[test]
fn a_disk_is_not_smaller_than_its_image() {
    let place = Place::new("");
    let declared = fs::read_to_string(place.path("app.py")).unwrap();
    place.write("small.py", &declared.replace(", )", ", resources=mvm.resources(disk_mib=64))"));
    let refused = |args: &[&str]| {
        let ran = place.mvmctl(args);
        assert!(ran.code == 125 && ran.stderr.contains("is one of") && ran.stderr.contains("--disk"), "{ran:?}");
    };
    refused(&["build", "small.py"]);
    assert_eq!(place.mvmctl(&["build", "app.py"]).code, 0);
    refused(&["run", "--image", &place.name, "--disk", "64M", "--", "true"]);
    refused(&["up", "--image", &place.name, "--disk", "64M", "--name", &place.name]);
}

#[test]
fn what_others_would_take_for_a_removal_is_not_exported() {
    let place = Place::new("");
    place.write("src/.wh.data", "");
    assert_eq!(place.mvmctl(&["build", "app.py"]).code, 0);
    let ran = place.mvmctl(&["image", "export", &place.name, "out.tar"]);
    assert!(ran.code == 125 && ran.stderr.contains("app/.wh.data"), "{ran:?}");
    assert!(!place.path("out.tar").exists());
}

#[test]
fn the_same_files_are_built_once_and_others_take_the_name() {
    let place = Place::new("");
    let build = |args: &[&str]| place.json(&[&["build", "--json"], args].concat());
    assert_eq!(place.mvmctl(&["compile", "app.py", "--out", "bundle.tar.zst"]).code, 0);
    let first = build(&["bundle.tar.zst"]);
    assert_eq!((&first["name"], &first["cached"]), (&object!(place.name), &object!(false)));
    // Ports and the like are no part of an image.
    let other = format!("{}.2", place.name);
    place.write("app.py", &fs::read_to_string(place.path("app.py")).unwrap().replace(", )", ", ttl=60)"));
    let again = build(&["app.py", "--tag", &other]);
    assert_eq!((&again["digest"], &again["cached"]), (&first["digest"], &object!(true)));
    place.write("src/sub/data", "other data");
    let changed = build(&["app.py"]);
    assert_eq!(changed["cached"], false);
    assert_ne!(changed["digest"], first["digest"]);
    assert_eq!(place.said(&place.name, "cat /app/sub/data"), "other data");
    assert_eq!(place.said(&other, "cat /app/sub/data"), "data");
}

#[test]
fn an_image_goes_with_its_last_name_and_a_sandbox_keeps_its_disk() {
    let place = Place::new("");
    assert_eq!(place.mvmctl(&["build", "app.py", "--quiet"]).code, 0);
    let up = place.json(&["up", "--image", &place.name, "--name", &place.name, "--json", "--ttl", "10m"]);
    assert_eq!(up["state"], "running", "{up}");
    let removed = place.json(&["image", "rm", &place.name, "--json"]);
    assert_eq!(removed, object!({"removed": [place.name]}));
    assert!(place.image(&place.name).is_none());
    for verb in ["stop", "start"] {
        let ran = place.mvmctl(&[verb, &place.name]);
        assert_eq!(ran.code, 0, "{ran:?}");
    }
    assert_eq!(place.mvmctl(&["exec", &place.name, "--", "cat", "/app/sub/data"]).stdout, "data");
    assert_eq!(place.mvmctl(&["destroy", &place.name]).code, 0);
    let ran = place.mvmctl(&["image", "rm", &place.name]);
    assert!(ran.code == 125 && ran.stderr.contains(&format!("there is no image {}", place.name)), "{ran:?}");
}

#[test]
fn what_cannot_be_built_leaves_nothing() {
    let place = Place::new("");
    let refused = |args: &[&str], why: &str| {
        let ran = place.mvmctl(&[&["build"], args].concat());
        assert!(ran.code == 125 && ran.stderr.contains(why), "{args:?}: {ran:?}");
    };
    refused(&["app.py", "--tag", "base"], "an image that mvm makes itself");
    refused(&["app.py", "--tag", "../x"], "as an image name");
    refused(&["none.bundle"], "No such file");
    let declared = fs::read_to_string(place.path("app.py")).unwrap();
    place.write("app.py", &declared.replace("image('base')", "image('nobodys')"));
    refused(&["app.py"], "there is no image nobodys");
    // Something that is no directory stands where one would be made.
    let content = object!({"sha256": "2cf24dba5fb0a30e26e83b2ac5b9e29e1b161e5c1fa7425e73043362938b9824", "bytes": 5});
    let document = object!({"schema": "mvm.workload/v1", "name": place.name, "image": {"named": "base"},
        "files": [{"path": "/etc/passwd/x", "content": content}]});
    place.write("bundle/workload.json", &document.to_string());
    place.write(&format!("bundle/contents/{}", content["sha256"].as_str().unwrap()), "hello");
    refused(&["bundle"], "/etc/passwd");
    assert!(place.image(&place.name).is_none());
    // Others build in the same home.
    common::eventually("nothing is left", || {
        let mut left = fs::read_dir(home().join("tmp")).unwrap().flatten();
        !left.any(|entry| entry.file_name().to_string_lossy().starts_with("image-"))
    });
}
