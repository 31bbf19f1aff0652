//! The service as a sidecar sees it: a ledger in a file, and an API server that knows one token for each pod.

use std::collections::BTreeMap;
use std::sync::Arc;

use futures::StreamExt;
use serde_json::{Value, json};
use tonic::Code;

use super::*;
use crate::api::AIBudget;
use crate::channel::convert::report_to_wire;
use crate::channel::message::{Pushed, Reported};
use crate::core::call::{CallId, CallKind, CallOutcome, CallRecord};
use crate::core::dimensions::Origin;
use crate::core::money::PicoUsd;
use crate::core::policy::{Policy, Protocol};
use crate::ledger::query::CallQuery;
use crate::ledger::sqlite::SqliteLedger;
use crate::ledger::{LeaseId, Ledger};
use crate::operator::index::{Index, NamespaceFacts, Snapshot};
use crate::operator::kubelet::UsageHistory;
use crate::operator::policies::Rules;
use crate::operator::selection::PodFacts;

/// Answers TokenReviews (token `pod-x` is pod `x`'s with UID `uid-x` in namespace `shop`; others are not valid), and every
/// list with an empty one.
fn api_server() -> kube::Client {
    #[derive(Clone)]
    struct Reviews;
    impl tonic::codegen::Service<http::Request<kube::client::Body>> for Reviews {
        type Response = http::Response<kube::client::Body>;
        type Error = std::convert::Infallible;
        type Future = futures::future::BoxFuture<'static, Result<Self::Response, Self::Error>>;
        fn poll_ready(&mut self, _: &mut std::task::Context<'_>) -> std::task::Poll<Result<(), Self::Error>> {
            std::task::Poll::Ready(Ok(()))
        }
        fn call(&mut self, request: http::Request<kube::client::Body>) -> Self::Future {
            Box::pin(async move {
                if request.method() == http::Method::GET {
                    let empty = json!({"apiVersion": "v1", "kind": "List", "metadata": {"resourceVersion": "1"}, "items": []});
                    return Ok(http::Response::new(kube::client::Body::from(empty.to_string().into_bytes())));
                }
                let body = request.into_body().collect_bytes().await.unwrap_or_default();
                let review: Value = serde_json::from_slice(&body).unwrap_or_default();
                let answer = serde_json::to_vec(&reviewed(&review)).expect("JSON");
                Ok(http::Response::new(kube::client::Body::from(answer)))
            })
        }
    }
    kube::Client::new(Reviews, "default")
}

fn reviewed(review: &Value) -> Value {
    let status = match review["spec"]["token"].as_str().and_then(|token| token.strip_prefix("pod-")) {
        Some(pod) => json!({"authenticated": true, "audiences": review["spec"]["audiences"], "user": {
            "username": "system:serviceaccount:shop:default",
            "extra": {"authentication.kubernetes.io/pod-name": [pod], "authentication.kubernetes.io/pod-uid": [format!("uid-{pod}")]},
        }}),
        None => json!({"authenticated": false}),
    };
    json!({"apiVersion": "authentication.k8s.io/v1", "kind": "TokenReview", "metadata": {}, "spec": {}, "status": status})
}

fn pod(name: &str, app: &str) -> PodFacts {
    let origin =
        Origin { namespace: "shop".into(), workload: format!("Deployment/{app}"), pod: name.into(), pod_uid: format!("uid-{name}") };
    PodFacts { origin, labels: BTreeMap::from([("app".to_owned(), app.to_owned())]), ..PodFacts::default() }
}

fn budget(name: &str, usd: &str, app: Option<&str>) -> Arc<AIBudget> {
    let scope = app.map_or_else(|| json!({}), |app| json!({"workloads": {"pods": {"matchLabels": {"app": app}}}}));
    let spec = json!({"scope": scope, "limits": [{"name": "m", "usd": usd, "period": "Lifetime"}]});
    let object = json!({"apiVersion": "spendkeeper.dev/v1alpha1", "kind": "AIBudget", "metadata": {"namespace": "shop", "name": name}, "spec": spec});
    Arc::new(serde_json::from_value(object).expect("a budget"))
}

fn rules(budgets: Vec<Arc<AIBudget>>) -> Arc<Rules> {
    let namespaces = vec![NamespaceFacts { name: "shop".into(), ..NamespaceFacts::default() }];
    Arc::new(Rules::of(&Snapshot { budgets, namespaces, ..Snapshot::default() }, "system", &Default::default()))
}

struct Bench {
    service: Arc<ControlService>,
    ledger: Arc<SqliteLedger>,
    stop: watch::Sender<bool>,
    _tasks: tokio::task::JoinSet<()>,
    _directory: tempfile::TempDir,
}

