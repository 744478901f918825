//! What is written to a shell: a command as the one argument of `eval`, and what makes it report. Pure.
//!
//! Every word of ours is a special builtin, quoted: in dash no function and no alias can stand before one. In bash a
//! function can, outside of its POSIX mode; so bash is put into that mode where a command has defined one ([`Words`]).
//!
//! The report is a trap of a signal that nobody uses, set, listed and taken back: of the special builtins `trap` alone
//! can both hold the last exit code and print it, and it needs no variable, no program, no PATH and no IFS.

use std::fmt::Write;

use super::mark::Mark;

/// Where a command's descriptors 0 to 2 come from: paths as words of the shell.
#[derive(Debug, Clone, Copy)]
pub struct Stdio<'a> {
    /// None: `/dev/null`.
    pub stdin: Option<&'a str>,
    pub stdout: &'a str,
    /// None: as stdout, in order.
    pub stderr: Option<&'a str>,
}

/// One command, as the shell is to run it.
#[derive(Debug, Clone, Copy)]
pub struct Task<'a> {
    pub text: &'a str,
    /// What `COFFERDAM_EXEC` is from now on.
    pub id: &'a str,
    /// What its reports are known by. Short, as all of this: bash reads it byte by byte.
    pub mark: &'a Mark,
    pub stdio: Stdio<'a>,
    /// For this command alone.
    pub env: &'a [(String, String)],
    /// For this command alone, and the directory to go back to.
    pub cwd: Option<(&'a str, &'a str)>,
    /// Where the report goes.
    pub report: &'a str,
    /// Put bash into its POSIX mode around the command.
    pub guarded: bool,
    /// What `$?` is to be, where it is not 0.
    pub last: Option<i32>,
    /// The shell itself writes where the command does: a trap of its exit runs behind all redirections.
    pub aloud: bool,
    /// Variables may be read-only.
    pub sealed: bool,
    /// Descriptors above 2 may be open behind the command.
    pub opens: bool,
    /// Those above 9 too: the shell lets commands name them.
    pub opens_many: bool,
}

/// The signal whose trap carries the report: the last one there is.
const CARRIER: u32 = 64;
/// What a shell says when it takes commands, and that the input of a command is open.
pub const READY: &str = "ready";
pub const BEGUN: &str = "begun";

/// The first lines: what kind of shell it is, and that it is ready. `name` is what it calls itself.
///
/// dash is made interactive: it then outlives errors, and goes back to its next line on SIGINT. bash takes more upon
/// itself with that (history, job numbers on stderr), and outlives most errors as it is.
pub fn hello(name: &str, from_file: bool, report: &str) -> Vec<u8> {
    let mut script = format!("case ${{BASH_VERSION-}} in '') ;; *) BASH_ARGV0={};; esac\n", quoted(name));
    script.push_str(SILENCE);
    // Its prompts would stand in the output of a command that is run aloud.
    script.push_str("case ${BASH_VERSION-}${ZSH_VERSION-}${KSH_VERSION-} in '') PS1= PS2=; \\set -i;; esac\n");
    if from_file {
        script.push_str("\\exec </dev/null\n");
    }
    let kind = "${BASH_VERSION+bash}${ZSH_VERSION+zsh}${KSH_VERSION+ksh}";
    say(&mut script, &format!("{READY} 0 - {kind}"), "", report);
    script.into_bytes()
}

/// A command and its report.
pub fn run(task: &Task) -> Vec<u8> {
    let Task { text, id, mark, stdio, env, cwd, report, guarded, last, aloud, sealed, opens, opens_many } = task;
    let Mark { begun, over } = mark;
    let outputs = outputs(stdio);
    // Four bytes for a quote is the worst; most texts have few.
    let mut script = String::with_capacity(text.len() + text.len() / 8 + 512);
    // No builtin: it is exported since the shell's start. Where a command has made it read-only the rest of the line is
    // not run, and the old one is kept.
    let _ = write!(script, "COFFERDAM_EXEC={id}{}", if *sealed { '\n' } else { ';' });
    if *guarded {
        script.push_str("POSIXLY_CORRECT=y\n");
    }
    if *aloud {
        let _ = writeln!(script, "\\exec{outputs}");
    }
    if stdio.stdin.is_some() {
        script.push_str("{ ");
        say(&mut script, &format!("{BEGUN} 0 - {begun}"), "", report);
    }
    if let Some((to, _)) = cwd {
        let _ = write!(script, "\\cd -- {} && ", quoted(to));
    }
    if let Some(code) = last {
        // Nothing but a process can end with any code. It is only there behind a command that has failed. Where there
        // can be no more processes the rest of its line is not run.
        let _ = writeln!(script, "(\\exit {code})");
    }
    for (name, value) in *env {
        let _ = write!(script, "{name}={} ", quoted(value));
    }
    // What stands before a special builtin would stay; `command` takes the speciality away.
    script.push_str(if env.is_empty() { "\\eval " } else { "\\command eval " });
    script.push('\'');
    // A blank first: no text is taken for an option.
    script.push_str(if *guarded { "\\set +o posix\n" } else { " " });
    quote_into(&mut script, text);
    script.push_str(if stdio.stdin.is_some() { "'" } else { "' </dev/null" });
    // What a command opens for itself closes behind it.
    script.push_str(&outputs);
    if *opens {
        script.push_str(" 3>&- 4>&- 5>&- 6>&- 7>&- 8>&- 9>&-");
    }
    if let Some(stdin) = stdio.stdin {
        let _ = write!(script, "\n}} <{stdin}");
    }
    script.push('\n');
    let mut back = cwd.map_or(String::new(), |(_, back)| format!("\\cd -- {};", quoted(back)));
    if *aloud {
        back.push_str(SILENCE);
    }
    if *opens_many {
        back.push_str("\\exec");
        for fd in 10..64 {
            let _ = write!(back, " {fd}>&-");
        }
        back.push(';');
    }
    if *guarded {
        let _ = writeln!(script, "COFFERDAM_EXEC=$? POSIXLY_CORRECT=y");
        say(&mut script, &format!("{over} ${{COFFERDAM_EXEC}} $- ${{PWD-}}"), &back, report);
        script.push_str("\\set +o posix\n");
    } else {
        say(&mut script, &format!("{over} $? $- ${{PWD-}}"), &back, report);
    }
    script.into_bytes()
}

