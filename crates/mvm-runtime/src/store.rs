//! What is known about sandboxes: one SQLite file that many processes read and write at once and that survives a
//! kill at any point. A change of state and its record in the history are one transaction.

#[cfg(test)]
mod tests;

use std::path::PathBuf;
use std::time::{Duration, Instant};

use mvm_wire::ErrorCode;
use mvm_wire::api::{Cleanup, CreateRequest, DeletionReport, OnExpiry, State, Transition};
use rusqlite::{Connection, OptionalExtension, Row, TransactionBehavior, params};

use crate::error::{Error, Result};
use crate::evidence::{Evidence, Of};
use crate::home::{Home, write_whole};
use crate::host::boot_id;
use crate::lifecycle::{self, Action, Verdict};
use crate::policy::Policy;
use crate::time;

/// How long a process waits for another one's transaction.
const BUSY: Duration = Duration::from_secs(20);
/// What is kept in reserve for changes of state on a full disk: some pages of the database and of its log.
const RESERVE_BYTES: usize = 512 << 10;
/// Destroyed sandboxes whose reports are kept.
const MAX_REPORTS: u32 = 1000;

const SCHEMA: &str = "
CREATE TABLE sandboxes (
    id TEXT PRIMARY KEY, name TEXT NOT NULL, state TEXT NOT NULL, cause TEXT NOT NULL, since_ms INTEGER NOT NULL,
    created_ms INTEGER NOT NULL, request TEXT NOT NULL, image_digest TEXT NOT NULL,
    cleanup TEXT NOT NULL, deadline_ms INTEGER, deadline_boottime_ms INTEGER, boot_id TEXT NOT NULL,
    idempotency_key TEXT, report TEXT, policy TEXT
) STRICT;
CREATE UNIQUE INDEX live_names ON sandboxes (name) WHERE state != 'destroyed';
CREATE UNIQUE INDEX live_keys ON sandboxes (idempotency_key) WHERE state != 'destroyed';
CREATE TABLE history (
    sandbox TEXT NOT NULL REFERENCES sandboxes ON DELETE CASCADE, at_ms INTEGER NOT NULL,
    before TEXT NOT NULL, after TEXT NOT NULL, cause TEXT NOT NULL
) STRICT;
CREATE INDEX history_of ON history (sandbox);
PRAGMA user_version = 2;
";

/// From version 1, which knew no policies.
const ADD_POLICIES: &str = "ALTER TABLE sandboxes ADD COLUMN policy TEXT; PRAGMA user_version = 2;";

/// What is stored about a sandbox.
#[derive(Debug, Clone)]
pub struct Record {
    /// Its id.
    pub id: String,
    /// Its name.
    pub name: String,
    /// Its state.
    pub state: State,
    /// Why it is in this state.
    pub cause: String,
    /// Since when, milliseconds since 1970.
    pub since_ms: u64,
    /// When it was created, milliseconds since 1970.
    pub created_ms: u64,
    /// What was asked for, with all defaults filled in.
    pub request: CreateRequest,
    /// Digest of its image.
    pub image_digest: String,
    /// How it ends when nobody ends it.
    pub cleanup: Cleanup,
    /// What decides about it.
    pub policy: Policy,
    deadline: Option<time::Deadline>,
    /// What its deletion left to say.
    pub report: Option<DeletionReport>,
}

impl Record {
    /// How long until its time is up; zero if it is. `None` if it has no such time.
    pub fn remaining(&self) -> Option<Duration> {
        self.deadline.as_ref().map(time::Deadline::remaining)
    }

    /// What happens when its time is up.
    pub fn on_expiry(&self) -> OnExpiry {
        match self.cleanup {
            Cleanup::Ttl { on_expiry, .. } => on_expiry,
            Cleanup::Lease | Cleanup::Explicit => OnExpiry::Destroy,
        }
    }
}

/// What became of an action.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// The state changed.
    Moved,
    /// It was so already.
    Already,
}

/// A connection to the store.
#[derive(Debug)]
pub struct Store {
    db: Connection,
    /// Every change of state is on record there too.
    evidence: Evidence,
    /// A file that is there to be given up on a full disk.
    reserve: PathBuf,
}

