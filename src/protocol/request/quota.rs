//! `limit.show`, `limit.check`, `limit.set`, `limit.unset`. Pure.

use serde_json::value::RawValue;

use super::Call;
use crate::admission::quota::Resource;
use crate::protocol::fault::Fault;
use crate::protocol::json::{self, Fields, MembersError};

/// A call about quotas; `client` none is one's own where something is asked, and the registered limit where it is set.
#[derive(Debug, PartialEq, Eq)]
pub enum LimitCall {
    Show { client: Option<Box<str>> },
    Check { client: Option<Box<str>>, claims: Vec<(String, u64)> },
    Set { client: Option<Box<str>>, resource: Resource, limit: i64 },
    Unset { client: Option<Box<str>>, resource: Resource },
}

/// The longest name of a client, as of a resource.
const NAME_BYTES_MAX: usize = 255;
/// Resources that can be asked about at once; there are five.
const CLAIMS_MAX: usize = 64;

pub(super) fn parse(method: &str, params: Option<&RawValue>) -> Option<Result<Call, Fault>> {
    let parsed = match method {
        "limit.show" => show(params),
        "limit.check" => check(params),
        "limit.set" => set(params),
        "limit.unset" => unset(params),
        _ => return None,
    };
    Some(parsed.map(Call::Limit))
}

fn show(params: Option<&RawValue>) -> Result<LimitCall, Fault> {
    let fields = Fields::of("", params, &["client"])?;
    Ok(LimitCall::Show { client: client(&fields)? })
}

fn check(params: Option<&RawValue>) -> Result<LimitCall, Fault> {
    let fields = Fields::of("", params, &["claims", "client"])?;
    Ok(LimitCall::Check { claims: claims(&fields)?, client: client(&fields)? })
}

fn set(params: Option<&RawValue>) -> Result<LimitCall, Fault> {
    let fields = Fields::of("", params, &["resource", "limit", "client"])?;
    let limit = fields.integer("limit", -1..=i64::MAX)?.ok_or_else(|| fields.wrong("limit", "is missing"))?;
    Ok(LimitCall::Set { resource: resource(&fields)?, limit, client: client(&fields)? })
}

fn unset(params: Option<&RawValue>) -> Result<LimitCall, Fault> {
    let fields = Fields::of("", params, &["resource", "client"])?;
    Ok(LimitCall::Unset { resource: resource(&fields)?, client: client(&fields)? })
}

fn client(fields: &Fields) -> Result<Option<Box<str>>, Fault> {
    let Some(name) = fields.text("client")? else { return Ok(None) };
    if name.is_empty() || name.len() > NAME_BYTES_MAX || name.chars().any(char::is_control) {
        let what = format!("must be the name of a client, 1 to {NAME_BYTES_MAX} bytes without control characters");
        return Err(fields.wrong("client", what));
    }
    Ok(Some(name.into()))
}

fn resource(fields: &Fields) -> Result<Resource, Fault> {
    let name = fields.text("resource")?.ok_or_else(|| fields.wrong("resource", "is missing"))?;
    Resource::from_name(&name).ok_or_else(|| {
        let known: Vec<&str> = Resource::ALL.iter().map(|resource| resource.name()).collect();
        fields.wrong("resource", format!("must be one of {}", known.join(", ")))
    })
}

fn claims(fields: &Fields) -> Result<Vec<(String, u64)>, Fault> {
    let mut found: Vec<(String, u64)> = Vec::new();
    let raw = fields.raw("claims").ok_or_else(|| fields.wrong("claims", "is missing"))?;
    let read = json::members(raw.get(), |name, value| {
        let shown: String = name.chars().take(64).collect();
        if name.is_empty() || name.len() > NAME_BYTES_MAX {
            return Err(format!("a resource's name has 1 to {NAME_BYTES_MAX} bytes"));
        }
        if found.len() == CLAIMS_MAX {
            return Err(format!("at most {CLAIMS_MAX} resources at once"));
        }
        if found.iter().any(|(known, _)| *known == *name) {
            return Err(format!("{shown} stands twice"));
        }
        let amount = value.get().parse::<u64>().ok().filter(|amount| i64::try_from(*amount).is_ok());
        found.push((name.into_owned(), amount.ok_or_else(|| format!("{shown}: must be an integer of 0 or more"))?));
        Ok(())
    });
    match read {
        Ok(()) if found.is_empty() => Err(fields.wrong("claims", "must not be empty")),
        Ok(()) => {
            found.sort_unstable();
            Ok(found)
        }
        Err(MembersError::Refused(what)) => Err(fields.wrong("claims", what)),
        Err(_) => Err(fields.wrong("claims", "must be an object of integers")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(method: &str, params: &str) -> Result<LimitCall, String> {
        let raw: &RawValue = serde_json::from_str(params).unwrap();
        match parse(method, Some(raw)).unwrap() {
            Ok(Call::Limit(call)) => Ok(call),
            Ok(other) => panic!("{other:?}"),
            Err(fault) => Err(fault.message),
        }
    }

    #[test]
    fn what_is_claimed_is_sorted_and_need_not_be_known() {
        let call = read("limit.check", r#"{"claims":{"sessions":1,"gpus":0}}"#).unwrap();
        let claims = vec![("gpus".to_owned(), 0), ("sessions".to_owned(), 1)];
        assert_eq!(call, LimitCall::Check { client: None, claims });
    }

    #[test]
    fn the_field_at_fault_is_named() {
        let wrong = |method, params: &str, field: &str| {
            let message = read(method, params).unwrap_err();
            assert!(message.starts_with(field), "{params}: {message}");
        };
        for claims in
            [r#"{}"#, r#"{"claims":{}}"#, r#"{"claims":[]}"#, r#"{"claims":{"a":-1}}"#, r#"{"claims":{"a":1.5}}"#]
        {
            wrong("limit.check", claims, "claims");
        }
        wrong("limit.check", r#"{"claims":{"a":1,"a":2}}"#, "claims");
        wrong("limit.check", r#"{"claims":{"a":18446744073709551615}}"#, "claims");
        wrong("limit.set", r#"{"resource":"sessions"}"#, "limit");
        wrong("limit.set", r#"{"resource":"sessions","limit":-2}"#, "limit");
        wrong("limit.set", r#"{"resource":"gpus","limit":1}"#, "resource");
        wrong("limit.set", r#"{"limit":1}"#, "resource");
        wrong("limit.unset", r#"{"resource":"sessions","client":""}"#, "client");
        wrong("limit.show", r#"{"client":"a\u0007"}"#, "client");
    }
}
