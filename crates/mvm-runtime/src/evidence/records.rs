//! The private records of commands: what a receipt is made from, and the salt that opens its commitments.
//!
//! One file for each command that ended, readable by its owner alone. The newest are kept; what goes takes the way to open
//! its commitments along, and no signature with it.

use std::fs;
use std::path::PathBuf;
use std::time::{Duration, SystemTime};

use mvm_evidence::{Salt, Statement};
use mvm_wire::ErrorCode;
use serde::{Deserialize, Serialize};

use super::Testimony;
use crate::error::{Error, IoContext, Result};
use crate::home::{Home, UNFINISHED, read_json, write_whole};
use crate::witness::Witness;

/// Records that are kept.
const MAX_RECORDS: usize = 10_000;
/// For how long.
const MAX_AGE: Duration = Duration::from_secs(90 * 86_400);
/// How the names of files end: the record, the receipt that was made from it, and that one's proof.
pub const RECORD: &str = "record";
/// See [`RECORD`].
pub const RECEIPT: &str = "receipt";
/// See [`RECORD`].
pub const PROOF: &str = "proof";
/// Old records are looked for after a command whose id ends so: one in 256, because ids are random.
const PRUNE_AFTER: &str = "00";
/// How old a file is that nobody writes any more: writing one takes milliseconds.
const UNFINISHED_AGE: Duration = Duration::from_secs(60);

/// What is kept of a command.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Record {
    /// The statement about it, as it is signed.
    statement: String,
    /// The salt of its commitments, in hex.
    salt: String,
    /// Its arguments.
    pub argv: Vec<String>,
    /// The entry of the audit log that recorded its end.
    pub ended: u64,
}

impl Record {
    /// The statement about it.
    pub fn statement(&self) -> Result<Statement> {
        Statement::from_payload(self.statement.as_bytes()).map_err(|why| damaged(why.to_string()))
    }

    /// What the salts of its commitments follow from.
    pub fn salt(&self) -> Result<Salt> {
        Salt::from_hex(&self.salt).ok_or_else(|| damaged("its salt is none"))
    }
}

fn damaged(why: impl std::fmt::Display) -> Error {
    Error::new(ErrorCode::FileError, "cannot use the record of the command", why)
}

/// A command that ended: its id, and the sandbox that it ended in. Copies of a sandbox have the same commands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ended {
    /// The command's id.
    pub run_id: String,
    /// The sandbox's id.
    pub sandbox_id: String,
}

impl Ended {
    /// Refused unless these are ids, because they become part of a path.
    pub fn new(run_id: &str, sandbox_id: &str) -> Result<Ended> {
        let is_id = |id: &str, prefix: &str, len: usize| {
            let digits = id.strip_prefix(prefix).unwrap_or_default();
            digits.len() == len && digits.bytes().all(|b| b.is_ascii_hexdigit())
        };
        let refuse = |what: &str, id: &str, why: &str, hint: &str| {
            let what = format!("cannot find the {what} {}", crate::text::harmless(id));
            Err(Error::new(ErrorCode::InvalidRequest, what, why).hint(hint))
        };
        if !is_id(run_id, "run-", 16) {
            return refuse("command", run_id, "this is no run id", "mvmctl audit tail shows run ids");
        }
        if !is_id(sandbox_id, "mvm-", 12) {
            return refuse("sandbox", sandbox_id, "this is no sandbox id", "mvmctl ps --all shows ids");
        }
        Ok(Ended { run_id: run_id.to_owned(), sandbox_id: sandbox_id.to_owned() })
    }

    /// The command with this id that is on record; in one of several copies of a sandbox, if that is named.
    pub fn find(home: &Home, run_id: &str, sandbox_id: Option<&str>) -> Result<Ended> {
        let known = Ended::new(run_id, sandbox_id.unwrap_or("mvm-000000000000"))?;
        if sandbox_id.is_some() {
            return Ok(known);
        }
        let entries = fs::read_dir(home.runs()).into_iter().flatten().flatten();
        let mut sandboxes: Vec<String> = entries
            .filter_map(|entry| {
                let name = entry.file_name().into_string().ok()?;
                Some(name.strip_prefix(run_id)?.strip_prefix('.')?.strip_suffix(".record")?.to_owned())
            })
            .collect();
        sandboxes.sort();
        match sandboxes.as_slice() {
            [] => Err(unknown(run_id)),
            [one] => Ended::new(run_id, one),
            several => {
                let why = format!("it ended in copies of a sandbox: {}", several.join(", "));
                Err(Error::new(ErrorCode::InvalidRequest, format!("there are several commands {run_id}"), why)
                    .hint(format!("name one: --sandbox {}", several[0])))
            }
        }
    }

    /// Where a file of it is.
    pub fn path(&self, home: &Home, ending: &str) -> PathBuf {
        home.runs().join(format!("{}.{}.{ending}", self.run_id, self.sandbox_id))
    }
}

fn unknown(run_id: &str) -> Error {
    let why = "it has not ended, or its record is no longer kept";
    Error::new(ErrorCode::NotFound, format!("there is no record of the command {run_id}"), why)
        .hint("mvmctl audit tail")
}

