//! Budgets hold, under concurrency and at their edges.

use std::sync::Arc;

use spendkeeper::core::calibration::ENOUGH;
use spendkeeper::core::call::CallOutcome;
use spendkeeper::core::limit::LimitKey;
use spendkeeper::core::money::PicoUsd;
use spendkeeper::core::policy::Protocol;
use spendkeeper::llm::{Addressed, parse};
use spendkeeper::sidecar::estimate::Lesson;

use super::bench::{Answer, Bench, budget, openai, policy, policy_at};
use super::provider::Provider;

const DOLLAR_MICRO: i64 = 1_000_000;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sixty_four_calls_at_once_never_bill_more_than_the_budget_and_nearly_all_of_it_can_be_used() {
    let provider = Provider::start().await;
    let bench = Arc::new(Bench::start(&policy(&provider, &budget("usd: \"1.00\"", ""))).await);
    // An agent in a loop that gives up when it is refused.
    let agents = (0..64).map(|_| {
        let bench = Arc::clone(&bench);
        tokio::spawn(async move {
            loop {
                let answer = bench.chat("answer", 800).await;
                if answer.status != 200 {
                    return answer;
                }
            }
        })
    });
    for agent in futures::future::join_all(agents).await {
        let refusal = agent.unwrap();
        assert_eq!((refusal.status, refusal.header("x-should-retry")), (429, "false"));
        assert!(refusal.text.contains("budget default/b: limit total ($1.00, lifetime) has"), "{}", refusal.text);
    }
    // Those that gave up early left money behind; one at a time the rest can be had.
    while bench.chat("answer", 800).await.status == 200 {}
    let billed = provider.billed_micro();
    assert!(billed <= DOLLAR_MICRO, "billed {billed}");
    assert!(billed >= 900_000, "billed {billed}");
    bench.settled().await;
    let balance = bench.balance().await;
    assert_eq!((balance.settled, balance.outstanding), (i128::from(billed) * 1_000_000, 0));
}

#[tokio::test]
async fn a_calibrated_budget_admits_what_experience_says_fits_and_is_charged_all_that_it_costs() {
    let provider = Provider::start().await;
    let prompt = format!("answer {}", "in so many words ".repeat(500));
    for (mode, admitted) in [("Sound", false), ("Calibrated", true)] {
        let bench = Bench::start(&policy(&provider, &budget("usd: \"0.05\"", &format!("  reservation: {mode}\n")))).await;
        let before = provider.billed_micro();
        // Its bytes at ten dollars a million are more than the budget has.
        assert_eq!(bench.chat(&prompt, 16).await.status, 429, "{mode}: nothing is known yet");
        let body = openai("o-big", &prompt, 16).to_string();
        let request = parse(Addressed::plain(Protocol::OpenAIChat), body.into()).unwrap();
        let lesson = Lesson::new(&bench.sidecar.estimates, "default/r/one", "o-big", request.shape().unwrap());
        (0..ENOUGH).for_each(|_| lesson.learn(2_000));
        let answer = bench.chat(&prompt, 16).await;
        assert_eq!(answer.status == 200, admitted, "{mode}: {}", answer.text);
        if admitted {
            // This provider counts every byte: the one call in a thousand. All of it is charged, and nothing is left.
            bench.settled().await;
            assert_eq!(bench.chat("answer", 16).await.status, 429);
            let billed = i128::from(provider.billed_micro() - before) * 1_000_000;
            assert!(billed > 50_000_000_000, "more than the budget had: {billed}");
            let balance = bench.balance().await;
            assert_eq!((balance.settled, balance.outstanding), (billed, 0));
        }
    }
}

#[tokio::test]
async fn a_refused_call_never_reaches_the_provider() {
    let provider = Provider::start().await;
    let bench = Bench::start(&policy(&provider, &budget("usd: \"0.001\"", ""))).await;
    assert_eq!(bench.chat("answer", 800).await.status, 429);
    assert_eq!(provider.calls(), 0);
    assert_eq!(bench.ended(CallOutcome::Refused).await, 1);
}

#[tokio::test]
async fn a_limit_that_is_lowered_beneath_what_is_spent_stops_the_next_call_though_a_lease_would_cover_it() {
    let provider = Provider::start().await;
    let bench = Bench::start(&policy(&provider, &budget("usd: \"1.00\"", ""))).await;
    assert_eq!(bench.chat("answer", 800).await.status, 200);
    let limits = [LimitKey("default/b/total".into())];
    let held = bench.sidecar.accounts.leases.free(&limits);
    assert!(held.usd > PicoUsd::from_micro(5_000), "{held:?}");
    bench.push(|policy| policy.budgets[0].limits[0].amount = 1);
    assert!(bench.sidecar.accounts.leases.free(&limits).is_zero());
    let refused = bench.chat("answer", 100).await;
    assert_eq!((refused.status, provider.calls()), (429, 1), "{}", refused.text);
    bench.push(|policy| policy.budgets[0].limits[0].amount = PicoUsd::from_usd(2).0);
    assert_eq!(bench.chat("answer", 100).await.status, 200);
}

