use std::io::{ErrorKind, Read};

use proptest::collection::{btree_map, vec};
use proptest::prelude::*;

use super::*;

fn file(path: &str) -> Entry {
    let (path, xattrs) = (path.as_bytes().to_vec(), BTreeMap::new());
    Entry { path, kind: Kind::File, mode: 0o644, uid: 0, gid: 0, mtime: 0, size: 0, xattrs }
}

fn written(entry: &Entry) -> Vec<u8> {
    let mut bytes = Vec::new();
    write(&mut bytes, entry).unwrap();
    bytes
}

/// A header of GNU's or PAX: its kind, and what it says.
fn extra(kind: u8, text: &[u8]) -> Vec<u8> {
    let mut bytes = written(&Entry { size: text.len() as u64, ..file("extra") });
    bytes[156] = kind;
    fix(&mut bytes);
    bytes.extend(text);
    bytes.extend(vec![0; padding(text.len() as u64) as usize]);
    bytes
}

/// Gives a header that was changed the right sum.
fn fix(header: &mut [u8]) {
    header[148..156].fill(b' ');
    let sum: u64 = header[..512].iter().map(|byte| u64::from(*byte)).sum();
    header[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
}

fn read_one(bytes: &[u8]) -> std::io::Result<Entry> {
    read(&mut &bytes[..]).map(|entry| entry.expect("an entry"))
}

fn why(bytes: &[u8]) -> String {
    let error = read(&mut &bytes[..]).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidData);
    error.to_string()
}

fn any_kind() -> impl Strategy<Value = Kind> {
    prop_oneof![
        Just(Kind::File),
        Just(Kind::Directory),
        Just(Kind::Fifo),
        vec(vec(b'a'..=b'z', 1..90), 1..4).prop_map(|parts| Kind::Link(parts.join(&b'/'))),
        vec(1u8..=255, 1..300).prop_map(Kind::Symlink),
        (0u32..1 << 12, 0u32..1 << 20).prop_map(|(major, minor)| Kind::Char(major, minor)),
        (0u32..1 << 12, 0u32..1 << 20).prop_map(|(major, minor)| Kind::Block(major, minor)),
    ]
}

fn any_part() -> impl Strategy<Value = Vec<u8>> {
    vec(any::<u8>().prop_filter("part of a name", |byte| !matches!(byte, 0 | b'/')), 1..120)
        .prop_filter("a name", |part| !matches!(part.as_slice(), b"." | b".."))
}

prop_compose! {
    fn any_entry()(
        parts in vec(any_part(), 1..5), kind in any_kind(), mode in 0u32..=0o7777, uid in 0..u32::MAX, gid in 0..u32::MAX,
        mtime in 0..=MAX_TIME, size: u64,
        xattrs in btree_map(vec(any::<u8>().prop_filter("no =", |b| !matches!(b, 0 | b'=')), 1..30), vec(any::<u8>(), 0..200), 0..4),
    ) -> Entry {
        let size = if kind == Kind::File { size } else { 0 };
        Entry { path: parts.join(&b'/'), kind, mode, uid, gid, mtime, size, xattrs }
    }
}

proptest! {
    #[test]
    fn what_is_written_is_read(entry in any_entry()) {
        let bytes = written(&entry);
        prop_assert_eq!(bytes.len() as u64 % BLOCK, 0);
        prop_assert_eq!(read_one(&bytes).unwrap(), entry);
    }

    #[test]
    fn anything_is_read_or_refused_and_what_is_read_can_be_written(
        entry in any_entry(), changes in vec((0usize..2048, any::<u8>()), 0..6), cut in 0usize..4096,
    ) {
        let mut bytes = written(&entry);
        for (at, byte) in changes {
            let at = at % bytes.len();
            bytes[at] = byte;
        }
        let last = bytes.len() - 512;
        fix(&mut bytes[last..]);
        bytes.truncate(cut);
        if let Ok(Some(entry)) = read(&mut bytes.as_slice()) {
            let mut again = Vec::new();
            if write(&mut again, &entry).is_ok() {
                prop_assert_eq!(read_one(&again).unwrap(), entry);
            }
        }
    }

    #[test]
    fn a_clean_path_stays_beneath(path in vec(prop_oneof![Just(b'/'), Just(b'.'), Just(b'a'), any::<u8>()], 0..40)) {
        if let Ok(clean) = clean(&path) {
            prop_assert!(clean.split(|b| *b == b'/').all(|part| clean.is_empty() || check_name(part).is_ok()));
            prop_assert_eq!(super::clean(&clean), Ok(clean));
        }
    }
}

