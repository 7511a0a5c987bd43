//! The test vectors in docs/evidence/vectors: made here with keys that are no secret, and held to what is checked in.
//!
//! `MVM_EVIDENCE_WRITE=1 cargo test -p mvm-evidence --test vectors` writes them anew.

mod common;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use common::{other_signer, signer, statement};
use mvm_evidence::commitment::{commit, commit_argv, commit_env};
use mvm_evidence::envelope::PAYLOAD_TYPE;
use mvm_evidence::notary::{self, verify_logged};
use mvm_evidence::statement::Commitments;
use mvm_evidence::{
    Digest, Durability, Entry, Envelope, Field, Log, Opening, PublicKey, Refusal, Salt, Signer, Statement, canonical,
    verify,
};
use serde_json::{Value, json};

const ORIGIN: &str = "mvm/000102030405060708090a0b0c0d0e0f";
const TIME_MS: u64 = 1_760_000_000_000;

/// Files by name.
type Files = BTreeMap<String, Vec<u8>>;

fn directory() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/evidence/vectors")
}

/// The salt of one commitment of the run of the vectors.
fn salt(field: Field) -> Salt {
    run_salt().of_field(field)
}

fn run_salt() -> Salt {
    Salt::from_bytes(std::array::from_fn(|n| n as u8))
}

/// What went into it.
fn values() -> (Vec<String>, BTreeMap<String, String>) {
    let argv = ["sh", "-c", "echo hello"].map(str::to_owned).to_vec();
    (argv, BTreeMap::from([("LANG".to_owned(), "C.UTF-8".to_owned())]))
}

fn commitments() -> Commitments {
    let (argv, env) = values();
    Commitments {
        argv: commit_argv(&salt(Field::Argv), &argv).unwrap(),
        env: commit_env(&salt(Field::Env), &env).unwrap(),
        stdin: commit(Field::Stdin, &salt(Field::Stdin), b""),
        stdout: commit(Field::Stdout, &salt(Field::Stdout), b"hello\n"),
        stderr: commit(Field::Stderr, &salt(Field::Stderr), b""),
    }
}

fn the_statement() -> Statement {
    let mut statement = statement();
    statement.run.log = ORIGIN.to_owned();
    statement.run.audit_id = 1;
    statement.commitments = commitments();
    statement
}

fn pretty(value: &Value) -> Vec<u8> {
    let mut bytes = serde_json::to_vec_pretty(value).unwrap();
    bytes.push(b'\n');
    bytes
}

/// An envelope around a payload that mvm would not sign.
fn signed(signer: &Signer, payload: &[u8]) -> Vec<u8> {
    let head = format!("DSSEv1 {} {PAYLOAD_TYPE} {} ", PAYLOAD_TYPE.len(), payload.len());
    let signature = STANDARD.encode(signer.sign(&[head.as_bytes(), payload].concat()));
    let (payload, id) = (STANDARD.encode(payload), signer.public().id());
    let text = format!(
        "{{\"payload\":\"{payload}\",\"payloadType\":\"{PAYLOAD_TYPE}\",\"signatures\":[{{\"keyid\":\"{id}\",\"sig\":\"{signature}\"}}]}}\n"
    );
    text.into_bytes()
}

fn log_at(dir: &Path) -> Log {
    drop(Log::open(dir).unwrap());
    fs::write(dir.join("origin"), format!("{ORIGIN}\n")).unwrap();
    Log::open_existing(dir).unwrap()
}

fn entries(envelope: &[u8]) -> Vec<Entry> {
    let statement = the_statement();
    let run = &statement.run;
    let about = |entry: Entry| entry.run(&run.run_id).sandbox(&run.sandbox_id);
    let digest = statement.digest().unwrap();
    let entries = vec![
        Entry::now("key.created").field("key", signer().public().id()),
        about(Entry::now("run.authorised")).field("plan", statement.policy.plan_digest),
        about(Entry::now(notary::ENDED)).field("statement", digest),
        about(Entry::now(notary::RECEIPT))
            .field("envelope", Digest::of(envelope))
            .field("statement", digest)
            .field("ended", 2),
    ];
    entries.into_iter().zip(TIME_MS..).map(|(entry, at_ms)| Entry { at_ms, ..entry }).collect()
}

fn tree(dir: &Path, name: &str, files: &mut Files) {
    for entry in fs::read_dir(dir).unwrap().map(Result::unwrap) {
        let name = format!("{name}/{}", entry.file_name().to_str().unwrap());
        match entry.path().is_dir() {
            true => tree(&entry.path(), &name, files),
            false => drop(files.insert(name, fs::read(entry.path()).unwrap())),
        }
    }
}

