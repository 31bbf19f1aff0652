//! AIBudget: where each limit stands.

mod memory;
mod past;
#[cfg(test)]
mod tests;

use super::{ReconcileError, Round, created_ms, key};
use crate::api::budget::{AIBudget, AIBudgetStatus, BudgetGrant, GrantStatus, LimitStatus};
use crate::api::common::{Condition, condition};
use crate::api::parse::{self, ParseError};
use crate::core::amount::Unit;
use crate::core::budget::BudgetSet;
use crate::core::forecast::{percent, shown, shown_time};
use crate::core::history::{Reading, block};
use crate::core::limit::{LimitKey, LimitTerms, Span};
use crate::core::money::PicoUsd;
use crate::core::policy::{Budget, Enforcement, Limit, Window};
use crate::core::recommend::rfc3339;
use crate::core::runaway::{Basis, Drought, RunawayAction, Running};
use crate::core::window::from_rfc3339;
use crate::operator::conditions::{Finding, Transition, conditions};
use crate::operator::metrics::Metrics;
use crate::operator::news::Unkept;
use crate::operator::outages::{Fault, Outage};
use crate::operator::selection;
pub use memory::Memory;
use memory::{Found, View};
pub use past::Past;

/// Values of a split budget that a status lists.
const MAX_LISTED: usize = 50;
/// Alerts, or runaways, that a condition's message names.
const MAX_NAMED: usize = 20;

/// What a status is decided from.
struct Inputs<'a> {
    budget: &'a AIBudget,
    parsed: Result<&'a Budget, String>,
    limits: Vec<View>,
    /// Who runs away, where the budget asks for it.
    running: Vec<Running>,
    /// What was done without the ledger lately.
    outage: Option<Outage>,
    /// What is wrong with the ledger.
    fault: Option<Fault>,
    selected_pods: usize,
    now_ms: i64,
}

impl Round<'_> {
    /// Reconciles one budget; when its status is held back for now, until when.
    pub(super) async fn budget(&self, budget: &AIBudget, memory: &mut Memory, metrics: &Metrics) -> Result<Option<i64>, ReconcileError> {
        let key = key(budget);
        let parsed = parse::budget(key.clone(), &budget.spec).map_err(|e: ParseError| e.to_string());
        let compiled = parsed.clone().and_then(|b| BudgetSet::compile(vec![b]).map_err(|e| e.to_string()));
        let terms = compiled.as_ref().map(|set| set.limits_of(&key, self.now_ms)).unwrap_or_default();
        let found = match &parsed {
            Ok(parsed) => match self.found(budget, parsed, &terms).await {
                Err(ReconcileError::Ledger(error)) => {
                    self.context.outages.failed(&error, self.now_ms);
                    let Some(fault) = self.context.outages.fault(self.now_ms) else { return Err(error.into()) };
                    let (status, news) = unread(budget, fault, self.now_ms);
                    return self.publisher.status(budget, budget.status.as_ref(), &status, &news).await.map(|()| None);
                }
                found => found?,
            },
            Err(_) => Vec::new(),
        };
        let workloads = budget.spec.scope.workloads.as_ref();
        let selected = |pod: &&selection::PodFacts| {
            !pod.ended && selection::selects(workloads, key.namespace(), &self.context.namespace, pod, &self.snapshot.namespaces)
        };
        let in_force = parsed.as_ref().map_err(Clone::clone).and_then(|b| compiled.map(|_| b));
        let mut remembered = memory.take(&key);
        let inputs = Inputs {
            budget,
            parsed: in_force,
            limits: remembered.look(found, &budget.spec.alerts, said(budget, condition::ALERTING), self.now_ms),
            running: self.context.runaways.running(&key),
            outage: self.context.outages.of(&key, self.now_ms),
            fault: self.context.outages.fault(self.now_ms),
            selected_pods: self.snapshot.pods.iter().filter(selected).count(),
            now_ms: self.now_ms,
        };
        let (status, news) = decide(&inputs);
        metrics.budget(&key, &status.conditions, inputs.limits.iter().map(gauges));
        let due = remembered.is_due(budget.status.as_ref(), &status, !news.is_empty(), self.now_ms);
        memory.put_back(key, remembered);
        match due {
            Ok(()) => self.publisher.status(budget, budget.status.as_ref(), &status, &news).await.map(|()| None),
            Err(until_ms) => Ok(Some(until_ms)),
        }
    }

    /// Every limit as it stands, and what its history is read from.
    async fn found(&self, budget: &AIBudget, parsed: &Budget, terms: &[LimitTerms]) -> Result<Vec<Found>, ReconcileError> {
        let balances = self.context.ledger.balances(terms, self.now_ms).await?;
        let rolling: Vec<LimitTerms> = terms.iter().filter(|t| matches!(t.span, Span::Rolling { .. })).map(|t| self.block_of(t)).collect();
        let blocks = if rolling.is_empty() { Vec::new() } else { self.context.ledger.balances(&rolling, self.now_ms).await? };
        let found = balances.into_iter().filter_map(|balance| {
            let limit = limit_of(parsed, &balance.key)?;
            let start_ms = terms.iter().find(|t| t.key.name() == limit.name).map(|t| block(t.span, self.now_ms).0)?;
            let settled = blocks.iter().find(|b| b.key == balance.key).map_or(balance.settled, |b| b.settled);
            Some(Found {
                refusal: self.context.refusals.of(&balance.key),
                window: limit.window.clone(),
                since_ms: balance.window_start_ms.max(created_ms(budget)),
                reading: Reading { window_start_ms: start_ms, settled, at_ms: self.now_ms },
                balance,
            })
        });
        Ok(found.collect())
    }

    fn block_of(&self, terms: &LimitTerms) -> LimitTerms {
        LimitTerms { span: block(terms.span, self.now_ms).1, ..terms.clone() }
    }
}

