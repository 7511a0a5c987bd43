//! The way to a command's standard input.

use std::sync::{Arc, PoisonError};

use mvm_wire::ErrorCode;
use tokio::sync::mpsc;

use super::Job;
use crate::error::{Error, Result};

impl Job {
    /// Takes the way to its standard input, of which there is one.
    pub fn take_input(self: &Arc<Self>) -> Result<Feeding> {
        let way = self.input.lock().unwrap_or_else(PoisonError::into_inner).take().ok_or_else(|| {
            Error::new(
                ErrorCode::InvalidState,
                "cannot send input",
                "the command takes none, or somebody else sends it already",
            )
            .hint("ask for it when the command is started (\"stdin\": true, or exec -i)")
        })?;
        Ok(Feeding { job: self.clone(), way: Some(way) })
    }
}

/// The way to a command's standard input. Dropped before its end it kills the command, which must not take half for all.
pub struct Feeding {
    job: Arc<Job>,
    way: Option<mpsc::Sender<Vec<u8>>>,
}

impl Feeding {
    /// Sends a piece; waits while the command does not read. False if nobody will take it.
    pub async fn send(&self, piece: Vec<u8>) -> bool {
        let Some(way) = &self.way else { return false };
        tokio::select! {
            sent = way.send(piece) => sent.is_ok(),
            _ = self.job.ended() => false,
        }
    }

    /// That was all.
    pub fn end(mut self) {
        self.way = None;
    }
}

impl Drop for Feeding {
    fn drop(&mut self) {
        if let Some(way) = self.way.take() {
            // A way that is closed is an input that has ended; this one has not.
            *self.job.broken_off.lock().unwrap_or_else(PoisonError::into_inner) = Some(way);
            self.job.abandon();
        }
    }
}
