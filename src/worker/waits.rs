//! Requests that wait for a command: for its record, or for a part of an output from some offset on. Pure. Each is in
//! flight on a connection, which bounds them; there may be thousands, so none is looked at before its part can be there.

use std::collections::{BTreeSet, HashMap};

use crate::ids::{ExecId, RequestId};
use crate::protocol::request::Read;

/// What a request waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wanted {
    Record,
    Part(Read),
}

/// By their command, the output, and where in it.
type Place = (ExecId, u8, u64, RequestId);

#[derive(Debug, Default)]
pub struct Waits {
    places: BTreeSet<Place>,
    wanted: HashMap<RequestId, (ExecId, Wanted)>,
}

fn place(exec: ExecId, request: RequestId, wanted: Wanted) -> Place {
    match wanted {
        Wanted::Part(read) => (exec, u8::from(read.stderr), read.offset, request),
        Wanted::Record => (exec, 2, 0, request),
    }
}

impl Waits {
    pub fn add(&mut self, exec: ExecId, request: RequestId, wanted: Wanted) {
        self.places.insert(place(exec, request, wanted));
        self.wanted.insert(request, (exec, wanted));
    }

    pub fn remove(&mut self, request: RequestId) -> Option<(ExecId, Wanted)> {
        let (exec, wanted) = self.wanted.remove(&request)?;
        self.places.remove(&place(exec, request, wanted));
        Some((exec, wanted))
    }

    pub fn is_empty(&self) -> bool {
        self.places.is_empty()
    }

    /// Everybody who waits for a command.
    pub fn all(&self, exec: ExecId) -> Vec<(RequestId, Wanted)> {
        self.within((exec, 0, 0, RequestId(0)), (exec, u8::MAX, u64::MAX, RequestId(u64::MAX)))
    }

    /// Who waits for an output from an offset on that is less than this; none: from any.
    pub fn parts(&self, exec: ExecId, stderr: bool, below: Option<u64>) -> Vec<(RequestId, Wanted)> {
        let output = u8::from(stderr);
        let Some(last) = below.map_or(Some(u64::MAX), |below| below.checked_sub(1)) else { return Vec::new() };
        self.within((exec, output, 0, RequestId(0)), (exec, output, last, RequestId(u64::MAX)))
    }

    fn within(&self, first: Place, last: Place) -> Vec<(RequestId, Wanted)> {
        let found = self.places.range(first..=last);
        found.filter_map(|(_, _, _, request)| Some((*request, self.wanted.get(request)?.1))).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn part(stderr: bool, offset: u64) -> Wanted {
        Wanted::Part(Read { stderr, offset, bytes_max: 1, wait_ms: 1 })
    }

    #[test]
    fn only_those_are_found_whose_part_can_be_there() {
        let mut waits = Waits::default();
        let requests = |found: Vec<(RequestId, Wanted)>| found.iter().map(|(request, _)| request.0).collect::<Vec<_>>();
        let all = [part(false, 5), part(false, 9), part(true, 5), Wanted::Record, part(false, u64::MAX)];
        for (number, wanted) in all.into_iter().enumerate() {
            waits.add(ExecId(1), RequestId(number as u64), wanted);
        }
        waits.add(ExecId(2), RequestId(10), part(false, 0));
        assert!(requests(waits.parts(ExecId(1), false, Some(5))).is_empty());
        assert_eq!(requests(waits.parts(ExecId(1), false, Some(6))), [0]);
        assert_eq!(requests(waits.parts(ExecId(1), true, Some(u64::MAX))), [2]);
        assert_eq!(requests(waits.parts(ExecId(1), false, None)), [0, 1, 4]);
        assert!(requests(waits.parts(ExecId(1), false, Some(0))).is_empty());
        assert_eq!(requests(waits.all(ExecId(1))), [0, 1, 4, 2, 3]);
        assert_eq!(waits.remove(RequestId(0)), Some((ExecId(1), part(false, 5))));
        assert_eq!(waits.remove(RequestId(0)), None);
        for (request, _) in [waits.all(ExecId(1)), waits.all(ExecId(2))].concat() {
            waits.remove(request);
        }
        assert!(waits.is_empty() && waits.wanted.is_empty());
    }
}