fn limit_of<'a>(budget: &'a Budget, key: &LimitKey) -> Option<&'a Limit> {
    budget.limits.iter().find(|l| l.name == key.name())
}

/// The message of a condition that holds.
fn said<'a>(budget: &'a AIBudget, type_: &str) -> &'a str {
    let conditions: &[Condition] = budget.status.as_ref().map_or(&[], |status| &status.conditions);
    conditions.iter().find(|c| c.type_ == type_ && c.status == "True").map_or("", |c| c.message.as_str())
}

fn decide(inputs: &Inputs<'_>) -> (AIBudgetStatus, Vec<Transition>) {
    let before = inputs.budget.status.clone().unwrap_or_default();
    let generation = inputs.budget.metadata.generation;
    let mut limits = Vec::new();
    let mut findings = vec![ready(&inputs.parsed, inputs.budget.spec.enforcement)];
    let mut joined = Vec::new();
    if let Ok(budget) = inputs.parsed {
        limits = inputs.limits.iter().filter_map(|view| limit_status(inputs, budget, view)).collect();
        limits.sort_by(|a, b| b.percent_spent.cmp(&a.percent_spent).then_with(|| (&a.name, &a.split).cmp(&(&b.name, &b.split))));
        limits.truncate(MAX_LISTED);
        findings.push(exhausted(&inputs.limits));
        findings.push(ledger_available(inputs.outage, inputs.fault.as_ref()));
        let crossed: Vec<String> = inputs.limits.iter().flat_map(|view| view.crossed.clone()).collect();
        joined.extend(news_of(said(inputs.budget, condition::ALERTING), "ThresholdCrossed", &crossed));
        findings.push(alarm(condition::ALERTING, ("ThresholdCrossed", &crossed), ("BelowThresholds", "No alert's threshold is crossed.")));
        if budget.runaway.is_some() {
            let running: Vec<String> = inputs.running.iter().map(|running| runaway_in_words(budget, running)).collect();
            joined.extend(news_of(said(inputs.budget, condition::RUNAWAY), "RunningAway", &running));
            findings.push(alarm(condition::RUNAWAY, ("RunningAway", &running), ("Calm", "Nobody spends much more than usual.")));
        }
    }
    let (conditions, mut news) = conditions(&before.conditions, &findings, generation, inputs.now_ms);
    news.extend(joined);
    let status = AIBudgetStatus {
        observed_generation: generation,
        conditions,
        tightest: limits.first().cloned(),
        limits,
        selected_pods: i64::try_from(inputs.selected_pods).unwrap_or(i64::MAX),
        recommendations: before.recommendations,
    };
    (status, news)
}

