//! `mvmctl`: parse, call the runtime, render. One file for each verb; nothing here decides anything about machines.

mod args;
mod bench;
mod build;
mod commands;
mod compile;
mod declared;
mod diff;
mod doctor;
mod evidence;
mod image;
mod input;
mod output;
mod plan;
mod policy;
mod progress;
mod receipts;
mod replace;
mod request;
mod run;
mod sandbox;
mod script;
mod secrets;
mod setup;
mod signals;
mod streams;
mod template;
mod terminal;

fn main() {
    // Not by returning: a thread may sit in a read of standard input for ever.
    std::process::exit(args::parse().map_or_else(|error| output::usage_error(&error), commands::dispatch).into());
}
