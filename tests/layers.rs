//! The house rule: a module uses only those above it in the map of `src/lib.rs`, and the domain touches no I/O.

use std::fs;
use std::path::{Path, PathBuf};

/// In dependency order, with the modules that each must not use although they stand above it.
const LAYERS: [(&str, &[&str]); 8] = [
    ("core", &[]),
    ("api", &[]),
    ("llm", &["api"]),
    ("ledger", &["api", "llm"]),
    ("channel", &["api", "llm"]),
    ("sidecar", &[]),
    ("operator", &["sidecar", "llm"]),
    ("cli", &["sidecar", "operator", "llm"]),
];

/// Where decisions are made, and what must not be mentioned there.
const PURE: [&str; 2] = ["src/core", "src/ledger/machine"];
const IMPURE: [&str; 9] = ["tokio", "kube::", "k8s_openapi", "std::fs", "std::net", "SystemTime", "Instant::now", "async fn", "rand::"];

fn sources(directory: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(directory).expect("a source directory can be read") {
        let path = entry.expect("a directory entry can be read").path();
        if path.is_dir() {
            found.extend(sources(&path));
        } else if path.extension().is_some_and(|e| e == "rs") {
            found.push(path);
        }
    }
    found
}

/// Lines of code, with their numbers; comments left out.
fn code_lines(path: &Path) -> Vec<(usize, String)> {
    let text = fs::read_to_string(path).expect("a source file can be read");
    text.lines().enumerate().map(|(i, l)| (i + 1, l.split("//").next().unwrap_or("").to_owned())).collect()
}

#[test]
fn a_module_uses_only_those_above_it() {
    let mut breaches = Vec::new();
    for (index, (layer, barred)) in LAYERS.iter().enumerate() {
        let below = LAYERS[index + 1..].iter().map(|(name, _)| *name);
        let forbidden: Vec<&str> = below.chain(barred.iter().copied()).collect();
        for path in sources(&Path::new("src").join(layer)) {
            for (number, line) in code_lines(&path) {
                for name in &forbidden {
                    if line.contains(&format!("crate::{name}::")) || line.contains(&format!("crate::{name};")) {
                        breaches.push(format!("{}:{number}: {layer} must not use {name}: {}", path.display(), line.trim()));
                    }
                }
            }
        }
    }
    assert!(breaches.is_empty(), "{}", breaches.join("\n"));
}

#[test]
fn the_domain_is_pure() {
    let mut breaches = Vec::new();
    for path in PURE.into_iter().flat_map(|folder| sources(Path::new(folder))) {
        for (number, line) in code_lines(&path) {
            for word in IMPURE.iter().filter(|word| line.contains(**word)) {
                breaches.push(format!("{}:{number}: the domain must not mention {word}", path.display()));
            }
        }
    }
    assert!(breaches.is_empty(), "{}", breaches.join("\n"));
}
