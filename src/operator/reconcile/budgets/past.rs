//! What each limit cost before this operator led, from the ledger's sums by hour, so that forecasts and burn rates do not begin anew with
//! each leader.
//!
//! Sums know of a call all that a budget's scope and `match` look at, except the labels of its pod: a budget that selects pods by label
//! counts the calls of the workloads whose pods it selects now. A budget's past begins when it was made.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::time::Duration;

use tokio::time::Instant;

use super::super::created_ms;
use super::memory::MAX_LIMITS;
use crate::api::parse;
use crate::core::budget::BudgetSet;
use crate::core::cel::CallFacts;
use crate::core::history::{DAY_HOURS, HOUR_MS, History, WEEK_HOURS};
use crate::core::limit::LimitKey;
use crate::core::policy::{Budget, ResourceKey};
use crate::ledger::query::{CallQuery, CallTotals};
use crate::ledger::{Ledger, LedgerError};
use crate::operator::index::Snapshot;
use crate::operator::selection::{Selected, key_of};

/// Hours that a history keeps, beside the one under way.
const HOURS: i64 = 4 * WEEK_HOURS + DAY_HOURS;
/// Statuses do not wait for longer; what was read by then is the past.
const PATIENCE: Duration = Duration::from_secs(20);

/// Sums by hour of every limit.
#[derive(Default)]
pub struct Past {
    budgets: Vec<Counted>,
    /// The oldest hour in which there was a call: of what was before, nothing is known.
    since_ms: Option<i64>,
    /// Starts of hours, and their sums in the limit's unit.
    limits: HashMap<LimitKey, BTreeMap<i64, i128>>,
}

/// A budget, and which calls it counts.
struct Counted {
    key: ResourceKey,
    /// The first hour of which it has seen all.
    first_ms: i64,
    selected: Selected,
    set: BudgetSet,
}

impl Past {
    /// Reads the ledger. What it does not tell is left out: forecasts are straight lines then, as for a new budget.
    pub async fn read(ledger: &dyn Ledger, snapshot: &Snapshot, operator_namespace: &str, now_ms: i64) -> Past {
        let began = Instant::now();
        let mut past = Past::of(snapshot, operator_namespace);
        let hour = now_ms.div_euclid(HOUR_MS);
        let earliest = past.budgets.iter().map(|budget| budget.first_ms).min().unwrap_or(i64::MAX).div_euclid(HOUR_MS);
        // The newest matter most; the one under way comes last, since it goes on while others are read.
        let hours = (earliest.max(hour - HOURS)..hour).rev().chain([hour]).filter(|hour| *hour >= earliest);
        let read = async {
            for hour in hours {
                let (from_ms, to_ms) = (hour * HOUR_MS, (hour + 1) * HOUR_MS);
                past.add(from_ms, &ledger.totals(&CallQuery { from_ms, to_ms, route: None }).await?);
            }
            Ok::<(), LedgerError>(())
        };
        match tokio::time::timeout(PATIENCE, read).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::warn!(%error, "what limits cost before cannot be read; forecasts begin with what was"),
            Err(_) => tracing::warn!("what limits cost before takes too long to read; forecasts begin with what was"),
        }
        tracing::info!(limits = past.limits.len(), took_ms = began.elapsed().as_millis(), "the past of limits is known");
        past
    }

    /// With nothing read yet.
    fn of(snapshot: &Snapshot, operator_namespace: &str) -> Past {
        let budgets = snapshot.budgets.iter().filter_map(|budget| {
            let key = key_of(budget.as_ref());
            let parsed = parse::budget(key.clone(), &budget.spec).ok()?;
            let workloads = budget.spec.scope.workloads.as_ref();
            Some(Counted {
                first_ms: created_ms(budget.as_ref()).saturating_add(HOUR_MS - 1).div_euclid(HOUR_MS) * HOUR_MS,
                selected: Selected::of(workloads, key.namespace(), operator_namespace, snapshot),
                set: BudgetSet::compile(vec![parsed]).ok()?,
                key,
            })
        });
        Past { budgets: budgets.collect(), ..Past::default() }
    }

    /// Adds the sums of an hour.
    fn add(&mut self, hour_ms: i64, sums: &[CallTotals]) {
        if !sums.is_empty() {
            self.since_ms = Some(self.since_ms.map_or(hour_ms, |since| since.min(hour_ms)));
        }
        // No budget counts calls of shared services.
        for totals in sums.iter().filter(|totals| totals.outcome.is_charged() && !totals.shared) {
            let CallTotals { origin, dimensions, model, backend, tier, .. } = totals;
            let facts = CallFacts { origin, dimensions, model, backend, tier: *tier };
            let amount = totals.amount();
            for counted in self.budgets.iter().filter(|b| b.first_ms <= hour_ms && b.selected.includes(&origin.namespace, &origin.workload))
            {
                let limits = counted.set.applicable(&facts);
                for key in limits.leased.into_iter().chain(limits.warned) {
                    let Some(unit) = counted.set.iter().find_map(|budget| unit_of(budget, &key)) else { continue };
                    if self.limits.len() < MAX_LIMITS || self.limits.contains_key(&key) {
                        *self.limits.entry(key).or_default().entry(hour_ms).or_default() += amount.in_unit(unit);
                    }
                }
            }
        }
    }

    /// The history of every limit, by budget.
    pub fn histories(mut self) -> HashMap<ResourceKey, HashMap<LimitKey, History>> {
        let Some(since_ms) = self.since_ms else { return HashMap::new() };
        let mut by_budget: HashMap<ResourceKey, HashMap<LimitKey, History>> = HashMap::new();
        for counted in self.budgets {
            let since_ms = since_ms.max(counted.first_ms);
            let keys: BTreeSet<LimitKey> = self.limits.keys().filter(|key| key.budget() == counted.key).cloned().collect();
            let history = |key| self.limits.remove(&key).map(|hours| (key, History::from_hours(since_ms, hours)));
            by_budget.insert(counted.key, keys.into_iter().filter_map(history).collect());
        }
        by_budget
    }
}

