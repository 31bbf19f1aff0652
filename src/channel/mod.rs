//! What operator and sidecar say to each other: the protobuf messages and their translation to the domain's types.

/// The generated messages and services.
#[allow(clippy::all, missing_docs)]
pub mod proto {
    tonic::include_proto!("spendkeeper.channel.v1");
}

/// The audience of the tokens with which sidecars prove themselves.
pub const TOKEN_AUDIENCE: &str = "spendkeeper-operator";
