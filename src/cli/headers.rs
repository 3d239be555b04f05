//! `--header` and `--header-command` of the commands that reach agents: a proxy in front of a server may ask for them.

use crate::{
    cli::{exit::UsageError, values::Csv},
    net::{headers, http},
};

/// Headers of each request to the server.
#[derive(Clone, Debug, clap::Args)]
#[command(next_help_heading = "Server")]
pub(super) struct Headers {
    /// Headers of every request, as CSV; repeatable
    #[arg(
        long,
        value_name = "NAME=VALUE",
        env = "CODER_HEADER",
        hide_env_values = true,
        hide_default_value = true
    )]
    header: Vec<Csv>,
    /// Shell command that prints further headers, one `name=value` per line
    #[arg(long, value_name = "COMMAND", env = "CODER_HEADER_COMMAND")]
    header_command: Option<String>,
}

impl Headers {
    /// Returns `config` with these headers.
    ///
    /// # Errors
    /// If one of them is not a valid header.
    pub(super) fn apply(&self, config: http::Config) -> Result<http::Config, UsageError> {
        let given = headers::parse(Csv::all(&self.header));
        Ok(http::Config {
            headers: given.map_err(|error| UsageError(format!("`--header`: {error}")))?,
            header_command: self.header_command.clone(),
            ..config
        })
    }

    /// Returns options with which another process runs the same command. The headers themselves are not among them,
    /// because others can read a command line; that process needs CODER_HEADER then.
    pub(super) fn options(&self) -> Vec<String> {
        let command = self.header_command.iter();
        let options = command.flat_map(|command| ["--header-command".to_owned(), command.clone()]);
        options.collect()
    }

    /// Returns whether [`Self::options`] leave headers out.
    pub(super) fn has_secrets(&self) -> bool {
        !self.header.is_empty()
    }
}
