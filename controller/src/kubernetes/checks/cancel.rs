//! The end of interest in something under way.

use tokio::sync::watch;

/// Tells who works that it is to stop; so does dropping it.
#[derive(Debug)]
pub(super) struct Stopper(watch::Sender<bool>);

/// Told by a [`Stopper`].
#[derive(Clone, Debug)]
pub(super) struct Cancel(watch::Receiver<bool>);

/// Both ends.
pub(super) fn cancel() -> (Stopper, Cancel) {
    let (sender, receiver) = watch::channel(false);
    (Stopper(sender), Cancel(receiver))
}

impl Stopper {
    /// Asks for the end.
    pub(super) fn stop(&self) {
        self.0.send_replace(true);
    }
}

impl Cancel {
    /// Returns when the end was asked for.
    pub(super) async fn asked(&self) {
        // An error is the dropped stopper, which asks as well.
        drop(self.0.clone().wait_for(|stop| *stop).await);
    }

    /// Whether the end was asked for.
    pub(super) fn is_asked(&self) -> bool {
        *self.0.borrow() || self.0.has_changed().is_err()
    }
}