#[tokio::test]
async fn fit_lowers_the_output_cap_to_what_is_left_then_takes_a_cheaper_tier_then_refuses() {
    let provider = Provider::start().await;
    let bench = Bench::start(&policy(&provider, &budget("usd: \"0.0100\"", "  enforcement: Fit\n"))).await;
    let request = |cap| openai("o-big", "answer", cap);
    let big = Answer::of(bench.send("/v1/chat/completions", &[], request(5_000)).await).await;
    assert_eq!((big.status, big.header("x-spend-model")), (200, "o-big"), "{}", big.text);
    let sent = provider.requests.lock().unwrap()[0].2["max_completion_tokens"].as_u64().unwrap();
    assert!((16..1_000).contains(&sent), "{sent}");
    assert_eq!(big.header("x-spend-fit"), format!("output-cap={sent}"));
    assert_eq!(big.header("x-spend-max-output-tokens"), sent.to_string(), "the caller is told");
    let mut models = Vec::new();
    let refusal = loop {
        let answer = Answer::of(bench.send("/v1/chat/completions", &[], request(5_000)).await).await;
        if answer.status != 200 {
            break answer;
        }
        let (model, fit) = (answer.header("x-spend-model").to_owned(), answer.header("x-spend-fit"));
        assert_eq!(model == "o-small", fit.contains("tier=economy"), "{model}: {fit}");
        models.push(model);
    };
    assert_eq!((refusal.status, refusal.header("x-spend-fit")), (429, ""));
    assert!(models.contains(&"o-small".to_owned()), "{models:?}");
    assert!(provider.billed_micro() <= 10_000 + 10 * DOLLAR_MICRO, "the provider bills all models alike");
    bench.settled().await;
    assert!(bench.balance().await.settled <= 10_000_000_000);
}

#[tokio::test]
async fn a_limit_of_calls_or_tokens_holds_too() {
    for limit in ["requests: 3", "tokens: 3000"] {
        let provider = Provider::start().await;
        let bench = Bench::start(&policy(&provider, &budget(limit, ""))).await;
        let mut answered = 0;
        while bench.chat("answer", 500).await.status == 200 {
            answered += 1;
            assert!(answered < 10, "{limit}");
        }
        assert!(answered >= 3, "{limit}: {answered}");
    }
}

#[tokio::test]
async fn a_failed_attempt_costs_nothing_and_the_next_model_is_tried() {
    let provider = Provider::start().await;
    let bench = Bench::start(&policy_at(&provider.address, &budget("usd: \"1\"", ""), 1)).await;
    let answer = bench.chat("error-500", 100).await;
    assert_eq!((answer.status, provider.calls()), (500, 2), "{}", answer.text);
    assert_eq!(bench.ended(CallOutcome::Failed).await, 2);
    assert_eq!(bench.balance().await.settled, 0);
    let answer = bench.chat("error-429", 100).await;
    assert_eq!((answer.status, answer.header("retry-after")), (429, "7"));
}

#[tokio::test]
async fn a_budget_that_warns_counts_calls_and_refuses_none() {
    let provider = Provider::start().await;
    let bench = Bench::start(&policy(&provider, &budget("usd: \"0.001\"", "  enforcement: Warn\n"))).await;
    assert_eq!(bench.chat("answer", 800).await.status, 200);
    bench.settled().await;
    assert_eq!(bench.balance().await.settled, i128::from(provider.billed_micro()) * 1_000_000);
}

#[tokio::test]
async fn each_session_has_its_own_limit() {
    let provider = Provider::start().await;
    let bench = Bench::start(&policy(&provider, &budget("requests: 1", "  splitBy: session\n"))).await;
    for (session, status) in [("s1", 200), ("s1", 429), ("s2", 200)] {
        let response = bench.send("/v1/chat/completions", &[("x-spend-session", session)], openai("o-big", "answer", 10)).await;
        assert_eq!(response.status().as_u16(), status, "{session}");
        Answer::of(response).await;
    }
    bench.settled().await;
    assert_eq!(bench.balance_of("default/b/total=s1").await.settled, 1);
}

#[tokio::test]
async fn who_is_refused_by_a_rolling_limit_is_told_to_wait_for_its_window() {
    let provider = Provider::start().await;
    let policy = policy(&provider, &budget("requests: 1", "").replace("period: Lifetime", "period: Rolling, rolling: 2m"));
    let bench = Bench::start(&policy).await;
    assert_eq!(bench.chat("answer", 10).await.status, 200);
    let refusal = bench.chat("answer", 10).await;
    assert_eq!((refusal.status, refusal.header("retry-after"), refusal.header("x-should-retry")), (429, "120", "false"));
}

#[tokio::test]
async fn money_that_is_not_needed_is_free_again_for_others_within_seconds() {
    let provider = Provider::start().await;
    let bench = Bench::start(&policy(&provider, &budget("usd: \"1\"", ""))).await;
    assert_eq!(bench.chat("answer", 800).await.status, 200);
    let start = std::time::Instant::now();
    while bench.balance().await.outstanding != 0 {
        assert!(start.elapsed().as_secs() < 5, "{:?}", bench.balance().await);
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    }
}
