//! `outpost inspect`: the resources and parameters of a template or a plan.

use std::{
    fs,
    io::{self, Read},
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
};

use anyhow::Context;
use serde::Serialize;
use serde_json::Value;
use tempfile::TempDir;
use tracing::debug;

use super::{
    engine::{CoderProvider, EngineArgs},
    exit::{Hint, Interrupted, UsageError},
    isolation::Guarded,
    output::{self, Row, Wanted},
    remote::{EngineTrust, Pair},
};
use crate::{
    files::removal::Scratch,
    job::{LogLevel, ScriptRequirement, VariableValue},
    language::{self, Outline},
    provision::LogSink,
    secret::Secret,
    stop::Stop,
    template::{self, Picture, picture},
    terraform::{
        graph::Graph,
        plan::Plan,
        reference_json,
        resources::{self, Converted},
        state::State,
    },
};

/// Limit of an engine's complaints that are kept, in bytes.
const MAX_COMPLAINTS: usize = 64 << 10;

/// Limit of a document of Terraform's, in bytes.
const MAX_DOCUMENT: u64 = 256 << 20;

/// Draw what a template creates
///
/// A directory is a template: it is planned for a start and for a stop, without a server and without changing
/// anything. If planning fails, the command says why, draws the source and exits with 1; with --source-only it does
/// not plan. A file is a plan or a state as printed by `terraform show -json`; --graph takes the output of
/// `terraform graph -type=plan`, which shows where agents run. --output reference-json prints the conversion in the
/// format of Coder's golden files, and an error as a JSON string.
#[derive(Debug, clap::Args)]
pub(super) struct Inspect {
    /// Template directory, or file with a plan or a state as JSON
    #[arg(value_name = "DIR|PLAN", required_unless_present = "show_json")]
    path: Option<PathBuf>,
    /// Plan or state as printed by `terraform show -json`; `-` for standard input
    #[arg(long, value_name = "FILE", conflicts_with = "path")]
    show_json: Option<PathBuf>,
    /// Output of `terraform graph`; for a plan, with `-type=plan`
    #[arg(long, value_name = "FILE")]
    graph: Option<PathBuf>,
    /// Draw the source of a template without planning it
    #[arg(long, conflicts_with_all = ["show_json", "graph"])]
    source_only: bool,
    /// Value of a Terraform variable
    #[arg(long = "variable", alias = "var", value_name = "NAME=VALUE")]
    variables: Vec<Pair>,
    /// Source of the `coder` provider
    #[arg(
        long,
        value_name = "SOURCE",
        env = "OUTPOST_INSPECT_CODER_PROVIDER",
        default_value = "builtin"
    )]
    coder_provider: CoderProvider,
    #[command(flatten)]
    engine: EngineArgs,
    #[command(flatten)]
    trust: EngineTrust,
}

/// A document, converted to our own types.
enum Document {
    Plan(Plan),
    State(State),
}

impl Inspect {
    pub(super) async fn exec(self, wanted: Wanted, stop: Stop) -> anyhow::Result<()> {
        match self.path.as_deref().filter(|path| path.is_dir()) {
            Some(dir) => {
                if wanted == Wanted::ReferenceJson || self.graph.is_some() {
                    let text = "`--output reference-json` and `--graph` apply to a plan or a state, not \
                        to a directory";
                    return Err(UsageError(text.to_owned()).into());
                }
                self.template(dir, wanted, &stop).await
            }
            None => self.document(wanted),
        }
    }

    /// Plans the template and draws it. If that fails, draws its source and returns the same error.
    async fn template(&self, dir: &Path, wanted: Wanted, stop: &Stop) -> anyhow::Result<()> {
        let outline = language::outline(dir)
            .with_context(|| format!("failed to read the template in `{}`", dir.display()))?;
        let mut picture = Picture::of_source(&outline);
        if self.source_only {
            picture.notes.extend(warnings(dir, &outline)?);
            return print(&picture, wanted);
        }
        if outline.files == 0 {
            return Err(anyhow::Error::msg(no_template(dir)));
        }
        let complaints = Arc::new(Complaints::default());
        let failure = match self.plan(dir, Arc::clone(&complaints), stop).await {
            Ok(planned) => return print(&planned, wanted),
            Err(_) if stop.is_cancelled() => return Err(Interrupted.into()),
            Err(error) => error,
        };
        picture.notes.push(format!("planning failed: {failure:#}"));
        print(&picture, wanted)?;
        let said = complaints.take();
        if !said.is_empty() {
            output::note(&said);
        }
        let hint = "`--source-only` draws the source without an engine, `--log outpost=debug` shows everything that the \
            engine printed";
        Err(failure.context("planning failed")).hint(hint)
    }

