//! What is promised, by the names that `docs/PROMISES.md` has for it.

/// Something that is promised.
pub type Promise = &'static str;

/// A process that is killed leaves its append wholly, or not at all.
pub const WHOLE: Promise = "whole or not at all";
/// If a seq can be read, so can all before it.
pub const DENSE: Promise = "dense";
/// What was acknowledged is there, as it was appended.
pub const KEPT: Promise = "acknowledged is kept";
/// Whoever is dead or stopped delays nobody.
pub const NO_WAITING: Promise = "delays nobody";
/// Whoever was stopped and goes on is refused, or appends in the one sequence.
pub const FENCED: Promise = "fenced";
/// What can be read stays as it is.
pub const UNCHANGED: Promise = "never changes";
/// Watchers see all of it, in order.
pub const WATCHED: Promise = "watchers go on";
/// No entry is seen later than 50 ms after it was appended, whoever died.
pub const WOKEN: Promise = "woken within 50 ms";

/// Attached clients go on while the daemon is dead, and without opening anything again
/// when it is back.
pub const ATTACHED: Promise = "clients go on";

/// What was reported durable is there after a loss of power.
pub const DURABLE: Promise = "durable survives a loss of power";
/// A load or a drop is there wholly, or not at all.
pub const LOADED: Promise = "loads and drops are whole";
/// A context that may have lost entries says so by another epoch.
pub const TOLD: Promise = "loss is told";

/// What the kernel refuses is an error, and the service goes on when there is enough.
pub const RESUMES: Promise = "goes on when there is enough";

/// Who may only read keeps nobody from anything.
pub const HARMLESS: Promise = "readers harm nobody";

/// Bytes of another process never cause a panic.
pub const NO_PANIC: Promise = "no panic";
/// What a writer spoils is its own context.
pub const CONTAINED: Promise = "damage stays where it is";
/// Nothing that is no entry gets into a file, or to a watcher.
pub const VALID: Promise = "files are valid";

/// No promise of ours: it was possible to look.
pub const TRIED: Promise = "the torture itself";

/// Nor this: a test notices when one of our defences is gone.
pub const GUARDED: Promise = "each defence has its test";

/// All of them.
pub const ALL: [Promise; 17] = [
    WHOLE, DENSE, KEPT, NO_WAITING, FENCED, UNCHANGED, WATCHED, WOKEN, ATTACHED, DURABLE, LOADED,
    TOLD, RESUMES, HARMLESS, NO_PANIC, CONTAINED, VALID,
];
