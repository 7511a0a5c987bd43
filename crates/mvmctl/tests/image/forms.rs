//! The forms that images come in, made as their tools do.

use std::collections::BTreeMap;
use std::fs;
use std::io::Write;
use std::path::Path;

use flate2::Compression;
use flate2::write::GzEncoder;
use mvm_wire::tar::{self, Entry, Kind};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

pub fn busybox() -> Vec<u8> {
    fs::read("/bin/busybox").unwrap()
}

fn append(archive: &mut Vec<u8>, entry: Entry, content: &[u8]) {
    tar::write(archive, &Entry { size: content.len() as u64, ..entry }).unwrap();
    archive.extend(content);
    archive.extend(vec![0; tar::padding(content.len() as u64) as usize]);
}

fn entry(path: &str, kind: Kind, mode: u32) -> Entry {
    let (path, xattrs) = (path.as_bytes().to_vec(), BTreeMap::new());
    Entry { path, kind, mode, uid: 0, gid: 0, mtime: 1_234_567_890, size: 0, xattrs }
}

/// An archive of programs, without anything else. A path may be one that no entry can have.
pub fn entries(files: &[(&str, &[u8])]) -> Vec<u8> {
    let mut archive = Vec::new();
    for (path, content) in files {
        append(&mut archive, entry(path, Kind::File, 0o755), content);
    }
    archive.extend(tar::END);
    archive
}

/// Two layers of a small image: the upper one removes, replaces, and adds.
pub fn layers() -> [Vec<u8>; 2] {
    let (mut lower, mut upper) = (Vec::new(), Vec::new());
    let owned = |entry: Entry| Entry { uid: 7, gid: 8, ..entry };
    let with = |entry: Entry, value: &[u8]| Entry { xattrs: [(b"user.test".to_vec(), value.to_vec())].into(), ..entry };
    append(&mut lower, entry("bin", Kind::Directory, 0o755), b"");
    append(&mut lower, entry("bin/busybox", Kind::File, 0o755), &busybox());
    append(&mut lower, entry("bin/nowhere", Kind::Symlink(b"/nothing/there".to_vec()), 0o777), b"");
    append(&mut lower, with(entry("etc", Kind::Directory, 0o700), b"lower"), b"");
    append(&mut lower, entry("etc/motd", Kind::File, 0o644), b"to be replaced\n");
    append(&mut lower, entry("etc/secret", Kind::File, 0o644), b"to be removed\n");
    append(&mut lower, with_acl(entry("shared", Kind::Directory, 0o755)), b"");
    append(&mut lower, entry("shared/file", Kind::File, 0o600), b"");
    append(&mut lower, entry("shared/inner", Kind::Directory, 0o700), b"");
    append(&mut lower, entry("opt/old/file", Kind::File, 0o644), b"to be removed\n");
    append(&mut upper, entry("bin/again", Kind::Link(b"bin/busybox".to_vec()), 0o755), b"");
    append(&mut upper, with(entry("etc", Kind::Directory, 0o775), b"1\n2"), b"");
    append(&mut upper, owned(with(entry("etc/motd", Kind::File, 0o4750), b"\0\n=")), b"hello\n");
    append(&mut upper, entry("etc/null", Kind::Char(1, 3), 0o666), b"");
    append(&mut upper, entry("etc/pipe", Kind::Fifo, 0o600), b"");
    append(&mut upper, entry("etc/.wh.secret", Kind::File, 0), b"");
    append(&mut upper, entry("etc.d", Kind::File, 0o644), b"");
    append(&mut upper, entry("opt/new", Kind::File, 0o644), b"");
    append(&mut upper, entry("opt/.wh..wh..opq", Kind::File, 0), b"");
    [lower, upper].map(|layer| [layer, tar::END.to_vec()].concat())
}

/// What is made in it gets a list of who may use it: a mask, and user 7 besides owner, group and others.
fn with_acl(entry: Entry) -> Entry {
    let permissions: [(u16, u16, u32); 5] = [(1, 7, !0), (2, 7, 7), (4, 5, !0), (16, 7, !0), (32, 5, !0)];
    let fields = permissions
        .iter()
        .flat_map(|(tag, may, id)| [tag.to_le_bytes().as_slice(), &may.to_le_bytes(), &id.to_le_bytes()].concat());
    let acl = 2_u32.to_le_bytes().into_iter().chain(fields).collect();
    Entry { xattrs: [(b"system.posix_acl_default".to_vec(), acl)].into(), ..entry }
}

pub fn sha256(bytes: &[u8]) -> String {
    hex::encode(Sha256::digest(bytes))
}

pub fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

/// The configuration of an image of these layers.
pub fn config(layers: &[&[u8]], architecture: &str) -> Vec<u8> {
    let digests: Vec<String> = layers.iter().map(|layer| format!("sha256:{}", sha256(layer))).collect();
    let config = json!({
        "architecture": architecture, "os": "linux", "created": "2020-01-01T00:00:00Z",
        "config": {
            "Env": ["PATH=/bin", "GREETING=a=b"], "Entrypoint": ["/bin/busybox"], "Cmd": ["sh"], "WorkingDir": "/etc",
            "User": "7:8", "Labels": null,
        },
        "rootfs": { "type": "layers", "diff_ids": digests },
    });
    serde_json::to_vec(&config).unwrap()
}

