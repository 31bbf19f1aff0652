//! From specs to the domain's own types: parsed once, right by construction afterwards.
