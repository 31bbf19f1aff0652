//! A credential in memory: never printed, wiped when it is dropped.

use std::fmt;

use zeroize::Zeroizing;

/// A provider's API key or a token. Neither `Debug` nor `Display` shows it; [`Secret::expose`] is the only way to read it.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(Zeroizing<String>);

impl Secret {
    pub fn new(value: String) -> Secret {
        Secret(Zeroizing::new(value))
    }

    /// The credential itself, for the one header that carries it.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(redacted)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::channel::proto;

    #[test]
    fn a_credential_is_never_printed() {
        let message = proto::Credential { route: "a/r".into(), backend: "b".into(), value: "sk-live".into() };
        let push = proto::Push { credentials: vec![message.clone()], ..proto::Push::default() };
        for text in [format!("{:?}", Secret::new("sk-live".into())), format!("{message:?}"), format!("{push:?}")] {
            assert!(!text.contains("sk-live"), "{text}");
        }
    }
}
