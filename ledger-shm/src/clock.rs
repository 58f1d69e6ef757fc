//! The wall clock, for less than the kernel's own takes.
//!
//! Between two looks at the kernel's clock, at most a millisecond apart, time is counted in the
//! processor's ticks: where the kernel takes its own time from them, which it does only as long
//! as they have the same rate everywhere and no core is ahead (its clocksource is `tsc`). How
//! many nanoseconds a tick has, the looks themselves tell. A clock that is set is followed
//! within that millisecond.

use std::sync::LazyLock;

use nix::time::{ClockId, clock_gettime};

use crate::append::Clock;
use crate::sys;

/// Which ticks the kernel trusts.
const CLOCKSOURCE: &str = "/sys/devices/system/clocksource/clocksource0/current_clocksource";

static IS_TRUSTED: LazyLock<bool> = LazyLock::new(|| {
    let source = std::fs::read_to_string(CLOCKSOURCE);
    cfg!(target_arch = "x86_64") && source.is_ok_and(|source| source.trim_end() == "tsc")
});

/// How long ticks are counted without a look.
const WINDOW_NS: u64 = 1_000_000;
/// A rate is that over this time at least, so that what a look takes is nothing beside it,
const RATE_OVER_MIN_NS: u64 = 5_000_000;
/// and at most, so that it follows a kernel that has its clock run faster or slower.
const RATE_OVER_MAX_NS: u64 = 1_000_000_000;
/// Nanoseconds per tick, in units of 2^-32, that any processor has: 10 GHz to 100 MHz.
const RATES: std::ops::RangeInclusive<u64> = (1 << 32) / 10..=10 << 32;
/// A rate changes by less than one of so many, unless the clock was set.
const RATE_CHANGE: u64 = 1000;
/// A look is of both clocks at once if it took less than this; what it is off is less than
/// half of that.
const LOOK_TICKS_MAX: u64 = 3_000;
/// So much may a look be off: a time that is earlier than the one before by less is that again.
const BACK_NS: u64 = 2_000;

/// The wall clock as one thread reads it, with a memory of when it last looked.
///
/// ```
/// use ledger_shm::{Clock, clock::WallClock};
///
/// let mut clock = WallClock::new();
/// let before = std::time::UNIX_EPOCH.elapsed()?.as_nanos() as u64;
/// assert!(clock.now_ns().abs_diff(before) < 60_000_000_000);
/// # Ok::<(), std::time::SystemTimeError>(())
/// ```
#[derive(Debug)]
pub struct WallClock {
    is_trusted: bool,
    /// The last look.
    base: Sample,
    /// How many ticks after it no other one is needed; none as long as no rate is known.
    window: u64,
    /// Nanoseconds per tick, in units of 2^-32.
    rate: u64,
    /// The look since which the rate is taken.
    anchor: Sample,
    last_ns: u64,
}

/// Both clocks at once.
#[derive(Clone, Copy, Debug, Default)]
struct Sample {
    ticks: u64,
    ns: u64,
}

impl Default for WallClock {
    fn default() -> WallClock {
        WallClock::new()
    }
}

impl Clock for WallClock {
    #[inline]
    fn now_ns(&mut self) -> u64 {
        // For a comparison with what has no time, see `benches`.
        if cfg!(ledger_bare) {
            return self.last_ns;
        }
        if !self.is_trusted {
            return kernel_ns();
        }
        let since = sys::ticks().wrapping_sub(self.base.ticks);
        let now = if since < self.window {
            self.base.ns.wrapping_add((since * self.rate) >> 32)
        } else {
            self.look()
        };
        let is_back = self.last_ns.wrapping_sub(now) < BACK_NS;
        self.last_ns = if is_back { self.last_ns } else { now };
        self.last_ns
    }
}

impl WallClock {
    /// Finds out what the kernel trusts, which takes the first one in a process system calls:
    /// reading it takes none.
    ///
    /// ```
    /// use ledger_shm::{Clock, clock::WallClock};
    ///
    /// let mut clock = WallClock::new();
    /// let first = clock.now_ns();
    /// assert!(first > 1_700_000_000_000_000_000);
    /// ```
    #[must_use]
    pub fn new() -> WallClock {
        WallClock {
            is_trusted: *IS_TRUSTED,
            base: Sample::default(),
            window: 0,
            rate: 0,
            anchor: Sample::default(),
            last_ns: 0,
        }
    }

    #[cold]
    fn look(&mut self) -> u64 {
        let before = sys::ticks();
        let ns = kernel_ns();
        let after = sys::ticks();
        let took = after.wrapping_sub(before);
        if took < LOOK_TICKS_MAX {
            let ticks = before.wrapping_add(took / 2);
            self.note(Sample { ticks, ns });
        } else {
            // Not from the look before that: this one may have seen another time.
            self.window = 0;
        }
        ns
    }

