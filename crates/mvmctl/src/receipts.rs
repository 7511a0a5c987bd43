//! `--receipt FILE`: the receipt of a command that this process has run, and the proof beside it.

use std::path::{Path, PathBuf};

use mvm_runtime::evidence::{self, Ended, Receipt};
use mvm_runtime::{Error, ErrorCode, Home, Result};
use mvm_wire::api::JobResult;
use serde_json::{Value, json};

use crate::{output, replace};

/// What the proof's file is called after the receipt's.
const PROOF_ENDING: &str = ".tlog-proof";

/// A receipt that was asked for, or none.
pub struct Wanted<'a> {
    home: &'a Home,
    file: Option<&'a Path>,
}

impl<'a> Wanted<'a> {
    /// Refuses a place where no receipt can be written, and a home without a key to sign it, before anything runs.
    pub fn check(home: &'a Home, file: Option<&'a Path>) -> Result<Wanted<'a>> {
        if let Some(file) = file {
            replace::check(file)?;
            // Its private half is for the process that signs.
            evidence::prepare(home)?;
        }
        Ok(Wanted { home, file })
    }

    /// Has it signed and written, now that the command has ended.
    pub fn make(&self, result: &JobResult, sandbox_id: &str) -> Result<()> {
        let Some(file) = self.file else { return Ok(()) };
        if let Some(why) = &result.unrecorded {
            let what = "the command has ended, and there is no receipt of it";
            return Err(Error::new(ErrorCode::FileError, what, why).hint("mvmctl audit verify looks at the log"));
        }
        write(self.home, &Ended::new(&result.run_id, sandbox_id)?, file)
    }

    /// The same for a result that is one JSON object, which is printed in any case: an error with its receipt takes nothing of
    /// it away. Returns the exit status.
    pub fn finish_json(&self, mut object: Value, result: &JobResult, sandbox_id: &str) -> u8 {
        let made = self.make(result, sandbox_id);
        object["receipt"] = json!(self.file);
        object["receipt_error"] = json!(made.as_ref().err().map(output::error_object));
        output::print_json(&object);
        made.map_or_else(|error| error.code.exit_status(), |()| result.exit_status())
    }
}

/// Writes the receipt of a command, which is signed if it was not yet, and its proof.
pub fn write(home: &Home, of: &Ended, file: &Path) -> Result<()> {
    let Receipt { envelope, proof } = evidence::receipt(home, of)?;
    // The proof first: whoever finds a receipt finds what goes with it.
    replace::replace(&proof_of(file), &proof)?;
    replace::replace(file, &envelope)
}

/// Where the proof is that travels with a receipt.
pub fn proof_of(file: &Path) -> PathBuf {
    let mut name = file.as_os_str().to_owned();
    name.push(PROOF_ENDING);
    PathBuf::from(name)
}
