//! The same of steps.

use std::collections::BTreeSet;

use super::{
    Checked, MAX_FILES, MAX_PATH, argv, at_most, content, environment, guest_path, mode, refuse, relative, time,
};
use crate::model::{Command, Step, Upload, UploadKind};

/// Refuses a step that reads well and makes no sense.
pub fn check(index: usize, step: &Step) -> Checked {
    let pointer = format!("/steps/{index}/{}", step.name());
    let field = |name: &str| format!("{pointer}/{name}");
    match step {
        Step::Run(command) => self::command(&pointer, command),
        Step::Start(command) if command.check => {
            refuse(field("check"), "nobody waits for the end of a command that goes on by itself")
        }
        Step::Start(command) => self::command(&pointer, command),
        Step::Write(write) => {
            guest_path(&field("path"), &write.path)?;
            mode(&field("mode"), write.mode)?;
            content(&field("content"), &write.content)
        }
        Step::MakeDirectory(make) => {
            guest_path(&field("path"), &make.path)?;
            mode(&field("mode"), make.mode)
        }
        Step::Move(moved) => {
            guest_path(&field("source"), &moved.source)?;
            guest_path(&field("destination"), &moved.destination)
        }
        Step::Remove(remove) => guest_path(&field("path"), &remove.path),
        Step::Upload(upload) => self::upload(&pointer, upload),
        Step::Forward(port) => super::port(&pointer, port),
        Step::Snapshot(snapshot) => snapshot.name.as_ref().map_or(Ok(()), |name| super::name(&field("name"), name)),
    }
}

fn command(pointer: &str, command: &Command) -> Checked {
    argv(&format!("{pointer}/argv"), &command.argv)?;
    environment(&format!("{pointer}/env"), &command.env)?;
    time(&format!("{pointer}/timeout_ms"), command.timeout_ms)?;
    if command.cwd.contains('\0') || command.user.contains('\0') {
        return refuse(pointer, "there is a NUL in its directory or its user");
    }
    command.stdin.as_ref().map_or(Ok(()), |stdin| content(&format!("{pointer}/stdin"), stdin))
}

/// A tree: itself first, and each thing after the directory that it is in. Nothing lies beneath a link or a file, so nothing
/// of it can be written elsewhere.
fn upload(pointer: &str, upload: &Upload) -> Checked {
    guest_path(&format!("{pointer}/guest_path"), &upload.guest_path)?;
    at_most(&format!("{pointer}/entries"), upload.entries.len(), MAX_FILES)?;
    let Some(itself) = upload.entries.first() else {
        return refuse(format!("{pointer}/entries"), "there is nothing in it");
    };
    if !itself.path.is_empty() || matches!(itself.what, UploadKind::Link(_)) {
        return refuse(
            format!("{pointer}/entries/0"),
            "the first is the file or directory itself, and its path is empty",
        );
    }
    let (mut directories, mut seen) = (BTreeSet::new(), BTreeSet::new());
    for (index, entry) in upload.entries.iter().enumerate() {
        let (pointer, path) = (format!("{pointer}/entries/{index}"), entry.path.as_str());
        if index > 0 {
            relative(&format!("{pointer}/path"), path)?;
            if !directories.contains(path.rsplit_once('/').map_or("", |(above, _)| above)) {
                return refuse(format!("{pointer}/path"), "the directory that it is in does not come before it");
            }
        }
        if !seen.insert(path) {
            return refuse(format!("{pointer}/path"), "it is there twice");
        }
        kind(&format!("{pointer}/what"), &entry.what)?;
        if matches!(entry.what, UploadKind::Directory(_)) {
            directories.insert(path);
        }
    }
    Ok(())
}

fn kind(pointer: &str, kind: &UploadKind) -> Checked {
    match kind {
        UploadKind::Directory(directory) => mode(&format!("{pointer}/directory/mode"), Some(directory.mode)),
        UploadKind::File(file) => {
            mode(&format!("{pointer}/file/mode"), Some(file.mode))?;
            content(&format!("{pointer}/file/content"), &file.content)
        }
        UploadKind::Link(target) if target.is_empty() || target.len() > MAX_PATH || target.contains('\0') => {
            refuse(format!("{pointer}/link"), "a link says a path of 1 to 4095 bytes without NUL")
        }
        UploadKind::Link(_) => Ok(()),
    }
}
