use std::sync::{Arc, Mutex};

use futures::stream::BoxStream;
use tokio::net::TcpListener;
use tokio_stream::wrappers::TcpListenerStream;
use tonic::transport::Server;
use tonic::{Response, Streaming};

use super::*;
use crate::channel::proto::control_server::{Control, ControlServer};
use crate::channel::proto::{AcquireResponse, Push, ReportRequest, ReportResponse};
use crate::core::amount::Amount;
use crate::core::lease::LeaseId;
use crate::core::limit::LimitKey;
use crate::core::policy::Policy;

/// An operator that notes who calls, and answers as it is told.
#[derive(Default)]
struct Operator {
    tokens: Mutex<Vec<String>>,
    reports: Mutex<Vec<Vec<Reported>>>,
    /// Reports that a stream takes before it ends, with this reason if it has one.
    ends_after: Option<(usize, Option<Code>)>,
    /// Reports are not answered.
    is_silent: AtomicBool,
    refuse_with: Mutex<Option<Code>>,
}

impl Operator {
    fn admit<T>(&self, request: Request<T>) -> Result<T, Status> {
        let token = request.metadata().get("authorization").unwrap().to_str().unwrap().to_owned();
        self.tokens.lock().unwrap().push(token);
        self.answer(request.into_inner())
    }

    fn answer<T>(&self, answer: T) -> Result<T, Status> {
        match *self.refuse_with.lock().unwrap() {
            Some(code) => Err(Status::new(code, "no")),
            None => Ok(answer),
        }
    }

    async fn book(&self, report: Result<ReportRequest, Status>) -> Result<ReportResponse, Status> {
        self.reports.lock().unwrap().push(convert::report_from_wire(report?).unwrap());
        if self.is_silent.load(Ordering::Relaxed) {
            std::future::pending::<()>().await;
        }
        self.answer(ReportResponse {})
    }
}

#[tonic::async_trait]
impl Control for Arc<Operator> {
    type WatchStream = BoxStream<'static, Result<Push, Status>>;
    type ReportStream = BoxStream<'static, Result<ReportResponse, Status>>;

    async fn watch(&self, request: Request<WatchRequest>) -> Result<Response<Self::WatchStream>, Status> {
        self.admit(request)?;
        let policy = Policy { generation: 5, ..Policy::default() };
        let pushed = Pushed { policy: Some(policy), credentials: vec![], recall: vec![], operator_version: "1".into() };
        Ok(Response::new(futures::stream::iter([Ok(Push::from(&pushed))]).boxed()))
    }

    async fn acquire(&self, request: Request<AcquireRequest>) -> Result<Response<AcquireResponse>, Status> {
        let ask = LeaseAsk::try_from(self.admit(request)?).unwrap();
        Ok(Response::new(convert::decision_to_wire(Decision::Granted { granted: ask.want, valid_for_ms: 9, left: None }, 0)))
    }

    async fn report(&self, request: Request<Streaming<ReportRequest>>) -> Result<Response<Self::ReportStream>, Status> {
        let (reports, operator) = (self.admit(request)?, Arc::clone(self));
        let (most, reason) = self.ends_after.unwrap_or((usize::MAX, None));
        let end = reason.map(|code| Err(Status::new(code, "the end")));
        let answers = reports.take(most).then(move |report| {
            let operator = Arc::clone(&operator);
            async move { operator.book(report).await }
        });
        Ok(Response::new(answers.chain(futures::stream::iter(end)).boxed()))
    }
}

async fn connected() -> (Arc<Operator>, OperatorClient, tempfile::NamedTempFile) {
    connected_to(Operator::default()).await
}

async fn connected_to(operator: Operator) -> (Arc<Operator>, OperatorClient, tempfile::NamedTempFile) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let operator = Arc::new(operator);
    let service = ControlServer::new(Arc::clone(&operator));
    tokio::spawn(Server::builder().add_service(service).serve_with_incoming(TcpListenerStream::new(listener)));
    let token = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(token.path(), "first\n").unwrap();
    let address = OperatorAddress { url, ca_pem: String::new(), token_file: token.path().to_owned() };
    (operator, OperatorClient::new(address).unwrap(), token)
}

