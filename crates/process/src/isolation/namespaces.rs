//! User and mount namespaces: hidden paths are covered by something empty, read-only ones are mounted so.
//!
//! No capability is left at the end, so nothing can be unmounted; a namespace within this one inherits the mounts
//! locked. The user stays who he is, and keeps the groups that he has.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs::{self, DirBuilder, File, OpenOptions},
    io,
    os::{
        fd::AsRawFd as _,
        unix::fs::{DirBuilderExt as _, OpenOptionsExt as _},
    },
    path::{Path, PathBuf},
};

use nix::{
    mount::{MntFlags, MsFlags, mount, umount2},
    sched::{CloneFlags, unshare},
    sys::{
        resource::{Resource, getrlimit, setrlimit},
        statvfs::{FsFlags, statvfs},
    },
    unistd::{AccessFlags, Gid, Uid, access, getegid, geteuid},
};

use super::{
    Access, Denied, Policy, capabilities,
    fresh_root::{self, Shown},
};
use crate::control_group::MAX_TASKS;

/// Options of the mount over a hidden directory: nobody can list it, but what is opened below it can be reached.
const EMPTY_DIR: &str = "mode=0111,size=64k,nr_inodes=1k";

/// Settings for the confinement of this process.
pub(super) struct Setup<'a> {
    /// Policy as it was given: links are followed once the root is final.
    pub(super) policy: &'a Policy,
    /// Working directory of the process.
    pub(super) dir: &'a Path,
    /// Paths that it sees of the rest, if it gets a root of its own.
    pub(super) root: Option<&'a Shown>,
}

impl Setup<'_> {
    /// Confines this process, which must have a single thread.
    pub(super) fn apply(&self) -> Result<(), Denied> {
        enter()?;
        separate_mounts()?;
        if let Some(shown) = self.root {
            fresh_root::enter(self.policy, shown)?;
        }
        arrange(&self.policy.resolve()?, self.dir)?;
        // Without capabilities nothing of the above can be undone.
        capabilities::drop_all()
    }

    /// Confines the first process of a process namespace, in namespaces that [`enter_with_processes`] created.
    pub(super) fn apply_as_init(&self) -> Result<(), Denied> {
        // The shim stays in the old mount namespace: it is found by its working directory.
        unshare(CloneFlags::CLONE_NEWNS)
            .map_err(|error| Denied::kernel("make a mount namespace", error))?;
        separate_mounts()?;
        match self.root {
            Some(shown) => {
                fresh_root::enter(self.policy, shown)?;
                arrange(&self.policy.resolve()?, self.dir)?;
            }
            None => {
                arrange(&self.policy.resolve()?, self.dir)?;
                // Where `/proc` cannot be mounted, the outer one stays; it is protected as before, and does not make
                // signals possible.
                let _ = mount_own_proc(Path::new("/proc"));
            }
        }
        capabilities::drop_all()
    }
}

/// Mounts the files of processes: of those in our own namespace, where the kernel allows it. It does not where
/// something covers parts of `/proc`, as in most containers.
pub(super) fn mount_proc(place: &Path) -> Result<(), Denied> {
    let present = open_path(Path::new("/proc"))?;
    match mount_own_proc(place) {
        Ok(()) => Ok(()),
        Err(_) => mount_on(&present, place, Path::new("/proc")),
    }
}

fn mount_own_proc(place: &Path) -> nix::Result<()> {
    let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
    mount(Some("proc"), place, Some("proc"), flags, None::<&str>)
}

/// Creates the mounts for the policy.
fn arrange(policy: &Policy, dir: &Path) -> Result<(), Denied> {
    let sources = open_sources(policy)?;
    pin_ancestors(policy)?;
    let mut hidden = Vec::new();
    for (path, access) in policy.rules() {
        let around = policy.access_around(path);
        match access {
            Access::Hidden if path.is_dir() => {
                mount_empty(path)?;
                hidden.push(path);
            }
            Access::Hidden => {}
            Access::ReadOnly | Access::Open => {
                let source = &sources[path];
                bind(source, path, around == Access::Hidden)?;
                if access == Access::ReadOnly {
                    make_read_only(path)?;
                }
            }
        }
    }
    // Last, because mounting onto a directory covers the mounts over files in it.
    hide_files(policy, dir)?;
    hidden.into_iter().try_for_each(make_read_only)
}

