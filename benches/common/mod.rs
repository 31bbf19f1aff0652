//! Figures of measurements that were repeated, as a table for people and as JSON for whoever compares runs.

use std::io;
use std::path::{Path, PathBuf};

use serde_json::{Map, Value};

/// One measurement, repeated.
#[derive(Clone, Copy, Debug)]
pub struct Figure {
    pub min: f64,
    pub median: f64,
    pub max: f64,
}

impl Figure {
    /// # Panics
    /// Without a value.
    pub fn of(values: impl IntoIterator<Item = f64>) -> Figure {
        let mut values: Vec<f64> = values.into_iter().collect();
        values.sort_by(f64::total_cmp);
        let middle = values.len() / 2;
        let median = if values.len().is_multiple_of(2) { f64::midpoint(values[middle - 1], values[middle]) } else { values[middle] };
        Figure { min: values[0], median, max: values[values.len() - 1] }
    }
}

/// One row: what was measured, and the figures.
#[derive(Clone, Debug, Default)]
pub struct Row {
    labels: Vec<(&'static str, Value)>,
    figures: Vec<(&'static str, Option<Figure>)>,
}

impl Row {
    pub fn label(mut self, name: &'static str, value: impl Into<Value>) -> Row {
        self.labels.push((name, value.into()));
        self
    }

    /// `None` is a column of the table that says nothing about this row.
    pub fn figure(mut self, name: &'static str, figure: impl Into<Option<Figure>>) -> Row {
        self.figures.push((name, figure.into()));
        self
    }

    /// The columns by name; beside each figure its minimum and maximum.
    fn to_json(&self) -> Value {
        let mut object: Map<String, Value> = self.labels.iter().map(|(name, value)| ((*name).to_owned(), value.clone())).collect();
        for (name, figure) in self.figures.iter().filter_map(|(name, figure)| figure.map(|figure| (name, figure))) {
            object.insert((*name).to_owned(), rounded(figure.median));
            object.insert(format!("{name}_min"), rounded(figure.min));
            object.insert(format!("{name}_max"), rounded(figure.max));
        }
        Value::Object(object)
    }

    fn cells(&self) -> Vec<String> {
        let text = |value: &Value| value.as_str().map_or_else(|| value.to_string(), str::to_owned);
        let labels = self.labels.iter().map(|(_, value)| text(value));
        labels.chain(self.figures.iter().map(|(_, figure)| figure.map_or_else(|| "-".to_owned(), in_words))).collect()
    }
}

/// Median and, in brackets, the least and the most.
fn in_words(Figure { min, median, max }: Figure) -> String {
    let digits = digits(median);
    if min < max { format!("{median:.digits$} [{min:.digits$} {max:.digits$}]") } else { format!("{median:.digits$}") }
}

/// As many digits after the point as make three in all.
fn digits(value: f64) -> usize {
    match value.abs() {
        100.0.. => 0,
        10.0.. => 1,
        _ => 2,
    }
}

/// Finer than it is printed.
fn rounded(value: f64) -> Value {
    let scale = if value.abs() < 10.0 { 1e3 } else { 10.0 };
    ((value * scale).round() / scale).into()
}

/// Prints rows that have the same columns.
pub fn print(title: &str, rows: &[Row]) {
    let Some(first) = rows.first() else { return };
    let names = first.labels.iter().map(|(name, _)| *name).chain(first.figures.iter().map(|(name, _)| *name));
    let mut lines: Vec<Vec<String>> = vec![names.map(str::to_owned).collect()];
    lines.extend(rows.iter().map(Row::cells));
    let width = |column: usize| lines.iter().map(|line| line[column].len()).max().unwrap_or(0);
    let widths: Vec<usize> = (0..lines[0].len()).map(width).collect();
    println!("\n{title}");
    for line in &lines {
        let padded: Vec<String> = line.iter().zip(&widths).map(|(cell, width)| format!("{cell:width$}")).collect();
        println!("  {}", padded.join("  ").trim_end());
    }
}

/// Where results go: `target/bench` of this checkout.
///
/// # Errors
/// When it cannot be made.
pub fn directory() -> io::Result<PathBuf> {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/bench");
    std::fs::create_dir_all(&directory)?;
    Ok(directory)
}

/// Writes rows as a JSON array, one object a row.
///
/// # Errors
/// When the file cannot be written.
pub fn write(file: &str, rows: &[Row]) -> io::Result<()> {
    let path = directory()?.join(file);
    let rows: Vec<String> = rows.iter().map(|row| row.to_json().to_string()).collect();
    std::fs::write(&path, format!("[\n{}\n]\n", rows.join(",\n")))?;
    println!("  written to {}", path.display());
    Ok(())
}

/// What the machine had to do besides, which every figure suffers from.
pub fn machine() -> String {
    let cpus = std::thread::available_parallelism().map_or(1, usize::from);
    let load = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
    format!("{cpus} CPUs, load average {}", load.split(' ').next().unwrap_or("unknown"))
}
