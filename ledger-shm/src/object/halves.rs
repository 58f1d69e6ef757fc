//! Many objects, looked at in two threads: each takes a few system calls, which take that
//! way half the time.

use std::panic::resume_unwind;
use std::thread::{Builder, scope};

/// Does the same with either half of something, at once if there is another thread to be
/// had.
pub fn in_halves<T: Sync, R: Send>(all: &[T], act: impl Fn(&[T]) -> R + Sync) -> [R; 2] {
    let (one, other) = all.split_at(all.len() / 2);
    scope(|scope| {
        let beside = Builder::new().spawn_scoped(scope, || act(other));
        let here = act(one);
        let beside = match beside {
            Ok(thread) => thread.join().unwrap_or_else(|panic| resume_unwind(panic)),
            Err(_) => act(other),
        };
        [here, beside]
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_is_looked_at_once_and_in_order() {
        assert_eq!(
            in_halves(&[1, 2, 3, 4, 5], <[_]>::to_vec),
            [vec![1, 2], vec![3, 4, 5]]
        );
        assert_eq!(in_halves::<u8, _>(&[], <[_]>::len), [0, 0]);
    }
}