impl Store {
    /// Opens the store of a home; makes it if there is none.
    pub fn open(home: &Home) -> Result<Store> {
        home.create()?;
        let path = home.root().join("sandboxes.db");
        let open = || -> rusqlite::Result<Connection> {
            let db = Connection::open(&path)?;
            db.busy_timeout(BUSY)?;
            // Acknowledged is durable: the log is synced at each commit.
            db.execute_batch("PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL; PRAGMA foreign_keys = ON;")?;
            // What is deleted is overwritten.
            db.pragma_update(None, "secure_delete", true)?;
            Ok(db)
        };
        let mut db = patiently(open).map_err(|e| Error::internal(format!("cannot open {}", path.display()), e))?;
        migrate(&mut db)?;
        // Commands' environments are in it.
        let private = std::os::unix::fs::PermissionsExt::from_mode(0o600);
        std::fs::set_permissions(&path, private).map_err(|e| Error::io("cannot protect the store", e))?;
        let reserve = home.root().join("reserve");
        if !reserve.exists() {
            // On a disk that is full already there is none to be had.
            let _ = write_whole(&reserve, &[0; RESERVE_BYTES]);
        }
        Ok(Store { db, evidence: Evidence::open(home)?, reserve })
    }

    /// Takes a name for a new sandbox, which is `creating` from now on. With an idempotency key that is in use, returns
    /// that sandbox and false.
    pub fn create(
        &mut self,
        id: &str,
        request: &CreateRequest,
        image_digest: &str,
        policy: &Policy,
    ) -> Result<(Record, bool)> {
        let tx = self.db.transaction_with_behavior(TransactionBehavior::Immediate).map_err(broken)?;
        let key = Some(&request.idempotency_key).filter(|key| !key.is_empty());
        if let Some(key) = key {
            let found = one(&tx, "idempotency_key = ?1 AND state != 'destroyed'", key)?;
            if let Some(found) = found {
                // Who answers for it may be somebody else since it was detached.
                if found.request != (CreateRequest { owner: found.request.owner.clone(), ..request.clone() }) {
                    return Err(Error::new(
                        ErrorCode::InvalidRequest,
                        "cannot repeat the request",
                        "its idempotency key was used for another request",
                    ));
                }
                return Ok((found, false));
            }
        }
        if let Some(holder) = one(&tx, "name = ?1 AND state != 'destroyed'", &request.name)? {
            let what = format!("cannot create the sandbox {}", request.name);
            let why = format!("there is one of this name, it is {}", holder.state);
            return Err(Error::new(ErrorCode::AlreadyExists, what, why)
                .hint(format!("use another name, or mvmctl destroy {}", request.name)));
        }
        let (cleanup, deadline) = cleanup_of(request)?;
        let now = time::now_ms();
        tx.execute(
            "INSERT INTO sandboxes (id, name, state, cause, since_ms, created_ms, request, image_digest, cleanup, \
             deadline_ms, deadline_boottime_ms, boot_id, idempotency_key, policy) \
             VALUES (?1, ?2, 'creating', 'requested', ?3, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11)",
            params![
                id,
                request.name,
                now,
                json(request)?,
                image_digest,
                json(&cleanup)?,
                deadline.as_ref().map(|d| d.wall_ms),
                deadline.as_ref().map(|d| d.boottime_ms),
                boot_id(),
                key,
                json(policy)?
            ],
        )
        .map_err(broken)?;
        tx.commit().map_err(broken)?;
        Ok((self.get(id)?, true))
    }

    /// Notes the entry of the audit log that authorised it.
    pub fn authorised(&self, id: &str, policy: &Policy) -> Result<()> {
        let noted = self.db.execute("UPDATE sandboxes SET policy = ?2 WHERE id = ?1", params![id, json(policy)?]);
        noted.map(drop).map_err(broken)
    }

    /// What happens is put on record there.
    pub fn evidence(&self) -> &Evidence {
        &self.evidence
    }

    /// The sandbox with this id.
    pub fn get(&self, id: &str) -> Result<Record> {
        one(&self.db, "id = ?1", id)?.ok_or_else(|| unknown(id))
    }

