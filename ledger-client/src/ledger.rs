//! An instance of the ledger, as one process is connected to it.

use std::io;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::thread::JoinHandle;
use std::time::Duration;

use ledger_shm::fork::Generation;
use ledger_shm::object::{self, Epoch, Instance, Name, Object};
use nix::sys::eventfd::{EfdFlags, EventFd};

use crate::error::{ConnectError, ObjectError, OpenError};
use crate::line::{Answer, Line};
use crate::open::ContextOptions;
use crate::place;
use crate::provision::Provisioner;
use crate::shared::Shared;
use crate::wire::{Reply, Request, Status};

/// A connection to an instance: the place to open contexts.
///
/// Cheap to clone; all clones share one connection and one background thread.
/// If the daemon dies, what is open stays usable and the connection is made
/// again by itself.
///
/// ```
/// # ledger_tests::example(|ledger| {
/// # use ledger_client::NewEntry;
/// let context = ledger.context("loan-7").open_or_create()?;
/// context.appender()?.append(&NewEntry::new("facts", "income: 4200"))?;
/// assert_eq!(context.latest()?, 1);
/// # Ok(()) });
/// ```
#[derive(Clone, Debug)]
pub struct Ledger {
    core: Arc<Core>,
    _running: Arc<Running>,
}

/// How to connect.
///
/// ```
/// use std::time::Duration;
/// use ledger_client::Ledger;
///
/// # let test_dir = std::env::temp_dir().join("nobody-listens-here");
/// let ledger = Ledger::builder()
///     .instance("tests")
/// #   .runtime_dir(test_dir)
///     .connect_timeout(Duration::from_millis(500))
///     .daemon_optional(true)
///     .connect()?;
/// assert_eq!(ledger.instance().name(), "tests");
/// # Ok::<(), ledger_client::ConnectError>(())
/// ```
#[derive(Clone, Debug, Default)]
pub struct Builder {
    instance: Option<String>,
    runtime_dir: Option<PathBuf>,
    uid: Option<u32>,
    connect_timeout: Option<Duration>,
    is_daemon_optional: bool,
}

impl Builder {
    /// The instance's name. Default: `LEDGER_INSTANCE`, else `default`.
    ///
    /// ```
    /// let builder = ledger_client::Ledger::builder().instance("no spaces, please");
    /// let error = builder.connect().unwrap_err();
    /// assert!(matches!(error, ledger_client::ConnectError::InvalidInstance(_)));
    /// ```
    pub fn instance(mut self, name: impl Into<String>) -> Builder {
        self.instance = Some(name.into());
        self
    }

    /// The directory of the daemon's socket. Default: see [`place::runtime_dir`].
    ///
    /// ```
    /// let builder = ledger_client::Ledger::builder().runtime_dir("/nonexistent");
    /// let error = builder.connect().unwrap_err();
    /// assert!(error.to_string().starts_with("no ledger daemon at /nonexistent/"));
    /// ```
    pub fn runtime_dir(mut self, dir: impl Into<PathBuf>) -> Builder {
        self.runtime_dir = Some(dir.into());
        self
    }

    /// The uid that the instance belongs to. Default: this process's.
    ///
    /// ```
    /// # ledger_tests::example(|own| {
    /// # let (name, uid) = (own.instance().name(), own.instance().uid());
    /// let others = ledger_client::Ledger::builder().instance(name).uid(uid + 1);
    /// let error = others.connect().unwrap_err();
    /// assert!(error.is_unreachable());
    /// # Ok(()) });
    /// ```
    pub fn uid(mut self, uid: u32) -> Builder {
        self.uid = Some(uid);
        self
    }

    /// How long the daemon may take to greet now; later, when the connection is
    /// made again, nobody waits for that. Default: 2 s.
    ///
    /// ```
    /// use std::time::Duration;
    /// # let builder = ledger_client::Ledger::builder().runtime_dir("/nonexistent");
    /// let error = builder.connect_timeout(Duration::from_millis(50)).connect();
    /// assert!(error.unwrap_err().is_unreachable());
    /// ```
    pub fn connect_timeout(mut self, timeout: Duration) -> Builder {
        self.connect_timeout = Some(timeout);
        self
    }

    /// Succeed although no daemon answers: contexts in memory and in files can be
    /// read, and the connection is made when there is a daemon. Default: false.
    ///
    /// ```
    /// # let builder = ledger_client::Ledger::builder().runtime_dir("/nonexistent");
    /// let ledger = builder.daemon_optional(true).connect()?;
    /// assert!(!ledger.is_connected());
    /// # Ok::<(), ledger_client::ConnectError>(())
    /// ```
    pub fn daemon_optional(mut self, is_optional: bool) -> Builder {
        self.is_daemon_optional = is_optional;
        self
    }