/// A shell that runs no command writes nowhere.
const SILENCE: &str = "\\exec >/dev/null 2>/dev/null;";

fn outputs(stdio: &Stdio) -> String {
    match stdio.stderr {
        Some(stderr) => format!(" >|{} 2>|{stderr}", stdio.stdout),
        None => format!(" >|{} 2>&1", stdio.stdout),
    }
}

/// Appends the line that reports.
fn say(script: &mut String, what: &str, before: &str, report: &str) {
    let _ = writeln!(script, "\\trap -- \"cofferdam {what}\" {CARRIER};{before}\\trap >|{report};\\trap - {CARRIER}");
}

/// A text as one word of the shell.
pub fn quoted(text: &str) -> String {
    let mut word = String::with_capacity(text.len() + 2);
    word.push('\'');
    quote_into(&mut word, text);
    word.push('\'');
    word
}

fn quote_into(script: &mut String, text: &str) {
    for (at, part) in text.split('\'').enumerate() {
        if at > 0 {
            script.push_str("'\\''");
        }
        script.push_str(part);
    }
}

/// What commands have said that changes how the shell is to be spoken to. Going by the text is a guess on the careful
/// side: what is found there need not have been run.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Words {
    /// A function named like a word of ours.
    pub shadowed: bool,
    /// PWD was written to, so it may be anything.
    pub pwd: bool,
    /// A trap of the shell's exit.
    pub exit: bool,
    /// Descriptors that stay open.
    pub opens: bool,
    /// Variables that cannot be written.
    pub seals: bool,
}

impl Words {
    pub fn learn(&mut self, text: &str) {
        self.pwd |= names(text, "PWD");
        self.exit |= text.contains("EXIT");
        self.seals |= ["readonly", "declare", "typeset", "local"].into_iter().any(|word| text.contains(word));
        self.opens |= text.contains("exec");
        self.shadowed |= ["eval", "trap", "set", "exec", "exit"].into_iter().any(|word| defines(text, word));
    }
}

/// Whether a text names a variable other than to read it.
fn names(text: &str, variable: &str) -> bool {
    let is_name = |at: usize| {
        let before = text[..at].chars().next_back();
        !before.is_some_and(|before| before.is_alphanumeric() || matches!(before, '_' | '$' | '{'))
    };
    text.match_indices(variable).any(|(at, _)| is_name(at))
}

/// Whether a text may define a function of this name.
fn defines(text: &str, word: &str) -> bool {
    text.match_indices(word).any(|(at, _)| {
        let (before, after) = (text[..at].trim_end(), text[at + word.len()..].trim_start());
        after.starts_with('(') || before.ends_with("function")
    })
}

/// The next piece of what is written to a shell that reads ahead: it must find the end of a line at the end of what it
/// has read, for it forgets what it has read when a command fails. A pipe in packet mode keeps such pieces apart.
pub fn packet(bytes: &[u8]) -> &[u8] {
    let most = &bytes[..bytes.len().min(PACKET_BYTES)];
    match memchr::memchr(b'\n', most) {
        Some(end) => &most[..=end],
        None => most,
    }
}

/// No shell reads with a smaller buffer; what is beyond it of a packet would be lost.
const PACKET_BYTES: usize = 512;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_text_is_one_word() {
        for (text, word) in
            [("", "''"), ("a b", "'a b'"), ("it's", r"'it'\''s'"), ("''", r"''\'''\'''"), ("\n$(x)`", "'\n$(x)`'")]
        {
            assert_eq!(quoted(text), word);
        }
    }

    #[test]
    fn functions_named_like_ours_are_seen() {
        let shadowed = |text: &str| {
            let mut words = Words::default();
            words.learn(text);
            words.shadowed
        };
        for text in ["eval() { :; }", "x; eval  () { :; }", "function trap { :; }", "function  set() { :; }"] {
            assert!(shadowed(text), "{text}");
        }
        for text in ["eval x", "evaluate() { :; }", "trap - INT", "echo eval (", ""] {
            assert_eq!(shadowed(text), text == "echo eval (", "{text}");
        }
    }

    #[test]
    fn what_writes_to_pwd_is_seen() {
        for (text, writes) in [
            ("PWD=/x", true),
            ("unset PWD", true),
            ("export PWD", true),
            ("read -r PWD", true),
            ("echo $PWD ${PWD} $OLDPWD; OLDPWD=1; read x", false),
        ] {
            let mut words = Words::default();
            words.learn(text);
            assert_eq!(words.pwd, writes, "{text}");
        }
    }

    #[test]
    fn packets_end_where_lines_end() {
        let long = [&[b'x'; 700][..], b"\ny\nz"].concat();
        let mut rest = &long[..];
        let mut lens = Vec::new();
        while !rest.is_empty() {
            let next = packet(rest);
            lens.push(next.len());
            rest = &rest[next.len()..];
        }
        assert_eq!(lens, [512, 189, 2, 1]);
    }
}
