//! How early and how rightly alerts come: forecasts, burn rates and the runaway detector on series whose end is known.
//!
//! Three windows of thirty days a series, with each seed; a look every ten minutes. Nothing is measured here that depends on the
//! machine. Writes `target/bench/backtest.json`, and the tables of `docs/forecast.md` between its marks.

#[path = "../common/mod.rs"]
mod common;
mod runaways;
mod series;

use std::fmt::Write;
use std::path::Path;

use anyhow::{Context, Result};
use common::{Figure, Row};
use series::{Story, WINDOW, WINDOWS, event, happens};
use spendkeeper::core::burn::{BurnSpeed, HOLD_MS, Latch, Level, burn_rate, hold_ms};
use spendkeeper::core::forecast::{Outlook, Pace, percent};
use spendkeeper::core::history::{HOUR_MS, History, MINUTE_MS};

const SEEDS: u64 = 4;
const LOOK: usize = 10;
/// Monday, 2 November 2026, midnight UTC.
const START_MS: i64 = 1_793_577_600_000;
const WINDOW_MS: i64 = WINDOW as i64 * MINUTE_MS;

/// What is compared.
const METHODS: [&str; 5] = ["straight line, as it was", "straight line, held", "forecast", "burn rate, fast", "burn rate, slow"];

/// What one method did in one series.
#[derive(Clone, Default)]
struct Score {
    /// Hours from the first alert of those that lasted until the limit was used up, or were on within the hour before.
    leads: Vec<f64>,
    missed: usize,
    /// Times that an alert went on in a window that did not use its limit up.
    false_alarms: usize,
    windows: usize,
    changes: usize,
    /// Minutes from a runaway's begin to the first alert that goes on.
    told: Vec<f64>,
}

/// How near a forecast was, of the windows' days 5 to 25.
#[derive(Clone, Default)]
struct Nearness {
    /// Absolute errors in percent of what was spent in the end.
    errors: Vec<f64>,
    covered: usize,
    intervals: usize,
}

/// One window under way.
struct Window {
    start: usize,
    limit: i64,
    /// The minute in which the limit is used up.
    exhausted: Option<usize>,
    total: i64,
}

fn main() -> Result<()> {
    println!("{}; figures do not depend on it", common::machine());
    let trace = std::env::var_os("TRACE").filter(|path| !path.is_empty()).map(|path| trace_minutes(Path::new(&path))).transpose()?;
    if trace.is_none() {
        println!("no TRACE=path of a file of TIMESTAMP, ContextTokens, GeneratedTokens: the series of the trace is left out");
    }
    let (mut rows, mut alerts, mut nearness) = (Vec::new(), String::new(), String::new());
    for story in Story::ALL {
        let minutes = match (story, &trace) {
            (Story::Trace, None) => continue,
            (_, trace) => trace.as_deref().unwrap_or(&[1_000]),
        };
        let mut scores = vec![Score::default(); METHODS.len()];
        let mut near = [Nearness::default(), Nearness::default()];
        for seed in 0..SEEDS {
            run(story, seed, &story.minutes(seed, minutes), &mut scores, &mut near);
        }
        for (method, score) in METHODS.into_iter().zip(&scores) {
            alerts += &alert_line(story.name(), method, score);
            rows.push(alert_row(story.name(), method, score));
        }
        for (method, near) in ["straight line", "forecast"].into_iter().zip(&near) {
            nearness += &nearness_line(story.name(), method, near);
        }
    }
    let (found, runaway_rows) = runaways::table();
    common::print("alerts before a limit of 30 days is used up", &rows);
    common::print("runaways", &runaway_rows);
    rows.extend(runaway_rows);
    common::write("backtest.json", &rows)?;
    let text = format!(
        "| series | method | used up | lead time, hours: median (least to most) | missed | false alarms a month | changes a month | \
         a runaway is told of after minutes |\n\
         |---|---|---|---|---|---|---|---|\n{alerts}\n\
         | series | method | error of the forecast, percent: median (90th percentile) | within its interval |\n|---|---|---|---|\n{nearness}\n\
         {found}"
    );
    into_docs(&text)
}

/// What each minute of a trace weighs, in thousandths of their mean.
fn trace_minutes(path: &Path) -> Result<Vec<i64>> {
    let text = std::fs::read_to_string(path).with_context(|| format!("{} cannot be read", path.display()))?;
    let mut minutes: std::collections::BTreeMap<String, i64> = std::collections::BTreeMap::new();
    for line in text.lines().skip(1) {
        let fields: Vec<&str> = line.split(',').collect();
        let [at, context, generated] = fields[..] else { continue };
        // Output is four times as dear as input, as of most models.
        let weight = context.trim().parse::<i64>()? + 4 * generated.trim().parse::<i64>()?;
        *minutes.entry(at.chars().take(16).collect()).or_default() += weight;
    }
    let mean = minutes.values().sum::<i64>() / (minutes.len() as i64).max(1);
    Ok(minutes.into_values().map(|minute| minute * 1_000 / mean.max(1)).collect())
}

