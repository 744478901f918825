//! What sessions have left when they were gone: cleaned up in the background, so that uids come round, and disks and
//! memory are given back.

use std::time::{Duration, Instant};

use super::Desk;
use crate::admission::uids::{Fate, Uids};
use crate::ids::SessionId;
use crate::message::{Left, UidFate};
use crate::process::errands::Errand;
use crate::process::residue::Cleaned;
use crate::process::workspace::Workspaces;

/// A pass looks through folders that may be large, so many sessions share one.
const PASS_EVERY: Duration = Duration::from_secs(1);
/// Where half of the pool rests they follow sooner, so that those that are clean rest too; but not one after the other.
const PASS_SOON: Duration = Duration::from_millis(50);
/// What could not be removed is tried again so often.
const RETRY_EVERY: Duration = Duration::from_secs(10);
/// Somebody may fill those folders with files: passes take a twentieth of the time at most, or half of it where half of
/// the pool rests.
const IDLE_FACTOR: u32 = 19;
/// A pool with fewer uids may come round before a pass does. They are cleaned at once, so that each waits for all others.
const SMALL_POOL: u32 = 256;
/// How many uids that nobody has had yet are to be ready: all sessions may open at once, and more uids are prepared
/// meanwhile. Each takes about 10 µs and a kilobyte of the kernel's memory, so that not all are prepared at the start.
pub fn uids_ahead(sessions_max: u64) -> u32 {
    u32::try_from(sessions_max).unwrap_or(u32::MAX).max(256)
}

/// Uids in one pass.
const UIDS_A_PASS: usize = 4096;
/// Sessions whose workspaces are remembered to be removed; what is beyond goes at the next start.
const SESSIONS_MAX: usize = 4096;

/// The uids of the pool, and what is to be cleaned up.
#[derive(Debug)]
pub(super) struct Leftovers {
    /// None: sessions have no uids of their own.
    uids: Option<Uids>,
    workspaces: std::sync::Arc<Workspaces>,
    /// Sessions whose workspaces could not be removed.
    sessions: Vec<SessionId>,
    /// Uids are being prepared.
    preparing: bool,
    /// A pass is under way since then.
    cleaning: Option<Instant>,
    /// How long the last one took.
    took: Duration,
    next_pass: Option<Instant>,
    next_retry: Option<Instant>,
}

impl Leftovers {
    pub fn new(uids: Option<u32>, workspaces: std::sync::Arc<Workspaces>) -> Leftovers {
        Leftovers {
            uids: uids.map(Uids::new),
            workspaces,
            sessions: Vec::new(),
            preparing: false,
            cleaning: None,
            took: Duration::ZERO,
            next_pass: None,
            next_retry: None,
        }
    }

    /// The number of a session's uid, and whether it must be clean when the session is gone: cleaning can wait for a pass
    /// in a pool that does not come round before it, as long as there are no fewer clean uids than sessions may be open.
    /// None: no uid is left.
    pub fn claim_uid(&mut self, sessions_max: u64) -> Option<(u32, bool)> {
        let Some(uids) = &mut self.uids else { return Some((0, false)) };
        let uid = uids.claim()?;
        Some((uid, uids.count() < SMALL_POOL || uids.free() < sessions_max))
    }

    /// Uids that are out of use, for something of a session is left.
    pub fn set_aside(&self) -> u64 {
        self.uids.as_ref().map_or(0, Uids::set_aside)
    }

    /// When something is due here.
    pub fn due(&self) -> Option<Instant> {
        let waits = [self.next_pass, self.next_retry].into_iter().flatten().min();
        waits.filter(|_| self.cleaning.is_none())
    }

    /// Takes back the uid of a session that is gone.
    fn take(&mut self, session: SessionId, uid: u32, left: Left, now: Instant) {
        if left.workspace && self.sessions.len() < SESSIONS_MAX {
            self.sessions.push(session);
        }
        if let Some(uids) = &mut self.uids {
            // Whoever gets the uid next is not to find a file of ours.
            let fate = match left.uid {
                _ if left.workspace => Fate::SetAside,
                UidFate::Clean => Fate::Clean,
                UidFate::Rests => Fate::Rests,
                UidFate::SetAside => Fate::SetAside,
            };
            uids.release(uid, fate);
        }
        self.plan(now);
    }

