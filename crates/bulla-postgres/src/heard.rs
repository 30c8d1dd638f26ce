//! Notifications: whose payloads a session may hear.
//!
//! A payload may hold values that its sender may see, and those that code of the target put there.
//! It is heard whole where the channel is configured to hold none; or where it comes from a session
//! of this gateway that may see no class that the hearer may not, and that has not written to
//! tables with such columns, whose triggers could speak.

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
};

use bulla_mask::Classes;
use bulla_wire::{Place, Reveals};

/// A session's number at its server.
pub type Pid = [u8; 4];

/// A session that can be heard.
pub struct Speaker {
    reveals: Reveals,
    touched: AtomicBool,
}

impl Speaker {
    /// It writes where code of the target may speak of values.
    pub fn touches(&self) {
        self.touched.store(true, Ordering::Relaxed);
    }

    /// Whether all that is hidden from whom `sees` answers for is hidden from it too.
    fn is_as_blind(&self, classes: &Classes, sees: &dyn Fn(&str) -> bool) -> bool {
        classes.used().iter().all(|class| sees(class) || !(self.reveals)(class))
    }
}

type Live = HashMap<(Place, Pid), Arc<Speaker>>;

/// Every live session by the server's number of it.
#[derive(Default)]
pub struct Speakers(Mutex<Live>);

impl Speakers {
    fn all(&self) -> MutexGuard<'_, Live> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether a payload of the session `pid` holds nothing that is hidden from whom `sees`
    /// answers for. `own`: it is the hearer's own, and the transaction touched nothing hidden.
    pub fn may_hear(
        &self,
        place: &Place,
        pid: Pid,
        own: bool,
        classes: &Classes,
        sees: &dyn Fn(&str) -> bool,
    ) -> bool {
        let speaker = self.all().get(&(place.clone(), pid)).cloned();
        speaker.is_some_and(|speaker| {
            (own || !speaker.touched.load(Ordering::Relaxed)) && speaker.is_as_blind(classes, sees)
        })
    }
}

/// A session among the speakers, until it is dropped.
pub struct Registered {
    speakers: Arc<Speakers>,
    key: (Place, Pid),
    pub speaker: Arc<Speaker>,
}

impl Registered {
    pub fn new(speakers: &Arc<Speakers>, place: &Place, pid: Pid, reveals: &Reveals) -> Self {
        let touched = AtomicBool::new(false);
        let speaker = Arc::new(Speaker { reveals: reveals.clone(), touched });
        let key = (place.clone(), pid);
        speakers.all().insert(key.clone(), speaker.clone());
        Self { speakers: speakers.clone(), key, speaker }
    }
}

impl Drop for Registered {
    fn drop(&mut self) {
        let mut all = self.speakers.all();
        // The server may have given the number to another session already.
        if all.get(&self.key).is_some_and(|known| Arc::ptr_eq(known, &self.speaker)) {
            all.remove(&self.key);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use bulla_mask::{Class, Inference, Mask};

    use super::*;

    #[test]
    fn only_who_sees_no_more_is_heard() {
        let (mask, inference, subject) = (Mask::Null, Inference::Deny, None);
        let class = Class { mask, inference, keeps_null: false, subject };
        let rules = BTreeMap::from([("a.b.c".to_owned(), "pii".to_owned())]);
        let named = BTreeMap::from([("pii".into(), class)]);
        let classes = Classes::new(&rules, None, named, None, &[]).unwrap();
        let place = Place { resource: "r".into(), part: "p".into(), default_part: true };
        let speakers = Arc::new(Speakers::default());
        let of = |pid: u8, sees: bool| {
            let reveals: Reveals = Arc::new(move |_| sees);
            Registered::new(&speakers, &place, [0, 0, 0, pid], &reveals)
        };
        let hears = |pid: u8, sees: bool, own: bool| {
            speakers.may_hear(&place, [0, 0, 0, pid], own, &classes, &|_| sees)
        };
        let (blind, seeing) = (of(1, false), of(2, true));
        assert!(hears(1, false, false) && hears(1, true, false) && hears(2, true, false));
        assert!(!hears(2, false, false) && !hears(3, false, false));
        blind.speaker.touches();
        assert!(!hears(1, false, false) && hears(1, false, true));
        drop((blind, seeing));
        assert!(!hears(1, false, true) && !hears(2, true, false));
    }
}