/// Logs: one that is good, and copies of it that are not.
fn logs(envelope: &[u8], files: &mut Files) -> String {
    let dir = tempfile::tempdir().unwrap();
    let log = log_at(&dir.path().join("log"));
    let all = entries(envelope);
    all.iter().for_each(|entry| assert!(log.append(entry, Durability::Durable).is_ok()));
    let checkpoint = log.checkpoint(&signer()).unwrap();
    let proof = log.prove(3, &checkpoint).unwrap().to_text();
    tree(log.dir(), "log", files);
    for (name, entries) in [
        ("log-edited", vec![all[0].clone(), all[1].clone().field("plan", "0"), all[2].clone(), all[3].clone()]),
        ("log-reordered", vec![all[0].clone(), all[2].clone(), all[1].clone(), all[3].clone()]),
        ("log-truncated", all[..3].to_vec()),
    ] {
        let other = log_at(&dir.path().join(name));
        entries.iter().for_each(|entry| assert!(other.append(entry, Durability::Durable).is_ok()));
        let mut tampered = Files::new();
        tree(other.dir(), name, &mut tampered);
        tampered.insert(format!("{name}/checkpoint"), checkpoint.as_str().as_bytes().to_vec());
        files.extend(tampered);
    }
    let resigned = log_at(&dir.path().join("log-signed-anew"));
    all[..3].iter().for_each(|entry| assert!(resigned.append(entry, Durability::Durable).is_ok()));
    resigned.checkpoint(&signer()).unwrap();
    tree(resigned.dir(), "log-signed-anew", files);
    files.retain(|name, _| !name.ends_with("/lock"));
    proof
}

/// Receipts that must be refused, with the reason.
fn bad_receipts(good: &[u8]) -> Vec<(&'static str, Vec<u8>, &'static str)> {
    let text = String::from_utf8(good.to_vec()).unwrap();
    let whole = String::from_utf8(the_statement().to_payload().unwrap()).unwrap();
    let anew = |from: &str, to: &str| {
        assert!(whole.contains(from), "{from}");
        signed(&signer(), whole.replacen(from, to, 1).as_bytes())
    };
    let mut payload: Value = serde_json::from_str(&whole).unwrap();
    payload["predicate"]["host_observed"]["stdout_bytes"] = json!(7);
    let changed = STANDARD.encode(canonical::to_vec(&payload).unwrap());
    let edited = text.replace(&STANDARD.encode(&whole), &changed);
    vec![
        ("receipt-edited.json", edited.into_bytes(), "bad-signature"),
        (
            "receipt-of-a-stranger.json",
            signed(&Signer::from_seed(&[0x44; 32]).unwrap(), whole.as_bytes()),
            "unknown-key",
        ),
        (
            "receipt-under-another-name.json",
            text.replace(&id(&signer()), &id(&other_signer())).into_bytes(),
            "bad-signature",
        ),
        ("receipt-without-line-end.json", text.trim_end().as_bytes().to_vec(), "not-canonical"),
        ("receipt-with-spaces.json", text.replace("\":", "\": ").into_bytes(), "not-canonical"),
        ("receipt-with-two-signatures.json", twice(&text).into_bytes(), "not-one-signature"),
        (
            "receipt-with-another-type.json",
            text.replace(PAYLOAD_TYPE, "application/json").into_bytes(),
            "wrong-payload-type",
        ),
        ("receipt-with-a-field-more.json", text.replacen('{', "{\"note\":\"\",", 1).into_bytes(), "unknown-field"),
        ("receipt-cut-short.json", text.as_bytes()[..text.len() / 2].to_vec(), "not-json"),
        ("statement-not-canonical.json", anew("{", "{ "), "not-canonical"),
        ("statement-with-a-field-more.json", anew("\"tool\":{", "\"tool\":{\"note\":\"\","), "unknown-field"),
        ("statement-without-a-null.json", anew(",\"signal\":null", ""), "not-canonical"),
        ("statement-with-a-float.json", anew("\"cpus\":1,", "\"cpus\":1.0,"), "wrong-shape"),
        ("statement-of-another-run.json", anew("\"run_id\":\"run-7f3a\"", "\"run_id\":\"run-0000\""), "wrong-subject"),
        ("statement-of-version-2.json", anew("run-receipt:v1", "run-receipt:v2"), "wrong-predicate-type"),
        ("statement-with-an-escape.json", anew("\"debian\"", "\"\\u001b[2J\""), "out-of-bounds"),
    ]
}

fn id(signer: &Signer) -> String {
    signer.public().id().to_string()
}

fn twice(text: &str) -> String {
    let signature = &text[text.find("{\"keyid").unwrap()..text.find("]}").unwrap()];
    text.replace(signature, &format!("{signature},{signature}"))
}

