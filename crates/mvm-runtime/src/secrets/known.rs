//! What a supervisor knows of secrets: those of its sandbox, which every command gets, and those that single commands were
//! given. All of them are redacted in all output, because a program may leave its secret where another one prints it.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use mvm_wire::ErrorCode;
use mvm_wire::api::secrets::{hand_over, take_in};
use mvm_wire::api::{SecretKind, SecretValue, SecretValues};
use serde::{Deserialize, Serialize};

use super::{Patterns, Source};
use crate::error::{Error, Result};

/// So many commands that have ended are remembered with what they were given, and so many bytes of names and values. The
/// oldest go first. (Measured: looking for 64 tokens takes 5 ms to begin with, and nothing noticeable later.)
const MAX_REMEMBERED: usize = 32;
const MAX_REMEMBERED_BYTES: usize = 128 << 10;

/// What a supervisor is handed on its standard input. It is written nowhere else.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Handover {
    /// What every command gets.
    pub sandbox: Grant,
    /// Names of the sandbox's secrets whose values are not known, and why.
    pub missing: BTreeMap<String, String>,
    /// What single commands were given, the oldest first.
    pub commands: Vec<Grant>,
}

/// Secrets that were given together.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Grant {
    /// The values by name.
    #[serde(serialize_with = "hand_over", deserialize_with = "take_in")]
    pub values: SecretValues,
}

impl Handover {
    /// Of a new sandbox.
    pub fn of(values: SecretValues) -> Handover {
        Handover { sandbox: Grant { values }, ..Handover::default() }
    }

    /// For a supervisor that takes the place of another one: files are read again, the environment is another one.
    pub fn again(references: &BTreeMap<String, String>) -> Handover {
        let mut handover = Handover::default();
        for (name, reference) in references {
            let read = Source::of_reference(name, reference).and_then(|source| match source.kind() {
                SecretKind::File => source.resolve().map(|(value, _)| Ok(value)),
                _ => Ok(Err("it came from the environment of the command that made the sandbox".to_owned())),
            });
            match read.unwrap_or_else(|e| Err(e.to_string())) {
                Ok(value) => drop(handover.sandbox.values.insert(name.clone(), value)),
                Err(why) => drop(handover.missing.insert(name.clone(), why)),
            }
        }
        handover
    }

    /// Whether there is nothing to hand over.
    pub fn is_empty(&self) -> bool {
        self.sandbox.values.is_empty() && self.missing.is_empty() && self.commands.is_empty()
    }
}

/// What a supervisor knows.
#[derive(Debug, Default)]
pub struct Known(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    sandbox: SecretValues,
    missing: BTreeMap<String, String>,
    /// Held also by the commands that run with them.
    commands: VecDeque<Arc<Grant>>,
    patterns: Option<Arc<Patterns>>,
}

impl Known {
    /// All that was handed over.
    pub fn new(handover: Handover) -> Known {
        let Handover { sandbox, missing, commands } = handover;
        let commands = commands.into_iter().map(Arc::new).collect();
        let mut state = State { sandbox: sandbox.values, missing, commands, patterns: None };
        state.find_patterns();
        Known(Mutex::new(state))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What is redacted now; `None` if nothing is.
    pub fn patterns(&self) -> Option<Arc<Patterns>> {
        self.state().patterns.clone()
    }

    /// A text with all secrets redacted.
    pub fn redacted(&self, text: &str) -> String {
        self.patterns().map_or_else(|| text.to_owned(), |patterns| patterns.text(text).into_owned())
    }

    /// What every command gets, except for the names that it brings values of its own for. Refused if one of them is not
    /// known.
    pub fn of_sandbox(&self, brought: impl Fn(&str) -> bool) -> Result<SecretValues> {
        let state = self.state();
        if let Some((name, why)) = state.missing.iter().find(|(name, _)| !brought(name)) {
            let why = format!("the value of its secret {name} is not known since its supervisor was restarted: {why}");
            return Err(Error::new(ErrorCode::InvalidState, "cannot start the command", why)
                .hint(format!("give it to the command with mvmctl exec --secret {name}, or make the sandbox anew")));
        }
        Ok(state.sandbox.clone().into_iter().filter(|(name, _)| !brought(name)).collect())
    }

    /// Remembers what a command is given, for as long as the result is held and as there is room after that.
    pub fn grant(&self, values: SecretValues) -> Option<Arc<Grant>> {
        if values.is_empty() {
            return None;
        }
        let mut state = self.state();
        let known = state.commands.iter().position(|grant| grant.values == values);
        let grant = known.and_then(|index| state.commands.remove(index)).unwrap_or_else(|| Arc::new(Grant { values }));
        state.commands.push_back(grant.clone());
        if known.is_none() {
            state.forget_oldest();
            state.find_patterns();
        }
        Some(grant)
    }

    /// Whether a value of this name is known.
    pub fn knows(&self, name: &str) -> bool {
        self.any(name, |_| true)
    }

    /// Whether a value of this name is known of which something holds.
    pub fn any(&self, name: &str, holds: impl Fn(&SecretValue) -> bool) -> bool {
        let state = self.state();
        let of_commands = state.commands.iter().filter_map(|grant| grant.values.get(name));
        state.sandbox.get(name).into_iter().chain(of_commands).any(holds)
    }

    /// Whether every command gets one of this name.
    pub fn has_for_all(&self, name: &str) -> bool {
        self.state().sandbox.contains_key(name)
    }

    /// For the supervisor of a copy, whose commands have what these have.
    pub fn hand_over(&self) -> Handover {
        let state = self.state();
        Handover {
            sandbox: Grant { values: state.sandbox.clone() },
            missing: state.missing.clone(),
            commands: state.commands.iter().map(|grant| Grant::clone(grant)).collect(),
        }
    }
}

impl State {
    fn forget_oldest(&mut self) {
        let size = |grant: &Grant| -> usize {
            grant.values.iter().map(|(name, value)| name.len() + value.expose().len()).sum()
        };
        let (mut count, mut bytes) = (0, 0);
        let mut kept: VecDeque<Arc<Grant>> = VecDeque::new();
        for grant in self.commands.drain(..).rev() {
            (count, bytes) = (count + 1, bytes + size(&grant));
            if Arc::strong_count(&grant) > 1 || (count <= MAX_REMEMBERED && bytes <= MAX_REMEMBERED_BYTES) {
                kept.push_front(grant);
            }
        }
        self.commands = kept;
    }

