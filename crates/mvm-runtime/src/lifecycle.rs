//! The life of a sandbox as one pure function: no I/O, no clock, no lock.
//!
//! ```text
//! creating ─► running ◄─ resume ── frozen
//!     │         │  ▲                │  ▲
//!     │         │  └── freeze ──────┼──┘
//!     │         └── pause ──────────┴────► cold ── resume ──► restoring ──► running
//!     │                                                           └─ refused ──► cold
//!     │   running, frozen, cold ── stop, or the machine ends ──► stopped ─ start ─► creating
//!     └── running, frozen, restoring ── its kernel or its VMM breaks ──► failed ─ start ─► creating
//! any ── destroy ──► destroyed
//! ```
//!
//! A repeated action is harmless; an illegal one is refused with what is legal instead.

use std::fmt;

use mvm_wire::ErrorCode;
pub use mvm_wire::api::State;
use serde::{Deserialize, Serialize};

use crate::error::Error;

/// What a caller asks for, or what happened to the machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Action {
    /// The machine answers and was admitted.
    Ready,
    /// The machine ended in order, or its supervisor was lost with it; the disk is whole.
    Halt,
    /// The machine, or what runs it, broke.
    Fail,
    /// What was saved does not fit or is damaged; it is as it was.
    Refuse,
    /// A caller wants it to hold still, in memory.
    Freeze,
    /// A caller wants it saved, and nothing of it to run.
    Pause,
    /// A caller wants it to go on where it was.
    Resume,
    /// A caller wants it to end; the disk is kept.
    Stop,
    /// A caller wants it to run again on its disk.
    Start,
    /// Nothing of it shall remain.
    Destroy,
}

impl Action {
    /// Every action.
    pub const ALL: [Action; 10] = [
        Action::Ready,
        Action::Halt,
        Action::Fail,
        Action::Refuse,
        Action::Freeze,
        Action::Pause,
        Action::Resume,
        Action::Stop,
        Action::Start,
        Action::Destroy,
    ];
    /// What callers can ask for, the likeliest first.
    pub const OF_CALLERS: [Action; 6] =
        [Action::Resume, Action::Start, Action::Pause, Action::Freeze, Action::Stop, Action::Destroy];
}

impl fmt::Display for Action {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Action::Ready => "ready",
            Action::Halt => "halt",
            Action::Fail => "fail",
            Action::Refuse => "refuse",
            Action::Freeze => "freeze",
            Action::Pause => "pause",
            Action::Resume => "resume",
            Action::Stop => "stop",
            Action::Start => "start",
            Action::Destroy => "destroy",
        })
    }
}

/// What an action does in a state.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// It leads to this state.
    Move(State),
    /// What it asks for is so already.
    Already,
    /// It is not legal in this state.
    Refused,
}

