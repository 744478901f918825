//! The budget of a session: four numbers that bound all of its commands together. Pure.

use std::time::Duration;

use super::encode::Object;
use super::fault::Fault;
use super::json::Fields;

/// What a whole session may use up; none is unlimited.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Budget {
    /// Commands that run.
    pub commands: Option<u64>,
    /// CPU time of all of them.
    pub cpu: Option<Duration>,
    /// What they write to both outputs, kept or not.
    pub output_bytes: Option<u64>,
    /// Age of the session.
    pub wall: Option<Duration>,
}

const NAMES: [&str; 4] = ["commands", "cpu_sec", "output_bytes", "wall_s"];

/// More than a century is a mistake, and -1 says it better.
const TIME_MS_MAX: u64 = u32::MAX as u64 * 1000;

impl Budget {
    /// Reads a `budget` object.
    pub fn parse(within: &Fields) -> Result<Budget, Fault> {
        let fields = Fields::of("budget.", within.raw("budget"), &NAMES)?;
        Ok(Budget {
            commands: count(&fields, "commands")?,
            cpu: time(&fields, "cpu_sec")?,
            output_bytes: count(&fields, "output_bytes")?,
            wall: time(&fields, "wall_s")?,
        })
    }

    /// Writes the four members; -1 is unlimited.
    pub fn encode(self, object: &mut Object) {
        let count = |object: &mut Object, name, count: Option<u64>| match count {
            Some(count) => object.int(name, count),
            None => object.int(name, -1),
        };
        let time = |object: &mut Object, name, time: Option<Duration>| match time {
            Some(time) => object.float(name, time.as_secs_f64()),
            None => object.int(name, -1),
        };
        count(object, "commands", self.commands);
        time(object, "cpu_sec", self.cpu);
        count(object, "output_bytes", self.output_bytes);
        time(object, "wall_s", self.wall);
    }
}

fn is_unlimited(fields: &Fields, name: &str) -> bool {
    fields.raw(name).is_none_or(|raw| raw.get() == "-1")
}

fn count(fields: &Fields, name: &str) -> Result<Option<u64>, Fault> {
    if is_unlimited(fields, name) {
        return Ok(None);
    }
    let wrong = |_| fields.wrong(name, "must be an integer of at least 1, or -1 for unlimited");
    Ok(fields.integer(name, 1..=i64::MAX).map_err(wrong)?.map(i64::unsigned_abs))
}

fn time(fields: &Fields, name: &str) -> Result<Option<Duration>, Fault> {
    if is_unlimited(fields, name) {
        return Ok(None);
    }
    let what = format!("must be a number above 0 and at most {}, or -1 for unlimited", TIME_MS_MAX / 1000);
    let wrong = |_| fields.wrong(name, what);
    Ok(fields.millis(name, TIME_MS_MAX).map_err(wrong)?.map(Duration::from_millis))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::value::RawValue;

    fn parse(text: &str) -> Result<Budget, Fault> {
        let text = format!(r#"{{"budget":{text}}}"#);
        let raw: &RawValue = serde_json::from_str(&text).unwrap();
        Budget::parse(&Fields::of("", Some(raw), &["budget"]).unwrap())
    }

    #[test]
    fn what_is_absent_null_or_minus_one_is_unlimited() {
        for text in ["null", "{}", r#"{"commands":null,"cpu_sec":-1,"output_bytes":-1,"wall_s":null}"#] {
            assert_eq!(parse(text), Ok(Budget::default()), "{text}");
        }
        let all = parse(r#"{"commands":1,"cpu_sec":0.25,"output_bytes":9223372036854775807,"wall_s":3600}"#).unwrap();
        let expected = Budget {
            commands: Some(1),
            cpu: Some(Duration::from_millis(250)),
            output_bytes: Some(i64::MAX as u64),
            wall: Some(Duration::from_secs(3600)),
        };
        assert_eq!(all, expected);
    }

    #[test]
    fn nonsense_is_refused_and_named() {
        let cases = [
            (r#"{"commands":0}"#, "budget.commands"),
            (r#"{"commands":-2}"#, "budget.commands"),
            (r#"{"commands":1.5}"#, "budget.commands"),
            (r#"{"commands":"1"}"#, "budget.commands"),
            (r#"{"cpu_sec":0}"#, "budget.cpu_sec"),
            (r#"{"cpu_sec":-0.5}"#, "budget.cpu_sec"),
            (r#"{"cpu_sec":4294967296}"#, "budget.cpu_sec"),
            (r#"{"output_bytes":0}"#, "budget.output_bytes"),
            (r#"{"output_bytes":9223372036854775808}"#, "budget.output_bytes"),
            (r#"{"wall_s":0}"#, "budget.wall_s"),
            (r#"{"wall_s":true}"#, "budget.wall_s"),
            (r#"{"wall_s":[1]}"#, "budget.wall_s"),
            (r#"{"wall_sec":1}"#, "budget.wall_sec"),
            (r#"{"commands":1,"commands":1}"#, "budget.commands"),
            ("[]", "budget"),
            ("1", "budget"),
        ];
        for (text, field) in cases {
            let message = parse(text).unwrap_err().message;
            assert_eq!(message.split(':').next(), Some(field), "{text}: {message}");
        }
    }

    #[test]
    fn is_written_as_it_is_read() {
        let text = r#"{"commands":3,"cpu_sec":1.5,"output_bytes":-1,"wall_s":-1}"#;
        let mut out = Vec::new();
        let mut object = Object::begin(&mut out);
        parse(text).unwrap().encode(&mut object);
        object.end();
        assert_eq!(String::from_utf8(out).unwrap(), text);
    }
}