fn run(story: Story, seed: u64, spent: &[i64], scores: &mut [Score], near: &mut [Nearness; 2]) {
    let limit = spent[..WINDOW].iter().sum::<i64>() * story.limit_percent() / 100;
    let windows: Vec<Window> = (0..WINDOWS).map(|n| window(spent, n * WINDOW, limit)).collect();
    let mut history = History::new(START_MS);
    let mut outlook = None;
    let mut so_far = 0i128;
    let mut alarms = [Alarm::default(); METHODS.len()];
    for (minute, amount) in spent.iter().enumerate() {
        let from_ms = START_MS + minute as i64 * MINUTE_MS;
        let now_ms = from_ms + MINUTE_MS;
        let window = &windows[minute / WINDOW];
        if minute == window.start {
            so_far = 0;
            alarms = [Alarm::default(); METHODS.len()];
        }
        history.add(from_ms, now_ms, (*amount).into());
        so_far += i128::from(*amount);
        if now_ms % HOUR_MS == 0 {
            outlook = Outlook::learn(&history, now_ms);
        }
        let is_over = window.exhausted.is_some_and(|at| minute >= at);
        if minute < WINDOW || !minute.is_multiple_of(LOOK) || is_over {
            end_of(window, minute, &alarms, scores);
            continue;
        }
        let start_ms = START_MS + window.start as i64 * MINUTE_MS;
        let (end_ms, limit) = (start_ms + WINDOW_MS, i128::from(window.limit));
        let pace = Pace { limit, spent: so_far, since_ms: start_ms, now_ms, end_ms: Some(end_ms), rolling_ms: None };
        let forecast = pace.forecast(outlook.as_ref(), &history);
        measure(window, minute, (pace, &history), forecast, near);
        let above = |figure: Option<i128>, over| figure.map_or(Level::Over, |figure| Level::of(percent(figure, limit), 100, over));
        let burns = |speed: BurnSpeed| {
            let windows = speed.windows(WINDOW_MS);
            let rate = |lookback_ms| burn_rate(history.spent(lookback_ms, now_ms), lookback_ms, limit, WINDOW_MS);
            (Level::of_burn(rate(windows.long_ms), rate(windows.short_ms), windows.threshold), hold_ms(windows.short_ms))
        };
        let levels = [
            (above(pace.straight(), 100), 0),
            (above(pace.straight(), 90), HOLD_MS),
            (above(forecast.map(|f| f.expected), 90), HOLD_MS),
            burns(BurnSpeed::Fast),
            burns(BurnSpeed::Slow),
        ];
        for ((alarm, score), (level, hold_ms)) in alarms.iter_mut().zip(scores.iter_mut()).zip(levels) {
            let went_on = alarm.look(level, (minute, now_ms), hold_ms);
            score.changes += usize::from(went_on.is_some());
            score.false_alarms += usize::from(went_on == Some(true) && window.exhausted.is_none());
            let runs = story == Story::Runaway && happens(seed, minute / WINDOW);
            let began = window.start + event(seed, minute / WINDOW);
            if runs && went_on == Some(true) && minute >= began && !alarm.is_told {
                alarm.is_told = true;
                score.told.push((minute - began) as f64);
            }
        }
        end_of(window, minute, &alarms, scores);
    }
}

/// One method's alert in one window.
#[derive(Clone, Copy, Default)]
struct Alarm {
    latch: Latch,
    /// The minute in which it went on; that of an alert which was off for less than an hour is the earlier one's.
    since: Option<usize>,
    off: Option<usize>,
    /// It went on since the event.
    is_told: bool,
}

impl Alarm {
    /// Whether it went on or off, if either.
    fn look(&mut self, level: Level, (minute, now_ms): (usize, i64), hold_ms: i64) -> Option<bool> {
        let before = self.latch.is_on();
        self.latch = self.latch.after(level, now_ms, hold_ms);
        let on = self.latch.is_on();
        if on == before {
            return None;
        }
        if on {
            self.since = self.lasting(minute).or(Some(minute));
        }
        self.off = (!on).then_some(minute);
        Some(on)
    }

    /// Since when it has been on, but for less than an hour.
    fn lasting(&self, minute: usize) -> Option<usize> {
        self.since.filter(|_| self.off.is_none_or(|off| off + 60 > minute))
    }
}