impl Bench {
    /// Pods `a` and `b` of app `bot` and `c` of app `web`; $1 for everybody, and $5 for `web` alone.
    fn new() -> Bench {
        let directory = tempfile::tempdir().expect("a directory");
        let ledger = Arc::new(SqliteLedger::open(&directory.path().join("ledger.db")).expect("a ledger"));
        let (client, mut tasks, stop) = (api_server(), tokio::task::JoinSet::new(), watch::Sender::new(false));
        let context = Arc::new(Context {
            index: Arc::new(Index::start(&client, "system", &mut tasks)),
            client: client.clone(),
            ledger_changes: ledger.changes(),
            ledger: ledger.clone(),
            refusals: Default::default(),
            recalls: Default::default(),
            replicas: Default::default(),
            usage: Arc::new(UsageHistory::default()),
            runaways: Default::default(),
            outages: Default::default(),
            namespace: "system".into(),
            apply_approved: false,
        });
        let (roster, credentials, metrics) = (Arc::new(Roster::default()), Credentials::new(client), Arc::new(Metrics::new()));
        let service = Arc::new(ControlService::new(context, roster, credentials, metrics, stop.subscribe()));
        let bench = Bench { service, ledger, stop, _tasks: tasks, _directory: directory };
        bench.publish(vec![budget("all", "1", None), budget("web", "5", Some("web"))]);
        bench
    }

    fn publish(&self, budgets: Vec<Arc<AIBudget>>) {
        self.service.roster.publish(u64::MAX, rules(budgets), vec![pod("a", "bot"), pod("b", "bot"), pod("c", "web")]);
    }

    async fn watch(&self, token: &str) -> stream::Pushes {
        let request = with_token(token, proto::WatchRequest { sidecar_version: "test".into() });
        self.service.watch(request).await.expect("a stream").into_inner()
    }

    async fn acquire(&self, token: &str, limit: &str, dollars: i64) -> Result<proto::AcquireResponse, Status> {
        let usd = PicoUsd::from_usd(dollars);
        let amount = Amount { usd, tokens: 1, requests: 1 };
        let ask = LeaseAsk {
            lease: LeaseId(format!("{token}-{limit}-{dollars}").into()),
            seq: 1,
            limits: vec![LimitKey(limit.into())],
            min: amount,
            want: amount,
            need: amount,
        };
        self.service.acquire(with_token(token, proto::AcquireRequest::from(ask))).await.map(Response::into_inner)
    }

    /// Why each report of a stream was not booked, of those that were answered.
    async fn report(&self, token: &str, reports: Vec<Vec<Reported>>) -> Vec<Option<Code>> {
        let reports = reports.into_iter().map(|report| Ok(report_to_wire(&report)));
        let reports = futures::stream::iter(reports.collect::<Vec<_>>());
        let answers = reports::answers(&self.service, with_token(token, ()).metadata(), reports, reports::LIFE).await.expect("a stream");
        answers.map(|answer| answer.err().map(|status| status.code())).collect().await
    }
}

fn with_token<T>(token: &str, message: T) -> Request<T> {
    let mut request = Request::new(message);
    request.metadata_mut().insert("authorization", format!("Bearer {token}").parse().expect("ASCII"));
    request
}

async fn next(pushes: &mut stream::Pushes) -> Pushed {
    let message = tokio::time::timeout(Duration::from_secs(10), pushes.next()).await.expect("a push in time");
    Pushed::try_from(message.expect("an open stream").expect("no error")).expect("a push that can be read")
}

async fn next_policy(pushes: &mut stream::Pushes) -> Policy {
    next(pushes).await.policy.expect("a policy")
}

fn granted(response: Result<proto::AcquireResponse, Status>) -> bool {
    matches!(response.expect("an answer").decision, Some(proto::acquire_response::Decision::Granted(_)))
}

#[tokio::test]
async fn a_sidecar_gets_its_own_policy_at_once_and_again_when_it_changes() {
    let bench = Bench::new();
    let (mut bot, mut web) = (bench.watch("pod-a").await, bench.watch("pod-c").await);
    let (first, of_web) = (next_policy(&mut bot).await, next_policy(&mut web).await);
    assert_eq!(*first.origin, pod("a", "bot").origin);
    assert_eq!((first.budgets.len(), of_web.budgets.len()), (1, 2));
    // A change that is the web's alone reaches the web alone: the bot's next policy is the one after it.
    bench.publish(vec![budget("all", "1", None), budget("web", "6", Some("web"))]);
    assert!(next_policy(&mut web).await.generation > of_web.generation);
    bench.publish(vec![budget("all", "2", None), budget("web", "6", Some("web"))]);
    let pushed = next(&mut bot).await;
    assert_eq!(pushed.recall, [LimitKey("shop/all/m".into())], "what is held under a changed limit comes back at once");
    let second = pushed.policy.expect("a policy");
    assert!(second.generation > first.generation);
    assert_eq!(second.budgets[0].limits[0].amount, PicoUsd::from_usd(2).0);
}

#[tokio::test]
async fn a_stream_ends_when_its_pod_is_gone() {
    let bench = Bench::new();
    let mut pushes = bench.watch("pod-a").await;
    next_policy(&mut pushes).await;
    bench.service.roster.publish(u64::MAX, rules(vec![]), vec![]);
    let last = pushes.next().await.expect("a reason").expect_err("an end");
    assert_eq!(last.code(), Code::PermissionDenied);
    assert!(pushes.next().await.is_none());
}