/// Enters new user and mount namespaces, which are copies of the old ones.
fn enter() -> Result<(), Denied> {
    enter_with(CloneFlags::CLONE_NEWNS)
}

/// Enters new user and process namespaces, in which the next child is the first process and keeps the capabilities
/// for mounting. Where the kernel, or its configuration, does not allow them, nothing happens. Returns whether it
/// worked.
pub(super) fn enter_with_processes() -> Result<bool, Denied> {
    let identity = Identity::current();
    if unshare(CloneFlags::CLONE_NEWUSER | CloneFlags::CLONE_NEWPID).is_err() {
        return Ok(false);
    }
    identity.keep()?;
    capabilities::pass_on_mounting()?;
    Ok(true)
}

/// Separates the mounts: later ones outside appear inside; ours do not appear outside.
fn separate_mounts() -> Result<(), Denied> {
    // What is mounted outside later appears inside; what we mount does not appear outside.
    let none = None::<&str>;
    mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_SLAVE, none)
        .map_err(|error| Denied::kernel("separate the mounts", error))
}

/// Enters a user namespace, in which we are the same user and group as before, and `others`.
pub(super) fn enter_with(others: CloneFlags) -> Result<(), Denied> {
    let identity = Identity::current();
    unshare(CloneFlags::CLONE_NEWUSER | others)
        .map_err(|error| Denied::kernel("make a user namespace", error))?;
    identity.keep()
}

/// Ids of a user and a group.
struct Identity(Uid, Gid);

impl Identity {
    fn current() -> Self {
        Self(geteuid(), getegid())
    }

    /// Keeps the ids in a new user namespace.
    fn keep(&self) -> Result<(), Denied> {
        let Self(user, group) = self;
        // Without this the kernel allows no mapping of groups: a process could drop a group that denies it access.
        write_own("setgroups", "deny".to_owned())?;
        write_own("uid_map", format!("{user} {user} 1"))?;
        write_own("gid_map", format!("{group} {group} 1"))
    }
}

/// Limits how many processes and threads our user may have in our user namespace. The kernel counts those of each
/// namespace separately, and never limits root.
pub(super) fn limit_tasks() -> Result<(), Denied> {
    let (_, most) = getrlimit(Resource::RLIMIT_NPROC).map_err(limit_failed)?;
    let limit = most.min(MAX_TASKS);
    setrlimit(Resource::RLIMIT_NPROC, limit, limit).map_err(limit_failed)
}

fn limit_failed(error: nix::Error) -> Denied {
    Denied::kernel("limit the number of processes", error)
}

fn write_own(name: &str, text: String) -> Result<(), Denied> {
    let path = format!("/proc/self/{name}");
    fs::write(&path, text).map_err(|error| Denied::kernel(format!("write {path}"), error))
}

/// Opens paths that must be reached below something that will cover them.
fn open_sources(policy: &Policy) -> Result<BTreeMap<PathBuf, File>, Denied> {
    let mut sources = BTreeMap::new();
    for (path, _) in policy.rules().filter(|(_, it)| *it != Access::Hidden) {
        sources.insert(path.to_owned(), open_path(path)?);
    }
    Ok(sources)
}

pub(super) fn open_path(path: &Path) -> Result<File, Denied> {
    let opened = OpenOptions::new()
        .read(true)
        .custom_flags(libc::O_PATH | libc::O_CLOEXEC)
        .open(path);
    opened.map_err(|error| Denied::kernel(format!("open {}", path.display()), error))
}

