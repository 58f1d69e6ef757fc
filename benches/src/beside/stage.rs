//! All peers beside each other, in one run: what runs beside them, and who plays.

use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use hdrhistogram::Histogram;

use crate::peers::{self, Host, Missing, Peer, Place};
use crate::report::histogram;
use crate::sweep;
use crate::with_peer;

use super::machine;

/// Peers that are there, and why others are not.
pub struct Stage {
    hosts: Vec<(&'static str, Result<Host, Missing>)>,
    dir: PathBuf,
    is_quick: bool,
}

/// What was measured of one peer: a figure of each round, and how long single ones took.
#[derive(Clone)]
pub struct Figures {
    pub rounds: Vec<f64>,
    pub latencies: Histogram<u64>,
}

impl Figures {
    /// The median of the rounds'.
    pub fn median(&self) -> f64 {
        median(&self.rounds)
    }

    /// How often this is the other: the median of all rounds, so that a change of the
    /// machine's mood meets both.
    pub fn to(&self, other: &Figures) -> f64 {
        let both = self.rounds.iter().zip(&other.rounds);
        median(&both.map(|(one, other)| one / other).collect::<Vec<_>>())
    }
}

pub fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted.get(sorted.len() / 2).copied().unwrap_or(f64::NAN)
}

/// The same of every peer, in the order of [`peers::NAMES`].
#[derive(Clone, Default)]
pub struct Line(pub Vec<(&'static str, Result<Figures, Missing>)>);

impl Line {
    /// What was measured of a peer, if anything was.
    pub fn of(&self, peer: &str) -> Option<&Figures> {
        let (_, figures) = self.0.iter().find(|(name, _)| *name == peer)?;
        figures.as_ref().ok()
    }

    /// One more round of a peer, who fails for ever if it fails once.
    pub fn add(&mut self, peer: &'static str, round: Result<Round, Missing>) {
        let figures = round.map(|(figure, latencies)| Figures {
            rounds: vec![figure],
            latencies,
        });
        match self.0.iter_mut().find(|(name, _)| *name == peer) {
            None => self.0.push((peer, figures)),
            Some((_, all)) => match (all, figures) {
                (Ok(all), Ok(more)) => {
                    all.rounds.extend(more.rounds);
                    all.latencies.add(more.latencies).expect("the same bounds");
                }
                (all @ Ok(_), Err(missing)) => *all = Err(missing),
                (Err(_), _) => {}
            },
        }
    }
}

impl Stage {
    /// Starts what runs beside them.
    ///
    /// # Errors
    ///
    /// One that is required is missing.
    pub fn set(is_quick: bool, has_bare: bool, required: &[String]) -> Result<Stage, String> {
        if let Some(unknown) = required.iter().find(|it| !peers::NAMES.contains(&&***it)) {
            let known = peers::NAMES.join(", ");
            return Err(format!("no peer is named {unknown:?}; there are {known}"));
        }
        let dir = sweep::dir_of(std::process::id());
        // Nobody else's, who could have named in it what is removed afterwards.
        let mut ours = std::fs::DirBuilder::new();
        ours.mode(0o700).create(&dir).map_err(|error| {
            format!(
                "cannot make {}: {error}; remove it if it is there",
                dir.display()
            )
        })?;
        let hosts = peers::NAMES.map(|peer| {
            let host = match peer {
                "aeron" if cfg!(not(feature = "aeron")) => Err(Missing::NotInstalled(
                    "--features aeron, with CMake 3.30 or newer (pip install cmake) and \
                     apt-get install libclang-dev libbsd-dev uuid-dev"
                        .to_owned(),
                )),
                "bare ledger" if !has_bare => Err(Missing::NotInstalled(
                    "--bare, which builds it without time and checksums".to_owned(),
                )),
                _ => with_peer!(peer, host(&dir)),
            };
            (peer, host)
        });
        let stage = Stage {
            hosts: hosts.into(),
            dir,
            is_quick,
        };
        for peer in required {
            if let Some(missing) = stage.missing(peer) {
                let how = machine::why(missing);
                return Err(format!("{peer} is required and cannot be run: {how}"));
            }
        }
        Ok(stage)
    }

    /// Why a peer cannot be run here, if it cannot.
    pub fn missing(&self, peer: &str) -> Option<&Missing> {
        let (_, host) = self.hosts.iter().find(|(name, _)| *name == peer)?;
        host.as_ref().err()
    }

    pub fn is_quick(&self) -> bool {
        self.is_quick
    }

    pub fn rounds(&self) -> u32 {
        if self.is_quick { 2 } else { 9 }
    }

    /// A directory of this run.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// A peer's own place, if it can be run here.
    pub fn placed(&self, peer: &str, place: &Place) -> Option<Place> {
        let (_, host) = self.hosts.iter().find(|(name, _)| *name == peer)?;
        Some(self.place_of(peer, host.as_ref().ok()?, place))
    }

    fn place_of(&self, peer: &str, host: &Host, place: &Place) -> Place {
        Place {
            address: host.address.clone(),
            dir: self.dir.clone(),
            topic: format!("{}-{peer}", place.topic),
            ..place.clone()
        }
    }

    /// Every peer with its players, as `start` has them start, or why not.
    pub fn casts<P>(
        &self,
        place: &Place,
        start: impl Fn(&str, &Place) -> Result<P, Missing>,
    ) -> Vec<Cast<P>> {
        let casts = self.hosts.iter().map(|(peer, host)| {
            let here = host.as_ref().map_err(Clone::clone).and_then(|host| {
                let place = self.place_of(peer, host, place);
                match with_peer!(*peer, lacks(&place)) {
                    Some(missing) => Err(missing),
                    None => Ok(place),
                }
            });
            Cast {
                peer,
                is_slow: here.is_ok() && with_peer!(*peer, is_slow()),
                players: here.and_then(|place| start(peer, &place)),
                figures: Figures {
                    rounds: Vec::new(),
                    latencies: histogram(),
                },
            }
        });
        casts.collect()
    }
}

impl Drop for Stage {
    fn drop(&mut self) {
        self.hosts.clear();
        let _ = std::fs::remove_dir_all(&self.dir);
    }
}

fn host<P: Peer>(dir: &Path) -> Result<Host, Missing> {
    P::host(dir)
}

fn lacks<P: Peer>(place: &Place) -> Option<Missing> {
    P::lacks(place)
}

fn is_slow<P: Peer>() -> bool {
    P::IS_SLOW
}

/// One peer's players, and what was measured of them.
pub struct Cast<P> {
    pub peer: &'static str,
    pub is_slow: bool,
    players: Result<P, Missing>,
    figures: Figures,
}

/// A figure in nanoseconds, as a table says which, and what single ones took.
pub type Round = (f64, Histogram<u64>);

impl<P> Cast<P> {
    /// Has the players do something, if there are any. Who fails once has failed.
    pub fn perform<T>(
        &mut self,
        act: impl FnOnce(&mut P) -> Result<T, Missing>,
    ) -> Result<T, Missing> {
        let outcome = self.players.as_mut().map_err(|missing| missing.clone());
        let outcome = outcome.and_then(act);
        if let Err(missing) = &outcome {
            self.players = Err(missing.clone());
        }
        outcome
    }

    /// Has the players play a round, which counts once they are warm.
    pub fn play(&mut self, is_warm: bool, round: impl FnOnce(&mut P) -> Result<Round, Missing>) {
        if let Ok((figure, latencies)) = self.perform(round)
            && is_warm
        {
            self.figures.rounds.push(figure);
            let added = self.figures.latencies.add(latencies);
            added.expect("the same bounds");
        }
    }

    pub fn figures(self) -> (&'static str, Result<Figures, Missing>) {
        (self.peer, self.players.map(|_| self.figures))
    }
}