#[tokio::test]
async fn a_pod_leases_only_under_limits_of_its_own_policy() {
    let bench = Bench::new();
    assert!(granted(bench.acquire("pod-c", "shop/web/m", 1).await));
    for limit in ["shop/web/m", "shop/none/m"] {
        let refused = bench.acquire("pod-a", limit, 1).await.expect_err("a refusal");
        assert_eq!(refused.code(), Code::PermissionDenied);
        assert!(refused.message().contains(limit), "{}", refused.message());
    }
}

#[tokio::test]
async fn nobody_is_served_whom_the_api_server_does_not_know_or_who_has_no_sidecar() {
    let bench = Bench::new();
    let code = |answer: Result<proto::AcquireResponse, Status>| answer.expect_err("a refusal").code();
    assert_eq!(code(bench.acquire("forged", "shop/all/m", 1).await), Code::Unauthenticated);
    let none =
        reports::answers(&bench.service, &MetadataMap::new(), futures::stream::empty(), reports::LIFE).await.err().expect("a refusal");
    assert_eq!(none.code(), Code::Unauthenticated);
    let other = Caller { namespace: "elsewhere".into(), pod: "a".into(), uid: "uid-a".into() };
    let stranger = admitted(&other, bench.service.roster.member("uid-a"), Presence::Required).expect_err("another pod's UID");
    assert!(stranger.message().contains("elsewhere/a"), "{}", stranger.message());
    let unknown = admitted(&other, None, Presence::Required).expect_err("no sidecar");
    assert!(unknown.message().contains("spendkeeper.dev/injected"), "{}", unknown.message());
}

#[tokio::test]
async fn a_pod_that_has_ended_reports_but_spends_no_more() {
    let bench = Bench::new();
    let ended = PodFacts { ended: true, ..pod("a", "bot") };
    bench.service.roster.publish(u64::MAX, rules(vec![budget("all", "1", None)]), vec![ended]);
    assert_eq!(bench.acquire("pod-a", "shop/all/m", 1).await.expect_err("a refusal").code(), Code::PermissionDenied);
    assert_eq!(bench.report("pod-a", vec![vec![]]).await, [None], "reports are taken");
}

#[tokio::test]
async fn whoever_lacks_something_recalls_it_from_the_others_that_share_the_limit() {
    let bench = Bench::new();
    let (mut holder, mut asker) = (bench.watch("pod-a").await, bench.watch("pod-b").await);
    next_policy(&mut holder).await;
    next_policy(&mut asker).await;
    assert!(granted(bench.acquire("pod-a", "shop/all/m", 1).await));
    assert!(!granted(bench.acquire("pod-b", "shop/all/m", 1).await));
    assert_eq!(next(&mut holder).await.recall, [LimitKey("shop/all/m".into())]);
    assert_eq!(bench.service.context.refusals.of(&LimitKey("shop/all/m".into())).map(|r| r.refused.count), Some(1));
    // The asker hears nothing of its own recall: what it is pushed next is the next policy.
    bench.publish(vec![]);
    assert_eq!(next_policy(&mut asker).await.budgets, []);
}

#[tokio::test]
async fn a_call_is_recorded_as_the_reporters_whatever_the_record_claims() {
    let bench = Bench::new();
    let victim = Origin { namespace: "victim".into(), workload: "Deployment/victim".into(), ..Origin::default() };
    let kind = CallKind::Model { protocol: Protocol::OpenAIChat };
    let begun = CallRecord::begun(CallId("call-1".into()), victim, Default::default(), kind, 0);
    let record = CallRecord { model: "m".into(), cost: PicoUsd::from_micro(3), outcome: CallOutcome::Completed, status: 200, ..begun };
    let entry = Reported::Settled { record: Arc::new(record), lease: None, unleased: vec![LimitKey("shop/all/m".into())] };
    assert_eq!(bench.report("pod-a", vec![vec![entry.clone()]; 2]).await, [None, None], "taken, and taken again");
    let query = CallQuery { from_ms: 0, to_ms: i64::MAX, ..CallQuery::default() };
    let totals = bench.ledger.totals(&query).await.expect("totals");
    let found: Vec<_> = totals.iter().map(|t| (t.origin.workload.as_str(), t.calls, t.cost)).collect();
    assert_eq!(found, [("Deployment/bot", 1, PicoUsd::from_micro(3))]);
}

#[tokio::test]
async fn a_stream_of_reports_ends_when_its_token_has_to_be_proven_again_and_with_the_operator() {
    let bench = Bench::new();
    let open = async |life| {
        let (tell, told) = tokio::sync::mpsc::unbounded_channel();
        let reports = tokio_stream::wrappers::UnboundedReceiverStream::new(told);
        (tell, reports::answers(&bench.service, with_token("pod-a", ()).metadata(), reports, life).await.expect("a stream"))
    };
    let (_tell, mut answers) = open(Duration::from_millis(1)).await;
    assert!(answers.next().await.is_none());
    let (tell, mut answers) = open(reports::LIFE).await;
    tell.send(Ok(report_to_wire(&[]))).expect("somebody listens");
    assert!(answers.next().await.expect("an answer").is_ok());
    bench.stop.send_replace(true);
    assert!(answers.next().await.is_none());
}
