//! Appends that may be asked for again: who has lost its answer finds with its key what came
//! of it.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use tokio::sync::OnceCell;
use tonic::Status;

/// How long a key is remembered, and how many are.
const KEPT_FOR: Duration = Duration::from_secs(600);
const KEPT_MAX: usize = 100_000;
/// Bytes of answers that are kept whole.
const ANSWERS_LEN_MAX: usize = 64 << 20;

/// One append: whose, to which context, under which key.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Asked {
    pub(super) principal: String,
    pub(super) context: String,
    pub(super) key: Bytes,
}

/// What was answered, or will be.
type Answer = Arc<OnceCell<Bytes>>;

#[derive(Debug, Default)]
struct Kept {
    answers: HashMap<Asked, Answer>,
    /// Oldest first.
    since: VecDeque<(Instant, Asked)>,
    len: usize,
}

#[derive(Debug, Default)]
pub(super) struct Recent(Mutex<Kept>);

impl Recent {
    /// Appends once, however often it is asked for: who asks meanwhile waits for that.
    pub(super) async fn once(
        &self,
        asked: Asked,
        append: impl Future<Output = Result<Bytes, Status>>,
    ) -> Result<Bytes, Status> {
        let answer = self.answer(asked.clone());
        let answered = answer
            .get_or_try_init(|| async {
                let bytes = append.await?;
                self.grow(&asked, bytes.len());
                Ok::<_, Status>(bytes)
            })
            .await?;
        Ok(answered.clone())
    }

    fn answer(&self, asked: Asked) -> Answer {
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        kept.forget_old();
        if let Some(answer) = kept.answers.get(&asked) {
            return Arc::clone(answer);
        }
        let answer = Answer::default();
        kept.answers.insert(asked.clone(), Arc::clone(&answer));
        kept.since.push_back((Instant::now(), asked));
        answer
    }

    fn grow(&self, asked: &Asked, len: usize) {
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if kept.answers.contains_key(asked) {
            kept.len += len;
            kept.forget_old();
        }
    }
}

impl Kept {
    fn forget_old(&mut self) {
        let is_over = |kept: &Kept| {
            let is_old = kept
                .since
                .front()
                .is_some_and(|(at, _)| at.elapsed() > KEPT_FOR);
            is_old || kept.since.len() >= KEPT_MAX || kept.len > ANSWERS_LEN_MAX
        };
        while is_over(self)
            && let Some((_, asked)) = self.since.pop_front()
        {
            let answer = self.answers.remove(&asked);
            let len = answer.and_then(|answer| answer.get().map(Bytes::len));
            self.len -= len.unwrap_or(0);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;

    fn asked(key: &str) -> Asked {
        Asked {
            principal: "uid 7".to_owned(),
            context: "c".to_owned(),
            key: Bytes::copy_from_slice(key.as_bytes()),
        }
    }

    #[tokio::test]
    async fn whoever_asks_meanwhile_or_again_is_given_the_first_answer() {
        let (recent, count) = (Recent::default(), Cell::new(0));
        let append = async || {
            tokio::task::yield_now().await;
            count.set(count.get() + 1);
            Ok::<_, Status>(Bytes::from(count.get().to_string()))
        };
        let (first, meanwhile) = tokio::join!(
            recent.once(asked("a"), append()),
            recent.once(asked("a"), append())
        );
        let again = recent.once(asked("a"), append()).await;
        for answer in [first, meanwhile, again] {
            assert_eq!(answer.expect("an answer"), "1");
        }
        assert_eq!(recent.once(asked("b"), append()).await.expect("one"), "2");
        let fails = async { Err(Status::resource_exhausted("full")) };
        assert!(recent.once(asked("c"), fails).await.is_err());
        assert_eq!(recent.once(asked("c"), append()).await.expect("one"), "3");
    }

    #[tokio::test]
    async fn what_is_kept_is_bounded_in_number_and_in_bytes() {
        let recent = Recent::default();
        for n in 0..KEPT_MAX + 10 {
            let answer = async { Ok(Bytes::from_static(b"x")) };
            recent
                .once(asked(&n.to_string()), answer)
                .await
                .expect("one");
        }
        let count = |recent: &Recent| {
            let kept = recent.0.lock().expect("nobody panicked");
            assert_eq!(kept.answers.len(), kept.since.len());
            (kept.answers.len(), kept.len)
        };
        let (kept, len) = count(&recent);
        assert!(kept <= KEPT_MAX && len == kept, "{kept} with {len}");
        for n in 0..5 {
            let large = async { Ok(Bytes::from(vec![0; ANSWERS_LEN_MAX / 2])) };
            recent
                .once(asked(&format!("large {n}")), large)
                .await
                .expect("one");
        }
        let (_, len) = count(&recent);
        assert!(len <= ANSWERS_LEN_MAX, "{len}");
    }
}
