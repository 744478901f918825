//! What a command leaves in its folder, and a folder that it takes away.

use std::path::Path;

use crate::exec_support::*;
use crate::support::*;

/// Opens a session: its id and its private folder.
#[track_caller]
fn open_with_folder(conn: &mut Conn) -> (String, String) {
    let opened = conn.ok("session.open", json!({}));
    (opened["session"].as_str().unwrap().to_owned(), opened["cwd"].as_str().unwrap().to_owned())
}

#[test]
fn a_folder_with_path_traps_is_removed_and_nothing_else() {
    let daemon = Daemon::start(&[]);
    let mut conn = daemon.tcp();
    let shared = Shared::new();
    shared.file("precious", "kept", 0o666);
    let (session, folder) = open_with_folder(&mut conn);

    let cmd = format!(
        "mkdir -p a/b c; : >a/b/file; ln -s {0} away; ln -s {0}/precious c/file; ln -s .. loop; ln -s nowhere dangling; \
         ln {0}/precious hard 2>/dev/null; mkfifo fifo; : >'new\nline'; : >-rf; chmod 000 a/b a c",
        shared.text("")
    );
    run(&mut conn, json!({"session": session, "cmd": cmd}));
    close(&mut conn, &session);

    assert!(!Path::new(&folder).exists(), "{folder} is still there");
    assert_eq!(std::fs::read(shared.path("precious")).unwrap(), b"kept");
}

#[test]
fn a_folder_three_thousand_levels_deep_is_removed() {
    let Some(python) = python() else { return };
    let daemon = Daemon::start(&[]);
    let mut conn = daemon.tcp();
    let (session, folder) = open_with_folder(&mut conn);

    let script = "import os\nfor i in range(3000):\n  os.mkdir('d'); os.chdir('d')\nprint('made')";
    assert_eq!(text(&run(&mut conn, json!({"session": session, "argv": [python, "-c", script]}))), "made\n");
    close(&mut conn, &session);

    wait_until("the folder is removed", DEADLINE, || (!Path::new(&folder).exists()).then_some(()));
    assert_well(&mut conn);
}

#[test]
fn a_folder_with_many_files_is_removed() {
    let daemon = Daemon::start(&[]);
    let mut conn = daemon.tcp();
    let (session, folder) = open_with_folder(&mut conn);

    run(&mut conn, json!({"session": session, "cmd": "seq 1 3000 | xargs touch; seq -f d%.0f 1 300 | xargs mkdir"}));
    close(&mut conn, &session);

    wait_until("the folder is removed", DEADLINE, || (!Path::new(&folder).exists()).then_some(()));
}

#[test]
fn a_command_that_removes_its_folder_does_not_break_its_session() {
    let daemon = Daemon::start(&[]);
    let mut conn = daemon.tcp();
    let (session, folder) = open_with_folder(&mut conn);

    let cmd = "rmdir \"$PWD\" 2>/dev/null || rm -rf \"$PWD\" 2>/dev/null; exit 0";
    assert_eq!(end(&run(&mut conn, json!({"session": session, "cmd": cmd}))), exited(0));

    if Path::new(&folder).exists() {
        // The folder around it is not the command's: it could not be taken away.
        assert_eq!(end(&run(&mut conn, json!({"session": session, "cmd": "true"}))), exited(0));
    } else {
        assert_eq!(spawn_failure(&mut conn, json!({"session": session, "cmd": "true"})), failed("cwd", "ENOENT"));
    }
    close(&mut conn, &session);
    assert_well(&mut conn);
}

#[test]
fn a_session_cannot_enter_the_folder_of_another() {
    if !is_root() {
        return skip("sessions share one uid here");
    }
    let daemon = Daemon::start(&[]);
    let mut conn = daemon.tcp();
    let (first, folder) = open_with_folder(&mut conn);
    run(&mut conn, json!({"session": first, "cmd": "echo secret >file; chmod 777 file"}));

    let record = sh(&mut conn, &format!("cat {folder}/file; ls {folder}; cd {folder}; echo >{folder}/new"));

    assert_eq!(text(&record), "", "{record}");
    close(&mut conn, &first);
}
