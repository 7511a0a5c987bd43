//! The engine of mvm: it turns "run this command in that image" into a confined microVM and a typed result.
//!
//! It may touch the host's files beneath `MVM_HOME`, spawn the VMM and the distribution's package tools,
//! and talk to a guest it does not trust. It never prints: callers draw [`Progress`] and render [`Error`].

pub mod agent;
pub mod build;
pub mod bundle;
pub mod capabilities;
pub mod client;
pub mod command;
pub mod connect;
pub mod copy;
pub mod doctor;
pub mod error;
pub mod evidence;
pub mod export;
pub mod files;
pub mod function;
pub mod home;
pub mod host;
pub mod image;
pub mod import;
pub mod kernel;
pub mod layers;
pub mod lifecycle;
pub mod packages;
pub mod place;
pub mod point;
pub mod policy;
pub mod process;
pub mod progress;
pub mod reconcile;
pub mod request;
pub mod run;
pub mod sandbox;
pub mod sandboxes;
pub mod secrets;
pub mod setup;
pub mod snapshots;
pub mod source;
pub mod stamp;
pub mod store;
pub mod supervisor;
pub mod template;
pub mod text;
pub mod time;
pub mod tool;
pub mod units;
pub mod vmm;
pub mod witness;
pub mod workload;

pub use error::{Error, Result};
pub use home::Home;
pub use mvm_wire::ErrorCode;
pub use progress::Progress;
