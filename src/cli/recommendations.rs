//! `recommendations`: what is proposed, and with `--details` why.

use std::fmt::Write;

use kube::Client;

use super::find::{self, Found};
use super::table::{Table, or_dash};
use super::{CliError, Namespaces};
use crate::api::common::RecommendationState;

pub async fn run(client: Client, namespaces: &Namespaces, details: bool, all: bool) -> Result<String, CliError> {
    let mut found = find::recommendations(&client, namespaces).await?;
    found.retain(|f| all || f.recommendation.state != RecommendationState::Expired);
    if found.is_empty() {
        return Ok(format!("No recommendations in {}.\n", namespaces.describe()));
    }
    Ok(if details { found.iter().map(describe).collect::<Vec<_>>().join("\n") } else { list(&found) })
}

fn list(found: &[Found]) -> String {
    let mut table = Table::new(["ID", "NAMESPACE", "RESOURCE", "KIND", "STATE", "SAVES/MONTH", "RISK", "SUMMARY"]);
    for Found { kind, namespace, name, recommendation: r } in found {
        table.row([
            r.id.clone(),
            namespace.clone(),
            format!("{}/{name}", kind.word()),
            format!("{:?}", r.kind),
            format!("{:?}", r.state),
            r.estimated_monthly_savings.to_string(),
            format!("{:?}", r.risk),
            r.summary.clone(),
        ]);
    }
    table.render()
}

fn describe(found: &Found) -> String {
    let Found { kind, namespace, name, recommendation: r } = found;
    let mut text = String::new();
    let mut line = |label: &str, value: &str| {
        // Writing to a string cannot fail.
        let _ = writeln!(text, "{label:<14}{value}");
    };
    line("Id:", &r.id);
    line("In:", &format!("{}/{name}, namespace {namespace}", kind.word()));
    line("Kind:", &format!("{:?}", r.kind));
    line("State:", &format!("{:?}", r.state));
    line("By:", &or_dash(r.approved_by.as_deref()));
    line("Summary:", &r.summary);
    line("Saves:", &format!("{} a month", r.estimated_monthly_savings));
    line("Risk:", &format!("{:?}", r.risk));
    line("Target:", &format!("{}/{} in {}", r.target.kind, r.target.name, r.target.namespace));
    line("Patch:", &r.patch);
    line("Undone by:", &r.revert);
    line(
        "Evidence:",
        &format!("{} samples over {} s, {} to {}", r.evidence.samples, r.evidence.window_seconds, r.evidence.from, r.evidence.to),
    );
    line("  source:", &r.evidence.source);
    for (figure, value) in &r.evidence.figures {
        line("", &format!("{figure} = {value}"));
    }
    if let Some(observed) = &r.observed {
        line("Observed:", observed);
    }
    text
}
