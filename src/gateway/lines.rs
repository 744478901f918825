//! Lines of a connection become requests, and what is answered at once is written where it belongs. Part of a
//! connection's turn.

use mio::Token;

use super::book::{Member, Place};
use super::connection::Connection;
use super::desk::{Asker, Desk, Routed};
use super::holding::Holding;
use super::outbox::Part;
use crate::config::Connections;
use crate::protocol::envelope::{Envelope, Incoming, Malformed, parse_line};
use crate::protocol::fault::{Fault, Reason};
use crate::protocol::frame::{Framer, Line};

/// Carries out what stands in the buffer; false when the connection is to be closed behind its answers.
pub fn carry_out(token: Token, connection: &mut Connection, desk: &mut Desk) -> bool {
    connection.more_lines = false;
    for taken in 0.. {
        if !connection.may_take_request() {
            break;
        }
        if taken > 0 && connection.holding.is_short() {
            connection.more_lines = true;
            break;
        }
        let Connection { framer, outbox, book, peer, holding, had_good_line, .. } = connection;
        let Some(incoming) = next(framer, holding, *had_good_line, &desk.config().connections) else { break };
        let mut asker = Asker { token, peer, book };
        let good = match incoming {
            Ok(Incoming::One(Ok(envelope))) => {
                outbox.small_line(|out| {
                    desk.route(&mut asker, &envelope, None, out);
                });
                true
            }
            Ok(Incoming::One(Err(Malformed { id, fault }))) => {
                outbox.small_line(|out| desk.refuse_line(id, &fault, out));
                false
            }
            Ok(Incoming::Batch(members)) => {
                let good = members.iter().any(Result::is_ok);
                if let Some(parts) = carry_out_batch(&mut asker, members, desk) {
                    outbox.batch(parts);
                }
                good
            }
            Err(fault) => {
                outbox.small_line(|out| desk.refuse_line(None, &fault, out));
                false
            }
        };
        connection.judge_line(good, desk.config().connections.max_bad_lines);
    }
    !connection.close_after_writing
}

/// What the next line holds, if one has come, or what is wrong with it.
fn next<'a>(
    framer: &'a mut Framer,
    holding: &mut Holding,
    had_good_line: bool,
    config: &Connections,
) -> Option<Result<Incoming<'a>, Fault>> {
    // A TLS hello has no line end, and nothing that begins so becomes a request.
    let begins_well = had_good_line || framer.first_byte().is_none_or(|byte| matches!(byte, b'{' | b'['));
    match framer.next_line() {
        Some(Line::Whole(line)) => {
            holding.carry_out();
            Some(parse_line(line, config.max_batch as usize))
        }
        Some(Line::TooLong) => {
            let limit = config.max_line_bytes;
            let message = format!("a line holds at most {limit} bytes");
            Some(Err(Fault::new(Reason::RequestTooLarge, message).number("limit", limit as i64)))
        }
        None if begins_well => None,
        None => Some(Err(Fault::new(Reason::ParseError, "a request begins with { and a batch with ["))),
    }
}

/// Carries out the members of a batch; the parts of its answer, if every one has its own already.
fn carry_out_batch(asker: &mut Asker, members: Vec<Result<Envelope, Malformed>>, desk: &mut Desk) -> Option<Vec<Part>> {
    let batch = asker.book.begin_batch(members.len());
    for (member, request) in members.into_iter().enumerate() {
        let place = Place { batch, member };
        let mut answer = Vec::new();
        let routed = match request {
            Ok(envelope) => desk.route(asker, &envelope, Some(place), &mut answer),
            Err(Malformed { id, fault }) => {
                desk.refuse_line(id, &fault, &mut answer);
                Routed::Answered
            }
        };
        match routed {
            Routed::Answered => asker.book.fill(place, Member::Whole(answer)),
            Routed::Silent => asker.book.fill(place, Member::Silent),
            Routed::Later => {}
        }
    }
    asker.book.finished_batch(batch)
}
