//! Files that the user named to be written: whole or not at all, and nothing but a regular file is replaced.

use std::fs::{self, Metadata};
use std::io::Write;
use std::os::unix::fs::DirBuilderExt;
use std::path::Path;

use mvm_runtime::home;
use mvm_runtime::{Error, ErrorCode, Result};
use rustix::fs::{Access, access};

/// Makes a directory, private if it is new, and refuses one in which nothing can be made.
pub fn prepare_directory(dir: &Path) -> Result<()> {
    let made = fs::DirBuilder::new().recursive(true).mode(0o700).create(dir);
    made.map_err(|e| Error::io(what(dir), e))?;
    access(dir, Access::WRITE_OK | Access::EXEC_OK).map_err(|e| Error::io(what(dir), e))
}

/// Refuses what [`replace`] would: a link, a device, a pipe, a directory, and a place where nothing can be made. What is not
/// there yet is fine.
pub fn check(file: &Path) -> Result<()> {
    present(file)?;
    access(home::parent(file), Access::WRITE_OK | Access::EXEC_OK).map_err(|e| Error::io(what(file), e))
}

/// Writes a file, durably. A reader finds the old one or the new one, never a part. One that was there keeps its mode.
pub fn replace(file: &Path, content: &[u8]) -> Result<()> {
    let present = present(file)?;
    let written = home::replace(file, |mut new| {
        if let Some(present) = present {
            new.set_permissions(present.permissions())?;
        }
        new.write_all(content)
    });
    written.map_err(|e| Error::io(what(file), e))
}

fn what(file: &Path) -> String {
    format!("cannot write {}", file.display())
}

/// The regular file that is there, if there is something.
fn present(file: &Path) -> Result<Option<Metadata>> {
    match fs::symlink_metadata(file) {
        Ok(meta) if meta.is_file() => Ok(Some(meta)),
        Ok(meta) => {
            let kind = if meta.is_symlink() {
                "a symbolic link"
            } else if meta.is_dir() {
                "a directory"
            } else {
                "a device, a pipe or a socket"
            };
            Err(Error::new(ErrorCode::FileError, what(file), format!("it is {kind}"))
                .hint("name a regular file, or one that is not there yet"))
        }
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(e) => Err(Error::io(what(file), e)),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{FileTypeExt, PermissionsExt, symlink};

    use super::*;

    #[test]
    fn a_file_is_made_or_replaced_and_keeps_its_mode() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("file");
        check(&file).unwrap();
        replace(&file, b"one").unwrap();
        fs::set_permissions(&file, PermissionsExt::from_mode(0o640)).unwrap();
        check(&file).unwrap();
        replace(&file, b"two").unwrap();
        assert_eq!(fs::read(&file).unwrap(), b"two");
        assert_eq!(fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o640);
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1, "nothing else is left");
        assert!(replace(&dir.path().join("none/file"), b"x").is_err());
    }

    #[test]
    fn what_is_no_regular_file_stays() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        fs::write(at("target"), "kept").unwrap();
        symlink(at("target"), at("link")).unwrap();
        symlink(at("nowhere"), at("dangling")).unwrap();
        fs::create_dir(at("directory")).unwrap();
        let _socket = std::os::unix::net::UnixListener::bind(at("socket")).unwrap();
        for name in ["link", "dangling", "directory", "socket", "/dev/null"] {
            for error in [check(&at(name)).unwrap_err(), replace(&at(name), b"new").unwrap_err()] {
                assert!(error.code == ErrorCode::FileError && error.hint.contains("regular"), "{name}: {error:?}");
            }
        }
        assert_eq!(fs::read(at("target")).unwrap(), b"kept");
        assert!(at("link").is_symlink() && !at("nowhere").exists());
        assert!(fs::symlink_metadata(at("socket")).unwrap().file_type().is_socket());
    }
}
