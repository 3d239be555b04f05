//! The built-in `coder` provider, as a mirror of packages that contain only a launcher.
//!
//! Terraform hashes the executable of every provider at every command, so the package must be tiny: a script whose
//! interpreter is this program. The mirror has all published versions, so that the engine itself selects the locked
//! one, or the newest that satisfies all constraints, including those of modules that only the engine can fetch.

use std::{
    ffi::OsStr,
    fs, io,
    os::unix::{
        ffi::OsStrExt,
        fs::{OpenOptionsExt, PermissionsExt},
    },
    path::{Path, PathBuf},
};

use outpost_base::registry::{DEFAULT_HOST, OPENTOFU_HOST, Platform};
use outpost_files as files;
use outpost_provision::ProviderPackages;
use semver::Version;
use sha2::{Digest, Sha256};

mod versions;

pub use self::versions::PUBLISHED;

/// The hidden command with which our program serves the plugin protocol.
pub const COMMAND: &str = "terraform-provider-coder";

/// Registries that publish the provider: Terraform's default and OpenTofu's.
const HOSTS: [&str; 2] = [DEFAULT_HOST, OPENTOFU_HOST];

/// Bytes that Linux reads of the first line of a script, including `#!` and the end of the line (`BINPRM_BUF_SIZE`).
const LONGEST_SHEBANG: usize = 255;

/// Creates mirrors of launchers below a directory.
#[derive(Clone, Debug)]
pub struct BuiltinPackages {
    /// Directory of the mirrors; each program that asks for one has its own.
    pub dir: PathBuf,
    /// Path of this program.
    pub executable: PathBuf,
}

impl ProviderPackages for BuiltinPackages {
    fn hosts(&self) -> &[&'static str] {
        &HOSTS
    }

    fn mirror(&self, locked: Option<&Version>) -> io::Result<PathBuf> {
        let launcher = launcher(&self.executable);
        let mirror = self.dir.join(digest(&launcher));
        if !mirror.is_dir() {
            publish(&mirror, |root| write_packages(root, &launcher, PUBLISHED))
                .map_err(|error| cannot_write(&mirror, &error))?;
        }
        let unknown = locked.map(Version::to_string);
        if let Some(version) = unknown.filter(|v| !PUBLISHED.contains(&v.as_str())) {
            add_version(&mirror, &launcher, &version)?;
        }
        Ok(mirror)
    }
}

fn cannot_write(mirror: &Path, error: &io::Error) -> io::Error {
    let text = format!(
        "{error} at {}; name another directory with --cache-dir",
        mirror.display()
    );
    io::Error::new(error.kind(), text)
}

/// Returns a script that runs `executable` as the provider. The kernel appends the script's own path as the last
/// argument.
fn launcher(executable: &Path) -> Vec<u8> {
    let path = executable.as_os_str().as_bytes();
    let direct = [b"#!", path, b" ", COMMAND.as_bytes(), b"\n"].concat();
    let fits = direct.len() <= LONGEST_SHEBANG;
    if fits && !path.iter().any(u8::is_ascii_whitespace) {
        return direct;
    }
    let quoted = quote(path);
    let command = COMMAND.as_bytes();
    [
        b"#!/bin/sh\nexec ",
        quoted.as_slice(),
        b" ",
        command,
        b" \"$0\"\n",
    ]
    .concat()
}

/// Returns `path` in single quotes, as a shell reads it.
fn quote(path: &[u8]) -> Vec<u8> {
    let mut quoted = vec![b'\''];
    for &byte in path {
        match byte {
            b'\'' => quoted.extend_from_slice(br"'\''"),
            _ => quoted.push(byte),
        }
    }
    quoted.push(b'\'');
    quoted
}

/// Returns the name of a mirror. It depends on the mirror's whole content, so two programs never change each other's
/// mirror.
fn digest(launcher: &[u8]) -> String {
    let mut hash = Sha256::new();
    hash.update(launcher);
    for version in PUBLISHED {
        hash.update(version);
        hash.update([0]);
    }
    hex::encode(&hash.finalize()[..8])
}

/// Fills a directory beside `target` and moves it there. The first process wins; the others use its result.
fn publish(target: &Path, fill: impl FnOnce(&Path) -> io::Result<()>) -> io::Result<()> {
    let parent = files::directory_of(target);
    fs::create_dir_all(parent)?;
    let staging = tempfile::Builder::new()
        .prefix(".new-")
        .permissions(fs::Permissions::from_mode(0o755))
        .tempdir_in(parent)?;
    fill(staging.path())?;
    match fs::rename(staging.path(), target) {
        Ok(()) => {
            // The directory has been moved: there is nothing left to remove.
            let _moved = staging.keep();
            Ok(())
        }
        Err(_) if target.is_dir() => Ok(()),
        Err(error) => Err(error),
    }
}

fn write_packages(root: &Path, launcher: &[u8], versions: &[&str]) -> io::Result<()> {
    let platform = Platform::current().to_string();
    for host in HOSTS {
        for version in versions {
            let package = package_dir(root, host, version).join(&platform);
            write_package(&package, launcher, version)?;
        }
    }
    Ok(())
}

fn package_dir(root: &Path, host: &str, version: &str) -> PathBuf {
    root.join(host).join("coder").join("coder").join(version)
}

