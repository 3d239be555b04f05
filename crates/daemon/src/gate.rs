//! Gate at which slots wait: for their turn to ask for a job, and for the memory that their job needs.

use std::{
    convert::Infallible,
    fs, io,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{SystemTime, UNIX_EPOCH},
};

use outpost_base::job::Job;
use outpost_files as files;
use outpost_provision::Memory;
use sha2::{Digest as _, Sha256};
use tokio::{
    sync::{Notify, OwnedSemaphorePermit},
    task::spawn_blocking,
};
use tracing::warn;

use super::{
    Config,
    admission::{Admission, Capacity},
    peaks::{self, Peaks},
    permit::SlotPermit,
    provider_set,
};

/// File with the learned memory needs, in the state directory.
const FILE_NAME: &str = "memory.json";

/// State that the slots of a daemon share.
pub(super) struct Gate {
    admission: Mutex<Admission>,
    changed: Notify,
    capacity: Option<Capacity>,
    state_dir: PathBuf,
}

/// A slot at the gate, with the job that it got. Dropping it makes room for others.
pub(super) struct Turn {
    gate: Arc<Gate>,
    slot: usize,
    permit: Arc<SlotPermit>,
    hold: Mutex<Hold>,
    /// Class under which the job's expected memory is known.
    class: Mutex<String>,
    memory: Memory,
}

/// Part of a slot that a job holds. Dropping it gives that back.
enum Hold {
    /// The permit of the slot itself.
    Slot(#[expect(dead_code, reason = "it is held, not read")] OwnedSemaphorePermit),
    /// A place beside the slot, which takes other jobs meanwhile.
    Aside(#[expect(dead_code, reason = "it is held, not read")] OwnedSemaphorePermit),
}

impl Gate {
    /// Opens a gate with everything that was learned before. Whatever cannot be read is learned again.
    pub(super) async fn open(config: &Config) -> Arc<Self> {
        let state_dir = config.state_dir.clone();
        let peaks = match config.capacity {
            Some(_) => {
                let path = state_dir.join(FILE_NAME);
                let read = spawn_blocking(move || read(&path)).await;
                read.unwrap_or_default()
            }
            None => Peaks::default(),
        };
        Arc::new(Self {
            admission: Mutex::new(Admission::new(config.capacity, config.max_jobs, peaks)),
            changed: Notify::new(),
            capacity: config.capacity,
            state_dir,
        })
    }

    /// Waits until `slot` may ask for a job. `None` if the daemon takes no more jobs.
    pub(super) async fn turn(
        self: &Arc<Self>,
        slot: usize,
        permit: &Arc<SlotPermit>,
    ) -> Option<Turn> {
        loop {
            let held = permit.take().await;
            tokio::select! {
                biased;
                turn = self.turn_with(slot, permit, held) => return turn,
                () = permit.is_wanted() => {}
            }
        }
    }

    async fn turn_with(
        self: &Arc<Self>,
        slot: usize,
        permit: &Arc<SlotPermit>,
        held: OwnedSemaphorePermit,
    ) -> Option<Turn> {
        self.admission().want(slot);
        let limit = self.capacity.and_then(|capacity| capacity.job_limit);
        let turn = Turn {
            gate: Arc::clone(self),
            slot,
            permit: Arc::clone(permit),
            hold: Mutex::new(Hold::Slot(held)),
            class: Mutex::default(),
            memory: match self.capacity {
                Some(_) => Memory::watched(limit),
                None => Memory::default(),
            },
        };
        let is_open = self.once(|admission| match admission.is_over() {
            true => Some(false),
            false => admission.try_ask(slot).then_some(true),
        });
        is_open.await.then_some(turn)
    }

    /// Waits until `check` returns something; it is called again whenever something has changed.
    async fn once<T>(&self, mut check: impl FnMut(&mut Admission) -> Option<T>) -> T {
        loop {
            let mut changed = std::pin::pin!(self.changed.notified());
            changed.as_mut().enable();
            if let Some(found) = check(&mut self.admission()) {
                self.changed.notify_waiters(); // The next slot in the queue may wait for this.
                return found;
            }
            changed.await;
        }
    }

    fn change(&self, what: impl FnOnce(&mut Admission)) {
        what(&mut self.admission());
        self.changed.notify_waiters();
    }

    fn admission(&self) -> MutexGuard<'_, Admission> {
        let admission = self.admission.lock();
        let mut admission = admission.expect("no code panics while it decides on admission");
        let now = SystemTime::now().duration_since(UNIX_EPOCH);
        admission.set_time(now.unwrap_or_default().as_secs());
        admission
    }

    async fn keep(&self) {
        let (path, peaks) = (
            self.state_dir.join(FILE_NAME),
            self.admission().peaks().clone(),
        );
        match spawn_blocking(move || write(&path, &peaks)).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => warn!(%error, "failed to save the memory statistics"),
            Err(panic) => warn!(%panic, "failed to save the memory statistics"),
        }
    }
}

