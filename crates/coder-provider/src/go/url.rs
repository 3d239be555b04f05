//! URLs, as `net/url` of Go 1.26 parses them.

/// The parts of a URL that the provider needs.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub(crate) struct Url {
    /// Scheme in lower case, empty for a relative URL.
    pub(crate) scheme: String,
    /// User and password as written.
    pub(crate) userinfo: Option<String>,
    /// Host with the port.
    pub(crate) host: String,
}

impl Url {
    /// Returns the text after the last colon of the host, if it is a port.
    pub(crate) fn port(&self) -> &str {
        let after_bracket = self.host.rfind(']').map_or(0, |index| index + 1);
        let rest = &self.host[after_bracket..];
        rest.rsplit_once(':').map_or("", |(_, port)| port)
    }

    /// Returns the host without its port.
    pub(crate) fn hostname(&self) -> &str {
        let host = match self.port() {
            "" => self.host.trim_end_matches(':'),
            port => &self.host[..self.host.len() - port.len() - 1],
        };
        host.trim_start_matches('[').trim_end_matches(']')
    }

    /// Returns the root of the same server: scheme, user and host, then a slash.
    pub(crate) fn root(&self) -> String {
        let scheme = match self.scheme.as_str() {
            "" => String::new(),
            scheme => format!("{scheme}:"),
        };
        match (&self.userinfo, self.host.as_str()) {
            (None, "") => format!("{scheme}///"),
            (None, host) => format!("{scheme}//{host}/"),
            (Some(user), host) => format!("{scheme}//{user}@{host}/"),
        }
    }
}

/// Parses a URL into its parts.
///
/// # Errors
/// `parse "…": ` and the problem.
///
/// # Source
/// The behaviour of `url.Parse` according to its documentation and tests.
pub(crate) fn parse_url(text: &str) -> Result<Url, String> {
    parse(text).map_err(|error| format!("parse {text:?}: {error}"))
}

fn parse(text: &str) -> Result<Url, String> {
    let (text, fragment) = text.split_once('#').unwrap_or((text, ""));
    if text.bytes().any(|b| b < b' ' || b == 0x7f) {
        return Err("net/url: invalid control character in URL".to_owned());
    }
    check_escapes(fragment)?;
    let (scheme, rest) = split_scheme(text)?;
    let mut url = Url {
        scheme: scheme.to_lowercase(),
        ..Url::default()
    };
    let rest = rest.split('?').next().unwrap_or_default();
    if !rest.starts_with('/') {
        if !url.scheme.is_empty() {
            return Ok(url); // The rest of a URL such as `mailto:…` is not parsed.
        }
        let segment = rest.split('/').next().unwrap_or_default();
        if segment.contains(':') {
            return Err("first path segment in URL cannot contain colon".to_owned());
        }
    }
    let has_authority =
        rest.starts_with("//") && (!url.scheme.is_empty() || !rest.starts_with("///"));
    let path = match rest.strip_prefix("//").filter(|_| has_authority) {
        Some(rest) => {
            let end = rest.find('/').unwrap_or(rest.len());
            (url.userinfo, url.host) = split_authority(&rest[..end])?;
            &rest[end..]
        }
        None => rest,
    };
    check_escapes(path)?;
    Ok(url)
}

fn split_scheme(text: &str) -> Result<(&str, &str), String> {
    for (index, byte) in text.bytes().enumerate() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' => {}
            b'0'..=b'9' | b'+' | b'-' | b'.' if index > 0 => {}
            b':' if index == 0 => return Err("missing protocol scheme".to_owned()),
            b':' => return Ok((&text[..index], &text[index + 1..])),
            _ => break,
        }
    }
    Ok(("", text))
}

fn split_authority(authority: &str) -> Result<(Option<String>, String), String> {
    let (user, host) = match authority.rsplit_once('@') {
        Some((user, host)) => (Some(user), host),
        None => (None, authority),
    };
    check_host(host)?;
    if let Some(user) = user {
        let allowed = |b: u8| b.is_ascii_alphanumeric() || b"-._:~!$&'()*+,;=%@".contains(&b);
        if !user.bytes().all(allowed) {
            return Err("net/url: invalid userinfo".to_owned());
        }
        check_escapes(user)?;
    }
    Ok((user.map(str::to_owned), host.to_owned()))
}

