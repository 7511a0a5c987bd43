//! What types cannot say: bounds, paths that stay where they belong, and that nothing is there twice.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use crate::model::{Content, Entrypoint, Image, Mount, Port, Source, Variable, Workload};
use crate::read::{Refusal, escaped};

mod step;

/// The most files of a workload, or of its source tree.
const MAX_FILES: usize = 20_000;
/// The most of anything else that is listed.
const MAX_ITEMS: usize = 1000;
/// The longest path, in bytes, as in Linux.
const MAX_PATH: usize = 4095;
/// The largest environment, and the longest command, in bytes.
const MAX_TEXT: usize = 128 << 10;
/// The longest time, in milliseconds: a year.
const MAX_TIME_MS: u64 = 366 * 86_400_000;
/// The largest integer that every JSON reader holds exactly.
const MAX_INTEGER: u64 = (1 << 53) - 1;

type Checked = Result<(), Refusal>;

fn refuse(pointer: impl Into<String>, why: impl std::fmt::Display) -> Checked {
    Err(Refusal::invalid(pointer, why))
}

fn at_most(pointer: &str, len: usize, most: usize) -> Checked {
    if len > most { refuse(pointer, format!("there are more than {most}")) } else { Ok(()) }
}

/// Refuses a document that reads well and makes no sense.
pub fn check(workload: &Workload) -> Checked {
    name("/name", &workload.name)?;
    image(&workload.image)?;
    let resources = &workload.resources;
    for (field, value) in
        [("cpus", resources.cpus), ("memory_mib", resources.memory_mib), ("disk_mib", resources.disk_mib)]
    {
        if value == 0 {
            return refuse(format!("/resources/{field}"), "it is above zero");
        }
    }
    at_most("/network/egress", workload.network.egress.len(), MAX_ITEMS)?;
    ports(&workload.network.ports)?;
    mounts(&workload.mounts)?;
    environment("/env", &workload.env)?;
    files(workload)?;
    workload.source.as_ref().map_or(Ok(()), source)?;
    if workload.profile.is_empty() {
        return refuse("/profile", "it is empty");
    }
    time("/ttl_ms", workload.ttl_ms)?;
    workload.entrypoint.as_ref().map_or(Ok(()), |entrypoint| self::entrypoint(entrypoint, workload))?;
    at_most("/steps", workload.steps.len(), MAX_ITEMS)?;
    workload.steps.iter().enumerate().try_for_each(|(index, step)| step::check(index, step))
}

fn name(pointer: &str, name: &str) -> Checked {
    let plain = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
    let edges = name.starts_with('-') || name.ends_with('-');
    if name.is_empty() || name.len() > 63 || !name.bytes().all(plain) || edges || name.starts_with("mvm-") {
        return refuse(
            pointer,
            "a name has 1 to 63 lower-case letters, digits and, between them, hyphens, and does not begin with mvm-",
        );
    }
    Ok(())
}

fn image(image: &Image) -> Checked {
    match image {
        Image::Named(name) if name.is_empty() || name.len() > 64 => {
            refuse("/image/named", "a name has 1 to 64 characters")
        }
        Image::Named(_) => Ok(()),
        Image::Debian { packages } => {
            at_most("/image/debian/packages", packages.len(), MAX_ITEMS)?;
            let plain = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b"+-.".contains(&b);
            let mut seen = BTreeSet::new();
            for (index, package) in packages.iter().enumerate() {
                let pointer = format!("/image/debian/packages/{index}");
                // As Debian's policy has it; nothing of that is an option or a path of the package client.
                let begins = package.starts_with(|c: char| c.is_ascii_lowercase() || c.is_ascii_digit());
                if package.len() < 2 || package.len() > 128 || !begins || !package.bytes().all(plain) {
                    return refuse(pointer, "this is no name of a package of Debian");
                }
                if !seen.insert(package) {
                    return refuse(pointer, "it is there twice");
                }
            }
            Ok(())
        }
    }
}

