//! `mvmctl policy`, and what `--dry-run` prints.

use std::path::PathBuf;

use clap::{Args, Subcommand};
use mvm_runtime::policy::{self, NO_NETWORK, Profile, RULES, Rule};
use mvm_runtime::text::harmless;
use mvm_runtime::vmm::confine::Layer;
use mvm_runtime::{Error, ErrorCode, Result, units};
use mvm_wire::api::Plan;
use serde_json::json;

use crate::output;

/// What may run, and who says so.
#[derive(Debug, Args, Clone)]
pub struct PolicyArgs {
    /// The profile that decides what is allowed: restrictive, standard, dev, permissive, or one of your own [default: standard;
    /// where $MVM_PROFILE is set, that one, and no other is used]
    #[arg(long, value_name = "NAME", value_parser = clap::builder::NonEmptyStringValueParser::new())]
    pub profile: Option<String>,
    /// Say that you know that the profile refuses next to nothing (permissive)
    #[arg(long)]
    pub accept_risk: bool,
    /// Demand a layer of isolation besides the profile's (`mvmctl doctor` lists them)
    #[arg(long, value_name = "LAYER", value_parser = layer)]
    pub require: Vec<String>,
    /// Run although this layer of isolation is missing; it is recorded
    #[arg(long, value_name = "LAYER", value_parser = layer)]
    pub allow_missing: Vec<String>,
    /// Show what would be allowed and by which rules, and do nothing; exits with 126 if it would be refused
    #[arg(long)]
    pub dry_run: bool,
}

fn layer(text: &str) -> std::result::Result<String, String> {
    let names: Vec<String> = Layer::ALL.iter().map(|layer| layer.name()).chain([NO_NETWORK.to_owned()]).collect();
    if names.iter().any(|name| name == text) {
        return Ok(text.to_owned());
    }
    Err(format!("not a layer; there are {}", names.join(", ")))
}

/// `mvmctl policy`.
#[derive(Debug, Subcommand)]
#[command(
    after_help = "Profiles of your own are files: ~/.config/mvm/profiles/NAME.toml. They build on another profile and say what \
    differs:\n\n  extends = \"restrictive\"\n  [env]\n  allow = [\"LANG\"]\n  [limits]\n  memory = \"2G\"\n\nExamples:\n  \
    mvmctl policy show restrictive\n  mvmctl policy check ./strict.toml\n  mvmctl policy explain env.variables"
)]
pub enum PolicyCommand {
    /// List the profiles, or show one with all that it inherits
    Show {
        /// Name of the profile
        #[arg(value_name = "PROFILE")]
        profile: Option<String>,
        /// Print it as JSON
        #[arg(long)]
        json: bool,
    },
    /// Check profiles: files, or all of your own
    Check {
        /// Files
        #[arg(value_name = "FILE")]
        files: Vec<PathBuf>,
        /// Print the findings as JSON
        #[arg(long)]
        json: bool,
    },
    /// Say what a rule decides, what sets it and what holds it; without one list all
    Explain {
        /// Id of the rule, as plans and denials name it
        #[arg(value_name = "RULE")]
        rule: Option<String>,
        /// Print it as JSON
        #[arg(long)]
        json: bool,
    },
    /// Print the JSON Schema of a profile's file, of a plan, or of a workload
    Schema {
        /// Of what
        #[arg(value_enum, default_value_t = Schema::Profile)]
        of: Schema,
    },
}

/// What there is a schema of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Schema {
    /// A profile's file
    Profile,
    /// What `--dry-run --json` prints
    Plan,
    /// What `mvmctl plan` reads
    Workload,
}

/// Runs the verb.
pub fn policy(command: PolicyCommand) -> u8 {
    let (json, result) = match command {
        PolicyCommand::Show { profile: None, json } => (json, list(json)),
        PolicyCommand::Show { profile: Some(name), json } => (json, show(&name, json)),
        PolicyCommand::Check { files, json } => (json, check(files, json)),
        PolicyCommand::Explain { rule: None, json } => (json, list_rules(json)),
        PolicyCommand::Explain { rule: Some(id), json } => (json, explain(&id, json)),
        PolicyCommand::Schema { of } => {
            match of {
                Schema::Profile => output::line(policy::PROFILE_JSON_SCHEMA.trim_end()),
                Schema::Plan => output::print_json(&policy::plan_json_schema()),
                Schema::Workload => output::print_json(&mvm_ir::json_schema()),
            }
            return output::SUCCESS;
        }
    };
    result.unwrap_or_else(|error| output::error(&error, json))
}

fn list(json: bool) -> Result<u8> {
    let all: Vec<(String, Result<Profile>)> =
        policy::names().into_iter().map(|name| (name.clone(), policy::load(&name))).collect();
    if json {
        let entry = |(name, profile): &(String, Result<Profile>)| match profile {
            Ok(profile) => json!({"name": name, "description": profile.description, "digest": policy::digest(profile)}),
            Err(error) => json!({"name": name, "error": output::error_object(error)}),
        };
        output::print_json(&json!({ "profiles": all.iter().map(entry).collect::<Vec<_>>() }));
        return Ok(output::SUCCESS);
    }
    let mut rows = vec![vec!["PROFILE".to_owned(), "WHAT FOR".to_owned()]];
    rows.extend(all.iter().map(|(name, profile)| {
        let about =
            profile.as_ref().map_or_else(|error| format!("unusable: {}", error.why), |p| harmless(&p.description));
        vec![name.clone(), about]
    }));
    output::table(&rows);
    output::line("  try:  mvmctl policy show restrictive");
    Ok(output::SUCCESS)
}

