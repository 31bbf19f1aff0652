//! Writes what is generated from the Rust types: `crds/`, and the reference of fields in `docs/reference/`.

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
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
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
