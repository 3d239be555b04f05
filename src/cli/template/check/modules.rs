//! Modules that are not part of the template: from its directory after `terraform init`, from a mirror, or from their sources.

use anyhow::Context;
use bytes::Bytes;

use super::{one::One, unchecked};
use crate::{
    cli::exit::Interrupted,
    files::{beneath::Dir, module_archive::pack_modules},
    template::check::{self, Sources},
};

impl One<'_> {
    /// Fetches the modules that the template calls, and reads it again with them. What cannot be fetched is a reason why the
    /// check is incomplete.
    pub(super) async fn fetch(&mut self) -> anyhow::Result<()> {
        let fetched = if self.args.installed_modules {
            self.installed()
        } else if self.args.online || self.engine.mirror_place().is_some() {
            self.by_engine().await?
        } else {
            return Ok(());
        };
        match fetched {
            Ok(modules) => self.modules = modules,
            Err(reasons) => {
                let reasons = reasons.into_iter();
                let reasons = reasons.map(|it| format!("the modules cannot be fetched: {it}"));
                self.report.incomplete.extend(reasons);
                return Ok(());
            }
        }
        let dir = self.work.path().join("modules");
        std::fs::create_dir(&dir).context("failed to make a directory for modules")?;
        let fetched = check::unpack_modules(&self.modules, &dir, self.stop).map_err(unchecked)?;
        self.sources = Sources::read(self.directory, fetched).map_err(unchecked)?;
        self.examine()
    }

    /// Modules that an engine left in the template's own directory.
    fn installed(&self) -> Result<Bytes, Vec<String>> {
        let packed = Dir::open(self.directory)
            .map_err(anyhow::Error::from)
            .and_then(|dir| Ok(pack_modules(&dir)?));
        let packed = packed.map_err(|error| vec![format!("{error:#}")])?;
        match packed.archive.is_empty() {
            true => Err(vec![format!(
                "`{}` has none; run `terraform get` there",
                self.directory.display()
            )]),
            false => Ok(packed.archive),
        }
    }

    async fn by_engine(&mut self) -> anyhow::Result<Result<Bytes, Vec<String>>> {
        let archive = match self.packed()? {
            Ok(archive) => archive,
            Err(reason) => return Ok(Err(vec![reason])),
        };
        let engine = match self.mocked(Vec::new()).await {
            Ok(engine) => engine,
            Err(error) => return Ok(Err(vec![format!("{error:#}")])),
        };
        let fetched = check::fetch_modules(engine.provisioner.as_ref(), archive, self.stop).await;
        match self.stop.is_cancelled() {
            true => Err(Interrupted.into()),
            false => Ok(fetched),
        }
    }
}
