//! Signals that the user sends to `mvmctl`.
//!
//! They are received on a thread of their own, because the main thread may be deep in a helper program. While a run is
//! being prepared a signal ends everything at once; while a command runs it is passed on to it.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use mvm_runtime::command::Control;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;

use crate::terminal;

/// After this the command is killed if the signal that asked it to end did not.
const GRACE: Duration = Duration::from_secs(10);
const SIGKILL: u8 = 9;

static COMMAND_RUNS: AtomicBool = AtomicBool::new(false);

/// From now on signals go to the command.
pub fn command_runs() {
    COMMAND_RUNS.store(true, Ordering::SeqCst);
}

/// Starts listening. What the user wants of the command arrives at the receiver.
pub fn listen() -> mpsc::Receiver<Control> {
    let (sender, receiver) = mpsc::channel(16);
    std::thread::spawn(move || {
        let Ok(runtime) = tokio::runtime::Builder::new_current_thread().enable_all().build() else { return };
        runtime.block_on(forward(&sender));
    });
    receiver
}

async fn forward(sender: &mpsc::Sender<Control>) {
    let kinds = [SignalKind::interrupt(), SignalKind::terminate(), SignalKind::hangup(), SignalKind::quit()];
    let mut signals: Vec<_> = kinds.into_iter().filter_map(|kind| Some((kind, signal(kind).ok()?))).collect();
    let Ok(mut resized) = signal(SignalKind::window_change()) else { return };
    let mut asked_before = false;
    loop {
        let any = std::future::poll_fn(|cx| {
            let ready = signals.iter_mut().find_map(|(kind, signal)| signal.poll_recv(cx).is_ready().then_some(*kind));
            ready.map_or(std::task::Poll::Pending, std::task::Poll::Ready)
        });
        let kind = tokio::select! {
            kind = any => kind,
            _ = resized.recv() => {
                let _ = sender.try_send(Control::Resize(terminal::size()));
                continue;
            }
            () = tokio::time::sleep(GRACE), if asked_before => {
                let _ = sender.try_send(Control::Signal(SIGKILL));
                asked_before = false;
                continue;
            }
        };
        let number = kind.as_raw_value() as u8;
        if !COMMAND_RUNS.load(Ordering::SeqCst) {
            end_now(number);
        }
        // The second time the user means it.
        let number = if asked_before { SIGKILL } else { number };
        asked_before = true;
        if sender.try_send(Control::Signal(number)).is_err() {
            end_now(number);
        }
    }
}

/// Ends the process as a signal would, and what it was building with it. Its machines die with it.
pub fn end_now(signal: u8) -> ! {
    terminal::restore();
    mvm_runtime::home::abandon();
    std::process::exit(128 + i32::from(signal));
}
