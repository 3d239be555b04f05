//! Commands, one file each: they read settings, start services and print results.

#![allow(
    clippy::disallowed_methods,
    reason = "the environment comes in here, and commands measure for people"
)]

mod agent;
mod audit;
mod ca;
mod compat;
mod complete;
mod completions;
mod config;
mod confirm;
mod dev;
mod doctor;
mod engine;
mod exit;
mod follow;
mod headers;
mod inside;
mod inspect;
mod isolation;
mod job;
mod login;
mod mirror;
mod organization;
mod outage;
mod output;
mod plugin;
mod progress;
mod provisioner;
mod psk;
mod recover;
mod remote;
mod rows;
mod scrape;
mod server;
mod signals;
mod ssh;
mod state;
mod support_bundle;
mod template;
mod token;
mod user;
mod values;
mod version;
mod watch;
mod workspace;

use std::{ffi::OsString, path::PathBuf, process::ExitCode, time::Duration};

use clap::{CommandFactory, FromArgMatches, Parser, Subcommand, error::ErrorKind};

use url::Url;

use self::output::{Output, Wanted};
use crate::{
    config::{ConfigError, File, Section},
    observe::{self, DaemonLog, LogFormat},
    process::{self, isolation::launcher},
    stop::Stop,
};

/// Sections of the configuration file.
const SECTIONS: &[Section] = &[
    Section {
        name: "",
        commands: &[&[]],
    },
    Section {
        name: "dev",
        commands: &[&["dev"]],
    },
    Section {
        name: "server",
        commands: &[&["server"]],
    },
    Section {
        name: "mirror",
        commands: &[&["mirror", "serve"]],
    },
    Section {
        name: "provisioner",
        commands: &[&["provisioner", "start"], &["doctor"], &["support-bundle"]],
    },
    Section {
        name: "client",
        // The first command has only the options of all commands.
        commands: &[
            &["whoami"],
            &["provisioner", "list"],
            &["provisioner", "delete"],
            &["provisioner", "key", "create"],
            &["provisioner", "key", "list"],
            &["provisioner", "key", "delete"],
            &["template", "list"],
            &["template", "push"],
            &["template", "show"],
            &["template", "versions"],
            &["template", "activate"],
            &["template", "dry-run"],
            &["template", "rename"],
            &["template", "delete"],
            &["workspace", "list"],
            &["workspace", "show"],
            &["workspace", "builds"],
            &["workspace", "create"],
            &["workspace", "start"],
            &["workspace", "stop"],
            &["workspace", "restart"],
            &["workspace", "update"],
            &["workspace", "rename"],
            &["workspace", "delete"],
            &["workspace", "logs"],
            &["job", "list"],
            &["job", "show"],
            &["job", "logs"],
            &["job", "cancel"],
            &["state", "pull"],
            &["state", "push"],
            &["user", "list"],
            &["user", "show"],
            &["user", "create"],
            &["user", "edit"],
            &["user", "suspend"],
            &["user", "activate"],
            &["user", "delete"],
            &["token", "list"],
            &["token", "create"],
            &["token", "rotate"],
            &["token", "delete"],
            &["organization", "list"],
            &["organization", "create"],
            &["organization", "delete"],
            &["audit"],
            &["ssh"],
            &["ping"],
            &["config-ssh"],
        ],
    },
];

/// Longest time for removing the directories of jobs when a daemon ends; the next daemon removes the rest.
const LAST_REMOVALS: Duration = Duration::from_secs(5);

/// Longest time for a session's last output to be read.
const LAST_OUTPUT: Duration = Duration::from_secs(1);

/// Build Coder workspaces with Terraform or OpenTofu
#[derive(Debug, Parser)]
#[command(name = "outpost", version = LONG_VERSION)]
#[command(arg_required_else_help = true, disable_help_subcommand = true)]
struct Cli {
    #[command(flatten)]
    global: Global,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, clap::Args)]