    /// Connects.
    ///
    /// # Errors
    ///
    /// [`ConnectError::DaemonDown`] if there is no daemon and
    /// [`ConnectError::Unanswered`] if it does not greet in time (unless it is
    /// optional); others if it cannot be talked to.
    ///
    /// ```
    /// use ledger_client::Ledger;
    ///
    /// match Ledger::builder().instance("tests").connect() {
    ///     Ok(ledger) => println!("connected to {}", ledger.instance().name()),
    ///     Err(error) if error.is_unreachable() => println!("start one: {error}"),
    ///     Err(error) => return Err(error),
    /// }
    /// # Ok::<(), ledger_client::ConnectError>(())
    /// ```
    pub fn connect(self) -> Result<Ledger, ConnectError> {
        let uid = self.uid.unwrap_or_else(|| nix::unistd::geteuid().as_raw());
        let name = match self.instance {
            Some(name) => name,
            None => place::instance_name()?,
        };
        let instance = Instance::new(uid, &name)?;
        let runtime_dir = self.runtime_dir.unwrap_or_else(|| place::runtime_dir(uid));
        let socket = place::socket_path(&runtime_dir, &instance);
        let line = Line::new(socket, uid);
        match line.connect(self.connect_timeout) {
            Err(error) if !(error.is_unreachable() && self.is_daemon_optional) => {
                return Err(error);
            }
            _ => {}
        }
        let wake = EventFd::from_flags(EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK)
            .map_err(|error| ConnectError::Setup(error.into()))?;
        let made_in = Generation::current().map_err(ConnectError::Setup)?;
        let core = Arc::new(Core {
            instance,
            line,
            contexts: Mutex::default(),
            released: Mutex::default(),
            wake,
            is_stopped: AtomicBool::new(false),
            made_in,
        });
        let thread = Provisioner::start(Arc::clone(&core)).map_err(ConnectError::Setup)?;
        let running = Running {
            core: Arc::clone(&core),
            thread: Some(thread),
        };
        Ok(Ledger {
            core,
            _running: Arc::new(running),
        })
    }
}

impl Ledger {
    /// Connects to the instance that the environment names.
    ///
    /// # Errors
    ///
    /// As [`Builder::connect`].
    ///
    /// ```no_run
    /// let ledger = ledger_client::Ledger::connect()?;
    /// # Ok::<(), ledger_client::ConnectError>(())
    /// ```
    pub fn connect() -> Result<Ledger, ConnectError> {
        Ledger::builder().connect()
    }

    /// Connects with options.
    ///
    /// ```no_run
    /// let ledger = ledger_client::Ledger::builder().instance("tests").connect()?;
    /// # Ok::<(), ledger_client::ConnectError>(())
    /// ```
    pub fn builder() -> Builder {
        Builder::default()
    }

    /// The context of this name, to be opened in one way or another.
    ///
    /// Names are 1 to 1024 bytes of UTF-8; anything else is refused when the
    /// context is opened.
    ///
    /// ```
    /// # ledger_tests::example(|ledger| {
    /// let error = ledger.context("loan-7").open().unwrap_err();
    /// assert!(error.is_unknown());
    /// let error = ledger.context("").open_or_create().unwrap_err();
    /// assert!(error.to_string().contains("name is empty"));
    /// # Ok(()) });
    /// ```
    pub fn context<'a>(&'a self, name: &'a (impl AsRef<[u8]> + ?Sized)) -> ContextOptions<'a> {
        ContextOptions::new(self, name.as_ref())
    }

    pub(crate) fn core(&self) -> &Arc<Core> {
        &self.core
    }

    /// The instance this is connected to.
    ///
    /// ```
    /// # ledger_tests::example(|ledger| {
    /// println!("uid {}, {}", ledger.instance().uid(), ledger.instance().name());
    /// # Ok(()) });
    /// ```
    pub fn instance(&self) -> &Instance {
        &self.core.instance
    }

    /// Whether there is a connection to the daemon right now. If there is none,
    /// what is open stays usable and the connection is made again by itself.
    ///
    /// ```
    /// # ledger_tests::example(|ledger| {
    /// assert!(ledger.is_connected());
    /// # Ok(()) });
    /// ```
    pub fn is_connected(&self) -> bool {
        self.core.line.connection().is_some()
    }

    /// How the daemon does.
    ///
    /// # Errors
    ///
    /// [`OpenError::Connect`] if it does not answer, others if it refuses to.
    ///
    /// ```
    /// # ledger_tests::example(|ledger| {
    /// let status = ledger.status()?;
    /// assert!(status.committed <= status.budget);
    /// # Ok(()) });
    /// ```
    pub fn status(&self) -> Result<Status, OpenError> {
        match self.core.ask(&Request::Status)?.reply {
            Reply::Status(status) => Ok(status),
            Reply::Refused(refusal) => Err(OpenError::refused("", &self.core.instance, refusal)),
            _ => Err(self
                .core
                .line
                .protocol("an answer to another question")
                .into()),
        }
    }
}

/// Ends the background thread with the last clone.
#[derive(Debug)]
struct Running {
    core: Arc<Core>,
    thread: Option<JoinHandle<()>>,
}

