use std::sync::{Arc, Mutex};

use tokio::net::TcpListener;
use tokio_stream::wrappers::TcpListenerStream;
use tonic::Response;
use tonic::transport::Server;

use super::*;
use crate::channel::proto::control_server::{Control, ControlServer};
use crate::channel::proto::{AcquireResponse, BriefRequest, Push, ReportResponse};
use crate::core::amount::Amount;
use crate::core::lease::LeaseId;
use crate::core::limit::LimitKey;
use crate::core::policy::Policy;

/// An operator that notes who calls, and answers as it is told.
#[derive(Default)]
struct Operator {
    tokens: Mutex<Vec<String>>,
    /// How each came, and what it said.
    reports: Mutex<Vec<(&'static str, Vec<Reported>)>>,
    /// It knows no reports in few bytes.
    is_old: bool,
    refuse_with: Mutex<Option<Code>>,
}

impl Operator {
    fn admit<T>(&self, request: Request<T>) -> Result<T, Status> {
        let token = request.metadata().get("authorization").unwrap().to_str().unwrap().to_owned();
        self.tokens.lock().unwrap().push(token);
        match *self.refuse_with.lock().unwrap() {
            Some(code) => Err(Status::new(code, "no")),
            None => Ok(request.into_inner()),
        }
    }
}

#[tonic::async_trait]
impl Control for Arc<Operator> {
    type WatchStream = futures::stream::BoxStream<'static, Result<Push, Status>>;

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

    async fn report(&self, request: Request<ReportRequest>) -> Result<Response<ReportResponse>, Status> {
        let report = convert::report_from_wire(self.admit(request)?).unwrap();
        self.reports.lock().unwrap().push(("whole", report));
        Ok(Response::new(ReportResponse {}))
    }

    async fn report_brief(&self, request: Request<BriefRequest>) -> Result<Response<ReportResponse>, Status> {
        if self.is_old {
            return Err(Status::unimplemented(""));
        }
        let report = convert::brief_from_wire(self.admit(request)?).unwrap();
        self.reports.lock().unwrap().push(("brief", report));
        Ok(Response::new(ReportResponse {}))
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

#[tokio::test]
async fn every_request_carries_the_token_and_the_next_one_once_it_is_refused() {
    let (operator, client, token) = connected().await;
    let granted = client.acquire(ask(), || 0).await.unwrap();
    assert_eq!(granted, Decision::Granted { granted: ask().want, valid_for_ms: 9, left: None });
    std::fs::write(token.path(), "second").unwrap();
    *operator.refuse_with.lock().unwrap() = Some(Code::Unauthenticated);
    let report = || client.report(vec![Reported::GivenBack { lease: LeaseId("l".into()), seq: 2, amount: Amount::ZERO }]);
    report().await.unwrap_err();
    *operator.refuse_with.lock().unwrap() = None;
    report().await.unwrap();
    assert_eq!(*operator.tokens.lock().unwrap(), ["Bearer first", "Bearer first", "Bearer second"]);
    assert_eq!(operator.reports.lock().unwrap()[0].1.len(), 1);
}

#[tokio::test]
async fn an_operator_that_knows_no_short_reports_is_told_by_long_ones() {
    let report = || vec![Reported::GivenBack { lease: LeaseId("l".into()), seq: 2, amount: Amount::ZERO }];
    for (is_old, how) in [(false, "brief"), (true, "whole")] {
        let (operator, client, _token) = connected_to(Operator { is_old, ..Operator::default() }).await;
        for _ in 0..2 {
            client.report(report()).await.unwrap();
        }
        assert_eq!(*operator.reports.lock().unwrap(), vec![(how, report()); 2]);
    }
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
    assert_eq!(asked(), [2, 0]);
    client.connect_anew();
    client.acquire(ask(), || 0).await.unwrap();
    assert_eq!(asked(), [2, 1]);
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
