//! Opening a recorder's context, in a thread of its own: a daemon that does not answer is to
//! keep nobody waiting. What does not work is tried again, less and less often.

use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use ledger_shm::object::Instance;

use crate::appender::Appender;
use crate::context::Context;
use crate::ledger::Ledger;

use super::shared::Shared;

/// How soon a first failure is tried again; each further one waits twice as long.
const RETRY: Duration = Duration::from_millis(100);
/// At most this long.
const RETRY_MAX: Duration = Duration::from_secs(1);

/// A context that is open, or being opened.
pub(super) struct Opening {
    ledger: Ledger,
    pub(super) scope: String,
    context: OnceLock<Context>,
    attempts: Mutex<Attempts>,
    tried: Condvar,
}

/// What came of it so far.
#[derive(Debug, Default)]
struct Attempts {
    failed: u32,
    is_running: bool,
    next: Option<Instant>,
}

impl Opening {
    pub(super) fn new(ledger: Ledger, scope: String) -> Opening {
        Opening {
            ledger,
            scope,
            context: OnceLock::new(),
            attempts: Mutex::default(),
            tried: Condvar::new(),
        }
    }

    pub(super) fn instance(&self) -> &Instance {
        self.ledger.instance()
    }

    /// None as long as it could not be opened.
    #[inline]
    pub(super) fn context(&self) -> Option<&Context> {
        self.context.get()
    }

    /// Until it is open, or could not be opened once.
    pub(super) fn wait(&self, len: Duration) {
        let is_untried =
            |attempts: &mut Attempts| self.context.get().is_none() && attempts.failed == 0;
        let waited = self
            .tried
            .wait_timeout_while(self.attempts(), len, is_untried);
        drop(waited);
    }

    /// Whether to try now, which the caller then does; else when, unless that is being done.
    fn begin(&self) -> Result<(), Option<Instant>> {
        let mut attempts = self.attempts();
        if attempts.is_running || self.context.get().is_some() {
            return Err(None);
        }
        if let Some(next) = attempts.next.filter(|next| *next > Instant::now()) {
            return Err(Some(next));
        }
        attempts.is_running = true;
        Ok(())
    }

    fn open(&self) -> Result<(Context, Appender), String> {
        let context = self.ledger.context(&self.scope).open_or_create();
        let context = context.map_err(|error| error.to_string())?;
        let appender = context.appender().map_err(|error| error.to_string())?;
        Ok((context, appender))
    }

    fn end(&self, opened: Option<Context>) {
        let mut attempts = self.attempts();
        attempts.is_running = false;
        match opened {
            Some(context) => _ = self.context.set(context),
            None => {
                attempts.next = Some(Instant::now() + retry_after(attempts.failed));
                attempts.failed += 1;
            }
        }
        self.tried.notify_all();
    }

    fn attempts(&self) -> MutexGuard<'_, Attempts> {
        self.attempts.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// How long to wait after one more failure than this many.
fn retry_after(failed: u32) -> Duration {
    let factor = 2_u32.saturating_pow(failed);
    RETRY.saturating_mul(factor).min(RETRY_MAX)
}

impl Shared {
    /// Has its context opened, if it is due to try; else says when that is.
    pub(super) fn open_if_due(self: &Arc<Shared>) -> Option<Instant> {
        if let Err(next) = self.opening.begin() {
            return next;
        }
        let shared = Arc::clone(self);
        let builder = thread::Builder::new().name("ledger-opening".to_owned());
        if builder.spawn(move || shared.try_open()).is_err() {
            self.try_open();
        }
        // It wakes the thread that asks.
        None
    }

    fn try_open(&self) {
        let opened = match self.opening.open() {
            Ok((context, appender)) => {
                let output = &mut self.state().output;
                output.appender = Some(appender);
                output.trouble = None;
                Some(context)
            }
            Err(error) => {
                self.state().output.trouble = Some(error);
                None
            }
        };
        self.opening.end(opened);
        self.wake();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_does_not_work_is_tried_less_and_less_often_up_to_a_limit() {
        let millis = |failed| retry_after(failed).as_millis();
        assert_eq!([0, 1, 2, 3, 4].map(millis), [100, 200, 400, 800, 1000]);
        assert_eq!(retry_after(u32::MAX), RETRY_MAX);
    }
}
