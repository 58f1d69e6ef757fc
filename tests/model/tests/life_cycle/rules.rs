//! The rules of the life cycle, and what they are for.

/// A rule that the design relies on. Every test with one of them switched off
/// has to find the property that it protects broken; a rule whose absence
/// breaks nothing would be superstition.
///
/// What "off" means is what a reasonable programmer would have written who
/// never heard of the rule, not sabotage.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Rule {
    /// Who searches the frontier to append stops at the first slot that is not
    /// ENTRY. Off: it looks for the first EMPTY slot instead.
    AppenderStopsAtSeal,
    /// Who searches the place where it wants to read on stops at a SEAL. Off: it
    /// goes straight to the slot that its seq and `base_seq` name.
    ReaderStopsAtSeal,
    /// Only a spare whose `base_seq` is still 0 may be named in a SEAL. Off: any
    /// spare that was ever offered.
    OnlyFreshSparesAreNamed,
    /// The spare is looked at after its appender has arrived in the part that it
    /// seals. Off: a spare that was fresh in an earlier part is taken for fresh.
    SpareIsCheckedWhereItIsNamed,
    /// A part number is never used twice. Off: the lowest free name is taken.
    NumbersAreNeverReused,
    /// `next_part` is raised before the object is made. Off: afterwards.
    NumberIsTakenFirst,
    /// `next_part` survives closing. Off: a reopened context counts from 1 again.
    NumbersSurviveClosing,
    /// A segment leaves memory only after a SEAL or CLOSED stands at its
    /// frontier. Off: an idle and fully archived context is simply removed.
    NothingLeavesUnsealed,
    /// Whoever goes through a SEAL writes the successor's `base_lamport` and
    /// `base_seq` before it does anything else there. Off: it computes them for
    /// itself and leaves the writing to the daemon.
    ArrivalWritesBase,
    /// `base_lamport` is written before `base_seq`. Off: the other way round.
    LamportBeforeSeq,
    /// The daemon completes the base before it hands a sealed-to segment to a
    /// newcomer. Off: it hands out what it finds.
    BaseBeforeNewcomer,
    /// The daemon completes the successor's base before the first resident part
    /// moves past the sealed one. Off: it moves on.
    BaseBeforeRetiring,
    /// The daemon completes the last part's base before it closes there. Off: it
    /// closes a part that looks like a spare.
    BaseBeforeClosing,
    /// Retire moves the first resident part, then unlinks. Off: the other way
    /// round.
    MoveBeforeUnlink,
    /// A restarted daemon keeps the spares that it finds. Off: nobody has used
    /// them, so it unlinks them.
    SparesOutliveRestart,
    /// What is a leftover is told from `base_seq`. Off: from the part number; a
    /// spare lower than the current part must be an old one.
    LeftoversByBaseSeq,
    /// Whether a part with a base is on the chain is decided by the chain as it
    /// is after the base was read. Off: as it was followed before, when the part
    /// may have been a spare.
    ChainIsReadAgain,
    /// Spares are withdrawn after CLOSED. Off: before, so that nobody seals while
    /// the daemon closes.
    ClosedBeforeWithdrawn,
    /// Spares are withdrawn before they are unlinked. Off: afterwards, through
    /// the mapping.
    WithdrawnBeforeUnlink,
    /// Closing too tells the control object first, then unlinks. Off: the other
    /// way round.
    ForgetBeforeUnlink,
}

impl Rule {
    pub const ALL: [Self; 20] = [
        Self::AppenderStopsAtSeal,
        Self::ReaderStopsAtSeal,
        Self::OnlyFreshSparesAreNamed,
        Self::SpareIsCheckedWhereItIsNamed,
        Self::NumbersAreNeverReused,
        Self::NumberIsTakenFirst,
        Self::NumbersSurviveClosing,
        Self::NothingLeavesUnsealed,
        Self::ArrivalWritesBase,
        Self::LamportBeforeSeq,
        Self::BaseBeforeNewcomer,
        Self::BaseBeforeRetiring,
        Self::BaseBeforeClosing,
        Self::MoveBeforeUnlink,
        Self::SparesOutliveRestart,
        Self::LeftoversByBaseSeq,
        Self::ChainIsReadAgain,
        Self::ClosedBeforeWithdrawn,
        Self::WithdrawnBeforeUnlink,
        Self::ForgetBeforeUnlink,
    ];
}

/// What has to hold in every state.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Property {
    /// Whatever was acknowledged is in the archive or on the chain, where a
    /// fresh reader finds it by name.
    NothingLost,
    /// No seq is given twice.
    Unique,
    /// The seqs given so far are 1..=n.
    Dense,
    /// Seqs rise in the order of the successful CASes. Every CAS lies between
    /// call and return, so this is linearizability.
    InOrder,
    /// Lamport times rise strictly with the seqs.
    LamportRises,
    /// A CAS of ENTRY or SEAL succeeds only at the end of the chain.
    InsideChain,
    /// A reader gets every entry once and in order, and waits only where the
    /// next one will come.
    ReaderGetsAll,
    /// Whoever comes fresh (newcomer, tool, restarted daemon) gets from the
    /// first resident part to the frontier, and can number what it finds.
    Walkable,
}

impl Property {
    pub const ALL: [Self; 8] = [
        Self::NothingLost,
        Self::Unique,
        Self::Dense,
        Self::InOrder,
        Self::LamportRises,
        Self::InsideChain,
        Self::ReaderGetsAll,
        Self::Walkable,
    ];
}