fn ask() -> LeaseAsk {
    let amount = Amount { tokens: 7, ..Amount::ZERO };
    LeaseAsk { lease: LeaseId("l".into()), seq: 1, limits: vec![LimitKey("a/b/c".into())], min: amount, want: amount, need: amount }
}

fn given_back(seq: u64) -> Vec<Reported> {
    vec![Reported::GivenBack { lease: LeaseId("l".into()), seq, amount: Amount::ZERO }]
}

#[tokio::test]
async fn every_request_carries_the_token_and_the_next_one_once_it_is_refused() {
    let (operator, client, token) = connected().await;
    let granted = client.acquire(ask(), || 0).await.unwrap();
    assert_eq!(granted, Decision::Granted { granted: ask().want, valid_for_ms: 9, left: None });
    std::fs::write(token.path(), "second").unwrap();
    *operator.refuse_with.lock().unwrap() = Some(Code::Unauthenticated);
    client.report(given_back(2)).await.unwrap_err();
    *operator.refuse_with.lock().unwrap() = None;
    client.report(given_back(2)).await.unwrap();
    assert_eq!(*operator.tokens.lock().unwrap(), ["Bearer first", "Bearer first", "Bearer second"]);
    assert_eq!(*operator.reports.lock().unwrap(), [given_back(2)]);
}

#[tokio::test]
async fn reports_go_on_one_stream_until_it_ends_or_another_would_be_proven_with_another_token() {
    for (ends_after, streams) in [(None, 1), (Some((2, None)), 3), (Some((2, Some(Code::Unavailable))), 3)] {
        let (operator, client, token) = connected_to(Operator { ends_after, ..Operator::default() }).await;
        for seq in 0..5 {
            client.report(given_back(seq)).await.unwrap();
        }
        assert_eq!(*operator.reports.lock().unwrap(), (0..5).map(given_back).collect::<Vec<_>>());
        assert_eq!(*operator.tokens.lock().unwrap(), vec!["Bearer first"; streams], "{ends_after:?}");
        std::fs::write(token.path(), "second").unwrap();
        *client.token.read.lock().unwrap() = None;
        client.report(given_back(5)).await.unwrap();
        assert_eq!(operator.tokens.lock().unwrap().split_off(streams), ["Bearer second"]);
    }
}

#[tokio::test]
async fn a_report_that_cannot_be_booked_is_sent_once() {
    let (operator, client, _token) = connected().await;
    client.report(given_back(0)).await.unwrap();
    *operator.refuse_with.lock().unwrap() = Some(Code::InvalidArgument);
    assert!(matches!(client.report(given_back(1)).await, Err(ClientError::Rejected(_))));
    *operator.refuse_with.lock().unwrap() = None;
    client.report(given_back(2)).await.unwrap();
    assert_eq!(*operator.reports.lock().unwrap(), (0..3).map(given_back).collect::<Vec<_>>());
}

#[tokio::test]
async fn an_answer_that_comes_too_late_is_not_taken_for_that_of_another_report() {
    let (operator, client, _token) = connected().await;
    client.report(given_back(0)).await.unwrap();
    operator.is_silent.store(true, Ordering::Relaxed);
    tokio::select! {
        answer = client.report(given_back(1)) => panic!("{answer:?}"),
        () = async { while operator.reports.lock().unwrap().len() < 2 { tokio::task::yield_now().await } } => {}
    }
    operator.is_silent.store(false, Ordering::Relaxed);
    client.report(given_back(1)).await.unwrap();
    assert_eq!(operator.tokens.lock().unwrap().len(), 2, "on a stream of its own");
}

#[tokio::test]
async fn policies_are_followed_until_the_stream_ends() {
    let (_operator, client, _token) = connected().await;
    let pushes: Vec<_> = client.watch().await.unwrap().collect().await;
    assert_eq!(pushes.len(), 1);
    assert_eq!(pushes[0].as_ref().unwrap().policy.as_ref().map(|p| p.generation), Some(5));
}

