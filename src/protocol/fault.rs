//! The errors of the protocol. Pure.

use super::encode::Object;

/// Why a request was refused; the names and codes stand in the protocol's table.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Reason {
    ParseError,
    InvalidRequest,
    MethodNotFound,
    InvalidParams,
    Internal,
    Forbidden,
    SessionNotFound,
    SessionBusy,
    ExecNotFound,
    ExecFinished,
    Capacity,
    OverLimit,
    RateLimited,
    RequestTooLarge,
    StdinTooLarge,
    StdinFull,
    BudgetExhausted,
    SpawnFailed,
    ShuttingDown,
}

impl Reason {
    /// Every reason, in the order of their discriminants.
    pub const ALL: [Reason; 19] = [
        Reason::ParseError,
        Reason::InvalidRequest,
        Reason::MethodNotFound,
        Reason::InvalidParams,
        Reason::Internal,
        Reason::Forbidden,
        Reason::SessionNotFound,
        Reason::SessionBusy,
        Reason::ExecNotFound,
        Reason::ExecFinished,
        Reason::Capacity,
        Reason::OverLimit,
        Reason::RateLimited,
        Reason::RequestTooLarge,
        Reason::StdinTooLarge,
        Reason::StdinFull,
        Reason::BudgetExhausted,
        Reason::SpawnFailed,
        Reason::ShuttingDown,
    ];

    pub fn name(self) -> &'static str {
        match self {
            Reason::ParseError => "PARSE_ERROR",
            Reason::InvalidRequest => "INVALID_REQUEST",
            Reason::MethodNotFound => "METHOD_NOT_FOUND",
            Reason::InvalidParams => "INVALID_PARAMS",
            Reason::Internal => "INTERNAL",
            Reason::Forbidden => "FORBIDDEN",
            Reason::SessionNotFound => "SESSION_NOT_FOUND",
            Reason::SessionBusy => "SESSION_BUSY",
            Reason::ExecNotFound => "EXEC_NOT_FOUND",
            Reason::ExecFinished => "EXEC_FINISHED",
            Reason::Capacity => "CAPACITY",
            Reason::OverLimit => "OVER_LIMIT",
            Reason::RateLimited => "RATE_LIMITED",
            Reason::RequestTooLarge => "REQUEST_TOO_LARGE",
            Reason::StdinTooLarge => "STDIN_TOO_LARGE",
            Reason::StdinFull => "STDIN_FULL",
            Reason::BudgetExhausted => "BUDGET_EXHAUSTED",
            Reason::SpawnFailed => "SPAWN_FAILED",
            Reason::ShuttingDown => "SHUTTING_DOWN",
        }
    }

    fn code(self) -> i64 {
        match self {
            Reason::ParseError => -32700,
            Reason::InvalidRequest => -32600,
            Reason::MethodNotFound => -32601,
            Reason::InvalidParams => -32602,
            Reason::Internal => -32603,
            Reason::Forbidden => -32002,
            Reason::SessionNotFound => -32010,
            Reason::SessionBusy => -32011,
            Reason::ExecNotFound => -32012,
            Reason::ExecFinished => -32013,
            Reason::Capacity => -32020,
            Reason::OverLimit => -32021,
            Reason::RateLimited => -32022,
            Reason::RequestTooLarge => -32023,
            Reason::StdinTooLarge => -32024,
            Reason::StdinFull => -32025,
            Reason::BudgetExhausted => -32026,
            Reason::SpawnFailed => -32030,
            Reason::ShuttingDown => -32040,
        }
    }

    /// Whether the same request may pass later without anything else being changed.
    fn retryable(self) -> bool {
        matches!(
            self,
            Reason::SessionBusy | Reason::Capacity | Reason::OverLimit | Reason::RateLimited | Reason::StdinFull
        )
    }
}

/// One refusal: the reason, a sentence for a person, and the facts for a program.
#[derive(Debug, Clone, PartialEq)]
pub struct Fault {
    pub reason: Reason,
    pub message: String,
    retryable: bool,
    facts: Vec<(&'static str, Fact)>,
}

#[derive(Debug, Clone, PartialEq)]
enum Fact {
    Text(String),
    Number(i64),
    /// May have a fraction.
    Amount(f64),
    Over(Vec<Over>),
}

/// One resource of a claim that is over its limit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Over {
    pub resource: String,
    pub limit: i64,
    pub usage: i64,
    /// -1: without an end.
    pub delta: i64,
    /// `client` or `tree`, where clients have parents.
    pub scope: Option<&'static str>,
}

