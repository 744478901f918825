//! The request rate: what is early waits as a deadline, what is too early is refused.

use std::time::{Duration, Instant};

use mio::Token;

use super::inflight::Work;
use super::{Asked, Decision, Desk, Settled};
use crate::admission::buffers::Share;
use crate::admission::rate::Outcome;
use crate::gateway::book::Book;
use crate::gateway::socket::Peer;
use crate::ids::RequestId;
use crate::protocol::fault::Fault;
use crate::protocol::request::Call;

/// What the rate says of a request.
pub(super) enum Pace {
    Now,
    After(Duration),
    Never { retry_after_ms: u64 },
}

/// A request that waits for its time.
pub(super) struct Held {
    peer: Peer,
    call: Call,
    in_batch: bool,
    /// What its params take.
    _params: Share,
}

impl Desk {
    pub(super) fn pace(&mut self, peer: &Peer) -> Pace {
        let now_ms = self.now_ms();
        let Some(limiter) = &mut self.limiter else { return Pace::Now };
        let decision = limiter.decide(&peer.client, now_ms);
        if let Outcome::Reject { .. } = decision.outcome {
            self.tally.rate_limited += 1;
        }
        match decision.enforced() {
            Outcome::Pass => Pace::Now,
            Outcome::Delay { ms } => Pace::After(Duration::from_millis(ms)),
            Outcome::Reject { retry_after_ms } => Pace::Never { retry_after_ms },
        }
    }

    pub(super) fn hold(&mut self, asked: &Asked, call: Call, delay: Duration) -> Result<Decision, Fault> {
        let params = self.hold_bytes(&asked.peer.client, call.weight())?;
        self.held.set(asked.request, self.turn_began + delay);
        let held = Held { peer: asked.peer.clone(), call, in_batch: asked.in_batch, _params: params };
        Ok(Decision::Later(Work::Held(Box::new(held))))
    }

    /// A request whose time has come, and the connection that it came on.
    pub fn next_held(&mut self, now: Instant) -> Option<(RequestId, Token)> {
        loop {
            let request = self.held.pop_due(now)?;
            if let Some(pending) = self.requests.get(&request) {
                return Some((request, pending.token));
            }
        }
    }

    /// Decides about a request whose time has come.
    pub fn release(&mut self, request: RequestId, book: &mut Book) {
        let Some(pending) = self.requests.get_mut(&request) else { return };
        let Work::Held(held) = std::mem::replace(&mut pending.work, Work::Settled) else { return };
        let (token, id) = (pending.token, pending.id.clone());
        let Held { peer, call, in_batch, .. } = *held;
        let starts = call.starts();
        let asked = Asked { request, token, peer: &peer, id: id.as_deref(), in_batch };
        let settled = match self.decide(&asked, book, call) {
            Ok(Decision::Now(body)) => Settled::Body(body),
            Ok(Decision::Later(work)) => {
                if let Some(pending) = self.requests.get_mut(&request) {
                    pending.work = work;
                }
                return;
            }
            Err(fault) => {
                self.count_rejected(starts);
                Settled::Refused(fault)
            }
        };
        self.settle(request, settled);
    }
}