/// What `docker save` writes of images, configuration and names of each, that have the same layers.
pub fn docker(images: &[(&[u8], &[&str])], layers: &[&[u8]]) -> Vec<u8> {
    let layers: Vec<(String, &[u8])> =
        layers.iter().map(|layer| (format!("{}/layer.tar", sha256(layer)), *layer)).collect();
    let list: Vec<Value> = images
        .iter()
        .map(|(config, names)| {
            let paths: Vec<&String> = layers.iter().map(|(path, _)| path).collect();
            json!({ "Config": format!("{}.json", sha256(config)), "RepoTags": names, "Layers": paths })
        })
        .collect();
    let mut files: BTreeMap<String, Vec<u8>> =
        layers.iter().map(|(path, layer)| (path.clone(), layer.to_vec())).collect();
    files.extend(images.iter().map(|(config, _)| (format!("{}.json", sha256(config)), config.to_vec())));
    files.insert("manifest.json".to_owned(), serde_json::to_vec(&list).unwrap());
    tarred(&files)
}

/// How a layer is packed.
#[derive(Clone, Copy)]
pub enum Form {
    Plain,
    Gzip,
    Zstd,
}

pub struct Blobs(Vec<Vec<u8>>);

impl Blobs {
    pub fn new(layers: &[&[u8]]) -> Blobs {
        Blobs(layers.iter().map(|layer| layer.to_vec()).collect())
    }

    /// The layers, and the kinds of them.
    pub fn packed(&self, form: Form) -> Vec<(String, Vec<u8>)> {
        let pack = |layer: &Vec<u8>| match form {
            Form::Plain => ("tar", layer.clone()),
            Form::Gzip => ("tar+gzip", gzip(layer)),
            Form::Zstd => ("tar+zstd", zstd::encode_all(layer.as_slice(), 3).unwrap()),
        };
        let kind = |(kind, bytes)| (format!("application/vnd.oci.image.layer.v1.{kind}"), bytes);
        self.0.iter().map(pack).map(kind).collect()
    }
}

/// The files of an OCI layout.
pub fn layout(layers: &[(String, Vec<u8>)], config: &[u8]) -> BTreeMap<String, Vec<u8>> {
    let mut files = BTreeMap::new();
    let mut blob = |kind: &str, bytes: &[u8]| {
        files.insert(format!("blobs/sha256/{}", sha256(bytes)), bytes.to_vec());
        json!({ "mediaType": kind, "digest": format!("sha256:{}", sha256(bytes)), "size": bytes.len() })
    };
    let config = blob("application/vnd.oci.image.config.v1+json", config);
    let layers: Vec<Value> = layers.iter().map(|(kind, bytes)| blob(kind, bytes)).collect();
    let kind = "application/vnd.oci.image.manifest.v1+json";
    let manifest = json!({ "schemaVersion": 2, "mediaType": kind, "config": config, "layers": layers });
    let mut manifest = blob(kind, &serde_json::to_vec(&manifest).unwrap());
    manifest["annotations"] = json!({ "org.opencontainers.image.ref.name": "mine" });
    let index = json!({ "schemaVersion": 2, "manifests": [manifest] });
    files.insert("index.json".to_owned(), serde_json::to_vec(&index).unwrap());
    files.insert("oci-layout".to_owned(), br#"{"imageLayoutVersion":"1.0.0"}"#.to_vec());
    files
}

pub fn tarred(files: &BTreeMap<String, Vec<u8>>) -> Vec<u8> {
    let mut archive = Vec::new();
    for (path, content) in files {
        append(&mut archive, entry(path, Kind::File, 0o644), content);
    }
    archive.extend(tar::END);
    archive
}

/// The entries of an archive.
pub fn entries_of(archive: &[u8]) -> Vec<Entry> {
    found(archive).into_iter().map(|(entry, _)| entry).collect()
}

/// The files of an archive.
pub fn read(archive: &[u8]) -> BTreeMap<String, Vec<u8>> {
    let files = found(archive).into_iter().filter(|(entry, _)| entry.kind == Kind::File);
    files.map(|(entry, content)| (String::from_utf8(entry.path).unwrap(), content.to_vec())).collect()
}

fn found(archive: &[u8]) -> Vec<(Entry, &[u8])> {
    let (mut rest, mut found) = (archive, Vec::new());
    while let Some(entry) = tar::read(&mut rest).unwrap() {
        let (content, behind) = rest.split_at(entry.size as usize);
        rest = &behind[tar::padding(entry.size) as usize..];
        found.push((entry, content));
    }
    found
}

pub fn write(dir: &Path, files: &BTreeMap<String, Vec<u8>>) {
    for (path, content) in files {
        fs::create_dir_all(dir.join(path).parent().unwrap()).unwrap();
        fs::write(dir.join(path), content).unwrap();
    }
}