/// Settles a window's account when its limit is used up, or when it ends.
fn end_of(window: &Window, minute: usize, alarms: &[Alarm], scores: &mut [Score]) {
    let last = window.start + WINDOW - 1;
    if window.start == 0 || minute != window.exhausted.unwrap_or(last) {
        return;
    }
    for (score, alarm) in scores.iter_mut().zip(alarms) {
        score.windows += 1;
        if window.exhausted.is_some() {
            match alarm.lasting(minute) {
                Some(since) => score.leads.push((minute - since) as f64 / 60.0),
                None => score.missed += 1,
            }
        }
    }
}

fn window(spent: &[i64], start: usize, limit: i64) -> Window {
    let mut so_far = 0;
    let exhausted = spent[start..start + WINDOW].iter().position(|amount| {
        so_far += amount;
        so_far >= limit
    });
    Window { start, limit, exhausted: exhausted.map(|minute| start + minute), total: spent[start..start + WINDOW].iter().sum() }
}

fn measure(
    window: &Window,
    minute: usize,
    (pace, history): (Pace, &History),
    forecast: Option<spendkeeper::core::forecast::Forecast>,
    near: &mut [Nearness; 2],
) {
    let day = (minute - window.start) / 1_440;
    if !(5..25).contains(&day) || !minute.is_multiple_of(360) {
        return;
    }
    let total = i128::from(window.total);
    for (near, forecast) in near.iter_mut().zip([pace.forecast(None, history), forecast]) {
        let Some(forecast) = forecast else { continue };
        near.errors.push(((forecast.expected - total).abs() * 1_000 / total) as f64 / 10.0);
        if let Some((low, high)) = forecast.interval {
            near.intervals += 1;
            near.covered += usize::from((low..=high).contains(&total));
        }
    }
}

/// Per window, which is a month.
fn a_month(count: usize, windows: usize) -> f64 {
    count as f64 / windows.max(1) as f64
}

fn alert_line(series: &str, method: &str, score: &Score) -> String {
    let (lead, told) = (range(&score.leads), range(&score.told));
    let used_up = score.leads.len() + score.missed;
    let quiet = score.windows - used_up;
    let false_alarms = if quiet == 0 { "–".to_owned() } else { format!("{:.1}", a_month(score.false_alarms, quiet)) };
    let changes = a_month(score.changes, score.windows);
    format!(
        "| {series} | {method} | {used_up} of {} | {lead} | {} | {false_alarms} | {changes:.1} | {told} |\n",
        score.windows, score.missed
    )
}

fn range(values: &[f64]) -> String {
    if values.is_empty() {
        return "–".to_owned();
    }
    let Figure { min, median, max } = Figure::of(values.iter().copied());
    let digits = usize::from(median < 10.0);
    format!("{median:.digits$} ({min:.digits$} to {max:.digits$})")
}

fn alert_row(series: &str, method: &str, score: &Score) -> Row {
    let used_up = score.leads.len() + score.missed;
    let lead = (!score.leads.is_empty()).then(|| Figure::of(score.leads.iter().copied()));
    Row::default()
        .label("series", series)
        .label("method", method)
        .label("windows", score.windows)
        .label("used_up", used_up)
        .label("missed", score.missed)
        .label("false_alarms", score.false_alarms)
        .figure("lead_hours", lead)
        .figure("told_minutes", (!score.told.is_empty()).then(|| Figure::of(score.told.iter().copied())))
        .figure("changes_a_month", Figure::of([a_month(score.changes, score.windows)]))
}

fn nearness_line(series: &str, method: &str, near: &Nearness) -> String {
    let mut errors = near.errors.clone();
    errors.sort_by(f64::total_cmp);
    let at = |percent: usize| errors.get((errors.len() * percent).div_ceil(100).max(1) - 1).copied().unwrap_or(f64::NAN);
    let covered = near.covered * 100 / near.intervals.max(1);
    format!("| {series} | {method} | {:.1} ({:.1}) | {covered} % |\n", at(50), at(90))
}

/// Puts the tables between the marks of the page.
fn into_docs(tables: &str) -> Result<()> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/forecast.md");
    let page = std::fs::read_to_string(&path)?;
    let (before, rest) = page.split_once("<!-- backtest -->").context("docs/forecast.md has no mark")?;
    let (_, after) = rest.split_once("<!-- end -->").context("docs/forecast.md has no second mark")?;
    let mut text = String::new();
    write!(text, "{before}<!-- backtest -->\n\n{tables}\n<!-- end -->{after}")?;
    std::fs::write(&path, text)?;
    println!("  written to {}", path.display());
    Ok(())
}
