//! Reports in few bytes: what records of one report have in common is said once, and of each call only its figures, when it begins and when it
//! ends.
//!
//! A busy sidecar's calls are alike but for their figures. Written out, each is a thousand bytes of JSON that one side makes and the other
//! takes apart; so, it is sixty bytes.

use std::sync::Arc;

use uuid::Uuid;

use super::{Malformed, checked, limit_keys, optional_lease, record_to_json, reported, texts};
use crate::channel::message::Reported;
use crate::channel::proto::{self, brief_entry};
use crate::core::amount::Amount;
use crate::core::call::{CallId, CallOutcome, CallRecord, Figures};
use crate::core::lease::LeaseId;
use crate::core::limit::LimitKey;
use crate::core::money::PicoUsd;
use crate::core::usage::Usage;

/// Most entries of one report. A busy sidecar makes two for each call, and while both sides wait for a CPU a report is answered in tens of
/// milliseconds: with fewer entries in each it would fall behind.
pub const MAX_BRIEF_ENTRIES: usize = 4096;
/// Largest record that calls have in common, as JSON; ours are below 2 KiB.
const MAX_COMMON_BYTES: usize = 8 << 10;
/// Each call gets a copy of what it has in common with others; what they may be together, as JSON.
const MAX_COPIED_BYTES: usize = 8 << 20;
/// A call is compared with so many of what came last.
const COMPARED: usize = 8;

/// A call that begins or ends, and what is charged for it.
type Call<'a> = (&'a Arc<CallRecord>, &'a Option<LeaseId>, &'a Vec<LimitKey>);

/// What calls have in common, and its length as JSON.
struct Common {
    record: CallRecord,
    lease: Option<LeaseId>,
    unleased: Vec<LimitKey>,
    bytes: usize,
}

/// A report for the wire.
pub fn brief_to_wire(report: &[Reported]) -> proto::BriefRequest {
    let mut common = Vec::new();
    let entries = report.iter().map(|reported| {
        let figures = call(reported).and_then(|call| call_to_wire(call, &mut common));
        let entry = match (figures, reported) {
            (Some(figures), Reported::Opened { .. }) => brief_entry::Entry::Opened(figures),
            (Some(figures), _) => brief_entry::Entry::Ended(figures),
            (None, _) => brief_entry::Entry::Other(reported.clone().into()),
        };
        proto::BriefEntry { entry: Some(entry) }
    });
    proto::BriefRequest { entries: entries.collect(), common: common.into_iter().map(|(_, wire)| wire).collect() }
}

/// The call that begins or ends, if its record says all of it.
fn call(reported: &Reported) -> Option<Call<'_>> {
    match reported {
        Reported::Settled { record, lease, unleased } => Some((record, lease, unleased)),
        Reported::Opened { call, lease, reserved, draft: Some(draft), unleased } => {
            ((call, reserved) == (&draft.id, &draft.reserved)).then_some((draft, lease, unleased))
        }
        _ => None,
    }
}