/// Keeps the record of a command.
pub fn write(home: &Home, testimony: &Testimony, witness: &Witness, statement: &Statement, ended: u64) -> Result<()> {
    let payload = statement.to_payload().map_err(|why| damaged(why.to_string()))?;
    let statement = String::from_utf8(payload).map_err(damaged)?;
    let record = Record { statement, salt: witness.salt().to_hex(), argv: testimony.argv.clone(), ended };
    let bytes = serde_json::to_vec(&record).map_err(damaged)?;
    let of = Ended::new(&testimony.run_id, &testimony.sandbox_id)?;
    write_whole(&of.path(home, RECORD), &bytes)?;
    if of.run_id.ends_with(PRUNE_AFTER) {
        prune(home);
    }
    Ok(())
}

/// The record of a command.
pub fn find(home: &Home, of: &Ended) -> Result<Record> {
    let path = of.path(home, RECORD);
    if !path.exists() {
        return Err(unknown(&of.run_id));
    }
    read_json(&path).ok_or_else(|| damaged("it is not as it was written"))
}

/// Removes what killed processes had begun to write.
pub fn sweep(home: &Home) {
    for entry in fs::read_dir(home.runs()).into_iter().flatten().flatten() {
        let path = entry.path();
        let ending = path.extension().map(|ending| ending.to_string_lossy());
        let old = || path.metadata().and_then(|meta| meta.modified()).is_ok_and(|at| is_older(&at, UNFINISHED_AGE));
        if ending.is_some_and(|ending| ending.starts_with(UNFINISHED)) && old() {
            let _ = fs::remove_file(&path);
        }
    }
}

fn is_older(at: &SystemTime, age: Duration) -> bool {
    at.elapsed().is_ok_and(|elapsed| elapsed > age)
}

/// Removes the oldest records, with the receipts that were made from them, and what was never finished. Returns how many
/// records.
fn prune(home: &Home) -> usize {
    sweep(home);
    let entries = fs::read_dir(home.runs()).into_iter().flatten().flatten();
    let mut records: Vec<(SystemTime, PathBuf)> = entries
        .map(|entry| entry.path())
        .filter(|path| path.extension().is_some_and(|ending| ending == RECORD))
        .filter_map(|path| Some((path.metadata().ok()?.modified().ok()?, path)))
        .collect();
    records.sort();
    let surplus = records.len().saturating_sub(MAX_RECORDS);
    let gone = records.iter().enumerate().filter(|(index, (at, _))| *index < surplus || is_older(at, MAX_AGE));
    gone.map(|(_, (_, path))| {
        for ending in [RECORD, RECEIPT, PROOF] {
            let _ = fs::remove_file(path.with_extension(ending));
        }
    })
    .count()
}

/// Reads a file that belongs to a record, if it is there.
pub fn read(home: &Home, of: &Ended, ending: &str) -> Result<Option<Vec<u8>>> {
    let path = of.path(home, ending);
    match fs::read(&path) {
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(None),
        read => read.map(Some).context(|| format!("cannot read {}", path.display())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A home whose records have these ages, in days; the name of each is its place.
    fn kept(ages: impl Iterator<Item = u64>) -> (tempfile::TempDir, Home, impl Fn(usize) -> Ended) {
        let dir = tempfile::tempdir().unwrap();
        let home = Home::at(dir.path());
        home.create().unwrap();
        let ended = |n: usize| Ended::new(&format!("run-{n:016x}"), "mvm-000000000000").unwrap();
        for (n, days) in ages.enumerate() {
            let file = fs::File::create(ended(n).path(&home, RECORD)).unwrap();
            // Apart by milliseconds, so that the order is known.
            let at = SystemTime::now() - Duration::from_secs(days * 86_400) + Duration::from_millis(n as u64);
            file.set_modified(at).unwrap();
        }
        (dir, home, ended)
    }

    #[test]
    fn records_and_their_receipts_go_when_they_are_old() {
        let (_dir, home, ended) = kept([91, 89, 120, 0].into_iter());
        for ending in [RECEIPT, PROOF] {
            fs::write(ended(0).path(&home, ending), "").unwrap();
        }
        assert_eq!(prune(&home), 2);
        let left = |n: usize| [RECORD, RECEIPT, PROOF].map(|ending| ended(n).path(&home, ending).exists());
        assert_eq!([left(0), left(2)], [[false; 3]; 2]);
        assert_eq!([left(1), left(3)], [[true, false, false]; 2]);
    }

    #[test]
    fn the_newest_of_many_records_are_kept() {
        let (_dir, home, ended) = kept(std::iter::repeat_n(1, MAX_RECORDS + 3));
        assert_eq!(prune(&home), 3);
        let there = |n: usize| ended(n).path(&home, RECORD).exists();
        assert_eq!([0, 1, 2, 3, MAX_RECORDS + 2].map(there), [false, false, false, true, true]);
        assert_eq!(prune(&home), 0);
    }
}