/// The whole state machine.
pub fn judge(state: State, action: Action) -> Verdict {
    use Verdict::{Already, Move, Refused};
    match (action, state) {
        (Action::Destroy, State::Destroyed) => Already,
        (Action::Destroy, _) => Move(State::Destroyed),

        (Action::Ready, State::Creating | State::Restoring) => Move(State::Running),
        (Action::Halt, State::Creating | State::Running | State::Frozen | State::Restoring) => Move(State::Stopped),
        (Action::Fail, State::Creating | State::Running | State::Frozen | State::Restoring) => Move(State::Failed),
        (Action::Refuse, State::Restoring) => Move(State::Cold),

        (Action::Freeze, State::Running) => Move(State::Frozen),
        (Action::Freeze, State::Frozen) => Already,
        (Action::Pause, State::Running | State::Frozen) => Move(State::Cold),
        (Action::Pause, State::Cold) => Already,
        (Action::Resume, State::Frozen) => Move(State::Running),
        (Action::Resume, State::Cold) => Move(State::Restoring),
        (Action::Resume, State::Running | State::Restoring) => Already,
        (Action::Stop, State::Running | State::Frozen | State::Cold) => Move(State::Stopped),
        (Action::Stop, State::Stopped) => Already,
        (Action::Start, State::Stopped | State::Failed) => Move(State::Creating),
        (Action::Start, State::Creating | State::Running) => Already,

        (Action::Ready, State::Running | State::Frozen | State::Cold | State::Stopped | State::Failed)
        | (Action::Halt | Action::Fail, State::Cold | State::Stopped | State::Failed)
        | (
            Action::Refuse,
            State::Creating | State::Running | State::Frozen | State::Cold | State::Stopped | State::Failed,
        )
        | (Action::Freeze, State::Creating | State::Cold | State::Restoring | State::Stopped | State::Failed)
        | (Action::Pause, State::Creating | State::Restoring | State::Stopped | State::Failed)
        | (Action::Resume, State::Creating | State::Stopped | State::Failed)
        | (Action::Stop, State::Creating | State::Restoring | State::Failed)
        | (Action::Start, State::Frozen | State::Cold | State::Restoring)
        | (
            Action::Ready
            | Action::Halt
            | Action::Fail
            | Action::Refuse
            | Action::Freeze
            | Action::Pause
            | Action::Resume
            | Action::Stop
            | Action::Start,
            State::Destroyed,
        ) => Refused,
    }
}

/// What a caller may ask for in this state, other than what is so already.
pub fn legal(state: State) -> Vec<Action> {
    Action::OF_CALLERS.into_iter().filter(|action| matches!(judge(state, *action), Verdict::Move(_))).collect()
}

/// The refusal of something that needs another state.
pub fn refusal(name: &str, state: State, wanted: &str) -> Error {
    let legal: Vec<String> = legal(state).iter().map(Action::to_string).collect();
    let what = format!("cannot {wanted} the sandbox {name}");
    let error = Error::new(ErrorCode::InvalidState, what, format!("it is {state}"));
    match legal.as_slice() {
        [] => error.hint("mvmctl ps --all"),
        legal => error.hint(format!("legal now: {} (mvmctl {} {name})", legal.join(", "), legal[0])),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn state() -> impl Strategy<Value = State> {
        prop::sample::select(State::ALL.to_vec())
    }

    fn action() -> impl Strategy<Value = Action> {
        prop::sample::select(Action::ALL.to_vec())
    }

    proptest! {
        #[test]
        fn a_move_changes_the_state(state in state(), action in action()) {
            prop_assert_ne!(judge(state, action), Verdict::Move(state));
        }

        #[test]
        fn what_a_caller_asks_for_twice_is_harmless(state in state(), action in prop::sample::select(Action::OF_CALLERS.to_vec())) {
            if let Verdict::Move(next) = judge(state, action) {
                prop_assert_eq!(judge(next, action), Verdict::Already);
            }
        }

        #[test]
        fn destroyed_is_the_end_and_always_within_reach(state in state(), actions in prop::collection::vec(action(), 0..20)) {
            let step = |state, action| match judge(state, action) {
                Verdict::Move(next) => next,
                Verdict::Already | Verdict::Refused => state,
            };
            let reached = actions.into_iter().fold(state, step);
            prop_assert_eq!(step(reached, Action::Destroy), State::Destroyed);
            prop_assert!(state != State::Destroyed || reached == State::Destroyed);
        }

        #[test]
        fn no_state_is_a_trap(state in state()) {
            prop_assert_eq!(legal(state).is_empty(), state == State::Destroyed);
        }
    }

    #[test]
    fn a_refusal_names_the_state_and_what_is_legal() {
        let error = refusal("box", State::Stopped, "run a command in");
        assert_eq!(error.code, ErrorCode::InvalidState);
        assert_eq!(error.to_string(), "cannot run a command in the sandbox box: it is stopped");
        assert_eq!(error.hint, "legal now: start, destroy (mvmctl start box)");
    }
}
