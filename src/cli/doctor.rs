//! `cofferdam doctor`: shows what holds each limit on this host, and what to change. Runs on main; changes nothing.

use std::io::{self, Write};

use serde::Serialize;

use crate::config::Config;
use crate::enforcement::{Host, Row, report};

/// Prints the report. False: something that is configured cannot bind on this host.
pub fn doctor(config: &Config, host: &Host, json: bool, out: &mut dyn Write) -> io::Result<bool> {
    let rows = report(config, host);
    let ok = !rows.iter().any(Row::cannot_bind);
    if json {
        #[derive(Serialize)]
        struct Report<'a> {
            ok: bool,
            limits: &'a [Row],
            host: &'a Host,
        }
        serde_json::to_writer_pretty(&mut *out, &Report { ok, limits: &rows, host })?;
        out.write_all(b"\n")?;
    } else {
        table(&rows, out)?;
        advice(&rows, out)?;
        verdict(&rows, out)?;
    }
    out.flush()?;
    Ok(ok)
}

fn table(rows: &[Row], out: &mut dyn Write) -> io::Result<()> {
    let width = |title: &str, cell: fn(&Row) -> &str| {
        rows.iter().map(|row| cell(row).chars().count()).chain([title.len()]).max().unwrap_or(0)
    };
    let name = width("LIMIT", |row| row.name);
    let configured = width("CONFIGURED", |row| &row.configured);
    let by = width("BY", |row| row.by);
    writeln!(out, "{:name$}  {:configured$}  {:by$}  NOTE", "LIMIT", "CONFIGURED", "BY")?;
    for row in rows {
        let warning = if row.cannot_bind() { "DOES NOT BIND: " } else { "" };
        let note = format!("{warning}{}", row.note.as_deref().unwrap_or_default());
        let line = format!("{:name$}  {:configured$}  {:by$}  {note}", row.name, row.configured, row.by);
        writeln!(out, "{}", line.trim_end())?;
    }
    Ok(())
}

/// What does not bind comes first.
fn advice(rows: &[Row], out: &mut dyn Write) -> io::Result<()> {
    for (title, wanted) in [("To make it bind:", true), ("To make it better:", false)] {
        let advised = rows.iter().filter(|row| row.cannot_bind() == wanted);
        let mut advised = advised.filter_map(|row| row.advice.as_ref().map(|advice| (row.name, advice))).peekable();
        if advised.peek().is_some() {
            writeln!(out, "\n{title}")?;
        }
        for (name, advice) in advised {
            writeln!(out, "  {name}: {advice}")?;
        }
    }
    Ok(())
}

fn verdict(rows: &[Row], out: &mut dyn Write) -> io::Result<()> {
    match rows.iter().filter(|row| row.cannot_bind()).count() {
        0 => writeln!(out, "\nEvery limit that this version enforces binds on this host."),
        1 => writeln!(out, "\n1 limit is configured and cannot bind on this host."),
        n => writeln!(out, "\n{n} limits are configured and cannot bind on this host."),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Whatever host the test runs on, with what decides set.
    fn host(pidfd: bool) -> Host {
        let mut host = Host::probe();
        (host.uid, host.user, host.capabilities) = (1000, None, 0);
        (host.initial_user_namespace, host.pidfd, host.mem_total_bytes) = (true, pidfd, None);
        (host.hard.nofile, host.oom_score_adj) = (4096, 0);
        host
    }

    fn shown(host: &Host, json: bool) -> (bool, String) {
        let mut out = Vec::new();
        let ok = doctor(&Config::default(), host, json, &mut out).unwrap();
        (ok, String::from_utf8(out).unwrap())
    }

    #[test]
    fn the_table_is_aligned_and_ends_with_what_to_change() {
        let (ok, text) = shown(&host(true), false);
        assert!(ok, "{text}");
        let lines: Vec<&str> = text.lines().collect();
        let (configured, by) = (lines[0].find("CONFIGURED").unwrap(), lines[0].find("BY").unwrap());
        let nproc = lines.iter().find(|line| line.starts_with("nproc ")).unwrap();
        assert!(nproc[configured..].starts_with("64 ") && nproc[by..].starts_with("rlimit "), "{text}");
        assert!(text.contains("not enforced yet"));
        assert!(text.contains("\nTo make it better:\n  "));
        assert!(text.ends_with("Every limit that this version enforces binds on this host.\n"));
        assert!(lines.iter().all(|line| !line.ends_with(' ')));
    }

    #[test]
    fn what_cannot_bind_is_marked_and_fails() {
        let (ok, text) = shown(&host(false), false);
        assert!(!ok);
        assert!(text.contains("DOES NOT BIND: SIGTERM"));
        assert!(text.contains("\nTo make it bind:\n  timeout_s: a kernel of 5.11 or later\n"));
        assert!(text.ends_with("1 limit is configured and cannot bind on this host.\n"));
    }

    #[test]
    fn the_json_holds_the_rows_and_the_host() {
        let (ok, text) = shown(&host(false), true);
        let json: serde_json::Value = serde_json::from_str(&text).unwrap();
        assert!(!ok && json["ok"] == false);
        assert_eq!(json["host"]["uid"], 1000);
        let rows = json["limits"].as_array().unwrap();
        assert!(
            rows.iter().any(|row| row["name"] == "timeout_s" && row["binds"] == false && row["advice"].is_string())
        );
    }
}
