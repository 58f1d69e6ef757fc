//! The wall clock, for less than the kernel's own takes.
//!
//! Between two looks at the kernel's clock, at most a millisecond apart, time is counted in the
//! processor's ticks: where the kernel took its own time from them when this process first
//! asked, which it does only as long as they have the same rate everywhere and no core is ahead
//! (its clocksource is `tsc`). How many nanoseconds a tick has, the looks themselves tell. A
//! clock that is set, or made to run faster or slower, is followed within that millisecond.

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
/// A rate is taken over at least this time, so that what a look takes is nothing beside it.
const RATE_OVER_MIN_NS: u64 = 5_000_000;
/// A rate is taken over at most this time, so that it follows a kernel that corrects its clock.
const RATE_OVER_MAX_NS: u64 = 1_000_000_000;
/// Nanoseconds per tick, in units of 2^-32, of processors whose ticks are counted: 10 GHz to
/// 750 MHz.
const RATES: std::ops::RangeInclusive<u64> = (1 << 32) / 10..=(4 << 32) / 3;
/// A rate changes by less than one of so many, unless the clock does.
const RATE_CHANGE: u64 = 1000;
/// A look is of both clocks at once if it took less than this; what it is off is less than
/// half of that.
const LOOK_TICKS_MAX: u64 = 3_000;
/// So much may a look be off, at the slowest of those rates. What was counted between two and is
/// off by more was most likely counted while the clock changed; if it was not, the kernel is
/// asked for some milliseconds.
const LOOK_OFF_NS: u64 = 2_000;
/// A time that is earlier than the one before by less is given as that one again: what was
/// counted may be ahead by as much if the kernel, from a tenth too fast, has its clock run a tenth too slow,
/// which is as far as it can.
const HELD_NS: u64 = WINDOW_NS / 5;

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

/// The kernel's clock, and the ticks around that.
struct Look {
    before: u64,
    ns: u64,
    after: u64,
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
        self.at(sys::ticks(), || Look {
            before: sys::ticks(),
            ns: kernel_ns(),
            after: sys::ticks(),
        })
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

    /// The time at this tick, counted or looked at.
    #[inline]
    fn at(&mut self, ticks: u64, look: impl FnOnce() -> Look) -> u64 {
        let since = ticks.wrapping_sub(self.base.ticks);
        let now = if since < self.window {
            self.counted(since)
        } else {
            self.take(look)
        };
        let is_held = self.last_ns.wrapping_sub(now) < HELD_NS;
        self.last_ns = if is_held { self.last_ns } else { now };
        self.last_ns
    }

    #[inline]
    fn counted(&self, since: u64) -> u64 {
        let ns = (u128::from(since) * u128::from(self.rate)) >> 32;
        self.base.ns.wrapping_add(ns as u64)
    }

    #[cold]
    fn take(&mut self, look: impl FnOnce() -> Look) -> u64 {
        let Look { before, ns, after } = look();
        let took = after.wrapping_sub(before);
        // One that took longer may have seen another time; the next entry looks again.
        if took < LOOK_TICKS_MAX {
            let ticks = before.wrapping_add(took / 2);
            self.note(Sample { ticks, ns });
        }
        ns
    }

    /// Takes a look for the base of what follows, and for the rate if enough time has passed.
    fn note(&mut self, sample: Sample) {
        if self.is_off(sample) {
            self.begin(sample, 0);
            return;
        }
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
        let is_same = rate.abs_diff(self.rate) < self.rate / RATE_CHANGE;
        if !RATES.contains(&rate) {
            self.begin(sample, 0);
        } else if !is_same {
            // One that the next stretch has to confirm: the clock may have been set in this one.
            self.begin(sample, rate);
        } else {
            self.rate = rate;
            self.window = (WINDOW_NS << 32) / rate;
            if over_ns > RATE_OVER_MAX_NS {
                self.anchor = sample;
            }
        }
    }

    /// Whether it is another time than was counted.
    fn is_off(&self, sample: Sample) -> bool {
        let since = sample.ticks.wrapping_sub(self.base.ticks);
        let windows = since.checked_div(self.window);
        windows.is_some_and(|windows| {
            self.counted(since).abs_diff(sample.ns) > LOOK_OFF_NS.saturating_mul(windows.max(1))
        })
    }

