//! Keeps the CA in its Secret, the serving certificate in memory and the webhook configurations' `caBundle` current.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwapOption;
use k8s_openapi::ByteString;
use k8s_openapi::api::admissionregistration::v1::{MutatingWebhookConfiguration, ValidatingWebhookConfiguration};
use k8s_openapi::api::core::v1::Secret;
use kube::api::{Patch, PatchParams, PostParams};
use kube::{Api, Client};
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use super::authority::{Authority, CertificateError, Serving, validity_of};
use super::{CaStep, ca_step, serving_is_due};
use crate::operator::health::{Need, Readiness};
use crate::operator::metrics::Metrics;

/// Name of the Secret with the CA.
const SECRET: &str = "spendkeeper-ca";
const CURRENT: (&str, &str) = ("tls.crt", "tls.key");
const NEXT: (&str, &str) = ("next.crt", "next.key");
/// Pause between two looks at Secret and webhook configurations; those cannot be watched by name alone.
const PERIOD: Duration = Duration::from_secs(60);
/// Pause after a look that failed.
const RETRY: Duration = Duration::from_secs(1);

/// What the certificates are for.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The operator's namespace.
    pub namespace: String,
    /// Host names and IP addresses that the serving certificate holds for.
    pub names: Vec<String>,
    /// Name of both webhook configurations; empty when there are none to keep.
    pub webhook_configuration: String,
}

/// What has gone wrong with a look at the certificates.
#[derive(Debug, thiserror::Error)]
enum KeeperError {
    #[error("the Secret {SECRET} cannot be read or written: {0}")]
    Secret(kube::Error),
    #[error("the webhook configuration {0} cannot be given the CA: {1}")]
    Webhook(String, kube::Error),
    #[error(transparent)]
    Certificate(#[from] CertificateError),
}

/// What the Secret holds.
#[derive(Clone, Debug)]
struct Authorities {
    current: Authority,
    next: Option<Authority>,
}

impl Authorities {
    /// What clients must trust.
    fn bundle(&self) -> String {
        let next = self.next.as_ref().map_or("", |next| &next.certificate_pem);
        format!("{}{next}", self.current.certificate_pem)
    }

    /// The Secret's data. `ca.crt` is for people and tools; the operator itself does not read it.
    fn data(&self) -> BTreeMap<String, ByteString> {
        let pair =
            |(crt, key): (&str, &str), ca: &Authority| [(crt.to_owned(), ca.certificate_pem.clone()), (key.to_owned(), ca.key_pem.clone())];
        let texts = pair(CURRENT, &self.current).into_iter().chain(self.next.iter().flat_map(|ca| pair(NEXT, ca)));
        texts.chain([("ca.crt".to_owned(), self.bundle())]).map(|(key, text)| (key, ByteString(text.into_bytes()))).collect()
    }
}

/// The CA of `secret` under these keys, unless it is absent or cannot be read: then it is as good as absent.
fn stored(secret: &Secret, (crt, key): (&str, &str)) -> Option<Authority> {
    let text = |name: &str| String::from_utf8(secret.data.as_ref()?.get(name)?.0.clone()).ok();
    match Authority::read(text(crt)?, text(key)?) {
        Ok(authority) => Some(authority),
        Err(error) => {
            tracing::warn!(%error, secret = SECRET, key = crt, "a stored CA is of no use and will be replaced");
            None
        }
    }
}

/// What the CAs should be at `now`, and whether that differs from what they are.
fn advanced(now: i64, current: Option<Authority>, next: Option<Authority>) -> Result<(Authorities, bool), CertificateError> {
    let step = ca_step(now, current.as_ref().map(|ca| ca.validity), next.as_ref().map(|ca| ca.validity));
    let authorities = match (step, current, next) {
        (CaStep::Keep, Some(current), next) => return Ok((Authorities { current, next }, false)),
        (CaStep::Announce, Some(current), _) => Authorities { current, next: Some(Authority::generate(now)?) },
        (CaStep::HandOver, _, Some(current)) => Authorities { current, next: None },
        _ => Authorities { current: Authority::generate(now)?, next: None },
    };
    tracing::info!(?step, "the certificate authority was renewed");
    Ok((authorities, true))
}

/// Hands out the current serving certificate at each TLS handshake.
#[derive(Debug, Default)]
pub struct Resolver(ArcSwapOption<CertifiedKey>);

impl ResolvesServerCert for Resolver {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        self.0.load_full()
    }
}

