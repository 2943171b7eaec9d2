//! `crdgen`: prints the manifests of Waymark's custom resources, or writes each into a file of a folder.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Parser;
use waymark_controller::kubernetes::crd::{manifest_text, manifests};

/// Prints the definitions of Waymark's custom resources as YAML.
#[derive(Parser)]
#[command(version)]
struct Arguments {
    /// Write a file for each into this folder instead.
    #[arg(long, value_name = "FOLDER")]
    out: Option<PathBuf>,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    for (file, crd) in manifests() {
        let text = manifest_text(&crd);
        let Some(folder) = &arguments.out else {
            print!("---\n{text}");
            continue;
        };
        let path = folder.join(file);
        if let Err(error) = std::fs::write(&path, text) {
            eprintln!("crdgen: error: cannot write {}: {error}", path.display());
            return ExitCode::FAILURE;
        }
    }
    ExitCode::SUCCESS
}
