//! Connections: where the database is, TLS, and what is settled for each session.

use std::path::Path;
use std::str::FromStr;
use std::time::Duration;

use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use rustls::{ClientConfig, RootCertStore};
use tokio_postgres::config::{Host, SslMode};
use tokio_postgres::error::SqlState;
use tokio_postgres::{Client, Config};
use tokio_postgres_rustls::MakeRustlsConnect;

use super::line::Line;
use crate::ledger::LedgerError;

/// A server that does not answer a connection for so long is not there.
const CONNECT: Duration = Duration::from_secs(3);

/// Durable before it answers, whatever the role's or the database's default; and a server that lost sight of its client soon lets
/// go of what that client had locked.
const SESSION: &str = "
    SELECT set_config('synchronous_commit', 'on', false) WHERE current_setting('synchronous_commit', true) = 'off';
    SET default_transaction_isolation = 'read committed';
    SET statement_timeout = '4s';
    SET idle_in_transaction_session_timeout = '4s'";

/// Where the ledger's database is, and how it is reached.
#[derive(Clone)]
pub struct Database {
    config: Config,
    tls: MakeRustlsConnect,
    /// Host and database, for messages; never the password.
    pub name: String,
}

/// Why something did not work, by what is to be done about it.
#[derive(Debug)]
pub enum Failure {
    /// Somebody else changed the same rows, or a row came into being: the same again, on what is there now.
    Conflict(String),
    /// The connection is lost, or there is none.
    Unreachable(String),
    /// Trying again does not help.
    Fatal(LedgerError),
}

impl Database {
    /// Parses `postgres://user:password@host:port/database?…`. TLS is required, unless `sslmode=disable` or `prefer` says otherwise or
    /// the server is on this machine; certificates are always verified, by the machine's authorities or those in `ca` (PEM).
    ///
    /// # Errors
    /// When the address is none, or the certificates cannot be read.
    pub fn parse(url: &str, ca: Option<&Path>) -> Result<Database, LedgerError> {
        let unusable = |reason: String| LedgerError::Open { path: "PostgreSQL".to_owned(), reason };
        // The same to this client, which never trusts a certificate that it did not verify.
        let url = url.replace("sslmode=verify-full", "sslmode=require").replace("sslmode=verify-ca", "sslmode=require");
        let mut config = Config::from_str(&url).map_err(|e| unusable(format!("its address cannot be read: {}", reason_of(&e))))?;
        let is_local = |host: &Host| match host {
            Host::Tcp(host) => host == "localhost" || host.parse().is_ok_and(|ip: std::net::IpAddr| ip.is_loopback()),
            Host::Unix(_) => true,
        };
        if !url.contains("sslmode=") && !config.get_hosts().iter().all(is_local) {
            config.ssl_mode(SslMode::Require);
        }
        config.connect_timeout(CONNECT).tcp_user_timeout(CONNECT).keepalives_idle(Duration::from_secs(10));
        config.application_name("spendkeeper");
        let tls = MakeRustlsConnect::new(tls(ca).map_err(unusable)?);
        let hosts: Vec<String> = config.get_hosts().iter().map(shown).collect();
        let name = format!("{}/{}", hosts.join(","), config.get_dbname().unwrap_or(""));
        Ok(Database { config, tls, name })
    }

    /// A connection that is ready for use.
    ///
    /// # Errors
    /// When there is none to be had.
    pub async fn connect(&self) -> Result<Client, Failure> {
        let (client, connection) = self.dial().await?;
        tokio::spawn(connection);
        client.batch_execute(SESSION).await?;
        Ok(client)
    }

    /// The same, which is carried on where its answers are waited for.
    ///
    /// # Errors
    /// As [`connect`](Self::connect).
    pub async fn connect_in_line(&self) -> Result<(Client, Line), Failure> {
        let (client, connection) = self.dial().await?;
        let mut line = Line::new(connection);
        line.during(client.batch_execute(SESSION)).await?;
        Ok((client, line))
    }

    async fn dial(&self) -> Result<(Client, impl Future<Output = ()> + Send + 'static), Failure> {
        let (client, connection) = self.config.connect(self.tls.clone()).await?;
        let until_lost = async move {
            if let Err(error) = connection.await {
                tracing::warn!(error = %reason_of(&error), "a connection to the ledger's database ended");
            }
        };
        Ok((client, until_lost))
    }
}

/// Queries for reports, and changes of the schema, may take longer than a transaction of the ledger.
pub const LONG: Duration = Duration::from_secs(60);

impl Database {
    /// A connection for what may take up to [`LONG`].
    ///
    /// # Errors
    /// When there is none to be had.
    pub async fn connect_for_long(&self) -> Result<Client, Failure> {
        let client = self.connect().await?;
        client.batch_execute(&format!("SET statement_timeout = '{}s'", LONG.as_secs())).await?;
        Ok(client)
    }
}