struct Global {
    /// Path of the configuration file
    #[arg(long, global = true, value_name = "FILE", env = "OUTPOST_CONFIG", help_heading = GLOBAL)]
    config: Option<PathBuf>,
    /// Format of results on stdout
    #[arg(long, global = true, value_name = "FORMAT", env = "OUTPOST_OUTPUT", default_value = "table", help_heading = GLOBAL)]
    output: Wanted,
    /// Log level, or directives such as `outpost=debug,sqlx=warn`
    ///
    /// Logs go to stderr. The default is `info` for services and `warn` for other commands.
    #[arg(long, global = true, value_name = "FILTER", env = "OUTPOST_LOG", help_heading = GLOBAL)]
    log: Option<String>,
    /// Format of log lines
    #[arg(long, global = true, value_name = "FORMAT", env = "OUTPOST_LOG_FORMAT", default_value = "human", help_heading = GLOBAL)]
    log_format: LogFormat,
}

/// Exit codes and formats of `inspect`, which other commands do not have.
const INSPECT_HELP: &str = "\
Here --output also takes mermaid, svg and reference-json.

Exit codes: 0 done, 1 failed, 2 wrong usage or configuration, 130 interrupted.";

/// Version text. It contains the word Coder, without which bootstrap scripts do not take a program for an agent.
const LONG_VERSION: &str = concat!(
    env!("CARGO_PKG_VERSION"),
    " (provisioner runtime and agent for Coder)"
);

/// Heading of options that every command has.
const GLOBAL: &str = "Global options";

#[derive(Debug, Subcommand)]
enum Command {
    /// Import a template and build a workspace on this machine, all in one process
    Dev(dev::Dev),
    /// Log in to a server: save its address and a token, for all commands
    Login(login::Login),
    /// Forget a saved login
    Logout(login::Logout),
    /// Show who you are logged in as, and at which server
    Whoami(login::Whoami),
    /// Manage saved logins to servers
    #[command(subcommand, alias = "contexts")]
    Context(login::Saved),
    /// Manage workspaces; `workspace` may be left out, as in `outpost list`
    #[command(subcommand, alias = "workspaces")]
    Workspace(workspace::Workspace),
    /// Open a shell in a workspace, or run a command there
    #[command(
        after_help = "Exit codes: 0 done, that of the command if it is another, 1 failed, 2 wrong usage or configuration, 130 interrupted."
    )]
    Ssh(ssh::Ssh),
    /// Measure the latency to a workspace's agent
    Ping(ssh::Ping),
    /// Configure OpenSSH so that `ssh WORKSPACE.outpost` works
    ConfigSsh(ssh::ConfigSsh),
    /// Manage templates and their versions
    #[command(subcommand, alias = "templates")]
    Template(template::Template),
    /// Draw what a template creates
    #[command(after_help = INSPECT_HELP)]
    Inspect(inspect::Inspect),
    /// Show and cancel jobs: imports, dry runs and builds
    #[command(subcommand, alias = "jobs")]
    Job(job::Job),
    /// Export and import Terraform states of workspaces
    #[command(subcommand)]
    State(state::State),
    /// Manage users, their roles and budgets
    #[command(subcommand, alias = "users")]
    User(user::User),
    /// Manage API tokens of users
    #[command(subcommand, alias = "tokens")]
    Token(token::Token),
    /// Manage organizations of a server
    #[command(subcommand, aliases = ["organizations", "org", "orgs"])]
    Organization(organization::Organization),
    /// Show the audit log of a server, newest first
    Audit(audit::Audit),
    /// Run a control plane for a laptop, a lab or a small site
    Server(Box<server::Server>),
    /// Run and manage provisioner daemons and their keys
    #[command(subcommand, aliases = ["provisioners", "provisionerd"])]
    Provisioner(provisioner::Provisioner),
    /// Run the agent of a workspace
    Agent(Box<agent::Agent>),
    #[command(name = "gitssh", hide = true)]
    GitSsh(agent::GitSsh),
    #[command(name = "gitaskpass", hide = true)]
    GitAskpass(agent::GitAskpass),
    /// Show resource usage (inside a workspace)
    Stat(inside::Stat),
    /// Apply a dotfiles repository (inside a workspace)
    Dotfiles(inside::Dotfiles),
    /// Print tokens of external services (inside a workspace)
    #[command(subcommand)]
    ExternalAuth(inside::ExternalAuth),
    #[command(subcommand, hide = true)]
    Exp(inside::Exp),
    /// Mirror providers, modules and engines for air-gapped sites
    #[command(subcommand)]
    Mirror(mirror::Mirror),
    /// Recover states that a daemon could not deliver to its server
    Recover(recover::Recover),
    /// Check everything that a daemon needs, on this machine and at its server
    Doctor(Box<doctor::Doctor>),
    /// Collect diagnostics into an archive, without secrets
    SupportBundle(Box<support_bundle::SupportBundle>),
    /// Check or show the configuration
    #[command(subcommand)]
    Config(self::config::Config),
    /// Generate pre-shared keys for daemons
    #[command(subcommand)]
    Psk(psk::Psk),
    /// Run a certificate authority for a site that has none
    #[command(subcommand)]
    Ca(ca::Ca),
    /// Print a shell completion script
    Completions(completions::Completions),
    /// Print version and build information
    Version(version::Version),
}