    async fn plan(
        &self,
        dir: &Path,
        complaints: Arc<Complaints>,
        stop: &Stop,
    ) -> anyhow::Result<Picture> {
        let work = TempDir::with_prefix("outpost-inspect-")
            .context("failed to make a directory for the engine")?;
        let work = Scratch::waited_for(work);
        let sessions = work.path().join("sessions");
        let guarded = Guarded {
            jobs: 1,
            are_foreign: false,
            hidden: Vec::new(),
        };
        let engine = self
            .engine
            .provisioner(
                self.coder_provider,
                sessions,
                guarded,
                &self.trust.trust(),
                stop,
            )
            .await?;
        let variable = |pair: &Pair| VariableValue {
            name: pair.name.clone(),
            value: Secret::new(pair.value.clone()),
            sensitive: false,
        };
        let variables: Vec<_> = self.variables.iter().map(variable).collect();
        Ok(template::survey(engine.as_ref(), dir, &variables, complaints, stop).await?)
    }

    fn document(self, wanted: Wanted) -> anyhow::Result<()> {
        let file = self.show_json.or(self.path).unwrap_or_default();
        let document = Document::read(&file)?;
        let Some(graph) = &self.graph else {
            let hint = "make one with `terraform graph -type=plan > graph.dot` in the template's directory, \
                without `-type=plan` for a state";
            return Err(UsageError(
                "a plan or a state needs `--graph FILE`".to_owned(),
            ))
            .hint(hint);
        };
        let dot = String::from_utf8(read(graph)?)
            .with_context(|| format!("`{}` is not text", graph.display()))?;
        if wanted == Wanted::ReferenceJson {
            let reference = serde_json::to_string_pretty(&document.reference(&dot))?;
            return Ok(output::line(&reference)?);
        }
        print(&document.draw(&dot)?, wanted)
    }
}

fn no_template(dir: &Path) -> String {
    format!(
        "`{}` is not a template: it has no `.tf` files",
        dir.display()
    )
}

/// Returns warnings about what will not work, as far as the source shows.
fn warnings(dir: &Path, outline: &Outline) -> anyhow::Result<Vec<String>> {
    if outline.files == 0 {
        return Ok(vec![no_template(dir)]);
    }
    let references = language::ephemeral_references(dir)?;
    Ok(references.iter().map(ToString::to_string).collect())
}

/// Sink that keeps the errors of an engine; the rest is for debugging.
#[derive(Default)]
struct Complaints(Mutex<String>);

impl Complaints {
    fn take(&self) -> String {
        let mut said = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        std::mem::take(&mut *said).trim_end().to_owned()
    }
}

impl LogSink for Complaints {
    fn log(&self, level: LogLevel, output: String) {
        debug!(level = level.as_str(), "{output}");
        let mut said = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if level == LogLevel::Error && said.len() + output.len() < MAX_COMPLAINTS {
            said.push_str(&output);
            said.push('\n');
        }
    }
}

impl Document {
    fn read(file: &Path) -> anyhow::Result<Self> {
        let json = read(file)?;
        let failed = || format!("failed to read `{}`", file.display());
        let kind: Kind = serde_json::from_slice(&json)
            .with_context(failed)
            .hint("make the file with `terraform show -json PLAN`")?;
        Ok(match kind.planned_values {
            Some(_) => Self::Plan(Plan::parse(&json).with_context(failed)?),
            None => Self::State(State::parse(&json).with_context(failed)?),
        })
    }

    fn convert(&self, graph: &Graph) -> Result<Converted, resources::ConvertError> {
        match self {
            Self::Plan(plan) => {
                resources::convert(plan.modules(), graph, Some(plan.configuration()))
            }
            Self::State(state) => resources::convert(state.modules(), graph, None),
        }
    }

    /// Formats the conversion as in the reference's golden files.
    fn reference(&self, dot: &str) -> Value {
        match Graph::parse(dot) {
            Ok(graph) => reference_json::render(&self.convert(&graph)),
            Err(error) => Value::String(error.to_string()),
        }
    }

    fn draw(&self, dot: &str) -> anyhow::Result<Picture> {
        let mut converted = self.convert(&Graph::parse(dot)?)?;
        let warnings = std::mem::take(&mut converted.warnings);
        let basis = match self {
            Self::Plan(_) => picture::Basis::Plan,
            Self::State(_) => picture::Basis::State,
        };
        let mut picture = Picture::of_one(basis, &converted.into());
        picture.notes.extend(warnings);
        Ok(picture)
    }
}

/// Kind of a document: only a plan has planned values.
#[derive(serde::Deserialize)]
struct Kind {
    planned_values: Option<serde::de::IgnoredAny>,
}

fn read(path: &Path) -> anyhow::Result<Vec<u8>> {
    let failed = || format!("failed to read `{}`", path.display());
    let mut input: Box<dyn Read> = if path == Path::new("-") {
        Box::new(io::stdin().lock())
    } else {
        Box::new(fs::File::open(path).with_context(failed)?)
    };
    let mut bytes = Vec::new();
    let limit = MAX_DOCUMENT + 1;
    input
        .by_ref()
        .take(limit)
        .read_to_end(&mut bytes)
        .with_context(failed)?;
    if bytes.len() as u64 > MAX_DOCUMENT {
        let text = format!("`{}` is larger than {MAX_DOCUMENT} bytes", path.display());
        return Err(anyhow::Error::msg(text));
    }
    Ok(bytes)
}

