//! Reports: what happened, in order. What calls of one report have in common is said once, and of each call only its
//! [figures](super::figures), when it begins and when it ends.

use std::sync::Arc;

use super::figures::{self, Common};
use super::record::{record, record_to_json};
use super::{MAX_ID_BYTES, Malformed, amount, bounded, lease, limit_keys, optional_lease, texts};
use crate::channel::message::Reported;
use crate::channel::proto::{self, entry::Entry};
use crate::core::call::CallId;
use crate::core::dimensions::{Dimension, Dimensions, MAX_VALUE_BYTES};

/// Most entries of one report. A busy sidecar makes two for each call, and while both sides wait for a CPU a report is answered in tens of
/// milliseconds: with fewer entries in each it would fall behind.
pub const MAX_ENTRIES: usize = 4096;
/// Most outcomes of one entry.
const MAX_OUTCOME_COUNT: u64 = 1 << 32;

/// A report for the wire.
pub fn report_to_wire(report: &[Reported]) -> proto::ReportRequest {
    let mut common = Vec::new();
    let entries = report.iter().map(|reported| {
        let entry = match (figures::to_wire(reported, &mut common), reported) {
            (Some(figures), Reported::Opened { .. }) => Entry::OpenedLike(figures),
            (Some(figures), _) => Entry::SettledLike(figures),
            (None, _) => written_out(reported.clone()),
        };
        proto::Entry { entry: Some(entry) }
    });
    proto::ReportRequest { entries: entries.collect(), common: common.into_iter().map(|(_, wire)| wire).collect() }
}

/// An entry without what it has in common with others.
fn written_out(reported: Reported) -> Entry {
    match reported {
        Reported::Opened { call, lease, reserved, draft, unleased } => Entry::Opened(proto::Opened {
            call: call.0.to_string(),
            lease: lease.map_or_else(String::new, |lease| lease.0.to_string()),
            reserved: Some(reserved.into()),
            record_json: draft.map_or_else(Vec::new, |draft| record_to_json(&draft)),
            unleased: texts(unleased),
        }),
        Reported::Settled { record, lease, unleased } => Entry::Settled(proto::Settled {
            record_json: record_to_json(&record),
            lease: lease.map_or_else(String::new, |lease| lease.0.to_string()),
            unleased: texts(unleased),
        }),
        Reported::GivenBack { lease, seq, amount } => {
            Entry::GivenBack(proto::GivenBack { lease: lease.0.to_string(), seq, amount: Some(amount.into()) })
        }
        Reported::Outcome { id, outcome, count, dimensions } => Entry::Outcome(proto::Outcome {
            id,
            outcome,
            count,
            dimensions: dimensions.iter().map(|(d, v)| (d.name().to_owned(), v.to_owned())).collect(),
        }),
    }
}

/// The entries of a report, in order. An entry of a kind that this release does not know is left out.
///
/// # Errors
/// The first part that is malformed; nothing of the report is to be applied then.
pub fn report_from_wire(report: proto::ReportRequest) -> Result<Vec<Reported>, Malformed> {
    for (field, found) in [("entries", report.entries.len()), ("common", report.common.len())] {
        if found > MAX_ENTRIES {
            return Err(Malformed::TooLarge { field, found, limit: MAX_ENTRIES });
        }
    }
    let common = report.common.into_iter().map(figures::common).collect::<Result<Vec<_>, _>>()?;
    let mut told = 0;
    report.entries.into_iter().filter_map(|entry| entry.entry).map(|entry| reported(entry, &common, &mut told)).collect()
}

fn reported(wire: Entry, common: &[Common], told: &mut usize) -> Result<Reported, Malformed> {
    Ok(match wire {
        Entry::OpenedLike(wire) => {
            let (draft, Common { lease, unleased, .. }) = figures::record(&wire, common, told)?;
            let (call, reserved) = (draft.id.clone(), draft.reserved);
            Reported::Opened { call, lease: lease.clone(), reserved, draft: Some(Arc::new(draft)), unleased: unleased.clone() }
        }
        Entry::SettledLike(wire) => {
            let (record, Common { lease, unleased, .. }) = figures::record(&wire, common, told)?;
            Reported::Settled { record: Arc::new(record), lease: lease.clone(), unleased: unleased.clone() }
        }
        Entry::Opened(o) => Reported::Opened {
            call: CallId(bounded("opened.call", o.call, MAX_ID_BYTES)?.into()),
            lease: optional_lease(o.lease)?,
            reserved: amount("opened.reserved", o.reserved)?,
            draft: if o.record_json.is_empty() { None } else { Some(Arc::new(record("opened.record_json", &o.record_json)?)) },
            unleased: limit_keys("opened.unleased", o.unleased)?,
        },
        Entry::Settled(s) => Reported::Settled {
            record: Arc::new(record("settled.record_json", &s.record_json)?),
            lease: optional_lease(s.lease)?,
            unleased: limit_keys("settled.unleased", s.unleased)?,
        },
        Entry::GivenBack(g) => Reported::GivenBack { lease: lease(g.lease)?, seq: g.seq, amount: amount("given_back.amount", g.amount)? },
        Entry::Outcome(o) => Reported::Outcome {
            id: bounded("outcome.id", o.id, MAX_ID_BYTES)?,
            outcome: bounded("outcome.outcome", o.outcome, MAX_ID_BYTES)?,
            count: Some(o.count)
                .filter(|n| *n <= MAX_OUTCOME_COUNT)
                .ok_or(Malformed::OutOfRange { field: "outcome.count", limit: MAX_OUTCOME_COUNT.into() })?,
            dimensions: dimensions(o.dimensions)?,
        },
    })
}

/// Dimensions that this release does not know are left out.
fn dimensions(wire: std::collections::HashMap<String, String>) -> Result<Dimensions, Malformed> {
    let known = wire.into_iter().filter_map(|(name, value)| Dimension::from_name(&name).map(|d| (d, value)));
    let bounded = known.map(|(d, value)| Ok((d, bounded("outcome.dimensions", value, MAX_VALUE_BYTES)?)));
    bounded.collect()
}

#[cfg(test)]
mod tests;
