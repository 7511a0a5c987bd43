//! Layers from anybody: what they are together, and what is refused.

#[path = "layers/model.rs"]
mod model;
#[path = "layers/tars.rs"]
mod tars;

use std::io::{Read, Write};
use std::path::Path;
use std::time::{Duration, Instant};

use flate2::Compression;
use flate2::write::GzEncoder;
use mvm_runtime::layers::{Expected, Layer, Limits, Region, Spool, flatten};
use mvm_runtime::{Error, ErrorCode};
use mvm_wire::tar::{self, Entry, Kind};
use sha2::{Digest, Sha256};
use tars::{Tar, directory, file, link, symlink};

fn layer(bytes: &[u8]) -> Layer {
    let mut file = tempfile::tempfile().unwrap();
    file.write_all(bytes).unwrap();
    Layer { name: "layer 1".into(), region: Region::whole(file).unwrap() }
}

fn flattened(layers: &[Vec<u8>], limits: &Limits) -> Result<Vec<u8>, Error> {
    let (layers, mut out): (Vec<Layer>, _) = (layers.iter().map(|bytes| layer(bytes)).collect(), Vec::new());
    flatten(&layers, limits, &mut out).map(|_| out)
}

fn together(layers: &[Vec<u8>]) -> Result<Vec<u8>, Error> {
    flattened(layers, &Limits::default())
}

fn entries(archive: &[u8]) -> Vec<(Entry, Vec<u8>)> {
    let (mut rest, mut found) = (archive, Vec::new());
    while let Some(entry) = tar::read(&mut rest).unwrap() {
        let mut content = vec![0; entry.size as usize];
        rest.read_exact(&mut content).unwrap();
        rest = &rest[tar::padding(entry.size) as usize..];
        found.push((entry, content));
    }
    found
}

/// The paths, without those that every image has.
fn paths(archive: &[u8]) -> Vec<String> {
    let path = |(entry, _): (Entry, _)| String::from_utf8(entry.path).unwrap();
    let own = ["", "dev", "proc", "run", "sys", "tmp"];
    entries(archive).into_iter().map(path).filter(|path| !own.contains(&path.as_str())).collect()
}

fn refusal(layers: &[Vec<u8>]) -> String {
    let error = together(layers).unwrap_err();
    assert_eq!(error.code, ErrorCode::InvalidRequest, "{error}");
    assert!(!error.to_string().contains('\x1b'), "{error:?}");
    error.why
}

#[test]
fn what_a_machine_needs_is_there_and_says_nothing_of_this_host() {
    let empty = together(&[]).unwrap();
    let found: Vec<(String, u32)> =
        entries(&empty).into_iter().map(|(e, _)| (String::from_utf8(e.path).unwrap(), e.mode)).collect();
    let expected = [("", 0o755), ("dev", 0o755), ("proc", 0o555), ("run", 0o755), ("sys", 0o555), ("tmp", 0o1777)];
    assert_eq!(found, expected.map(|(path, mode)| (path.to_owned(), mode)));
    let own = Tar::new().put(&Entry { mode: 0o700, ..directory("proc") }).end();
    assert_eq!(entries(&together(&[own]).unwrap())[2].0.mode, 0o700);
    assert!(refusal(&[Tar::new().put(&symlink("run", "tmp")).end()]).contains("/run is no directory"));
}

#[test]
fn removals_are_of_lower_layers_wherever_they_stand() {
    let lower = Tar::new().put(&directory("d")).file("d/old", b"1").file("d/other", b"2").file("e", b"3").end();
    let upper = Tar::new().file("d/new", b"4").put(&file("d/.wh..wh..opq", 0)).put(&file(".wh.e", 0)).file("e", b"5");
    let upper = upper.put(&file("d/.wh.new", 0)).put(&file(".wh..wh.plnk/1.2", 0)).put(&file(".wh.never", 0)).end();
    let both = together(&[lower.clone(), upper.clone()]).unwrap();
    assert_eq!(paths(&both), ["d", "d/new", "e"]);
    let again = Tar::new().put(&file(".wh.d", 0)).end();
    assert_eq!(paths(&together(&[lower, upper, again]).unwrap()), ["e"]);
    for name in [".wh.", ".wh..", ".wh...", ".wh.d/x"] {
        let why = refusal(&[vec![], Tar::new().put(&file(name, 0)).end()]);
        assert!(why.contains("remov"), "{why}");
    }
}

