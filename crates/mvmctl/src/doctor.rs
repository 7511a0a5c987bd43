//! `mvmctl doctor`.
use crate::args::DoctorArgs;
use crate::output;
/// Runs the verb.
pub fn doctor(_args: &DoctorArgs) -> u8 {
    output::SUCCESS
}
