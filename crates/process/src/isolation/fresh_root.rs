//! Root file system of its own for a job: directories of the system, read-only, the paths of the policy, and nothing
//! else. Home and temporary files are in memory and disappear with the step.

use std::{
    collections::BTreeMap,
    fs::{self, DirBuilder, File},
    io,
    os::unix::fs::{DirBuilderExt as _, symlink},
    path::{Component, Path, PathBuf},
};

use nix::{
    mount::{MntFlags, MsFlags, mount, umount2},
    unistd::pivot_root,
};

use super::{
    Access, Denied, Policy,
    namespaces::{make_read_only, mount_on, mount_proc, open_path},
};

/// Directories that a job finds besides those that it is to see. Neither homes nor `/var`, `/run` and `/sys`.
const SYSTEM: [&str; 11] = [
    "/bin", "/etc", "/lib", "/lib32", "/lib64", "/libx32", "/nix", "/opt", "/sbin", "/snap", "/usr",
];

/// Devices that programs expect, none of which gives access to hardware.
const DEVICES: [&str; 6] = ["full", "null", "random", "tty", "urandom", "zero"];

/// Options of the root, which is in memory like everything that is written there.
const ROOT: &str = "mode=0755,size=512m,nr_inodes=64k";

/// Directories over which the new root is mounted until it is the root. None of the bound paths may contain it: the
/// root would be part of itself.
const STAGES: [&str; 6] = ["/mnt", "/srv", "/media", "/run", "/sys", "/dev"];

/// Directory of the old root until it is unmounted.
const BEFORE: &str = ".before";

/// Paths that a job sees in addition to those of the policy.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Shown {
    /// Files and directories to show read-only.
    pub paths: Vec<PathBuf>,
    /// Empty directories that it can write, such as its home.
    pub empty: Vec<PathBuf>,
}

/// Changes the root of this process, which is in namespaces of its own. Hidden paths below shown ones must be hidden
/// afterwards.
pub(super) fn enter(policy: &Policy, shown: &Shown) -> Result<(), Denied> {
    let sources = sources(policy, shown)?;
    let stage = stage(&sources)?;
    let devices = DEVICES.map(|name| Path::new("/dev").join(name));
    // Opened before the new root covers them.
    let devices: Vec<(PathBuf, File)> = devices
        .into_iter()
        .filter_map(|path| Some((path.clone(), open_path(&path).ok()?)))
        .collect();
    let root = Root(stage);
    let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV;
    mount(Some("none"), stage, Some("tmpfs"), flags, Some(ROOT))
        .map_err(|error| Denied::kernel("mount a root", error))?;
    for path in ["/tmp", "/var/tmp", "/dev/shm", "/run", "/proc"] {
        root.make_dir(Path::new(path))?;
    }
    for path in &shown.empty {
        root.make_dir(path)?;
    }
    for name in SYSTEM {
        // Mostly `/bin` is a link to `usr/bin`.
        if let Ok(target) = fs::read_link(name) {
            let made = symlink(target, root.place(Path::new(name)));
            made.map_err(|error| Denied::kernel(format!("make {name}"), error))?;
        }
    }
    for (path, (source, access)) in &sources {
        root.bind(source, path)?;
        if *access == Access::ReadOnly {
            make_read_only(&root.place(path))?;
        }
    }
    for (path, device) in &devices {
        root.bind(device, path)?;
    }
    for (name, target) in [
        ("fd", ""),
        ("stdin", "/0"),
        ("stdout", "/1"),
        ("stderr", "/2"),
    ] {
        let link = root.place(&Path::new("/dev").join(name));
        symlink(format!("/proc/self/fd{target}"), link)
            .map_err(|error| Denied::kernel("make /dev", error))?;
    }
    mount_proc(&root.place(Path::new("/proc")))?;
    root.make_current()
}

fn stage(sources: &BTreeMap<PathBuf, (File, Access)>) -> Result<&'static Path, Denied> {
    let is_free = |stage: &&Path| stage.is_dir() && !sources.keys().any(|it| stage.starts_with(it));
    let mut stages = STAGES.iter().map(Path::new);
    let missing = || Denied::kernel("find a place for a root", io::ErrorKind::NotFound);
    stages.find(is_free).ok_or_else(missing)
}

/// Returns which files are bound where, directories before their content.
fn sources(policy: &Policy, shown: &Shown) -> Result<BTreeMap<PathBuf, (File, Access)>, Denied> {
    let system = SYSTEM
        .iter()
        .map(Path::new)
        .filter(|path| !path.is_symlink());
    let shown = shown.paths.iter().map(PathBuf::as_path);
    let named = system.chain(shown).map(|path| (path, Access::ReadOnly));
    let ruled = policy
        .rules()
        .filter(|(_, access)| *access != Access::Hidden);
    let mut sources: BTreeMap<PathBuf, (File, Access)> = BTreeMap::new();
    for (path, access) in named.chain(ruled) {
        // Missing paths cannot be shown.
        let Ok(real) = path.canonicalize() else {
            continue;
        };
        for place in [real.as_path(), path] {
            let around = place.ancestors().skip(1).find_map(|it| sources.get(it));
            let is_there = around.is_some_and(|(_, theirs)| *theirs == access);
            if !is_there {
                sources.insert(place.to_owned(), (open_path(&real)?, access));
            }
        }
    }
    Ok(sources)
}

/// Directory that becomes the root.
struct Root<'a>(&'a Path);

impl Root<'_> {
    /// Returns where a path of the new root is now.
    fn place(&self, path: &Path) -> PathBuf {
        let names = path
            .components()
            .filter(|it| matches!(it, Component::Normal(_)));
        self.0.join(names.collect::<PathBuf>())
    }

    fn make_dir(&self, path: &Path) -> Result<(), Denied> {
        let mut dirs = DirBuilder::new();
        let made = dirs.recursive(true).mode(0o755).create(self.place(path));
        made.map_err(|error| Denied::kernel(format!("make {}", path.display()), error))
    }

    fn bind(&self, source: &File, path: &Path) -> Result<(), Denied> {
        let (place, failed) = (self.place(path), |error: io::Error| {
            Denied::kernel(format!("make {}", path.display()), error)
        });
        if source.metadata().map_err(failed)?.is_dir() {
            self.make_dir(path)?;
        } else {
            self.make_dir(path.parent().unwrap_or(path))?;
            if !place.exists() {
                File::create(&place).map_err(failed)?;
            }
        }
        mount_on(source, &place, path)
    }

    /// Makes it the root and unmounts everything else.
    fn make_current(&self) -> Result<(), Denied> {
        let before = self.0.join(BEFORE);
        let changed = fs::create_dir(&before).and_then(|()| {
            pivot_root(self.0, &before)?;
            std::env::set_current_dir("/")?;
            let before = Path::new("/").join(BEFORE);
            umount2(&before, MntFlags::MNT_DETACH)?;
            fs::remove_dir(before)
        });
        changed.map_err(|error| Denied::kernel("change the root", error))
    }
}
