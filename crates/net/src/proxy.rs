//! Proxies of connections, from the usual environment variables.

mod exempt;

use url::Url;

pub use self::exempt::{is_exempt, is_loopback};

/// Proxies for each scheme, and hosts that are reached without one.
///
/// # Source
/// Go's `golang.org/x/net/http/httpproxy`: the loopback never goes through a proxy.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Proxies {
    /// Proxy for `https` (and `wss`): the URL may contain a user and a password, and may lack the scheme.
    pub https: Option<String>,
    /// Proxy for `http`, in the same form.
    pub http: Option<String>,
    /// Hosts that are reached directly, see [`is_exempt`].
    pub none: Option<String>,
}

/// Hides the URLs, which may contain passwords.
impl std::fmt::Debug for Proxies {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Proxies")
            .field("https", &self.https.is_some())
            .field("http", &self.http.is_some())
            .field("none", &self.none)
            .finish()
    }
}

/// An invalid URL of a proxy.
#[derive(Debug, thiserror::Error)]
#[error(
    "address of the proxy in `{variable}` cannot be used; it looks like `http://user:password@proxy.example.com:3128`"
)]
pub struct ProxyError {
    /// Variable that contains the URL.
    pub variable: &'static str,
    /// Error of the HTTP library.
    pub source: reqwest::Error,
}

impl Proxies {
    /// Reads `HTTPS_PROXY`, `HTTP_PROXY` and `NO_PROXY`, in upper case first; `variable` looks one up.
    pub(crate) fn from_variables(variable: impl Fn(&str) -> Option<String>) -> Self {
        let either = |name: &str| {
            [name.to_uppercase(), name.to_lowercase()]
                .iter()
                .find_map(|name| variable(name).filter(|value| !value.is_empty()))
        };
        Self {
            https: either("https_proxy"),
            http: either("http_proxy"),
            none: either("no_proxy"),
        }
    }

    /// Reads the environment of this process.
    #[expect(
        clippy::disallowed_methods,
        reason = "the one place where these variables are read"
    )]
    pub fn from_env() -> Self {
        Self::from_variables(|name| std::env::var(name).ok())
    }

    /// Returns whether connections to `url` are direct, whatever proxies there are.
    pub fn bypasses(&self, url: &Url) -> bool {
        let none = self.none.as_deref().unwrap_or_default();
        is_loopback(url) || is_exempt(none, url)
    }

    /// Makes `builder` use the proxies for connections to `url`.
    ///
    /// # Errors
    /// [`ProxyError`] names the variable; the address is not shown.
    pub(super) fn apply(
        &self,
        builder: reqwest::ClientBuilder,
        url: &Url,
    ) -> Result<reqwest::ClientBuilder, ProxyError> {
        // Redirects stay on the same host, so that the decision for the first URL applies to all.
        match self.bypasses(url) {
            true => Ok(builder.no_proxy()),
            false => self.apply_always(builder),
        }
    }

    /// Makes `builder` use the proxies for all connections that are not exempt.
    ///
    /// # Errors
    /// As [`apply`](Self::apply).
    pub(super) fn apply_always(
        &self,
        builder: reqwest::ClientBuilder,
    ) -> Result<reqwest::ClientBuilder, ProxyError> {
        let mut builder = builder.no_proxy(); // reqwest would read the environment by rules of its own.
        if let Some(address) = &self.https {
            let proxy = reqwest::Proxy::https(address.as_str()).map_err(|source| ProxyError {
                variable: "HTTPS_PROXY",
                source: source.without_url(),
            })?;
            builder = builder.proxy(proxy);
        }
        if let Some(address) = &self.http {
            let proxy = reqwest::Proxy::http(address.as_str()).map_err(|source| ProxyError {
                variable: "HTTP_PROXY",
                source: source.without_url(),
            })?;
            builder = builder.proxy(proxy);
        }
        Ok(builder)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn variables_are_read_in_either_case_and_empty_ones_are_none() {
        let proxies = Proxies::from_variables(|name| match name {
            "HTTPS_PROXY" => Some(String::new()),
            "https_proxy" => Some("http://lower:1".to_owned()),
            "HTTP_PROXY" => Some("http://upper:1".to_owned()),
            "http_proxy" => Some("http://lower:1".to_owned()),
            _ => None,
        });

        let expected = Proxies {
            https: Some("http://lower:1".to_owned()),
            http: Some("http://upper:1".to_owned()),
            none: None,
        };
        assert_eq!(proxies, expected);
    }

    #[test]
    fn passwords_of_proxies_are_not_shown() {
        let proxies = Proxies {
            https: Some("http://user:hunter2@:::".to_owned()),
            ..Proxies::default()
        };
        let url = "https://coder.example.com".parse().unwrap();

        let error = proxies.apply(reqwest::Client::builder(), &url).err();

        let shown = format!("{proxies:?} {error:?}");
        assert!(error.is_some() && !shown.contains("hunter2"), "{shown}");
    }
}