/// Headings in the list of commands, each with the first command below it.
const GROUPS: [(&str, &str); 5] = [
    ("Try it", "dev"),
    ("Use a server", "login"),
    ("Administer a server", "state"),
    ("Run services", "server"),
    ("Operate and troubleshoot", "recover"),
];

/// Formats the list of commands in groups, in the order of their declaration.
fn grouped(root: &clap::Command) -> String {
    let mut text = String::new();
    for command in root.get_subcommands().filter(|it| !it.is_hide_set()) {
        let name = command.get_name();
        if let Some((heading, _)) = GROUPS.iter().find(|(_, first)| *first == name) {
            text.push_str(&format!(
                "{}{heading}:\n",
                if text.is_empty() { "" } else { "\n" }
            ));
        }
        let about = command.get_about().map(ToString::to_string);
        text.push_str(&format!("  {name:15} {}\n", about.unwrap_or_default()));
    }
    text
}

const ROOT_HELP: &str = "\
{about-with-newline}
{usage-heading} {usage}

{before-help}Options:
{options}{after-help}";

/// All commands and options, for tools that describe them.
pub fn command() -> clap::Command {
    let root = with_exit_codes(Cli::command());
    let commands = grouped(&root);
    root.before_help(commands).help_template(ROOT_HELP)
}

fn with_exit_codes(command: clap::Command) -> clap::Command {
    let command = match command.get_after_help() {
        Some(_) => command,
        None => command.after_help(exit::HELP),
    };
    command.mut_subcommands(with_exit_codes)
}

/// Parses the process's arguments, runs the command and reports how it ended.
pub fn main() -> ExitCode {
    let arguments: Vec<OsString> = std::env::args_os().collect();
    if launcher::is_asked(&arguments) {
        return exit::launched(launcher::run(&arguments));
    }
    if let Err(error) = process::protect_own_environment() {
        return exit::report(
            Err(anyhow::Error::new(error).context("failed to protect this process from others")),
            None,
            exit::FAILURE,
        );
    }
    match complete::answer(|| compat::with_short_forms(command())) {
        Ok(false) => {}
        Ok(true) => return ExitCode::from(exit::OK),
        Err(error) => return usage(&error, exit::USAGE),
    }
    if let Some(code) = inside::refuse(&arguments) {
        return code;
    }
    let arguments = inside::lengthen(compat::reorder(arguments));
    if let Some(code) = plugin::serve_if_asked(arguments.iter().map(OsString::as_os_str)) {
        return code;
    }
    // It fails only if there is one already, and then that one is used.
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    // Coder's daemon, and its commands for scripts, have a single exit code for all errors.
    let is_coders = compat::is_daemon(&arguments) || inside::is_asked(&arguments);
    let wrong_usage = if is_coders {
        exit::FAILURE
    } else {
        exit::USAGE
    };
    match parse(&arguments) {
        Ok((cli, settings, server)) => {
            exit::report(run(cli, settings, &arguments), server.as_ref(), wrong_usage)
        }
        Err(error) => usage(&error, wrong_usage),
    }
}

