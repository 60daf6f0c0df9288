use std::{
    io::{BufRead as _, BufReader, Read as _, Write as _},
    os::unix::{fs::PermissionsExt as _, net::UnixStream},
    path::Path,
    sync::{Arc, Barrier},
};

use serde_json::{Value, json};

use super::*;

fn echo(request: Request) -> Result<Value, String> {
    match request {
        Request::BaselineReset { program: Some(program) } => Err(format!("there is no program {program}")),
        other => serde_json::to_value(other).map_err(|error| error.to_string()),
    }
}

fn raw(runtime_dir: &Path, text: &[u8]) -> Response {
    let mut stream = UnixStream::connect(runtime_dir.join(SOCKET_NAME)).unwrap();
    stream.write_all(text).unwrap();
    stream.shutdown(std::net::Shutdown::Write).unwrap();
    let mut line = String::new();
    BufReader::new(stream).read_line(&mut line).unwrap();
    serde_json::from_str(&line).unwrap()
}

#[test]
fn requests_are_answered_and_refusals_told() {
    let folder = tempfile::tempdir().unwrap();
    let _server = Server::start(folder.path(), Arc::new(echo)).unwrap();
    assert_eq!(call(folder.path(), &Request::Status).unwrap(), json!({"type": "status"}));
    let mark = Mark { alert_id: 3, verdict: "false_positive".into(), analyst: "ada".into(), note: "ours".into() };
    let answer = call(folder.path(), &Request::Mark(mark)).unwrap();
    assert_eq!(answer["alert_id"], 3);
    let error = call(folder.path(), &Request::BaselineReset { program: Some("curl".into()) }).unwrap_err();
    assert_eq!(error.to_string(), "there is no program curl");
}

#[test]
fn bad_requests_get_an_error_and_the_next_one_an_answer() {
    let folder = tempfile::tempdir().unwrap();
    let _server = Server::start(folder.path(), Arc::new(echo)).unwrap();
    for text in [
        &b"\n"[..],
        b"{}\n",
        b"\xff\xfe\n",
        b"{\"type\":\"mark\",\"alert_id\":-1}\n",
        b"[[[[\n",
        b"{\"type\":\"status\"}",
    ] {
        let response = raw(folder.path(), text);
        assert!(matches!(response, Response::Error { .. }), "{text:?}: {response:?}");
    }
    assert!(call(folder.path(), &Request::Status).is_ok());
}

#[test]
fn the_socket_is_the_owners_alone_and_gone_with_the_server() {
    let folder = tempfile::tempdir().unwrap();
    let runtime_dir = folder.path().join("run");
    let server = Server::start(&runtime_dir, Arc::new(echo)).unwrap();
    let mode = |path: &Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!((mode(&runtime_dir), mode(&runtime_dir.join(SOCKET_NAME))), (0o700, 0o600));
    assert!(matches!(Server::start(&runtime_dir, Arc::new(echo)).err(), Some(ApiError::Taken { .. })));
    drop(server);
    assert!(!runtime_dir.join(SOCKET_NAME).exists());
}

#[test]
fn a_socket_that_a_killed_agent_left_is_taken_over() {
    let folder = tempfile::tempdir().unwrap();
    drop(std::os::unix::net::UnixListener::bind(folder.path().join(SOCKET_NAME)).unwrap());
    let error = call(folder.path(), &Request::Status).unwrap_err();
    assert!(error.to_string().starts_with("no agent is running on "), "{error}");
    let _server = Server::start(folder.path(), Arc::new(echo)).unwrap();
    assert!(call(folder.path(), &Request::Status).is_ok());
}

#[test]
fn without_an_agent_the_error_says_how_to_start_one() {
    let folder = tempfile::tempdir().unwrap();
    let error = call(folder.path(), &Request::Status).unwrap_err();
    assert!(error.to_string().contains("start it with `pktscope run`"), "{error}");
}

#[test]
fn silent_clients_make_room_and_do_not_keep_the_server_from_stopping() {
    let folder = tempfile::tempdir().unwrap();
    let server = Server::start(folder.path(), Arc::new(echo)).unwrap();
    let silent: Vec<_> = (0..200).map(|_| UnixStream::connect(folder.path().join(SOCKET_NAME)).unwrap()).collect();
    for _ in 0..3 {
        assert_eq!(call(folder.path(), &Request::Status).unwrap(), json!({"type": "status"}));
    }
    let is_closed = |stream: &UnixStream| {
        stream.set_read_timeout(Some(std::time::Duration::from_millis(1))).unwrap();
        matches!((&mut &*stream).read(&mut [0]), Ok(0))
    };
    let closed = silent.iter().filter(|stream| is_closed(stream)).count();
    assert!(closed >= 200 - connections::CONNECTIONS_MAX, "only {closed} of 200 idle clients were dropped");
    drop(server);
}

#[test]
fn requests_that_are_being_answered_are_bounded() {
    let folder = tempfile::tempdir().unwrap();
    let gate = Arc::new(Barrier::new(connections::CONNECTIONS_MAX + 1));
    let waiting = Arc::clone(&gate);
    let handler = move |_: Request| {
        waiting.wait();
        waiting.wait();
        Ok(Value::Null)
    };
    let _server = Server::start(folder.path(), Arc::new(handler)).unwrap();
    std::thread::scope(|scope| {
        let ask = || call(folder.path(), &Request::Status);
        let asking: Vec<_> = (0..connections::CONNECTIONS_MAX).map(|_| scope.spawn(ask)).collect();
        gate.wait();
        let error = ask().unwrap_err();
        gate.wait();
        assert!(matches!(error, ApiError::Refused(_) | ApiError::Broken { .. }), "{error:?}");
        asking.into_iter().for_each(|asked| assert!(asked.join().unwrap().is_ok()));
    });
}

#[test]
fn a_report_of_an_older_agent_can_be_read() {
    let report: StatusReport = serde_json::from_value(json!({"version": "0.0.1", "unknown": 1})).unwrap();
    assert_eq!((report.version.as_str(), report.pid), ("0.0.1", 0));
}