fn write_package(package: &Path, launcher: &[u8], version: &str) -> io::Result<()> {
    fs::create_dir_all(package)?;
    let path = package.join(format!("terraform-provider-coder_v{version}"));
    let mut file = fs::OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o755)
        .open(path)?;
    io::Write::write_all(&mut file, launcher)?;
    // The umask reduced the mode given above, but other users who share the cache must be able to run the file.
    file.set_permissions(fs::Permissions::from_mode(0o755))
}

/// Adds a version that is not in our list of published ones, because a lock file requires it.
fn add_version(mirror: &Path, launcher: &[u8], version: &str) -> io::Result<()> {
    let platform = Platform::current().to_string();
    for host in HOSTS {
        let target = package_dir(mirror, host, version);
        if !target.is_dir() {
            publish(&target, |dir| {
                write_package(&dir.join(&platform), launcher, version)
            })?;
        }
    }
    Ok(())
}

/// Returns the version under which a launcher was installed, from its path: `…/terraform-provider-coder_v2.20.0`.
pub fn version_of(launcher: &OsStr) -> Option<&str> {
    let name = Path::new(launcher).file_name()?.to_str()?;
    name.strip_prefix("terraform-provider-coder_v")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn packages(dir: &Path, executable: &str) -> BuiltinPackages {
        BuiltinPackages {
            dir: dir.to_owned(),
            executable: executable.into(),
        }
    }

    fn package(mirror: &Path, host: &str, version: &str) -> PathBuf {
        package_dir(mirror, host, version)
            .join(Platform::current().to_string())
            .join(format!("terraform-provider-coder_v{version}"))
    }

    #[test]
    fn every_published_version_is_a_small_script_that_anybody_may_run() {
        let dir = tempfile::tempdir().unwrap();

        let mirror = packages(dir.path(), "/opt/outpost").mirror(None).unwrap();

        for host in HOSTS {
            for version in PUBLISHED {
                let path = package(&mirror, host, version);
                let mode = fs::metadata(&path).unwrap().permissions().mode();
                assert_eq!(mode & 0o777, 0o755);
                let script = fs::read_to_string(&path).unwrap();
                assert_eq!(script, "#!/opt/outpost terraform-provider-coder\n");
            }
        }
    }

    #[test]
    fn published_versions_are_versions_in_order() {
        let parsed: Vec<Version> = PUBLISHED.iter().map(|v| v.parse().unwrap()).collect();

        assert!(parsed.is_sorted());
        assert_eq!(parsed.last(), Some(&Version::new(2, 20, 0)));
    }

    #[test]
    fn a_locked_version_is_there_even_if_we_do_not_know_it() {
        let dir = tempfile::tempdir().unwrap();
        let packages = packages(dir.path(), "/opt/outpost");
        let locked = Version::new(9, 8, 7);

        for _ in 0..2 {
            let mirror = packages.mirror(Some(&locked)).unwrap();
            assert!(package(&mirror, DEFAULT_HOST, "9.8.7").is_file());
        }
    }

    #[test]
    fn another_program_gets_another_mirror() {
        let dir = tempfile::tempdir().unwrap();

        let one = packages(dir.path(), "/opt/one").mirror(None).unwrap();
        let two = packages(dir.path(), "/opt/two").mirror(None).unwrap();

        assert_ne!(one, two);
        assert_eq!(packages(dir.path(), "/opt/one").mirror(None).unwrap(), one);
    }

    #[test]
    fn sessions_that_start_together_share_one_mirror() {
        let dir = tempfile::tempdir().unwrap();
        let packages = packages(dir.path(), "/opt/outpost");

        std::thread::scope(|scope| {
            let start = || packages.mirror(None).unwrap();
            let all: Vec<_> = (0..4).map(|_| scope.spawn(start)).collect();
            let all: Vec<_> = all.into_iter().map(|t| t.join().unwrap()).collect();
            assert!(all.windows(2).all(|pair| pair[0] == pair[1]));
        });

        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
    }

    #[test]
    fn a_path_that_does_not_fit_a_shebang_goes_through_a_shell() {
        let long = format!("/{}", "x".repeat(300));
        for path in ["/with space/outpost", "/it's/outpost", long.as_str()] {
            let script = String::from_utf8(launcher(Path::new(path))).unwrap();
            let quoted = path.replace('\'', r"'\''");
            let direct = !path.contains(' ') && path.len() < 200;
            match direct {
                true => assert!(script.starts_with("#!/it's/outpost ")),
                false => assert_eq!(
                    script,
                    format!("#!/bin/sh\nexec '{quoted}' terraform-provider-coder \"$0\"\n")
                ),
            }
        }
    }

    #[test]
    fn a_launcher_really_runs_the_program_it_names() {
        let dir = tempfile::tempdir().unwrap();
        let strange = dir.path().join("it's a dir");
        fs::create_dir(&strange).unwrap();
        for program in [dir.path().join("program"), strange.join("program")] {
            fs::copy("/bin/echo", &program).unwrap();
            let packages = packages(dir.path(), program.to_str().unwrap());
            let launcher = package(&packages.mirror(None).unwrap(), DEFAULT_HOST, "2.20.0");

            let output = std::process::Command::new(&launcher).output().unwrap();

            let said = String::from_utf8(output.stdout).unwrap();
            assert_eq!(
                said,
                format!("terraform-provider-coder {}\n", launcher.display())
            );
            assert_eq!(version_of(launcher.as_os_str()), Some("2.20.0"));
        }
    }
}