#[test]
fn paths_lose_what_they_begin_with_and_lead_nowhere_else() {
    for (path, cleaned) in [("/a//b/", "a/b"), ("./a/./b", "a/b"), ("", ""), ("./", ""), ("...", "...")] {
        assert_eq!(clean(path.as_bytes()).unwrap(), cleaned.as_bytes());
    }
    for path in ["..", "a/../b", "/..", "a/.."] {
        assert!(clean(path.as_bytes()).unwrap_err().contains("a part .."));
    }
    assert!(clean(b"a\0b").unwrap_err().contains("zero byte"));
    assert!(clean(&[b'x'; 256]).unwrap_err().contains("255"));
    assert!(clean(&b"ab/".repeat(1400)).unwrap_err().contains("4095"));
}

#[test]
fn other_formats_are_read() {
    let name = "n".repeat(150);
    let long = [extra(b'L', format!("{name}\0").as_bytes()), extra(b'K', b"there\0"), written(&file("short"))].concat();
    assert_eq!(read_one(&long).unwrap().path, name.as_bytes());
    let pax = b"19 path=with\nnewline".as_slice();
    let pax = [extra(b'x', &[pax, b"\n12 uid=7000\n22 mtime=1600000000.5\n9 size=5\n"].concat()), written(&file("f"))];
    assert!(read_one(&pax.concat()).is_err(), "a length that is wrong");
    let pax = b"21 path=with\nnewline\n12 uid=7000\n22 mtime=1600000000.5\n9 size=5\n";
    let entry = read_one(&[extra(b'x', pax), written(&file("f"))].concat());
    let entry = entry.unwrap();
    assert_eq!((entry.path.as_slice(), entry.uid), (b"with\nnewline".as_slice(), 7000));
    assert_eq!((entry.mtime, entry.size), (1_600_000_000, 5));
    let mut prefixed = written(&file("name"));
    prefixed[345..348].copy_from_slice(b"dir");
    fix(&mut prefixed);
    assert_eq!(read_one(&prefixed).unwrap().path, b"dir/name");
    let mut old = written(&file("dir/"));
    old[156] = 0;
    fix(&mut old);
    assert_eq!(read_one(&old).unwrap().kind, Kind::Directory);
    let remark = [extra(b'g', b"13 comment=x\n"), written(&file("f"))].concat();
    assert_eq!(read_one(&remark).unwrap().path, b"f");
}

#[test]
fn what_cannot_be_meant_well_is_refused() {
    let behind = |header: Vec<u8>| [header, written(&file("f"))].concat();
    assert!(why(&behind(extra(b'x', b"30 path=short\n"))).contains("damaged"));
    assert!(why(&behind(extra(b'x', b"99999999999999999999 path=a\n"))).contains("damaged"));
    assert!(why(&behind(extra(b'x', b"21 GNU.sparse.major=1\n"))).contains("damaged"));
    assert!(why(&behind(extra(b'x', b"22 GNU.sparse.major=1\n"))).contains("sparse"));
    assert!(why(&behind(extra(b'g', b"11 uid=100\n"))).contains("all entries"));
    assert!(why(&behind(extra(b'x', b"8 uid=x\n"))).contains("no number"));
    assert!(why(&behind(extra(b'x', b"18 uid=4294967295\n"))).contains("owner is too large"));
    assert!(why(&behind(extra(b'x', b"11 path=..\n"))).contains("a part .."));
    let mut huge = written(&Entry { size: 1 << 40, ..file("x") });
    huge[156] = b'x';
    fix(&mut huge);
    assert!(why(&huge).contains("bytes of headers"));
    let endless = extra(b'L', b"x").repeat(3000);
    assert!(why(&endless).contains("bytes of headers"));
    for (kind, says) in [(b'S', "sparse"), (b'V', "nobody knows")] {
        let mut odd = written(&file("odd"));
        odd[156] = kind;
        fix(&mut odd);
        assert!(why(&odd).contains(says));
    }
    assert!(why(&[b'x'; 512]).contains("no header"));
    assert!(why(&written(&file(""))).contains("no name"));
    assert!(why(&written(&Entry { kind: Kind::Symlink(vec![]), ..file("l") })).contains("nothing"));
    assert_eq!(read(&mut [b'x'; 100].as_slice()).unwrap_err().kind(), ErrorKind::UnexpectedEof);
    assert_eq!(read(&mut extra(b'L', b"cut").as_slice()).unwrap_err().kind(), ErrorKind::UnexpectedEof);
    assert!(write(&mut std::io::sink(), &Entry { xattrs: [(b"a=b".to_vec(), vec![])].into(), ..file("f") }).is_err());
}

#[test]
fn an_archive_ends_with_zeros_or_with_its_bytes() {
    let mut bytes = written(&file("a"));
    bytes.extend(END);
    bytes.extend(b"whatever");
    let mut rest = bytes.as_slice();
    assert!(read(&mut rest).unwrap().is_some() && read(&mut rest).unwrap().is_none());
    assert!(read(&mut std::io::empty().take(0)).unwrap().is_none());
}