/// Proofs that must be refused beside the good receipt, with the reason.
fn bad_proofs(proof: &str) -> Vec<(&'static str, String, &'static str)> {
    let other_entry = STANDARD.encode(entries(b"")[3].to_bytes().unwrap());
    let extra = proof.lines().nth(1).unwrap().to_owned();
    vec![
        ("proof-of-another-place.tlog-proof", proof.replace("index 3", "index 2"), "not-included"),
        ("proof-of-another-entry.tlog-proof", proof.replace(&extra, &format!("extra {other_entry}")), "not-included"),
        ("proof-with-another-size.tlog-proof", proof.replace("\n4\n", "\n5\n"), "bad-signature"),
        ("proof-without-entry.tlog-proof", proof.replace(&format!("{extra}\n"), ""), "wrong-shape"),
    ]
}

fn opening(field: Field, value: &[u8]) -> String {
    let opening = Opening::new(&the_statement(), field, &salt(field), value).unwrap();
    String::from_utf8(opening.to_bytes().unwrap()).unwrap()
}

/// Openings, with the reason why they are refused beside the good receipt, if they are.
fn openings() -> Vec<(&'static str, String, Option<&'static str>)> {
    let argv = opening(Field::Argv, &canonical::to_vec(&values().0).unwrap());
    let good = opening(Field::Stdout, b"hello\n");
    let changed = |from: &str, to: &str| {
        assert!(good.contains(from), "{from}");
        good.replacen(from, to, 1)
    };
    let (of_field, of_run) = (salt(Field::Stdout).to_hex(), run_salt().to_hex());
    vec![
        ("opening.json", good.clone(), None),
        ("opening-of-argv.json", argv, None),
        (
            "opening-of-another-value.json",
            changed(&STANDARD.encode("hello\n"), &STANDARD.encode("hallo\n")),
            Some("wrong-opening"),
        ),
        ("opening-of-another-field.json", changed("stdout", "stderr"), Some("wrong-opening")),
        ("opening-of-another-run.json", changed("run-7f3a", "run-0000"), Some("wrong-opening")),
        ("opening-with-the-salt-of-the-run.json", changed(&of_field, &of_run), Some("wrong-opening")),
        ("opening-of-version-2.json", changed("opening:v1", "opening:v2"), Some("wrong-opening")),
        ("opening-with-a-field-more.json", changed("{", "{\"note\":\"\","), Some("unknown-field")),
        ("opening-without-salt.json", changed(&format!("\"salt\":\"{of_field}\","), ""), Some("wrong-shape")),
        ("opening-with-spaces.json", changed("\":", "\": "), Some("not-canonical")),
        ("opening-without-line-end.json", good.trim_end().to_owned(), Some("not-canonical")),
        ("opening-cut-short.json", format!("{}\n", &good[..good.len() / 2]), Some("not-json")),
    ]
}

/// Everything in the directory, and what is expected of it.
fn vectors() -> Files {
    let mut files = Files::new();
    files.insert("key.pem".to_owned(), signer().public().to_pem().as_bytes().to_vec());
    files.insert("other.pem".to_owned(), other_signer().public().to_pem().as_bytes().to_vec());
    let good = Envelope::sign(&the_statement(), &signer()).unwrap().to_bytes();
    let proof = logs(&good, &mut files);
    files.insert("payload.json".to_owned(), the_statement().to_payload().unwrap());
    let (argv, env) = values();
    let salts: BTreeMap<_, _> = Field::ALL.map(|field| (field.name(), salt(field).to_hex())).into_iter().collect();
    files.insert(
        "commitments.json".to_owned(),
        pretty(&json!({
            "salt": run_salt().to_hex(),
            "salts": salts,
            "values": { "argv": argv, "env": env, "stdin": "", "stdout": "hello\n", "stderr": "" },
            "commitments": commitments(),
        })),
    );
    let mut receipts = vec![json!({ "file": "receipt.json", "refusal": null, "exit_status": 0 })];
    for (name, bytes, refusal) in bad_receipts(&good) {
        receipts.push(json!({ "file": name, "refusal": refusal, "exit_status": status(refusal) }));
        files.insert(name.to_owned(), bytes);
    }
    let mut proofs = vec![json!({ "file": "receipt.json.tlog-proof", "refusal": null, "exit_status": 0 })];
    for (name, text, refusal) in bad_proofs(&proof) {
        proofs.push(json!({ "file": name, "refusal": refusal, "exit_status": status(refusal) }));
        files.insert(name.to_owned(), text.into_bytes());
    }
    let mut opened = Vec::new();
    for (name, text, refusal) in openings() {
        opened.push(json!({ "file": name, "refusal": refusal, "exit_status": refusal.map_or(0, status) }));
        files.insert(name.to_owned(), text.into_bytes());
    }
    files.insert("receipt.json".to_owned(), good);
    files.insert("receipt.json.tlog-proof".to_owned(), proof.into_bytes());
    files.insert("expected.json".to_owned(), pretty(&json!({
        "receipts": receipts,
        "proofs": proofs,
        "openings": opened,
        "logs": [
            { "directory": "log", "findings": [] },
            { "directory": "log-edited", "findings": ["checkpoint-differs", "tile-missing", "tile-missing"] },
            { "directory": "log-reordered", "findings": ["checkpoint-differs", "tile-missing", "tile-missing"] },
            { "directory": "log-truncated", "findings": ["truncated"] },
            { "directory": "log-signed-anew", "findings": [] },
            { "directory": "log-signed-anew", "witness": "log/checkpoint", "findings": ["truncated-behind-witness"] },
        ],
    })));
    files
}

