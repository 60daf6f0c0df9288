//! The agent's side: a thread that accepts, a thread a connection.

use std::{
    fs::{DirBuilder, Permissions},
    io::{self, BufRead as _, BufReader, Read as _, Write as _},
    os::unix::{
        fs::{DirBuilderExt as _, PermissionsExt as _},
        net::{UnixListener, UnixStream},
    },
    path::{Path, PathBuf},
    sync::Arc,
    thread::JoinHandle,
    time::Duration,
};

use rustix::net::Shutdown;
use serde_json::Value;

use super::{
    ApiError, Request, Response,
    connections::Connections,
    protocol::{LINE_BYTES_MAX, SOCKET_NAME},
};

const IDLE_TIMEOUT: Duration = Duration::from_secs(30);
/// Pause after a failed accept, for example without free file descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
const OWNER_ONLY_DIRECTORY: u32 = 0o700;
const OWNER_ONLY_FILE: u32 = 0o600;

/// Answers requests; called from several threads at once.
pub trait Handler: Send + Sync + 'static {
    /// Does what is asked.
    ///
    /// # Errors
    /// A sentence for the user.
    fn handle(&self, request: Request) -> Result<Value, String>;
}

impl<F: Fn(Request) -> Result<Value, String> + Send + Sync + 'static> Handler for F {
    fn handle(&self, request: Request) -> Result<Value, String> {
        self(request)
    }
}

/// The listening socket; removed when dropped.
pub struct Server {
    socket: PathBuf,
    listener: Arc<UnixListener>,
    thread: Option<JoinHandle<()>>,
}

impl Server {
    /// Listens in `runtime_dir`, which is made where there is none.
    ///
    /// # Errors
    /// Another agent there, or a folder that cannot be written.
    pub fn start(runtime_dir: &Path, handler: Arc<dyn Handler>) -> Result<Self, ApiError> {
        let socket = runtime_dir.join(SOCKET_NAME);
        let failed = |source| ApiError::Bind { socket: socket.clone(), source };
        DirBuilder::new().recursive(true).mode(OWNER_ONLY_DIRECTORY).create(runtime_dir).map_err(failed)?;
        remove_stale(&socket)?;
        let listener = Arc::new(UnixListener::bind(&socket).map_err(failed)?);
        std::fs::set_permissions(&socket, Permissions::from_mode(OWNER_ONLY_FILE)).map_err(failed)?;
        let accepting = Arc::clone(&listener);
        let spawned = std::thread::Builder::new().name("api".to_owned()).spawn(move || accept(&accepting, &handler));
        let thread = spawned.map_err(failed)?;
        Ok(Self { socket, listener, thread: Some(thread) })
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // Makes a blocked accept return (net/unix/af_unix.c, unix_accept).
        let _ = rustix::net::shutdown(&*self.listener, Shutdown::Both);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
        let _ = std::fs::remove_file(&self.socket);
    }
}

/// Removes a socket that a killed agent left behind; one that answers stays.
fn remove_stale(socket: &Path) -> Result<(), ApiError> {
    match UnixStream::connect(socket) {
        Ok(_) => Err(ApiError::Taken { socket: socket.to_owned() }),
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
            std::fs::remove_file(socket).map_err(|source| ApiError::Bind { socket: socket.to_owned(), source })
        }
        Err(_) => Ok(()),
    }
}

fn accept(listener: &UnixListener, handler: &Arc<dyn Handler>) {
    let connections = Arc::new(Connections::default());
    loop {
        let stream = match listener.accept() {
            Ok((stream, _)) => Arc::new(stream),
            // What accept says of a listener that is shut down.
            Err(error) if error.kind() == io::ErrorKind::InvalidInput => return,
            Err(error) => {
                tracing::warn!("failed to accept a control connection: {error}");
                std::thread::sleep(ACCEPT_PAUSE);
                continue;
            }
        };
        let Some(ticket) = connections.enter(&stream) else {
            let _ = refuse(&stream, "too many requests are being answered; try again");
            continue;
        };
        let (handler, connections) = (Arc::clone(handler), Arc::clone(&connections));
        let leaving = Arc::clone(&connections);
        let spawned = std::thread::Builder::new().name("api-client".to_owned()).spawn(move || {
            // A client that went away is nobody's loss.
            let _ = serve(&stream, ticket, &connections, &*handler);
        });
        if let Err(error) = spawned {
            leaving.leave(ticket);
            tracing::warn!("failed to start a thread for a control connection: {error}");
        }
    }
}

/// Serves a connection to its end; the ticket says that it is idle.
fn serve(
    stream: &Arc<UnixStream>,
    mut ticket: u64,
    connections: &Connections,
    handler: &dyn Handler,
) -> io::Result<()> {
    let outcome = prepare(stream).and_then(|reader| {
        let mut reader = reader;
        loop {
            let Some(line) = next_line(stream, &mut reader)? else { return Ok(()) };
            let Some(_busy) = connections.begin(ticket) else { return Ok(()) };
            answer(stream, &respond(&line, handler))?;
            ticket = connections.rest(stream);
        }
    });
    connections.leave(ticket);
    outcome
}

fn prepare(stream: &UnixStream) -> io::Result<BufReader<&UnixStream>> {
    stream.set_read_timeout(Some(IDLE_TIMEOUT))?;
    stream.set_write_timeout(Some(IDLE_TIMEOUT))?;
    if !is_allowed(stream)? {
        refuse(stream, "only root and the agent's user may ask")?;
        return Err(io::ErrorKind::PermissionDenied.into());
    }
    Ok(BufReader::new(stream))
}

/// The next request; `None` where the other side is done, or cannot be understood and is told so.
fn next_line(stream: &UnixStream, reader: &mut BufReader<&UnixStream>) -> io::Result<Option<Vec<u8>>> {
    let mut line = Vec::new();
    reader.by_ref().take(LINE_BYTES_MAX).read_until(b'\n', &mut line)?;
    match line.last() {
        None => Ok(None),
        Some(b'\n') => Ok(Some(line)),
        Some(_) => refuse(stream, "the request is too long, or has no line end").map(|()| None),
    }
}

fn respond(line: &[u8], handler: &dyn Handler) -> Response {
    match serde_json::from_slice(line) {
        Ok(request) => handler.handle(request).into(),
        Err(error) => Response::Error { message: format!("not a request: {error}") },
    }
}

/// Whether the other side is root or who this process runs as.
fn is_allowed(stream: &UnixStream) -> io::Result<bool> {
    let peer = rustix::net::sockopt::socket_peercred(stream)?;
    Ok(peer.uid.is_root() || peer.uid == rustix::process::geteuid())
}

fn refuse(stream: &UnixStream, message: &str) -> io::Result<()> {
    answer(stream, &Response::Error { message: message.to_owned() })
}

fn answer(mut stream: &UnixStream, response: &Response) -> io::Result<()> {
    let mut line = serde_json::to_vec(response)?;
    line.push(b'\n');
    stream.write_all(&line)
}
