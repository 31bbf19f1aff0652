//! Writes what is generated from the Rust types: `crds/`, and the reference of fields in `docs/reference/`. Prints price lists.

use std::process::ExitCode;

use clap::Parser;
use spendkeeper::generate;

/// Writes crds/ and docs/reference/ from the Rust types.
#[derive(Parser)]
struct Arguments {
    /// Write nothing; fail when a file differs from what would be written
    #[arg(long)]
    check: bool,
    /// Root of the source tree
    #[arg(long, default_value = ".")]
    root: std::path::PathBuf,
    /// Print a price list instead: the catalogue's models, and those that are named, with the figures of a map in LiteLLM's format
    #[arg(long, value_name = "MAP", requires = "date")]
    prices: Option<std::path::PathBuf>,
    /// The day on which the map was read, YYYY-MM-DD
    #[arg(long)]
    date: Option<String>,
    /// Further models of the map
    #[arg(requires = "prices")]
    models: Vec<String>,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    if let (Some(map), Some(date)) = (&arguments.prices, &arguments.date) {
        let map = std::fs::read_to_string(map).map_err(|e| e.to_string());
        return match map.and_then(|map| generate::price_list(&map, date, &arguments.models)) {
            Ok(list) => {
                print!("{list}");
                ExitCode::SUCCESS
            }
            Err(error) => {
                eprintln!("error: {error}");
                ExitCode::FAILURE
            }
        };
    }
    let mut stale = Vec::new();
    for (path, text) in generate::files() {
        let path = arguments.root.join(path);
        if std::fs::read_to_string(&path).is_ok_and(|current| current == text) {
            continue;
        }
        stale.push(path.display().to_string());
        if !arguments.check {
            let written = path.parent().map_or(Ok(()), std::fs::create_dir_all).and_then(|()| std::fs::write(&path, text));
            if let Err(error) = written {
                eprintln!("error: {}: {error}", path.display());
                return ExitCode::FAILURE;
            }
        }
    }
    match (arguments.check, stale.is_empty()) {
        (true, false) => {
            eprintln!("stale: {}; run `make generate`", stale.join(", "));
            ExitCode::FAILURE
        }
        (_, unchanged) => {
            println!("{}", if unchanged { "up to date".to_owned() } else { format!("wrote {}", stale.join(", ")) });
            ExitCode::SUCCESS
        }
    }
}