fn ports(ports: &[Port]) -> Checked {
    at_most("/network/ports", ports.len(), MAX_ITEMS)?;
    let mut taken = BTreeSet::new();
    for (index, port) in ports.iter().enumerate() {
        let pointer = format!("/network/ports/{index}");
        self::port(&pointer, port)?;
        if port.host_port != 0 && !taken.insert((&port.host, port.host_port)) {
            return refuse(format!("{pointer}/host_port"), "another port listens there");
        }
    }
    Ok(())
}

fn port(pointer: &str, port: &Port) -> Checked {
    if port.guest_port == 0 {
        return refuse(format!("{pointer}/guest_port"), "it is from 1 to 65535");
    }
    if port.host.parse::<IpAddr>().is_err() {
        return refuse(format!("{pointer}/host"), "this is no IP address, and names are not looked up");
    }
    if port.protocol != "tcp" {
        return refuse(format!("{pointer}/protocol"), "it is tcp");
    }
    Ok(())
}

fn mounts(mounts: &[Mount]) -> Checked {
    at_most("/mounts", mounts.len(), MAX_ITEMS)?;
    mounts.iter().enumerate().try_for_each(|(index, mount)| {
        guest_path(&format!("/mounts/{index}/guest_path"), &mount.guest_path)?;
        if !mount.host_path.starts_with('/') || mount.host_path.contains('\0') {
            return refuse(format!("/mounts/{index}/host_path"), "it is an absolute path");
        }
        Ok(())
    })
}

fn environment(pointer: &str, env: &BTreeMap<String, Variable>) -> Checked {
    at_most(pointer, env.len(), MAX_ITEMS)?;
    let mut bytes = 0;
    for (name, variable) in env {
        if name.is_empty() || name.contains(['=', '\0']) {
            return refuse(pointer, "the name of a variable is empty, or has a = or a NUL in it");
        }
        let (value, is_secret) = match variable {
            Variable::Literal(value) => (value, false),
            Variable::Secret(reference) => (reference, true),
        };
        bytes += name.len() + value.len();
        let pointer = format!("{pointer}/{}", escaped(name));
        if value.contains('\0') {
            return refuse(pointer, "there is a NUL in it");
        }
        let reference =
            |text: &str| ["env:", "file:"].iter().any(|kind| text.len() > kind.len() && text.starts_with(kind));
        if is_secret && !reference(value) {
            return refuse(format!("{pointer}/secret"), "a secret is named by where it is: env:VAR or file:PATH");
        }
    }
    if bytes > MAX_TEXT { refuse(pointer, "it is larger than 128 KiB") } else { Ok(()) }
}

fn content(pointer: &str, content: &Content) -> Checked {
    if content.sha256.parse::<mvm_evidence::Digest>().is_err() {
        return refuse(format!("{pointer}/sha256"), "this is no SHA-256 of 64 lower-case hexadecimal digits");
    }
    if content.bytes > MAX_INTEGER {
        return refuse(format!("{pointer}/bytes"), "it is too large");
    }
    Ok(())
}

fn files(workload: &Workload) -> Checked {
    at_most("/files", workload.files.len(), MAX_FILES)?;
    let mut paths = Paths::default();
    for (index, file) in workload.files.iter().enumerate() {
        let pointer = format!("/files/{index}");
        guest_path(&format!("{pointer}/path"), &file.path)?;
        paths.add(&format!("{pointer}/path"), &file.path[1..])?;
        content(&format!("{pointer}/content"), &file.content)?;
        mode(&format!("{pointer}/mode"), Some(file.mode))?;
    }
    paths.check()
}

fn source(source: &Source) -> Checked {
    guest_path("/source/guest_path", &source.guest_path)?;
    at_most("/source/include", source.include.len(), MAX_ITEMS)?;
    at_most("/source/exclude", source.exclude.len(), MAX_ITEMS)?;
    at_most("/source/files", source.files.len(), MAX_FILES)?;
    let mut paths = Paths::default();
    for (index, file) in source.files.iter().enumerate() {
        let pointer = format!("/source/files/{index}");
        relative(&format!("{pointer}/path"), &file.path)?;
        paths.add(&format!("{pointer}/path"), &file.path)?;
        content(&format!("{pointer}/content"), &file.content)?;
    }
    paths.check()
}