#[tokio::test]
async fn a_request_whose_operator_went_away_is_sent_again_for_a_while_and_then_nobody_waits_until_one_is_back() {
    let (operator, client, _token) = connected().await;
    let asked = || operator.tokens.lock().unwrap().len();
    *operator.refuse_with.lock().unwrap() = Some(Code::Unavailable);
    let is_back = async {
        while asked() < 2 {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        *operator.refuse_with.lock().unwrap() = None;
    };
    let (answer, ()) = tokio::join!(client.acquire(ask(), || 0), is_back);
    assert!(matches!(answer, Ok(Decision::Granted { .. })), "{answer:?}");
    *operator.refuse_with.lock().unwrap() = Some(Code::Unavailable);
    for wanted in [2..usize::MAX, 1..2] {
        let before = asked();
        client.acquire(ask(), || 0).await.unwrap_err();
        assert!(wanted.contains(&(asked() - before)), "asked {} times", asked() - before);
    }
    *operator.refuse_with.lock().unwrap() = None;
    client.acquire(ask(), || 0).await.unwrap();
}

/// As a Service does, each connection leads to the next; to `None`, nobody.
async fn one_after_the_other(operators: Vec<Option<Arc<Operator>>>) -> (OperatorClient, tempfile::NamedTempFile) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    tokio::spawn(async move {
        let mut silent = Vec::new();
        for operator in operators {
            let (connection, _) = listener.accept().await.unwrap();
            let Some(operator) = operator else {
                silent.push(connection);
                continue;
            };
            let connection = futures::stream::iter([Ok::<_, std::io::Error>(connection)]).chain(futures::stream::pending());
            tokio::spawn(Server::builder().add_service(ControlServer::new(operator)).serve_with_incoming(connection));
        }
        std::future::pending::<()>().await;
    });
    let token = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(token.path(), "t").unwrap();
    let address = OperatorAddress { url, ca_pem: String::new(), token_file: token.path().to_owned() };
    (OperatorClient::new(address).unwrap(), token)
}

#[tokio::test]
async fn a_new_connection_may_lead_to_another_operator_while_what_is_under_way_ends_on_the_old_one() {
    let (first, second) = (Arc::new(Operator::default()), Arc::new(Operator::default()));
    let (client, _token) = one_after_the_other(vec![Some(Arc::clone(&first)), Some(Arc::clone(&second))]).await;
    let asked = || [&first, &second].map(|operator| operator.tokens.lock().unwrap().len());
    let mut pushes = Box::pin(client.watch().await.unwrap());
    client.acquire(ask(), || 0).await.unwrap();
    client.report(given_back(0)).await.unwrap();
    assert_eq!(asked(), [3, 0]);
    client.connect_anew();
    client.acquire(ask(), || 0).await.unwrap();
    client.report(given_back(1)).await.unwrap();
    assert_eq!(asked(), [3, 2]);
    assert!(pushes.next().await.unwrap().is_ok(), "the old connection goes on");
}

#[tokio::test]
async fn an_operator_that_is_gone_without_a_word_is_not_waited_for_where_another_is_there() {
    let other = Arc::new(Operator::default());
    let (client, _token) = one_after_the_other(vec![None, Some(Arc::clone(&other))]).await;
    let answer = client.acquire(ask(), || 0).await;
    assert!(matches!(answer, Ok(Decision::Granted { .. })), "{answer:?}");
    assert_eq!(other.tokens.lock().unwrap().len(), 1);
}

#[tokio::test]
async fn only_what_can_never_work_counts_as_rejected() {
    let (operator, client, _token) = connected().await;
    for (code, acquire_rejected, report_rejected) in [
        (Code::InvalidArgument, true, true),
        (Code::PermissionDenied, true, false),
        (Code::Unauthenticated, false, false),
        (Code::Unavailable, false, false),
    ] {
        *operator.refuse_with.lock().unwrap() = Some(code);
        let acquire = client.acquire(ask(), || 0).await.unwrap_err();
        let report = client.report(vec![]).await.unwrap_err();
        let rejected = |e: &ClientError| matches!(e, ClientError::Rejected(_));
        assert_eq!((rejected(&acquire), rejected(&report)), (acquire_rejected, report_rejected), "{code:?}");
    }
}

#[tokio::test]
async fn a_token_that_is_none_is_not_told() {
    let (_operator, client, token) = connected().await;
    std::fs::write(token.path(), "bad\u{1}token").unwrap();
    let error = client.report(vec![]).await.unwrap_err().to_string();
    assert!(error.contains("it is not a token") && !error.contains("bad"), "{error}");
}