/// Mounts directories above paths with a rule onto themselves where somebody could move them: the kernel moves no
/// mount points. A mount over a hidden file would move along with it, but the next job would find nothing to hide at
/// the old place, and the file at the new one.
fn pin_ancestors(policy: &Policy) -> Result<(), Denied> {
    let ancestors = policy
        .rules()
        .flat_map(|(path, _)| path.ancestors().skip(1));
    let ancestors: BTreeSet<&Path> = ancestors.collect();
    for dir in ancestors {
        let can_be_moved = |around: &Path| access(around, AccessFlags::W_OK).is_ok();
        if policy.access(dir) == Access::Open && dir.parent().is_some_and(can_be_moved) {
            mount_on(&open_path(dir)?, dir, dir)?;
        }
    }
    Ok(())
}

/// Mounts an unreadable file over each hidden file. It is created in the place of `stage`, which is restored.
fn hide_files(policy: &Policy, stage: &Path) -> Result<(), Denied> {
    let hidden = policy.rules().filter(|(_, it)| *it == Access::Hidden);
    let files: Vec<&Path> = hidden
        .map(|(path, _)| path)
        .filter(|path| !path.is_dir())
        .collect();
    if files.is_empty() {
        return Ok(());
    }
    let targets: Result<Vec<File>, Denied> = files.iter().map(|path| open_path(path)).collect();
    let targets = targets?;
    mount_empty(stage)?;
    let closed = stage.join("closed");
    let made = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o0)
        .open(&closed);
    made.map_err(|error| Denied::kernel("make an unreadable file", error))?;
    let closed = open_path(&closed)?;
    for (target, path) in targets.iter().zip(&files) {
        mount_on(&closed, &fd_path(target), path)?;
    }
    umount2(stage, MntFlags::MNT_DETACH)
        .map_err(|error| Denied::kernel(format!("unmount {}", stage.display()), error))?;
    drop(closed);
    files.into_iter().try_for_each(make_read_only)
}

/// Returns a path that leads through a file descriptor, whatever has been mounted over its name since.
fn fd_path(file: &File) -> PathBuf {
    PathBuf::from(format!("/proc/self/fd/{}", file.as_raw_fd()))
}

fn mount_empty(path: &Path) -> Result<(), Denied> {
    let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
    mount(Some("none"), path, Some("tmpfs"), flags, Some(EMPTY_DIR))
        .map_err(|error| Denied::kernel(format!("mount over {}", path.display()), error))
}

/// Mounts `source` where it was, on a mount point that is created if everything around it is hidden.
fn bind(source: &File, path: &Path, is_buried: bool) -> Result<(), Denied> {
    if is_buried {
        let made = make_mount_point(source, path);
        made.map_err(|error| Denied::kernel(format!("make {}", path.display()), error))?;
    }
    mount_on(source, path, path)
}

fn make_mount_point(source: &File, path: &Path) -> io::Result<()> {
    let mut dirs = DirBuilder::new();
    dirs.recursive(true).mode(0o111);
    if source.metadata()?.is_dir() {
        return dirs.create(path);
    }
    dirs.create(path.parent().unwrap_or(path))?;
    File::create(path).map(drop)
}

pub(super) fn mount_on(source: &File, target: &Path, name: &Path) -> Result<(), Denied> {
    let flags = MsFlags::MS_BIND | MsFlags::MS_REC;
    let none = None::<&str>;
    mount(Some(&fd_path(source)), target, none, flags, none)
        .map_err(|error| Denied::kernel(format!("mount {}", name.display()), error))
}

/// Makes a mount read-only. Existing flags must stay: the kernel lets nobody remove them from a foreign mount. Those
/// for access times stay by themselves if none of them is named.
pub(super) fn make_read_only(path: &Path) -> Result<(), Denied> {
    let failed = |error| Denied::kernel(format!("make {} read-only", path.display()), error);
    let present = statvfs(path).map_err(failed)?.flags();
    let mut flags = MsFlags::MS_REMOUNT | MsFlags::MS_BIND | MsFlags::MS_RDONLY;
    for (is, flag) in [
        (FsFlags::ST_NOSUID, MsFlags::MS_NOSUID),
        (FsFlags::ST_NODEV, MsFlags::MS_NODEV),
        (FsFlags::ST_NOEXEC, MsFlags::MS_NOEXEC),
    ] {
        flags.set(flag, present.contains(is));
    }
    let none = None::<&str>;
    mount(none, path, none, flags, none).map_err(failed)
}
