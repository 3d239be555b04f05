//! The files from which an engine reads its CLI configuration.

use std::{
    ffi::OsString,
    fs,
    path::{Path, PathBuf},
};

/// Engine whose rules apply.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Engine {
    /// The files `~/.terraformrc` and those in `~/.terraform.d`.
    Terraform,
    /// The file `~/.tofurc` first, then those of Terraform.
    OpenTofu,
}

/// Location of the configuration.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Location {
    /// Existing files, in the order in which they are read.
    pub files: Vec<PathBuf>,
    /// Path in `TF_CLI_CONFIG_FILE`, if no such file exists. Engines then only warn, at every command.
    pub missing: Option<PathBuf>,
}

/// Finds the files that an engine would read in this environment.
///
/// A file named by `TF_CLI_CONFIG_FILE` or `TERRAFORM_CONFIG` is the only one. Otherwise it is the file in the home
/// directory, then `*.tfrc` and `*.tfrc.json` in `~/.terraform.d`, in byte order.
pub fn locate(engine: Engine, env: impl Fn(&str) -> Option<OsString>) -> Location {
    let var = |name: &str| {
        env(name)
            .filter(|value| !value.is_empty())
            .map(PathBuf::from)
    };
    if let Some(path) = var("TF_CLI_CONFIG_FILE").or_else(|| var("TERRAFORM_CONFIG")) {
        return match path.is_file() {
            true => Location {
                files: vec![path],
                missing: None,
            },
            false => Location {
                files: Vec::new(),
                missing: Some(path),
            },
        };
    }
    let Some(home) = var("HOME") else {
        return Location::default();
    };
    let xdg = var("XDG_CONFIG_HOME").unwrap_or_else(|| home.join(".config"));
    let candidates = match engine {
        Engine::Terraform => vec![home.join(".terraformrc")],
        Engine::OpenTofu => vec![
            home.join(".tofurc"),
            home.join(".terraformrc"),
            xdg.join("opentofu/tofurc"),
        ],
    };
    let mut files: Vec<PathBuf> = candidates
        .into_iter()
        .find(|path| path.is_file())
        .into_iter()
        .collect();
    files.extend(config_dir(&home.join(".terraform.d")));
    Location {
        files,
        missing: None,
    }
}

fn config_dir(dir: &Path) -> Vec<PathBuf> {
    let is_config = |path: &PathBuf| {
        let name = path
            .file_name()
            .and_then(|name| name.to_str())
            .unwrap_or_default();
        !name.starts_with('.')
            && (name.ends_with(".tfrc") || name.ends_with(".tfrc.json"))
            && path.is_file()
    };
    let entries = fs::read_dir(dir).into_iter().flatten().flatten();
    let mut files: Vec<PathBuf> = entries
        .map(|entry| entry.path())
        .filter(is_config)
        .collect();
    files.sort();
    files
}

#[cfg(test)]
mod tests {
    use super::*;

    fn located(engine: Engine, home: &Path, extra: &[(&str, PathBuf)]) -> Location {
        locate(engine, |name| match name {
            "HOME" => Some(home.into()),
            name => extra
                .iter()
                .find(|(key, _)| *key == name)
                .map(|(_, path)| path.into()),
        })
    }

    #[test]
    fn a_file_named_by_the_environment_is_the_only_one() {
        let home = tempfile::tempdir().unwrap();
        fs::write(home.path().join(".terraformrc"), "").unwrap();
        let (named, absent) = (home.path().join("named"), home.path().join("absent"));
        fs::write(&named, "").unwrap();

        let found = located(
            Engine::Terraform,
            home.path(),
            &[("TF_CLI_CONFIG_FILE", named.clone())],
        );
        assert_eq!((found.files, found.missing), (vec![named], None));

        let found = located(
            Engine::Terraform,
            home.path(),
            &[("TF_CLI_CONFIG_FILE", absent.clone())],
        );
        assert_eq!((found.files, found.missing), (vec![], Some(absent)));
    }

    #[test]
    fn without_one_it_is_the_home_directory() {
        let home = tempfile::tempdir().unwrap();
        let dir = home.path().join(".terraform.d");
        fs::create_dir(&dir).unwrap();
        for name in [
            "b.tfrc",
            "credentials.tfrc.json",
            "other.txt",
            ".hidden.tfrc",
        ] {
            fs::write(dir.join(name), "").unwrap();
        }
        fs::write(home.path().join(".terraformrc"), "").unwrap();

        let found = located(Engine::Terraform, home.path(), &[]).files;

        let expected = [
            home.path().join(".terraformrc"),
            dir.join("b.tfrc"),
            dir.join("credentials.tfrc.json"),
        ];
        assert_eq!(found, expected);
    }

    #[test]
    fn opentofu_prefers_its_own_file() {
        let home = tempfile::tempdir().unwrap();
        fs::write(home.path().join(".terraformrc"), "").unwrap();
        assert_eq!(
            located(Engine::OpenTofu, home.path(), &[]).files,
            [home.path().join(".terraformrc")]
        );

        fs::write(home.path().join(".tofurc"), "").unwrap();
        assert_eq!(
            located(Engine::OpenTofu, home.path(), &[]).files,
            [home.path().join(".tofurc")]
        );
    }

    #[test]
    fn without_a_home_there_is_none() {
        assert_eq!(locate(Engine::Terraform, |_| None), Location::default());
    }
}
