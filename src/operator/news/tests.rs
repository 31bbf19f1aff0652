use std::sync::Arc;

use proptest::prelude::*;
use serde_json::json;

use super::*;
use crate::api::parse;
use crate::core::amount::Unit;
use crate::core::call::{CallId, CallKind};
use crate::core::dimensions::Dimension;

const QUARTER: PicoUsd = PicoUsd(250_000_000_000);

fn set(enforcement: &str, runaway: bool) -> (ResourceKey, BudgetSet) {
    let limits = json!([{"name": "total", "usd": "1", "period": "Day"}, {"name": "calls", "requests": 9, "period": "Day"}]);
    let mut spec = json!({"scope": {"teams": ["search"]}, "limits": limits, "enforcement": enforcement});
    if runaway {
        spec["runaway"] = json!({"by": "agent", "action": "Throttle"});
    }
    let spec = serde_json::from_value(spec).expect("a spec");
    let budget = parse::budget(ResourceKey::new("shop", "b"), &spec).expect("a budget");
    (budget.key.clone(), BudgetSet::compile(vec![budget]).expect("a set"))
}

fn dimensions(team: &str, agent: &str) -> Dimensions {
    [(Dimension::Team, team), (Dimension::Agent, agent)].map(|(d, v)| (d, v.to_owned())).into()
}

fn settled(outcome: &str, team: &str, unleased: &[&str]) -> Reported {
    let outcome = serde_json::from_value(json!(outcome)).expect("an outcome");
    let begun = CallRecord::begun(CallId("c".into()), Origin::default(), dimensions(team, "a"), CallKind::Shared, 0);
    let unleased = unleased.iter().map(|key| LimitKey((*key).to_owned())).collect();
    Reported::Settled { record: Arc::new(CallRecord { cost: QUARTER, outcome, ..begun }), lease: None, unleased }
}

fn heard(set: &BudgetSet, entries: &[Reported]) -> News {
    News::of_report(set, &Origin::default(), entries, |_| ())
}

#[test]
fn a_call_without_a_lease_tells_of_an_outage_where_the_budget_asks_for_one() {
    let both = ["shop/b/total", "shop/b/calls"];
    let after = |enforcement: &str, entries: &[Reported]| {
        let (key, set) = set(enforcement, false);
        heard(&set, entries).outages.remove(&key)
    };
    let ended = |outcome: &str| settled(outcome, "search", &both);
    let outage = after("Block", &[ended("completed"), ended("failed"), ended("interrupted")]);
    assert_eq!(outage, Some(Unkept { let_through: 2, charged: QUARTER + QUARTER + QUARTER, refused: false }));
    assert_eq!(after("Fit", &[ended("refused")]), Some(Unkept { refused: true, ..Unkept::default() }));
    assert_eq!(after("Warn", &[ended("completed")]), None, "what only warns never has a lease");
    let elsewhere = [settled("completed", "search", &[]), settled("completed", "search", &["shop/other/total"])];
    assert_eq!(after("Block", &elsewhere), None);
}

#[test]
fn what_was_spent_and_brought_is_summed_by_whom_the_budget_watches() {
    let (key, budgets) = set("Block", true);
    let outcome = Reported::Outcome { id: "o".into(), outcome: "resolved".into(), count: 3, dimensions: dimensions("any", "a") };
    // The budget counts no other team's calls, and a failed one cost nothing.
    let calls = [settled("completed", "search", &[]), settled("completed", "ads", &[]), settled("failed", "search", &[])];
    let mut seen = 0;
    let entries: Vec<Reported> = calls.into_iter().chain([settled("interrupted", "search", &[]), outcome]).collect();
    let news = News::of_report(&budgets, &Origin::default(), &entries, |_| seen += 1);
    let spent = Spent { amount: 2 * QUARTER.0, dearest: QUARTER.0, outcomes: 3 };
    assert_eq!(news.spent[&key].by_value, BTreeMap::from([("a".to_owned(), spent)]));
    assert_eq!(seen, 4);
    assert!(heard(&set("Block", false).1, &entries).is_empty(), "nobody is watched");
}

#[test]
fn a_refusal_is_remembered_for_as_long_as_there_is_no_room_for_it() {
    let mut known = News::default();
    let mut noted = |left: i128, needed: i128, idle: i128| {
        let shortfall = Shortfall { key: LimitKey("a/b/c".into()), unit: Unit::Usd, left, idle, resets_at_ms: None };
        known.add(News::of_refusal(&[shortfall], Amount { usd: PicoUsd(needed), ..Amount::ZERO }));
        (known.refused.values().map(|r| (r.count, r.smallest)).collect::<Vec<_>>(), known.scarce().len())
    };
    assert_eq!([noted(3, 10, 0), noted(3, 5, 1), noted(3, 8, 0)], [(vec![(1, 10)], 0), (vec![(2, 5)], 1), (vec![(3, 5)], 1)]);
    assert_eq!(noted(6, 9, 0).0, [(4, 9)], "there is room for 5 now, and yet a call is refused");
}

#[test]
fn a_changed_rule_begins_anew() {
    let (key, budgets) = set("Block", true);
    let mut known = heard(&budgets, &[settled("completed", "search", &[])]);
    let mut later = known.clone();
    later.spent.values_mut().for_each(|watched| watched.rule.factor = 20);
    known.add(later.clone());
    assert_eq!(known.spent[&key], later.spent[&key]);
}

proptest! {
    /// However reports are cut into notes, the sums are the same.
    #[test]
    fn news_in_parts_are_the_news_as_a_whole(calls in prop::collection::vec((0..4usize, any::<bool>(), any::<bool>()), 0..20), cut in 0..20usize) {
        let (_, set) = set("Block", true);
        let entries: Vec<Reported> = calls
            .iter()
            .map(|(outcome, search, unleased)| {
                let outcome = ["completed", "failed", "interrupted", "refused"][*outcome];
                let limits: &[&str] = if *unleased { &["shop/b/total"] } else { &[] };
                settled(outcome, if *search { "search" } else { "ads" }, limits)
            })
            .collect();
        let (first, second) = entries.split_at(cut.min(entries.len()));
        let mut parts = heard(&set, first);
        parts.add(heard(&set, second));
        let whole = heard(&set, &entries);
        prop_assert_eq!(&parts, &whole);
        let text = serde_json::to_string(&whole).expect("JSON");
        prop_assert_eq!(serde_json::from_str::<News>(&text).expect("news"), whole, "{}", text);
    }
}