fn ready(parsed: &Result<&Budget, String>, enforcement: Enforcement) -> Finding {
    let (holds, reason, message) = match parsed {
        Ok(_) if enforcement == Enforcement::Warn => (true, "InForce", "Matching calls are counted, and never refused.".to_owned()),
        Ok(_) => (true, "InForce", "Every matching call must fit this budget before it is made.".to_owned()),
        Err(problems) => (false, "Invalid", format!("Not in force: {problems}")),
    };
    Finding { type_: condition::READY, holds, reason, message, is_alarm: false }
}

/// A limit is exhausted while it has less left than a call that it refused in this window needed.
fn exhausted(limits: &[View]) -> Finding {
    let (holds, reason, message) = match limits.iter().find(|view| view.is_exhausted) {
        Some(View { balance: b, .. }) => {
            let until = b.window_end_ms.map(|end| format!("; it is whole again at {}", rfc3339(end))).unwrap_or_default();
            let message = format!(
                "Limit {} refuses calls: {} of {} is left{until}. Raise the limit, add a grant, or lower what calls may cost (max tokens).",
                b.key,
                amount(b.unit, b.left()),
                amount(b.unit, b.limit)
            );
            (true, "LimitReached", message)
        }
        None => (false, "Within", "Every limit has room for the calls that are made.".to_owned()),
    };
    Finding { type_: condition::EXHAUSTED, holds, reason, message, is_alarm: true }
}

/// The status of a budget whose standing cannot be read: as it was, and why it says nothing new.
fn unread(budget: &AIBudget, fault: Fault, now_ms: i64) -> (AIBudgetStatus, Vec<Transition>) {
    let before = budget.status.clone().unwrap_or_default();
    let (found, news) = conditions(&before.conditions, &[ledger_available(None, Some(&fault))], before.observed_generation, now_ms);
    let others = before.conditions.iter().filter(|c| c.type_ != condition::LEDGER_AVAILABLE).cloned();
    (AIBudgetStatus { conditions: others.chain(found).collect(), ..before }, news)
}

/// Whether the budget is kept by the ledger, and was of late.
fn ledger_available(outage: Option<Outage>, fault: Option<&Fault>) -> Finding {
    if let Some(Fault { reason, message, .. }) = fault {
        let message =
            format!("{message}. Until it works again sidecars spend what they have leased, and then do what onLedgerUnavailable says.");
        return Finding { type_: condition::LEDGER_AVAILABLE, holds: false, reason, message, is_alarm: false };
    }
    let (holds, reason, message) = match outage {
        None => (true, "Reachable", "Sidecars reach the ledger.".to_owned()),
        Some(Outage { unkept: Unkept { let_through: 0, .. }, .. }) => {
            let message = "A sidecar could not reach the ledger when its lease was used up, and refused calls (onLedgerUnavailable: FailClosed). \
                 Look whether the operator runs and whether the pod's network reaches it.";
            (false, "CallsRefused", message.to_owned())
        }
        Some(Outage { unkept: Unkept { let_through, charged, refused }, .. }) => {
            let others = if refused { ", and refused others" } else { "" };
            let message = format!(
                "A sidecar could not reach the ledger when its lease was used up, and let {let_through} calls through \
                 (onLedgerUnavailable: FailOpen){others}; they were charged {charged} afterwards. Look whether the operator runs and whether \
                 the pod's network reaches it."
            );
            (false, "CallsLetThrough", message)
        }
    };
    Finding { type_: condition::LEDGER_AVAILABLE, holds, reason, message, is_alarm: false }
}

/// A condition that holds for as long as there is a sentence to say.
fn alarm(type_: &'static str, (reason, sentences): (&'static str, &[String]), (calm, all_well): (&'static str, &str)) -> Finding {
    let holds = !sentences.is_empty();
    let message = if holds { in_one(sentences) } else { all_well.to_owned() };
    Finding { type_, holds, reason: if holds { reason } else { calm }, message, is_alarm: true }
}

fn in_one(sentences: &[String]) -> String {
    let named = sentences.iter().take(MAX_NAMED).map(String::as_str).collect::<Vec<_>>().join(" ");
    match sentences.len().saturating_sub(MAX_NAMED) {
        0 => named,
        more => format!("{named} And {more} more."),
    }
}

/// What has joined a condition that held already: its change would be an Event, and so is this. Of what its message had no room for,
/// nothing is said.
fn news_of(said: &str, reason: &'static str, sentences: &[String]) -> Option<Transition> {
    let named = sentences.iter().take(MAX_NAMED);
    let new: Vec<&str> = named.map(String::as_str).filter(|sentence| !said.contains(sentence)).collect();
    (!said.is_empty() && !new.is_empty()).then(|| Transition { reason, message: new.join(" "), warning: true })
}

