//! Meaning of `NO_PROXY`. Pure.
//!
//! # Source
//! Go's `golang.org/x/net/http/httpproxy`, so that the daemon reaches the same hosts as programs beside it.

use std::net::IpAddr;

use url::{Host, Url};

use crate::network::Network;

/// Returns whether a list exempts `url` from proxies. Its entries are separated by commas: `*` for everything, an
/// address, a network such as `10.0.0.0/8`, a domain with all below it, or `.example.com` and `*.example.com` for
/// those below it alone. All but networks may end with a port. Invalid entries exempt nothing.
pub fn is_exempt(list: &str, url: &Url) -> bool {
    let (Some(host), Some(port)) = (url.host(), url.port_or_known_default()) else {
        return false;
    };
    let target = match host {
        Host::Ipv4(address) => Target::Address(IpAddr::from(address)),
        Host::Ipv6(address) => Target::Address(IpAddr::from(address).to_canonical()),
        Host::Domain(name) => Target::Name(name.trim_end_matches('.').to_ascii_lowercase()),
    };
    let mut entries = list.split(',').map(|entry| entry.trim().to_lowercase());
    entries.any(|entry| match entry.split_once('/') {
        _ if entry == "*" => true,
        Some(_) => target.is_in(&entry),
        None => target.is(&entry, port),
    })
}

/// Returns whether `url` is on this machine, for which no proxy is ever used.
pub fn is_loopback(url: &Url) -> bool {
    match url.host() {
        Some(Host::Domain(name)) => name.eq_ignore_ascii_case("localhost"),
        Some(Host::Ipv4(address)) => address.is_loopback(),
        Some(Host::Ipv6(address)) => IpAddr::from(address).to_canonical().is_loopback(),
        None => false,
    }
}

enum Target {
    Address(IpAddr),
    Name(String),
}

impl Target {
    fn is_in(&self, network: &str) -> bool {
        match (self, network.parse::<Network>()) {
            (Self::Address(address), Ok(network)) => network.contains(*address),
            (Self::Address(_) | Self::Name(_), _) => false,
        }
    }

    fn is(&self, entry: &str, port: u16) -> bool {
        let (host, wanted) = split_port(entry);
        if host.is_empty() || wanted.is_some_and(|wanted| wanted.parse() != Ok(port)) {
            return false;
        }
        let address = host.trim_start_matches('[').trim_end_matches(']').parse();
        match (self, address) {
            (Self::Address(ours), Ok(theirs)) => *ours == IpAddr::to_canonical(&theirs),
            (Self::Name(name), Err(_)) => {
                let below = host.strip_prefix('*').unwrap_or(host);
                match below.strip_prefix('.') {
                    Some(domain) => is_below(name, domain),
                    None => name == below || is_below(name, below),
                }
            }
            (Self::Address(_), Err(_)) | (Self::Name(_), Ok(_)) => false,
        }
    }
}

fn is_below(name: &str, domain: &str) -> bool {
    let front = name.strip_suffix(domain);
    front.is_some_and(|front| front.ends_with('.') && !domain.is_empty())
}

/// Splits off the port. An IPv6 address has colons of its own, and a port only after brackets.
fn split_port(entry: &str) -> (&str, Option<&str>) {
    match entry.rsplit_once(':') {
        Some((host, port)) if !host.contains(':') || host.ends_with(']') => (host, Some(port)),
        _ => (entry, None),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(list: &str, exempt: &[&str], others: &[&str]) {
        for (urls, expected) in [(exempt, true), (others, false)] {
            for url in urls {
                let found = is_exempt(list, &url.parse().unwrap());
                assert_eq!(found, expected, "`{list}` and {url}");
            }
        }
    }

    #[test]
    fn a_domain_has_all_below_it_and_one_with_a_dot_only_those() {
        let (own, below) = ("https://Example.com", "https://a.b.example.com:8443");
        let other = "https://notexample.com";
        check("example.com", &[own, below], &[other]);
        check("  EXAMPLE.COM ,x", &[own, below], &[other]);
        check(".example.com", &[below], &[own, other]);
        check("*.example.com", &[below], &[own, other]);
        check("", &[], &[own]);
        check(" , ,:443,.,/8,*.", &[], &[own, below]);
        check("x,*", &[own, below, other, "http://10.0.0.1"], &[]);
    }

    #[test]
    fn a_port_narrows_an_entry_and_the_schemes_own_port_counts() {
        let coder = "https://coder.example.com";
        check("example.com:443", &[coder], &["http://coder.example.com"]);
        check(
            "coder.example.com:8443",
            &["https://coder.example.com:8443"],
            &[coder],
        );
        check("10.1.2.3:80", &["http://10.1.2.3"], &["https://10.1.2.3"]);
        check(
            "[fd00::1]:443",
            &["https://[fd00::1]"],
            &["http://[fd00::1]"],
        );
    }

    #[test]
    fn addresses_and_networks_are_compared_as_such() {
        check("10.1.2.3", &["http://10.1.2.3:9"], &["http://10.1.2.4"]);
        check("fd00::1", &["http://[fd00:0::1]"], &["http://[fd00::2]"]);
        check(
            "10.0.0.0/8",
            &["http://10.255.0.1:81"],
            &["http://11.0.0.1"],
        );
        check(
            "192.168.4.0/22",
            &["http://192.168.7.255"],
            &["http://192.168.8.0"],
        );
        check("fd00::/8", &["https://[fdab::1]"], &["https://[fe80::1]"]);
        check(
            "0.0.0.0/0",
            &["http://1.2.3.4"],
            &["http://[fd00::1]", "http://name"],
        );
        check(
            "10.0.0.0/33,10.0.0.0/x,10.0.0.0/-1",
            &[],
            &["http://10.0.0.0"],
        );
    }

    #[test]
    fn only_this_machine_is_loopback() {
        let is = |url: &str| is_loopback(&url.parse().unwrap());
        assert!(is("http://localhost:1") && is("http://127.9.9.9") && is("http://[::1]"));
        assert!(!is("http://localhost.example.com") && !is("http://10.0.0.1"));
    }
}
