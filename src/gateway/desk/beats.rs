//! Statistics: asked for once, or sent to a subscriber each so many milliseconds.

use std::time::{Duration, Instant};

use mio::Token;

use super::Desk;
use super::inflight::{Pending, Work};
use super::routing::{Asked, Decision};
use crate::gateway::book::Book;
use crate::ids::RequestId;
use crate::message::ToStats;
use crate::protocol::answer;
use crate::protocol::fault::{Fault, Reason};

impl Desk {
    pub(super) fn ask_stats(&mut self, request: RequestId) -> Decision {
        let mut tally = Box::new(std::mem::take(&mut self.tally));
        (tally.connections_current, tally.uids_set_aside) = (self.connections, self.leftovers.set_aside());
        // The statistics answer to whoever asks, so their queue is as long as requests can be in flight.
        let _ = self.stats.send(ToStats::Snapshot { request, tally });
        Decision::Later(Work::Stats)
    }

    pub(super) fn subscribe(&mut self, asked: &Asked, book: &mut Book, interval_ms: u64) -> Result<Decision, Fault> {
        if asked.in_batch {
            return Err(Fault::new(Reason::InvalidParams, "system.subscribe cannot be asked for in a batch"));
        }
        let interval = Duration::from_millis(interval_ms);
        book.subscription = Some(interval);
        self.beats.set(asked.token, self.turn_began + interval);
        Ok(Decision::Now(answer::result(b"{\"subscribed\":true}")))
    }

    pub(super) fn unsubscribe(&mut self, asked: &Asked, book: &mut Book) -> Decision {
        book.subscription = None;
        self.beats.clear(&asked.token);
        Decision::Now(answer::result(b"{}"))
    }

    /// The next subscriber whose time has come.
    pub fn next_beat(&mut self, now: Instant) -> Option<Token> {
        self.beats.pop_due(now)
    }

    /// Asks for the statistics that a subscriber is due, unless it does not read: then it gets none this time.
    pub fn beat(&mut self, token: Token, interval: Duration, now: Instant, reads: bool) {
        self.beats.set(token, now + interval);
        if reads {
            let request = self.next_request();
            self.ask_stats(request);
            self.requests.insert(request, Pending { token, id: None, place: None, work: Work::Beat });
        }
    }

    /// The subscriber whose statistics these are, if it is one.
    pub fn beat_of(&mut self, request: RequestId) -> Option<Token> {
        let Work::Beat = self.requests.get(&request)?.work else { return None };
        self.requests.remove(&request).map(|pending| pending.token)
    }
}