fn unit_of(budget: &Budget, key: &LimitKey) -> Option<crate::core::amount::Unit> {
    budget.limits.iter().find(|limit| limit.name == key.name()).map(|limit| limit.unit)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
    use k8s_openapi::jiff::Timestamp;
    use serde_json::json;

    use super::super::memory::{Found, Memory};
    use super::*;
    use crate::api::budget::AIBudget;
    use crate::core::amount::Unit;
    use crate::core::call::{CallId, CallKind, CallOutcome, CallRecord};
    use crate::core::dimensions::{Dimension, Dimensions, Origin};
    use crate::core::history::Reading;
    use crate::core::money::PicoUsd;
    use crate::core::policy::{CalendarPeriod, Protocol, Window};
    use crate::ledger::query::LimitBalance;
    use crate::ledger::sqlite::SqliteLedger;
    use crate::ledger::{Entry, HolderId};
    use crate::operator::index::NamespaceFacts;
    use crate::operator::selection::PodFacts;

    const DOLLAR: i128 = PicoUsd::from_usd(1).0;

    fn budget(name: &str, created_hour: i64, spec: serde_json::Value) -> Arc<AIBudget> {
        let mut spec = spec;
        spec["limits"] = json!([{"name": "usd", "usd": "100", "period": "Month"}, {"name": "calls", "requests": 9_000, "period": "Day"}]);
        let mut budget = AIBudget::new(name, serde_json::from_value(spec).expect("a spec"));
        budget.metadata.namespace = Some("shop".into());
        let created = Timestamp::from_millisecond(created_hour * HOUR_MS - 1_000).expect("a time");
        budget.metadata.creation_timestamp = Some(Time(created));
        Arc::new(budget)
    }

    fn origin(namespace: &str, workload: &str) -> Origin {
        Origin { namespace: namespace.into(), workload: workload.into(), ..Origin::default() }
    }

    fn call(id: usize, origin: Origin, team: &str, outcome: CallOutcome) -> Entry {
        let dimensions = Dimensions::from([(Dimension::Team, team.to_owned())]);
        let kind = CallKind::Model { protocol: Protocol::OpenAIChat };
        let begun = CallRecord::begun(CallId(format!("c{id}").into()), origin, dimensions, kind, 0);
        let record = CallRecord { cost: PicoUsd(DOLLAR), outcome, ..begun };
        Entry::Settled { record: Arc::new(record), lease: None, unleased: vec![] }
    }

    fn snapshot(budgets: Vec<Arc<AIBudget>>) -> Snapshot {
        let pod = PodFacts {
            origin: origin("shop", "Deployment/bot"),
            labels: [("app".to_owned(), "bot".to_owned())].into(),
            ..PodFacts::default()
        };
        let namespaces = ["shop", "other"].map(|name| NamespaceFacts { name: name.into(), ..NamespaceFacts::default() });
        Snapshot { budgets, pods: vec![pod], namespaces: namespaces.into(), ..Snapshot::default() }
    }

    #[tokio::test]
    async fn the_past_of_each_limit_is_what_the_ledger_has_of_the_calls_that_it_counts() {
        let directory = tempfile::tempdir().expect("a directory");
        let ledger = SqliteLedger::open(&directory.path().join("ledger.db")).expect("a ledger");
        let first = 500_000;
        let calls = [
            (first, call(0, origin("shop", "Deployment/bot"), "search", CallOutcome::Completed)),
            (first, call(1, origin("shop", "Deployment/web"), "ads", CallOutcome::Unknown)),
            (first + 1, call(2, origin("other", "Deployment/bot"), "search", CallOutcome::Completed)),
            (first + 1, call(3, origin("shop", "Deployment/bot"), "search", CallOutcome::Failed)),
            (first + 3, call(4, origin("shop", "Deployment/bot"), "search", CallOutcome::Completed)),
        ];
        for (hour, entry) in calls {
            ledger.report(&HolderId("pod".into()), vec![entry], hour * HOUR_MS + 7).await.expect("reported");
        }
        let labels = json!({"scope": {"workloads": {"pods": {"matchLabels": {"app": "bot"}}}}});
        let snapshot = snapshot(vec![
            budget("all", 0, json!({})),
            budget("new", first + 3, json!({})),
            budget("of-bot", 0, labels),
            budget("matched", 0, json!({"scope": {"match": "call.team == 'ads'"}, "enforcement": "Warn"})),
            budget("split", 0, json!({"splitBy": "team"})),
        ]);
        let now_ms = (first + 4) * HOUR_MS + 9;
        let histories = Past::read(&ledger, &snapshot, "system", now_ms).await.histories();
        let hours = |budget: &str, limit: &str| {
            let key = LimitKey(format!("shop/{budget}/{limit}"));
            let history = histories.get(&key.budget()).and_then(|limits| limits.get(&key));
            history.map(|history| history.whole_hours(now_ms).map(|(hour, sum)| (hour - first, sum)).collect::<Vec<_>>())
        };
        assert_eq!(hours("all", "calls"), Some(vec![(0, 2), (1, 0), (2, 0), (3, 1)]), "nothing is known of what was before the first call");
        assert_eq!(hours("all", "usd"), Some(vec![(0, 2 * DOLLAR), (1, 0), (2, 0), (3, DOLLAR)]));
        assert_eq!(hours("new", "calls"), Some(vec![(3, 1)]), "nor of what was before the budget");
        assert_eq!(hours("of-bot", "calls"), Some(vec![(0, 1), (1, 0), (2, 0), (3, 1)]));
        assert_eq!(hours("matched", "calls"), Some(vec![(0, 1), (1, 0), (2, 0), (3, 0)]));
        assert_eq!(hours("split", "calls=ads"), Some(vec![(0, 1), (1, 0), (2, 0), (3, 0)]));
        assert_eq!(hours("split", "calls"), None);
    }

    #[tokio::test]
    async fn whoever_leads_next_forecasts_by_the_hour_of_the_week_at_once() {
        let (now_ms, key) = (600_000 * HOUR_MS, ResourceKey::new("shop", "b"));
        let limit = LimitKey::new(&key, "usd");
        let found = || Found {
            balance: LimitBalance {
                key: limit.clone(),
                unit: Unit::Usd,
                limit: 100 * DOLLAR,
                settled: 5 * DOLLAR,
                outstanding: 0,
                reserved: 0,
                window_start_ms: now_ms - 5 * HOUR_MS,
                window_end_ms: Some(now_ms + 19 * HOUR_MS),
            },
            window: Window::Calendar { period: CalendarPeriod::Day, time_zone: "UTC".into() },
            refusal: None,
            since_ms: now_ms - 5 * HOUR_MS,
            reading: Reading { window_start_ms: now_ms - 5 * HOUR_MS, settled: 5 * DOLLAR, at_ms: now_ms },
        };
        let forecast = |mut memory: Memory| memory.take(&key).look(vec![found()], &[], "", now_ms)[0].forecast.expect("a forecast");
        let directory = tempfile::tempdir().expect("a directory");
        let ledger = SqliteLedger::open(&directory.path().join("ledger.db")).expect("a ledger");
        // A dollar in every second hour.
        for hours_ago in (2..=3 * WEEK_HOURS).rev().step_by(2) {
            let id = usize::try_from(hours_ago).expect("a few");
            let entry = call(id, origin("shop", "Deployment/bot"), "search", CallOutcome::Completed);
            ledger.report(&HolderId("pod".into()), vec![entry], now_ms - hours_ago * HOUR_MS).await.expect("reported");
        }
        let past = Past::read(&ledger, &snapshot(vec![budget("b", 0, json!({}))]), "system", now_ms).await;
        let (with_past, without) = (forecast(Memory::after(past)), forecast(Memory::default()));
        assert_eq!((with_past.interval.is_some(), without.interval), (true, None));
        assert!(with_past.expected < 18 * DOLLAR && without.expected == 24 * DOLLAR, "{with_past:?} {without:?}");
    }
}
