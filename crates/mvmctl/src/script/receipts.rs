//! `--receipt DIR` of a script: a receipt of each command that its SDK has run. The SDK appends a line `SANDBOX_ID RUN_ID` for
//! each to the file that `MVM_SDK_RUNS` names; it is read when the script has ended.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::{BufRead, BufReader, Read};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use mvm_runtime::evidence::{self, Ended};
use mvm_runtime::home::Staging;
use mvm_runtime::text::harmless;
use mvm_runtime::{Error, ErrorCode, Home, Result};

use crate::{output, receipts, replace};

/// The most that is read of the list.
const MAX_BYTES: u64 = 1 << 20;
const MAX_LINES: usize = 10_000;

/// Receipts that were asked for.
pub struct Wanted<'a> {
    home: &'a Home,
    dir: &'a Path,
    staging: Staging,
}

impl<'a> Wanted<'a> {
    /// Makes the directory, and refuses one that cannot be written to, and a home without a key, before the script runs.
    pub fn prepare(home: &'a Home, dir: &'a Path) -> Result<Wanted<'a>> {
        replace::prepare_directory(dir)?;
        evidence::prepare(home)?;
        let wanted = Wanted { home, dir, staging: home.staging("runs")? };
        let made = File::options().create_new(true).write(true).mode(0o600).open(wanted.list());
        made.map_err(|e| Error::io("cannot make a list of what is run", e))?;
        Ok(wanted)
    }

    /// Where the SDK lists what it runs.
    pub fn list(&self) -> PathBuf {
        self.staging.path().join("runs")
    }

    /// Writes the receipts, and says on standard error how many there are and which could not be had. False if one is missing of
    /// a command that has ended.
    pub fn collect(self, quiet: bool) -> bool {
        let (runs, whole) = match self.runs() {
            Ok(runs) => runs,
            Err(error) => {
                output::error(&error, false);
                return false;
            }
        };
        let (mut written, mut complete) = (0, whole);
        for of in &runs {
            let file = self.dir.join(format!("{}.json", of.run_id));
            match receipts::write(self.home, of, &file) {
                Ok(()) => written += 1,
                Err(error) => {
                    eprintln!("mvmctl: no receipt of {} in {}: {}", of.run_id, of.sandbox_id, harmless(&error.why));
                    // It has not ended.
                    complete &= error.code == ErrorCode::NotFound;
                }
            }
        }
        if !whole {
            eprintln!("mvmctl: the script has run more commands than the {MAX_LINES} of which there are receipts");
        }
        if !quiet {
            eprintln!("mvmctl: {} in {}", output::count(written, "receipt", "receipts"), self.dir.display());
        }
        complete
    }

    /// The commands that were listed, each once, and whether these are all. What is no such line is left out.
    fn runs(&self) -> Result<(Vec<Ended>, bool)> {
        let failed = |e| Error::io("cannot read the list of what was run", e);
        let mut list = BufReader::new(File::open(self.list()).map_err(failed)?.take(MAX_BYTES));
        let (mut runs, mut seen) = (Vec::new(), BTreeSet::new());
        for _ in 0..MAX_LINES {
            let mut line = Vec::new();
            if list.read_until(b'\n', &mut line).map_err(failed)? == 0 {
                break;
            }
            let words = std::str::from_utf8(&line).ok().and_then(|line| line.strip_suffix('\n')?.split_once(' '));
            let of = words.and_then(|(sandbox, run)| Ended::new(run, sandbox).ok());
            runs.extend(of.filter(|_| seen.insert(line)));
        }
        let more = !list.fill_buf().map_err(failed)?.is_empty() || list.get_ref().limit() == 0;
        Ok((runs, !more))
    }
}
