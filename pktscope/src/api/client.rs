//! The command's side.

use std::{
    io::{self, BufRead as _, BufReader, Read as _, Write as _},
    os::unix::net::UnixStream,
    path::Path,
    time::Duration,
};

use serde_json::Value;

use super::{
    ApiError, Request, Response,
    protocol::{ANSWER_BYTES_MAX, SOCKET_NAME},
};

const ANSWER_TIMEOUT: Duration = Duration::from_secs(30);

/// Asks the agent whose socket is in `runtime_dir`.
///
/// # Errors
/// No agent, no right to ask, a refusal, a talk that broke off.
pub fn call(runtime_dir: &Path, request: &Request) -> Result<Value, ApiError> {
    let socket = runtime_dir.join(SOCKET_NAME);
    let stream = UnixStream::connect(&socket).map_err(|source| match source.kind() {
        io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused => ApiError::NotRunning { socket: socket.clone() },
        io::ErrorKind::PermissionDenied => ApiError::Denied { socket: socket.clone() },
        _ => ApiError::Broken { socket: socket.clone(), source },
    })?;
    let response = exchange(&stream, request).map_err(|source| ApiError::Broken { socket, source })?;
    match response {
        Response::Ok { data } => Ok(data),
        Response::Error { message } => Err(ApiError::Refused(message)),
    }
}

fn exchange(mut stream: &UnixStream, request: &Request) -> io::Result<Response> {
    stream.set_read_timeout(Some(ANSWER_TIMEOUT))?;
    stream.set_write_timeout(Some(ANSWER_TIMEOUT))?;
    let mut line = serde_json::to_vec(request)?;
    line.push(b'\n');
    stream.write_all(&line)?;
    let mut answer = Vec::new();
    BufReader::new(stream).take(ANSWER_BYTES_MAX).read_until(b'\n', &mut answer)?;
    if answer.is_empty() {
        return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the agent closed the connection without an answer"));
    }
    Ok(serde_json::from_slice(&answer)?)
}
