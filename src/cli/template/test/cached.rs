//! Scenarios that passed before, and on which nothing has changed since.

use std::path::Path;

use super::{Test, engines::Template, matrix::Variant, shown};
use crate::{
    cli::template::{
        result_cache::{self, EngineResults, TemplateKey},
        schemas::Pins,
    },
    language::TemplateFiles as _,
    stop::Stop,
    template::{
        check::Sources,
        dependence::{template_varies, varies},
        result_cache::Key,
        scenario::{CachedRuns, MAX_BYTES, Played, Run, Scenario},
    },
};

/// Results of earlier commands with one engine.
pub(super) struct CachedScenarios<'a> {
    test: &'a Test,
    kept: Option<EngineResults>,
    stop: &'a Stop,
    state: &'a [u8],
    pins: &'a Pins,
}

impl<'a> CachedScenarios<'a> {
    /// Results for scenarios whose runs with mocks begin with `state`.
    pub(super) async fn open(
        test: &'a Test,
        variant: &'a Variant,
        state: &'a [u8],
        stop: &'a Stop,
    ) -> Self {
        // A table that is to be written must be there afterwards.
        let kept = match test.update {
            true => None,
            false => EngineResults::open(&test.cache, &variant.engine, stop).await,
        };
        Self {
            test,
            kept,
            stop,
            state,
            pins: &variant.pins,
        }
    }

    /// All that the result of a scenario depends on; `None` if that cannot be told, or if it must be played in any case.
    pub(super) fn key(
        &self,
        template: &Template,
        scenario: &Scenario,
    ) -> Option<(Key, TemplateKey)> {
        if scenario.runs.iter().any(is_played_anew) || template.settings.mirror.is_some() {
            return None;
        }
        let kept = self.kept.as_ref()?;
        let template_key = kept.of_template(&template.dir, &template.settings)?;
        let filter = self.test.filter.as_ref().map_or("", |it| it.as_str());
        let parts = template_key.parts.clone().with("test");
        let pins = self.pins.iter();
        let parts = parts
            .with_all(result_cache::schemas(
                &template.settings,
                &self.test.schemas,
            )?)
            .with_all(pins.map(|(addr, version)| format!("{addr} {version}")))
            .with(&scenario.file)
            .with(filter)
            .with(self.state);
        Some((parts.key(), template_key))
    }

    /// The results of an earlier command.
    pub(super) fn get(
        &self,
        key: Option<&(Key, TemplateKey)>,
        directory: &Path,
        scenario: &Scenario,
    ) -> Option<Played> {
        let found: CachedRuns = self.kept.as_ref()?.get(&key?.0)?;
        Some(found.played(shown(directory), scenario.file.clone()))
    }

    /// Keeps results, unless the same scenario may end in another way next time.
    pub(super) fn put(
        &self,
        key: Option<(Key, TemplateKey)>,
        template: &Template,
        played: &Played,
    ) {
        let (Some(kept), Some((key, template_key))) = (&self.kept, key) else {
            return;
        };
        if self.stop.is_draining() {
            return;
        }
        if let Some(runs) = CachedRuns::of(played)
            && !may_vary(template, &template_key, &played.file)
        {
            kept.put(&key, &runs);
        }
    }
}

/// Runs that really build something, and runs with a table in a file that is no part of a template.
fn is_played_anew(run: &Run) -> bool {
    let is_elsewhere =
        |name: &str| name.split('/').any(|part| part.starts_with('.')) || name.contains(".tf");
    run.apply
        || run
            .golden
            .as_ref()
            .is_some_and(|(name, _)| is_elsewhere(name))
}

fn may_vary(template: &Template, key: &TemplateKey, scenario: &str) -> bool {
    let text = template.dir.read(Path::new(scenario), MAX_BYTES as u64);
    let text = text.map(|bytes| String::from_utf8_lossy(&bytes).into_owned());
    let Ok(sources) = Sources::of_template(&template.dir) else {
        return true;
    };
    text.map_or(true, |text| varies(&text)) || template_varies(&sources, &key.archive)
}