impl Fault {
    pub fn new(reason: Reason, message: impl Into<String>) -> Self {
        Fault { reason, message: message.into(), retryable: reason.retryable(), facts: Vec::new() }
    }

    pub fn text(mut self, name: &'static str, value: impl Into<String>) -> Self {
        self.facts.push((name, Fact::Text(value.into())));
        self
    }

    pub fn number(mut self, name: &'static str, value: i64) -> Self {
        self.facts.push((name, Fact::Number(value)));
        self
    }

    /// INVALID_PARAMS about one field: `field` is its name, as `limits.cpu_sec`.
    pub fn field(field: impl Into<String>, what: impl std::fmt::Display) -> Self {
        let field = field.into();
        Fault::new(Reason::InvalidParams, format!("{field}: {what}")).text("field", field)
    }

    pub fn session_not_found(session: &str) -> Self {
        Fault::new(Reason::SessionNotFound, "no such session").text("session", session)
    }

    pub fn exec_not_found(exec: &str) -> Self {
        Fault::new(Reason::ExecNotFound, "no such command").text("exec", exec)
    }

    pub fn session_busy(session: crate::ids::SessionId, limit: u64, usage: u64) -> Self {
        let message = format!("the session already runs {usage} of {limit} commands");
        Fault::new(Reason::SessionBusy, message)
            .text("session", session.to_string())
            .number("limit", clamp(limit))
            .number("usage", clamp(usage))
    }

    pub fn capacity(resource: &'static str, limit: u64, usage: u64) -> Self {
        let message = format!("the daemon is full: {usage} of {limit} {resource} are in use");
        Fault::new(Reason::Capacity, message)
            .text("resource", resource)
            .number("limit", clamp(limit))
            .number("usage", clamp(usage))
    }

    /// One client has as many connections as it may.
    pub fn too_many_connections(client: &str, limit: u64, usage: u64) -> Self {
        let message = format!("{client} has {usage} connections, of {limit} that one client may have");
        Fault { message, ..Fault::capacity("connections", limit, usage) }
    }

    /// What is held for all clients together. Unlike a slot, what is asked for differs from request to request, so it is
    /// told as well: who asks for less may pass.
    pub fn buffers_full(limit: u64, usage: u64, delta: u64) -> Self {
        Fault::too_little_left("buffer_bytes", limit, usage, delta)
    }

    /// What may be open for the kind of thing that is asked for. What is more than there are never passes.
    pub fn descriptors_full(limit: u64, usage: u64, delta: u64) -> Self {
        let fault = Fault::too_little_left("descriptors", limit, usage, delta);
        Fault { retryable: delta <= limit, ..fault }
    }

    fn too_little_left(resource: &'static str, limit: u64, usage: u64, delta: u64) -> Self {
        let mut fault = Fault::capacity(resource, limit, usage).number("delta", clamp(delta));
        fault.message = format!("the daemon is full: {delta} more {resource}, with {usage} of {limit} in use");
        fault
    }

    /// The client's own quota. A delta that is over the limit by itself never passes, however long one waits.
    pub fn over_limit(message: String, client: &str, over: Vec<Over>, retryable: bool) -> Self {
        let mut fault = Fault::new(Reason::OverLimit, message).text("client", client);
        fault.retryable = retryable;
        fault.facts.push(("over", Fact::Over(over)));
        fault
    }

    pub fn rate_limited(retry_after_ms: u64) -> Self {
        let message = format!("too many requests; the next one is taken in {retry_after_ms} ms");
        Fault::new(Reason::RateLimited, message).number("retry_after_ms", clamp(retry_after_ms))
    }

    /// What the session was given at its opening is used up; limit and usage in the unit of the resource's name.
    pub fn budget_exhausted(session: crate::ids::SessionId, resource: &'static str, limit: f64, usage: f64) -> Self {
        let message = format!("the session's budget of {resource} is used up: {usage} of {limit}");
        let mut fault = Fault::new(Reason::BudgetExhausted, message)
            .text("session", session.to_string())
            .text("resource", resource);
        fault.facts.extend([("limit", Fact::Amount(limit)), ("usage", Fact::Amount(usage))]);
        fault
    }

