//! `outpost config-ssh`: a section in OpenSSH's configuration.

use std::{
    collections::BTreeMap,
    fs, io,
    path::{Path, PathBuf},
};

use anyhow::Context as _;

use super::SUFFIX;
use crate::{
    cli::{exit::UsageError, headers::Headers, output, remote::Remote},
    connect::Server,
    files,
};

/// Configure OpenSSH so that `ssh WORKSPACE.outpost` connects to workspaces
///
/// Writes one section of OpenSSH's configuration file and leaves the rest of the file alone.
#[derive(Debug, clap::Args)]
pub(in crate::cli) struct ConfigSsh {
    /// Configuration file of OpenSSH
    #[arg(
        long,
        value_name = "FILE",
        env = "OUTPOST_SSH_CONFIG_FILE",
        default_value = "~/.ssh/config"
    )]
    ssh_config_file: PathBuf,
    /// Print the section without writing it
    #[arg(long)]
    dry_run: bool,
    #[command(flatten)]
    remote: Remote,
    #[command(flatten)]
    headers: Headers,
}

const BEGIN: &str = "# ---- outpost: begin ----";
const END: &str = "# ---- outpost: end ----";

/// Returns the file with our section replaced, or added at its end.
fn with_section(text: &str, section: &str) -> Result<String, UsageError> {
    let block = format!("{BEGIN}\n{section}{END}\n");
    match (text.find(BEGIN), text.find(END)) {
        (None, None) => {
            let gap = if text.is_empty() || text.ends_with("\n\n") {
                ""
            } else {
                "\n"
            };
            let gap = if text.is_empty() || text.ends_with('\n') {
                gap
            } else {
                "\n\n"
            };
            Ok(format!("{text}{gap}{block}"))
        }
        (Some(begin), Some(end)) if begin < end => {
            let rest = &text[end + END.len()..];
            let rest = rest.strip_prefix('\n').unwrap_or(rest);
            Ok(format!("{}{block}{rest}", &text[..begin]))
        }
        (_, _) => Err(UsageError(
            "the configuration has only one of the two lines that enclose outpost's section; remove it".into(),
        )),
    }
}

fn quoted(text: &str) -> String {
    format!("\"{}\"", text.replace('%', "%%").replace('"', "\\\""))
}

/// Returns our section, for host names with our suffix and the deployment's. The deployment's options come before
/// ours, because the first one counts.
fn section(
    program: &Path,
    remote: &[String],
    suffix: Option<&str>,
    options: &BTreeMap<String, String>,
) -> String {
    let program = quoted(&program.display().to_string());
    let arguments = remote.iter().map(|it| quoted(it));
    let arguments: Vec<String> = arguments.collect();
    let (hosts, cut) = match suffix {
        Some(suffix) => (
            format!("*{SUFFIX} *.{suffix}"),
            format!("--hostname-suffix {suffix} "),
        ),
        None => (format!("*{SUFFIX}"), String::new()),
    };
    let options = options.iter();
    let options: String = options
        .map(|(name, value)| format!("\x20 {name} {value}\n"))
        .collect();
    format!(
        "# Written by `outpost config-ssh`; what is between these lines will be replaced.\n\
         Host {hosts}\n\
         {options}\
         \x20 ConnectTimeout 0\n\
         \x20 StrictHostKeyChecking no\n\
         \x20 UserKnownHostsFile /dev/null\n\
         \x20 LogLevel ERROR\n\
         \x20 ProxyCommand {program} ssh --stdio {cut}{} %h\n",
        arguments.join(" ")
    )
}

/// Returns whether the file has hosts with this suffix outside our section, such as those that `coder config-ssh`
/// writes.
fn is_claimed(text: &str, suffix: &str) -> bool {
    let rest = match (text.find(BEGIN), text.find(END)) {
        (Some(begin), Some(end)) if begin < end => [&text[..begin], &text[end..]],
        (_, _) => [text, ""],
    };
    let pattern = format!("*.{suffix}");
    let words = rest.into_iter().flat_map(str::split_whitespace);
    words.into_iter().any(|word| word == pattern)
}

