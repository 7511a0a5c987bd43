//! `mvmctl image`: what machines can be started from.

use std::path::PathBuf;

use clap::{Args, Subcommand};
use mvm_runtime::export::export;
use mvm_runtime::image::{self as runtime, Image};
use mvm_runtime::import::import;
use mvm_runtime::{Home, Result};
use serde_json::{Value, json};

use crate::commands::block_on;
use crate::progress::Drawn;
use crate::{output, signals};

/// `mvmctl image`.
#[derive(Debug, Subcommand)]
pub enum ImageCommand {
    /// List images
    Ls {
        /// Print them as JSON
        #[arg(long)]
        json: bool,
    },
    /// Show an image: its digest, its disk, and what commands in it start from
    Inspect {
        /// Its name
        name: String,
        /// Print it as JSON
        #[arg(long)]
        json: bool,
    },
    /// Make an image of what others made: a root file system, or an image of docker or OCI
    Import(ImportArgs),
    /// Write an image into a file, as an OCI image layout that other tools can read
    Export(ExportArgs),
    /// Remove images by their names; sandboxes that were made of one keep its disk
    Rm {
        /// Their names
        #[arg(required = true)]
        names: Vec<String>,
        /// Print which were removed as JSON
        #[arg(long)]
        json: bool,
    },
}

/// `mvmctl image import`.
#[derive(Debug, Args)]
#[command(
    after_help = "SOURCE is a root file system, as a tar archive (also compressed with gzip or zstd) or as a directory; what \
    `docker save` writes; or an OCI image layout, as a directory or as a tar archive. What it is, is told by what is in \
    it.\n\nExamples:\n  docker save -o alpine.tar alpine && mvmctl image import alpine.tar alpine\n  \
    mvmctl image import rootfs.tar.gz mine\n  mvmctl run --image mine -- ls -l /"
)]
pub struct ImportArgs {
    /// An archive or a directory
    pub source: PathBuf,
    /// What to call the image. An image that is called so already loses the name
    pub name: String,
    /// Of several images in it, the one that is called so there
    #[arg(long)]
    pub reference: Option<String>,
    /// Print what was imported as JSON
    #[arg(long)]
    pub json: bool,
    /// Print nothing but errors
    #[arg(long, short)]
    pub quiet: bool,
}

/// `mvmctl image export`.
#[derive(Debug, Args)]
#[command(
    after_help = "A machine boots on a copy of the image's disk, without a network, and sends what is on it; nothing of the \
    image runs. FILE is a tar archive of an OCI image layout with one layer. The same image is the same bytes.\n\nExamples:\n  \
    mvmctl image export mine mine.tar\n  podman load -i mine.tar\n  skopeo copy oci-archive:mine.tar docker-daemon:mine:1"
)]
pub struct ExportArgs {
    /// The image
    pub name: String,
    /// Where to write it; a file that is there is replaced
    pub file: PathBuf,
    /// Print what was written as JSON
    #[arg(long)]
    pub json: bool,
    /// Print nothing but errors
    #[arg(long, short)]
    pub quiet: bool,
}

/// Runs the verb.
pub fn image(command: ImageCommand) -> u8 {
    let (result, as_json) = match command {
        ImageCommand::Ls { json } => (list(json), json),
        ImageCommand::Inspect { name, json } => (inspect(&name, json), json),
        ImageCommand::Import(args) => (make(&args), args.json),
        ImageCommand::Export(args) => (write(&args), args.json),
        ImageCommand::Rm { names, json } => (remove(&names, json), json),
    };
    result.map_or_else(|error| output::error(&error, as_json), |()| output::SUCCESS)
}

fn list(as_json: bool) -> Result<()> {
    let images = runtime::list(&Home::locate()?);
    if as_json {
        output::print_json(&json!({ "images": images.iter().map(object).collect::<Vec<_>>() }));
        return Ok(());
    }
    if images.is_empty() {
        output::line("No images yet. Make them with: mvmctl setup");
        return Ok(());
    }
    let mut rows = vec![["NAME", "DIGEST", "DISK", "STATE"].map(str::to_owned).to_vec()];
    rows.extend(images.iter().map(|image| {
        let digest = image.digest.trim_start_matches("sha256:").chars().take(12).collect();
        vec![image.name.clone(), digest, output::bytes(image.disk_bytes), state(image)]
    }));
    output::table(&rows);
    Ok(())
}

/// Whether machines can be started from it.
fn state(image: &Image) -> String {
    image.open_disk().map_or_else(|error| error.why, |_| "ok".to_owned())
}

fn object(image: &Image) -> Value {
    json!({
        "name": image.name, "digest": image.digest, "disk_bytes": image.disk_bytes, "built_at": image.built_at,
        "config": image.config, "state": state(image),
    })
}

fn inspect(name: &str, as_json: bool) -> Result<()> {
    let home = Home::locate()?;
    runtime::validate_name(name)?;
    let image = runtime::list(&home).into_iter().find(|image| image.name == name);
    let image = image.ok_or_else(|| runtime::unknown(&home, name))?;
    if as_json {
        output::print_json(&object(&image));
        return Ok(());
    }
    let config = &image.config;
    let or = |text: &str, other: &str| if text.is_empty() { other.to_owned() } else { text.to_owned() };
    let env = config.env.iter().map(|(name, value)| format!("{name}={value}")).collect::<Vec<_>>().join(" ");
    let rows = [
        ("name", image.name.clone()),
        ("digest", image.digest.clone()),
        ("disk", format!("{}, {}", output::bytes(image.disk_bytes), state(&image))),
        ("directory", or(&config.workdir, "the user's home")),
        ("user", or(&config.user, "root")),
        ("environment", or(&env, "none")),
        ("entrypoint", or(&config.entrypoint.join(" "), "none")),
    ];
    output::table(&rows.map(|(name, value)| vec![name.to_owned(), value]));
    Ok(())
}

fn make(args: &ImportArgs) -> Result<()> {
    let _signals = signals::listen();
    let ImportArgs { source, name, reference, json, quiet } = args;
    let progress = Drawn::new(*quiet || *json);
    let made = block_on(import(&Home::locate()?, source, name, reference.as_deref(), &progress))?;
    drop(progress);
    let image = &made.image;
    if *json {
        output::print_json(&json!({
            "name": name, "digest": image.digest, "disk_bytes": image.disk_bytes, "config": image.config,
            "cached": made.cached,
        }));
    } else if !quiet {
        let how = if made.cached { "was there before" } else { "is imported" };
        output::line(&format!("image {name} {how} ({})", image.digest));
        output::line(&format!("  try:  mvmctl run --image {name} -- ls -l /"));
    }
    Ok(())
}

fn write(args: &ExportArgs) -> Result<()> {
    let _signals = signals::listen();
    let ExportArgs { name, file, json, quiet } = args;
    let progress = Drawn::new(*quiet || *json);
    let exported = block_on(export(&Home::locate()?, name, file, &progress))?;
    drop(progress);
    let (digest, bytes) = (&exported.image.digest, exported.bytes);
    if *json {
        output::print_json(&json!({ "name": name, "digest": digest, "file": file.to_string_lossy(), "bytes": bytes }));
    } else if !quiet {
        output::line(&format!("image {name} is in {} ({})", file.display(), output::bytes(bytes)));
    }
    Ok(())
}

fn remove(names: &[String], as_json: bool) -> Result<()> {
    let home = Home::locate()?;
    names.iter().try_for_each(|name| runtime::remove(&home, name))?;
    if as_json {
        output::print_json(&json!({ "removed": names }));
    }
    Ok(())
}