fn runaway_in_words(budget: &Budget, running: &Running) -> String {
    let unit = budget.limits.first().map_or(Unit::Usd, |limit| limit.unit);
    let (by, action) = budget.runaway.map_or(("value", RunawayAction::Warn), |rule| (rule.by.name(), rule.action));
    let usual = match running.basis {
        Basis::Past => "its own usual rate",
        Basis::Peers => "what is usual among its peers",
        Basis::Limit => "what somebody unknown may spend of the limit",
    };
    let held = match action {
        RunawayAction::Warn => String::new(),
        RunawayAction::Throttle => format!(" It is held to {} a minute until it is calm.", amount(unit, running.allowance)),
    };
    if let Some(Drought { spent, usual }) = running.drought {
        let (spent, than) = (amount(unit, spent), amount(unit, usual));
        return format!("The {by} {:?} has spent {spent} since its last outcome, and one usually takes {than}.{held}", running.value);
    }
    let (spent, than) = (amount(unit, running.per_minute), amount(unit, running.usual));
    format!("The {by} {:?} spent {spent} within a minute, and {usual} is {than}.{held}", running.value)
}

/// What metrics say of a limit: its key, and percentages of spent, forecast and burning.
fn gauges(view: &View) -> (&LimitKey, i64, Option<i64>, Option<[i64; 2]>) {
    let limit = view.balance.limit;
    (&view.balance.key, percent(view.balance.settled, limit), view.forecast.map(|f| percent(f.expected, limit)), view.burn)
}

fn limit_status(inputs: &Inputs<'_>, budget: &Budget, view: &View) -> Option<LimitStatus> {
    let View { balance, forecast, exhausted_at_ms, .. } = view;
    let limit = limit_of(budget, &balance.key)?;
    let in_unit = |n: i128| amount(balance.unit, n);
    // What is shown of a forecast is never less than what is spent already.
    let foretold = |n: i128| in_unit(shown(n).max(balance.settled));
    let has_start = balance.window_start_ms > 0 && !matches!(limit.window, Window::Rolling { .. });
    let interval = forecast.and_then(|f| f.interval);
    Some(LimitStatus {
        name: limit.name.clone(),
        split: balance.key.split().map(str::to_owned),
        window: limit.window.to_string(),
        unit: match balance.unit {
            Unit::Usd => "USD",
            Unit::Tokens => "tokens",
            Unit::Requests => "requests",
        }
        .to_owned(),
        window_start: has_start.then(|| rfc3339(balance.window_start_ms)),
        window_end: balance.window_end_ms.map(rfc3339),
        limit: in_unit(balance.limit),
        spent: in_unit(balance.settled),
        reserved: in_unit(balance.outstanding),
        remaining: in_unit(balance.left()),
        percent_spent: percent(balance.settled, balance.limit),
        forecast: forecast.map(|f| foretold(f.expected)),
        forecast_low: interval.map(|(low, _)| foretold(low)),
        forecast_high: interval.map(|(_, high)| foretold(high)),
        exhausted_at: exhausted_at_ms.map(|at| rfc3339(shown_time(at, inputs.now_ms))),
        grants: inputs.budget.spec.grants.iter().filter(|g| g.limit == limit.name).filter_map(|g| in_force(g, inputs.now_ms)).collect(),
    })
}

/// A grant, while it is in force.
fn in_force(grant: &BudgetGrant, now_ms: i64) -> Option<GrantStatus> {
    let (from_ms, until_ms) = (from_rfc3339(&grant.from)?, from_rfc3339(&grant.until)?);
    let amount = match (grant.usd, grant.tokens, grant.requests) {
        (Some(usd), ..) => usd.to_string(),
        (_, Some(n), _) | (.., Some(n)) => n.to_string(),
        (None, None, None) => return None,
    };
    let status = GrantStatus { amount, until: rfc3339(until_ms), reason: grant.reason.clone(), approved_by: grant.approved_by.clone() };
    (from_ms <= now_ms && now_ms < until_ms).then_some(status)
}

fn amount(unit: Unit, n: i128) -> String {
    match unit {
        Unit::Usd => PicoUsd(n).to_string(),
        Unit::Tokens | Unit::Requests => n.to_string(),
    }
}
