//! Source address of a provider: registry host, namespace, type.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};

/// Registry of addresses without a host in Terraform.
pub const DEFAULT_HOST: &str = "registry.terraform.io";
/// Registry of addresses without a host in OpenTofu.
pub const OPENTOFU_HOST: &str = "registry.opentofu.org";
/// Namespace of an address that is only a type, and of types that a template uses without declaring them.
const LEGACY_NAMESPACE: &str = "hashicorp";
/// Host of providers that are built into the engine, such as `terraform.io/builtin/terraform`.
const BUILTIN_HOST: &str = "terraform.io";

/// Address of a provider, in lower case: `registry.terraform.io/coder/coder`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct ProviderAddr {
    host: String,
    namespace: String,
    kind: String,
}

impl ProviderAddr {
    /// Parses `TYPE`, `NAMESPACE/TYPE` or `HOST/NAMESPACE/TYPE`; the first two get `default_host`.
    ///
    /// # Errors
    /// [`AddrError`] for any other number of parts, and for parts that no registry has. What is accepted is safe
    /// as a path: no part is empty, starts with a dot or has a slash.
    pub fn parse(text: &str, default_host: &str) -> Result<Self, AddrError> {
        let fail = |reason| AddrError {
            text: text.to_owned(),
            reason,
        };
        let parts: Vec<&str> = text.split('/').collect();
        let (host, namespace, kind) = match parts[..] {
            [kind] => (default_host, LEGACY_NAMESPACE, kind),
            [namespace, kind] => (default_host, namespace, kind),
            [host, namespace, kind] => (host, namespace, kind),
            _ => return Err(fail("expected [HOST/]NAMESPACE/TYPE")),
        };
        if !is_host(host) {
            return Err(fail("the host must be a domain name with an optional port"));
        }
        if !is_name(namespace) || !is_name(kind) {
            return Err(fail(
                "namespace and type may have letters, digits, dashes and underscores",
            ));
        }
        Ok(Self {
            host: host.to_lowercase(),
            namespace: namespace.to_lowercase(),
            kind: kind.to_lowercase(),
        })
    }

    /// Returns the address of a provider that a template uses without declaring its source.
    ///
    /// # Errors
    /// [`AddrError`] if `kind` is not a provider's name.
    pub fn implied(kind: &str, default_host: &str) -> Result<Self, AddrError> {
        match kind {
            "terraform" => Self::parse(&format!("{BUILTIN_HOST}/builtin/terraform"), default_host),
            _ => Self::parse(kind, default_host),
        }
    }

    /// Returns the registry: a domain name, with a port if it is not 443.
    pub fn host(&self) -> &str {
        &self.host
    }

    /// Returns the namespace of the provider's publisher.
    pub fn namespace(&self) -> &str {
        &self.namespace
    }

    /// Returns the type, with which resource types begin: `coder` of `coder_agent`.
    pub fn kind(&self) -> &str {
        &self.kind
    }

    /// Returns whether the provider is built into the engine, so that it is never installed.
    pub fn is_builtin(&self) -> bool {
        self.host == BUILTIN_HOST && self.namespace == "builtin"
    }

    /// Returns the address as people write it: without the host if that is Terraform's registry.
    pub fn short(&self) -> String {
        match self.host.as_str() {
            DEFAULT_HOST => format!("{}/{}", self.namespace, self.kind),
            _ => self.to_string(),
        }
    }
}

/// Accepts letters of any language in the host, since browsers and engines convert them.
fn is_host(text: &str) -> bool {
    let (name, port) = text.rsplit_once(':').unwrap_or((text, "443"));
    let is_label = |label: &str| {
        let mut chars = label.chars();
        !label.is_empty()
            && !label.starts_with('-')
            && !label.ends_with('-')
            && chars.all(|c| c.is_alphanumeric() || c == '-')
    };
    let is_name = name.contains('.') || name == "localhost" || text.contains(':');
    port.parse::<u16>().is_ok() && is_name && name.split('.').all(is_label)
}

fn is_name(text: &str) -> bool {
    let is_inner = |c: char| c.is_alphanumeric() || c == '-' || c == '_';
    !text.is_empty() && text.chars().all(is_inner) && !text.starts_with('-') && !text.ends_with('-')
}

impl fmt::Display for ProviderAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}/{}", self.host, self.namespace, self.kind)
    }
}

impl FromStr for ProviderAddr {
    type Err = AddrError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Self::parse(text, DEFAULT_HOST)
    }
}

impl TryFrom<String> for ProviderAddr {
    type Error = AddrError;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse()
    }
}

impl From<ProviderAddr> for String {
    fn from(addr: ProviderAddr) -> Self {
        addr.to_string()
    }
}

/// Returned if a text is not the address of a provider.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("invalid provider address {text:?}: {reason}")]
pub struct AddrError {
    text: String,
    reason: &'static str,
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn missing_parts_are_filled_as_terraform_fills_them() {
        let cases = [
            ("aws", "registry.terraform.io/hashicorp/aws"),
            ("coder/coder", "registry.terraform.io/coder/coder"),
            ("Coder/Coder", "registry.terraform.io/coder/coder"),
            ("example.com/a/b", "example.com/a/b"),
            ("localhost:8443/a/b_c", "localhost:8443/a/b_c"),
        ];
        for (text, full) in cases {
            assert_eq!(text.parse::<ProviderAddr>().unwrap().to_string(), full);
        }
    }

    #[test]
    fn an_address_that_would_leave_its_directory_is_refused() {
        for text in [
            "",
            "/",
            "a/b/c/d",
            "../a/b",
            "a/../b",
            "example.com/./b",
            ".x/a/b",
            "a b/c",
        ] {
            assert!(text.parse::<ProviderAddr>().is_err(), "{text}");
        }
    }

    #[test]
    fn what_the_engine_has_inside_is_implied_as_built_in() {
        let implied = ProviderAddr::implied("terraform", DEFAULT_HOST).unwrap();

        assert!(implied.is_builtin());
        assert!(
            !ProviderAddr::implied("aws", OPENTOFU_HOST)
                .unwrap()
                .is_builtin()
        );
    }

    #[test]
    fn the_short_form_leaves_out_only_terraforms_own_host() {
        let short = |text: &str| text.parse::<ProviderAddr>().unwrap().short();

        assert_eq!(short("coder/coder"), "coder/coder");
        assert_eq!(
            short("registry.opentofu.org/a/b"),
            "registry.opentofu.org/a/b"
        );
    }

    proptest! {
        #[test]
        fn any_text_is_refused_or_survives_a_round_trip(text in "\\PC{0,40}") {
            if let Ok(addr) = text.parse::<ProviderAddr>() {
                prop_assert_eq!(addr.to_string().parse::<ProviderAddr>().unwrap(), addr);
            }
        }
    }
}
