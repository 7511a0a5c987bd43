//! Images: content-addressed root file systems and their configuration.
//!
//! An image starts as a tar archive, so ownership, modes, attributes and devices are facts of the archive and not of
//! the host's user; a build machine turns it into an ext4 disk. Here is the archive's side and the catalogue.

mod base;
mod debian;

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use mvm_wire::ErrorCode;
use mvm_wire::guest::Exec;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::bundle::{self, Bundle};
use crate::error::{Error, IoContext, Result};
use crate::home::{Home, Staging, read_json, write_atomically};
use crate::progress::Progress;
use crate::stamp::FileStamp;
use crate::tool::Tool;

/// The images that mvm makes itself, the one that needs no network first.
pub const BUILTIN: [&str; 2] = ["base", "debian"];
/// An image's disk, in its directory.
pub const DISK: &str = "rootfs.ext4";
/// Each file of a disk has one inode, and a disk has one for each so many bytes.
const BYTES_PER_INODE: u64 = 8192;
const RECORD: &str = "image.json";
/// The workloads that images were built of.
const BUNDLES: &str = "bundles";

/// What a command in this image starts from.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ImageConfig {
    /// Environment.
    pub env: Vec<(String, String)>,
    /// Working directory; empty for the user's home.
    pub workdir: String,
    /// User; empty for root.
    pub user: String,
    /// Run when the caller names no command.
    pub entrypoint: Vec<String>,
    /// Run once in a template before it is saved, to have their files in the guest's memory.
    pub warm: Vec<Vec<String>>,
}

impl ImageConfig {
    /// Gives a command what nobody said otherwise. Its environment begins with the image's already.
    pub fn complete(&self, exec: &mut Exec) {
        for (given, default) in [(&mut exec.cwd, &self.workdir), (&mut exec.user, &self.user)] {
            if given.is_empty() {
                given.clone_from(default);
            }
        }
    }
}

/// A root file system that is not yet a disk.
#[derive(Debug)]
pub struct ImageSource {
    /// Image name.
    pub name: String,
    /// The archive.
    pub tar: PathBuf,
    /// Its configuration.
    pub config: ImageConfig,
    /// How many entries it has at most; 0 if there are few for its size.
    pub entries: u64,
}

/// An image that machines can use.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Image {
    /// Its name.
    pub name: String,
    /// `sha256:` and a digest of archive and configuration.
    pub digest: String,
    /// Configuration.
    pub config: ImageConfig,
    /// The ext4 disk. It is only ever read.
    pub disk: PathBuf,
    /// Size of that disk, and the least that a machine's disk can have.
    pub disk_bytes: u64,
    /// When it was built, in seconds since 1970.
    #[serde(default)]
    pub built_at: u64,
    /// The workload that it was built of under this name: the digest of its bundle.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub workload: Option<String>,
    stamp: FileStamp,
}

impl Image {
    /// Opens the disk for reading, if it is still the one that was built.
    pub fn open_disk(&self) -> Result<File> {
        self.stamp.check(&self.disk).map_err(|why| damaged(&self.name, why))?;
        File::open(&self.disk).context(|| format!("cannot open {}", self.disk.display()))
    }

    /// SHA-256 of the disk, in hex. Two builds of one archive have the same digest and different disks: the guest's
    /// kernel stamps what it writes. Whatever lies on top of a disk belongs to this disk and no other.
    pub fn disk_sha256(&self) -> &str {
        &self.stamp.sha256
    }

    /// Every byte of the disk.
    pub fn verify(&self) -> std::result::Result<(), String> {
        self.stamp.verify(&self.disk)
    }
}

fn damaged(name: &str, why: String) -> Error {
    Error::new(ErrorCode::SandboxUnavailable, format!("cannot use the image {name}"), why).hint(
        match BUILTIN.contains(&name) {
            true => format!("make it again: mvmctl setup --image {name}"),
            false => "import it or build it again under this name".to_owned(),
        },
    )
}