    /// Takes a look for the base of what follows, and for the rate if enough time has passed.
    fn note(&mut self, sample: Sample) {
        self.base = sample;
        if self.anchor.ns == 0 {
            self.anchor = sample;
        }
        let over_ns = sample.ns.wrapping_sub(self.anchor.ns);
        let over_ticks = sample.ticks.wrapping_sub(self.anchor.ticks);
        if over_ns < RATE_OVER_MIN_NS {
            return;
        }
        let rate = (u128::from(over_ns) << 32) / u128::from(over_ticks.max(1));
        let rate = u64::try_from(rate).unwrap_or(u64::MAX);
        let is_same = self.rate == 0 || rate.abs_diff(self.rate) < self.rate / RATE_CHANGE;
        if RATES.contains(&rate) && is_same {
            self.rate = rate;
            self.window = (WINDOW_NS << 32) / rate;
        } else {
            // The clock was set.
            self.rate = 0;
            self.window = 0;
            self.anchor = sample;
        }
        if over_ns > RATE_OVER_MAX_NS {
            self.anchor = sample;
        }
    }
}

/// A clock that fails, or stands before 1970, says nothing: the time is for information, and
/// an append must not fail for it.
fn kernel_ns() -> u64 {
    clock_gettime(ClockId::CLOCK_REALTIME).map_or(0, |now| {
        u64::try_from(now.tv_sec() * 1_000_000_000 + now.tv_nsec()).unwrap_or(0)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// 2.5 GHz.
    const TICKS_PER_NS: f64 = 2.5;

    /// Looks every so many nanoseconds, `count` times, with both clocks right.
    fn looks(clock: &mut WallClock, start_ns: u64, step_ns: u64, count: u64) -> Sample {
        let mut sample = Sample::default();
        for n in 0..count {
            let since = n * step_ns;
            let ns = start_ns + since;
            let ticks = 1_000_000 + ((ns % 1_000_000_000_000) as f64 * TICKS_PER_NS) as u64;
            sample = Sample { ticks, ns };
            clock.note(sample);
        }
        sample
    }

    #[test]
    fn a_rate_is_known_after_some_milliseconds_and_counts_for_one() {
        let mut clock = WallClock::new();
        looks(&mut clock, 1_700_000_000_000_000_000, 1_000_000, 4);
        assert_eq!(clock.window, 0, "three milliseconds are too few");
        looks(&mut clock, 1_700_000_000_004_000_000, 1_000_000, 4);
        let ns = |ticks: u64| (ticks * clock.rate) >> 32;
        assert!(ns(clock.window).abs_diff(WINDOW_NS) < 2);
        assert!(ns(2_500_000).abs_diff(1_000_000) < 2);
    }

    #[test]
    fn a_clock_that_is_set_is_looked_at_until_its_rate_is_known_again() {
        for step in [
            3_600_000_000_000_i64,
            -3_600_000_000_000,
            5_000_000,
            -5_000_000,
        ] {
            let mut clock = WallClock::new();
            let last = looks(&mut clock, 1_700_000_000_000_000_000, 1_000_000, 100);
            assert_ne!(clock.window, 0);
            let set = Sample {
                ticks: last.ticks + 2_500_000,
                ns: last.ns.wrapping_add_signed(step) + 1_000_000,
            };
            clock.note(set);
            assert_eq!((clock.window, clock.base.ns), (0, set.ns), "{step}");
            for n in 1..10 {
                let ticks = set.ticks + n * 2_500_000;
                clock.note(Sample {
                    ticks,
                    ns: set.ns + n * 1_000_000,
                });
            }
            assert_ne!(clock.window, 0, "{step}");
        }
    }

    #[test]
    fn ticks_that_stand_still_or_go_back_are_not_counted() {
        let mut clock = WallClock::new();
        for n in 0..100 {
            clock.note(Sample {
                ticks: 5,
                ns: n * 1_000_000,
            });
            assert_eq!(clock.window, 0);
        }
        let mut clock = WallClock::new();
        for n in 0..100 {
            let ticks = u64::MAX - n * 2_500_000;
            clock.note(Sample {
                ticks,
                ns: n * 1_000_000,
            });
            assert_eq!(clock.window, 0);
        }
    }

    #[test]
    fn it_says_what_the_kernel_says_and_never_goes_back() {
        let mut clock = WallClock::new();
        let (mut last, mut counted) = (0, 0_u32);
        let end = kernel_ns() + 300_000_000;
        let mut before = kernel_ns();
        while before < end {
            let had_window = clock.window != 0;
            let now = clock.now_ns();
            let after = kernel_ns();
            // Whoever is taken off the processor in between only makes this wider.
            assert!(
                before <= now + BACK_NS && now <= after + BACK_NS,
                "{before} {now} {after}"
            );
            assert!(now >= last);
            counted += u32::from(had_window);
            (last, before) = (now, after);
        }
        assert_eq!(counted > 0, *IS_TRUSTED);
    }
}
