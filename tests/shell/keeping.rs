//! What stays from one command to the next, and what does not.

use crate::support::{Daemon, json};
use crate::{exits, says, shells};

#[test]
fn variables_functions_directory_and_options_stay() {
    let daemon = Daemon::start(&[]);
    let mut client = daemon.tcp();
    for shell in shells() {
        let session = client.open(json!({"shell": shell}));
        says(&mut client, &session, "x=5; export y=6; f() { echo \"f $1\"; }; set -f; umask 027; alias hi='echo hi'");
        assert_eq!(says(&mut client, &session, "echo $x *; sh -c 'echo $y'; f 7; umask"), "5 *\n6\nf 7\n0027\n");
        says(&mut client, &session, "set +f; set -- a 'b c'; shift");
        assert_eq!(says(&mut client, &session, "echo \"$@\" $#"), "b c 1\n");
        exits(&mut client, &session, 3, "(exit 3)");
        assert_eq!(says(&mut client, &session, "echo $?; false; true"), "3\n");
        assert_eq!(says(&mut client, &session, "echo $?"), "0\n");
    }
}

#[test]
fn the_session_s_directory_follows_the_shell_s() {
    let daemon = Daemon::start(&[]);
    let mut client = daemon.tcp();
    for shell in shells() {
        let opened = client.ok("session.open", json!({"shell": shell}));
        let (session, home) = (opened["session"].as_str().unwrap(), opened["cwd"].as_str().unwrap());
        let record = client.run_in(session, "mkdir \"it's a dir\"; cd it*; pwd");
        let expected = format!("{home}/it's a dir");
        assert_eq!(record["stdout"], format!("{expected}\n"));
        assert_eq!(record["cwd"], json!(expected));
        assert_eq!(client.ok("session.info", json!({"session": session}))["cwd"], json!(expected));
        let record = client.ok("exec.run", json!({"session": session, "argv": ["pwd"]}));
        assert_eq!(record["stdout"], format!("{expected}\n"));
        assert!(record.get("cwd").is_none(), "{record}");
        // A variable is not a directory.
        assert_eq!(client.run_in(session, "PWD=/etc")["cwd"], json!(expected));
        assert_eq!(client.run_in(session, "unset PWD")["cwd"], json!(expected));
        assert_eq!(
            client.run_in(session, "cd /; mkdir -p $HOME/gone; cd $HOME/gone; rmdir ../gone")["cwd"],
            format!("{home}/gone")
        );
        assert_eq!(client.run_in(session, "cd /")["cwd"], "/");
    }
}

#[test]
fn a_directory_and_variables_for_one_command_are_gone_with_it() {
    let daemon = Daemon::start(&[]);
    let mut client = daemon.tcp();
    for shell in shells() {
        let opened = client.ok("session.open", json!({"shell": shell}));
        let (session, home) = (opened["session"].as_str().unwrap(), opened["cwd"].as_str().unwrap());
        says(&mut client, session, "A=mine");
        let record = client.ok(
            "exec.run",
            json!({"session": session, "cmd": "pwd; echo \"$A\"; sh -c 'echo \"$A\"'; cd /",
            "cwd": "/usr", "env": {"A": "it's\nother"}}),
        );
        assert_eq!(record["stdout"], "/usr\nit's\nother\nit's\nother\n");
        assert_eq!(record["cwd"], json!(home));
        assert_eq!(says(&mut client, session, "pwd; echo $A; sh -c 'echo [$A]'"), format!("{home}\nmine\n[]\n"));
        for (cwd, errno) in [("/no/such", "ENOENT"), ("/etc/passwd", "ENOTDIR")] {
            let params = json!({"session": session, "cmd": "true", "cwd": cwd});
            let error = client.refused("exec.run", params, "SPAWN_FAILED");
            assert_eq!((&error["data"]["stage"], &error["data"]["errno"]), (&json!("cwd"), &json!(errno)), "{error}");
        }
        assert_eq!(says(&mut client, session, "echo $A"), "mine\n");
    }
}

#[test]
fn redirections_last_to_the_end_of_their_command() {
    let daemon = Daemon::start(&[]);
    let mut client = daemon.tcp();
    for shell in shells() {
        let session = client.open(json!({"shell": shell}));
        assert_eq!(says(&mut client, &session, "exec >out 2>&1 3<out; echo to the file; nope; true"), "");
        assert_eq!(says(&mut client, &session, "head -n 1 out"), "to the file\n");
        let kept = says(&mut client, &session, "exec 5>&1 1>/dev/null; echo lost; echo kept >&5");
        assert_eq!(kept, "kept\n");
        assert_eq!(exits(&mut client, &session, 0, "{ echo x >&5; } 2>/dev/null || echo closed"), "closed\n");
    }
}

#[test]
fn programs_see_three_descriptors() {
    let daemon = Daemon::start(&[]);
    let mut client = daemon.tcp();
    for shell in shells() {
        let session = client.open(json!({"shell": shell}));
        for _ in 0..3 {
            // The fourth is that of the folder that is listed.
            assert_eq!(says(&mut client, &session, "ls /proc/self/fd | tr '\\n' ' '; : <<x\nx"), "0 1 2 3 ");
            assert_eq!(says(&mut client, &session, "(ls /proc/self/fd | tr '\\n' ' ') & wait"), "0 1 2 3 ");
        }
    }
}

