use std::fs;
use std::time::Duration;

use super::*;

fn parsed(text: &str) -> std::result::Result<(String, String), String> {
    let told = |e: Error| format!("{e} ({})", e.hint);
    Source::parse(text).map(|source| (source.name().to_owned(), source.reference())).map_err(told)
}

fn of_file(content: &[u8], mode: u32) -> Result<(SecretValue, Vec<String>)> {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("f");
    fs::write(&path, content).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
    Source::parse(&format!("TOKEN=file:{}", path.display())).unwrap().resolve()
}

fn value(content: &[u8]) -> String {
    of_file(content, 0o600).unwrap().0.expose().to_owned()
}

#[test]
fn a_reference_names_a_variable_or_a_file() {
    let pair = |name: &str, reference: &str| Ok((name.to_owned(), reference.to_owned()));
    assert_eq!(parsed("TOKEN"), pair("TOKEN", "env:TOKEN"));
    assert_eq!(parsed("TOKEN=env:CI_TOKEN"), pair("TOKEN", "env:CI_TOKEN"));
    assert_eq!(parsed("TOKEN=file:/run/a=b:c"), pair("TOKEN", "file:/run/a=b:c"));
    let here = std::env::current_dir().unwrap();
    assert_eq!(parsed("TOKEN=file:x"), pair("TOKEN", &format!("file:{}", here.join("x").display())));
}

#[test]
fn what_may_be_a_value_is_not_shown() {
    for text in [
        "TOKEN=hunter2hunter2",
        "TOKEN=",
        "TOKEN=env:",
        "TOKEN=env:hunter2!",
        "TOKEN=file:",
        "TOKEN=file:hunter2\0",
        "TOKEN=ENV:hunter2",
        "TOKEN=:hunter2",
        "TOKEN=hunter2:env",
        "=hunter2",
        "1=hunter2",
        "hunter2 hunter2",
        "",
    ] {
        let error = parsed(text).unwrap_err();
        assert!(!error.contains("hunter2"), "{error}");
        assert!(error.contains("--secret"), "{error}");
    }
}

#[test]
fn a_file_is_read_without_its_last_newline() {
    assert_eq!(value(b"s3cret-value"), "s3cret-value");
    assert_eq!(value(b"s3cret-value\n"), "s3cret-value");
    assert_eq!(value(b"s3cret-value\r\n"), "s3cret-value");
    assert_eq!(value(b"s3cret-value\n\n"), "s3cret-value\n");
    assert_eq!(value(&b"x".repeat(MAX_VALUE)).len(), MAX_VALUE);
    assert_eq!(value(&[b"x".repeat(MAX_VALUE), b"\r\n".to_vec()].concat()).len(), MAX_VALUE);
}

#[test]
fn what_no_variable_can_hold_is_refused() {
    let why = |content: &[u8]| of_file(content, 0o600).unwrap_err().why;
    assert!(why(b"").contains("empty") && why(b"\n").contains("empty"));
    assert!(why(b"short").contains("shorter"));
    assert!(why(b"binary\xff\xfe\xfd\xfc").contains("UTF-8"));
    assert!(why(b"with a\0NUL").contains("NUL"));
    assert!(why(&b"x".repeat(MAX_VALUE + 1)).contains("64 KiB"));
}

#[test]
fn only_regular_files_are_read() {
    let dir = tempfile::tempdir().unwrap();
    let fifo = dir.path().join("fifo");
    rustix::fs::mknodat(CWD, &fifo, rustix::fs::FileType::Fifo, Mode::from_raw_mode(0o600), 0).unwrap();
    let link = dir.path().join("link");
    std::os::unix::fs::symlink(&fifo, &link).unwrap();
    for path in [dir.path(), &fifo, &link, Path::new("/dev/zero"), Path::new("/dev/tty")] {
        let source = Source::parse(&format!("TOKEN=file:{}", path.display())).unwrap();
        // Its own thread: an open that waits for a writer would never come back.
        let (told, heard) = std::sync::mpsc::channel();
        std::thread::spawn(move || told.send(source.resolve().map(drop)));
        let error = heard.recv_timeout(Duration::from_secs(20)).unwrap().unwrap_err();
        assert!(error.why.contains("no regular file"), "{error}");
    }
    let missing = Source::parse("TOKEN=file:/nowhere/at/all").unwrap().resolve().unwrap_err();
    assert_eq!(missing.code, ErrorCode::NotFound);
    assert!(missing.what.contains("/nowhere/at/all"), "{missing}");
    let unset = Source::parse("MVM_TEST_NEVER_SET").unwrap().resolve().unwrap_err();
    assert_eq!(unset.code, ErrorCode::NotFound);
    assert!(unset.why.contains("MVM_TEST_NEVER_SET is not set"), "{unset}");
}

#[test]
fn a_link_to_a_file_is_followed() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("f"), "s3cret-value").unwrap();
    std::os::unix::fs::symlink("f", dir.path().join("link")).unwrap();
    let source = Source::parse(&format!("TOKEN=file:{}", dir.path().join("link").display())).unwrap();
    assert_eq!(source.resolve().unwrap().0.expose(), "s3cret-value");
}

#[test]
fn what_is_kept_badly_is_told() {
    let warnings = |content: &[u8], mode| of_file(content, mode).unwrap().1;
    assert!(warnings(b"s3cret-value", 0o600).is_empty());
    for mode in [0o640, 0o604, 0o660] {
        let told = warnings(b"s3cret-value", mode).join("\n");
        assert!(told.contains("others may read") && !told.contains("s3cret"), "{told}");
    }
    for content in [&b"password"[..], b"12345678", b"        "] {
        let told = warnings(content, 0o600).join("\n");
        assert!(told.contains("looks like a word") && !told.contains("password"), "{told}");
    }
    assert!(warnings(b"Passw0rd", 0o600).is_empty());
}

#[test]
fn all_are_read_or_none() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("f");
    fs::write(&path, "s3cret-value").unwrap();
    let of = |name: &str| Source::of_reference(name, &format!("file:{}", path.display())).unwrap();
    let resolved = resolve(&[of("A"), of("B")], ["C"].into_iter()).unwrap();
    assert_eq!(resolved.values.keys().collect::<Vec<_>>(), ["A", "B"]);
    assert!(resolve(&[of("A"), of("A")], [].into_iter()).unwrap_err().why.contains("twice"));
    assert!(resolve(&[of("A")], ["A"].into_iter()).unwrap_err().why.contains("openly"));
    assert!(resolve(&[of("A"), Source::parse("MVM_TEST_NEVER_SET").unwrap()], [].into_iter()).is_err());
}