    pub fn exec_finished(exec: &str) -> Self {
        Fault::new(Reason::ExecFinished, "the command has ended").text("exec", exec)
    }

    /// What was written to a command and waits for it to be read.
    pub fn stdin_full(limit: u64, usage: u64) -> Self {
        let message = format!("{usage} bytes wait for the command to read them already; at most {limit} may");
        Fault::new(Reason::StdinFull, message).number("limit", clamp(limit)).number("usage", clamp(usage))
    }

    /// When it is worth asking again.
    pub fn retry_after_ms(self, ms: u64) -> Self {
        self.number("retry_after_ms", clamp(ms))
    }

    /// So many commands wait already that no more may.
    pub fn queue_full(limit: u64, usage: u64) -> Self {
        let message = format!("{usage} commands wait for a slot already; at most {limit} may");
        Fault::new(Reason::Capacity, message)
            .text("resource", "commands")
            .number("limit", clamp(limit))
            .number("usage", clamp(usage))
    }

    /// So many retry keys are remembered that no more may; the next is forgotten after this time, if that is known.
    pub fn keys_full(limit: u64, usage: u64, retry_after_ms: Option<u64>) -> Self {
        let message = format!("{usage} of {limit} retry keys are remembered already");
        let fault = Fault::new(Reason::Capacity, message)
            .text("resource", "buffer_bytes")
            .number("limit", clamp(limit))
            .number("usage", clamp(usage));
        match retry_after_ms {
            Some(ms) => fault.retry_after_ms(ms),
            None => fault,
        }
    }

    /// A command that ran for a retry key, and whose record is not kept any more. Asking again does not help.
    pub fn record_gone() -> Self {
        let message = "the command of this key has run; its record had to make room for others";
        let mut fault = Fault::new(Reason::Capacity, message).text("resource", "buffer_bytes");
        fault.retryable = false;
        fault
    }

    pub fn shutting_down() -> Self {
        Fault::new(Reason::ShuttingDown, "the daemon is draining: no new session or command")
    }

    pub fn internal(what: &str) -> Self {
        Fault::new(Reason::Internal, what)
    }

    /// Appends `"error":{…}`.
    pub fn encode(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(b"\"error\":");
        let mut error = Object::begin(out);
        error.int("code", self.reason.code());
        error.str("message", &self.message);
        let mut data = error.object("data");
        data.str("reason", self.reason.name());
        data.bool("retryable", self.retryable);
        for (name, fact) in &self.facts {
            match fact {
                Fact::Text(text) => data.str(name, text),
                Fact::Number(number) => data.int(name, *number),
                Fact::Amount(amount) => data.float(name, *amount),
                Fact::Over(rows) => data.raw(name, &array(rows)),
            }
        }
        data.end();
        error.end();
    }
}

fn array(rows: &[Over]) -> Vec<u8> {
    let mut out = b"[".to_vec();
    for row in rows {
        if out.len() > 1 {
            out.push(b',');
        }
        let mut object = Object::begin(&mut out);
        object.str("resource", &row.resource);
        object.int("limit", row.limit);
        object.int("usage", row.usage);
        object.int("delta", row.delta);
        if let Some(scope) = row.scope {
            object.str("scope", scope);
        }
        object.end();
    }
    out.push(b']');
    out
}

fn clamp(n: u64) -> i64 {
    i64::try_from(n).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn encodes_the_facts_in_order() {
        let mut out = Vec::new();
        Fault::capacity("commands", 16, 16).encode(&mut out);
        assert_eq!(
            String::from_utf8(out).unwrap(),
            r#""error":{"code":-32020,"message":"the daemon is full: 16 of 16 commands are in use","data":{"reason":"CAPACITY","retryable":true,"resource":"commands","limit":16,"usage":16}}"#
        );
    }

    #[test]
    fn every_reason_has_its_place() {
        for (at, reason) in Reason::ALL.iter().enumerate() {
            assert_eq!(at, *reason as usize, "{reason:?}");
        }
    }
}