    fn plan(&mut self, now: Instant) {
        if let Some(uids) = self.uids.as_ref().filter(|uids| uids.rest()) {
            let pause = match uids.is_half_used() {
                true => PASS_SOON.max(self.took),
                false => PASS_EVERY.max(self.took * IDLE_FACTOR),
            };
            self.next_pass = Some(self.next_pass.map_or(now + pause, |at| at.min(now + pause)));
        }
        if self.set_aside() > 0 || !self.sessions.is_empty() {
            self.next_retry.get_or_insert(now + RETRY_EVERY);
        }
    }
}

impl Desk {
    /// Has more uids prepared, where they will be needed soon. The first are, before anybody is served.
    pub(super) fn prepare_uids(&mut self) {
        let ahead = uids_ahead(self.config.sessions.max_sessions);
        let leftovers = &mut self.leftovers;
        let Some((first, count)) = leftovers.uids.as_ref().and_then(|uids| uids.to_prepare(ahead)) else { return };
        if !std::mem::replace(&mut leftovers.preparing, true) {
            let first = self.uid_base + first;
            self.errand(Errand::PrepareUids { first, count, gateway: self.own.clone() });
        }
    }

    pub fn uids_prepared(&mut self, count: u32, unusable: &[u32]) {
        let base = self.uid_base;
        self.leftovers.preparing = false;
        if let Some(uids) = &mut self.leftovers.uids {
            uids.prepared(count, unusable.iter().map(|uid| uid - base));
        }
        if let Some(uid) = unusable.first() {
            let count = unusable.len();
            log::warn!("{count} uids have keys that somebody has left, and are not given out, uid {uid} the first");
        }
        // Nothing is prepared where it took too long: it is tried again when the next session opens.
        if count > 0 {
            self.prepare_uids();
        }
    }

    /// A session's uid and workspace are given back, as far as they are free.
    pub(super) fn take_leftovers(&mut self, session: SessionId, uid: u32, left: Left) {
        self.leftovers.take(session, uid, left, self.turn_began);
    }

    /// Has done what is due.
    pub fn clean_up(&mut self, now: Instant) {
        if self.leftovers.due().is_none_or(|due| due > now) {
            return;
        }
        let retry = self.leftovers.next_retry.take_if(|at| *at <= now).is_some();
        let base = self.uid_base;
        let leftovers = &mut self.leftovers;
        leftovers.next_pass = None;
        let numbers = leftovers.uids.as_mut().map(|uids| uids.take_to_clean(UIDS_A_PASS, retry)).unwrap_or_default();
        let sessions = if retry { std::mem::take(&mut leftovers.sessions) } else { Vec::new() };
        leftovers.cleaning = Some(now);
        let errand = Errand::CleanUp {
            uids: numbers.into_iter().map(|number| base + number).collect(),
            sessions,
            workspaces: leftovers.workspaces.clone(),
            gateway: self.own.clone(),
        };
        self.errand(errand);
    }

    /// A pass is over.
    pub fn cleaned_up(&mut self, cleaned: &Cleaned, sessions: Vec<SessionId>) {
        let (base, now) = (self.uid_base, self.turn_began);
        let leftovers = &mut self.leftovers;
        leftovers.took = leftovers.cleaning.take().map_or(Duration::ZERO, |began| now.saturating_duration_since(began));
        leftovers.sessions.extend(sessions);
        if let Some(uids) = &mut leftovers.uids {
            let before = uids.set_aside();
            for (uid, left) in &cleaned.tried {
                if let Some(left) = left {
                    log::debug!("uid={uid} is not given out: {left}");
                }
                uids.release(uid - base, if left.is_some() { Fate::SetAside } else { Fate::Clean });
            }
            if uids.set_aside() > before
                && let Some((uid, Some(left))) = cleaned.tried.iter().find(|(_, left)| left.is_some())
            {
                log::warn!(
                    "{} uids are set aside, for something of their sessions is left (uid {uid}: {left})",
                    uids.set_aside()
                );
            }
        }
        leftovers.plan(now);
    }
}
