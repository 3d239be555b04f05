//! `outpost template test`.

mod agents;
mod cached;
mod engines;
mod matrix;

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    str::FromStr,
};

use anyhow::Context;
use bytes::Bytes;
use futures::{StreamExt as _, stream};
use regex::Regex;
use tempfile::TempDir;

pub(super) use self::engines::{Template, TestEngines};
use self::{
    cached::CachedScenarios,
    matrix::{ProviderVersions, Variant},
};
use super::{jobs, result_cache::CacheArgs, running::Running};
use crate::{
    cli::{
        engine::EngineArgs,
        exit::{Interrupted, TestsFailed, Untested, UsageError},
        output::{self, Wanted},
        remote::EngineTrust,
        template::schemas::{ProviderSources, SchemaArgs},
    },
    files::removal::Scratch,
    stop::Stop,
    template::scenario::{
        self, Played, Scenario, Settings,
        report::{self, Summary},
    },
};

/// Test templates with scenarios
///
/// A scenario is a file `*.coder.hcl` in a template's directory or its `tests` directory. Its runs build one workspace, one
/// after the other, and state what must be true after each. Nothing of a template runs, and no real resources are created,
/// unless a run says `apply = true`; resources of such runs are destroyed at the end, also after a failure or Ctrl-C. With `--engine A,B`
/// unless a run says `apply = true`; resources of such runs are destroyed at the end, also after a failure or Ctrl-C. With `--engine A,B`
/// and `--provider` several engines and versions of providers play the scenarios, and a table shows what differs.
#[derive(Debug, clap::Args)]
pub(in crate::cli) struct Test {
    /// Directories of templates
    #[arg(value_name = "DIR", default_value = ".")]
    directories: Vec<PathBuf>,
    /// Report only runs whose FILE/NAME matches this regular expression; runs before them are still built
    #[arg(long, value_name = "REGEX")]
    filter: Option<Regex>,
    /// Number of scenarios to run at a time [default: one for each core, at most 4; fewer if memory is short]
    #[arg(long, short, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=64))]
    jobs: Option<u16>,
    /// Run only one part of the scenarios, such as 1/4
    #[arg(long, value_name = "I/N")]
    shard: Option<Shard>,
    /// Stop at the first failure
    #[arg(long)]
    fail_fast: bool,
    /// Write the tables of resources that `golden` names, instead of comparing them
    #[arg(long)]
    update: bool,
    /// Begin runs without `apply` with the state of a workspace, as `coder state pull` prints it
    #[arg(long, value_name = "FILE")]
    state: Option<PathBuf>,
    /// Run the scenarios with these versions of a provider, such as coder/coder=2.13.0,2.20.0, from --plugin-dir or --mirror
    #[arg(long = "provider", value_name = "ADDRESS=VERSION,…")]
    providers: Vec<ProviderVersions>,
    #[command(flatten)]
    schemas: SchemaArgs,
    /// Also write a report to a file: table, json or junit
    #[arg(long = "report", value_name = "FORMAT=FILE")]
    reports: Vec<ReportTo>,
    #[command(flatten)]
    cache: CacheArgs,
    #[command(flatten)]
    engine: EngineArgs,
    #[command(flatten)]
    trust: EngineTrust,
}

/// One part of all scenarios, counted from 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Shard {
    index: usize,
    count: usize,
}

impl FromStr for Shard {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let parts = text.split_once('/');
        let parsed =
            parts.and_then(|(index, count)| Some((index.parse().ok()?, count.parse().ok()?)));
        match parsed {
            Some((index, count)) if (1..=count).contains(&index) => Ok(Self { index, count }),
            _ => Err("must be I/N with I from 1 to N, such as 1/4"),
        }
    }
}

/// A format of reports.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Format {
    Table,
    Json,
    Junit,
}

impl Format {
    fn print(self, played: &[Played]) -> anyhow::Result<String> {
        Ok(match self {
            Self::Table => report::table(played),
            Self::Json => serde_json::to_string_pretty(&report::json(played))?,
            Self::Junit => report::junit(played).trim_end().to_owned(),
        })
    }