#[test]
fn a_hard_link_keeps_its_file_whatever_becomes_of_the_first_name() {
    let lower = Tar::new().file("a", b"content").end();
    let linked = Tar::new().put(&link("b", "/a")).put(&link("c", "./b")).end();
    let upper = Tar::new().file("a", b"new").end();
    let found = entries(&together(&[lower, linked, upper]).unwrap());
    let of = |path: &str| found.iter().find(|(entry, _)| entry.path == path.as_bytes()).unwrap();
    assert_eq!((of("a").1.as_slice(), of("b").1.as_slice()), (b"new".as_slice(), b"content".as_slice()));
    assert_eq!(of("c").0.kind, Kind::Link(b"b".to_vec()));
}

#[test]
fn attributes_and_devices_stay_and_sockets_and_other_systems_attributes_do_not() {
    let xattrs = [("user.a", "1\n2"), ("security.capability", "\x01"), ("com.apple.x", "3"), ("system.y", "4")];
    let xattrs = xattrs.map(|(name, value)| (name.as_bytes().to_vec(), value.as_bytes().to_vec()));
    let device = Entry { kind: Kind::Char(1, 3), xattrs: xattrs.clone().into(), mode: 0o666, ..file("null", 0) };
    let tar = Tar::new().put(&device).put(&Entry { xattrs: xattrs.clone().into(), ..directory("z") }).end();
    let found = entries(&together(&[tar]).unwrap());
    let of = |path: &str| &found.iter().find(|(entry, _)| entry.path == path.as_bytes()).unwrap().0;
    assert_eq!((of("null").kind.clone(), of("null").mode), (Kind::Char(1, 3), 0o666));
    assert_eq!(of("null").xattrs.keys().collect::<Vec<_>>(), [b"security.capability"]);
    assert_eq!(of("z").xattrs, xattrs[..2].iter().cloned().collect());
    let much = Entry { xattrs: [(b"user.a".to_vec(), vec![0; 5000])].into(), ..directory("d") };
    assert!(refusal(&[Tar::new().put(&much).end()]).contains("attributes"));
}

#[test]
fn a_link_is_the_same_whatever_mode_it_is_said_to_have() {
    let with = |mode| together(&[Tar::new().put(&Entry { mode, ..symlink("l", "d") }).end()]).unwrap();
    assert!(with(0o755) == with(0o777));
}

#[test]
fn what_leads_elsewhere_is_refused() {
    for path in ["../x", "a/../../x", "/../x"] {
        assert!(refusal(&[Tar::new().raw_path(path).end()]).contains("a part .."), "{path}");
    }
    assert_eq!(paths(&together(&[Tar::new().raw_path("/etc/x").end()]).unwrap()), ["etc", "etc/x"]);
    let through = Tar::new().put(&symlink("l", "/etc")).file("l/passwd", b"root").end();
    assert!(refusal(&[through]).contains("l/passwd: what it is in is no directory"));
    let (lower, upper) = (Tar::new().put(&symlink("l", "d")).end(), Tar::new().file("l/x", b"").end());
    assert!(refusal(&[lower.clone(), upper]).contains("no directory"));
    let upper = Tar::new().put(&file("l/.wh.x", 0)).end();
    assert!(refusal(&[lower.clone(), upper]).contains("to be removed from it"));
    let upper = Tar::new().put(&directory("l")).file("l/x", b"").put(&file("l/.wh..wh..opq", 0)).end();
    assert_eq!(paths(&together(&[lower, upper]).unwrap()), ["l", "l/x"], "a directory in the place of the link");
    for target in ["/etc/passwd", "nowhere", "d"] {
        let tar = Tar::new().put(&directory("d")).put(&link("x", target)).end();
        assert!(refusal(&[tar]).contains("hard link to"), "{target}");
    }
    assert!(refusal(&[Tar::new().put(&link("x", "../etc/passwd")).end()]).contains("a part .."));
    let ugly = Tar::new().put(&link("\x1b[2J\u{202e}", "nowhere")).end();
    assert!(refusal(&[ugly]).contains("hard link"));
}

#[test]
fn what_is_cut_off_or_no_archive_is_refused() {
    let whole = Tar::new().file("a", &[7; 3000]).end();
    for length in [1, 511, 513, 2000, 3511] {
        assert!(refusal(&[whole[..length].to_vec()]).contains("cut off"), "{length}");
    }
    assert!(refusal(&[b"#!/bin/sh\n".repeat(100)]).contains("no header"));
    assert!(refusal(&[Tar::new().header(&Entry { size: u64::MAX >> 1, ..file("huge", 0) }).end()]).contains("cut off"));
    let headers = Tar::new().raw_header(b'x', 1 << 40).end();
    assert!(refusal(&[headers]).contains("bytes of headers"));
}