/// Configuration file as far as it is usable, and the commands with its values as defaults.
struct Settings {
    file: Result<Option<File>, ConfigError>,
    root: clap::Command,
}

/// Parses the arguments: the command to run, the settings, and the server that the command talks to, if any.
fn parse(arguments: &[OsString]) -> Result<(Cli, Settings, Option<Url>), clap::Error> {
    let settings = settings(named_file(arguments));
    let matches = settings.root.clone().try_get_matches_from(arguments)?;
    let cli = Cli::from_arg_matches(&matches)?;
    let mut innermost = &matches;
    while let Some((_, matches)) = innermost.subcommand() {
        innermost = matches;
    }
    let server = remote::server_of(innermost);
    Ok((cli, settings, server))
}

fn settings(named: Option<PathBuf>) -> Settings {
    let loaded = crate::config::load(named.as_deref()).and_then(|file| match file {
        Some(file) => {
            let root = file.apply(command(), SECTIONS)?;
            Ok((Some(file), root))
        }
        None => Ok((None, command())),
    });
    let (file, root) = match loaded {
        Ok((file, root)) => (Ok(file), root),
        Err(error) => (Err(error), command()),
    };
    Settings {
        file,
        root: compat::environment(root),
    }
}

/// Returns the file that `--config` or the environment names. It is needed before the arguments can be parsed.
fn named_file(arguments: &[OsString]) -> Option<PathBuf> {
    let mut arguments = arguments
        .iter()
        .skip(1)
        .take_while(|argument| *argument != "--");
    while let Some(argument) = arguments.next() {
        if argument == "--config" {
            return arguments.next().map(PathBuf::from);
        }
        if let Some(path) = argument
            .to_str()
            .and_then(|text| text.strip_prefix("--config="))
        {
            return Some(PathBuf::from(path));
        }
    }
    std::env::var_os("OUTPOST_CONFIG").map(PathBuf::from)
}

/// Prints clap's own errors, and help, in clap's own way.
fn usage(error: &clap::Error, wrong_usage: u8) -> ExitCode {
    let _ = error.print();
    let help = matches!(
        error.kind(),
        ErrorKind::DisplayHelp | ErrorKind::DisplayVersion
    );
    ExitCode::from(if help { exit::OK } else { wrong_usage })
}

