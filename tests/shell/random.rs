//! Two thousand random commands: each writes and ends as it does in one plain shell that runs them all as a script.

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use crate::shells;
use crate::support::{Daemon, Value, json};

const COMMANDS: usize = 2000;
const SEED: u64 = 20_261_122;

struct Random(u64);

impl Random {
    fn below(&mut self, end: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % end
    }

    fn of<'a>(&mut self, all: &[&'a str]) -> &'a str {
        all[self.below(all.len() as u64) as usize]
    }
}

/// One command. They build on each other: variables, functions, files and the directory stay.
fn command(random: &mut Random) -> String {
    let (v, w) = (random.of(&["a", "b", "c", "d"]), random.of(&["a", "b", "c", "d"]));
    let (n, m) = (random.below(9), random.below(200));
    let text = random.of(&["x y", "it'\\''s", "*", "$HOME `no` \\\\", "tab\there", "é€😀", "", "two\nlines"]);
    let code = random.of(&["0", "1", "2", "42", "126", "127", "130", "255"]);
    match random.below(34) {
        0 => format!("{v}='{text}'"),
        1 => format!("echo \"{v}=${v}\""),
        2 => format!("printf '%s|' \"${v}\" \"${w}\""),
        3 => format!("{v}=$(( {n} * {m} )); echo ${v}"),
        4 => format!("export {v}; sh -c 'echo \"[${v}]\"'"),
        5 => format!("f{n}() {{ echo \"f{n} got $1 of $#\"; return {code}; }}"),
        6 => format!("f{n} \"${v}\" {m} 2>/dev/null"),
        7 => format!("(exit {code})"),
        8 => "echo $?".into(),
        9 => format!("sh -c 'echo out; echo err >&2; exit {code}'"),
        10 => format!("mkdir -p d{n}; cd d{n}; pwd"),
        11 => "cd ..; pwd".into(),
        12 => format!("cd \"$OLDPWD\" && pwd; cd \"$top\"; echo {n}"),
        13 => format!("echo \"${v}\" >\"$top/file{n}\"; cat \"$top/file{n}\""),
        14 => format!("cat \"$top/file{n}\" 2>/dev/null || echo none"),
        15 => format!("for i in 1 2 3; do [ $i = 2 ] && continue; echo \"$i ${v}\"; done"),
        16 => format!("i=0; while [ $i -lt {n} ]; do i=$((i+1)); printf .; done"),
        17 => format!("case \"${v}\" in [0-9]*) echo number;; x*) echo x;; '') echo empty;; *) echo other;; esac"),
        18 => format!("cat <<EOF\n{v} is ${v}\n  $(( {n} + 1 ))\nEOF"),
        19 => format!("cat <<'EOF' | wc -l\n{v} is ${v}\n'quoted' \"text\"\nEOF"),
        20 => format!("echo \"${{{v}:-unset}} ${{#{w}}} ${{{v}%?}} ${{{v}#?}}\""),
        21 => format!("unset {v}"),
        22 => format!("set -- \"${v}\" two {n}; echo $# \"$1\""),
        23 => format!("echo $# \"$2\"; ({v}=changed; cd /; exit {code}); echo \"${v} $?\""),
        24 => format!("head -c {} /dev/zero | tr '\\0' 'z'; echo", m * 500),
        25 => format!("exec 4>\"$top/file{n}\" 3>&1; echo to three >&3; echo to four >&4"),
        26 => "exec >/dev/null; echo nobody hears; false".into(),
        27 => format!("trap 'echo trapped {n}' USR1; kill -USR1 $$; echo after"),
        28 => format!("echo {n} | {{ read x; echo \"read $x\"; }}; read y; echo \"end $? [$y]\""),
        29 => format!("sleep 0 & wait $!; echo waited; (echo in the background; exit {code}) & wait $!"),
        30 => format!("eval 'echo \"twice ${v}\"'; eval \"{w}='{n}'\""),
        31 => "{ echo grouped; echo errors >&2; } 2>&1 | sort; ! false".into(),
        32 => format!("set -f; echo *; set +f; x=$(printf 'sub %s' \"${v}\"); echo \"$x\""),
        _ => format!("\n\n# a comment\n[ -n \"${v}\" ] && echo full\n"),
    }
}

/// Runs all of them as one script: what each wrote, and its code.
fn reference(shell: &str, commands: &[String], top: &Path, script: &Path) -> Vec<(String, String, i64)> {
    let mut text = format!("exec 8>&1 9>&2; cd '{0}'; top='{0}'\n", top.display());
    for command in commands {
        // Redirections last to the end of their command; and the code is there for the next.
        text.push_str("{\n");
        text.push_str(command);
        text.push_str("\n} >&8 2>&9 3>&- 4>&-\n_s=$?; printf '\\001%s\\002' \"$_s\"; printf '\\002' >&2; (exit $_s)\n");
    }
    fs::write(script, text).unwrap();
    let output = Command::new(shell)
        .arg(script)
        .stdin(Stdio::null())
        .env_clear()
        .env("PATH", std::env::var_os("PATH").unwrap())
        .env("HOME", "/home/nobody")
        .env("LANG", "C.UTF-8")
        .output()
        .unwrap();
    assert!(output.status.code().is_some(), "{output:?}");
    let (stdout, stderr) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    let parts = stdout.split_terminator('\u{2}').zip(stderr.split_terminator('\u{2}'));
    let parts = parts.map(|(out, err)| {
        let (out, code) = out.rsplit_once('\u{1}').unwrap();
        (out.to_owned(), err.to_owned(), code.parse().unwrap())
    });
    parts.collect()
}

/// An output, as lossy as the reference is read.
fn text_of(record: &Value, stream: &str) -> String {
    let text = record[stream].as_str().unwrap();
    match record[format!("{stream}_encoding")].as_str() {
        Some("base64") => String::from_utf8_lossy(&STANDARD.decode(text).unwrap()).into_owned(),
        _ => text.to_owned(),
    }
}

#[test]
fn two_thousand_random_commands_do_what_they_do_in_one_plain_shell() {
    for shell in shells() {
        let daemon = Daemon::start(&[]);
        let mut random = Random(SEED);
        let commands: Vec<String> = (0..COMMANDS).map(|_| command(&mut random)).collect();
        let folder = &daemon.launch.folder;
        let (plain, ours) = (folder.open_to_all("one"), folder.open_to_all("two"));
        let path = shell.as_str().unwrap_or("/bin/sh");
        let expected = reference(path, &commands, &plain, &folder.join("script"));
        assert_eq!(expected.len(), COMMANDS, "the script ended early");
        let mut client = daemon.tcp();
        let env = json!({"HOME": "/home/nobody", "top": ours, "LANG": "C.UTF-8"});
        let session = client.open(json!({"shell": shell, "cwd": ours, "env": env}));
        for (at, (command, (stdout, stderr, code))) in commands.iter().zip(&expected).enumerate() {
            let record = client.run_in(&session, command);
            let as_plain = |stream: &str| text_of(&record, stream).replace("/two", "/one");
            let got = (as_plain("stdout"), as_plain("stderr"), record["exit_code"].as_i64().unwrap_or(-1));
            assert_eq!(got, (stdout.clone(), stderr.clone(), *code), "{path}, command {at}:\n{command}\n{record}");
        }
    }
}