/// A call's figures, with what it has in common with others among `common`; `None` when it is longer than others are.
fn call_to_wire<'a>(call: Call<'a>, common: &mut Vec<(Call<'a>, proto::Common)>) -> Option<proto::CallFigures> {
    let (record, lease, unleased) = call;
    let figures = figures_to_wire(record)?;
    let is_like = |((other, of, beside), _): &(Call<'_>, _)| (lease, unleased) == (*of, *beside) && record.is_like(other);
    let place = match common.iter().rev().take(COMPARED).position(is_like) {
        Some(from_end) => common.len() - 1 - from_end,
        None => {
            let record_json = record_to_json(record);
            if record_json.len() > MAX_COMMON_BYTES {
                return None;
            }
            let lease = lease.as_ref().map_or_else(String::new, |lease| lease.0.clone());
            common.push((call, proto::Common { record_json, lease, unleased: texts(unleased.clone()) }));
            common.len() - 1
        }
    };
    Some(proto::CallFigures { common: u32::try_from(place).ok()?, ..figures })
}

/// The figures of a record; `None` when they do not fit, as those of calls that cost millions do not.
fn figures_to_wire(record: &CallRecord) -> Option<proto::CallFigures> {
    let id = Uuid::try_parse(&record.id.0).ok()?;
    // The text that is made of it must be the same again.
    if record.id.0.as_str() != id.hyphenated().encode_lower(&mut Uuid::encode_buffer()) {
        return None;
    }
    let Figures { started_at_ms, duration_ms, time_to_first_byte_ms, complexity, usage, cost, reserved, bytes, outcome, status } =
        record.figures();
    Some(proto::CallFigures {
        common: 0,
        call: id.into_bytes().to_vec(),
        started_at_ms,
        duration_ms,
        time_to_first_byte_ms,
        usage: meters(&usage),
        cost_pico_usd: u64::try_from(cost.0).ok()?,
        reserved_pico_usd: u64::try_from(reserved.usd.0).ok()?,
        reserved_tokens: reserved.tokens,
        reserved_requests: reserved.requests,
        bytes,
        status: status.into(),
        outcome: outcome_to_wire(outcome).into(),
        complexity: complexity.map(Into::into),
    })
}

/// Meters without the zeros at their end.
fn meters(usage: &Usage) -> Vec<u64> {
    let meters = usage.meters();
    let used = meters.iter().rposition(|meter| *meter > 0).map_or(0, |last| last + 1);
    meters[..used].to_vec()
}

/// Meters of a newer release, which this one could not charge, are an error.
fn usage(meters: &[u64]) -> Result<Usage, Malformed> {
    let mut all = [0; Usage::METERS];
    let too_many = || Malformed::TooLarge { field: "figures.usage", found: meters.len(), limit: Usage::METERS };
    all.get_mut(..meters.len()).ok_or_else(too_many)?.copy_from_slice(meters);
    Ok(Usage::of_meters(all))
}

fn outcome_to_wire(outcome: CallOutcome) -> proto::CallOutcome {
    match outcome {
        CallOutcome::Completed => proto::CallOutcome::Completed,
        CallOutcome::Failed => proto::CallOutcome::Failed,
        CallOutcome::Interrupted => proto::CallOutcome::Interrupted,
        CallOutcome::Unknown => proto::CallOutcome::Unknown,
        CallOutcome::Refused => proto::CallOutcome::Refused,
    }
}

fn outcome(wire: i32) -> Result<CallOutcome, Malformed> {
    Ok(match proto::CallOutcome::try_from(wire) {
        Ok(proto::CallOutcome::Completed) => CallOutcome::Completed,
        Ok(proto::CallOutcome::Failed) => CallOutcome::Failed,
        Ok(proto::CallOutcome::Interrupted) => CallOutcome::Interrupted,
        Ok(proto::CallOutcome::Unknown) => CallOutcome::Unknown,
        Ok(proto::CallOutcome::Refused) => CallOutcome::Refused,
        Err(_) => return Err(Malformed::Unknown { field: "figures.outcome", found: wire.to_string() }),
    })
}

/// The entries of a report, in order. An entry of a kind that this release does not know is left out.
///
/// # Errors
/// The first part that is malformed; nothing of the report is to be applied then.
pub fn brief_from_wire(report: proto::BriefRequest) -> Result<Vec<Reported>, Malformed> {
    for (field, found) in [("entries", report.entries.len()), ("common", report.common.len())] {
        if found > MAX_BRIEF_ENTRIES {
            return Err(Malformed::TooLarge { field, found, limit: MAX_BRIEF_ENTRIES });
        }
    }
    let common = report.common.into_iter().map(common).collect::<Result<Vec<_>, _>>()?;
    let mut copied = 0;
    let mut call = |wire: &proto::CallFigures| record(wire, &common, &mut copied);
    let entry = |entry| match entry {
        brief_entry::Entry::Opened(wire) => Some(call(&wire).map(|(draft, Common { lease, unleased, .. })| Reported::Opened {
            call: draft.id.clone(),
            lease: lease.clone(),
            reserved: draft.reserved,
            draft: Some(Arc::new(draft)),
            unleased: unleased.clone(),
        })),
        brief_entry::Entry::Ended(wire) => Some(call(&wire).map(|(record, Common { lease, unleased, .. })| Reported::Settled {
            record: Arc::new(record),
            lease: lease.clone(),
            unleased: unleased.clone(),
        })),
        brief_entry::Entry::Other(other) => other.entry.map(reported),
    };
    report.entries.into_iter().filter_map(|brief| brief.entry).filter_map(entry).collect()
}

fn common(wire: proto::Common) -> Result<Common, Malformed> {
    const FIELD: &str = "common.record_json";
    let bytes = wire.record_json.len();
    if bytes > MAX_COMMON_BYTES {
        return Err(Malformed::TooLarge { field: FIELD, found: bytes, limit: MAX_COMMON_BYTES });
    }
    let record = serde_json::from_slice(&wire.record_json).map_err(|e| Malformed::Json { field: FIELD, reason: e.to_string() })?;
    Ok(Common { record, lease: optional_lease(wire.lease)?, unleased: limit_keys("common.unleased", wire.unleased)?, bytes })
}

/// The record that has these figures, and what it has in common with others. `copied` is what was copied for calls before it.
fn record<'a>(wire: &proto::CallFigures, common: &'a [Common], copied: &mut usize) -> Result<(CallRecord, &'a Common), Malformed> {
    let out_of_range = |field, limit| Malformed::OutOfRange { field, limit };
    let place = usize::try_from(wire.common).ok().and_then(|place| common.get(place));
    let common = place.ok_or_else(|| out_of_range("figures.common", common.len() as i128 - 1))?;
    *copied += common.bytes;
    if *copied > MAX_COPIED_BYTES {
        return Err(Malformed::TooLarge { field: "common", found: *copied, limit: MAX_COPIED_BYTES });
    }
    let id = Uuid::from_slice(&wire.call).map_err(|_| Malformed::TooLarge { field: "figures.call", found: wire.call.len(), limit: 16 })?;
    let usd = |pico: u64| PicoUsd(pico.into());
    let figures = Figures {
        started_at_ms: wire.started_at_ms,
        duration_ms: wire.duration_ms,
        time_to_first_byte_ms: wire.time_to_first_byte_ms,
        complexity: wire.complexity.map(u8::try_from).transpose().map_err(|_| out_of_range("figures.complexity", u8::MAX.into()))?,
        usage: usage(&wire.usage)?,
        cost: usd(wire.cost_pico_usd),
        reserved: Amount { usd: usd(wire.reserved_pico_usd), tokens: wire.reserved_tokens, requests: wire.reserved_requests },
        bytes: wire.bytes,
        outcome: outcome(wire.outcome)?,
        status: u16::try_from(wire.status).map_err(|_| out_of_range("figures.status", u16::MAX.into()))?,
    };
    Ok((checked(common.record.with(CallId(id.to_string()), &figures))?, common))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;
    use prost::Message;

    use super::*;
    use crate::core::call::{CallKind, Classification};
    use crate::core::dimensions::{Dimension, Dimensions, MAX_VALUE_BYTES};
    use crate::core::policy::{Detector, Protocol, Tier};

    /// Records of a few models, teams and findings, with any figures.
    fn some_record() -> impl Strategy<Value = CallRecord> {
        let figures = (0..1_i64 << 50, 0..1_000_000_i64, proptest::option::of(0..9_000_i64), 0..=i128::from(u64::MAX) * 2, 0_u64..1 << 40);
        let meters = proptest::collection::vec(0_u64..3, Usage::METERS);
        let about = (any::<u128>(), 0..3_usize, 0..5_u8, proptest::option::of((any::<u8>(), any::<bool>())));
        (figures, meters, about, 0..5_i32).prop_map(|(figures, meters, (id, model, team, found), ended)| {
            let dimensions = Dimensions([(Dimension::Team, format!("team-{team}"))].into());
            let kind = CallKind::Model { protocol: Protocol::OpenAIChat };
            let id = CallId(Uuid::from_u128(id).to_string());
            let (started_at_ms, duration_ms, time_to_first_byte_ms, cost, bytes) = figures;
            CallRecord {
                duration_ms,
                time_to_first_byte_ms,
                model: ["a", "b", "c"][model].to_owned(),
                tier: Some(Tier::Economy),
                classification: found.map(|(complexity, is_sensitive)| Classification {
                    complexity,
                    needed_tier: Tier::Standard,
                    sensitive: is_sensitive.then_some(Detector::Email).into_iter().collect::<BTreeSet<_>>(),
                }),
                usage: usage(&meters).unwrap(),
                cost: PicoUsd(cost),
                reserved: Amount { usd: PicoUsd(cost), tokens: 7, requests: 1 },
                bytes,
                outcome: outcome(ended).unwrap(),
                status: 200,
                ..CallRecord::begun(id, crate::core::dimensions::Origin::default(), dimensions, kind, started_at_ms)
            }
        })
    }

    fn some_report() -> impl Strategy<Value = Vec<Reported>> {
        let call = (some_record(), 0..3_u8, any::<bool>(), any::<bool>()).prop_map(|(record, lease, is_warned, has_ended)| {
            let lease = (lease > 0).then(|| LeaseId(format!("l-{lease}")));
            let unleased = is_warned.then(|| LimitKey("a/w/l".into())).into_iter().collect();
            let record = Arc::new(record);
            match has_ended {
                true => Reported::Settled { record, lease, unleased },
                false => Reported::Opened { call: record.id.clone(), lease, reserved: record.reserved, draft: Some(record), unleased },
            }
        });
        let back = (0..9_u64).prop_map(|seq| Reported::GivenBack { lease: LeaseId("l-1".into()), seq, amount: Amount::ZERO });
        proptest::collection::vec(prop_oneof![4 => call, 1 => back], 0..40)
    }

    fn over_the_wire(report: &[Reported]) -> proto::BriefRequest {
        proto::BriefRequest::decode(brief_to_wire(report).encode_to_vec().as_slice()).unwrap()
    }

    proptest! {
        #[test]
        fn a_report_survives_the_wire_in_order(report in some_report()) {
            prop_assert_eq!(brief_from_wire(over_the_wire(&report)).unwrap(), report);
        }

        #[test]
        fn hostile_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..256)) {
            if let Ok(wire) = proto::BriefRequest::decode(bytes.as_slice()) {
                let _ = brief_from_wire(wire);
            }
        }
    }

    fn settled(record: &CallRecord) -> Vec<Reported> {
        vec![Reported::Settled { record: Arc::new(record.clone()), lease: None, unleased: vec![] }]
    }

    fn opened(record: &CallRecord) -> Vec<Reported> {
        let (call, reserved, draft) = (record.id.clone(), record.reserved, Some(Arc::new(record.clone())));
        vec![Reported::Opened { call, lease: None, reserved, draft, unleased: vec![] }]
    }

    fn a_record(number: u128) -> CallRecord {
        let id = CallId(Uuid::from_u128(number).to_string());
        CallRecord::begun(id, crate::core::dimensions::Origin::default(), Dimensions::default(), CallKind::Shared, 5)
    }

    #[test]
    fn calls_that_are_alike_say_so_once() {
        let report: Vec<Reported> = (0..500).flat_map(|number| [opened(&a_record(number)), settled(&a_record(number))]).flatten().collect();
        let wire = over_the_wire(&report);
        assert_eq!((wire.common.len(), wire.entries.len()), (1, 1_000));
        let length = wire.encoded_len();
        assert!(length < 1_000 * 60, "{length} bytes");
    }

    #[test]
    fn what_does_not_fit_is_written_out() {
        let named = CallRecord { id: CallId("call-1".into()), ..a_record(1) };
        let shouted = CallRecord { id: CallId(Uuid::from_u128(u128::MAX).to_string().to_uppercase()), ..a_record(1) };
        let dear = CallRecord { cost: PicoUsd(i128::from(u64::MAX) + 1), ..a_record(1) };
        let other = Reported::Opened { call: CallId("b".into()), lease: None, reserved: Amount::ZERO, draft: None, unleased: vec![] };
        let calls = [named, shouted, dear].into_iter().flat_map(|record| [opened(&record), settled(&record)]);
        for report in calls.chain([vec![other]]) {
            let wire = over_the_wire(&report);
            assert!(matches!(wire.entries[0].entry, Some(brief_entry::Entry::Other(_))), "{report:?}");
            assert_eq!(brief_from_wire(wire).unwrap(), report);
        }
    }

    #[test]
    fn what_cannot_be_is_refused_by_name() {
        let wire = || over_the_wire(&settled(&a_record(1)));
        let end = |change: fn(&mut proto::CallFigures)| {
            let mut wire = wire();
            if let Some(brief_entry::Entry::Ended(end)) = &mut wire.entries[0].entry {
                change(end);
            }
            wire
        };
        let long = "x".repeat(MAX_VALUE_BYTES + 1);
        let dimensions = Dimensions([(Dimension::Team, long)].into());
        let mut large = wire();
        large.common[0].record_json.resize(MAX_COMMON_BYTES + 1, b' ');
        let mut many = wire();
        many.common[0].record_json.resize(MAX_COMMON_BYTES, b' ');
        many.entries = vec![many.entries[0].clone(); MAX_COPIED_BYTES / MAX_COMMON_BYTES + 1];
        let mut none = wire();
        none.common.clear();
        for (wire, field) in [
            (end(|end| end.common = 1), "figures.common"),
            (end(|end| end.call = vec![0; 15]), "figures.call"),
            (end(|end| end.usage = vec![0; 11]), "figures.usage"),
            (end(|end| end.usage = vec![u64::MAX]), "record.usage"),
            (end(|end| end.outcome = 5), "figures.outcome"),
            (end(|end| end.status = 1 << 16), "figures.status"),
            (end(|end| end.complexity = Some(256)), "figures.complexity"),
            (end(|end| end.reserved_tokens = -1), "record.reserved"),
            (over_the_wire(&settled(&CallRecord { dimensions, ..a_record(1) })), "record.dimensions"),
            (large, "common.record_json"),
            (many, "common has 8396800"),
            (none, "figures.common"),
            (proto::BriefRequest { entries: vec![proto::BriefEntry::default(); MAX_BRIEF_ENTRIES + 1], common: vec![] }, "entries"),
            (proto::BriefRequest { common: vec![proto::Common::default(); MAX_BRIEF_ENTRIES + 1], entries: vec![] }, "common"),
        ] {
            let error = brief_from_wire(wire).unwrap_err().to_string();
            assert!(error.starts_with(field), "{field}: {error}");
        }
    }
}
