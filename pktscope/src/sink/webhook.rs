//! Alerts to an HTTP server: each is posted as JSON, in order, from a spool on disk.
//!
//! One thread moves messages from memory to the spool, another from the spool to the server, so that a slow server does
//! not keep a message off the disk. A message is delivered at least once: `pktscope.alert.id` tells a repeated one.

use std::{
    io,
    path::{Path, PathBuf},
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    thread::JoinHandle,
    time::Duration,
};

use ureq::{Agent, http::StatusCode};

use super::{
    SinkCounts,
    backoff::Backoff,
    counts::Counter,
    queue::{Queue, Woken, join_within},
    spool::{Spool, SpoolError},
};
use crate::config;

const NAME: &str = "webhook";
/// Messages in memory that wait for the disk.
const QUEUE_MAX: usize = 10_000;
const STOP_LIMIT: Duration = Duration::from_secs(1);
/// Pause before a spool that cannot be written is tried again.
const SPOOL_RETRY: Duration = Duration::from_secs(1);

/// Why a webhook cannot be started.
#[derive(Debug, thiserror::Error)]
pub enum WebhookError {
    /// The spool.
    #[error(transparent)]
    Spool(#[from] SpoolError),
    /// The file with the Authorization header.
    #[error("failed to read {path}, which should hold the webhook's Authorization header")]
    Authorization {
        /// Which.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// No thread to be had.
    #[error("failed to start the webhook's threads")]
    Thread(#[source] io::Error),
}

struct Shared {
    spool: Mutex<Spool>,
    /// A message was added, or the end has come.
    wake: Condvar,
    counter: Counter,
    queue: Queue<Vec<u8>>,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Spool> {
        self.spool.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn lose(&self, count: u64) {
        self.counter.update(|counts| counts.lost += count);
    }
}

/// The sink.
pub struct Webhook {
    url: String,
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<()>>,
}

impl Webhook {
    /// Opens the spool in `directory` and starts to deliver what is in it.
    ///
    /// # Errors
    /// A spool or an authorization file that cannot be used.
    pub fn start(url: &str, settings: &config::Webhook, directory: &Path) -> Result<Self, WebhookError> {
        let spool = Spool::open(directory, settings.spool_bytes_max.0)?;
        let shared = Arc::new(Shared {
            spool: Mutex::new(spool),
            wake: Condvar::new(),
            counter: Counter::default(),
            queue: Queue::new(QUEUE_MAX),
        });
        let deliverer = Deliverer {
            shared: Arc::clone(&shared),
            agent: agent(settings.timeout),
            url: url.to_owned(),
            authorization: settings.authorization_file.as_deref().map(read_authorization).transpose()?,
            backoff: Backoff::new(settings.retry_min, settings.retry_max),
        };
        let spooler = Arc::clone(&shared);
        let spawn = |name: &str, work: Box<dyn FnOnce() + Send>| {
            std::thread::Builder::new().name(name.to_owned()).spawn(work).map_err(WebhookError::Thread)
        };
        let threads = vec![
            spawn("webhook-spool", Box::new(move || fill(&spooler)))?,
            spawn(NAME, Box::new(move || deliverer.run()))?,
        ];
        Ok(Self { url: url.to_owned(), shared, threads })
    }

    /// Queues the event that an alert is exported as.
    pub fn send(&self, event: &str) {
        if self.shared.queue.push(event.as_bytes().to_vec()) {
            self.shared.lose(1);
        }
    }

    /// Where it goes.
    pub fn target(&self) -> &str {
        &self.url
    }

    /// What became of the messages.
    pub fn counts(&self) -> SinkCounts {
        let waiting = self.shared.queue.len() + self.shared.lock().len();
        SinkCounts { waiting: u64::try_from(waiting).unwrap_or(u64::MAX), ..self.shared.counter.read() }
    }
}

impl Drop for Webhook {
    /// What is not delivered stays in the spool for the next agent.
    fn drop(&mut self) {
        self.shared.queue.close();
        // The deliverer looks at the end while it holds the spool: it cannot miss this.
        drop(self.shared.lock());
        self.shared.wake.notify_all();
        for thread in self.threads.drain(..) {
            join_within(thread, STOP_LIMIT);
        }
    }
}

fn agent(timeout: Duration) -> Agent {
    Agent::config_builder()
        .timeout_global(Some(timeout))
        .http_status_as_error(false)
        .max_redirects(0)
        .user_agent(concat!("pktscope/", env!("CARGO_PKG_VERSION")))
        .build()
        .new_agent()
}

fn read_authorization(path: &Path) -> Result<String, WebhookError> {
    let text = std::fs::read_to_string(path);
    let text = text.map_err(|source| WebhookError::Authorization { path: path.to_owned(), source })?;
    Ok(text.trim().to_owned())
}

/// Moves messages from memory to the spool until the end.
fn fill(shared: &Shared) {
    loop {
        let message = match shared.queue.pop(Duration::MAX) {
            Woken::Message(message) => message,
            Woken::Timeout => continue,
            Woken::Closed => return,
        };
        let added = shared.lock().add(&message);
        match added {
            Ok(dropped) => {
                shared.lose(dropped);
                shared.wake.notify_all();
            }
            Err(error) => {
                shared.counter.fail(NAME, format!("its spool cannot be written: {error}"));
                if shared.queue.put_back(message) {
                    shared.lose(1);
                }
                if shared.queue.pause(SPOOL_RETRY) {
                    return shared.lose(u64::try_from(shared.queue.len()).unwrap_or(u64::MAX));
                }
            }
        }
    }
}

/// What a server made of a message.
#[derive(Debug, PartialEq, Eq)]
enum Outcome {
    Delivered,
    /// It never will take this one.
    Refused(String),
    /// It may take it later; where it said when, not before.
    Failed(String, Option<Duration>),
}

struct Deliverer {
    shared: Arc<Shared>,
    agent: Agent,
    url: String,
    authorization: Option<String>,
    backoff: Backoff,
}

impl Deliverer {
    fn run(mut self) {
        while let Some(oldest) = self.wait() {
            match oldest {
                Ok((number, message)) => {
                    if self.deliver(number, &message) {
                        return;
                    }
                }
                Err(error) => {
                    self.shared.counter.fail(NAME, format!("a spooled message cannot be read: {error}"));
                    self.shared.lose(1);
                    let _ = self.shared.lock().remove_oldest();
                }
            }
        }
    }

    /// The oldest message; `None` at the end.
    fn wait(&self) -> Option<io::Result<(u64, Vec<u8>)>> {
        let is_idle = |spool: &mut Spool| spool.len() == 0 && !self.shared.queue.is_closing();
        let spool = self.shared.wake.wait_while(self.shared.lock(), is_idle).unwrap_or_else(PoisonError::into_inner);
        if self.shared.queue.is_closing() { None } else { spool.oldest() }
    }

    /// Posts a message. Returns whether the end has come.
    fn deliver(&mut self, number: u64, message: &[u8]) -> bool {
        let pause = match self.post(message) {
            Outcome::Delivered => {
                self.backoff.reset();
                self.shared.counter.succeed(NAME);
                self.forget(number)
            }
            Outcome::Refused(reason) => {
                tracing::error!("{} refuses an alert for good: {reason}", self.url);
                self.shared.counter.fail(NAME, reason);
                self.shared.lose(1);
                self.forget(number)
            }
            Outcome::Failed(reason, not_before) => {
                self.shared.counter.fail(NAME, reason);
                let asked = not_before.unwrap_or_default().min(self.backoff.longest());
                Some(self.backoff.pause().max(asked))
            }
        };
        pause.is_some_and(|pause| self.shared.queue.pause(pause))
    }

    /// Removes a message from the spool; a pause where that fails, so that it is not repeated at once.
    fn forget(&self, number: u64) -> Option<Duration> {
        let removed = self.shared.lock().remove(number);
        removed.err().map(|error| {
            self.shared.counter.fail(NAME, format!("its spool cannot be changed: {error}"));
            SPOOL_RETRY
        })
    }

    fn post(&self, message: &[u8]) -> Outcome {
        let mut request = self.agent.post(&self.url).content_type("application/json");
        if let Some(authorization) = &self.authorization {
            request = request.header("Authorization", authorization);
        }
        match request.send(message) {
            Ok(response) => outcome(response.status(), response.headers().get("Retry-After")),
            Err(error) => Outcome::Failed(format!("{}: {error}", self.url), None),
        }
    }
}

/// What a status says (RFC 9110, section 15): a message that is malformed or too large stays so.
fn outcome(status: StatusCode, retry_after: Option<&ureq::http::HeaderValue>) -> Outcome {
    let reason = || format!("the server answers {status}");
    match status {
        status if status.is_success() => Outcome::Delivered,
        StatusCode::BAD_REQUEST | StatusCode::PAYLOAD_TOO_LARGE | StatusCode::UNPROCESSABLE_ENTITY => {
            Outcome::Refused(reason())
        }
        _ => {
            let seconds = retry_after.and_then(|value| value.to_str().ok()).and_then(|text| text.trim().parse().ok());
            Outcome::Failed(reason(), seconds.map(Duration::from_secs))
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{
        io::{BufRead as _, BufReader, Read as _, Write as _},
        net::TcpListener,
    };

    use super::*;
    use crate::config::Bytes;

    fn settings() -> config::Webhook {
        config::Webhook {
            timeout: Duration::from_secs(5),
            retry_min: Duration::from_millis(10),
            retry_max: Duration::from_millis(50),
            ..config::Webhook::default()
        }
    }

    fn url(listener: &TcpListener) -> String {
        format!("http://{}/alerts", listener.local_addr().unwrap())
    }

    /// Takes one request, answers it, returns its head and body.
    fn serve(listener: &TcpListener, status: &str) -> (String, String) {
        let (stream, _) = listener.accept().unwrap();
        let mut reader = BufReader::new(stream);
        let mut head = String::new();
        while !head.ends_with("\r\n\r\n") {
            assert_ne!(reader.read_line(&mut head).unwrap(), 0, "{head}");
        }
        let length =
            head.lines().find_map(|line| line.to_ascii_lowercase().strip_prefix("content-length: ")?.parse().ok());
        let mut body = vec![0; length.unwrap_or(0)];
        reader.read_exact(&mut body).unwrap();
        let answer = format!("HTTP/1.1 {status}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n");
        reader.get_mut().write_all(answer.as_bytes()).unwrap();
        (head, String::from_utf8(body).unwrap())
    }

    fn wait_until(mut done: impl FnMut() -> bool) {
        while !done() {
            std::thread::yield_now();
        }
    }

    #[test]
    fn an_alert_is_posted_as_json_with_its_authorization() {
        let folder = tempfile::tempdir().unwrap();
        let secret = folder.path().join("secret");
        std::fs::write(&secret, "Bearer abc\n").unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let settings = config::Webhook { authorization_file: Some(secret), ..settings() };
        let webhook = Webhook::start(&url(&listener), &settings, &folder.path().join("spool")).unwrap();
        webhook.send("{\"a\":1}");
        let (head, body) = serve(&listener, "204 No Content");
        assert!(head.starts_with("POST /alerts HTTP/1.1\r\n"), "{head}");
        let head = head.to_ascii_lowercase();
        assert!(
            head.contains("content-type: application/json") && head.contains("authorization: bearer abc"),
            "{head}"
        );
        assert_eq!(body, "{\"a\":1}");
        wait_until(|| webhook.counts().sent == 1);
        wait_until(|| webhook.counts().waiting == 0);
    }

    #[test]
    fn a_failing_server_gets_everything_in_order_later() {
        let folder = tempfile::tempdir().unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let webhook = Webhook::start(&url(&listener), &settings(), folder.path()).unwrap();
        for number in 0..4 {
            webhook.send(&number.to_string());
        }
        let answers = ["500 Oops", "503 Later", "200 OK", "429 Slowly", "302 Elsewhere", "200 OK", "400 No", "200 OK"];
        let bodies: Vec<_> = answers.iter().map(|status| serve(&listener, status).1).collect();
        assert_eq!(bodies, ["0", "0", "0", "1", "1", "1", "2", "3"]);
        wait_until(|| webhook.counts().sent == 3);
        let counts = webhook.counts();
        assert_eq!((counts.lost, counts.failures, counts.error), (1, 5, None));
    }

    #[test]
    fn what_was_not_delivered_is_delivered_by_the_next_agent() {
        let folder = tempfile::tempdir().unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let dead = TcpListener::bind("127.0.0.1:0").unwrap();
        let dead_url = url(&dead);
        drop(dead);
        let webhook = Webhook::start(&dead_url, &settings(), folder.path()).unwrap();
        webhook.send("one");
        webhook.send("two");
        wait_until(|| webhook.counts().failures != 0);
        drop(webhook);

        let webhook = Webhook::start(&url(&listener), &settings(), folder.path()).unwrap();
        webhook.send("three");
        let bodies: Vec<_> = (0..3).map(|_| serve(&listener, "200 OK").1).collect();
        assert_eq!(bodies, ["one", "two", "three"]);
        wait_until(|| webhook.counts().waiting == 0);
    }

    #[test]
    fn a_dead_server_costs_the_oldest_and_each_is_counted() {
        let folder = tempfile::tempdir().unwrap();
        let dead = TcpListener::bind("127.0.0.1:0").unwrap();
        let dead_url = url(&dead);
        drop(dead);
        let settings = config::Webhook { spool_bytes_max: Bytes(10), ..settings() };
        let webhook = Webhook::start(&dead_url, &settings, folder.path()).unwrap();
        for number in 0..30 {
            webhook.send(&format!("{number:02}"));
        }
        wait_until(|| webhook.counts().lost == 25);
        assert_eq!((webhook.counts().waiting, webhook.counts().sent), (5, 0));
        drop(webhook);
        let mut spool = Spool::open(folder.path(), 10).unwrap();
        assert_eq!(spool.oldest().unwrap().unwrap().1, b"25");
        spool.remove_oldest().unwrap();
        assert_eq!(spool.len(), 4);
    }

    #[test]
    fn a_server_that_says_when_is_left_alone_until_then() {
        let value = |text: &'static str| ureq::http::HeaderValue::from_static(text);
        let later = outcome(StatusCode::SERVICE_UNAVAILABLE, Some(&value("7")));
        assert_eq!(
            later,
            Outcome::Failed("the server answers 503 Service Unavailable".into(), Some(Duration::from_secs(7)))
        );
        let unclear = outcome(StatusCode::TOO_MANY_REQUESTS, Some(&value("Fri, 31 Dec 1999 23:59:59 GMT")));
        assert!(matches!(unclear, Outcome::Failed(_, None)));
    }
}
