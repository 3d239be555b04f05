//! Valid names of certificates and hosts. Pure.

use std::net::IpAddr;

use ipnet::IpNet;

/// Longest name of a certificate: X.509's limit for a common name.
const NAME_BYTES: usize = 64;
/// Longest name of a host, RFC 1035.
const HOST_BYTES: usize = 253;
/// Longest label of a host name.
const LABEL_BYTES: usize = 63;

/// Returns whether a text can be the name of a certificate, and so of its files.
pub(super) fn is_name(name: &str) -> bool {
    let is_plain = |b: u8| b.is_ascii_alphanumeric() || b"._-".contains(&b);
    (1..=NAME_BYTES).contains(&name.len())
        && name.bytes().all(is_plain)
        && name.starts_with(|c: char| c.is_ascii_alphanumeric())
}

/// Returns whether a text can be in a certificate: an address, a host name, or a wildcard for a domain.
pub(super) fn is_host(host: &str) -> bool {
    match host.strip_prefix("*.") {
        // Clients do not accept wildcards for a top-level domain.
        Some(domain) => is_domain(domain) && domain.contains('.'),
        None => host.parse::<IpAddr>().is_ok() || is_domain(host),
    }
}

/// Returns whether an authority may be limited to this: a domain or a network.
pub(super) fn is_permission(permitted: &str) -> bool {
    permitted.parse::<IpNet>().is_ok() || is_domain(permitted)
}

/// Returns whether a text is a domain of ASCII letters; one that ends in a number would be taken for an address.
fn is_domain(name: &str) -> bool {
    let is_plain = |b: u8| b.is_ascii_alphanumeric() || b == b'-' || b == b'_';
    let is_label =
        |label: &str| (1..=LABEL_BYTES).contains(&label.len()) && label.bytes().all(is_plain);
    let last = name.rsplit('.').next().unwrap_or_default();
    name.len() <= HOST_BYTES
        && name.split('.').all(is_label)
        && !last.bytes().all(|b| b.is_ascii_digit())
}

/// Returns whether an authority that is limited to `permitted` may issue certificates for `host`; without limits it
/// may.
pub(super) fn is_permitted(host: &str, permitted: &[String]) -> bool {
    let covers = |one: &String| match (one.parse::<IpNet>(), host.parse::<IpAddr>()) {
        (Ok(net), Ok(ip)) => net.contains(&ip),
        (Err(_), Err(_)) => {
            let (host, domain) = (host.to_ascii_lowercase(), one.to_ascii_lowercase());
            let host = host.strip_prefix("*.").unwrap_or(&host);
            let below = host.strip_suffix(&domain);
            below.is_some_and(|rest| rest.is_empty() || rest.ends_with('.'))
        }
        _ => false,
    };
    permitted.is_empty() || permitted.iter().any(covers)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_never_leads_out_of_its_directory() {
        for good in ["mirror", "build-1.example", "A_1"] {
            assert!(is_name(good), "{good}");
        }
        let long = "a".repeat(65);
        for bad in ["", ".", "..", "../a", "a/b", "-a", "a b", "ä", &long] {
            assert!(!is_name(bad), "{bad}");
        }
    }

    #[test]
    fn hosts_are_addresses_and_names() {
        for good in [
            "localhost",
            "mirror.example",
            "*.a.example",
            "10.0.0.1",
            "::1",
        ] {
            assert!(is_host(good), "{good}");
        }
        for bad in [
            "",
            "*",
            "*.*.example",
            "*.lab",
            "a..b",
            "10.0.0.256",
            "a b",
            "https://a",
            "a:1",
        ] {
            assert!(!is_host(bad), "{bad}");
        }
        assert!(is_permission("10.0.0.0/8") && is_permission("example") && !is_permission("*.a"));
    }

    #[test]
    fn limits_cover_a_domain_with_what_is_below_it_and_a_net() {
        let limits = ["corp.example".to_owned(), "10.0.0.0/8".to_owned()];
        for good in [
            "corp.example",
            "a.Corp.Example",
            "*.corp.example",
            "10.1.2.3",
        ] {
            assert!(is_permitted(good, &limits), "{good}");
        }
        for bad in ["example", "acorp.example", "11.0.0.1", "::1"] {
            assert!(!is_permitted(bad, &limits), "{bad}");
        }
        assert!(is_permitted("anything", &[]));
    }
}
