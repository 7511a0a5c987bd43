//! The sandbox's log on disk: lines with a time, a number and a source, bounded, and followed without a silent loss.
//!
//! It lies in two files of one JSON object a line. When the newer one is full it takes the place of the older one. Every
//! line has a number, so a reader sees by the numbers what it missed. Nothing is synced: after a crash of the host the
//! last lines may be missing, after a kill of the supervisor they are not.

mod read;
mod source;

use std::fs::{self, File};
use std::io::{Read, Seek, SeekFrom, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use mvm_wire::api::{GapCause, LogEvent, LogGap, LogLine, LogSource, Stream};
use tokio::sync::Notify;

use crate::error::{IoContext, Result};
use crate::time;

pub use read::{Reader, Wanted};
pub use source::Lines;

/// How large each of the two files becomes.
const FILE_BYTES: u64 = 4 << 20;
/// The newer file, and the older one.
const NEWER: &str = "log.ndjson";
const OLDER: &str = "log.1.ndjson";

/// The log of one sandbox.
#[derive(Debug)]
pub struct Log {
    dir: PathBuf,
    writer: Mutex<Writer>,
    grown: Notify,
}

#[derive(Debug)]
struct Writer {
    file: File,
    bytes: u64,
    next: u64,
    limit: u64,
}

impl Log {
    /// Opens the log in a sandbox's directory and goes on where it ended.
    pub fn open(dir: &Path) -> Result<Log> {
        Log::with_limit(dir, FILE_BYTES)
    }

    fn with_limit(dir: &Path, limit: u64) -> Result<Log> {
        let path = dir.join(NEWER);
        let what = || format!("cannot open the log {}", path.display());
        let options = File::options().read(true).write(true).create(true).truncate(false).mode(0o600).open(&path);
        let mut file = options.context(what)?;
        let bytes = cut_torn_line(&mut file).context(what)?;
        let last = |name: &str| read::last(&dir.join(name));
        let next = last(NEWER).or_else(|| last(OLDER)).and_then(|event| event.seq()).map_or(1, |seq| seq + 1);
        let writer = Mutex::new(Writer { file, bytes, next, limit });
        Ok(Log { dir: dir.to_owned(), writer, grown: Notify::new() })
    }

    /// Says something as the supervisor.
    pub fn say(&self, text: &str) {
        self.line(LogSource::Supervisor, None, text.to_owned(), 0);
    }

    /// The lines of a command that runs on its own.
    pub fn of_job(&self, run_id: &str, stream: Stream) -> Lines {
        Lines::new(LogSource::Job, Some((run_id.to_owned(), stream)))
    }

    fn line(&self, source: LogSource, of: Option<&(String, Stream)>, text: String, redactions: u64) {
        let (run_id, stream) = of.map(|(run_id, stream)| (run_id.clone(), *stream)).unzip();
        self.append(|seq| {
            LogEvent::Line(LogLine { seq, at_ms: time::now_ms(), source, run_id, stream, text, redactions })
        });
    }

    fn flood(&self, source: LogSource, run_id: Option<String>, lines: u64) {
        let (at_ms, cause, source) = (Some(time::now_ms()), GapCause::Flood, Some(source));
        self.append(|seq| LogEvent::Gap(LogGap { seq, at_ms, lines, cause, source, run_id }));
    }

    /// A log that cannot be written is no reason to end a sandbox: the number is used up, so that readers see a gap.
    fn append(&self, event: impl FnOnce(u64) -> LogEvent) {
        let mut writer = self.writer();
        let seq = writer.next;
        writer.next += 1;
        let Ok(mut bytes) = serde_json::to_vec(&event(seq)) else { return };
        bytes.push(b'\n');
        if writer.bytes + bytes.len() as u64 > writer.limit {
            let _ = self.turn_over(&mut writer);
        }
        if writer.file.write_all(&bytes).is_ok() {
            writer.bytes += bytes.len() as u64;
        } else {
            let whole = writer.bytes;
            let _ = writer.file.set_len(whole).and_then(|()| writer.file.seek(SeekFrom::Start(whole)));
        }
        drop(writer);
        self.grown.notify_waiters();
    }

    fn turn_over(&self, writer: &mut Writer) -> std::io::Result<()> {
        fs::rename(self.dir.join(NEWER), self.dir.join(OLDER))?;
        let options = File::options().write(true).create_new(true).mode(0o600).open(self.dir.join(NEWER));
        writer.file = options?;
        writer.bytes = 0;
        Ok(())
    }

    fn writer(&self) -> MutexGuard<'_, Writer> {
        self.writer.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The number of the last line, 0 if there is none.
    #[cfg(test)]
    fn last(&self) -> u64 {
        self.writer().next - 1
    }

    /// The disk space that it may take at most, in bytes.
    #[cfg(test)]
    fn cap(&self) -> u64 {
        2 * self.writer().limit
    }
}

/// Removes what a kill left of a line, goes to the end, and returns where that is.
fn cut_torn_line(file: &mut File) -> std::io::Result<u64> {
    let mut text = Vec::new();
    file.take(2 * FILE_BYTES).read_to_end(&mut text)?;
    let whole = text.iter().rposition(|byte| *byte == b'\n').map_or(0, |end| end as u64 + 1);
    file.set_len(whole)?;
    file.seek(SeekFrom::Start(whole))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use mvm_wire::api::LogSummary;

    use super::*;
    use crate::secrets::Piece;

    fn block_on<T>(work: impl Future<Output = T>) -> T {
        tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap().block_on(work)
    }

    fn read(log: &Arc<Log>, wanted: Wanted) -> Vec<LogEvent> {
        block_on(async {
            let mut reader = Reader::new(log.clone(), wanted);
            let mut events = Vec::new();
            while let Some(event) = reader.next().await {
                events.push(event);
            }
            let told = events.iter().filter(|event| matches!(event, LogEvent::Line(_))).count() as u64;
            assert_eq!(reader.summary().lines, told);
            events
        })
    }

    fn texts(events: &[LogEvent]) -> Vec<&str> {
        let text = |event| match event {
            &LogEvent::Line(LogLine { ref text, .. }) => text.as_str(),
            LogEvent::Gap(_) | LogEvent::Summary(_) => "gap",
        };
        events.iter().map(text).collect()
    }

    fn lines_and_missed(events: &[LogEvent]) -> (u64, u64) {
        events.iter().fold((0, 0), |(lines, missed), event| match event {
            LogEvent::Line(_) => (lines + 1, missed),
            LogEvent::Gap(gap) => (lines, missed + gap.lines),
            LogEvent::Summary(_) => (lines, missed),
        })
    }

    #[test]
    fn it_goes_on_after_a_kill_and_forgets_only_a_torn_line() {
        let dir = tempfile::tempdir().unwrap();
        Log::open(dir.path()).unwrap().say("one");
        fs::OpenOptions::new().append(true).open(dir.path().join(NEWER)).unwrap().write_all(b"{\"type\":\"li").unwrap();
        let log = Arc::new(Log::open(dir.path()).unwrap());
        log.say("two");
        let events = read(&log, Wanted::default());
        assert_eq!((texts(&events), events[1].seq()), (vec!["one", "two"], Some(2)));
    }

    #[test]
    fn it_is_bounded_and_counts_what_it_dropped() {
        let dir = tempfile::tempdir().unwrap();
        let log = Arc::new(Log::with_limit(dir.path(), 2000).unwrap());
        (0..100).for_each(|n| log.say(&format!("line {n}")));
        let disk: u64 = fs::read_dir(dir.path()).unwrap().flatten().map(|file| file.metadata().unwrap().len()).sum();
        assert!(disk <= log.cap());
        let events = read(&log, Wanted::default());
        let (lines, missed) = lines_and_missed(&events);
        assert_eq!(lines + missed, 100);
        assert!(missed > 0 && matches!(events[0], LogEvent::Gap(LogGap { cause: GapCause::Overrun, seq: 1, .. })));
        assert_eq!(texts(&events).last(), Some(&"line 99"));
    }

    #[test]
    fn a_follower_sees_every_line_or_a_counted_gap() {
        let dir = tempfile::tempdir().unwrap();
        let log = Arc::new(Log::with_limit(dir.path(), 1000).unwrap());
        block_on(async {
            let mut reader = Reader::new(log.clone(), Wanted { follow: true, ..Wanted::default() });
            let mut events = Vec::new();
            for round in 0..50 {
                // In some rounds more than both files hold: what the reader has open stays readable, the rest is counted.
                (0..round).for_each(|n| log.say(&format!("round {round}, line {n}")));
                while events.last().is_none_or(|event: &LogEvent| event.seq() < Some(log.last())) && log.last() > 0 {
                    events.push(reader.next().await.unwrap());
                }
            }
            let (lines, missed) = lines_and_missed(&events);
            assert_eq!(lines + missed, (0..50).sum::<u64>());
            assert!(missed > 0);
        });
    }

    #[test]
    fn it_is_read_by_number_time_and_source() {
        let dir = tempfile::tempdir().unwrap();
        let log = Arc::new(Log::open(dir.path()).unwrap());
        log.say("one");
        let mut job = log.of_job("run-1", Stream::Stdout);
        job.push(&log, b"two\nth");
        job.push(&log, b"ree\nfour");
        job.end(&log);
        assert_eq!(texts(&read(&log, Wanted::default())), ["one", "two", "three", "four"]);
        assert_eq!(texts(&read(&log, Wanted { tail: Some(2), ..Wanted::default() })), ["three", "four"]);
        let source = Some(LogSource::Supervisor);
        assert_eq!(texts(&read(&log, Wanted { source, ..Wanted::default() })), ["one"]);
        let later = time::now_ms() + 1000;
        assert!(read(&log, Wanted { since_ms: Some(later), ..Wanted::default() }).is_empty());
        assert_eq!(
            read(&log, Wanted { until_ms: Some(later), follow: true, tail: Some(4), ..Wanted::default() }).len(),
            4
        );
    }

    #[test]
    fn credentials_are_redacted_on_reading_and_counted() {
        let dir = tempfile::tempdir().unwrap();
        let log = Arc::new(Log::open(dir.path()).unwrap());
        let mut job = log.of_job("run-1", Stream::Stdout);
        for line in ["AKIAIOSFODNN7EXAMPLE", "-----BEGIN PRIVATE KEY-----", "MIIE", "not base64: AKIAIOSFODNN7EXAMPLE"]
        {
            job.push(&log, line.as_bytes());
            job.push(&log, b"\n");
        }
        job.take(&log, Piece::Secret { name: "A", marker: "[redacted:A]" });
        job.push(&log, b"!\n");
        let read = |redact: bool, tail: Option<usize>| {
            block_on(async {
                let mut reader = Reader::new(log.clone(), Wanted { redact, tail, ..Wanted::default() });
                let mut told = Vec::new();
                while let Some(event) = reader.next().await {
                    told.extend(texts(&[event]).into_iter().map(str::to_owned));
                }
                let LogSummary { lines, redactions, on_reading, rules } = reader.summary();
                assert_eq!(rules.iter().map(|rule| rule.redactions).sum::<u64>(), on_reading);
                (told.join(","), (lines, redactions, on_reading))
            })
        };
        let (key, id) = ("[redacted:private-key]", "[redacted:aws-access-key-id]");
        assert_eq!(
            read(true, None),
            (format!("{id},-----BEGIN PRIVATE KEY-----,{key},not base64: {id},[redacted:A]!"), (5, 4, 3))
        );
        assert_eq!(read(true, Some(3)), (format!("{key},not base64: {id},[redacted:A]!"), (3, 3, 2)));
        assert_eq!(read(false, Some(2)), ("not base64: AKIAIOSFODNN7EXAMPLE,[redacted:A]!".to_owned(), (2, 1, 0)));
    }

    #[test]
    fn a_flood_is_cut_and_counted() {
        let dir = tempfile::tempdir().unwrap();
        let log = Arc::new(Log::open(dir.path()).unwrap());
        let mut job = log.of_job("run-1", Stream::Stdout);
        let line = [b"x".repeat(99), b"\n".to_vec()].concat();
        (0..50_000).for_each(|_| job.push(&log, &line));
        job.end(&log);
        let events = read(&log, Wanted::default());
        let (lines, missed) = lines_and_missed(&events);
        assert_eq!(lines + missed, 50_000);
        assert!(events.iter().any(|event| matches!(event, LogEvent::Gap(LogGap { cause: GapCause::Flood, .. }))));
    }
}