/// Refuses what is no image name: one word of `a-z 0-9 . _ -`, 64 characters at most.
pub fn validate_name(name: &str) -> Result<()> {
    let first = name.starts_with(|c: char| c.is_ascii_lowercase() || c.is_ascii_digit());
    let rest = name.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || "._-".contains(c));
    if first && rest && name.len() <= 64 {
        return Ok(());
    }
    Err(Error::new(
        ErrorCode::InvalidRequest,
        format!("cannot use {:?} as an image name", crate::text::harmless(name)),
        "a name has up to 64 of a-z 0-9 . _ - and begins with a letter or digit",
    )
    .hint(format!("built-in images: {}", BUILTIN.join(", "))))
}

/// The image of this name, if it was built and its disk is as it was left.
pub fn lookup(home: &Home, name: &str) -> Result<Option<Image>> {
    validate_name(name)?;
    let found: Option<Image> = read_json(&pointer(home, name));
    Ok(found.filter(|image| image.stamp.check(&image.disk).is_ok()))
}

/// All images that were built, whole or not, by name.
pub fn list(home: &Home) -> Vec<Image> {
    let entries = fs::read_dir(home.images()).into_iter().flatten().flatten();
    let mut images: Vec<Image> = entries
        .map(|entry| entry.path())
        .filter(|path| path.extension().is_some_and(|e| e == "json"))
        .filter_map(|path| read_json(&path))
        .collect();
    images.sort_by(|a, b| a.name.cmp(&b.name));
    images
}

/// The error for a name that no image has.
pub fn unknown(home: &Home, name: &str) -> Error {
    let mut known: Vec<String> = BUILTIN.map(str::to_owned).to_vec();
    known.extend(list(home).into_iter().map(|image| image.name).filter(|name| !BUILTIN.contains(&name.as_str())));
    Error::new(ErrorCode::NotFound, format!("there is no image {name}"), format!("known images: {}", known.join(", ")))
        .hint("name one of them with --image")
}

/// Makes the archive of a built-in image.
pub fn source(name: &str, dir: &Path, progress: &dyn Progress) -> Result<ImageSource> {
    match name {
        "base" => base::archive(dir, progress),
        _ => debian::archive(dir, progress),
    }
}

/// The image's digest: over every byte of the archive and the configuration.
pub fn digest(source: &ImageSource) -> Result<String> {
    let stamp = FileStamp::of(&source.tar)?;
    let config =
        serde_json::to_vec(&source.config).map_err(|e| Error::internal("cannot encode the image's config", e))?;
    let mut hasher = Sha256::new();
    hasher.update(stamp.sha256);
    hasher.update(config);
    Ok(format!("sha256:{}", hex::encode(hasher.finalize())))
}

/// Keeps a finished disk that lies in `staging` as the image of this name.
pub fn record(
    home: &Home,
    staging: Staging,
    name: String,
    config: ImageConfig,
    digest: String,
    disk_bytes: u64,
    bundle: Option<&Bundle>,
) -> Result<Image> {
    let hex = digest.trim_start_matches("sha256:");
    // The disk is new even when the content is not, and machines may still use the old one.
    let dir = home.images().join(format!("{}-{}", &hex[..16], crate::home::unique()));
    let image = Image {
        workload: bundle.map(|bundle| keep(home, bundle)).transpose()?,
        name,
        digest,
        config,
        disk: dir.join(DISK),
        disk_bytes,
        built_at: SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(0, |since| since.as_secs()),
        stamp: FileStamp::of(&staging.path().join(DISK))?,
    };
    let text = serde_json::to_vec_pretty(&image).map_err(|e| Error::internal("cannot encode the image's record", e))?;
    fs::write(staging.path().join(RECORD), &text).context(|| "cannot write the image's record".into())?;
    staging.commit(&dir)?;
    write_atomically(&pointer(home, &image.name), &text)?;
    remove_unnamed(home);
    Ok(image)
}

/// The image of this digest, under any name, if its disk is as it was left.
pub fn with_digest(home: &Home, digest: &str) -> Option<Image> {
    list(home).into_iter().find(|image| image.digest == digest && image.stamp.check(&image.disk).is_ok())
}

