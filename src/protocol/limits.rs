//! The limits of a command: seven numbers, each a ceiling that may be lowered and never raised. Pure.

use super::encode::Object;
use super::fault::Fault;
use super::json::Fields;
use crate::config::DefaultLimits;

/// A ceiling; none is unlimited.
pub type Ceiling = Option<u64>;

/// The limits of a command, of a session, or of the configuration.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Limits {
    /// CPU time in milliseconds, of one process and of the whole tree.
    pub cpu_ms: Ceiling,
    /// Resident memory of the whole tree.
    pub memory_bytes: Ceiling,
    /// Address space of each process.
    pub address_space_bytes: Ceiling,
    /// Tasks of the uid.
    pub nproc: Ceiling,
    /// Descriptors of each process.
    pub nofile: Ceiling,
    /// Size of each file written.
    pub fsize_bytes: Ceiling,
    /// Size of a core file.
    pub core_bytes: Ceiling,
}

/// What a client asks for: none of a field keeps the ceiling.
pub type LimitsAsked = [Option<Asked>; NAMES.len()];

/// One limit that was asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Asked {
    Unlimited,
    At(u64),
}

pub const NAMES: [&str; 7] =
    ["cpu_sec", "memory_bytes", "address_space_bytes", "nproc", "nofile", "fsize_bytes", "core_bytes"];

/// Less than this is not enough to start any program, and only looks like a fault of the program.
const FLOORS: [u64; NAMES.len()] = [1000, 1 << 20, 1 << 20, 1, 4, 1, 0];

impl Limits {
    pub fn of_config(config: &DefaultLimits) -> Self {
        let ceiling = |value: i64| u64::try_from(value).ok();
        Limits {
            cpu_ms: (config.limit_cpu_sec >= 0.0).then_some((config.limit_cpu_sec * 1000.0) as u64),
            memory_bytes: ceiling(config.limit_memory_bytes),
            address_space_bytes: ceiling(config.limit_address_space_bytes),
            nproc: ceiling(config.limit_nproc),
            nofile: ceiling(config.limit_nofile),
            fsize_bytes: ceiling(config.limit_fsize_bytes),
            core_bytes: ceiling(config.limit_core_bytes),
        }
    }

    /// Reads a `limits` object.
    pub fn asked(within: &Fields) -> Result<LimitsAsked, Fault> {
        let fields = Fields::of("limits.", within.raw("limits"), &NAMES)?;
        let mut asked = LimitsAsked::default();
        for (at, name) in NAMES.into_iter().enumerate() {
            let Some(raw) = fields.raw(name) else { continue };
            let floor = FLOORS[at];
            let value = match at {
                _ if raw.get() == "-1" => Some(Asked::Unlimited),
                0 => fields.millis(name, u64::from(u32::MAX) * 1000).ok().flatten().map(Asked::At),
                _ => raw.get().parse::<u64>().ok().filter(|value| *value <= i64::MAX as u64).map(Asked::At),
            };
            let floor_shown = if at == 0 { floor / 1000 } else { floor };
            asked[at] = match value {
                Some(Asked::At(value)) if value < floor => None,
                value => value,
            };
            if asked[at].is_none() {
                let kind = if at == 0 { "a number" } else { "an integer" };
                return Err(
                    fields.wrong(name, format!("must be {kind} of at least {floor_shown}, or -1 for unlimited"))
                );
            }
        }
        Ok(asked)
    }

    fn ceilings_mut(&mut self) -> [&mut Ceiling; NAMES.len()] {
        [
            &mut self.cpu_ms,
            &mut self.memory_bytes,
            &mut self.address_space_bytes,
            &mut self.nproc,
            &mut self.nofile,
            &mut self.fsize_bytes,
            &mut self.core_bytes,
        ]
    }

    /// Each at most what it is there.
    pub fn within(mut self, ceilings: &Limits) -> Limits {
        let mut ceilings = *ceilings;
        for (own, most) in self.ceilings_mut().into_iter().zip(ceilings.ceilings_mut()) {
            *own = own.map_or(*most, |value| Some(most.map_or(value, |most| value.min(most))));
        }
        self
    }

