//! `export-calls`: the ledger's single calls on standard output. `kubectl spend export calls` runs it in the operator's pod, so that the
//! API server decides who may, and records who did; nothing listens for it.

use std::io::{self, Write};
use std::str::FromStr;

use clap::ValueEnum;
use jiff::civil::Date;
use jiff::{Timestamp, tz::TimeZone};
use serde_json::{Map, Value};

use super::args::ExportCallsArgs;
use crate::core::csv::quoted;
use crate::ledger::LedgerError;
use crate::ledger::calls::{Calls, StoredCall};
use crate::ledger::columns::{NUMBERS, TEXTS};

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// Comma-separated values with a header.
    Csv,
    /// A JSON object a line.
    Json,
}

/// A moment: RFC 3339, or a date, which begins in UTC.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Moment(pub i64);

impl FromStr for Moment {
    type Err = String;

    fn from_str(text: &str) -> Result<Moment, String> {
        let date = || Some(text.parse::<Date>().ok()?.to_zoned(TimeZone::UTC).ok()?.timestamp());
        let moment = text.parse::<Timestamp>().ok().or_else(date);
        moment.map(|moment| Moment(moment.as_millisecond())).ok_or_else(|| "write 2026-11-25 or 2026-11-25T10:00:00Z".to_owned())
    }
}

