//! Threads for plugin calls that are slow or of unknown length, and for the upload check. They come after the threads that send
//! when the machine is busy, so that a loop without end takes what they leave.

use std::io;

use tokio::runtime::{Builder, Runtime};

/// How much later they come, as a nice value: about a tenth of another thread's share while both want the processor, which
/// brings a call of a few milliseconds to its end within its deadline on the busiest machine.
pub(super) const NICENESS: i32 = 10;

/// The threads: started when they are wanted, ended when they are not.
pub(super) struct Slow(Option<Runtime>);

impl Slow {
    /// At most so many at once; what is more waits.
    pub(super) fn new(threads: usize) -> io::Result<Self> {
        // Only its blocking pool is used: nobody drives the rest, so it has no threads of its own.
        let runtime = Builder::new_current_thread()
            .max_blocking_threads(threads)
            .thread_name("plugin-slow")
            .on_thread_start(step_back)
            .build()?;
        Ok(Self(Some(runtime)))
    }

    /// Does the work on one of the threads; `None` when it panicked.
    pub(super) async fn run<T: Send + 'static>(&self, work: impl FnOnce() -> T + Send + 'static) -> Option<T> {
        let runtime = self.0.as_ref()?;
        runtime.spawn_blocking(work).await.ok()
    }
}

impl Drop for Slow {
    fn drop(&mut self) {
        if let Some(runtime) = self.0.take() {
            // A call that loops ends with its deadline; nobody waits for it here.
            runtime.shutdown_background();
        }
    }
}

/// On Linux a nice value is the calling thread's own; elsewhere it is the whole process's, and stays as it is.
fn step_back() {
    #[cfg(target_os = "linux")]
    if let Err(error) = rustix::process::nice(NICENESS) {
        tracing::debug!(%error, "a thread for slow plugins keeps its priority");
    }
}