fn check_host(host: &str) -> Result<(), String> {
    let port = if host.starts_with('[') {
        let end = host.rfind(']').ok_or("missing ']' in host")?;
        &host[end + 1..]
    } else {
        host.find(':').map_or("", |index| &host[index..])
    };
    let digits = port.strip_prefix(':').unwrap_or(port);
    let is_port =
        digits.bytes().all(|b| b.is_ascii_digit()) && (port.is_empty() || port.starts_with(':'));
    if !is_port {
        return Err(format!("invalid port {port:?} after host"));
    }
    let allowed = |c: char| {
        !c.is_ascii() || c.is_ascii_alphanumeric() || "-_.~!$&'()*+,;=:[]<>\"%".contains(c)
    };
    match host.chars().find(|&c| !allowed(c)) {
        Some(bad) => Err(format!(
            "invalid character {:?} in host name",
            bad.to_string()
        )),
        None => check_escapes(host),
    }
}

/// Checks that two hexadecimal digits follow every percent sign.
fn check_escapes(text: &str) -> Result<(), String> {
    let mut rest = text;
    while let Some(index) = rest.find('%') {
        rest = &rest[index..];
        let is_hex = |b: &u8| b.is_ascii_hexdigit();
        if !rest
            .as_bytes()
            .get(1..3)
            .is_some_and(|two| two.iter().all(is_hex))
        {
            let shown: String = rest.chars().take(3).collect();
            return Err(format!("invalid URL escape {shown:?}"));
        }
        rest = &rest[3..];
    }
    Ok(())
}

/// Checks the URL of an external app: a browser needs a scheme and a host in it.
///
/// # Errors
/// The missing part.
pub(crate) fn check_external(text: &str) -> Result<(), String> {
    let url = parse_url(text)?;
    if url.scheme.is_empty() {
        return Err(r#"must include a scheme, for example "https://""#.to_owned());
    }
    if url.hostname().is_empty() {
        return Err(format!("{:?} URLs must include a host", url.scheme));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_that_go_takes_for_a_url_is_one() {
        for good in [
            "",
            "/icon/code.svg",
            "./file.txt",
            "simple",
            "https://example.com:8443/a?b=c#d",
            "http://user:pass@[::1]:80/",
            "mailto:user@example.com",
            "data:text/plain;base64,SGVsbG8=",
            "localhost:8080",
            "http://example.com:",
            "///path",
            "*",
        ] {
            assert!(parse_url(good).is_ok(), "{good}: {:?}", parse_url(good));
        }
    }

    #[test]
    fn what_go_refuses_is_refused() {
        for (bad, why) in [
            (
                "http://example .com",
                r#"invalid character " " in host name"#,
            ),
            ("http://[::1:80", "missing ']' in host"),
            (":x", "missing protocol scheme"),
            ("1:x", "first path segment in URL cannot contain colon"),
            ("http://a:b", r#"invalid port ":b" after host"#),
            ("http://::1/", r#"invalid port "::1" after host"#),
            ("/%zz", r#"invalid URL escape "%zz""#),
            ("a\nb", "net/url: invalid control character in URL"),
            ("http://a b@c/", "net/url: invalid userinfo"),
        ] {
            assert_eq!(parse_url(bad), Err(format!("parse {bad:?}: {why}")));
        }
    }

    #[test]
    fn the_parts_are_found() {
        let url = parse_url("HTTPS://user@example.com:8443/some/path").unwrap();

        assert_eq!((url.port(), url.hostname()), ("8443", "example.com"));
        assert_eq!(url.root(), "https://user@example.com:8443/");
    }

    #[test]
    fn an_external_url_needs_a_scheme_and_a_host() {
        for good in [
            "https://example.com",
            "vscode://coder.coder-remote/open?x=$TOKEN",
        ] {
            assert_eq!(check_external(good), Ok(()));
        }
        for bad in [
            "",
            "my-repo",
            "//example.com",
            "localhost:8080",
            "tel:555",
            "https://",
            "http://:80",
        ] {
            assert!(check_external(bad).is_err(), "{bad}");
        }
    }
}
