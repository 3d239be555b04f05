//! Archives of modules on their way to daemons. Jobs of one template share one copy, and all copies share a budget.

use std::{future::Future, sync::Arc, time::Duration};

use bytes::Bytes;
use outpost_net::budget::{Budget, Reserved, Shared};
use tokio::{sync::OnceCell, time::timeout};

use super::RequestError;
use crate::model::FileId;

/// Budget of archives in memory, over all daemons, in bytes. One archive has at most 100 MiB.
const TOTAL_BYTES: usize = 256 << 20;
/// Longest wait for others to receive their archives.
const WAIT: Duration = Duration::from_secs(60);

/// Archives that are being sent.
#[derive(Debug)]
pub(super) struct Archives {
    copies: Shared<FileId, OnceCell<Copy>>,
    budget: Budget,
}

#[derive(Debug)]
struct Copy {
    content: Bytes,
    _reserved: Reserved,
}

/// A copy and its share of the budget, kept for as long as any part of it is needed.
struct Handle(Arc<OnceCell<Copy>>);

impl AsRef<[u8]> for Handle {
    fn as_ref(&self) -> &[u8] {
        self.0.get().map_or(&[], |copy| &copy.content)
    }
}

impl Default for Archives {
    fn default() -> Self {
        Self {
            copies: Shared::default(),
            budget: Budget::new(TOTAL_BYTES),
        }
    }
}

impl Archives {
    /// Returns the archive `id` of `bytes` bytes: from memory if somebody is receiving it, else read by `load`.
    ///
    /// # Errors
    /// [`RequestError::Busy`] if others take all memory for a minute, and those of `load`.
    pub(super) async fn get(
        &self,
        id: FileId,
        bytes: usize,
        load: impl Future<Output = Result<Bytes, RequestError>>,
    ) -> Result<Bytes, RequestError> {
        let copy = self.copies.of(id, OnceCell::new);
        let read = async {
            let reserved = timeout(WAIT, self.budget.reserve(bytes)).await;
            let reserved = reserved.ok().and_then(Result::ok).ok_or(BUSY)?;
            let content = load.await?;
            Ok::<_, RequestError>(Copy {
                content,
                _reserved: reserved,
            })
        };
        copy.get_or_try_init(|| read).await?;
        Ok(Bytes::from_owner(Handle(copy)))
    }
}

const BUSY: RequestError = RequestError::Busy(
    "other daemons are downloading large module archives; try again in a minute",
);

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    const LARGE: usize = 100 << 20;

    #[tokio::test]
    async fn daemons_that_receive_one_archive_share_one_copy() {
        let (archives, loads) = (Archives::default(), AtomicUsize::new(0));
        let id = FileId::random();
        let load = || async {
            loads.fetch_add(1, Ordering::Relaxed);
            Ok(Bytes::from_static(b"modules"))
        };

        let first = archives.get(id, LARGE, load()).await.unwrap();
        let part = archives.get(id, LARGE, load()).await.unwrap().slice(3..);
        drop(first);
        assert_eq!(part, "ules");
        assert_eq!(archives.get(id, LARGE, load()).await.unwrap(), "modules");
        assert_eq!(loads.load(Ordering::Relaxed), 1);

        assert_eq!(archives.budget.left(), TOTAL_BYTES - LARGE);
        drop(part);
        assert_eq!(archives.budget.left(), TOTAL_BYTES);
    }

    #[tokio::test(start_paused = true)]
    async fn archives_wait_for_each_other_and_not_for_ever() {
        let archives = Archives::default();
        let get = || archives.get(FileId::random(), LARGE, async { Ok(Bytes::new()) });
        let (first, _second) = (get().await.unwrap(), get().await.unwrap());

        let late = get().await.unwrap_err();
        assert!(matches!(late, RequestError::Busy(_)), "{late}");
        let (third, ()) = tokio::join!(get(), async { drop(first) });
        third.unwrap();
    }

    #[tokio::test]
    async fn what_could_not_be_read_is_tried_again() {
        let archives = Archives::default();
        let id = FileId::random();
        let failed = archives.get(id, LARGE, async { Err(BUSY) }).await;
        failed.unwrap_err();
        let read = archives.get(id, LARGE, async { Ok(Bytes::from_static(b"now")) });
        assert_eq!(read.await.unwrap(), "now");
    }
}
