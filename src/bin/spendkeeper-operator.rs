//! The operator: arguments, wiring, run.

use std::io::{ErrorKind, IsTerminal};
use std::net::SocketAddr;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use clap::Parser;
use kube::Client;
use spendkeeper::ledger;
use spendkeeper::operator::args::{Args, Command, ExportCallsArgs, LogFormat, RunArgs};
use spendkeeper::operator::certs::CertificateKeeper;
use spendkeeper::operator::context::Context;
use spendkeeper::operator::control::ControlService;
use spendkeeper::operator::crds;
use spendkeeper::operator::credentials::Credentials;
use spendkeeper::operator::departures::Departures;
use spendkeeper::operator::export_calls::{self, ExportError};
use spendkeeper::operator::health::{self, Need, Readiness};
use spendkeeper::operator::index::Index;
use spendkeeper::operator::kubelet::{self, UsageHistory};
use spendkeeper::operator::leader::{Candidate, RENEW_DEADLINE};
use spendkeeper::operator::metrics::Metrics;
use spendkeeper::operator::roster::Roster;
use spendkeeper::operator::test_call;
use spendkeeper::operator::tls::TlsListener;
use spendkeeper::operator::webhook::{self, Webhook};
use spendkeeper::operator::{reconcile, replicas, runaways};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;
use tokio::task::JoinSet;

/// How long calls under way may take to end once the operator stops; the pod's own grace period is longer.
const DRAIN: Duration = Duration::from_secs(10);

#[tokio::main]
async fn main() -> ExitCode {
    let args = Args::parse();
    init_logs(&args);
    // Whoever was first has installed the same provider.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let done = match args.command {
        Command::Run(run) => operate(*run).await,
        Command::InstallCrds => install_crds().await,
        Command::TestCall { model, upstream_listen } => test_call(&model, upstream_listen).await,
        Command::ExportCalls(args) => export_calls(&args).await,
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!("{error:#}");
            ExitCode::FAILURE
        }
    }
}

fn init_logs(args: &Args) {
    let filter = tracing_subscriber::EnvFilter::new(&args.log);
    let colours = std::io::stderr().is_terminal();
    let logs = tracing_subscriber::fmt().with_env_filter(filter).with_ansi(colours).with_writer(std::io::stderr);
    match args.log_format {
        LogFormat::Text => logs.init(),
        LogFormat::Json => logs.json().flatten_event(true).init(),
    }
}

async fn client() -> anyhow::Result<Client> {
    Client::try_default().await.context("no way to the Kubernetes API: neither a service account nor a kubeconfig works")
}

async fn install_crds() -> anyhow::Result<()> {
    Ok(crds::install(client().await?).await?)
}

async fn export_calls(args: &ExportCallsArgs) -> anyhow::Result<()> {
    match export_calls::run(args, &mut std::io::BufWriter::new(std::io::stdout())).await {
        // Whoever reads has seen enough.
        Err(ExportError::Output(error)) if error.kind() == ErrorKind::BrokenPipe => Ok(()),
        done => Ok(done?),
    }
}

async fn test_call(model: &str, upstream: SocketAddr) -> anyhow::Result<()> {
    let cost = test_call::run(model, upstream).await?;
    tracing::info!("one call went through the sidecar to {model} and back, and was charged ${cost}");
    Ok(())
}

/// Serves until told to stop, leads while it can, and leaves everything in order. With a ledger that several may write, every replica
/// serves and one of them leads; else the leader alone serves, and the others wait.
async fn operate(args: RunArgs) -> anyhow::Result<()> {
    let client = client().await?;
    let (readiness, metrics) = (Arc::new(Readiness::default()), Arc::new(Metrics::new()));
    let mut told_to_stop = std::pin::pin!(told_to_stop()?);
    let health = tokio::net::TcpListener::bind(args.http_listen).await.with_context(|| format!("cannot listen on {}", args.http_listen))?;
    let pages = health::pages(readiness.clone(), metrics.clone());
    let pages = tokio::spawn(async move { axum::serve(health, pages).await });

    let mut candidate = Candidate::new(client.clone(), &args.namespace, &args.service, &args.identity());
    let is_shared = ledger::is_shared(&args.ledger.ledger);
    if !is_shared {
        tokio::select! {
            _ = candidate.lead(Duration::MAX) => {}
            () = &mut told_to_stop => return Ok(()),
        }
    }
    readiness.met(Need::Leadership);

    let mut running = Running::start(&args, client, readiness, metrics).await?;
    let ended = running.until(&mut candidate, told_to_stop).await;
    // Who may serve beside this one leads on at once; who may not waits until the ledger is closed.
    if is_shared && ended.is_ok() {
        candidate.resign().await;
    }
    running.stop().await;
    pages.abort();
    if !is_shared && ended.is_ok() {
        candidate.resign().await;
    }
    ended
}

/// Ends with the first SIGTERM or SIGINT.
fn told_to_stop() -> anyhow::Result<impl Future<Output = ()>> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    Ok(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
        tracing::info!("stopping");
    })
}

/// What runs while this operator serves.
struct Running {
    context: Arc<Context>,
    roster: Arc<Roster>,
    metrics: Arc<Metrics>,
    /// Who reports Events.
    identity: String,
    /// Watches and the like: they go on until they are aborted.
    background: JoinSet<()>,
    /// Webhook and control channel: they end by themselves once `stop` is true.
    servers: JoinSet<anyhow::Result<()>>,
    stop: watch::Sender<bool>,
}

