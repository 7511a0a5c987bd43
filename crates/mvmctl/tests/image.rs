//! Images that others made, imported and used in real machines. Programs are the host's busybox.

mod common;
#[path = "image/forms.rs"]
mod forms;

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::PathBuf;

use common::{Ran, command, home};
use forms::{Blobs, Form, busybox, config, docker, gzip, layers, layout, sha256, tarred};
use mvm_wire::tar::Kind;
use serde_json::{Value, json as object};

/// Images of its own, called as no others are, and gone with it.
struct Place {
    dir: tempfile::TempDir,
}

impl Place {
    fn new() -> Place {
        Place { dir: tempfile::tempdir().unwrap() }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// A name that no other test takes.
    fn name(&self, name: &str) -> String {
        let unique = self.dir.path().file_name().unwrap().to_str().unwrap().trim_start_matches(".tmp").to_lowercase();
        format!("{name}-{unique}")
    }

    fn write(&self, name: &str, bytes: &[u8]) -> String {
        fs::write(self.path(name), bytes).unwrap();
        name.to_owned()
    }

    fn mvmctl(&self, args: &[&str]) -> Ran {
        command(home()).args(args).current_dir(self.dir.path()).output().unwrap().into()
    }

    fn import(&self, source: &str, name: &str) -> Value {
        let ran = self.mvmctl(&["image", "import", source, &self.name(name), "--json"]);
        serde_json::from_str(&ran.stdout).unwrap_or_else(|e| panic!("{e}: {ran:?}"))
    }

    /// What a shell script prints in a machine of an image.
    fn said(&self, image: &str, script: &str) -> String {
        let ran = self.mvmctl(&["run", "--image", &self.name(image), "--", "/bin/busybox", "sh", "-c", script]);
        assert_eq!(ran.code, 0, "{ran:?}");
        ran.stdout
    }

    /// Why a source is no image. Nothing is left of it in a home of its own.
    fn refused(&self, args: &[&str], code: &str) -> Value {
        let home = self.path("home");
        let args = [&["image", "import"], args, &["--json"]].concat();
        let ran: Ran = command(&home).args(&args).current_dir(self.dir.path()).output().unwrap().into();
        assert_eq!(ran.code, 125, "{args:?}: {ran:?}");
        let error: Value = serde_json::from_str(&ran.stdout).unwrap_or_else(|e| panic!("{e}: {ran:?}"));
        assert_eq!(error["error"]["code"], code, "{args:?}: {error}");
        for dir in ["images", "tmp"] {
            assert!(
                fs::read_dir(home.join(dir)).is_ok_and(|mut left| left.next().is_none()) || !home.exists(),
                "{args:?}"
            );
        }
        error["error"].clone()
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let listed = self.mvmctl(&["image", "ls", "--json"]);
        let listed: Value = serde_json::from_str(&listed.stdout).unwrap();
        let names = listed["images"].as_array().unwrap().iter().filter_map(|image| image["name"].as_str());
        let mine = self.name("");
        for name in names.filter(|name| name.ends_with(&mine)) {
            self.mvmctl(&["image", "rm", name]);
        }
    }
}

#[test]
fn an_image_is_the_same_in_each_form_and_what_its_layers_are_together() {
    let place = Place::new();
    let [lower, upper] = layers();
    let (blobs, config) = (Blobs::new(&[&lower, &upper]), config(&[&lower, &upper], "amd64"));
    let forms = [
        ("docker", place.write("docker.tar", &docker(&[(config.as_slice(), &["mine:1"])], &[&lower, &upper]))),
        ("podman", place.write("podman.tar.gz", &gzip(&docker(&[(config.as_slice(), &[])], &[&lower, &upper])))),
        ("gzip", place.write("gzip.tar", &tarred(&layout(&blobs.packed(Form::Gzip), &config)))),
        ("zstd", place.write("zstd.tar", &tarred(&layout(&blobs.packed(Form::Zstd), &config)))),
        ("plain", {
            forms::write(&place.path("plain"), &layout(&blobs.packed(Form::Plain), &config));
            "plain".to_owned()
        }),
    ];
    let made: Vec<Value> = forms.iter().map(|(name, source)| place.import(source, name)).collect();
    for (one, (form, _)) in made.iter().zip(&forms) {
        assert_eq!(one["digest"], made[0]["digest"], "{form}");
        assert_eq!(one["cached"], one != &made[0], "{form}");
    }
    assert_eq!(
        made[0]["config"],
        object!({
            "env": [["PATH", "/bin"], ["GREETING", "a=b"]], "workdir": "/etc", "user": "7:8",
            "entrypoint": ["/bin/busybox", "sh"], "warm": [],
        })
    );
    let script = "echo $GREETING $PWD $(busybox id -u):$(busybox id -g); cat motd; \
        busybox stat -c '%n %F %a %u:%g %h %Y' /bin/busybox /bin/again /etc/motd /etc/null /etc/pipe /tmp; busybox stat -c %a /etc; \
        busybox readlink /bin/nowhere; busybox ls /etc /opt; test /bin/again -ef /bin/busybox && echo same";
    assert_eq!(
        place.said("docker", script),
        "a=b /etc 7:8\nhello\n\
         /bin/busybox regular file 755 0:0 2 1234567890\n/bin/again regular file 755 0:0 2 1234567890\n\
         /etc/motd regular file 4750 7:8 1 1234567890\n/etc/null character special file 666 0:0 1 1234567890\n\
         /etc/pipe fifo 600 0:0 1 1234567890\n/tmp directory 1777 0:0 2 0\n775\n\
         /nothing/there\n/etc:\nmachine-id\nmotd\nnull\npipe\n\n/opt:\nnew\nsame\n"
    );
}

#[test]
fn what_is_exported_is_the_image_that_it_was() {
    let place = Place::new();
    let [lower, upper] = layers();
    let config = config(&[&lower, &upper], "amd64");
    let made = place.import(&place.write("in.tar", &docker(&[(&config, &[])], &[&lower, &upper])), "out");
    let export = |file: &str| {
        let ran = place.mvmctl(&["image", "export", &place.name("out"), file, "--json"]);
        assert_eq!(ran.code, 0, "{ran:?}");
        fs::read(place.path(file)).unwrap()
    };
    let archive = export("out.tar");
    assert!(archive == export("out.tar"), "the same image is the same bytes");
    assert_eq!(fs::read_dir(place.dir.path()).unwrap().count(), 2, "nothing is left beside it");
    let back = place.import("out.tar", "back");
    assert_eq!((&back["digest"], &back["config"]), (&made["digest"], &made["config"]));
    assert_eq!(back["cached"], true);

    let files = forms::read(&archive);
    let is_layer = |content: &&Vec<u8>| content.len() > 100_000;
    let layer = forms::entries_of(files.values().find(is_layer).unwrap());
    let of = |path: &str| layer.iter().find(|entry| entry.path == path.as_bytes()).unwrap();
    let (motd, etc) = (of("etc/motd"), of("etc"));
    assert_eq!((motd.mode, motd.uid, motd.gid, motd.mtime, motd.size), (0o4750, 7, 8, 1_234_567_890, 6));
    assert_eq!(motd.xattrs, [(b"user.test".to_vec(), b"\0\n=".to_vec())].into());
    assert_eq!(
        (etc.mode, etc.mtime, etc.xattrs.values().next().unwrap().as_slice()),
        (0o775, 1_234_567_890, b"1\n2".as_slice())
    );
    assert_eq!(of("bin/busybox").kind, Kind::Link(b"bin/again".to_vec()));
    let paths: Vec<_> = layer.iter().map(|entry| String::from_utf8_lossy(&entry.path)).collect();
    assert_eq!(
        paths.join(" "),
        " bin bin/again bin/busybox bin/nowhere dev etc etc/motd etc/null etc/pipe etc.d opt opt/new proc run shared \
         shared/file shared/inner sys tmp"
    );
    let inherited = |path: &str| (of(path).mode, of(path).xattrs.len());
    assert_eq!(
        (of("shared").xattrs.len(), inherited("shared/file"), inherited("shared/inner")),
        (1, (0o600, 0), (0o700, 0))
    );
    let listed = std::process::Command::new("tar").arg("-tf").arg(place.path("out.tar")).output().unwrap();
    assert!(listed.status.success() && listed.stdout.starts_with(b"oci-layout\nindex.json\nblobs/\n"), "{listed:?}");

    fs::create_dir(place.path("directory")).unwrap();
    for (name, file, code) in [
        (place.name("never"), "new.tar", "NotFound"),
        (place.name("out"), "directory", "AlreadyExists"),
        (place.name("out"), "missing/new.tar", "NotFound"),
    ] {
        let ran = place.mvmctl(&["image", "export", &name, file, "--json"]);
        let error: Value = serde_json::from_str(&ran.stdout).unwrap_or_else(|e| panic!("{e}: {ran:?}"));
        assert_eq!((ran.code, &error["error"]["code"]), (125, &object!(code)), "{file}");
    }
}

#[test]
fn a_root_file_system_is_an_image_as_an_archive_and_as_a_directory() {
    let place = Place::new();
    let root = place.path("root");
    fs::create_dir_all(root.join("bin")).unwrap();
    fs::create_dir(root.join("data")).unwrap();
    fs::copy("/bin/busybox", root.join("bin/busybox")).unwrap();
    fs::hard_link(root.join("bin/busybox"), root.join("bin/again")).unwrap();
    symlink("/etc/passwd", root.join("data/link")).unwrap();
    fs::write(root.join("data/file"), "content").unwrap();
    fs::set_permissions(root.join("data/file"), fs::Permissions::from_mode(0o2640)).unwrap();
    let _socket = std::os::unix::net::UnixListener::bind(root.join("data/socket")).unwrap();
    let tar = |options: &[&str]| {
        let status = std::process::Command::new("tar").args(options).arg(".").current_dir(&root).status().unwrap();
        assert!(status.success());
    };
    tar(&["-cf", "../root.tar", "--exclude=socket"]);
    tar(&["-czf", "../root.tar.gz", "--format=posix", "--exclude=socket"]);
    let made: Vec<Value> =
        ["root", "root.tar", "root.tar.gz"].iter().map(|source| place.import(source, "root")).collect();
    assert!(made.iter().all(|one| one["digest"] == made[0]["digest"]), "{made:?}");
    assert_eq!(made[0]["config"], object!({ "env": [], "workdir": "", "user": "", "entrypoint": [], "warm": [] }));
    let script = "busybox=/bin/busybox; $busybox ls /data; $busybox cat /data/file; echo; $busybox stat -c %a /data/file; \
        $busybox readlink /data/link; test /bin/again -ef /bin/busybox && echo same";
    assert_eq!(place.said("root", script), "file\nlink\ncontent\n2640\n/etc/passwd\nsame\n");
    fs::write(root.join("data/.wh.file"), "").unwrap();
    let name = place.name("refused");
    assert!(place.refused(&["root", &name], "InvalidRequest")["why"].to_string().contains("removal"));
}

#[test]
fn bad_sources_are_refused_and_leave_nothing() {
    let place = Place::new();
    let name = place.name("refused");
    let refused = |source: &str, says: &str| {
        let error = place.refused(&[source, &name], "InvalidRequest");
        assert!(error["why"].as_str().unwrap().contains(says), "{source}: {error}");
    };
    assert!(place.refused(&["missing", &name], "NotFound")["what"].to_string().contains("missing"));
    place.refused(&["missing", "debian"], "InvalidRequest");
    place.refused(&["missing", "../x"], "InvalidRequest");
    refused("/dev/null", "neither a file nor a directory");
    refused(&place.write("text", &b"no archive".repeat(100)), "no header of a tar archive");
    let [lower, upper] = layers();
    let blobs = Blobs::new(&[&lower, &upper]);
    let config = |architecture| config(&[&lower, &upper], architecture);
    let whole = tarred(&layout(&blobs.packed(Form::Gzip), &config("amd64")));
    refused(&place.write("cut.tar", &whole[..whole.len() / 2]), "cut off");
    refused(&place.write("arm.tar", &tarred(&layout(&blobs.packed(Form::Gzip), &config("arm64")))), "linux/arm64");
    refused(&place.write("less.tar", &docker(&[(&config("amd64"), &[])], &[&lower])), "configuration has 2");
    refused(&place.write("swapped.tar", &docker(&[(&config("amd64"), &[])], &[&upper, &lower])), "digest");
    let sized =
        String::from_utf8_lossy(&layout(&blobs.packed(Form::Gzip), &config("amd64"))["index.json"]).into_owned();
    let mut files = layout(&blobs.packed(Form::Gzip), &config("amd64"));
    files.insert("index.json".to_owned(), sized.replace("\"size\":", "\"size\":1").into_bytes());
    refused(&place.write("size.tar", &tarred(&files)), "size");
    let mut files = layout(&blobs.packed(Form::Gzip), &config("amd64"));
    let blob = format!("blobs/sha256/{}", sha256(&config("amd64")));
    files.get_mut(&blob).unwrap()[20] ^= 1;
    forms::write(&place.path("changed"), &files);
    refused("changed", "digest");
    let outside = place.write("outside", &files[&blob]);
    fs::remove_file(place.path("changed").join(&blob)).unwrap();
    symlink(place.path(&outside), place.path("changed").join(&blob)).unwrap();
    refused("changed", &blob);
    let mut files = layout(&blobs.packed(Form::Gzip), &config("amd64"));
    let mut index: Value = serde_json::from_slice(&files["index.json"]).unwrap();
    index["manifests"] = vec![index["manifests"][0].clone(); 1001].into();
    files.insert("index.json".to_owned(), index.to_string().into_bytes());
    place.refused(&[&place.write("many.tar", &tarred(&files)), &name], "ResourceExhausted");
    let escape = forms::entries(&[("etc/../../x", b"x".as_slice())]);
    refused(
        &place.write("escape.tar", &docker(&[(&forms::config(&[&escape], "amd64"), &[])], &[&escape])),
        "a part ..",
    );
}

#[test]
fn of_several_images_one_is_named() {
    let place = Place::new();
    let layer = forms::entries(&[("bin/true", busybox().as_slice())]);
    let (one, two) = (config(&[&layer], "amd64"), [config(&[&layer], "amd64"), b" ".to_vec()].concat());
    let source = place.write("both.tar", &docker(&[(&one, &["it:1", "it:latest"]), (&two, &["it:2"])], &[&layer]));
    let name = place.name("named");
    let why = place.refused(&[&source, &name], "InvalidRequest")["why"].to_string();
    assert!(why.contains("it:1 = it:latest, it:2"), "{why}");
    let why = place.refused(&[&source, &name, "--reference", "it:3"], "NotFound")["why"].to_string();
    assert!(why.contains("it:2"), "{why}");
    let ran = place.mvmctl(&["image", "import", &source, &name, "--reference", "it:2", "--quiet"]);
    assert_eq!((ran.code, ran.stdout.as_str()), (0, ""), "{ran:?}");
    // It has no shell, and nothing else than its own program.
    let ran = place.mvmctl(&["run", "--image", &name, "--user", "0", "--cwd", "/", "--", "/bin/true"]);
    assert_eq!(ran.code, 0, "{ran:?}");
}