    /// Counts nothing until there is a rate again.
    fn begin(&mut self, sample: Sample, rate: u64) {
        self.base = sample;
        self.anchor = sample;
        self.rate = rate;
        self.window = 0;
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

    const SECOND: u64 = 1_000_000_000;
    const START: u64 = 1_700_000_000 * SECOND;

    /// A kernel's clock and a processor's, and one that reads them.
    struct World {
        /// Since the start.
        true_ns: u64,
        /// What the kernel's clock has advanced by: a double has room for parts of that.
        ns: f64,
        /// How fast the kernel's clock runs.
        speed: f64,
        ticks_per_ns: f64,
        look_ticks: u64,
        looks: u32,
        clock: WallClock,
    }

    impl World {
        fn new() -> World {
            World {
                true_ns: 0,
                ns: 0.0,
                speed: 1.0,
                ticks_per_ns: 2.5,
                look_ticks: 100,
                looks: 0,
                clock: WallClock::new(),
            }
        }

        fn wait(&mut self, ns: u64) {
            self.true_ns += ns;
            self.ns += ns as f64 * self.speed;
        }

        fn kernel_ns(&self) -> u64 {
            START.saturating_add_signed(self.ns as i64)
        }

        fn read(&mut self) -> u64 {
            let ticks = (1e12 + self.true_ns as f64 * self.ticks_per_ns) as u64;
            let (ns, looks, took) = (self.kernel_ns(), &mut self.looks, self.look_ticks);
            self.clock.at(ticks, || {
                *looks += 1;
                Look {
                    before: ticks,
                    ns,
                    after: ticks + took,
                }
            })
        }

        /// Reads every so often for so long; how far it was off at most. It never goes back.
        fn run(&mut self, step_ns: u64, ns: u64) -> u64 {
            let (mut last, mut off) = (self.read(), 0);
            for _ in 0..ns / step_ns {
                self.wait(step_ns);
                let read = self.read();
                assert!(read >= last, "{} after {last}", read);
                off = off.max(read.abs_diff(self.kernel_ns()));
                last = read;
            }
            off
        }

        /// How many looks that takes.
        fn looks_of(&mut self, step_ns: u64, ns: u64) -> u32 {
            let before = self.looks;
            self.run(step_ns, ns);
            self.looks - before
        }
    }

    #[test]
    fn it_is_counted_between_looks_a_millisecond_apart() {
        let mut world = World::new();
        assert!(world.looks_of(1_000, 9_000_000) > 8_900, "no rate yet");
        world.run(1_000, 2_000_000);
        assert!(world.run(1_000, SECOND) < 500);
        assert!((950..1050).contains(&world.looks_of(1_000, SECOND)));
        assert_eq!(world.looks_of(2_000_000, SECOND), 500, "a quiet one asks");
    }

    #[test]
    fn a_clock_that_is_made_to_run_faster_or_slower_is_followed() {
        // At any time after the rate was last taken anew; as far as a kernel can.
        for before in [20_000_000, 500_000_000, SECOND - 1, 2 * SECOND] {
            for speed in [0.9, 0.917, 0.999, 0.9995, 1.0005, 1.001, 1.083, 1.1] {
                let mut world = World::new();
                world.run(10_000, before);
                world.speed = speed;
                assert!(world.run(10_000, SECOND) <= HELD_NS, "{speed}");
                assert!(world.looks_of(10_000, SECOND) < 1_100, "{speed}");
                assert!(world.run(10_000, SECOND) < LOOK_OFF_NS, "{speed}");
                world.speed = 1.0;
                assert!(world.run(10_000, SECOND) <= HELD_NS, "{speed}");
                assert!(world.run(10_000, SECOND) < LOOK_OFF_NS, "{speed}");
            }
        }
    }

    #[test]
    fn a_clock_that_is_set_is_followed_within_a_millisecond() {
        for step in [3600e9, -3600e9, 5e6, -5e6, 20e6] {
            for after in [1_000, 4_000_000, 8_000_000, 100_000_000] {
                let mut world = World::new();
                world.run(1_000, after);
                world.ns += step;
                for _ in 0..1_000 {
                    world.wait(1_000);
                    world.read();
                }
                assert!(
                    world.run(1_000, 100_000_000) < LOOK_OFF_NS,
                    "{step} {after}"
                );
                assert!(world.looks_of(1_000, SECOND) < 1_100, "counted again");
            }
        }
    }

    #[test]
    fn a_look_that_took_long_counts_for_nothing() {
        // Also right after the stretch that a rate is taken over has begun anew.
        for before in (1_000..1_030).step_by(2) {
            let mut world = World::new();
            world.run(1_000, before * 1_000_000);
            world.look_ticks = LOOK_TICKS_MAX;
            assert!(world.looks_of(1_000, 3_000_000) > 1_900, "each one asks");
            world.look_ticks = 100;
            assert!(world.looks_of(1_000, 3_000_000) < 6, "{before}");
        }
    }

    #[test]
    fn ticks_that_stand_still_go_back_or_have_no_processors_rate_are_not_counted() {
        for ticks_per_ns in [0.0, -1.0, 0.5, 11.0] {
            let mut world = World::new();
            world.ticks_per_ns = ticks_per_ns;
            assert_eq!(world.looks_of(1_000_000, SECOND), 1_001, "{ticks_per_ns}");
        }
    }

    #[test]
    fn it_says_what_the_kernel_says() {
        let is_near = |clock: &mut WallClock| {
            let end = kernel_ns() + 30_000_000;
            let mut before = kernel_ns();
            while before < end {
                let now = clock.now_ns();
                let after = kernel_ns();
                // Whoever is taken off the processor in between only makes this wider.
                if now + HELD_NS < before || after + HELD_NS < now {
                    return false;
                }
                before = after;
            }
            clock.window != 0 || !*IS_TRUSTED
        };
        let mut clock = WallClock::new();
        // Somebody may set the clock meanwhile.
        assert!((0..10).any(|_| is_near(&mut clock)));
    }
}
