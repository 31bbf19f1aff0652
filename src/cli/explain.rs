//! `explain`: where one resource stands, in sentences.

use std::fmt::Write;

use kube::api::ListParams;
use kube::{Client, ResourceExt};

use super::find::Kind;
use super::{CliError, Namespaces};
use crate::api::common::{Condition, Recommendation};
use crate::api::{AIBudget, CostAllocation, ModelRoute};

pub async fn run(client: Client, namespaces: &Namespaces, resource: &str) -> Result<String, CliError> {
    let not_a_resource = || CliError::NotAResource(resource.to_owned());
    let (kind, name) = resource.split_once('/').ok_or_else(not_a_resource)?;
    let kind = Kind::from_word(kind).ok_or_else(not_a_resource)?;
    let named = ListParams::default().fields(&format!("metadata.name={name}"));
    let texts: Vec<String> = match kind {
        Kind::AIBudget => texts(namespaces.api::<AIBudget>(&client).list(&named).await, budget)?,
        Kind::ModelRoute => texts(namespaces.api::<ModelRoute>(&client).list(&named).await, route)?,
        Kind::CostAllocation => texts(namespaces.api::<CostAllocation>(&client).list(&named).await, allocation)?,
    };
    if texts.is_empty() {
        return Err(CliError::Api(format!("there is no {} {name} in {}", kind.word(), namespaces.describe())));
    }
    Ok(texts.join("\n"))
}

fn texts<K: Clone>(list: kube::Result<kube::core::ObjectList<K>>, explain: impl Fn(&K) -> String) -> Result<Vec<String>, CliError> {
    Ok(list.map_err(CliError::api)?.items.iter().map(explain).collect())
}

/// Sentences about one resource; writing to a string cannot fail, so results are dropped.
struct Sentences(String);

impl Sentences {
    fn about<K: ResourceExt>(kind: Kind, resource: &K) -> Sentences {
        Sentences(format!("{}/{} in {}\n", kind.word(), resource.name_any(), resource.namespace().unwrap_or_default()))
    }

    fn say(&mut self, sentence: std::fmt::Arguments<'_>) {
        let _ = writeln!(self.0, "  {sentence}");
    }

    fn conditions(&mut self, conditions: &[Condition]) {
        for c in conditions {
            self.say(format_args!("{} is {}: {}", c.type_, c.status, c.message));
        }
    }

    fn recommendations(&mut self, recommendations: &[Recommendation]) {
        for r in recommendations {
            self.say(format_args!("{:?} {} ({:?}, saves {} a month): {}", r.kind, r.id, r.state, r.estimated_monthly_savings, r.summary));
        }
    }
}

fn budget(budget: &AIBudget) -> String {
    let mut text = Sentences::about(Kind::AIBudget, budget);
    let Some(status) = &budget.status else {
        text.say(format_args!("The operator has not looked at it yet."));
        return text.0;
    };
    for l in &status.limits {
        let split = l.split.as_ref().map(|s| format!(" for {s:?}")).unwrap_or_default();
        text.say(format_args!(
            "Limit {}{split}, {}: {} of {} spent ({}%), {} held for calls in flight and to come, {} left.",
            l.name, l.window, l.spent, l.limit, l.percent_spent, l.reserved, l.remaining
        ));
        if let Some(forecast) = &l.forecast {
            let interval = l.forecast_low.as_ref().zip(l.forecast_high.as_ref());
            let interval = interval.map(|(low, high)| format!(", four times in five from {low} to {high}")).unwrap_or_default();
            text.say(format_args!("  The forecast for the window's end is {forecast}{interval}."));
        }
        for grant in &l.grants {
            let by = grant.approved_by.as_ref().map(|who| format!(" by {who}")).unwrap_or_default();
            text.say(format_args!("  It is raised by {} until {}{by}: {}", grant.amount, grant.until, grant.reason));
        }
        if let Some(at) = &l.exhausted_at {
            text.say(format_args!("  It is forecast to be used up at {at}."));
        }
        if let Some(end) = &l.window_end {
            text.say(format_args!("  It is whole again at {end}."));
        }
    }
    text.say(format_args!(
        "{} pods with a sidecar are under it; a call that does not fit: {:?}.",
        status.selected_pods, budget.spec.enforcement
    ));
    text.conditions(&status.conditions);
    text.recommendations(&status.recommendations);
    text.0
}

fn route(route: &ModelRoute) -> String {
    let mut text = Sentences::about(Kind::ModelRoute, route);
    let Some(status) = &route.status else {
        text.say(format_args!("The operator has not looked at it yet."));
        return text.0;
    };
    text.say(format_args!("{} calls since {} cost {}.", status.calls, status.since.as_deref().unwrap_or("the start"), status.cost));
    for t in &status.tiers {
        text.say(format_args!("{}: {} calls ({}%), {}.", t.tier.name(), t.calls, t.percent, t.cost));
    }
    if let (Some(frontier), Some(needed)) = (status.frontier_percent, status.frontier_needed_percent) {
        text.say(format_args!("{frontier}% of calls went to frontier models; {needed}% of those needed one."));
    }
    for b in &status.backends {
        let latency = b.mean_latency_ms.map(|ms| format!(", {ms} ms on average")).unwrap_or_default();
        let health = if b.healthy { "healthy" } else { "not healthy" };
        text.say(format_args!("Backend {} is {health}: {} of {} recent calls failed{latency}.", b.name, b.failed, b.calls));
    }
    text.conditions(&status.conditions);
    text.recommendations(&status.recommendations);
    text.0
}

fn allocation(allocation: &CostAllocation) -> String {
    let mut text = Sentences::about(Kind::CostAllocation, allocation);
    let Some(status) = &allocation.status else {
        text.say(format_args!("The operator has not looked at it yet."));
        return text.0;
    };
    text.say(format_args!(
        "Period {}: {} in total, {} unallocated, {} idle.",
        status.period, status.total, status.unallocated, status.idle
    ));
    for o in &status.owners {
        text.say(format_args!("{}: {} = {} of model calls ({}) + {} shared.", o.name, o.total, o.direct, o.calls, o.shared));
    }
    for c in &status.shared_costs {
        text.say(format_args!("Shared cost {} of {} by {:?}:", c.name, c.cost, c.driver));
        for s in &c.shares {
            text.say(format_args!("  {}: {} for {}", s.owner, s.cost, s.usage));
        }
    }
    for o in &status.outcomes {
        match o.cost_per_outcome {
            Some(per) => text.say(format_args!("{}: {} of them for {}, so {per} each.", o.name, o.count, o.cost)),
            None => text.say(format_args!("{}: none yet.", o.name)),
        }
    }
    for r in &status.right_sizing {
        text.say(format_args!(
            "Deployment {}, container {}: {} samples over {} s. {}",
            r.deployment,
            r.container,
            r.samples,
            r.history_seconds,
            r.message.as_deref().unwrap_or("")
        ));
    }
    text.conditions(&status.conditions);
    text.recommendations(&status.recommendations);
    text.0
}