impl Turn {
    /// Waits until the slot must stop asking: a job would no longer fit, or another one wants to go on.
    pub(super) async fn retracted(&self) {
        let retract = |admission: &mut Admission| admission.try_retract(self.slot).then_some(());
        tokio::select! {
            () = self.gate.once(retract) => {}
            () = self.permit.is_wanted() => {}
        }
    }

    /// Records that a job arrived.
    pub(super) async fn acquired(&self, job: &Job) {
        let archive = job.template_archive.clone();
        let class = match self.gate.capacity {
            Some(_) => spawn_blocking(move || class(&archive)).await,
            None => Ok(String::new()),
        };
        let class = class.unwrap_or_default();
        class.clone_into(&mut self.class());
        self.gate
            .change(|admission| admission.acquired(self.slot, class));
    }

    /// Gives the slot back while the job waits for something outside of our control, so that the slot takes other
    /// jobs. Returns whether it did: only a few jobs may wait beside a slot.
    pub(super) fn step_aside(&self) -> bool {
        let Some(place) = self.permit.place_aside() else {
            return false;
        };
        self.change_slot(|admission| admission.leave(self.slot));
        *self.hold() = Hold::Aside(place);
        true
    }

    /// Waits until the job may have the slot again. The job then begins with [`Self::try_begin`].
    pub(super) async fn step_back(&self) {
        let slot = self.permit.take_again().await;
        *self.hold() = Hold::Slot(slot);
        let class = self.class().clone();
        self.change_slot(|admission| admission.hold(self.slot, class));
    }

    /// Changes the state of the slot, unless that is about another job by now.
    fn change_slot(&self, what: impl FnOnce(&mut Admission)) {
        if matches!(*self.hold(), Hold::Slot(_)) {
            self.gate.change(what);
        }
    }

    fn hold(&self) -> MutexGuard<'_, Hold> {
        self.hold.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn class(&self) -> MutexGuard<'_, String> {
        self.class.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns whether the job may begin right now; if so, it counts as running.
    pub(super) fn try_begin(&self) -> bool {
        let has_begun = self.gate.admission().try_begin(self.slot);
        if has_begun {
            self.gate.changed.notify_waiters(); // A later slot may wait for this.
        }
        has_begun
    }

    /// Waits until the job may begin.
    pub(super) async fn begin(&self) {
        let begin = |admission: &mut Admission| admission.try_begin(self.slot).then_some(());
        self.gate.once(begin).await;
    }

    /// Meter of the job's memory.
    pub(super) fn memory(&self) -> &Memory {
        &self.memory
    }

    /// Reports the job's memory until it is dropped.
    pub(super) async fn watch(&self) -> Infallible {
        loop {
            let bytes = self.memory.changed().await;
            self.change_slot(|admission| admission.measured(self.slot, bytes));
        }
    }

    /// Records the end of the job's processes: makes room, and learns from their memory.
    pub(super) async fn ended(&self, has_completed: bool) {
        let (peak, slot) = (self.memory.peak(), self.slot);
        let learn = |admission: &mut Admission| admission.ended(slot, peak, has_completed);
        self.change_slot(learn);
        if peak > 0 {
            self.gate.keep().await;
        }
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        self.change_slot(|admission| admission.leave(self.slot));
    }
}

/// Returns the class of a template version, from its archive.
fn class(archive: &[u8]) -> String {
    let version = hex::encode(&Sha256::digest(archive)[..8]);
    peaks::class(&provider_set::of_template(archive), &version)
}

fn read(path: &Path) -> Peaks {
    let read = fs::read(path).and_then(|text| Ok(serde_json::from_slice(&text)?));
    match read {
        Ok(peaks) => peaks,
        Err(error) if error.kind() == io::ErrorKind::NotFound => Peaks::default(),
        Err(error) => {
            warn!(%error, path = %path.display(), "cannot read the memory statistics; starting over");
            Peaks::default()
        }
    }
}

fn write(path: &Path, peaks: &Peaks) -> io::Result<()> {
    if let Some(dir) = path.parent() {
        files::create_private_dir(dir)?;
    }
    files::write_private(path, &serde_json::to_vec(peaks)?)
}
