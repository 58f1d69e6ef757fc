//! Contexts that are open here. Opening takes a question to the daemon; so they stay open
//! for a while, and then may leave memory like those that nobody has open.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use ledger_client::{Appender, Context, Ledger, OpenError};
use tonic::Status;

use super::status::of_open;

/// How long one that nobody asks for stays open, at least.
const OPEN_FOR: Duration = Duration::from_secs(5);
/// So many stay open.
const OPEN_MAX: usize = 1024;

/// A context that is open for reading, or for appending as well.
#[derive(Debug)]
pub(super) struct Open {
    pub(super) context: Context,
    /// Held for the moment of an append, which waits for nothing.
    appender: Option<Mutex<Appender>>,
}

impl Open {
    pub(super) fn appender(&self) -> Option<MutexGuard<'_, Appender>> {
        let appender = self.appender.as_ref()?;
        Some(appender.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

#[derive(Debug)]
struct Known {
    open: Arc<Open>,
    used_at: Instant,
}

#[derive(Clone, Debug)]
pub(super) struct Contexts {
    ledger: Ledger,
    known: Arc<Mutex<HashMap<String, Known>>>,
}

impl Contexts {
    pub(super) fn new(ledger: Ledger) -> Contexts {
        Contexts {
            ledger,
            known: Arc::default(),
        }
    }

    fn known(&self) -> MutexGuard<'_, HashMap<String, Known>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The context of this name, made if there is none.
    pub(super) async fn to_append(&self, name: &str) -> Result<Arc<Open>, Status> {
        let found = self.look_up(name);
        if let Some(open) = found.filter(|open| open.appender.is_some()) {
            return Ok(open);
        }
        let (ledger, owned) = (self.ledger.clone(), name.to_owned());
        let open = waiting(move || {
            let context = ledger.context(&owned).open_or_create()?;
            let appender = context.appender();
            let appender = appender.map_err(|error| OpenError::Daemon(error.to_string()))?;
            Ok::<_, OpenError>(Open {
                context,
                appender: Some(Mutex::new(appender)),
            })
        })
        .await?
        .map_err(|error| of_open(&error))?;
        Ok(self.keep(name, open))
    }

    /// The context of this name, if there is one.
    pub(super) async fn to_read(&self, name: &str) -> Result<Option<Arc<Open>>, Status> {
        if let Some(open) = self.look_up(name) {
            return Ok(Some(open));
        }
        let (ledger, owned) = (self.ledger.clone(), name.to_owned());
        let opened = waiting(move || ledger.context(&owned).open_read_only()).await?;
        match opened {
            Ok(context) => {
                let appender = None;
                Ok(Some(self.keep(name, Open { context, appender })))
            }
            Err(error) if error.is_unknown() => Ok(None),
            Err(error) => Err(of_open(&error)),
        }
    }

    fn look_up(&self, name: &str) -> Option<Arc<Open>> {
        let mut known = self.known();
        let found = known.get_mut(name)?;
        // Dropped, or about to come back in other memory.
        if !found
            .open
            .context
            .state()
            .is_ok_and(|state| !state.is_gone())
        {
            known.remove(name);
            return None;
        }
        found.used_at = Instant::now();
        Some(Arc::clone(&found.open))
    }

    fn keep(&self, name: &str, open: Open) -> Arc<Open> {
        let used_at = Instant::now();
        let open = Arc::new(open);
        let mut known = self.known();
        if known.len() >= OPEN_MAX {
            let oldest = known.iter().min_by_key(|(_, known)| known.used_at);
            let oldest = oldest.map(|(name, _)| name.clone());
            oldest.and_then(|name| known.remove(&name));
        }
        let new = Known {
            open: Arc::clone(&open),
            used_at,
        };
        known.insert(name.to_owned(), new);
        open
    }

    pub(super) fn ledger(&self) -> Ledger {
        self.ledger.clone()
    }

    /// Closes the context of this name here; says whether it was open for appending.
    pub(super) fn let_go(&self, name: &str) -> bool {
        let known = self.known().remove(name);
        known.is_some_and(|known| known.open.appender.is_some())
    }

    /// This one is not the context any more: the next one who asks opens it again.
    pub(super) fn forget(&self, name: &str, gone: &Arc<Open>) {
        let mut known = self.known();
        if known
            .get(name)
            .is_some_and(|known| Arc::ptr_eq(&known.open, gone))
        {
            known.remove(name);
        }
    }

    /// Lets go of those that nobody asks for, for ever.
    pub(super) async fn look_after(self) {
        loop {
            tokio::time::sleep(OPEN_FOR / 2).await;
            let now = Instant::now();
            self.known()
                .retain(|_, known| now.duration_since(known.used_at) < OPEN_FOR);
        }
    }
}

/// Does in another thread what may wait for the daemon or for a disk.
pub(super) async fn waiting<T: Send + 'static>(
    act: impl FnOnce() -> T + Send + 'static,
) -> Result<T, Status> {
    let done = tokio::task::spawn_blocking(act).await;
    // It panicked, or the door is closing.
    done.map_err(|error| Status::unavailable(format!("it was not done: {error}")))
}