    fn find_patterns(&mut self) {
        let all = [&self.sandbox].into_iter().chain(self.commands.iter().map(|grant| &grant.values)).flatten();
        self.patterns = Patterns::of(all.map(|(name, value)| (name.as_str(), value)));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn values(pairs: &[(&str, &str)]) -> SecretValues {
        pairs.iter().map(|(name, value)| (name.to_string(), value.to_string().into())).collect()
    }

    #[test]
    fn what_one_command_was_given_is_redacted_in_all() {
        let known = Known::new(Handover::of(values(&[("ALL", "for-every-command")])));
        assert_eq!(known.redacted("for-every-command for-one-command"), "[redacted:ALL] for-one-command");
        let granted = known.grant(values(&[("ONE", "for-one-command")]));
        assert_eq!(known.redacted("for-every-command for-one-command"), "[redacted:ALL] [redacted:ONE]");
        assert_eq!(known.of_sandbox(|_| false).unwrap().keys().collect::<Vec<_>>(), ["ALL"]);
        drop(granted);
        assert!(known.knows("ONE") && known.knows("ALL") && !known.knows("NONE"));
        assert!(known.grant(SecretValues::new()).is_none());
    }

    #[test]
    fn a_copy_knows_as_much_and_debug_shows_nothing() {
        let known = Known::new(Handover::of(values(&[("ALL", "for-every-command")])));
        known.grant(values(&[("ONE", "for-one-command")]));
        let text = serde_json::to_string(&known.hand_over()).unwrap();
        let copy = Known::new(serde_json::from_str(&text).unwrap());
        assert_eq!(copy.redacted("for-every-command for-one-command"), "[redacted:ALL] [redacted:ONE]");
        let shown = format!("{:?} {copy:?}", known.hand_over());
        assert!(!shown.contains("for-"), "{shown}");
        assert!(Handover::default().is_empty() && !known.hand_over().is_empty());
    }

    #[test]
    fn files_are_read_again_and_variables_are_not() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("f");
        std::fs::write(&path, "from-the-file").unwrap();
        let file = format!("file:{}", path.display());
        let references = [("FILE", file.as_str()), ("PATH", "env:PATH"), ("GONE", "file:/nowhere/at/all")];
        let references = references.map(|(name, reference)| (name.to_owned(), reference.to_owned()));
        let known = Known::new(Handover::again(&references.into()));
        assert_eq!(known.redacted("from-the-file"), "[redacted:FILE]");
        assert!(known.knows("FILE") && !known.knows("PATH"));
        let refused = known.of_sandbox(|name| name == "GONE").unwrap_err();
        assert_eq!(refused.code, ErrorCode::InvalidState);
        assert!(refused.why.contains("came from the environment of the command that made the sandbox"), "{refused}");
        assert!(known.of_sandbox(|name| name == "PATH").unwrap_err().why.contains("/nowhere/at/all"));
        assert_eq!(known.of_sandbox(|name| name != "FILE").unwrap().len(), 1);
    }

    #[test]
    fn those_of_running_commands_are_never_forgotten() {
        let known = Known::default();
        let short = |n: usize| format!("{n}-short-value");
        let held = known.grant(values(&[("HELD", "for-as-long-as-it-runs")]));
        (0..=MAX_REMEMBERED).for_each(|n| drop(known.grant(values(&[("OLD", &short(n))]))));
        assert_eq!(known.redacted(&short(MAX_REMEMBERED)), "[redacted:OLD]");
        assert_eq!(known.redacted(&short(0)), short(0));
        assert!(known.knows("HELD"));
        let long = |n: usize| format!("{n}-{}", "v".repeat(MAX_REMEMBERED_BYTES / 3));
        (0..3).for_each(|n| drop(known.grant(values(&[("LONG", &long(n))]))));
        assert_eq!(known.redacted(&long(2)), "[redacted:LONG]");
        assert_eq!(known.redacted(&long(0)), long(0));
        assert!(known.knows("HELD") && !known.knows("OLD"));
        drop(held);
        (3..6).for_each(|n| drop(known.grant(values(&[("LONG", &long(n))]))));
        assert!(!known.knows("HELD"));
    }
}