    /// The live sandbox of this name or id; of ids also a destroyed one.
    pub fn find(&self, name: &str) -> Result<Record> {
        let live = one(&self.db, "name = ?1 AND state != 'destroyed'", name)?;
        match live {
            Some(record) => Ok(record),
            None => one(&self.db, "id = ?1", name)?.ok_or_else(|| unknown(name)),
        }
    }

    /// The last destroyed sandbox of this name or id.
    pub fn find_destroyed(&self, name: &str) -> Result<Option<Record>> {
        one(&self.db, "(name = ?1 OR id = ?1) AND state = 'destroyed' ORDER BY since_ms DESC LIMIT 1", name)
    }

    /// All sandboxes, the oldest first.
    pub fn list(&self, destroyed: bool) -> Result<Vec<Record>> {
        let condition = if destroyed { "?1 = ''" } else { "?1 = '' AND state != 'destroyed'" };
        select(&self.db, &format!("{condition} ORDER BY created_ms, id"), "")
    }

    /// Its changes of state.
    pub fn history(&self, id: &str) -> Result<Vec<Transition>> {
        let read = || -> rusqlite::Result<Vec<Transition>> {
            let mut query =
                self.db.prepare("SELECT at_ms, before, after, cause FROM history WHERE sandbox = ?1 ORDER BY rowid")?;
            let rows = query.query_map([id], |row| {
                let state = |column| row.get::<_, String>(column).map(|name| State::from_name(&name));
                Ok(Transition {
                    at_ms: row.get(0)?,
                    from: state(1)?.unwrap_or(State::Failed),
                    to: state(2)?.unwrap_or(State::Failed),
                    cause: row.get(3)?,
                })
            })?;
            rows.collect()
        };
        read().map_err(broken)
    }

    /// Applies an action. Refused if it is not legal in the state that the sandbox is in at this moment.
    pub fn apply(&mut self, id: &str, action: Action, cause: &str) -> Result<Outcome> {
        self.change(id, action, cause, None)
    }

    /// Records that a sandbox is gone, with what there is to say about it. Returns the report that is kept: the first one,
    /// with its place in the audit log. Reports of the longest gone are dropped.
    pub fn destroyed(&mut self, id: &str, cause: &str, report: DeletionReport) -> Result<DeletionReport> {
        self.change(id, Action::Destroy, cause, Some(&report))?;
        let kept = self.get(id).ok().and_then(|record| record.report);
        let old = "state = 'destroyed' AND id NOT IN (SELECT id FROM sandboxes WHERE state = 'destroyed' \
                   ORDER BY since_ms DESC LIMIT ?1)";
        self.db.execute(&format!("DELETE FROM sandboxes WHERE {old}"), [MAX_REPORTS]).map_err(broken)?;
        Ok(kept.unwrap_or(report))
    }

    /// Drops the records of all sandboxes that are gone. Returns how many.
    pub fn forget_destroyed(&self) -> Result<usize> {
        self.db.execute("DELETE FROM sandboxes WHERE state = 'destroyed'", []).map_err(broken)
    }

    /// Changes the state, and puts on record that it has changed. On a full disk what is kept in reserve for that is given up:
    /// what ends must not need room to end.
    fn change(&mut self, id: &str, action: Action, cause: &str, report: Option<&DeletionReport>) -> Result<Outcome> {
        match self.try_change(id, action, cause, report) {
            Err(e) if e.errno == Some(libc::ENOSPC) && std::fs::remove_file(&self.reserve).is_ok() => {
                self.try_change(id, action, cause, report)
            }
            other => other,
        }
    }