    fn of(wanted: Wanted) -> anyhow::Result<Self> {
        match wanted {
            Wanted::Table => Ok(Self::Table),
            Wanted::Json => Ok(Self::Json),
            Wanted::Junit => Ok(Self::Junit),
            _ => Err(UsageError(
                "`outpost template test` supports table, json and junit".to_owned(),
            )
            .into()),
        }
    }
}

/// A report and the file that gets it.
#[derive(Clone, Debug)]
struct ReportTo {
    format: Format,
    file: PathBuf,
}

impl FromStr for ReportTo {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (format, file) = text
            .split_once('=')
            .ok_or("must be FORMAT=FILE, such as junit=report.xml")?;
        let format = match format {
            "table" => Format::Table,
            "json" => Format::Json,
            "junit" => Format::Junit,
            _ => return Err("the format must be table, json or junit"),
        };
        match file {
            "" => Err("the file is missing: FORMAT=FILE"),
            file => Ok(Self {
                format,
                file: file.into(),
            }),
        }
    }
}

/// A scenario file of one of the directories, or what is wrong with it.
struct Found {
    directory: PathBuf,
    scenario: Result<Scenario, Played>,
}

impl Test {
    pub(in crate::cli) async fn exec(self, wanted: Wanted, stop: Stop) -> anyhow::Result<()> {
        let format = Format::of(wanted)?;
        let found = self.find()?;
        // A mistake in one file must not wait for builds of the others.
        let is_wrong = found.iter().any(|it| it.scenario.is_err());
        let played = match is_wrong {
            true => found
                .into_iter()
                .filter_map(|it| it.scenario.err())
                .collect(),
            false => self.play_all(&found, &stop).await?,
        };
        for report in &self.reports {
            let text = report.format.print(&played)?;
            fs::write(&report.file, text + "\n")
                .with_context(|| format!("failed to write `{}`", report.file.display()))?;
        }
        output::line(&format.print(&played)?)?;
        verdict(&played, &stop)
    }

    /// Scenarios of all directories, or those of the shard.
    fn find(&self) -> anyhow::Result<Vec<Found>> {
        let mut found = Vec::new();
        for directory in &self.directories {
            if !directory.is_dir() {
                return Err(
                    UsageError(format!("`{}` is no directory", directory.display())).into(),
                );
            }
            let files = scenario::files(directory).with_context(|| {
                format!("failed to look for scenarios in `{}`", directory.display())
            })?;
            found.extend(files.into_iter().map(|file| (directory.clone(), file)));
        }
        if found.is_empty() {
            let text = format!(
                "there is no scenario: no file `*{}` in the directories or in `tests` below",
                scenario::SUFFIX
            );
            return Err(UsageError(text).into());
        }
        let shard = self.shard.unwrap_or(Shard { index: 1, count: 1 });
        let chosen = found.into_iter().skip(shard.index - 1).step_by(shard.count);
        Ok(chosen
            .map(|(directory, file)| read(directory, file))
            .collect())
    }

    fn state(&self) -> anyhow::Result<Bytes> {
        let Some(file) = &self.state else {
            return Ok(Bytes::new());
        };
        let wrong = |reason: String| UsageError(format!("`--state {}`: {reason}", file.display()));
        let state = fs::read(file).map_err(|error| wrong(error.to_string()))?;
        let parsed = serde_json::from_slice::<serde_json::Value>(&state);
        match parsed.is_ok_and(|state| state["version"].is_u64() && state["resources"].is_array()) {
            true => Ok(state.into()),
            false => Err(wrong("it is no state of Terraform's".to_owned()).into()),
        }
    }

    /// Plays all scenarios, with each engine and each version of a provider if there are several.
    async fn play_all(&self, found: &[Found], stop: &Stop) -> anyhow::Result<Vec<Played>> {
        let mut all = Vec::new();
        for variant in matrix::variants(self.engine.each(), &self.providers, stop).await? {
            let mut played = self.play(found, &variant, stop).await?;
            let has_failed = played.iter().any(has_failed);
            played
                .iter_mut()
                .for_each(|played| played.variant.clone_from(&variant.name));
            all.extend(played);
            if stop.is_draining() || self.fail_fast && has_failed {
                break;
            }
        }
        Ok(all)
    }

