//! `cofferdam check`: shows the configuration that a daemon would start with. Runs on main; touches nothing else.

use std::io::{self, Write};

use crate::config::Config;

/// Prints the effective configuration in the spelling of `config.json`.
pub fn check(config: &Config, out: &mut dyn Write) -> io::Result<()> {
    serde_json::to_writer_pretty(&mut *out, config)?;
    out.write_all(b"\n")?;
    out.flush()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_printed_is_the_file_of_the_repository() {
        let mut out = Vec::new();
        check(&Config::default(), &mut out).unwrap();
        assert_eq!(String::from_utf8(out).unwrap(), include_str!("../../config.json"));
    }

    #[test]
    fn a_pipe_that_was_closed_is_an_error_and_no_panic() {
        let mut full: &mut [u8] = &mut [0; 10];
        assert_eq!(check(&Config::default(), &mut full).unwrap_err().kind(), io::ErrorKind::WriteZero);
    }
}
