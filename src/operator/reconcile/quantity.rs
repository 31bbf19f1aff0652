//! Kubernetes quantities as whole numbers, and a container's resources in them.

use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::Container;
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;

use crate::core::rightsize::Resources;

/// Thousandths of the unit: `500m` is 500, `1` is 1,000, `64Mi` is 67,108,864,000. Rounded up; `None` for what is no quantity.
fn thousandths(text: &str) -> Option<u128> {
    const SUFFIXES: [(&str, u128, u128); 13] = [
        ("Ki", 1 << 10, 1),
        ("Mi", 1 << 20, 1),
        ("Gi", 1 << 30, 1),
        ("Ti", 1 << 40, 1),
        ("Pi", 1 << 50, 1),
        ("n", 1, 1_000_000_000),
        ("u", 1, 1_000_000),
        ("m", 1, 1_000),
        ("k", 1_000, 1),
        ("M", 1_000_000, 1),
        ("G", 1_000_000_000, 1),
        ("T", 1_000_000_000_000, 1),
        ("P", 1_000_000_000_000_000, 1),
    ];
    let suffix = SUFFIXES.iter().find(|(suffix, ..)| text.ends_with(suffix));
    let (number, multiply, divide) = suffix.map_or((text, 1, 1), |(s, m, d)| (text.trim_end_matches(s), *m, *d));
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    let digits: u128 = format!("{whole}{fraction}").parse().ok()?;
    let scale = 10_u128.checked_pow(u32::try_from(fraction.len()).ok()?)?;
    Some(digits.checked_mul(multiply)?.checked_mul(1_000)?.div_ceil(scale.checked_mul(divide)?))
}

fn millicores(quantity: &Quantity) -> Option<u64> {
    u64::try_from(thousandths(&quantity.0)?).ok()
}

fn mebibytes(quantity: &Quantity) -> Option<u64> {
    u64::try_from(thousandths(&quantity.0)?.div_ceil(1_000 << 20)).ok()
}

/// What a container of a Deployment requests and is limited to; `None` when there is no such container.
pub fn resources(deployment: &Deployment, container: &str) -> Option<Resources> {
    let containers = &deployment.spec.as_ref()?.template.spec.as_ref()?.containers;
    let container: &Container = containers.iter().find(|c| c.name == container)?;
    let given = container.resources.as_ref();
    let request = |name: &str| given.and_then(|r| r.requests.as_ref()?.get(name).cloned());
    let limit = |name: &str| given.and_then(|r| r.limits.as_ref()?.get(name).cloned());
    Some(Resources {
        cpu_request_millicores: request("cpu").as_ref().and_then(millicores),
        cpu_limit_millicores: limit("cpu").as_ref().and_then(millicores),
        memory_request_mib: request("memory").as_ref().and_then(mebibytes),
        memory_limit_mib: limit("memory").as_ref().and_then(mebibytes),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantities_are_what_kubernetes_says_they_are() {
        for (text, expected) in [("500m", 500), ("0.5", 500), ("1", 1_000), ("2k", 2_000_000), ("100n", 1), ("1.5Gi", 1_610_612_736_000)] {
            assert_eq!(thousandths(text), Some(expected), "{text}");
        }
        for text in ["", "m", "1x", "-1", "1e3"] {
            assert_eq!(thousandths(text), None, "{text}");
        }
        assert_eq!((mebibytes(&Quantity("1Gi".into())), mebibytes(&Quantity("1000000".into()))), (Some(1_024), Some(1)));
    }
}