/// Paths of files, each of which is there once and is no directory of another.
#[derive(Default)]
struct Paths<'a>(BTreeMap<&'a str, String>);

impl<'a> Paths<'a> {
    fn add(&mut self, pointer: &str, path: &'a str) -> Checked {
        match self.0.insert(path, pointer.to_owned()) {
            None => Ok(()),
            Some(first) => refuse(pointer, format!("the same path is at {first}")),
        }
    }

    fn check(&self) -> Checked {
        for (path, pointer) in &self.0 {
            let above = path.match_indices('/').map(|(at, _)| &path[..at]).find_map(|above| self.0.get(above));
            if let Some(above) = above {
                return refuse(pointer, format!("it lies beneath a file, that at {above}"));
            }
        }
        Ok(())
    }
}

/// Refuses what is no path to one place: absolute, and without empty, `.` and `..` parts.
fn guest_path(pointer: &str, path: &str) -> Checked {
    match path.strip_prefix('/') {
        Some(rest) => relative(pointer, rest),
        None => refuse(pointer, "it is absolute: begin it with /"),
    }
}

fn relative(pointer: &str, path: &str) -> Checked {
    if path.len() > MAX_PATH {
        return refuse(pointer, "it is longer than 4095 bytes");
    }
    if path.contains('\0') {
        return refuse(pointer, "there is a NUL in it");
    }
    if path.split('/').any(|part| matches!(part, "" | "." | "..") || part.len() > 255) {
        return refuse(pointer, "one of its parts is empty, `.`, `..` or longer than 255 bytes");
    }
    Ok(())
}

fn mode(pointer: &str, mode: Option<u32>) -> Checked {
    if mode.is_some_and(|mode| mode > 0o7777) { refuse(pointer, "it is at most 0o7777, which is 4095") } else { Ok(()) }
}

fn time(pointer: &str, ms: Option<u64>) -> Checked {
    match ms {
        Some(0) => refuse(pointer, "it is above zero"),
        Some(ms) if ms > MAX_TIME_MS => refuse(pointer, "it is at most a year"),
        _ => Ok(()),
    }
}

fn argv(pointer: &str, argv: &[String]) -> Checked {
    if argv.first().is_none_or(String::is_empty) {
        return refuse(pointer, "a command has a program");
    }
    if argv.iter().any(|argument| argument.contains('\0')) {
        return refuse(pointer, "there is a NUL in it");
    }
    if argv.iter().map(|argument| argument.len() + 1).sum::<usize>() > MAX_TEXT {
        return refuse(pointer, "it is longer than 128 KiB");
    }
    Ok(())
}

fn entrypoint(entrypoint: &Entrypoint, workload: &Workload) -> Checked {
    let function = match entrypoint {
        Entrypoint::Command(command) => return argv("/entrypoint/command", command),
        Entrypoint::Function(function) => function,
    };
    if !matches!(function.language.as_str(), "python" | "typescript") {
        return refuse("/entrypoint/function/language", "it is python or typescript");
    }
    if workload.source.is_none() {
        return refuse("/entrypoint/function", "its module is in no source tree: the workload has none");
    }
    if function.language == "typescript" {
        relative("/entrypoint/function/module", &function.module)?;
    } else if !function.module.split('.').all(is_identifier) {
        return refuse("/entrypoint/function/module", "a module of Python is identifiers with dots between them");
    }
    if !is_identifier(&function.function) {
        return refuse("/entrypoint/function/function", "a function is an identifier");
    }
    Ok(())
}

fn is_identifier(text: &str) -> bool {
    let begins = text.starts_with(|c: char| c.is_alphabetic() || c == '_' || c == '$');
    begins && text.chars().all(|c| c.is_alphanumeric() || c == '_' || c == '$')
}
