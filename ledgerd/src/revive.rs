//! Bringing a context back into memory that is in files only: because nobody needed it,
//! or because memory was lost.

use std::io;

use ledger_client::wire::Refusal;
use ledger_shm::Control;
use ledger_shm::control::Facts;
use ledger_shm::file::Head;
use ledger_shm::format::{CONTROL_LEN, SEGMENT_LEN_MIN};
use ledger_shm::object::{self, Epoch, MapError, Name};
use ledger_shm::segment::Geometry;

use crate::log::{Log, Part};
use crate::maker::make;
use crate::registry::{Registry, disk_refusal, now_ns, random_epoch, refusal};

impl Registry {
    /// Brings a context back, and returns the epoch that it has now: another one if it
    /// may have lost entries, so that who has seen them is not told others.
    pub(crate) fn revive(&mut self, epoch: Epoch) -> Result<Epoch, Refusal> {
        let log = self.logs.get(epoch).ok_or(Refusal::UnknownContext)?;
        let home_name = log.home.ok_or(Refusal::UnknownContext)?;
        // One that was made where there is more memory can be read where there is less.
        let geometries = [log.lengths.first, SEGMENT_LEN_MIN].map(Geometry::of_len);
        let has_room = |of: &Geometry| self.has_room((of.segment_len + CONTROL_LEN) as u64);
        let geometry = geometries.into_iter().find(has_room);
        let geometry = geometry.ok_or(Refusal::Budget)?;
        let home = self.home(home_name).ok_or(Refusal::UnknownContext)?;
        let say = |error: &MapError| {
            tracing::error!(%epoch, %error, "a context cannot be brought back");
        };
        let unusable = |error: MapError| {
            say(&error);
            disk_refusal(&home, error)
        };
        let recovered = home.recover().map_err(unusable)?;
        let facts = Facts {
            epoch: match recovered.is_complete {
                true => recovered.facts.epoch,
                false => random_epoch()?,
            },
            ..recovered.facts.clone()
        };
        let head = Head {
            facts,
            before: recovered.tree,
            base_lamport: recovered.last_lamport,
            begun_at_ns: now_ns(),
            snapshot: None,
        };
        home.reopen(&head).map_err(|error| unusable(error.into()))?;
        let first_seq = head.first_seq();
        let mut log = self
            .bring_back(home_name, head, geometry)
            .map_err(|error| {
                // Nobody could append: what is known of the end is still so.
                if recovered.is_complete {
                    let _ = home.close_again(first_seq);
                }
                say(&error);
                refusal(error)
            })?;
        let now = log.epoch;
        if now != epoch {
            tracing::warn!(
                context = log.name,
                before = %epoch,
                epoch = %now,
                last_seq = first_seq - 1,
                "a context may have lost its last entries with its memory, and has another epoch"
            );
        }
        // Whoever had it open when it left memory tells of being done with it yet.
        let before = self.logs.get(epoch).filter(|_| now == epoch);
        log.attached_count = before.map_or(0, |before| before.attached_count);
        self.logs.remove(epoch);
        self.logs.insert(log);
        Ok(now)
    }

    /// A context in memory that begins as this file does.
    fn bring_back(
        &self,
        home_name: Epoch,
        head: Head,
        geometry: Geometry,
    ) -> Result<Log, MapError> {
        match self.try_bring_back(home_name, head.clone(), geometry) {
            // What could not be removed when it left memory is in the way.
            Err(MapError::Io(error)) if error.kind() == io::ErrorKind::AlreadyExists => {
                let epoch = head.facts.epoch;
                for name in object::list(&self.instance)? {
                    if matches!(name, Name::Control(of) | Name::Part(of, _) if of == epoch) {
                        object::unlink(&self.instance, name)?;
                    }
                }
                self.try_bring_back(home_name, head, geometry)
            }
            outcome => outcome,
        }
    }

    fn try_bring_back(
        &self,
        home_name: Epoch,
        head: Head,
        geometry: Geometry,
    ) -> Result<Log, MapError> {
        let first_seq = head.first_seq();
        let Head {
            facts,
            base_lamport,
            ..
        } = head;
        let epoch = facts.epoch;
        let control = Control::create(&self.instance, facts, Some(home_name), self.generation)?;
        let number = control.take_part_number()?;
        let made = make(
            &self.instance,
            epoch,
            number,
            geometry,
            first_seq,
            base_lamport,
        );
        made.inspect_err(|_| {
            let _ = object::unlink(&self.instance, Name::Control(epoch));
        })?;
        control.set_first_part(number);
        control.set_archived(first_seq - 1, first_seq - 1);
        control.finish();
        let mut log = Log::new(&control, &self.options);
        log.chain.push_back(Part {
            number,
            segment_len: geometry.segment_len,
        });
        Ok(log)
    }
}
