//! All templates of a check: several at a time, and none that was checked before.

use std::{
    path::{Path, PathBuf},
    sync::atomic::{AtomicBool, Ordering},
    time::Instant,
};

use futures::{StreamExt as _, stream};
use tokio::sync::OnceCell;

use super::{Check, one::One, shown, unchecked, usage};
use crate::{
    cli::{
        exit::Interrupted,
        template::{
            jobs,
            result_cache::{self, EngineResults, TemplateKey},
            running::Running,
        },
    },
    stop::Stop,
    template::{
        check::{CachedReport, report::TemplateReport, settings::Settings},
        result_cache::Key,
    },
    terraform::binary::Binary,
};

/// What the checks of all templates share.
struct Checks<'a> {
    args: &'a Check,
    stop: &'a Stop,
    kept: Option<EngineResults>,
    /// The engine, which is asked for its version only if a template must be planned.
    binary: OnceCell<Option<Binary>>,
    running: Running,
    /// Set after an error, so that nothing else begins.
    has_failed: AtomicBool,
}

/// Checks the templates in directories. Reports are in the order of the directories.
///
/// # Errors
/// The first one, after all that had begun is over.
pub(super) async fn check(
    args: &Check,
    directories: &[PathBuf],
    stop: &Stop,
) -> anyhow::Result<Vec<TemplateReport>> {
    let checks = Checks {
        args,
        stop,
        kept: kept(args, stop).await,
        binary: OnceCell::new(),
        running: Running::new(directories.len(), "templates"),
        has_failed: AtomicBool::new(false),
    };
    let checks = &checks;
    let checking = directories.iter().enumerate();
    let checking = checking.map(|(index, dir)| async move { (index, checks.next(dir).await) });
    let at_a_time = jobs::at_a_time(args.jobs);
    let mut checked: Vec<_> = stream::iter(checking)
        .buffer_unordered(at_a_time)
        .collect()
        .await;
    checked.sort_by_key(|(index, _)| *index);
    checked
        .into_iter()
        .filter_map(|(_, report)| report)
        .collect()
}

/// Results of earlier runs, unless those would say nothing about this one.
async fn kept(args: &Check, stop: &Stop) -> Option<EngineResults> {
    // The answers of sources and of a server may differ next time.
    match args.online || args.server.is_some() {
        true => None,
        false => EngineResults::open(&args.cache, &args.engine, stop).await,
    }
}

impl Checks<'_> {
    /// Checks a template; `None` if another one has failed before.
    async fn next(&self, directory: &Path) -> Option<anyhow::Result<TemplateReport>> {
        if self.has_failed.load(Ordering::Relaxed) {
            return None;
        }
        let _started = self.running.start(shown(directory));
        let report = self.one(directory).await;
        if report.is_err() {
            self.has_failed.store(true, Ordering::Relaxed);
        }
        Some(report)
    }

    async fn one(&self, directory: &Path) -> anyhow::Result<TemplateReport> {
        if self.stop.is_cancelled() {
            return Err(Interrupted.into());
        }
        #[expect(
            clippy::disallowed_methods,
            reason = "the report says how long it took"
        )]
        let began = Instant::now();
        let settings = Settings::find(directory).map_err(usage)?;
        let known = self
            .kept
            .as_ref()
            .and_then(|kept| Some((kept, self.key(kept, directory, &settings)?)));
        if let Some((kept, (key, _))) = &known {
            let found = kept.get::<CachedReport>(key);
            let seconds = began.elapsed().as_secs_f64();
            if let Some(report) = found.and_then(|it| it.report(shown(directory), seconds)) {
                return Ok(report);
            }
        }
        let binary = self
            .binary
            .get_or_try_init(|| self.args.engine.installed(self.stop));
        let binary = binary.await.map_err(unchecked)?.as_ref();
        let one = One::new(self.args, directory, settings, binary, self.stop)?;
        let (report, sources) = one.check().await?;
        if let Some((kept, (key, template))) = known
            && !crate::template::dependence::template_varies(&sources, &template.archive)
            && let Some(result) = CachedReport::of(&report)
        {
            kept.put(&key, &result);
        }
        Ok(report)
    }

    /// All that a result depends on; `None` if that cannot be told.
    fn key(
        &self,
        kept: &EngineResults,
        directory: &Path,
        settings: &Settings,
    ) -> Option<(Key, TemplateKey)> {
        let args = self.args;
        // What a mirror of the settings has is not part of the engine's identity.
        if settings.mirror.is_some() || args.installed_modules {
            return None;
        }
        let template = kept.of_template(directory, settings)?;
        let variables = args.variables.iter();
        let variables = variables.map(|it| format!("{}={}", it.name, it.value));
        let parts = template.parts.clone().with("check");
        let parts = parts
            .with_all(result_cache::schemas(settings, &args.schemas)?)
            .with_all(result_cache::policies(&args.policies_of(settings))?)
            .with_all(variables)
            .with_all(args.platforms.iter().map(ToString::to_string))
            .with(format!("{:?} {}", args.require, args.source_only));
        Some((parts.key(), template))
    }
}