fn run(mut cli: Cli, settings: Settings, arguments: &[OsString]) -> anyhow::Result<()> {
    let wanted = cli.global.output;
    let supports = match &cli.command {
        Command::Inspect(_) => !wanted.is_of_checks() && wanted != Wanted::Markdown,
        Command::Template(command) if command.is_diff() => {
            wanted == Wanted::Markdown || wanted.format().is_some()
        }
        Command::Template(command) if command.is_check() => {
            wanted.format().is_some() || wanted.is_of_checks()
        }
        Command::Template(command) if command.is_test() => {
            wanted == Wanted::Junit || wanted.format().is_some()
        }
        _ => wanted.format().is_some(),
    };
    if !supports {
        let text = "`--output` takes other formats than table and json only in `outpost inspect`, `outpost template check`, \
            `outpost template test` and `outpost template diff`, each of which has its own";
        return Err(exit::UsageError(text.to_owned()).into());
    }
    let output = Output {
        format: wanted.format().unwrap_or_default(),
    };
    match cli.command {
        Command::Config(command) => return command.exec(settings, output),
        Command::Psk(command) => return command.exec(output),
        Command::Ca(command) => return command.exec(output),
        Command::Completions(command) => return command.exec(),
        Command::Logout(command) => return command.exec(),
        Command::Context(command) => return command.exec(output),
        Command::Version(command) => return command.exec(output),
        Command::Provisioner(command) if command.wants_options() => {
            return self::config::options(settings, arguments, output);
        }
        Command::Dev(ref command) => command.seal(),
        Command::Agent(ref command) if command.wants_reaper() => {
            return match crate::agent::reaper::run()? {
                0 => Ok(()),
                status => Err(exit::RemoteStatus(status).into()),
            };
        }
        _ => {}
    }
    if let Command::SupportBundle(command) = &mut cli.command {
        command.settings = self::config::without_secrets(&settings)?;
    }
    settings.file?;
    let is_daemon = cli.command.log(&cli.global)?;
    let mut runtime = tokio::runtime::Builder::new_multi_thread();
    if let Some(threads) = cli.command.threads() {
        runtime.worker_threads(threads);
    }
    let runtime = runtime.enable_all().build()?;
    let carries = matches!(cli.command, Command::Ssh(_));
    let ended = runtime.block_on(async {
        let stop = match &cli.command {
            _ if is_daemon => signals::listen_as_coder()?,
            Command::Dev(_) => signals::listen_with_cleanup()?,
            Command::Template(command) if command.is_test() => signals::listen_with_cleanup()?,
            _ => signals::listen()?,
        };
        cli.command.exec(output, wanted, stop).await
    });
    if carries {
        // A reader that does not read our output must not keep us from ending.
        runtime.shutdown_timeout(LAST_OUTPUT);
    } else if is_daemon {
        // Neither must a file system that does not answer.
        runtime.shutdown_timeout(LAST_REMOVALS);
    }
    ended
}

impl Command {
    /// Number of threads that the command works with; `None` for one per core. An agent is a guest on its machine,
    /// however large that is, and each thread has memory of its own.
    fn threads(&self) -> Option<usize> {
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        match self {
            Self::Agent(_) | Self::Ssh(_) | Self::Ping(_) => Some(cores.min(4)),
            Self::Stat(_) | Self::Exp(_) => Some(1),
            _ => None,
        }
    }

    /// Starts logging, and returns whether the log is that of a daemon.
    fn log(&self, global: &Global) -> anyhow::Result<bool> {
        let (filter, format) = (global.log.as_deref(), global.log_format);
        if let Self::Provisioner(command) = self
            && let Some(log) = command.daemon_log(filter, format)
        {
            if let Err(error) = log.init() {
                // As in Coder, a daemon whose log cannot be written works, with a warning.
                DaemonLog::to_stderr().init()?;
                tracing::error!(
                    error = &error as &dyn std::error::Error,
                    "failed to initialize logger"
                );
            }
            return Ok(true);
        }
        if let Self::Agent(command) = self {
            let filter = filter.unwrap_or("info");
            if let Err(error) = command.log(filter, format).init() {
                // As in Coder, an agent whose log cannot be written works, with a warning.
                DaemonLog::to_stderr().init()?;
                tracing::error!(
                    error = &error as &dyn std::error::Error,
                    "failed to initialize logger"
                );
            }
            return Ok(false);
        }
        let default = match self {
            Self::Server(command) if command.is_service() => "info",
            Self::Mirror(command) if command.is_service() => "info",
            _ => "warn",
        };
        let filter = filter.unwrap_or(default);
        observe::init(filter, format)
            .map_err(|error| exit::UsageError(format!("`--log {filter}`: {error}")))?;
        Ok(false)
    }