fn shown(host: &Host) -> String {
    match host {
        Host::Tcp(host) => host.clone(),
        Host::Unix(path) => path.display().to_string(),
    }
}

fn tls(ca: Option<&Path>) -> Result<ClientConfig, String> {
    let mut roots = RootCertStore::empty();
    match ca {
        Some(path) => {
            let unreadable = |e: &dyn std::fmt::Display| format!("the certificates in {} cannot be read: {e}", path.display());
            for certificate in CertificateDer::pem_file_iter(path).map_err(|e| unreadable(&e))? {
                roots.add(certificate.map_err(|e| unreadable(&e))?).map_err(|e| unreadable(&e))?;
            }
        }
        None => {
            roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
        }
    }
    let provider = std::sync::Arc::new(rustls::crypto::ring::default_provider());
    let config = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions().map_err(|e| e.to_string())?;
    Ok(config.with_root_certificates(roots).with_no_client_auth())
}

/// The error and its causes: by itself it says only "db error".
fn reason_of(error: &tokio_postgres::Error) -> String {
    let mut reason = error.to_string();
    let mut cause = std::error::Error::source(error);
    while let Some(next) = cause {
        let text = next.to_string();
        if !reason.contains(&text) {
            reason = format!("{reason}: {text}");
        }
        cause = next.source();
    }
    reason
}

impl From<tokio_postgres::Error> for Failure {
    fn from(error: tokio_postgres::Error) -> Failure {
        let reason = reason_of(&error);
        let Some(code) = error.code() else {
            // Not the server's word: the connection's, but for a value of another type than the schema's.
            let is_conversion = reason.starts_with("error deserializing column");
            return if is_conversion { Failure::Fatal(LedgerError::Corrupt(reason)) } else { Failure::Unreachable(reason) };
        };
        match code {
            &SqlState::T_R_SERIALIZATION_FAILURE
            | &SqlState::T_R_DEADLOCK_DETECTED
            | &SqlState::UNIQUE_VIOLATION
            // What the ledger's statements make of a row that should be there, or should not.
            | &SqlState::DIVISION_BY_ZERO
            | &SqlState::DUPLICATE_TABLE
            // A table's type: two replicas make the first one at once.
            | &SqlState::DUPLICATE_OBJECT
            | &SqlState::LOCK_NOT_AVAILABLE => Failure::Conflict(reason),
            &SqlState::DISK_FULL => Failure::Fatal(LedgerError::NoSpace(reason)),
            &SqlState::READ_ONLY_SQL_TRANSACTION => Failure::Fatal(LedgerError::ReadOnly(reason)),
            &SqlState::DATA_CORRUPTED | &SqlState::INDEX_CORRUPTED => Failure::Fatal(LedgerError::Corrupt(reason)),
            &SqlState::TOO_MANY_CONNECTIONS | &SqlState::IDLE_IN_TRANSACTION_SESSION_TIMEOUT => Failure::Unreachable(reason),
            // Connection exceptions; a password that is being changed; a server that starts, stops, crashed, or took too long.
            code if ["08", "28", "57"].iter().any(|class| code.code().starts_with(class)) => Failure::Unreachable(reason),
            _ => Failure::Fatal(LedgerError::Storage(reason)),
        }
    }
}

impl From<LedgerError> for Failure {
    fn from(error: LedgerError) -> Failure {
        Failure::Fatal(error)
    }
}

impl From<Failure> for LedgerError {
    fn from(failure: Failure) -> LedgerError {
        match failure {
            Failure::Conflict(reason) => LedgerError::Storage(reason),
            Failure::Unreachable(reason) => LedgerError::Unreachable(reason),
            Failure::Fatal(error) => error,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tls_is_required_of_a_server_elsewhere_unless_the_address_says_otherwise() {
        let _ = rustls::crypto::ring::default_provider().install_default();
        for (url, mode) in [
            ("postgres://u:p@db.example:5432/ledger", SslMode::Require),
            ("postgres://u:p@db.example/ledger?sslmode=verify-full", SslMode::Require),
            ("postgres://u:p@db.example/ledger?sslmode=disable", SslMode::Disable),
            ("postgres://u:p@127.0.0.1/ledger", SslMode::Prefer),
        ] {
            let database = Database::parse(url, None).expect(url);
            assert_eq!(database.config.get_ssl_mode(), mode, "{url}");
            assert!(!database.name.contains("p@"), "{}", database.name);
        }
        let no_address = Database::parse("postgres://u:secret@[", None).err().expect("no address").to_string();
        assert!(!no_address.contains("secret"), "{no_address}");
    }
}
