//! Headers that the operator adds to every request, given one by one or printed by a command.

use std::{process::Stdio, time::Duration};

use http::{HeaderMap, HeaderName, HeaderValue};
use tokio::{io::AsyncReadExt, process::Command, time::timeout};
use url::Url;

/// Limits of the command: its run time, and the bytes that it may print.
const LIMITS: (Duration, u64) = (Duration::from_secs(30), 64 * 1024);

/// Reasons why headers cannot be produced. No message shows a value: it may be a secret.
#[derive(Debug, thiserror::Error)]
pub enum HeaderError {
    /// A text that is not `NAME=VALUE`.
    #[error("header {number} is not of the form NAME=VALUE")]
    Form {
        /// Position of the header, from 1 on.
        number: usize,
    },
    /// A name or value with characters that a header cannot contain.
    #[error("header {number} has characters that a header cannot carry")]
    Characters {
        /// Position of the header, from 1 on.
        number: usize,
    },
    /// A command that cannot be run.
    #[error("failed to run the header command")]
    Run(#[source] std::io::Error),
    /// A command that ended with an error.
    #[error("header command failed ({0}); see its output on stderr")]
    Failed(std::process::ExitStatus),
    /// A command that did not end in time.
    #[error("header command did not end within {} seconds", LIMITS.0.as_secs())]
    Late,
    /// A command that printed too much.
    #[error("header command printed more than {} KiB", LIMITS.1 / 1024)]
    TooLong,
}

/// Parses headers of the form `NAME=VALUE`. They are marked as sensitive.
///
/// # Errors
/// [`HeaderError`], which names the invalid header by its position.
pub fn parse<'a>(headers: impl IntoIterator<Item = &'a str>) -> Result<HeaderMap, HeaderError> {
    let mut map = HeaderMap::new();
    for (index, header) in headers.into_iter().enumerate() {
        let number = index + 1;
        let (name, value) = header.split_once('=').ok_or(HeaderError::Form { number })?;
        let name = HeaderName::try_from(name).map_err(|_| HeaderError::Characters { number })?;
        let mut value =
            HeaderValue::from_str(value).map_err(|_| HeaderError::Characters { number })?;
        value.set_sensitive(true);
        map.append(name, value);
    }
    Ok(map)
}

/// Runs `command` in a shell, with `CODER_URL` in its environment, and reads a header from each line it prints.
///
/// # Errors
/// [`HeaderError`]; a command that does not end is killed.
pub(crate) async fn from_command(command: &str, url: &Url) -> Result<HeaderMap, HeaderError> {
    let ran = async {
        let mut child = Command::new("sh")
            .arg("-c")
            .arg(command)
            .env("CODER_URL", url.as_str())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .map_err(HeaderError::Run)?;
        let mut printed = Vec::new();
        let stdout = child.stdout.take().expect("it is piped");
        // One byte more than is allowed, to notice that there is more.
        let mut limited = stdout.take(LIMITS.1 + 1);
        limited
            .read_to_end(&mut printed)
            .await
            .map_err(HeaderError::Run)?;
        if printed.len() as u64 > LIMITS.1 {
            return Err(HeaderError::TooLong);
        }
        let status = child.wait().await.map_err(HeaderError::Run)?;
        if !status.success() {
            return Err(HeaderError::Failed(status));
        }
        let printed = String::from_utf8_lossy(&printed).into_owned();
        parse(printed.lines().filter(|line| !line.trim().is_empty()))
    };
    timeout(LIMITS.0, ran)
        .await
        .unwrap_or(Err(HeaderError::Late))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn url() -> Url {
        "https://coder.example.com/".parse().unwrap()
    }

    #[tokio::test]
    async fn each_line_of_the_command_is_a_header() {
        let headers = from_command("echo a=1; echo; echo \"b=$CODER_URL=x\"", &url())
            .await
            .unwrap();

        assert_eq!(headers["a"], "1");
        assert_eq!(headers["b"], "https://coder.example.com/=x");
        assert!(headers.values().all(HeaderValue::is_sensitive));
    }

    #[tokio::test]
    async fn a_failed_or_endless_talker_gives_an_error_without_its_words() {
        let failed = from_command("echo secret=hunter2; exit 3", &url()).await;
        assert!(matches!(failed, Err(HeaderError::Failed(status)) if status.code() == Some(3)));

        let endless = from_command("yes hunter2=1", &url()).await;
        assert!(matches!(endless, Err(HeaderError::TooLong)));

        let wrong = from_command("echo a=1; echo hunter2", &url()).await;
        let error = wrong.unwrap_err();
        assert!(matches!(error, HeaderError::Form { number: 2 }));
        assert!(!error.to_string().contains("hunter2"));
    }
}
