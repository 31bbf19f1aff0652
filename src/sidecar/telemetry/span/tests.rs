use std::collections::BTreeMap;

use super::*;
use crate::core::amount::Amount;
use crate::core::call::CallId;
use crate::core::dimensions::Dimensions;
use crate::core::money::PicoUsd;
use crate::core::policy::Tier;
use crate::core::usage::Usage;

fn record() -> CallRecord {
    CallRecord {
        id: CallId("c-1".into()),
        started_at_ms: 0,
        duration_ms: 30,
        time_to_first_byte_ms: Some(20),
        origin: Default::default(),
        dimensions: Dimensions::from([(Dimension::Session, "s-1".into()), (Dimension::Team, "red".into())]),
        kind: CallKind::Model { protocol: Protocol::OpenAIResponses },
        route: "a/r".into(),
        backend: "one".into(),
        requested_model: "smart".into(),
        model: "o-big".into(),
        requested_tier: None,
        tier: Some(Tier::Frontier),
        classification: None,
        usage: Usage { input: 10, cached_read: 5, cache_write: 2, cache_write_long: 1, output: 7, audio_output: 3, ..Usage::default() },
        cost: PicoUsd(1_000_000_000_001),
        reserved: Amount { usd: PicoUsd(2_000_000_000_000), tokens: 1, requests: 1 },
        bytes: 0,
        outcome: CallOutcome::Completed,
        status: 200,
        unpriced: false,
    }
}

fn attempted() -> Attempted {
    Attempted { provider: Provider::AzureOpenAI, server: ("h".into(), 443), max_tokens: 100, choices: 1, streamed: true }
}

/// Attributes as text.
fn shown(span: &Span) -> BTreeMap<String, String> {
    let text = |value: &Value| match value {
        Value::StringValue(text) => text.clone(),
        Value::IntValue(number) => number.to_string(),
        Value::DoubleValue(number) => number.to_string(),
        Value::BoolValue(flag) => flag.to_string(),
        other => panic!("{other:?}"),
    };
    let attributes = span.attributes.iter().map(|a| (a.key.clone(), a.value.as_ref().unwrap().value.as_ref().map(text).unwrap()));
    attributes.collect()
}

#[test]
fn a_call_is_shown_as_the_conventions_name_it_and_its_cost_exactly() {
    let span = of_attempt(&record(), &attempted(), true, 2, 15);
    assert_eq!((span.name.as_str(), span.status.as_ref()), ("chat smart", None));
    let expected = [
        ("gen_ai.conversation.id", "s-1"),
        ("gen_ai.operation.name", "chat"),
        ("gen_ai.provider.name", "azure.ai.openai"),
        ("gen_ai.request.max_tokens", "100"),
        ("gen_ai.request.model", "smart"),
        ("gen_ai.request.stream", "true"),
        ("gen_ai.response.model", "o-big"),
        ("gen_ai.response.time_to_first_chunk", "0.005"),
        ("gen_ai.usage.audio.output_tokens", "3"),
        ("gen_ai.usage.cache_creation.input_tokens", "3"),
        ("gen_ai.usage.cache_read.input_tokens", "5"),
        ("gen_ai.usage.input_tokens", "18"),
        ("gen_ai.usage.output_tokens", "10"),
        ("http.response.status_code", "200"),
        ("server.address", "h"),
        ("server.port", "443"),
        ("spendkeeper.attempt", "2"),
        ("spendkeeper.backend", "one"),
        ("spendkeeper.call.id", "c-1"),
        ("spendkeeper.charged_by", "usage"),
        ("spendkeeper.cost_usd", "1.000000000001"),
        ("spendkeeper.model", "o-big"),
        ("spendkeeper.outcome", "completed"),
        ("spendkeeper.reserved_usd", "2.00"),
        ("spendkeeper.route", "a/r"),
        ("spendkeeper.team", "red"),
        ("spendkeeper.tier", "frontier"),
    ];
    assert_eq!(shown(&span), expected.map(|(k, v)| (k.to_owned(), v.to_owned())).into());
}

#[test]
fn what_was_reserved_is_not_passed_off_as_what_was_used() {
    let interrupted = CallRecord { outcome: CallOutcome::Interrupted, ..record() };
    let shown = shown(&of_attempt(&interrupted, &attempted(), false, 1, 0));
    assert!(!shown.keys().any(|key| key.starts_with("gen_ai.usage.")), "{shown:?}");
    assert_eq!((shown["spendkeeper.charged_by"].as_str(), shown["spendkeeper.cost_usd"].as_str()), ("reservation", "1.000000000001"));
}

#[test]
fn errors_are_told_apart_by_a_few_stable_names() {
    use CallOutcome::{Completed, Failed, Interrupted, Unknown};
    for (outcome, answered, status, expected) in [
        (Completed, true, 200, None),
        (Failed, true, 529, Some("529")),
        (Failed, false, 502, Some("spendkeeper_upstream_unreachable")),
        (Interrupted, true, 200, Some("interrupted")),
        (Unknown, true, 200, None),
        (Unknown, false, 504, Some("timeout")),
        (Unknown, false, 502, Some("spendkeeper_upstream_unreachable")),
        (Unknown, true, 0, Some("cancelled")),
    ] {
        let record = CallRecord { outcome, status, time_to_first_byte_ms: answered.then_some(1), ..record() };
        let span = of_attempt(&record, &attempted(), true, 1, 0);
        assert_eq!(shown(&span).get("error.type").map(String::as_str), expected, "{outcome:?} {status}");
        assert_eq!(span.status.is_some(), expected.is_some(), "{outcome:?} {status}");
    }
}

#[test]
fn every_formats_refusal_names_a_provider_that_speaks_it() {
    for protocol in Protocol::ALL {
        assert!(usual_provider(protocol).formats().contains(&protocol));
        assert_eq!(of_unread(protocol, ErrorKind::TooLarge).name, protocol.operation());
    }
}

#[test]
fn the_pod_is_named_as_kubernetes_conventions_name_it() {
    let origin = Origin { namespace: "n".into(), workload: "Deployment/bot".into(), pod: "bot-1".into(), pod_uid: "u".into() };
    let resource = resource(&origin);
    let keys: Vec<&str> = resource.attributes.iter().map(|a| a.key.as_str()).collect();
    assert_eq!(
        keys,
        [
            "service.name",
            "service.version",
            "service.instance.id",
            "k8s.namespace.name",
            "k8s.pod.name",
            "k8s.pod.uid",
            "k8s.deployment.name"
        ]
    );
}
