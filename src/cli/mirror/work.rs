//! Long work on files: in a thread of its own, with a progress bar, and stopped when somebody asks.

use std::{
    io::{self, IsTerminal as _},
    thread,
    time::Duration,
};

use indicatif::{ProgressBar, ProgressStyle};
use tokio::{sync::oneshot, time::timeout};

use crate::{
    cli::exit::Interrupted,
    mirror::bundle::{BundleError, Step, Watch},
    stop::Stop,
};

/// Time that a thread has to notice that it should stop. One that waits for a pipe does not, and ends with the
/// process.
const PATIENCE: Duration = Duration::from_secs(5);

/// Runs `work` and shows its progress.
///
/// # Errors
/// Those of `work`, and [`Interrupted`].
pub(super) async fn run<T: Send + 'static>(
    stop: &Stop,
    work: impl FnOnce(Watch<'_>) -> Result<T, BundleError> + Send + 'static,
) -> anyhow::Result<T> {
    let (done, mut ended) = oneshot::channel();
    let (bar, of_thread) = (bar(), stop.clone());
    let shown = bar.clone();
    thread::spawn(move || {
        let hear = |step| match (step, &shown) {
            (Step::Begun(bytes), Some(bar)) => bar.set_length(bytes),
            (Step::Advanced(bytes), Some(bar)) => bar.inc(bytes),
            (Step::Unpacking, Some(bar)) => bar.set_message("unpacking"),
            (_, None) => {}
        };
        let watch = Watch {
            stop: &of_thread,
            hear: &hear,
        };
        let _ = done.send(work(watch)); // The receiver may have given up.
    });
    let result = tokio::select! {
        result = &mut ended => Some(result),
        () = stop.cancelled() => timeout(PATIENCE, ended).await.ok(),
    };
    if let Some(bar) = bar {
        bar.finish_and_clear();
    }
    match result {
        Some(Ok(Err(BundleError::Stopped))) | None => Err(Interrupted.into()),
        Some(Ok(result)) => Ok(result?),
        Some(Err(_)) => Err(anyhow::Error::msg("the operation failed")),
    }
}

fn bar() -> Option<ProgressBar> {
    let template = "    {msg} {wide_bar} {bytes}/{total_bytes} {bytes_per_sec} {eta}";
    let style = ProgressStyle::with_template(template).expect("the template is constant");
    let bar = || ProgressBar::new(0).with_style(style);
    io::stderr().is_terminal().then(bar)
}
