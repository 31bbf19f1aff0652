//! Making and reading certificates; no cluster here.

use std::time::Duration;

use rcgen::{BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose, date_time_ymd};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use rustls::sign::CertifiedKey;

use super::{CA_LIFE, SERVING_LIFE, Validity};

/// Why a certificate could not be made or read.
#[derive(Debug, thiserror::Error)]
pub enum CertificateError {
    #[error("a certificate cannot be made: {0}")]
    Make(#[from] rcgen::Error),
    #[error("{what} cannot be read: {reason}")]
    Read { what: &'static str, reason: String },
    #[error("the serving certificate cannot be used: {0}")]
    Use(#[from] rustls::Error),
}

fn unreadable(what: &'static str) -> impl Fn(String) -> CertificateError {
    move |reason| CertificateError::Read { what, reason }
}

/// A certificate authority, with its key.
#[derive(Clone)]
pub struct Authority {
    pub certificate_pem: String,
    pub key_pem: String,
    pub validity: Validity,
}

/// Without the key: it must not reach a log.
impl std::fmt::Debug for Authority {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Authority").field("validity", &self.validity).finish_non_exhaustive()
    }
}

/// A serving certificate, ready for TLS.
#[derive(Debug)]
pub struct Serving {
    pub key: CertifiedKey,
    pub validity: Validity,
}

impl Authority {
    /// A new CA, valid from `now` (Unix seconds).
    pub fn generate(now: i64) -> Result<Authority, CertificateError> {
        let validity = Validity::starting(now, CA_LIFE);
        let mut params = params("Spendkeeper CA", validity);
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let key = KeyPair::generate()?;
        let certificate = params.self_signed(&key)?;
        Ok(Authority { certificate_pem: certificate.pem(), key_pem: key.serialize_pem(), validity })
    }

    /// The CA that was stored as these two texts.
    pub fn read(certificate_pem: String, key_pem: String) -> Result<Authority, CertificateError> {
        let validity = validity_of(&certificate_pem)?;
        KeyPair::from_pem(&key_pem)?;
        Ok(Authority { certificate_pem, key_pem, validity })
    }

    /// A serving certificate for `names` (host names or IP addresses), valid from `now`.
    pub fn issue(&self, names: &[String], now: i64) -> Result<Serving, CertificateError> {
        let validity = Validity::starting(now, SERVING_LIFE);
        let mut params = params("spendkeeper-operator", validity);
        params.subject_alt_names = CertificateParams::new(names)?.subject_alt_names;
        params.use_authority_key_identifier_extension = true;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        let issuer = Issuer::from_ca_cert_pem(&self.certificate_pem, KeyPair::from_pem(&self.key_pem)?)?;
        let key = KeyPair::generate()?;
        let certificate = params.signed_by(&key, &issuer)?;
        let private = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(key.serialize_der()));
        let key = CertifiedKey::from_der(vec![certificate.der().clone()], private, &rustls::crypto::ring::default_provider())?;
        Ok(Serving { key, validity })
    }
}

fn params(name: &str, validity: Validity) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = rcgen::DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, name);
    let at = |unix: i64| date_time_ymd(1970, 1, 1) + Duration::from_secs(u64::try_from(unix).unwrap_or(0));
    params.not_before = at(validity.not_before);
    params.not_after = at(validity.not_after);
    params
}

/// From when to when the first certificate of `pem` is valid.
pub fn validity_of(pem: &str) -> Result<Validity, CertificateError> {
    let broken = unreadable("the CA certificate");
    let der = CertificateDer::from_pem_slice(pem.as_bytes()).map_err(|error| broken(error.to_string()))?;
    let (_, parsed) = x509_parser::parse_x509_certificate(&der).map_err(|error| broken(error.to_string()))?;
    let validity = parsed.validity();
    Ok(Validity { not_before: validity.not_before.timestamp(), not_after: validity.not_after.timestamp() })
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: i64 = 1_800_000_000;

    #[test]
    fn a_ca_survives_being_stored() {
        let made = Authority::generate(NOW).expect("a CA");
        let read = Authority::read(made.certificate_pem.clone(), made.key_pem.clone()).expect("the same CA");
        assert_eq!(read.validity, made.validity);
        assert_eq!(read.validity, Validity::starting(NOW, CA_LIFE));
    }

    #[test]
    fn a_serving_certificate_is_trusted_for_its_names_by_whoever_trusts_the_ca() {
        use rustls::client::danger::ServerCertVerifier;
        let ca = Authority::generate(NOW).expect("a CA");
        let serving = ca.issue(&["operator.ns.svc".into(), "127.0.0.1".into()], NOW).expect("a certificate");
        let mut roots = rustls::RootCertStore::empty();
        roots.add(CertificateDer::from_pem_slice(ca.certificate_pem.as_bytes()).expect("PEM")).expect("a root");
        let provider = std::sync::Arc::new(rustls::crypto::ring::default_provider());
        let verifier = rustls::client::WebPkiServerVerifier::builder_with_provider(roots.into(), provider).build().expect("a verifier");
        let verify = |name: &'static str, now: i64| {
            let name = name.try_into().expect("a server name");
            let at = rustls::pki_types::UnixTime::since_unix_epoch(Duration::from_secs(now.unsigned_abs()));
            verifier.verify_server_cert(&serving.key.cert[0], &[], &name, &[], at).is_ok()
        };
        assert!(verify("operator.ns.svc", NOW) && verify("127.0.0.1", NOW));
        assert!(!verify("elsewhere.svc", NOW));
        assert!(!verify("operator.ns.svc", NOW + 31 * 86_400), "it ends");
    }

    #[test]
    fn a_key_never_shows_in_debug_output() {
        let ca = Authority::generate(NOW).expect("a CA");
        assert!(!format!("{ca:?}").contains("KEY"));
    }
}