fn show(name: &str, json: bool) -> Result<u8> {
    let profile = policy::load(name)?;
    if json {
        output::print_json(&json!({ "profile": profile, "digest": policy::digest(&profile) }));
        return Ok(output::SUCCESS);
    }
    output::line(&format!("{}: {}", profile.name, harmless(&profile.description)));
    output::table(&fields(&profile).map(|(field, value)| vec![format!("  {field}"), value]));
    output::line(&format!("  digest  {}", policy::digest(&profile)));
    output::line(&format!("  try:  mvmctl run --profile {name} --dry-run -- true"));
    Ok(output::SUCCESS)
}

/// Its fields as a file would have them.
fn fields(profile: &Profile) -> [(&'static str, String); 20] {
    fn toml(value: impl serde::Serialize) -> String {
        json!(value).to_string()
    }
    fn bound<T: serde::Serialize>(most: Option<T>) -> String {
        most.map_or_else(|| toml("none"), toml)
    }
    let limits = &profile.limits;
    let (size, time) =
        (|most: Option<u64>| bound(most.map(units::size)), |most: Option<u64>| bound(most.map(units::duration)));
    [
        ("acknowledge", toml(profile.acknowledge)),
        ("env.allow", toml(&profile.env)),
        ("secrets.allow", toml(&profile.secrets)),
        ("user.root", toml(profile.user.root)),
        ("user.default", toml(&profile.user.default)),
        ("root.writable", toml(profile.root.writable)),
        ("root.scratch", toml(units::size(profile.root.scratch))),
        ("ports.allow", toml(profile.ports)),
        ("files.in", toml(profile.files.into)),
        ("files.out", toml(profile.files.out)),
        ("snapshots.save", toml(profile.snapshots.save)),
        ("host.directories", toml(profile.host.directories)),
        ("limits.cpus", bound(limits.cpus)),
        ("limits.memory", size(limits.memory)),
        ("limits.disk", size(limits.disk)),
        ("limits.processes", bound(limits.processes)),
        ("limits.output", size(limits.output)),
        ("limits.time", time(limits.time)),
        ("limits.ttl", time(limits.ttl)),
        ("isolation.require", toml(&profile.isolation.require)),
    ]
}

fn check(files: Vec<PathBuf>, json: bool) -> Result<u8> {
    let own = || {
        let dir = policy::directory();
        let entries = dir.and_then(|dir| std::fs::read_dir(dir).ok()).into_iter().flatten().flatten();
        let mut own: Vec<PathBuf> =
            entries.map(|entry| entry.path()).filter(|path| path.extension().is_some_and(|e| e == "toml")).collect();
        own.sort();
        own
    };
    let files = if files.is_empty() { own() } else { files };
    let checked: Vec<(PathBuf, Result<Profile>)> =
        files.into_iter().map(|file| (file.clone(), policy::check(&file))).collect();
    let sound = checked.iter().all(|(_, result)| result.is_ok());
    if json {
        let entry = |(file, result): &(PathBuf, Result<Profile>)| json!({"file": file, "sound": result.is_ok(), "error": result.as_ref().err().map(output::error_object)});
        output::print_json(&json!({ "sound": sound, "files": checked.iter().map(entry).collect::<Vec<_>>() }));
    } else if checked.is_empty() {
        output::line("No profiles of your own. They go into ~/.config/mvm/profiles/NAME.toml");
    } else {
        for (file, result) in &checked {
            match result {
                Ok(_) => output::line(&format!("{}: sound", file.display())),
                Err(error) => drop(output::error(error, false)),
            }
        }
    }
    Ok(if sound { output::SUCCESS } else { output::MVM_FAILED })
}

fn list_rules(json: bool) -> Result<u8> {
    if json {
        output::print_json(&json!({ "rules": RULES }));
        return Ok(output::SUCCESS);
    }
    let mut rows = vec![["RULE", "SET BY", "DECIDES"].map(str::to_owned).to_vec()];
    rows.extend(RULES.iter().map(|rule| [rule.id, rule.field, rule.decides].map(str::to_owned).to_vec()));
    output::table(&rows);
    Ok(output::SUCCESS)
}

fn explain(id: &str, json: bool) -> Result<u8> {
    let rule: &Rule = policy::find(id).ok_or_else(|| {
        let what = format!("cannot explain the rule {id:?}");
        Error::new(ErrorCode::NotFound, what, "there is none of this id").hint("mvmctl policy explain")
    })?;
    if json {
        output::print_json(&json!(rule));
        return Ok(output::SUCCESS);
    }
    let rows = [("rule", rule.id), ("decides", rule.decides), ("set by", rule.field), ("held by", rule.held_by)];
    output::table(&rows.map(|(name, value)| vec![name.to_owned(), value.to_owned()]));
    output::line("  try:  mvmctl policy show restrictive");
    Ok(output::SUCCESS)
}

/// Prints a plan, and returns the status that says whether it is allowed.
pub fn print(plan: &Plan, json: bool) -> u8 {
    if json {
        output::print_json(&json!(plan));
    } else {
        output::line(&format!("{} under the profile {}:", plan.operation, plan.profile));
        output::table(
            &plan.lines.iter().map(|line| vec![format!("  {}", line.rule), line.effect.clone()]).collect::<Vec<_>>(),
        );
        for denial in &plan.denials {
            output::line(&format!("{}: {}", denial.rule, denial.reason));
            output::line(&format!("  try: {}", denial.remedy));
        }
        let verdict = if plan.allowed { "allowed; nothing was started" } else { "refused" };
        output::line(&format!("{verdict} (plan {})", policy::digest(plan)));
    }
    if plan.allowed { output::SUCCESS } else { ErrorCode::PolicyDenied.exit_status() }
}