#[test]
fn each_command_has_an_input_of_its_own() {
    let daemon = Daemon::start(&[]);
    let mut client = daemon.tcp();
    for shell in shells() {
        let session = client.open(json!({"shell": shell}));
        assert_eq!(says(&mut client, &session, "cat; echo end"), "end\n");
        let big = "line of input\n".repeat(50_000);
        for _ in 0..3 {
            let params = json!({"session": session, "cmd": "read a; echo \"$a\" | wc -c; wc -c", "stdin": big});
            let record = client.ok("exec.run", params);
            assert_eq!(record["stdout"].as_str().unwrap().split_whitespace().collect::<Vec<_>>(), ["14", "699986"]);
            // Nobody reads it, and it is gone.
            assert_eq!(
                client.ok("exec.run", json!({"session": session, "cmd": "exit_code=0", "stdin": big}))["status"],
                "exited"
            );
            assert_eq!(says(&mut client, &session, "cat"), "");
        }
    }
}

#[test]
fn outputs_come_apart_or_merged_and_without_a_line_end() {
    let daemon = Daemon::start(&[]);
    let mut client = daemon.tcp();
    for shell in shells() {
        let session = client.open(json!({"shell": shell}));
        let cmd = "printf a; printf b >&2; printf c; sh -c 'printf d >&2'";
        let record = client.run_in(&session, cmd);
        assert_eq!((&record["stdout"], &record["stderr"]), (&json!("ac"), &json!("bd")));
        let record = client.ok("exec.run", json!({"session": session, "cmd": cmd, "merge_stderr": true}));
        assert_eq!((&record["stdout"], &record["stderr"]), (&json!("abcd"), &json!("")));
        let record = client.run_in(&session, "head -c 3000000 /dev/zero | tr '\\0' x; printf end");
        assert_eq!(record["stdout_bytes"], 3_000_003);
        assert!(record["stdout"].as_str().unwrap().ends_with("xxxend"));
    }
}

#[test]
fn long_commands_and_here_documents_arrive_whole() {
    let daemon = Daemon::start(&[]);
    let mut client = daemon.tcp();
    for shell in shells() {
        let session = client.open(json!({"shell": shell}));
        let line = format!("x='{}'; echo ${{#x}}", "y'\\''z".repeat(40_000).replace("'\\''", "w"));
        assert!(line.len() > 100_000);
        assert_eq!(says(&mut client, &session, &line), "120000\n");
        let lines = "some line with 'quotes' and \"more\" $x `y` \\z\n".repeat(5000);
        assert_eq!(
            says(&mut client, &session, &format!("cat <<'EOF' | wc -c\n{lines}EOF\n")).trim(),
            lines.len().to_string()
        );
        assert_eq!(says(&mut client, &session, &format!("# {}\necho after", "c".repeat(250_000))), "after\n");
        // Nothing ends the here-document but the end of the command.
        let open = client.run_in(&session, "cat <<EOF\nno end");
        assert!(open["stdout"].as_str().unwrap().starts_with("no end"), "{open}");
        assert_eq!(says(&mut client, &session, "echo usable\\"), "usable\\\n");
    }
}

#[test]
fn a_background_command_runs_in_the_shell_too() {
    let daemon = Daemon::start(&[]);
    let mut client = daemon.tcp();
    for shell in shells() {
        let session = client.open(json!({"shell": shell}));
        says(&mut client, &session, "x=5");
        let params = json!({"session": session, "cmd": "read line; echo $x $line; y=6", "stdin_open": true});
        let exec = client.ok("exec.start", params)["exec"].clone();
        client.refused("exec.run", json!({"session": session, "cmd": "true"}), "SESSION_BUSY");
        client.ok("exec.write", json!({"exec": exec, "data": "hello\n"}));
        let record = client.ok("exec.wait", json!({"exec": exec}));
        assert_eq!((&record["status"], &record["stdout"]), (&json!("exited"), &json!("5 hello\n")), "{record}");
        assert_eq!(says(&mut client, &session, "echo $y"), "6\n");
    }
}

#[test]
fn what_a_command_streams_comes_before_its_record() {
    let daemon = Daemon::start(&[]);
    let mut client = daemon.tcp();
    for shell in shells() {
        let session = client.open(json!({"shell": shell}));
        for _ in 0..3 {
            let params = json!({"session": session, "cmd": "printf one; sleep 0.01; printf two", "stream": true});
            client.send(&json!({"id": "s", "method": "exec.run", "params": params}));
            let mut text = String::new();
            let record = loop {
                let line = client.recv();
                match line["method"].as_str() {
                    Some(_) => text.push_str(line["params"]["data"].as_str().unwrap()),
                    None => break line["result"].clone(),
                }
            };
            assert_eq!(text, "onetwo");
            assert_eq!(record["stdout_bytes"], 6, "{record}");
        }
    }
}
