//! What operator and sidecar say to each other: the protobuf messages and their translation to the domain's types.
//!
//! [`message`] has the types that both ends use, [`convert`] their translation to and from the wire, [`secret`] the
//! wrapper that keeps a credential out of logs, and [`client`] the sidecar's end of the connection.

pub mod client;
pub mod convert;
pub mod message;
pub mod secret;

/// The generated messages and services.
#[allow(clippy::all, missing_docs)]
pub mod proto {
    tonic::include_proto!("spendkeeper.channel.v1");

    /// Names whose credential it is, never the credential.
    impl std::fmt::Debug for Credential {
        fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            write!(f, "Credential({}, {}, redacted)", self.route, self.backend)
        }
    }
}

/// The audience of the tokens with which sidecars prove themselves.
pub const TOKEN_AUDIENCE: &str = "spendkeeper-operator";