    fn try_change(
        &mut self,
        id: &str,
        action: Action,
        cause: &str,
        report: Option<&DeletionReport>,
    ) -> Result<Outcome> {
        let tx = self.db.transaction_with_behavior(TransactionBehavior::Immediate).map_err(broken)?;
        let record = one(&tx, "id = ?1", id)?.ok_or_else(|| unknown(id))?;
        let next = match lifecycle::judge(record.state, action) {
            Verdict::Move(next) => next,
            Verdict::Already => return Ok(Outcome::Already),
            Verdict::Refused => return Err(lifecycle::refusal(&record.name, record.state, &action.to_string())),
        };
        let now = time::now_ms();
        tx.execute(
            "UPDATE sandboxes SET state = ?2, cause = ?3, since_ms = ?4, report = ?5 WHERE id = ?1",
            params![id, next.name(), cause, now, report.map(json).transpose()?],
        )
        .map_err(broken)?;
        if next == State::Destroyed {
            // Its environment is nobody's business any more.
            let (env, secrets) = Default::default();
            let request = CreateRequest { env, secrets, ..record.request };
            tx.execute("UPDATE sandboxes SET request = ?2 WHERE id = ?1", params![id, json(&request)?])
                .map_err(broken)?;
        }
        tx.execute(
            "INSERT INTO history (sandbox, at_ms, before, after, cause) VALUES (?1, ?2, ?3, ?4, ?5)",
            params![id, now, record.state.name(), next.name(), cause],
        )
        .map_err(broken)?;
        tx.commit().map_err(broken)?;
        let of = Of { sandbox: id, run: "" };
        let audit_id = self.evidence.describe(&format!("sandbox.{next}"), of, &[("from", record.state.name())]).ok();
        if let Some(report) = report {
            let report = json(&DeletionReport { audit_id, ..report.clone() })?;
            // Without its place in the log it is a report all the same.
            let _ = self.db.execute("UPDATE sandboxes SET report = ?2 WHERE id = ?1", params![id, report]);
        }
        Ok(Outcome::Moved)
    }

    /// Gives it another time to live, from now.
    pub fn keep(&mut self, id: &str, ttl: Duration, on_expiry: OnExpiry) -> Result<Record> {
        let (cleanup, deadline) = ttl_cleanup(ttl, on_expiry);
        set_end(&self.db, id, &cleanup, Some(&deadline))?;
        self.get(id)
    }

    /// Gives it another end, from now, and somebody else who answers for it: as in `end`, of which nothing else is looked at.
    pub fn detach(&mut self, id: &str, end: &CreateRequest) -> Result<Record> {
        let tx = self.db.transaction_with_behavior(TransactionBehavior::Immediate).map_err(broken)?;
        let record = one(&tx, "id = ?1", id)?.ok_or_else(|| unknown(id))?;
        if record.state == State::Destroyed {
            return Err(lifecycle::refusal(&record.name, record.state, "detach"));
        }
        let (cleanup, deadline) = cleanup_of(end)?;
        set_end(&tx, id, &cleanup, deadline.as_ref())?;
        let request = CreateRequest { owner: end.owner.clone(), ..record.request };
        tx.execute("UPDATE sandboxes SET request = ?2 WHERE id = ?1", params![id, json(&request)?]).map_err(broken)?;
        tx.commit().map_err(broken)?;
        self.get(id)
    }
}

/// Tries again while another process makes the file or recovers it: for that SQLite does not wait by itself.
fn patiently<T>(attempt: impl Fn() -> rusqlite::Result<T>) -> rusqlite::Result<T> {
    let since = Instant::now();
    loop {
        match attempt() {
            Err(e) if e.sqlite_error_code() == Some(rusqlite::ErrorCode::DatabaseBusy) && since.elapsed() < BUSY => {
                std::thread::sleep(Duration::from_millis(10));
            }
            result => return result,
        }
    }
}

fn migrate(db: &mut Connection) -> Result<()> {
    let tx = db.transaction_with_behavior(TransactionBehavior::Immediate).map_err(broken)?;
    let version: u32 = tx.query_row("PRAGMA user_version", [], |row| row.get(0)).map_err(broken)?;
    match version {
        0 => tx.execute_batch(SCHEMA).map_err(broken)?,
        1 => tx.execute_batch(ADD_POLICIES).map_err(broken)?,
        2 => {}
        other => {
            return Err(Error::new(
                ErrorCode::Incompatible,
                "cannot read the store of sandboxes",
                format!("it was written by a newer mvmctl (version {other})"),
            ));
        }
    }
    tx.commit().map_err(broken)
}