#[test]
fn bounds_hold() {
    let exhausted = |layers: &[Vec<u8>], limits: Limits| {
        let error = flattened(layers, &limits).unwrap_err();
        assert_eq!(error.code, ErrorCode::ResourceExhausted, "{error}");
    };
    let three = Tar::new().file("a", b"").file("b", b"").file("c", b"").end();
    exhausted(std::slice::from_ref(&three), Limits { entries: 2, ..Limits::default() });
    exhausted(&[Tar::new().file("a/b/c/d", b"").end()], Limits { entries: 3, ..Limits::default() });
    exhausted(&[three], Limits { names: 2, ..Limits::default() });
    exhausted(&[vec![], Tar::new().put(&file(".wh.some", 0)).end()], Limits { names: 3, ..Limits::default() });
    exhausted(&[vec![], vec![]], Limits { layers: 1, ..Limits::default() });
}

#[test]
fn there_may_be_no_more_than_there_is_room_for() {
    let dir = tempfile::tempdir().unwrap();
    let bytes = Limits::within(dir.path()).unwrap().bytes;
    assert!(bytes > 0 && bytes <= Limits::default().bytes, "{bytes}");
    assert_eq!(Limits::within(Path::new("/proc")).unwrap().bytes, 0);
    assert!(Limits::within(Path::new("/missing")).is_err());
}

#[test]
fn many_small_entries_take_seconds() {
    let (mut lower, mut upper) = (Tar::new(), Tar::new());
    for number in 0..100_000 {
        lower = lower.file(&format!("d{}/e/f{number}", number % 97), b"x");
        if number % 2 == 0 {
            upper = upper.put(&file(&format!("d{}/e/.wh.f{number}", number % 97), 0));
        }
    }
    let since = Instant::now();
    let both = together(&[lower.end(), upper.end()]).unwrap();
    assert_eq!(paths(&both).len(), 50_000 + 2 * 97);
    assert!(since.elapsed() < Duration::from_secs(30), "{:?}", since.elapsed());
}

fn take(blob: &[u8], expected: &Expected, bytes: u64) -> Result<Vec<u8>, Error> {
    let dir = tempfile::tempdir().unwrap();
    let mut spool = Spool::new(dir.path(), &Limits { bytes, ..Limits::default() });
    let region = spool.take("layer 1", blob, expected)?;
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0, "what is copied has no name");
    let mut content = Vec::new();
    region.reader().read_to_end(&mut content).unwrap();
    Ok(content)
}

fn gzip(content: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
    encoder.write_all(content).unwrap();
    encoder.finish().unwrap()
}

fn expected(blob: &[u8], content: &[u8]) -> Expected {
    let digest = |bytes| Some(hex::encode(Sha256::digest(bytes)));
    Expected { sha256: digest(blob), size: Some(blob.len() as u64), content_sha256: digest(content) }
}

#[test]
fn a_layer_is_what_the_image_says_of_it_or_refused() {
    let content = b"content ".repeat(1000);
    let two = [gzip(&content[..4000]), gzip(&content[4000..])].concat();
    for blob in [content.clone(), gzip(&content), two, zstd::encode_all(content.as_slice(), 3).unwrap()] {
        let good = expected(&blob, &content);
        assert_eq!(take(&blob, &good, 10_000).unwrap(), content);
        let mut lies = vec![
            ("size", Expected { size: Some(blob.len() as u64 - 1), ..good.clone() }),
            ("size", Expected { size: Some(blob.len() as u64 + 1), ..good.clone() }),
            ("digest", Expected { sha256: Some("0".repeat(64)), ..good.clone() }),
            ("digest", Expected { content_sha256: Some("0".repeat(64)), ..good.clone() }),
        ];
        for (says, lie) in lies.drain(..) {
            let error = take(&blob, &lie, 10_000).unwrap_err();
            assert_eq!(error.code, ErrorCode::InvalidRequest);
            assert!(error.why.contains(says), "{error}");
        }
        let error = take(&blob[..blob.len() - 3], &good, 10_000).unwrap_err();
        assert_eq!(error.code, ErrorCode::InvalidRequest, "{error}");
        assert_eq!(take(&blob, &good, 7999).unwrap_err().code, ErrorCode::ResourceExhausted);
    }
}

#[test]
fn a_bomb_goes_off_in_nobodys_memory_and_disk() {
    let bomb = gzip(&vec![0; 64 << 20]);
    let (mut rest, dir) = (bomb.as_slice(), tempfile::tempdir().unwrap());
    let mut spool = Spool::new(dir.path(), &Limits { bytes: 1 << 20, ..Limits::default() });
    let error = spool.take("layer 1", &mut rest, &Expected::default()).unwrap_err();
    assert_eq!(error.code, ErrorCode::ResourceExhausted, "{error}");
    assert!(rest.len() > bomb.len() / 2, "{} of {} bytes were not read", rest.len(), bomb.len());
}