/// Why not all calls were written.
#[derive(Debug, thiserror::Error)]
pub enum ExportError {
    #[error(transparent)]
    Ledger(#[from] LedgerError),
    #[error("cannot write the output: {0}")]
    Output(#[from] io::Error),
}

/// Writes the calls, a page of them in memory at a time.
///
/// # Errors
/// When the ledger cannot be read, or `out` takes no more.
pub async fn run(args: &ExportCallsArgs, out: &mut impl Write) -> Result<(), ExportError> {
    let mut calls = Calls::open(&args.ledger.ledger, args.ledger.ledger_ca.as_deref(), args.from.0, args.to.0).await?;
    if args.format == Format::Csv {
        writeln!(out, "{}", names().collect::<Vec<_>>().join(","))?;
    }
    loop {
        let page = calls.page().await?;
        if page.is_empty() {
            return Ok(out.flush()?);
        }
        for call in &page {
            writeln!(out, "{}", line(args.format, call))?;
        }
    }
}

/// When it ended first, then as the ledger's columns are named, then what it cost.
fn names() -> impl Iterator<Item = &'static str> {
    ["at"].into_iter().chain(TEXTS).chain(NUMBERS.into_iter().skip(1)).chain(["cost_usd"])
}

fn line(format: Format, call: &StoredCall) -> String {
    let at = Timestamp::from_millisecond(call.at_ms()).map_or_else(|_| call.at_ms().to_string(), |at| format!("{at:.3}"));
    let numbers = call.numbers.iter().skip(1);
    match format {
        Format::Csv => {
            let numbers = numbers.map(|number| number.map_or_else(String::new, |number| number.to_string()));
            let cells = [at].into_iter().chain(call.texts.iter().map(|text| quoted(text))).chain(numbers);
            cells.chain([call.cost.to_decimal()]).collect::<Vec<_>>().join(",")
        }
        // The cost is text, since most readers take JSON's numbers for floats.
        Format::Json => {
            let texts = call.texts.iter().map(|text| Value::from(text.as_str()));
            let values = [Value::from(at)].into_iter().chain(texts).chain(numbers.map(|number| Value::from(*number)));
            let values = values.chain([Value::from(call.cost.to_decimal())]);
            Value::Object(names().map(str::to_owned).zip(values).collect::<Map<_, _>>()).to_string()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::call::CallOutcome;
    use crate::ledger::conformance::{holder, record};
    use crate::ledger::{Entry, Ledger, sqlite::SqliteLedger};
    use crate::operator::args::LedgerArgs;

    /// What is written of calls that ended at 1,000, 1,001, … ms, one each, from `from_ms` until before `to_ms`.
    async fn exported(calls: usize, format: Format, (from_ms, to_ms): (i64, i64)) -> Vec<String> {
        let directory = tempfile::tempdir().expect("a folder");
        let path = directory.path().join("ledger.db");
        let ledger = SqliteLedger::open(&path).expect("a ledger");
        for n in 0..calls {
            let mut record = std::sync::Arc::unwrap_or_clone(record(&format!("call-{n:05}"), 1_000_001, CallOutcome::Completed));
            record.model = "=m,\"x\"".into();
            let entry = Entry::Settled { record: record.into(), lease: None, unleased: vec![] };
            ledger.report(&holder("pod"), vec![entry], 1_000 + n as i64).await.expect("reported");
        }
        let ledger = LedgerArgs { ledger: path.display().to_string(), ledger_ca: None };
        let args = ExportCallsArgs { ledger, from: Moment(from_ms), to: Moment(to_ms), format };
        let mut out = Vec::new();
        run(&args, &mut out).await.expect("exported");
        String::from_utf8(out).expect("text").lines().map(str::to_owned).collect()
    }

    #[tokio::test]
    async fn calls_of_a_stretch_of_time_are_exported_while_the_ledger_works_exact_and_in_order() {
        let lines = exported(5, Format::Csv, (1_001, 1_004)).await;
        assert_eq!(lines.len(), 4);
        assert_eq!(lines[0].split(',').count(), lines[0].split(',').collect::<std::collections::BTreeSet<_>>().len(), "{}", lines[0]);
        assert!(lines[0].starts_with("at,id,holder,namespace,") && lines[0].ends_with(",cost_usd"), "{}", lines[0]);
        assert!(lines[1].starts_with("1970-01-01T00:00:01.001Z,call-00001,pod,shop,"), "{}", lines[1]);
        assert!(lines[1].contains(",\"'=m,\"\"x\"\"\",") && lines[1].ends_with(",0.000001000001"), "{}", lines[1]);
        let lines = exported(3, Format::Json, (0, i64::MAX)).await;
        let call: Value = serde_json::from_str(&lines[2]).expect("an object");
        assert_eq!((&call["id"], &call["cost_usd"], &call["complexity"]), (&"call-00002".into(), &"0.000001000001".into(), &Value::Null));
        assert_eq!(lines.len(), 3);
    }

    #[tokio::test]
    async fn every_call_of_more_than_a_page_is_exported_once() {
        let directory = tempfile::tempdir().expect("a folder");
        let path = directory.path().join("ledger.db");
        let ledger = SqliteLedger::open(&path).expect("a ledger");
        // All at one moment, which a page must not end with.
        for hundred in 0..25 {
            let settled = |n: usize| record(&format!("call-{:05}", hundred * 100 + n), 1, CallOutcome::Completed);
            let entries = (0..100).map(|n| Entry::Settled { record: settled(n), lease: None, unleased: vec![] }).collect();
            ledger.report(&holder("pod"), entries, 1_000).await.expect("reported");
        }
        let ledger = LedgerArgs { ledger: path.display().to_string(), ledger_ca: None };
        let args = ExportCallsArgs { ledger, from: Moment(0), to: Moment(i64::MAX), format: Format::Csv };
        let mut out = Vec::new();
        run(&args, &mut out).await.expect("exported");
        let text = String::from_utf8(out).expect("text");
        let ids: Vec<&str> = text.lines().skip(1).filter_map(|line| line.split(',').nth(1)).collect();
        assert_eq!(ids, (0..2_500).map(|n| format!("call-{n:05}")).collect::<Vec<_>>());
    }

    #[test]
    fn a_moment_is_a_time_or_the_begin_of_a_day() {
        assert_eq!("1970-01-02".parse(), Ok(Moment(86_400_000)));
        assert_eq!("1970-01-01T01:00:00.5+01:00".parse(), Ok(Moment(500)));
        assert!("yesterday".parse::<Moment>().is_err());
    }
}
