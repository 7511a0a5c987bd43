//! `mvmctl secret ls`: which secrets commands have, never with their values.

use mvm_runtime::client::Client;
use mvm_runtime::place::Place;
use mvm_runtime::store::Record;
use mvm_runtime::{Home, Result, reconcile, sandboxes};
use mvm_wire::api::{SecretInfo, State};
use serde_json::json;

use super::args::SecretCommand;
use super::{find, span, verb};
use crate::output;

/// Runs the verb.
pub fn secret(command: SecretCommand) -> u8 {
    match command {
        SecretCommand::Ls { sandbox, json } => list(sandbox.as_deref(), json),
    }
}

fn list(sandbox: Option<&str>, as_json: bool) -> u8 {
    verb(as_json, async {
        let mut found = Vec::new();
        for (home, record) in records(sandbox)? {
            let secrets = of(&home, &record).await;
            found.extend(secrets.into_iter().map(|secret| (record.name.clone(), secret)));
        }
        if as_json {
            let object = |(sandbox, secret): &(String, SecretInfo)| {
                let mut object = json!(secret);
                object["sandbox"] = json!(sandbox);
                object
            };
            output::print_json(&json!({ "secrets": found.iter().map(object).collect::<Vec<_>>() }));
        } else if found.is_empty() {
            output::line("No secrets. Try: mvmctl exec --secret NAME SANDBOX -- CMD");
        } else {
            let mut rows = vec![["SANDBOX", "SECRET", "FROM", "OF", "SINCE"].map(str::to_owned).to_vec()];
            rows.extend(found.iter().map(|(sandbox, secret)| row(sandbox, secret)));
            output::table(&rows);
        }
        Ok(output::SUCCESS)
    })
}

fn records(sandbox: Option<&str>) -> Result<Vec<(Home, Record)>> {
    if let Some(name) = sandbox {
        let found = find(name)?;
        return Ok(vec![(found.home, found.record)]);
    }
    let home = Home::locate()?;
    let live = reconcile::reconcile(&home)?.list(false)?.into_iter().filter(|record| record.state != State::Destroyed);
    Ok(live.map(|record| (home.clone(), record)).collect())
}

/// From its supervisor, which knows the values; if none answers, from the store.
async fn of(home: &Home, record: &Record) -> Vec<SecretInfo> {
    let asked = Client::new(Place::of(home, &record.id).socket()).get("/v1/secrets").await;
    asked.unwrap_or_else(|_| sandboxes::secrets(record, |_| false))
}

fn row(sandbox: &str, secret: &SecretInfo) -> Vec<String> {
    let from = secret.reference.as_deref().map_or_else(|| "its request".to_owned(), mvm_runtime::text::harmless);
    let from = if secret.known { from } else { format!("{from} (value not known)") };
    let of = secret.run_id.clone().unwrap_or_else(|| "every command".to_owned());
    let since = span(mvm_runtime::time::now_ms().saturating_sub(secret.since_ms));
    vec![sandbox.to_owned(), secret.name.clone(), from, of, format!("{since} ago")]
}
