//! What the rounds remember of budgets from one to the next: each limit's history, which alerts are on, and when a status was written.
//!
//! In memory and bounded. Whoever leads next begins with what the ledger has summed by hour ([`Past`]), and an alert that the status says
//! is on stays on until it has been over for its while.

use std::collections::HashMap;

use super::past::Past;
use crate::api::budget::{AIBudgetStatus, BudgetAlert};
use crate::core::burn::{self, Latch, Level, burn_rate};
use crate::core::forecast::{Forecast, Outlook, Pace, percent};
use crate::core::history::{HOUR_MS, History, Reading, Sampled};
use crate::core::limit::LimitKey;
use crate::core::policy::{ResourceKey, Window};
use crate::ledger::query::LimitBalance;
use crate::operator::context::Refusal;

/// Limits whose past is remembered, at 12 KiB each at most; of those beyond, only the present is known.
pub(super) const MAX_LIMITS: usize = 10_000;
/// A status whose figures alone have changed is written no sooner than this after the last time.
pub(in crate::operator::reconcile) const WRITE_PAUSE_MS: i64 = 10_000;
/// A limit that refused has had room for this long before it is exhausted no more: calls that settle free some each second.
const EXHAUSTED_HOLD_MS: i64 = 60_000;

/// What is remembered of every budget.
#[derive(Default)]
pub struct Memory {
    budgets: HashMap<ResourceKey, Remembered>,
    /// Limits remembered.
    limits: usize,
}

/// What is remembered of one budget.
#[derive(Default)]
pub struct Remembered {
    limits: HashMap<LimitKey, LimitMemory>,
    /// What limits cost before they are looked at first.
    past: HashMap<LimitKey, History>,
    written_ms: Option<i64>,
}

struct LimitMemory {
    sampled: Sampled,
    outlook: Option<Outlook>,
    /// The hour in which `outlook` was learnt.
    learnt: i64,
    /// Terms and window that the latches are about.
    terms: (i128, i64),
    alerts: Vec<(BudgetAlert, Latch)>,
    exhausted: Latch,
}

/// A limit as a round finds it.
#[derive(Clone, Debug)]
pub struct Found {
    pub balance: LimitBalance,
    pub window: Window,
    /// The limit's refusals, if there were any.
    pub refusal: Option<Refusal>,
    /// Since when the window is summed: its start, or when the budget was made.
    pub since_ms: i64,
    /// What its history is read from.
    pub reading: Reading,
}

/// What a status says of a limit, decided from its past and its present.
#[derive(Clone, Debug)]
pub struct View {
    pub balance: LimitBalance,
    pub forecast: Option<Forecast>,
    pub exhausted_at_ms: Option<i64>,
    /// It refuses calls, or did until just now.
    pub is_exhausted: bool,
    /// A sentence for each alert that is on.
    pub crossed: Vec<String>,
    /// Burn rates in percent, fast and slow: of the two looks back the lower, as alerts look at it. `None` without a window's length.
    pub burn: Option<[i64; 2]>,
}

impl Memory {
    /// Begins with what is known from before.
    pub fn after(past: Past) -> Memory {
        let remembered = |(key, past)| (key, Remembered { past, ..Remembered::default() });
        Memory { budgets: past.histories().into_iter().map(remembered).collect(), limits: 0 }
    }

    /// What is remembered of a budget, taken out; [`put_back`](Self::put_back) returns it.
    pub fn take(&mut self, key: &ResourceKey) -> Remembered {
        let remembered = self.budgets.remove(key).unwrap_or_default();
        self.limits -= remembered.limits.len();
        remembered
    }

    pub fn put_back(&mut self, key: ResourceKey, mut remembered: Remembered) {
        if self.limits + remembered.limits.len() > MAX_LIMITS {
            let mut room = MAX_LIMITS - self.limits;
            remembered.limits.retain(|_, _| {
                room = room.saturating_sub(1);
                room > 0
            });
        }
        self.limits += remembered.limits.len();
        self.budgets.insert(key, remembered);
    }

