//! Reading the log while it is written.

use std::collections::VecDeque;
use std::fs::File;
use std::io::Read;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use mvm_wire::api::{GapCause, LogEvent, LogGap, LogRule, LogSource, LogSummary};

use super::{Log, NEWER, OLDER};
use crate::secrets::LogFilter;
use crate::time;

/// How much is read at once.
const PIECE: usize = 64 << 10;

/// What a reader wants.
#[derive(Debug, Clone, Default)]
pub struct Wanted {
    /// Stay and wait for more.
    pub follow: bool,
    /// Nothing earlier, milliseconds since 1970.
    pub since_ms: Option<u64>,
    /// Nothing later; a follower ends then.
    pub until_ms: Option<u64>,
    /// Of what there is already, only the last so many.
    pub tail: Option<usize>,
    /// Only this source.
    pub source: Option<LogSource>,
    /// Without credentials that are known by their shape.
    pub redact: bool,
}

/// One reader of a log. It keeps the file open that it is in: that file stays readable when newer lines take its place.
pub struct Reader {
    log: Arc<Log>,
    wanted: Wanted,
    file: Option<File>,
    unread: Vec<u8>,
    /// The number of the next line; `None` before the first.
    next: Option<u64>,
    /// With the rules that found something in each for this reader.
    ready: VecDeque<(LogEvent, Vec<&'static str>)>,
    filter: LogFilter,
    summary: LogSummary,
    /// The lines that were there already have been looked at.
    caught_up: bool,
}

impl Reader {
    /// Begins at the oldest line that is kept.
    pub fn new(log: Arc<Log>, wanted: Wanted) -> Reader {
        // Numbers begin at 1: what is missing before the oldest line is told like any other gap, unless only a part is wanted.
        let next = (wanted.tail.is_none() && wanted.since_ms.is_none()).then_some(1);
        Reader {
            log,
            wanted,
            file: None,
            unread: Vec::new(),
            next,
            ready: VecDeque::new(),
            filter: LogFilter::default(),
            summary: LogSummary::default(),
            caught_up: false,
        }
    }

    /// The next event; `None` at the end.
    pub async fn next(&mut self) -> Option<LogEvent> {
        loop {
            if self.caught_up || self.wanted.tail.is_none() {
                if let Some((event, found)) = self.ready.pop_front() {
                    self.count(&event, &found);
                    return Some(event);
                }
            }
            let log = self.log.clone();
            let grown = log.grown.notified();
            if self.read_on() {
                self.keep_tail();
                continue;
            }
            if !self.caught_up {
                self.caught_up = true;
                continue;
            }
            if !self.wanted.follow {
                return None;
            }
            match self.wanted.until_ms.map(|until| until.saturating_sub(time::now_ms())) {
                None => grown.await,
                Some(0) => return None,
                Some(left) => drop(tokio::time::timeout(Duration::from_millis(left), grown).await),
            }
        }
    }

    /// What there was so far.
    pub fn summary(&self) -> LogSummary {
        self.summary.clone()
    }

    fn count(&mut self, event: &LogEvent, found: &[&'static str]) {
        let LogEvent::Line(line) = event else { return };
        let summary = &mut self.summary;
        summary.lines += 1;
        summary.redactions += line.redactions;
        summary.on_reading += found.len() as u64;
        for id in found {
            match summary.rules.iter_mut().find(|known| known.rule == *id) {
                Some(known) => known.redactions += 1,
                None => summary.rules.push(LogRule { rule: (*id).to_owned(), redactions: 1 }),
            }
        }
    }

    fn keep_tail(&mut self) {
        if let (false, Some(tail)) = (self.caught_up, self.wanted.tail) {
            self.ready.drain(..self.ready.len().saturating_sub(tail));
        }
    }

    /// Takes the next piece of the files. False if there is none at the moment.
    fn read_on(&mut self) -> bool {
        if self.file.is_none() {
            self.file = [OLDER, NEWER].iter().find_map(|name| File::open(self.log.dir.join(name)).ok());
        }
        if self.take_piece() {
            return true;
        }
        let Some(next) = self.successor() else { return false };
        // It may have grown between the two looks; now that it has a successor it grows no more.
        if !self.take_piece() {
            self.unread.clear();
            self.file = Some(next);
        }
        true
    }

    fn take_piece(&mut self) -> bool {
        let mut piece = vec![0; PIECE];
        let Some(Ok(len @ 1..)) = self.file.as_mut().map(|file| file.read(&mut piece)) else { return false };
        self.unread.extend_from_slice(&piece[..len]);
        self.take_lines();
        true
    }

    /// The file that followed this one, if it is full.
    fn successor(&self) -> Option<File> {
        let inode = |file: &File| file.metadata().map(|meta| meta.ino()).ok();
        let open = |name: &str| File::open(self.log.dir.join(name)).ok();
        let current = self.file.as_ref().and_then(inode);
        let newer = open(NEWER).filter(|newer| inode(newer) != current)?;
        // If the older file is another one too, more than one was filled meanwhile.
        Some(open(OLDER).filter(|older| inode(older) != current).unwrap_or(newer))
    }

    fn take_lines(&mut self) {
        let mut start = 0;
        while let Some(len) = self.unread[start..].iter().position(|byte| *byte == b'\n') {
            let event = serde_json::from_slice(&self.unread[start..start + len]);
            start += len + 1;
            if let Ok(event) = event {
                self.take(event);
            }
        }
        self.unread.drain(..start);
    }

    fn take(&mut self, mut event: LogEvent) {
        let Some(seq) = event.seq() else { return };
        // A file that was read twice, because it took another's place meanwhile.
        if self.next.is_some_and(|next| seq < next) {
            return;
        }
        if let Some(next) = self.next.filter(|next| seq > *next) {
            let (lines, cause) = (seq - next, GapCause::Overrun);
            let gap = LogGap { seq: next, at_ms: None, lines, cause, source: None, run_id: None };
            self.ready.push_back((LogEvent::Gap(gap), Vec::new()));
        }
        self.next = Some(seq + 1);
        // Also in lines that are not wanted: a key may begin there.
        let found = match &mut event {
            LogEvent::Line(line) if self.wanted.redact => self.filter.redact(line),
            _ => Vec::new(),
        };
        if self.wants(&event) {
            self.ready.push_back((event, found));
        }
    }

    fn wants(&self, event: &LogEvent) -> bool {
        let Wanted { since_ms, until_ms, source, .. } = self.wanted;
        let of_source = |found| source.is_none_or(|source| source == found);
        let in_time = |at| since_ms.is_none_or(|since| at >= since) && until_ms.is_none_or(|until| at <= until);
        event.source().is_none_or(of_source) && event.at_ms().is_none_or(in_time)
    }
}

/// The last event in a file.
pub fn last(path: &Path) -> Option<LogEvent> {
    let text = std::fs::read(path).ok()?;
    text.rsplit(|byte| *byte == b'\n').find_map(|line| serde_json::from_slice(line).ok())
}
