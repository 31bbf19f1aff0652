//! The domain: pure decisions over plain data. No I/O, no clock, no async, no Kubernetes.

pub mod allocate;
pub mod allocation;
pub mod amount;
pub mod budget;
pub mod call;
pub mod catalogue;
pub mod cel;
pub mod classify;
pub mod complexity;
pub mod dimensions;
pub mod forecast;
pub mod lease;
pub mod limit;
pub mod money;
pub mod outcome;
pub mod policy;
pub mod price;
pub mod reach;
pub mod recommend;
pub mod rightsize;
pub mod route;
pub mod sensitive;
pub mod split;
pub mod tier_advice;
pub mod usage;
pub mod window;