impl Running {
    async fn start(args: &RunArgs, client: Client, readiness: Arc<Readiness>, metrics: Arc<Metrics>) -> anyhow::Result<Running> {
        let ledger = ledger::open(&args.ledger.ledger, args.ledger_options()).await?;
        readiness.met(Need::Ledger);
        let mut background = JoinSet::new();
        let mut servers = JoinSet::new();
        let stop = watch::Sender::new(false);
        let context = Arc::new(Context {
            index: Arc::new(Index::start(&client, &args.namespace, &mut background)),
            client: client.clone(),
            ledger_changes: ledger.changes(),
            ledger,
            refusals: Default::default(),
            recalls: Default::default(),
            usage: Arc::new(UsageHistory::default()),
            runaways: Default::default(),
            outages: Default::default(),
            replicas: Default::default(),
            namespace: args.namespace.clone(),
            apply_approved: args.apply_approved,
        });
        let keeper = CertificateKeeper::new(client.clone(), args.certificates(), readiness.clone(), metrics.clone());
        let (certificate, ca) = (keeper.resolver(), keeper.bundle());
        background.spawn(keeper.keep_current());

        let listener = TlsListener::bind(args.webhook_listen, certificate.clone(), &[b"http/1.1"]).await;
        let listener = listener.with_context(|| format!("cannot listen on {}", args.webhook_listen))?;
        let webhook = Webhook {
            client: client.clone(),
            operator_namespace: args.namespace.clone(),
            sidecar: args.sidecar(),
            ca,
            metrics: metrics.clone(),
        };
        let stopped = stopped(stop.subscribe());
        servers.spawn(async move {
            let served = axum::serve(listener, webhook::router(Arc::new(webhook))).with_graceful_shutdown(stopped).await;
            served.context("the webhook's server failed")
        });

        let credentials = Credentials::new(client);
        let roster = Arc::new(Roster::default());
        background.spawn(credentials.clone().keep_current());
        background.spawn(follow_cluster(context.clone(), roster.clone(), credentials.clone(), readiness.clone()));
        background.spawn(runaways::keep_looking(context.clone()));
        if ledger::is_shared(&args.ledger.ledger) {
            background.spawn(replicas::converse(context.clone(), metrics.clone()));
        }
        if args.kubelet_metrics {
            background.spawn(kubelet::collect(context.clone(), args.kubelet_interval()));
        }

        let listener = TlsListener::bind(args.control_listen, certificate, &[b"h2"]).await;
        let listener = listener.with_context(|| format!("cannot listen on {}", args.control_listen))?;
        readiness.met(Need::ControlChannel);
        let control = ControlService::new(context.clone(), roster.clone(), credentials, metrics.clone(), stop.subscribe());
        servers.spawn(async move { control.serve(listener).await.context("the control channel's server failed") });
        Ok(Running { context, roster, metrics, identity: args.identity(), background, servers, stop })
    }

    /// Runs until told to stop; an error when leadership is lost or a part fails.
    async fn until(&mut self, candidate: &mut Candidate, told_to_stop: impl Future<Output = ()>) -> anyhow::Result<()> {
        let leading = lead(candidate, self.context.clone(), self.roster.clone(), self.metrics.clone(), self.identity.clone());
        tokio::select! {
            () = told_to_stop => Ok(()),
            error = leading => Err(error),
            Some(ended) = self.background.join_next() => Err(anyhow::anyhow!("a background task ended: {ended:?}")),
            Some(ended) = self.servers.join_next() => Err(anyhow::anyhow!("a server ended: {ended:?}")),
        }
    }

    /// Lets calls under way end, and closes the ledger.
    async fn stop(mut self) {
        self.stop.send_replace(true);
        let drained = tokio::time::timeout(DRAIN, async { while self.servers.join_next().await.is_some() {} }).await;
        if drained.is_err() {
            tracing::warn!("calls were still under way after {DRAIN:?}; they are cut off");
        }
        self.servers.shutdown().await;
        self.background.shutdown().await;
        self.context.ledger.close().await;
    }
}

/// Leads once nobody else does: settles what pods that are gone have held, reconciles, writes. Returns why that has ended.
async fn lead(
    candidate: &mut Candidate,
    context: Arc<Context>,
    roster: Arc<Roster>,
    metrics: Arc<Metrics>,
    identity: String,
) -> anyhow::Error {
    if !candidate.lead(RENEW_DEADLINE).await {
        return anyhow::anyhow!("the API server could not be asked for {RENEW_DEADLINE:?}, so budgets may have changed");
    }
    tracing::info!("this operator leads");
    metrics.leader.with_label_values::<&str>(&[]).set(1);
    // Dropped, it ends what runs in it.
    let mut work = JoinSet::new();
    work.spawn(Departures::new(context.clone(), roster, metrics.clone()).keep_settling());
    work.spawn(reconcile::run(context, metrics, identity));
    tokio::select! {
        () = candidate.keep_leading() => anyhow::anyhow!("leadership is lost: another operator may lead now"),
        Some(ended) = work.join_next() => anyhow::anyhow!("a task of the leader ended: {ended:?}"),
    }
}

async fn stopped(mut stop: watch::Receiver<bool>) {
    // An error means that whoever stops the operator is gone already.
    let _ = stop.wait_for(|stop| *stop).await;
}

async fn follow_cluster(context: Arc<Context>, roster: Arc<Roster>, credentials: Arc<Credentials>, readiness: Arc<Readiness>) {
    let known = async {
        context.index.ready().await;
        readiness.met(Need::Index);
    };
    tokio::join!(known, roster.keep_current(&context, &credentials));
}