impl Drop for Running {
    fn drop(&mut self) {
        let Some(thread) = self.thread.take() else {
            return;
        };
        // A fork's child has inherited the handle but not the thread.
        if !self.core.made_in.is_current() {
            std::mem::forget(thread);
            return;
        }
        self.core.is_stopped.store(true, Ordering::Release);
        self.core.wake_provisioner();
        self.core.line.cut();
        // A panic of that thread was reported by the panic hook already.
        drop(thread.join());
    }
}

/// One opening of a context that has ended.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Released {
    pub(crate) epoch: Epoch,
    pub(crate) append: bool,
    /// The connection that it was opened over; with that it ended anyway.
    pub(crate) connection: u64,
}

/// What all clones share.
#[derive(Debug)]
pub(crate) struct Core {
    pub(crate) instance: Instance,
    pub(crate) line: Line,
    contexts: Mutex<Vec<Weak<Shared>>>,
    released: Mutex<Vec<Released>>,
    pub(crate) wake: EventFd,
    is_stopped: AtomicBool,
    pub(crate) made_in: Generation,
}

impl Core {
    /// Asks the daemon, connecting first if need be.
    pub(crate) fn ask(&self, request: &Request) -> Result<Answer, ConnectError> {
        // The socket is the parent's: its answers would be, too.
        if !self.made_in.is_current() {
            return Err(ConnectError::Forked);
        }
        let before = self.line.changes();
        let outcome = self.line.ask(request);
        if self.line.changes() != before {
            // What was opened over the one before has to be attached again.
            self.wake_provisioner();
        }
        outcome
    }

    /// An object of a context that is open: by name, or, if this uid may not do
    /// that, from the daemon, which may then take a while.
    pub(crate) fn object(
        &self,
        epoch: Epoch,
        part: Option<u64>,
        writable: bool,
    ) -> Result<Object, ObjectError> {
        let name = part.map_or(Name::Control(epoch), |part| Name::Part(epoch, part));
        match Object::open(&self.instance, name, writable) {
            Err(error)
                if error.kind() == io::ErrorKind::PermissionDenied && !self.instance.is_own() => {}
            outcome => return Ok(outcome?),
        }
        let request = Request::Object {
            epoch: epoch.0,
            part,
            append: writable,
        };
        let Answer { reply, fd, .. } = self.ask(&request).map_err(ObjectError::Connect)?;
        match (reply, fd) {
            (Reply::Object, Some(fd)) => Ok(Object::received(&self.instance, fd)?),
            (Reply::Refused(refusal), _) => Err(ObjectError::Refused(refusal)),
            _ => Err(io::Error::other("the daemon answered another question").into()),
        }
    }

    /// The names of all contexts that the daemon lets this uid read.
    pub(crate) fn names(&self) -> Result<Vec<String>, OpenError> {
        let mut names: Vec<String> = Vec::new();
        loop {
            let after = names.last().cloned().unwrap_or_default();
            match self.ask(&Request::List { after })?.reply {
                Reply::Names(more) if more.is_empty() => return Ok(names),
                Reply::Names(more) => names.extend(more),
                Reply::Refused(refusal) => {
                    return Err(OpenError::refused("", &self.instance, refusal));
                }
                _ => return Err(self.line.protocol("an answer to another question").into()),
            }
        }
    }

    /// Has the background thread look for work.
    pub(crate) fn wake_provisioner(&self) {
        // Fails only when the counter is at its maximum, and then it is awake.
        let _ = self.wake.write(1);
    }

    pub(crate) fn is_stopped(&self) -> bool {
        self.is_stopped.load(Ordering::Acquire)
    }

    /// The contexts that somebody in this process has open.
    pub(crate) fn contexts(&self) -> Vec<Arc<Shared>> {
        let mut contexts = self.contexts.lock().unwrap_or_else(PoisonError::into_inner);
        contexts.retain(|shared| shared.strong_count() > 0);
        contexts.iter().filter_map(Weak::upgrade).collect()
    }

    pub(crate) fn register(&self, shared: &Arc<Shared>) {
        let mut contexts = self.contexts.lock().unwrap_or_else(PoisonError::into_inner);
        contexts.push(Arc::downgrade(shared));
        drop(contexts);
        // It may have been attached to a daemon that is gone by now.
        self.wake_provisioner();
    }

    /// Has the daemon told that something that was opened is not used any more.
    pub(crate) fn release(&self, released: Released) {
        self.released
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .push(released);
        self.wake_provisioner();
    }

    pub(crate) fn take_released(&self) -> Vec<Released> {
        std::mem::take(&mut *self.released.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Every context in memory, in no order.
    pub(crate) fn epochs(&self) -> io::Result<Vec<Epoch>> {
        let names = object::list(&self.instance)?.into_iter();
        let controls = names.filter_map(|name| match name {
            Name::Control(epoch) => Some(epoch),
            _ => None,
        });
        Ok(controls.collect())
    }
}
