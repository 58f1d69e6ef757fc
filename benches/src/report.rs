//! Printing figures: one row each, the same columns everywhere.

use hdrhistogram::Histogram;

/// A histogram of nanoseconds up to a minute.
pub fn histogram() -> Histogram<u64> {
    Histogram::new_with_bounds(1, 60_000_000_000, 3).expect("valid bounds")
}

/// Prints the percentiles of one row.
pub fn percentiles(name: &str, histogram: &Histogram<u64>) {
    let at = |quantile| histogram.value_at_quantile(quantile);
    println!(
        "{name:<34} n {:>9}  mean {:>9.1}  p50 {:>8}  p90 {:>8}  p99 {:>8}  p99.9 {:>9}  max {:>10} ns",
        histogram.len(),
        histogram.mean(),
        at(0.5),
        at(0.9),
        at(0.99),
        at(0.999),
        histogram.max(),
    );
}

/// Prints a mean over many.
pub fn mean(name: &str, count: u64, elapsed: std::time::Duration) {
    let ns = elapsed.as_nanos() as f64 / count as f64;
    println!("{name:<34} n {count:>9}  mean {ns:>9.1} ns");
}

/// Prints how often the one p50 is the other, block by block.
pub fn ratio(name: &str, mut ratios: Vec<f64>) {
    ratios.sort_by(f64::total_cmp);
    let at = |quantile: f64| ratios[(quantile * (ratios.len() - 1) as f64) as usize];
    println!(
        "{name:<34} blocks {:>4}  p10 {:.2}  p50 {:.2}  p90 {:.2}",
        ratios.len(),
        at(0.1),
        at(0.5),
        at(0.9)
    );
}

/// Lets this thread, and what it starts, run on every core again.
pub fn unpin() {
    let mut set = nix::sched::CpuSet::new();
    for core in 0..std::thread::available_parallelism().map_or(1, usize::from) {
        set.set(core).expect("a core number");
    }
    nix::sched::sched_setaffinity(nix::unistd::Pid::from_raw(0), &set).expect("cores that exist");
}

/// Pins this thread to a core.
pub fn pin(core: usize) {
    try_pin(core).expect("the core exists");
}

pub fn try_pin(core: usize) -> nix::Result<()> {
    let mut set = nix::sched::CpuSet::new();
    set.set(core)?;
    nix::sched::sched_setaffinity(nix::unistd::Pid::from_raw(0), &set)
}

/// Time on a core that threads of this name have had in this process.
pub fn spent_by(name: &str) -> std::time::Duration {
    let tasks = std::fs::read_dir("/proc/self/task").expect("a process");
    let spent_ns = tasks.filter_map(|task| {
        let task = task.expect("readable").path();
        // It may have ended.
        let comm = std::fs::read_to_string(task.join("comm")).ok()?;
        let stat = std::fs::read_to_string(task.join("schedstat")).ok()?;
        let spent = stat.split(' ').next()?.parse::<u64>().ok()?;
        (comm.trim_end() == name).then_some(spent)
    });
    std::time::Duration::from_nanos(spent_ns.sum())
}

/// A line of a file that has names and KiB.
pub fn kib(path: &str, what: &str) -> u64 {
    let text = std::fs::read_to_string(path).expect("readable");
    let line = text.lines().find_map(|line| line.strip_prefix(what));
    let value = line.and_then(|line| line.split_whitespace().nth(1));
    value
        .and_then(|value| value.parse().ok())
        .expect("a number")
}
