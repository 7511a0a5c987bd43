//! `mvmctl template`: what is saved, and getting rid of it.

use std::time::{SystemTime, UNIX_EPOCH};

use mvm_runtime::template::{self as runtime, Listed};
use mvm_runtime::{Home, Result};
use serde_json::json;

use crate::args::TemplateCommand;
use crate::output;

/// Runs the verb.
pub fn template(command: TemplateCommand) -> u8 {
    let (result, as_json) = match command {
        TemplateCommand::Ls { json } => (list(json), json),
        TemplateCommand::Rm { keys, json } => (remove(&keys, json), json),
        TemplateCommand::Gc { max, all, json } => (collect(if all { 0 } else { max }, json), json),
    };
    match result {
        Ok(()) => output::SUCCESS,
        Err(error) => output::error(&error, as_json),
    }
}

fn list(as_json: bool) -> Result<()> {
    let listed = runtime::list(&Home::locate()?)?;
    if as_json {
        output::print_json(&json!({ "templates": listed }));
        return Ok(());
    }
    if listed.is_empty() {
        output::line("No templates yet. Make them with: mvmctl setup");
        return Ok(());
    }
    let heading =
        ["KEY", "IMAGE", "MEMORY", "CPUS", "DISK", "ACCEL", "SIZE", "USED", "STATE"].map(str::to_owned).to_vec();
    let mut rows = vec![heading];
    rows.extend(listed.iter().map(|template| {
        let record = &template.record;
        vec![
            record.key.clone(),
            record.image.clone(),
            format!("{}M", record.shape.memory_mib),
            record.shape.cpus.to_string(),
            output::bytes(record.shape.disk_bytes),
            record.accelerator.name().to_owned(),
            output::bytes(template.disk_bytes_used),
            ago(template.used),
            template.damage.clone().unwrap_or_else(|| "ok".to_owned()),
        ]
    }));
    output::table(&rows);
    Ok(())
}

fn remove(keys: &[String], as_json: bool) -> Result<()> {
    let home = Home::locate()?;
    for key in keys {
        runtime::remove(&home, key)?;
    }
    if as_json {
        output::print_json(&json!({ "removed": keys }));
    }
    Ok(())
}

fn collect(cap_bytes: u64, as_json: bool) -> Result<()> {
    let home = Home::locate()?;
    home.sweep();
    let removed = runtime::collect(&home, cap_bytes, None)?;
    let freed: u64 = removed.iter().map(|template: &Listed| template.disk_bytes_used).sum();
    if as_json {
        output::print_json(&json!({ "removed": removed, "freed_bytes": freed }));
    } else {
        output::line(&format!("Removed {} templates, freed {}.", removed.len(), output::bytes(freed)));
    }
    Ok(())
}

fn ago(time: u64) -> String {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs());
    match now.saturating_sub(time) {
        0..60 => "just now".to_owned(),
        seconds @ 60..3600 => format!("{} min ago", seconds / 60),
        seconds @ 3600..86400 => format!("{} h ago", seconds / 3600),
        seconds => format!("{} d ago", seconds / 86400),
    }
}