fn print(picture: &Picture, wanted: Wanted) -> anyhow::Result<()> {
    let text = match wanted {
        Wanted::Table => tables(picture),
        Wanted::Json => serde_json::to_string_pretty(picture)?,
        Wanted::Mermaid => template::mermaid(picture).trim_end().to_owned(),
        Wanted::Svg => template::svg(picture).trim_end().to_owned(),
        // The command line refuses the formats of other commands before.
        Wanted::Sarif
        | Wanted::Junit
        | Wanted::Gitlab
        | Wanted::Github
        | Wanted::Markdown
        | Wanted::ReferenceJson => {
            let text = "`--output reference-json` needs `--show-json FILE` and `--graph FILE`";
            return Err(UsageError(text.to_owned()).into());
        }
    };
    Ok(output::line(&text)?)
}

#[derive(Serialize)]
struct ResourceRow<'a>(&'a Picture, &'a picture::Resource);

impl Row for ResourceRow<'_> {
    const COLUMNS: &'static [&'static str] =
        &["Resource", "Class", "Persistence", "Agents", "Cost per day"];

    fn cells(&self) -> Vec<String> {
        let Self(picture, resource) = self;
        let agents = resource
            .agents
            .iter()
            .filter_map(|name| picture.agent(name));
        vec![
            resource.address.clone(),
            resource.class.as_str().to_owned(),
            resource
                .persistence
                .map_or("unknown", |known| known.as_str())
                .to_owned(),
            agents.map(agent_cell).collect::<Vec<_>>().join("\n"),
            match resource.daily_cost {
                0 => String::new(),
                cost => cost.to_string(),
            },
        ]
    }
}

fn agent_cell(agent: &picture::Agent) -> String {
    let mut cell = agent.name.clone();
    let platform = agent.platform();
    if !platform.is_empty() {
        cell.push_str(&format!(" ({platform})"));
    }
    if !agent.apps.is_empty() {
        let apps: Vec<_> = agent.apps.iter().map(|app| app.slug.as_str()).collect();
        cell.push_str(&format!(": {}", apps.join(", ")));
    }
    cell
}

#[derive(Serialize)]
struct ParameterRow<'a>(&'a picture::Parameter);

impl Row for ParameterRow<'_> {
    const COLUMNS: &'static [&'static str] =
        &["Parameter", "Type", "Default", "Changes", "Options"];

    fn cells(&self) -> Vec<String> {
        let parameter = self.0;
        let default = if parameter.required {
            "required"
        } else {
            &parameter.default_value
        };
        let changes = match (parameter.ephemeral, parameter.mutable) {
            (true, _) => "each build",
            (false, true) => "yes",
            (false, false) => "no",
        };
        vec![
            parameter.name.clone(),
            parameter.kind.clone(),
            default.to_owned(),
            changes.to_owned(),
            parameter.options.join(", "),
        ]
    }
}

fn tables(picture: &Picture) -> String {
    let rows: Vec<_> = picture
        .resources
        .iter()
        .map(|resource| ResourceRow(picture, resource))
        .collect();
    let mut parts = vec![output::table(&rows)];
    if !picture.parameters.is_empty() {
        let rows: Vec<_> = picture.parameters.iter().map(ParameterRow).collect();
        parts.push(output::table(&rows));
    }
    for preset in &picture.presets {
        let default = if preset.default { " (default)" } else { "" };
        let answers = preset
            .parameters
            .iter()
            .map(|(name, value)| format!("{name}={value}"));
        let answers = answers.collect::<Vec<_>>().join(", ");
        parts.push(format!("Preset {}{default}: {answers}", preset.name));
    }
    for agent in &picture.agents {
        parts.extend(agent.script_orders.iter().map(|it| order_lines(agent, it)));
    }
    for auth in &picture.external_auth {
        let optional = if auth.optional { " (optional)" } else { "" };
        parts.push(format!("External service {}{optional}", auth.id));
    }
    parts.extend(picture.notes.iter().map(|note| format!("Note: {note}")));
    parts.join("\n")
}

/// Lists each script with its dependencies, in an order in which they can run, and the longest chain.
fn order_lines(agent: &picture::Agent, order: &picture::ScriptOrder) -> String {
    let whose = match order.devcontainer.as_str() {
        "" => agent.name.clone(),
        container => format!("{} in {container}", agent.name),
    };
    let mut lines = vec![format!(
        "Order of scripts of {whose} at {}:",
        order.phase.as_str()
    )];
    for script in &order.scripts {
        let after = script.after.iter().map(|before| {
            let name = order.name(&before.address);
            match before.requires {
                ScriptRequirement::Completion => format!("{name} (completion)"),
                ScriptRequirement::Success | ScriptRequirement::Unspecified => name.to_owned(),
            }
        });
        let after: Vec<_> = after.collect();
        lines.push(match after.as_slice() {
            [] => format!("  {}", script.name),
            after => format!("  {} after {}", script.name, after.join(", ")),
        });
    }
    let path = order.critical_path.iter().map(|it| order.name(it));
    let path: Vec<_> = path.collect();
    lines.push(format!("  Critical path: {}", path.join(" → ")));
    lines.join("\n")
}