/// The workload that an image was built of under its name.
pub fn workload(home: &Home, image: &Image) -> Result<Option<Bundle>> {
    image.workload.as_ref().map(|digest| Bundle::read(&kept(home, digest))).transpose()
}

/// Keeps a bundle for as long as an image names it.
fn keep(home: &Home, bundle: &Bundle) -> Result<String> {
    let digest = crate::workload::digest(bundle.workload())?;
    let place = kept(home, &digest);
    fs::create_dir_all(home.images().join(BUNDLES)).context(|| "cannot keep the workload of an image".into())?;
    // To pack it again takes longer than all else of a build that finds its image.
    if !Bundle::read(&place).is_ok_and(|there| there == *bundle) {
        bundle.write(&place)?;
    }
    Ok(digest)
}

fn kept(home: &Home, digest: &str) -> PathBuf {
    home.images().join(BUNDLES).join(format!("{}{}", digest.trim_start_matches("sha256:"), bundle::ARCHIVE))
}

/// Calls an image by another name, too, whatever had that before, and has it be that of a workload if there is one.
pub fn tag(home: &Home, image: Image, name: &str, bundle: Option<&Bundle>) -> Result<Image> {
    let workload = bundle.map(|bundle| keep(home, bundle)).transpose()?;
    let image = Image { name: name.to_owned(), workload, ..image };
    let text = serde_json::to_vec_pretty(&image).map_err(|e| Error::internal("cannot encode the image's record", e))?;
    write_atomically(&pointer(home, name), &text)?;
    remove_unnamed(home);
    Ok(image)
}

/// Forgets a name. The disk goes with it if it has no other and no sandbox lies on it.
pub fn remove(home: &Home, name: &str) -> Result<()> {
    validate_name(name)?;
    let _building = home.lock("setup", || ())?;
    match fs::remove_file(pointer(home, name)) {
        Ok(()) => {}
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Err(unknown(home, name)),
        Err(e) => return Err(Error::io(format!("cannot remove the image {name}"), e)),
    }
    remove_unnamed(home);
    Ok(())
}

/// Removes the directories that no name points to and no sandbox needs: what was there before, and what a crash left
/// before it had a name.
/// The caller is the only one that builds. Machines that have an old disk open keep it.
fn remove_unnamed(home: &Home) {
    let in_use = crate::sandboxes::images_in_use(home);
    let named: Vec<PathBuf> =
        list(home).into_iter().chain(in_use).filter_map(|image| Some(image.disk.parent()?.to_owned())).collect();
    for entry in fs::read_dir(home.images()).into_iter().flatten().flatten() {
        let path = entry.path();
        // Only what looks like one of ours, and never through a link.
        if path.join(RECORD).is_file() && entry.file_type().is_ok_and(|kind| kind.is_dir()) && !named.contains(&path) {
            let _ = fs::remove_dir_all(path);
        }
    }
    let bundles: Vec<PathBuf> =
        list(home).iter().filter_map(|image| Some(kept(home, image.workload.as_ref()?))).collect();
    for entry in fs::read_dir(home.images().join(BUNDLES)).into_iter().flatten().flatten() {
        if !bundles.contains(&entry.path()) {
            let _ = fs::remove_file(entry.path());
        }
    }
}

fn pointer(home: &Home, name: &str) -> PathBuf {
    home.images().join(format!("{name}.json"))
}

/// How much of a disk so many files and directories need, with so many bytes in them together: each takes an inode and whole
/// blocks.
pub fn room(bytes: u64, entries: u64) -> u64 {
    bytes * 3 / 2 + entries * BYTES_PER_INODE
}