    async fn play(
        &self,
        found: &[Found],
        variant: &Variant,
        stop: &Stop,
    ) -> anyhow::Result<Vec<Played>> {
        let jobs = jobs::at_a_time(self.jobs);
        let work = TempDir::with_prefix("outpost-test-")
            .context("failed to make a directory for the engine")?;
        let work = Scratch::waited_for(work);
        let settings = Settings {
            filter: self.filter.clone(),
            fail_fast: self.fail_fast,
            update: self.update,
            state: self.state()?,
        };
        let templates: BTreeMap<_, _> = self
            .directories
            .iter()
            .map(|dir| anyhow::Ok((dir.clone(), Template::read(dir, &self.schemas)?)))
            .collect::<Result<_, _>>()?;
        let state = serde_json::from_slice(&settings.state).unwrap_or_default();
        let trust = self.trust.trust();
        // The first failure must not cancel what runs: that would take what it made away in the middle.
        let all = stop.child();
        let providers = ProviderSources {
            schemas: &self.schemas,
            pins: &variant.pins,
        };
        let engine = &variant.engine;
        let engines = TestEngines::new(engine, providers, &trust, work.path(), jobs, stop, &state);
        let known = CachedScenarios::open(self, variant, &settings.state, stop).await;
        let running = Running::new(found.len(), "scenarios");
        let (settings, all, engines, templates) = (&settings, &all, &engines, &templates);
        let (known, running) = (&known, &running);
        let playing = found
            .iter()
            .filter_map(|it| Some((it.directory.clone(), it.scenario.as_ref().ok()?.clone())));
        let playing = playing
            .enumerate()
            .map(|(index, (directory, scenario))| async move {
                let _started = running.start(format!("{}/{}", shown(&directory), scenario.file));
                let template = &templates[&directory];
                let key = known.key(template, &scenario);
                // What follows a failure is skipped, even if its result is known.
                let earlier = match all.is_draining() {
                    true => None,
                    false => known.get(key.as_ref(), &directory, &scenario),
                };
                if let Some(played) = earlier {
                    return (index, played);
                }
                let engines = engines.of(template);
                let played = scenario::play(&directory, &scenario, &engines, settings, all).await;
                known.put(key, template, &played);
                if settings.fail_fast && has_failed(&played) {
                    all.drain();
                }
                (index, played)
            });
        let playing = stream::iter(playing).buffer_unordered(jobs);
        let mut played: Vec<_> = playing.collect().await;
        played.sort_by_key(|(index, _)| *index);
        let played = played.into_iter().map(|(_, played)| played);
        let reported: Vec<_> = played.filter(is_reported).collect();
        if reported.is_empty() && self.filter.is_some() && self.shard.is_none() {
            return Err(UsageError("no run matches `--filter`".to_owned()).into());
        }
        Ok(reported)
    }
}

fn read(directory: PathBuf, file: String) -> Found {
    let scenario = scenario::read(&directory, &file).map_err(|problems| Played {
        directory: shown(&directory),
        file,
        problems,
        ..Played::default()
    });
    Found {
        directory,
        scenario,
    }
}

fn shown(directory: &Path) -> String {
    directory.display().to_string()
}

fn has_failed(played: &Played) -> bool {
    let summary = Summary::of(std::slice::from_ref(played));
    summary.failed + summary.invalid + summary.unable > 0
}

/// A scenario without a run that was asked for is left out.
fn is_reported(played: &Played) -> bool {
    !played.runs.is_empty() || !played.problems.is_empty() || played.left.is_some()
}

/// The command's end: a mistake in a scenario counts more than something that is missing, and that more than a failure.
fn verdict(played: &[Played], stop: &Stop) -> anyhow::Result<()> {
    let summary = Summary::of(played);
    if stop.is_draining() {
        return Err(Interrupted.into());
    }
    if summary.invalid > 0 {
        return Err(UsageError("scenarios have mistakes".to_owned()).into());
    }
    if summary.unable > 0 {
        return Err(Untested(summary.unable).into());
    }
    match summary.failed {
        0 => Ok(()),
        count => Err(TestsFailed(count).into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_shard_is_one_of_so_many() {
        assert_eq!("2/3".parse(), Ok(Shard { index: 2, count: 3 }));
        for text in ["0/3", "4/3", "1", "a/b", "1/0", "-1/2"] {
            assert!(text.parse::<Shard>().is_err(), "{text}");
        }
    }
}