/// Records how a sandbox ends when nobody ends it.
fn set_end(db: &Connection, id: &str, cleanup: &Cleanup, deadline: Option<&time::Deadline>) -> Result<()> {
    db.execute(
        "UPDATE sandboxes SET cleanup = ?2, deadline_ms = ?3, deadline_boottime_ms = ?4, boot_id = ?5 WHERE id = ?1",
        params![id, json(cleanup)?, deadline.map(|d| d.wall_ms), deadline.map(|d| d.boottime_ms), boot_id()],
    )
    .map(drop)
    .map_err(broken)
}

/// How a sandbox ends that was asked for so, from now.
fn cleanup_of(request: &CreateRequest) -> Result<(Cleanup, Option<time::Deadline>)> {
    match (request.lease, request.no_ttl, request.ttl_ms) {
        (true, ..) => Ok((Cleanup::Lease, None)),
        (_, true, _) => Ok((Cleanup::Explicit, None)),
        (_, _, Some(ttl)) => {
            let (cleanup, deadline) = ttl_cleanup(Duration::from_millis(ttl), request.on_expiry);
            Ok((cleanup, Some(deadline)))
        }
        _ => Err(Error::internal("cannot create a sandbox", "the request says nothing about its end")),
    }
}

fn ttl_cleanup(ttl: Duration, on_expiry: OnExpiry) -> (Cleanup, time::Deadline) {
    let deadline = time::Deadline::after(ttl);
    let ttl_ms = ttl.as_millis() as u64;
    (Cleanup::Ttl { ttl_ms, expires_at_ms: deadline.wall_ms, on_expiry }, deadline)
}

fn one(db: &Connection, condition: &str, value: &str) -> Result<Option<Record>> {
    db.query_row(&query(condition), [value], read).optional().map_err(broken)
}

fn select(db: &Connection, condition: &str, value: &str) -> Result<Vec<Record>> {
    let run =
        || -> rusqlite::Result<Vec<Record>> { db.prepare(&query(condition))?.query_map([value], read)?.collect() };
    run().map_err(broken)
}

fn query(condition: &str) -> String {
    format!(
        "SELECT id, name, state, cause, since_ms, created_ms, request, image_digest, cleanup, deadline_ms, \
         deadline_boottime_ms, boot_id, report, policy FROM sandboxes WHERE {condition}"
    )
}

fn read(row: &Row<'_>) -> rusqlite::Result<Record> {
    let state: String = row.get(2)?;
    let deadline = match (row.get(9)?, row.get(10)?) {
        (Some(wall_ms), Some(boottime_ms)) => Some(time::Deadline { wall_ms, boottime_ms, boot_id: row.get(11)? }),
        _ => None,
    };
    Ok(Record {
        id: row.get(0)?,
        name: row.get(1)?,
        state: State::from_name(&state).unwrap_or(State::Failed),
        cause: row.get(3)?,
        since_ms: row.get(4)?,
        created_ms: row.get(5)?,
        request: from_json(row, 6)?,
        image_digest: row.get(7)?,
        cleanup: from_json(row, 8)?,
        policy: row
            .get::<_, Option<String>>(13)?
            .map_or_else(Policy::default, |text| serde_json::from_str(&text).unwrap_or_else(|_| Policy::unreadable())),
        deadline,
        report: row.get::<_, Option<String>>(12)?.and_then(|text| serde_json::from_str(&text).ok()),
    })
}

fn from_json<T: serde::de::DeserializeOwned>(row: &Row<'_>, column: usize) -> rusqlite::Result<T> {
    let text: String = row.get(column)?;
    serde_json::from_str(&text)
        .map_err(|e| rusqlite::Error::FromSqlConversionFailure(column, rusqlite::types::Type::Text, Box::new(e)))
}

fn json(value: &impl serde::Serialize) -> Result<String> {
    serde_json::to_string(value).map_err(|e| Error::internal("cannot store a record", e))
}

fn unknown(name: &str) -> Error {
    Error::new(ErrorCode::NotFound, format!("cannot find the sandbox {name}"), "there is none of this name or id")
        .hint("mvmctl ps")
}

fn broken(e: rusqlite::Error) -> Error {
    match e.sqlite_error_code() {
        Some(rusqlite::ErrorCode::DiskFull) => {
            Error::io("cannot write the store of sandboxes", std::io::Error::from_raw_os_error(libc::ENOSPC))
        }
        _ => Error::internal("cannot use the store of sandboxes", e),
    }
}