    /// These limits with what was asked for, each at most what it was (invariant 13).
    pub fn lowered(mut self, asked: &LimitsAsked) -> Result<Limits, Fault> {
        for (at, ceiling) in self.ceilings_mut().into_iter().enumerate() {
            let allowed = match (asked[at], *ceiling) {
                (None, _) => continue,
                (Some(Asked::Unlimited), None) => continue,
                (Some(Asked::At(value)), None) => value,
                (Some(Asked::At(value)), Some(most)) if value <= most => value,
                (Some(_), Some(most)) => {
                    let most = if at == 0 { most as f64 / 1000.0 } else { most as f64 };
                    return Err(Fault::field(
                        format!("limits.{}", NAMES[at]),
                        format!("may be lowered and never raised; at most {most}"),
                    ));
                }
            };
            *ceiling = Some(allowed);
        }
        Ok(self)
    }

    /// Writes the seven members; -1 is unlimited.
    pub fn encode(mut self, object: &mut Object) {
        for (at, ceiling) in self.ceilings_mut().into_iter().enumerate() {
            match (at, *ceiling) {
                (_, None) => object.int(NAMES[at], -1),
                (0, Some(ms)) => object.float(NAMES[at], ms as f64 / 1000.0),
                (_, Some(value)) => object.int(NAMES[at], value),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::value::RawValue;

    fn asked(text: &str) -> Result<LimitsAsked, Fault> {
        let text = format!(r#"{{"limits":{text}}}"#);
        let raw: &RawValue = serde_json::from_str(&text).unwrap();
        Limits::asked(&Fields::of("", Some(raw), &["limits"]).unwrap())
    }

    #[test]
    fn inv13_a_request_lowers_a_ceiling_and_never_raises_it() {
        let ceiling = Limits { nofile: Some(100), cpu_ms: Some(2000), ..Limits::default() };
        let lowered = |text: &str| ceiling.lowered(&asked(text).unwrap());
        assert_eq!(lowered(r#"{"nofile":100}"#).unwrap().nofile, Some(100));
        assert_eq!(lowered(r#"{"nofile":99}"#).unwrap().nofile, Some(99));
        assert_eq!(lowered(r#"{"nproc":5}"#).unwrap().nproc, Some(5));
        assert_eq!(lowered(r#"{"nproc":-1}"#).unwrap().nproc, None);
        assert_eq!(lowered(r#"{"cpu_sec":1.5}"#).unwrap().cpu_ms, Some(1500));
        assert!(lowered(r#"{"nofile":101}"#).is_err());
        assert!(lowered(r#"{"nofile":-1}"#).is_err());
        assert!(lowered(r#"{"cpu_sec":2.001}"#).is_err());
    }

    #[test]
    fn a_lower_ceiling_binds_and_a_higher_one_does_not_raise() {
        let opened = Limits { nofile: Some(100), nproc: Some(5), ..Limits::default() };
        let ceilings = Limits { nofile: Some(50), nproc: Some(9), core_bytes: Some(0), ..Limits::default() };
        let expected = Limits { nofile: Some(50), nproc: Some(5), core_bytes: Some(0), ..Limits::default() };
        assert_eq!(opened.within(&ceilings), expected);
        assert_eq!(opened.within(&Limits::default()), opened);
    }

    #[test]
    fn floors_and_nonsense_are_refused() {
        for text in [
            r#"{"memory_bytes":1048575}"#,
            r#"{"address_space_bytes":0}"#,
            r#"{"nofile":3}"#,
            r#"{"cpu_sec":0.9}"#,
            r#"{"nproc":0}"#,
            r#"{"fsize_bytes":0}"#,
            r#"{"nofile":-2}"#,
            r#"{"nofile":"9"}"#,
            r#"{"nofile":1e3}"#,
            r#"{"nofile":18446744073709551616}"#,
            r#"{"what":1}"#,
            "[]",
        ] {
            assert!(asked(text).is_err(), "{text}");
        }
        assert!(asked(r#"{"memory_bytes":1048576,"nofile":4,"cpu_sec":1,"core_bytes":0}"#).is_ok());
    }
}
