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
    Capacity,
    RequestTooLarge,
    StdinTooLarge,
    SpawnFailed,
    ShuttingDown,
}

impl Reason {
    /// Every reason, in the order of their discriminants.
    pub const ALL: [Reason; 14] = [
        Reason::ParseError,
        Reason::InvalidRequest,
        Reason::MethodNotFound,
        Reason::InvalidParams,
        Reason::Internal,
        Reason::Forbidden,
        Reason::SessionNotFound,
        Reason::SessionBusy,
        Reason::ExecNotFound,
        Reason::Capacity,
        Reason::RequestTooLarge,
        Reason::StdinTooLarge,
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
            Reason::Capacity => "CAPACITY",
            Reason::RequestTooLarge => "REQUEST_TOO_LARGE",
            Reason::StdinTooLarge => "STDIN_TOO_LARGE",
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
            Reason::Capacity => -32020,
            Reason::RequestTooLarge => -32023,
            Reason::StdinTooLarge => -32024,
            Reason::SpawnFailed => -32030,
            Reason::ShuttingDown => -32040,
        }
    }

    fn retryable(self) -> bool {
        matches!(self, Reason::SessionBusy | Reason::Capacity)
    }
}

/// One refusal: the reason, a sentence for a person, and the facts for a program.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fault {
    pub reason: Reason,
    pub message: String,
    facts: Vec<(&'static str, Fact)>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Fact {
    Text(String),
    Number(i64),
}

impl Fault {
    pub fn new(reason: Reason, message: impl Into<String>) -> Self {
        Fault { reason, message: message.into(), facts: Vec::new() }
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
        data.bool("retryable", self.reason.retryable());
        for (name, fact) in &self.facts {
            match fact {
                Fact::Text(text) => data.str(name, text),
                Fact::Number(number) => data.int(name, *number),
            }
        }
        data.end();
        error.end();
    }
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