fn status(name: &str) -> u8 {
    Refusal::all().iter().find(|refusal| refusal.name() == name).unwrap().exit_status()
}

fn checked_in() -> Files {
    let mut files = Files::new();
    tree(&directory(), "", &mut files);
    files.into_iter().map(|(name, bytes)| (name[1..].to_owned(), bytes)).collect()
}

#[test]
fn the_vectors_are_those_that_are_checked_in() {
    let made = vectors();
    if std::env::var_os("MVM_EVIDENCE_WRITE").is_some() {
        let _ = fs::remove_dir_all(directory());
        for (name, bytes) in &made {
            let path = directory().join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, bytes).unwrap();
        }
    }
    let there = checked_in();
    let names = |files: &Files| files.keys().cloned().collect::<Vec<_>>();
    assert_eq!(names(&there), names(&made), "write them anew: see the head of this file");
    for (name, bytes) in &made {
        assert!(there[name] == *bytes, "{name} is stale; write them anew: see the head of this file");
    }
}

#[test]
fn each_vector_does_what_is_expected_of_it() {
    let files = checked_in();
    let expected: Value = serde_json::from_slice(&files["expected.json"]).unwrap();
    let key = |name: &str| PublicKey::from_pem(std::str::from_utf8(&files[name]).unwrap()).unwrap();
    let keys = [key("key.pem"), key("other.pem")];
    let rows = |what: &str| expected[what].as_array().unwrap().clone();
    let name = |result: Result<(), Refusal>| result.err().map_or(Value::Null, |refusal| json!(refusal.name()));
    for row in rows("receipts") {
        let verified = Envelope::verify(&files[row["file"].as_str().unwrap()], &keys);
        assert_eq!(name(verified.map(drop)), row["refusal"], "{row}");
    }
    let receipt = Envelope::verify(&files["receipt.json"], &keys).unwrap();
    for row in rows("proofs") {
        let included = verify_logged(&receipt, &files[row["file"].as_str().unwrap()], &keys);
        assert_eq!(name(included.map(drop)), row["refusal"], "{row}");
    }
    for row in rows("openings") {
        let opening = Opening::from_bytes(&files[row["file"].as_str().unwrap()]);
        let opened = opening.and_then(|opening| opening.check(&receipt.statement));
        assert_eq!(name(opened.map(drop)), row["refusal"], "{row}");
    }
    for row in rows("logs") {
        let witnesses: Vec<_> = row["witness"].as_str().map(|file| files[file].clone()).into_iter().collect();
        let report = verify(&directory().join(row["directory"].as_str().unwrap()), &keys, &witnesses).unwrap();
        let found: Vec<_> = report.findings.iter().map(|finding| finding.name.as_str()).collect();
        assert_eq!(json!(found), row["findings"], "{row}: {report:?}");
    }
}

/// What the page shows of them is what they are.
#[test]
fn the_page_shows_the_vectors() {
    let page = fs::read_to_string(directory().join("../../evidence.md")).unwrap();
    let files = checked_in();
    let text = |name: &str| String::from_utf8(files[name].clone()).unwrap();
    for name in ["receipt.json", "receipt.json.tlog-proof", "key.pem", "log/checkpoint", "opening.json"] {
        assert!(page.contains(text(name).trim_end()), "docs/evidence.md does not show {name} as it is");
    }
    assert!(page.contains(&text("payload.json")), "docs/evidence.md does not show the payload as it is");
    for refusal in Refusal::all() {
        let row = format!("| {} | `{}` |", refusal.exit_status(), refusal.name());
        assert!(page.contains(&row), "docs/evidence.md lacks the row {row}");
    }
}