/// An empty ext4 disk whose root belongs to root, whoever makes it. The guest's kernel fills it.
pub fn empty_disk(path: &Path, bytes: u64) -> Result<()> {
    let file = File::options()
        .write(true)
        .create_new(true)
        .open(path)
        .context(|| format!("cannot create {}", path.display()))?;
    file.set_len(bytes).context(|| format!("cannot size {}", path.display()))?;
    // The same bytes everywhere: fixed ids and times, and features that do not depend on the host's configuration.
    // No lazy work is left to the guest's first minutes, and the journal is small.
    const ID: &str = "6d766d00-0000-4000-8000-000000000000";
    // All of them older than any kernel that a guest may have.
    const FEATURES: &str = "none,has_journal,ext_attr,resize_inode,dir_index,filetype,extent,64bit,flex_bg,sparse_super,\
        large_file,huge_file,dir_nlink,extra_isize,metadata_csum";
    Tool::new("mke2fs")?
        .args(["-q", "-F", "-t", "ext4", "-b", "4096", "-I", "256", "-m", "0", "-J", "size=4"])
        .args(["-i", &BYTES_PER_INODE.to_string()])
        .args(["-O", FEATURES, "-U", ID])
        .args(["-E", &format!("root_owner=0:0,lazy_itable_init=1,lazy_journal_init=1,nodiscard,hash_seed={ID}")])
        .env("E2FSPROGS_FAKE_TIME", "1")
        .env("SOURCE_DATE_EPOCH", "1")
        .arg(path)
        .run(|_| {})?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::MetadataExt;

    #[test]
    fn names() {
        for good in ["base", "debian", "a", "my-image_1.2", "0"] {
            assert!(validate_name(good).is_ok(), "{good}");
        }
        for bad in ["", "-a", ".a", "A", "a/b", "../a", "a b", "ä", &"a".repeat(65)] {
            assert!(validate_name(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn an_unknown_name_lists_the_known_ones() {
        let dir = tempfile::tempdir().unwrap();
        let error = unknown(&Home::at(dir.path()), "nope");
        assert_eq!(error.code, ErrorCode::NotFound);
        assert!(error.why.contains("base, debian"));
    }

    #[test]
    fn an_empty_disk_is_sparse_belongs_to_root_and_is_the_same_every_time() {
        let dir = tempfile::tempdir().unwrap();
        let make = |name: &str| {
            let path = dir.path().join(name);
            empty_disk(&path, 64 << 20).unwrap();
            path
        };
        let (a, b) = (make("a"), make("b"));
        assert_eq!(fs::metadata(&a).unwrap().len(), 64 << 20);
        assert!(fs::metadata(&a).unwrap().blocks() * 512 < 4 << 20);
        assert_eq!(FileStamp::of(&a).unwrap().sha256, FileStamp::of(&b).unwrap().sha256);
        let root = Tool::new("debugfs").unwrap().args(["-R", "stat /"]).arg(&a).run(|_| {}).unwrap().0;
        let words: Vec<&str> = root.split_whitespace().collect();
        assert!(words.windows(4).any(|w| w == ["User:", "0", "Group:", "0"]), "{root}");
        assert!(empty_disk(&a, 64 << 20).is_err(), "a disk is never overwritten");
    }

    #[test]
    fn a_new_disk_takes_the_name_and_only_ours_is_removed() {
        let dir = tempfile::tempdir().unwrap();
        let home = Home::at(dir.path().join("home"));
        home.create().unwrap();
        fs::create_dir(home.images().join("strange")).unwrap();
        let keep = |name: &str, content: &str| {
            let staging = home.staging("image").unwrap();
            fs::write(staging.path().join(DISK), content).unwrap();
            let config = ImageConfig::default();
            record(&home, staging, name.into(), config, format!("sha256:{}", "a".repeat(64)), 1, None).unwrap()
        };
        let other = keep("other", "1");
        let old = keep("base", "1");
        let new = keep("base", "2");
        assert!(!old.disk.exists() && other.disk.exists() && home.images().join("strange").exists());
        assert_ne!(old.disk_sha256(), new.disk_sha256());
        assert_eq!(lookup(&home, "base").unwrap().unwrap().disk, new.disk);
        fs::write(&new.disk, "cut").unwrap();
        assert!(lookup(&home, "base").unwrap().is_none());
        assert!(lookup(&home, "../base").is_err());
        assert_eq!(list(&home).len(), 2, "a damaged one is listed");
    }
}
