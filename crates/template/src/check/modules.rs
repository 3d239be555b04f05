//! Fetched modules on disk, so that the rules read them beside the template's own files.

use std::{collections::BTreeMap, io, path::Path};

use outpost_base::stop::Stop;
use outpost_files::{
    archive::{ArchiveError, extract_template},
    beneath::Dir,
    module_archive::{ModuleError, fetched_modules},
};

use super::source::Fetched;

/// An archive of modules that cannot be laid out.
#[derive(Debug, thiserror::Error)]
pub enum ModulesError {
    /// The directory cannot be opened.
    #[error("failed to open the directory for modules")]
    Open(#[source] io::Error),
    /// The archive cannot be unpacked.
    #[error("failed to unpack modules")]
    Unpack(#[source] ArchiveError),
    /// The list of modules cannot be used.
    #[error("failed to read the list of modules")]
    List(#[source] ModuleError),
}

/// Unpacks an archive of modules into an empty directory, and returns where each lies, by its path of calls. The call blocks.
///
/// # Errors
/// [`ModulesError`] if the archive is no such one.
pub fn unpack_modules(
    archive: &[u8],
    dir: &Path,
    stop: &Stop,
) -> Result<BTreeMap<String, Fetched>, ModulesError> {
    let opened = Dir::open(dir).map_err(ModulesError::Open)?;
    extract_template(archive, &opened, stop).map_err(ModulesError::Unpack)?;
    let modules = fetched_modules(&opened).map_err(ModulesError::List)?;
    let fetched = modules.into_iter().map(|module| {
        let place = Fetched {
            dir: dir.join(module.dir),
            source: module.source,
        };
        (module.key, place)
    });
    Ok(fetched.collect())
}

#[cfg(test)]
mod tests {
    use std::fs;

    use outpost_files::module_archive::pack_modules;

    use super::*;
    use crate::check::{Options, Sources, examine};

    const MANIFEST: &str = r#"{"Modules":[
        {"Key":"","Source":"","Dir":"."},
        {"Key":"ide","Source":"registry.example.com/acme/ide/coder","Version":"1.2.0","Dir":".terraform/modules/ide"},
        {"Key":"ide.inner","Source":"./inner","Dir":".terraform/modules/ide/inner"}]}"#;

    #[test]
    fn findings_inside_a_fetched_module_have_its_own_path_and_its_address() {
        let session = tempfile::tempdir().unwrap();
        let write = |name: &str, text: &str| {
            let path = session.path().join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        };
        write(".terraform/modules/modules.json", MANIFEST);
        write(
            ".terraform/modules/ide/main.tf",
            "module \"inner\" { source = \"./inner\" }\n",
        );
        write(
            ".terraform/modules/ide/inner/apps.tf",
            "variable \"agent\" {}\nresource \"coder_app\" \"x\" {\n  agent_id = var.agent\n  slug = \"Not A Slug\"\n}\n",
        );
        let packed = pack_modules(&Dir::open(session.path()).unwrap()).unwrap();
        let (template, unpacked) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let call = "module \"ide\" {\n  source = \"acme/ide/coder\"\n}\n";
        fs::write(template.path().join("main.tf"), call).unwrap();

        let fetched = unpack_modules(&packed.archive, unpacked.path(), &Stop::new()).unwrap();
        let mut sources = Sources::read(template.path(), fetched).unwrap();
        let examined = examine(&mut sources, &Options::default()).unwrap();

        assert_eq!(examined.missing, []);
        let found = examined
            .findings
            .iter()
            .find(|it| it.rule == "app-slug-invalid")
            .unwrap();
        assert_eq!(
            (found.place.file.as_str(), found.place.line),
            ("inner/apps.tf", 4)
        );
        assert_eq!(found.module, "registry.example.com/acme/ide/coder");
        assert_eq!(found.address, "module.ide.module.inner.coder_app.x");
    }
}
