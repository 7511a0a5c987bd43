//! `mvmctl key`: the keys that sign.

use mvm_evidence::{Digest, Durability, Entry, notary};
use mvm_runtime::{Home, Result, evidence};
use serde_json::json;

use super::args::KeyCommand;
use super::verb;
use crate::output;

/// Runs the verb.
pub fn key(command: KeyCommand) -> u8 {
    match command {
        KeyCommand::Show { json } => verb(json, || show(json)),
        KeyCommand::Rotate { json } => verb(json, || rotate(json)),
        KeyCommand::Export { id, json } => verb(json, || export(id, json)),
    }
}

fn show(as_json: bool) -> Result<u8> {
    let ring = evidence::keys(&Home::locate()?);
    let current = ring.current()?.id();
    let mut keys = ring.public_keys()?;
    keys.sort_by_key(|key| key.id() != current);
    if as_json {
        let keys: Vec<_> = keys.iter().map(|key| json!({ "id": key.id(), "current": key.id() == current })).collect();
        output::print_json(&json!({ "keys": keys, "directory": ring.dir() }));
        return Ok(output::SUCCESS);
    }
    let state = |id| if id == current { "signs" } else { "replaced; verifies what it signed" };
    let mut rows = vec![vec!["KEY".to_owned(), "STATE".to_owned()]];
    rows.extend(keys.iter().map(|key| vec![key.id().to_string(), state(key.id()).to_owned()]));
    output::table(&rows);
    output::line("  try: mvmctl key export > mvm.pub");
    Ok(output::SUCCESS)
}

fn rotate(as_json: bool) -> Result<u8> {
    let home = Home::locate()?;
    let ring = evidence::keys(&home);
    // What cannot be logged is not done. The old key may be one that cannot sign: it is not asked to.
    let log = evidence::open_log(&home)?;
    let (old, new) = ring.rotate()?;
    let old = old.map(|key| key.id());
    let entry = Entry::now(notary::KEY_ROTATED).field("new", new.id());
    let entry = old.iter().fold(entry, |entry, old| entry.field("old", old));
    let index = log.append(&entry, Durability::Durable)?;
    log.checkpoint(&ring.signer()?)?;
    if as_json {
        output::print_json(&json!({ "old": old, "new": new.id(), "audit_id": index }));
    } else {
        output::line(&format!("{} signs from now on.", new.id()));
        output::line(&match old {
            Some(old) => format!("  the private half of {old} is deleted; what it signed can still be verified"),
            None => "  it could not be told which key signed before; no other private half is left".to_owned(),
        });
        output::line("  try: mvmctl key export > mvm.pub");
    }
    Ok(output::SUCCESS)
}

fn export(id: Option<Digest>, as_json: bool) -> Result<u8> {
    let ring = evidence::keys(&Home::locate()?);
    let pem = ring.export(id)?;
    if as_json {
        let id = id.map_or_else(|| ring.current().map(|key| key.id()), Ok)?;
        output::print_json(&json!({ "id": id, "pem": pem }));
    } else {
        output::line(pem.trim_end());
    }
    Ok(output::SUCCESS)
}