/// Keeps everything current; see the module's head.
pub struct CertificateKeeper {
    client: Client,
    settings: Settings,
    readiness: Arc<Readiness>,
    metrics: Arc<Metrics>,
    resolver: Arc<Resolver>,
    bundle: tokio::sync::watch::Sender<String>,
    /// The CA that signed the serving certificate, and when that one is valid.
    serving: Option<(String, super::Validity)>,
}

impl CertificateKeeper {
    pub fn new(client: Client, settings: Settings, readiness: Arc<Readiness>, metrics: Arc<Metrics>) -> CertificateKeeper {
        let bundle = tokio::sync::watch::Sender::new(String::new());
        CertificateKeeper { client, settings, readiness, metrics, resolver: Arc::default(), bundle, serving: None }
    }

    pub fn resolver(&self) -> Arc<Resolver> {
        self.resolver.clone()
    }

    /// The CA certificates (PEM) that sidecars are told to trust; empty until the first is there.
    pub fn bundle(&self) -> tokio::sync::watch::Receiver<String> {
        self.bundle.subscribe()
    }

    /// Never returns.
    pub async fn keep_current(mut self) {
        loop {
            let pause = match self.look().await {
                Ok(()) => PERIOD,
                Err(error) => {
                    tracing::warn!(%error, "the certificates are not in order yet; trying again");
                    RETRY
                }
            };
            tokio::time::sleep(pause).await;
        }
    }

    async fn look(&mut self) -> Result<(), KeeperError> {
        let now = k8s_openapi::jiff::Timestamp::now().as_second();
        let authorities = self.authorities(now).await?;
        self.serve(&authorities, now)?;
        let bundle = authorities.bundle();
        self.bundle.send_if_modified(|known| std::mem::replace(known, bundle.clone()) != bundle);
        self.readiness.met(Need::Certificates);
        if !self.settings.webhook_configuration.is_empty() {
            self.give_ca::<MutatingWebhookConfiguration>(&bundle).await?;
            self.give_ca::<ValidatingWebhookConfiguration>(&bundle).await?;
        }
        self.readiness.met(Need::WebhookCa);
        Ok(())
    }

    /// The CAs as they should be now, durable in the Secret.
    async fn authorities(&self, now: i64) -> Result<Authorities, KeeperError> {
        let api: Api<Secret> = Api::namespaced(self.client.clone(), &self.settings.namespace);
        let found = api.get_opt(SECRET).await.map_err(KeeperError::Secret)?;
        let secret = found.clone().unwrap_or_default();
        let (authorities, changed) = advanced(now, stored(&secret, CURRENT), stored(&secret, NEXT))?;
        if !changed {
            return Ok(authorities);
        }
        let mut secret = Secret { data: Some(authorities.data()), ..secret };
        // `replace` carries the resource version that was read, so of two operators one wins and the other looks again.
        let written = if found.is_some() {
            api.replace(SECRET, &PostParams::default(), &secret).await
        } else {
            secret.metadata.name = Some(SECRET.to_owned());
            api.create(&PostParams::default(), &secret).await
        };
        written.map_err(KeeperError::Secret)?;
        Ok(authorities)
    }

    /// Renews the serving certificate if it is due or another CA signs now.
    fn serve(&mut self, authorities: &Authorities, now: i64) -> Result<(), CertificateError> {
        let ca = &authorities.current;
        let in_order = self.serving.as_ref().is_some_and(|(by, validity)| *by == ca.certificate_pem && !serving_is_due(now, *validity));
        if in_order {
            return Ok(());
        }
        let Serving { key, validity } = ca.issue(&self.settings.names, now)?;
        self.resolver.0.store(Some(Arc::new(key)));
        self.serving = Some((ca.certificate_pem.clone(), validity));
        self.metrics.certificate.with_label_values(&["serving"]).set(validity.not_after);
        self.metrics.certificate.with_label_values(&["ca"]).set(validity_of(&ca.certificate_pem)?.not_after);
        let until = k8s_openapi::jiff::Timestamp::from_second(validity.not_after).map(|t| t.to_string()).unwrap_or_default();
        tracing::info!(%until, "a new serving certificate is in use");
        Ok(())
    }