    /// Forgets budgets that are not there any more.
    pub fn retain(&mut self, is_there: impl Fn(&ResourceKey) -> bool) {
        self.budgets.retain(|key, _| is_there(key));
        self.limits = self.budgets.values().map(|remembered| remembered.limits.len()).sum();
    }
}

impl Remembered {
    /// Looks at the limits that there are now and forgets the others. `said` is the message of an `Alerting` that is on.
    pub fn look(&mut self, found: Vec<Found>, alerts: &[BudgetAlert], said: &str, now_ms: i64) -> Vec<View> {
        let mut before = std::mem::take(&mut self.limits);
        let views = found.into_iter().map(|found| {
            let key = found.balance.key.clone();
            let mut memory = before.remove(&key).unwrap_or_else(|| LimitMemory::new(&found, self.past.remove(&key), alerts, said));
            let view = memory.look(found, alerts, now_ms);
            self.limits.insert(key, memory);
            view
        });
        let views = views.collect();
        // What is not there now begins anew when it comes.
        self.past = HashMap::new();
        views
    }

    /// Whether a status may be written now: news at once, figures alone every ten seconds.
    ///
    /// # Errors
    /// When it is not due: the moment at which it will be, Unix milliseconds.
    pub fn is_due(&mut self, before: Option<&AIBudgetStatus>, status: &AIBudgetStatus, has_news: bool, now_ms: i64) -> Result<(), i64> {
        if before == Some(status) {
            return Ok(());
        }
        let is_news = has_news
            || before.is_none_or(|before| {
                let states = |status: &AIBudgetStatus| -> Vec<(String, String)> {
                    status.conditions.iter().map(|c| (c.type_.clone(), c.status.clone())).collect()
                };
                before.observed_generation != status.observed_generation || states(before) != states(status)
            });
        let due_ms = self.written_ms.filter(|_| !is_news).map_or(now_ms, |written| written + WRITE_PAUSE_MS);
        if due_ms > now_ms {
            return Err(due_ms);
        }
        self.written_ms = Some(now_ms);
        Ok(())
    }
}

impl LimitMemory {
    fn new(found: &Found, past: Option<History>, alerts: &[BudgetAlert], said: &str) -> LimitMemory {
        let restored = alerts.iter().map(|alert| (alert.clone(), Latch::restored(said.contains(&sentence(alert, &found.balance.key)))));
        LimitMemory {
            sampled: past.map_or_else(|| Sampled::new(found.reading), |past| Sampled::after(past, found.reading)),
            outlook: None,
            learnt: i64::MIN,
            terms: terms(found),
            alerts: restored.collect(),
            exhausted: Latch::default(),
        }
    }

    fn history(&self) -> &History {
        &self.sampled.history
    }

    fn look(&mut self, found: Found, alerts: &[BudgetAlert], now_ms: i64) -> View {
        self.sampled.read(found.reading);
        let hour = now_ms.div_euclid(HOUR_MS);
        if hour != self.learnt {
            (self.outlook, self.learnt) = (Outlook::learn(self.history(), now_ms), hour);
        }
        let balance = &found.balance;
        let rolling_ms = if let Window::Rolling { length_ms } = found.window { Some(length_ms) } else { None };
        let (spent, end_ms) = (balance.settled, balance.window_end_ms);
        let pace = Pace { limit: balance.limit, spent, since_ms: found.since_ms, now_ms, end_ms, rolling_ms };
        let forecast = pace.forecast(self.outlook.as_ref(), self.history());
        let exhausted_at_ms = pace.exhausted_at_ms(self.outlook.as_ref(), self.history());
        let window_ms = rolling_ms.or_else(|| Some(end_ms? - balance.window_start_ms));
        let rates =
            window_ms.map(|window_ms| [burn::BurnSpeed::Fast, burn::BurnSpeed::Slow].map(|s| self.burning(s, balance, window_ms, now_ms)));
        self.turn(&found);
        let mut latches = Vec::with_capacity(alerts.len());
        for alert in alerts {
            let known = self.alerts.iter().find(|(of, _)| of == alert).map_or_else(Latch::default, |(_, latch)| *latch);
            let (level, hold_ms) = level(alert, balance, forecast, rates, rolling_ms.is_some());
            latches.push((alert.clone(), known.after(level, now_ms, hold_ms)));
        }
        self.alerts = latches;
        // A limit that was lowered to what is spent refuses whatever comes.
        let refused = found.refusal.is_some_and(|r| r.last_ms >= balance.window_start_ms && balance.left() < r.refused.smallest);
        let refuses = refused || balance.settled >= balance.limit;
        self.exhausted = self.exhausted.after(if refuses { Level::Met } else { Level::Over }, now_ms, EXHAUSTED_HOLD_MS);
        let on = self.alerts.iter().filter(|(_, latch)| latch.is_on());
        View {
            crossed: on.map(|(alert, _)| sentence(alert, &balance.key)).collect(),
            is_exhausted: self.exhausted.is_on(),
            burn: rates.map(|rates| rates.map(|(long, short, _)| long.min(short))),
            balance: found.balance,
            forecast,
            exhausted_at_ms,
        }
    }

