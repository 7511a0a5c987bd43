//! The figures for people: a table, and a Markdown file that is written and not edited.

use std::path::Path;

use mvm_runtime::host::Host;
use mvm_runtime::{Error, Result};
use serde_json::{Value, json};

use super::Lane;
use crate::output;

/// In the Markdown file, what lies between is replaced and the rest stays.
const BEGIN: &str = "<!-- written by `mvmctl bench --markdown`: begin -->";
const END: &str = "<!-- written by `mvmctl bench --markdown`: end -->";

/// Median, spread and samples of a lane.
pub fn summary(lane: &Lane) -> Value {
    let mut sorted = lane.samples.clone();
    sorted.sort_by(f64::total_cmp);
    let at = |share: f64| sorted.get(((sorted.len().max(1) - 1) as f64 * share).round() as usize).copied();
    json!({
        "name": lane.name,
        "about": lane.about,
        "unit": lane.unit,
        "budget": lane.budget,
        "p50": at(0.5),
        "p95": at(0.95),
        "min": at(0.0),
        "max": at(1.0),
        "samples": lane.samples,
    })
}

fn rows(results: &Value) -> Vec<Vec<String>> {
    let lanes = results["lanes"].as_array().map(Vec::as_slice).unwrap_or_default();
    let yardstick = lanes.iter().find(|lane| lane["name"] == "qemu-start").and_then(|lane| lane["p50"].as_f64());
    let mut rows = vec![
        ["lane", "p50", "p95", "min", "max", "unit", "× qemu-start", "budget", "what"].map(str::to_owned).to_vec(),
    ];
    for lane in lanes {
        let number = |key: &str| lane[key].as_f64().map_or_else(|| "-".to_owned(), |n| format!("{n:.1}"));
        let text = |key: &str| lane[key].as_str().unwrap_or_default().to_owned();
        let ratio = match (lane["p50"].as_f64(), yardstick, lane["unit"].as_str()) {
            (Some(p50), Some(yardstick), Some("ms")) => format!("{:.1}", p50 / yardstick),
            _ => String::new(),
        };
        rows.push(vec![
            text("name"),
            number("p50"),
            number("p95"),
            number("min"),
            number("max"),
            text("unit"),
            ratio,
            text("budget"),
            text("about"),
        ]);
    }
    rows
}

/// Prints the table.
pub fn print(results: &Value) {
    output::table(&rows(results));
    output::line("");
    output::line("Raw samples and the host's description: mvmctl bench --json");
}

/// Writes the table and the samples into a Markdown file.
pub fn write_markdown(path: &Path, host: &Host, results: &Value) -> Result<()> {
    let context = |e| Error::io(format!("cannot write {}", path.display()), e);
    let before = match std::fs::read_to_string(path) {
        Ok(text) => text,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => format!("# Performance\n\n{BEGIN}\n{END}\n"),
        Err(e) => return Err(context(e)),
    };
    let block = markdown(host, results);
    let text = match (before.find(BEGIN), before.find(END)) {
        (Some(begin), Some(end)) if begin < end => format!("{}{BEGIN}\n{block}{}", &before[..begin], &before[end..]),
        _ => format!("{}\n{BEGIN}\n{block}{END}\n", before.trim_end()),
    };
    std::fs::write(path, text).map_err(context)
}

fn markdown(host: &Host, results: &Value) -> String {
    let about = &results["host"];
    let mut out = format!(
        "Measured on {} ({} processors), Linux {}, QEMU {}, accelerator {}, mvmctl {} ({} build).\n\n",
        host.cpu_model,
        about["processors"],
        about["kernel"].as_str().unwrap_or_default(),
        host.qemu.version,
        host.accelerator().name(),
        about["mvmctl"].as_str().unwrap_or_default(),
        about["build"].as_str().unwrap_or_default(),
    );
    let rows = rows(results);
    for (index, row) in rows.iter().enumerate() {
        out += &format!("| {} |\n", row.join(" | "));
        if index == 0 {
            out += &format!("|{}\n", " --- |".repeat(row.len()));
        }
    }
    out += "\nRaw samples, in the order they were taken:\n\n";
    for lane in results["lanes"].as_array().into_iter().flatten() {
        let samples: Vec<String> = lane["samples"]
            .as_array()
            .into_iter()
            .flatten()
            .filter_map(Value::as_f64)
            .map(|n| format!("{n:.1}"))
            .collect();
        out += &format!("- `{}`: {}\n", lane["name"].as_str().unwrap_or_default(), samples.join(" "));
    }
    out
}