    async fn exec(self, output: Output, wanted: Wanted, stop: Stop) -> anyhow::Result<()> {
        match self {
            Self::Dev(command) => command.exec(output, stop).await,
            Self::Server(command) => command.exec(output, stop).await,
            Self::Provisioner(command) => command.exec(output, stop).await,
            Self::Template(command) => command.exec(output, wanted, stop).await,
            Self::Workspace(command) => command.exec(output, stop).await,
            Self::Job(command) => command.exec(output, stop).await,
            Self::Login(command) => command.exec(output, stop).await,
            Self::Whoami(command) => command.exec(output).await,
            Self::State(command) => command.exec(stop).await,
            Self::User(command) => command.exec(output, stop).await,
            Self::Token(command) => command.exec(output, stop).await,
            Self::Organization(command) => command.exec(output, stop).await,
            Self::Audit(command) => command.exec(output).await,
            Self::Mirror(command) => command.exec(output, stop).await,
            Self::Recover(command) => command.exec(output).await,
            Self::Inspect(command) => command.exec(wanted, stop).await,
            Self::Doctor(command) => command.exec(output, stop).await,
            Self::SupportBundle(command) => command.exec(output, stop).await,
            Self::Agent(command) => command.exec(stop).await,
            Self::Stat(command) => command.exec(output).await,
            Self::Dotfiles(command) => command.exec(stop).await,
            Self::ExternalAuth(command) => command.exec(stop).await,
            Self::Exp(inside::Exp::Sync(command)) => command.exec(output, stop).await,
            Self::GitSsh(command) => command.exec(stop).await,
            Self::GitAskpass(command) => command.exec(stop).await,
            Self::Ssh(command) => command.exec(stop).await,
            Self::Ping(command) => command.exec(output, stop).await,
            Self::ConfigSsh(command) => command.exec().await,
            Self::Config(_)
            | Self::Psk(_)
            | Self::Ca(_)
            | Self::Completions(_)
            | Self::Logout(_)
            | Self::Context(_)
            | Self::Version(_) => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_command_and_option_holds_together() {
        command().debug_assert();
    }

    #[test]
    fn options_for_the_connection_are_a_section_of_their_own() {
        // An option that is declared after a section belongs to it.
        const CONNECTION: [&str; 10] = [
            "url",
            "context",
            "token",
            "token_file",
            "ca_file",
            "crl_file",
            "organization",
            "disable_direct_connections",
            "header",
            "header_command",
        ];
        fn strays(command: &clap::Command, found: &mut Vec<String>) {
            let has_context = command.get_arguments().any(|it| it.get_id() == "context");
            for argument in command.get_arguments().filter(|_| has_context) {
                let is_listed = argument.get_help_heading() == Some("Server");
                if is_listed && !CONNECTION.contains(&argument.get_id().as_str()) {
                    found.push(format!("{} {}", command.get_name(), argument.get_id()));
                }
            }
            command.get_subcommands().for_each(|sub| strays(sub, found));
        }
        let mut found = Vec::new();
        strays(&command(), &mut found);
        assert_eq!(found, Vec::<String>::new());
    }

    #[test]
    fn whatever_talks_to_a_server_of_ours_reads_the_section_of_clients() {
        fn talk<'a>(command: &'a clap::Command, path: &[&'a str], found: &mut Vec<Vec<&'a str>>) {
            let mut arguments = command.get_arguments();
            if arguments.any(|argument| argument.get_id() == "context" && !path.is_empty()) {
                found.push(path.to_vec());
            }
            for sub in command.get_subcommands() {
                talk(sub, &[path, &[sub.get_name()]].concat(), found);
            }
        }
        let root = command();
        let mut found = Vec::new();
        talk(&root, &[], &mut found);
        let client = SECTIONS.iter().find(|it| it.name == "client").unwrap();

        found.retain(|path| *path != ["logout"]);
        let missing = found
            .iter()
            .filter(|path| !client.commands.contains(&&***path));
        assert_eq!(missing.collect::<Vec<_>>(), Vec::<&Vec<&str>>::new());
        assert_eq!(found.len(), client.commands.len());
    }
}