impl ConfigSsh {
    pub(in crate::cli) async fn exec(self) -> anyhow::Result<()> {
        let options = [self.remote.options()?, self.headers.options()].concat();
        let server: Server = self.remote.server(&self.headers)?;
        // Credentials that are refused now would be refused at each login.
        let workspaces = server.workspaces().await?;
        let settings = server.ssh_settings().await;
        let settings = settings.context("failed to use the server's SSH settings")?;
        let program = std::env::current_exe().context("failed to find this program")?;
        let path = expanded(&self.ssh_config_file);
        // A link is kept, and its target is written.
        let path = fs::canonicalize(&path).unwrap_or(path);
        let text = match fs::read_to_string(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => String::new(),
            Err(error) => {
                return Err(error).context(format!("failed to read `{}`", path.display()));
            }
        };
        let suffix = settings.suffix.as_deref();
        let free = suffix.filter(|suffix| !is_claimed(&text, suffix));
        if let (Some(suffix), None) = (suffix, free) {
            output::note(&format!(
                "`{}` has another section for *.{suffix}; it stays, and ours is for *{SUFFIX}.",
                path.display()
            ));
        }
        if self.headers.has_secrets() {
            output::note(
                "Headers are not written to the section because other users can read command lines: use `--header-command`, or set \
                 CODER_HEADER wherever `ssh` runs.",
            );
        }
        let section = section(&program, &options, free, &settings.options);
        if self.dry_run {
            output::line(section.trim_end())?;
            return Ok(());
        }
        let text = with_section(&text, &section)?;
        if let Some(parent) = path.parent() {
            files::create_private_dir(parent)?;
        }
        files::write_private(&path, text.as_bytes())
            .with_context(|| format!("failed to write `{}`", path.display()))?;
        let first = workspaces.first().map_or("WORKSPACE", |it| &*it.name);
        output::note(&format!(
            "Wrote `{}`. Try: ssh {first}{SUFFIX}",
            path.display()
        ));
        Ok(())
    }
}

fn expanded(path: &Path) -> PathBuf {
    match (path.strip_prefix("~"), std::env::var_os("HOME")) {
        (Ok(rest), Some(home)) => PathBuf::from(home).join(rest),
        (_, _) => path.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn our_section_is_replaced_and_the_rest_stays() {
        let first = with_section("Host a\n  User b\n", "x\n").unwrap();
        assert_eq!(first, format!("Host a\n  User b\n\n{BEGIN}\nx\n{END}\n"));
        let second = with_section(&format!("{first}Host c\n"), "y\n").unwrap();
        assert_eq!(
            second,
            format!("Host a\n  User b\n\n{BEGIN}\ny\n{END}\nHost c\n")
        );
        assert!(with_section(BEGIN, "x\n").is_err());
    }

    #[test]
    fn a_deployment_s_options_come_first_and_its_suffix_is_cut_off() {
        let options = [("LogLevel".to_owned(), "INFO".to_owned())].into();
        let section = section(
            Path::new("/o p"),
            &["--url".to_owned()],
            Some("dev"),
            &options,
        );

        let lines: Vec<&str> = section.lines().skip(1).map(str::trim).collect();
        assert_eq!(lines[..2], ["Host *.outpost *.dev", "LogLevel INFO"]);
        assert_eq!(lines[5], "LogLevel ERROR");
        assert_eq!(
            lines[6],
            "ProxyCommand \"/o p\" ssh --stdio --hostname-suffix dev \"--url\" %h"
        );
    }

    #[test]
    fn a_suffix_that_another_section_has_is_left_to_it() {
        let ours = with_section("", "Host *.outpost *.dev\n").unwrap();
        assert!(!is_claimed(&ours, "dev"));
        assert!(is_claimed(&format!("{ours}Host x *.dev\n"), "dev"));
        assert!(!is_claimed(&format!("{ours}Host *.dev2\n"), "dev"));
    }
}