    /// Writes `bundle` into every webhook of the configuration that has another one.
    async fn give_ca<K>(&self, bundle: &str) -> Result<(), KeeperError>
    where
        K: kube::Resource<DynamicType = (), Scope = k8s_openapi::ClusterResourceScope>
            + Clone
            + std::fmt::Debug
            + DeserializeOwned
            + serde::Serialize,
    {
        let name = &self.settings.webhook_configuration;
        let failed = |error| KeeperError::Webhook(format!("{} {name}", K::kind(&())), error);
        let api: Api<K> = Api::all(self.client.clone());
        let configuration = api.get(name).await.map_err(failed)?;
        let configuration = serde_json::to_value(&configuration).map_err(|error| failed(kube::Error::SerdeError(error)))?;
        let operations = bundle_patch(&configuration, bundle);
        if operations.is_empty() {
            return Ok(());
        }
        let patch: json_patch::Patch =
            serde_json::from_value(Value::Array(operations)).map_err(|error| failed(kube::Error::SerdeError(error)))?;
        api.patch(name, &PatchParams::default(), &Patch::Json::<K>(patch)).await.map_err(failed)?;
        tracing::info!(kind = %K::kind(&()), %name, "the webhook configuration has the current CA");
        Ok(())
    }
}

/// JSON patch operations that give `bundle` to the webhooks that lack it; each is guarded by the webhook's name.
fn bundle_patch(configuration: &Value, bundle: &str) -> Vec<Value> {
    let wanted = serde_json::to_value(ByteString(bundle.as_bytes().to_vec())).unwrap_or_default();
    let webhooks = configuration["webhooks"].as_array().into_iter().flatten().enumerate();
    let lacking = webhooks.filter(|(_, webhook)| webhook["clientConfig"]["caBundle"] != wanted);
    lacking
        .flat_map(|(i, webhook)| {
            [
                json!({"op": "test", "path": format!("/webhooks/{i}/name"), "value": webhook["name"]}),
                json!({"op": "add", "path": format!("/webhooks/{i}/clientConfig/caBundle"), "value": wanted}),
            ]
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::operator::certs::{CA_HANDOVER, CA_LIFE};

    const NOW: i64 = 1_800_000_000;

    fn after(duration: Duration) -> i64 {
        NOW + i64::try_from(duration.as_secs()).expect("a short time")
    }

    #[test]
    fn everybody_who_trusted_the_bundle_before_a_handover_trusts_what_is_served_after_it() {
        let (first, changed) = advanced(NOW, None, None).expect("a CA");
        assert!(changed && first.next.is_none());
        let (announced, changed) = advanced(after(CA_LIFE / 2), Some(first.current.clone()), None).expect("two CAs");
        assert!(changed);
        assert_eq!(announced.current.certificate_pem, first.current.certificate_pem, "the old one goes on signing");
        let trusted = announced.bundle();
        let handover = after(CA_LIFE - CA_HANDOVER);
        let (handed, changed) = advanced(handover, Some(announced.current), announced.next).expect("the next CA");
        assert!(changed && trusted.contains(&handed.current.certificate_pem));
        let (_, changed) = advanced(handover, Some(handed.current), None).expect("no change");
        assert!(!changed);
    }

    #[test]
    fn the_secret_gives_back_what_was_put_in() {
        let (first, _) = advanced(NOW, None, None).expect("a CA");
        let both = Authorities { next: Some(Authority::generate(NOW).expect("a CA")), ..first };
        let secret = Secret { data: Some(both.data()), ..Secret::default() };
        let pem = |found: Option<Authority>| found.map(|ca| ca.certificate_pem);
        assert_eq!(pem(stored(&secret, CURRENT)), Some(both.current.certificate_pem.clone()));
        assert_eq!(pem(stored(&secret, NEXT)), both.next.map(|ca| ca.certificate_pem));
    }

    #[test]
    fn only_webhooks_without_the_current_ca_are_patched() {
        let configuration = json!({"webhooks": [
            {"name": "a", "clientConfig": {"service": {}}},
            {"name": "b", "clientConfig": {"caBundle": "Q0E="}},
        ]});
        let patch = bundle_patch(&configuration, "CA");
        assert_eq!(
            patch,
            [
                json!({"op": "test", "path": "/webhooks/0/name", "value": "a"}),
                json!({"op": "add", "path": "/webhooks/0/clientConfig/caBundle", "value": "Q0E="}),
            ]
        );
    }
}
