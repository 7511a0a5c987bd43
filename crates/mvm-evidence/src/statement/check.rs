//! The bounds of a statement's strings and lists.

use super::Statement;
use crate::refusal::{Part, Refusal};
use crate::text::{is_line, is_name, is_prose};

/// The longest id, in bytes.
pub(super) const MAX_ID: usize = 64;
/// The longest name or version.
pub(super) const MAX_NAME: usize = 128;
/// The longest text of a guest.
pub(super) const MAX_PROSE: usize = 256;
/// The longest list.
pub(super) const MAX_LIST: usize = 64;

impl Statement {
    /// Refuses values that are too long or have characters that they must not have.
    pub(super) fn check(&self) -> Result<(), Refusal> {
        let names = [
            ("run.run_id", &self.run.run_id, MAX_ID),
            ("run.sandbox_id", &self.run.sandbox_id, MAX_ID),
            ("run.log", &self.run.log, MAX_ID),
            ("image.name", &self.image.name, MAX_NAME),
            ("policy.profile", &self.policy.profile, MAX_NAME),
            ("isolation.backend", &self.isolation.backend, MAX_NAME),
            ("isolation.accelerator", &self.isolation.accelerator, MAX_NAME),
            ("tool.name", &self.tool.name, MAX_NAME),
        ];
        for (field, value, max) in names {
            require(is_name(value, max), field)?;
        }
        require(is_line(&self.isolation.backend_version, MAX_NAME), "isolation.backend_version")?;
        require(is_line(&self.tool.version, MAX_NAME), "tool.version")?;
        self.check_lists()?;
        require(self.host_observed.error.as_ref().is_none_or(|code| is_name(code, MAX_ID)), "host_observed.error")?;
        let said = self.guest_reported.as_ref().and_then(|guest| guest.not_started.as_ref());
        require(said.is_none_or(|text| is_prose(text, MAX_PROSE)), "guest_reported.not_started")
    }

    fn check_lists(&self) -> Result<(), Refusal> {
        let names = |list: &[String]| list.len() <= MAX_LIST && list.iter().all(|name| is_name(name, MAX_NAME));
        require(names(&self.policy.allowed_missing), "policy.allowed_missing")?;
        require(names(&self.secrets), "secrets")?;
        require(self.secrets.is_sorted_by(|a, b| a < b), "secrets are not sorted, or one is there twice")?;
        let layers = &self.isolation.layers;
        let named = layers.len() <= MAX_LIST && layers.iter().all(|layer| is_name(&layer.layer, MAX_NAME));
        require(named, "isolation.layers")
    }
}

fn require(holds: bool, what: &str) -> Result<(), Refusal> {
    if holds { Ok(()) } else { Err(Refusal::bounds(Part::Statement, what)) }
}
