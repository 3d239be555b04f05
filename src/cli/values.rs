//! Values of options, in the form that Coder's command line accepts.

use std::{
    convert::Infallible,
    fmt, io,
    net::{Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, ToSocketAddrs as _},
    str::FromStr,
    time::Duration,
};

/// A list as CSV; the option may be repeated, and each occurrence adds to it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Csv(Vec<String>);

impl Csv {
    /// Returns the entries of all lists, in order.
    pub(super) fn all(lists: &[Self]) -> impl Iterator<Item = &str> {
        lists.iter().flat_map(|list| &list.0).map(String::as_str)
    }
}

impl FromStr for Csv {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (mut fields, mut rest) = (Vec::new(), text);
        while !rest.is_empty() {
            let (field, behind) = match rest.strip_prefix('"') {
                Some(quoted) => unquote(quoted)?,
                None => match rest.split_once(',') {
                    Some((field, behind)) => (field.to_owned(), Some(behind)),
                    None => (rest.to_owned(), None),
                },
            };
            fields.push(field);
            rest = behind.unwrap_or_default();
        }
        Ok(Self(fields))
    }
}

/// Splits off a quoted field, in which `""` stands for one quote, and returns what follows its comma.
fn unquote(text: &str) -> Result<(String, Option<&str>), String> {
    let (mut field, mut rest) = (String::new(), text);
    loop {
        let (piece, behind) = rest.split_once('"').ok_or("a quote is not closed")?;
        field.push_str(piece);
        match behind.chars().next() {
            Some('"') => {
                field.push('"');
                rest = &behind[1..];
            }
            Some(',') => return Ok((field, Some(&behind[1..]))),
            None => return Ok((field, None)),
            Some(_) => return Err("a comma must follow a closing quote".to_owned()),
        }
    }
}

/// Parses a number of bytes, in units of a thousand: `4700MB`, `50G`.
pub(super) fn bytes(text: &str) -> Result<u64, String> {
    let wrong = || "expected a number with B, KB, MB, GB or TB".to_owned();
    let digits = text.trim_end_matches(|c: char| !c.is_ascii_digit());
    let unit = match text[digits.len()..].trim() {
        "" | "B" => 1,
        "K" | "KB" => 1_000,
        "M" | "MB" => 1_000_000,
        "G" | "GB" => 1_000_000_000_u64,
        "T" | "TB" => 1_000_000_000_000,
        _ => return Err(wrong()),
    };
    let number: Option<u64> = digits.parse().ok();
    number
        .and_then(|number| number.checked_mul(unit))
        .ok_or_else(wrong)
}

/// Parses a limit of at least so many seconds: a daemon sends a heartbeat each second.
pub(super) fn limit<const SECONDS: u64>(text: &str) -> Result<Duration, String> {
    let limit = humantime::parse_duration(text).map_err(|error| error.to_string())?;
    if limit < Duration::from_secs(SECONDS) {
        return Err(format!("it must be at least {SECONDS}s"));
    }
    Ok(limit)
}

/// Parses `true` or `false` in all the forms that Go accepts.
pub(super) fn boolean(text: &str) -> Result<bool, String> {
    match text {
        "1" | "t" | "T" | "true" | "TRUE" | "True" => Ok(true),
        "0" | "f" | "F" | "false" | "FALSE" | "False" => Ok(false),
        _ => Err("expected `true` or `false`".to_owned()),
    }
}

/// Address to listen on, `host:port`. Without a host it means every address of the machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct ListenAddress {
    /// Name or address of the host, without brackets.
    pub(super) host: String,
    /// Port; 0 for any that is free.
    pub(super) port: u16,
}

impl FromStr for ListenAddress {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let wrong = || "expected `host:port`".to_owned();
        let (host, port) = text.rsplit_once(':').ok_or_else(wrong)?;
        let port = port.parse().map_err(|_| wrong())?;
        let bare = host
            .strip_prefix('[')
            .and_then(|host| host.strip_suffix(']'));
        let host = match bare {
            Some(host) => host,
            None if host.contains(':') => return Err(wrong()),
            None if host.is_empty() => "::",
            None => host,
        };
        Ok(Self {
            host: host.to_owned(),
            port,
        })
    }
}

impl ListenAddress {
    /// Returns the address to bind. For every address of the machine that is the IPv6 one, which accepts IPv4 as
    /// well, where IPv6 exists.
    ///
    /// # Errors
    /// If the host name cannot be resolved.
    pub(super) fn resolve(&self) -> io::Result<SocketAddr> {
        let every = (Ipv6Addr::UNSPECIFIED, 0);
        if self.host == "::" && TcpListener::bind(every).is_err() {
            return Ok((Ipv4Addr::UNSPECIFIED, self.port).into());
        }
        let mut found = (&*self.host, self.port).to_socket_addrs()?;
        found.next().ok_or_else(|| io::ErrorKind::NotFound.into())
    }
}

impl fmt::Display for ListenAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { host, port } = self;
        if host.contains(':') {
            write!(f, "[{host}]:{port}")
        } else {
            write!(f, "{host}:{port}")
        }
    }
}

/// A value that is accepted, so that existing command lines work, and has no effect.
#[derive(Clone, Copy, Debug)]
pub(super) struct Ignored;

impl FromStr for Ignored {
    type Err = Infallible;

    fn from_str(_: &str) -> Result<Self, Self::Err> {
        Ok(Self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn csv(text: &str) -> Result<Vec<String>, String> {
        text.parse().map(|Csv(fields)| fields)
    }

    #[test]
    fn a_list_is_csv_with_quotes() {
        assert_eq!(csv("a=b,c=d").unwrap(), ["a=b", "c=d"]);
        assert_eq!(
            csv(r#""a=b,c","d=""e""",f"#).unwrap(),
            ["a=b,c", r#"d="e""#, "f"]
        );
        assert_eq!(csv("").unwrap(), [""; 0]);
        assert!(csv(r#""a"#).is_err());
        assert!(csv(r#""a"b"#).is_err());
    }

    #[test]
    fn a_limit_that_would_end_every_job_is_refused() {
        assert_eq!(limit::<2>("4m"), Ok(Duration::from_secs(240)));
        assert_eq!(limit::<2>("1s"), Err("it must be at least 2s".to_owned()));
        assert!(limit::<1>("0s").is_err() && limit::<1>("soon").is_err());
    }

    #[test]
    fn an_address_needs_a_port_and_may_lack_a_host() {
        let shown = |text: &str| text.parse::<ListenAddress>().map(|it| it.to_string());

        assert_eq!(shown("127.0.0.1:2112").unwrap(), "127.0.0.1:2112");
        assert_eq!(shown("localhost:1").unwrap(), "localhost:1");
        assert_eq!(shown("[::1]:0").unwrap(), "[::1]:0");
        assert_eq!(shown(":2112").unwrap(), "[::]:2112");
        assert!(shown("::1:2112").is_err());
        assert!(shown("localhost").is_err());
        assert!(shown("localhost:http").is_err());
    }

    #[test]
    fn an_address_without_a_host_is_every_address_of_the_machine() {
        let resolved = |text: &str| text.parse::<ListenAddress>().unwrap().resolve().unwrap();

        let every = resolved(":7080");
        assert!(every.ip().is_unspecified() && every.port() == 7080);
        assert_eq!(resolved("127.0.0.1:0").to_string(), "127.0.0.1:0");
        assert!(resolved("localhost:1").ip().is_loopback());
    }
}