    /// Long and short burn rate, and for how long an alert about them holds.
    fn burning(&self, speed: burn::BurnSpeed, balance: &LimitBalance, window_ms: i64, now_ms: i64) -> (i64, i64, burn::BurnWindows) {
        let windows = speed.windows(window_ms);
        let rate = |lookback_ms| burn_rate(self.history().spent(lookback_ms, now_ms), lookback_ms, balance.limit, window_ms);
        (rate(windows.long_ms), rate(windows.short_ms), windows)
    }

    /// With new terms, or in a new window, nothing is as it was, except what burns: that is about the last hours.
    fn turn(&mut self, found: &Found) {
        if std::mem::replace(&mut self.terms, terms(found)) != self.terms {
            self.exhausted = Latch::default();
            self.alerts.retain(|(alert, _)| alert.burn_rate.is_some());
        }
    }
}

/// A rolling window begins with every moment, and is no new one.
fn terms(found: &Found) -> (i128, i64) {
    let start_ms = if matches!(found.window, Window::Rolling { .. }) { 0 } else { found.balance.window_start_ms };
    (found.balance.limit, start_ms)
}

/// Where an alert's figure is against its threshold, and how long the alert outlasts it.
fn level(
    alert: &BudgetAlert,
    balance: &LimitBalance,
    forecast: Option<Forecast>,
    rates: Option<[(i64, i64, burn::BurnWindows); 2]>,
    rolls: bool,
) -> (Level, i64) {
    if let Some(threshold) = alert.percent_spent {
        // What is spent of a window with fixed ends never gets less.
        let (over, hold_ms) = if rolls { (95, burn::HOLD_MS) } else { (100, 0) };
        return (Level::of(percent(balance.settled, balance.limit), threshold.into(), over), hold_ms);
    }
    if let Some(threshold) = alert.percent_forecast {
        let level = forecast.map_or(Level::Over, |f| Level::of(percent(f.expected, balance.limit), threshold.into(), 90));
        return (level, burn::HOLD_MS);
    }
    let index = usize::from(alert.burn_rate == Some(burn::BurnSpeed::Slow));
    match rates {
        Some(rates) => {
            let (long, short, windows) = rates[index];
            (Level::of_burn(long, short, windows.threshold), burn::hold_ms(windows.short_ms))
        }
        None => (Level::Over, 0),
    }
}

/// The same for as long as the alert is on, so that a status does not change meanwhile.
fn sentence(alert: &BudgetAlert, key: &LimitKey) -> String {
    match (alert.percent_spent, alert.percent_forecast, alert.burn_rate) {
        (Some(threshold), ..) => format!("Limit {key} has passed {threshold}% spent."),
        (_, Some(threshold), _) => format!("Limit {key} is forecast to pass {threshold}% by the window's end."),
        (.., Some(burn::BurnSpeed::Fast)) => format!("Limit {key} burns more than 14.4 times as fast as its window allows."),
        (.., Some(burn::BurnSpeed::Slow)) => format!("Limit {key} burns more than 6 times as fast as its window allows."),
        (None, None, None) => String::new(),
    }
}
