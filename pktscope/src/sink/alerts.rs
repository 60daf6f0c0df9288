//! Alerts to every sink that is configured.

use std::{io, path::Path};

use super::{SinkCounts, Syslog, Webhook, WebhookError, ecs::Exporter};
use crate::{
    config,
    core::{alert::Alert, time::Moment},
};

/// The sinks of alerts; sending never waits.
#[derive(Default)]
pub struct AlertSinks {
    exporter: Exporter,
    syslog: Option<Syslog>,
    webhook: Option<Webhook>,
}

impl AlertSinks {
    /// Starts what `settings` names; the webhook's spool is kept below `state_dir`.
    ///
    /// # Errors
    /// A spool that cannot be used, or no thread to be had. A server that does not answer is none.
    pub fn start(settings: &config::Sink, state_dir: &Path, exporter: Exporter) -> Result<Self, WebhookError> {
        let syslog = settings.syslog.address.as_ref().map(|address| {
            Syslog::start(address, &settings.syslog, &exporter.host_name)
                .map_err(|error: io::Error| WebhookError::Thread(error))
        });
        let webhook =
            settings.webhook.url.as_deref().map(|url| Webhook::start(url, &settings.webhook, &state_dir.join("spool")));
        Ok(Self { exporter, syslog: syslog.transpose()?, webhook: webhook.transpose()? })
    }

    /// Queues an alert for every sink.
    pub fn send(&self, alert: &Alert, now: Moment) {
        if self.syslog.is_none() && self.webhook.is_none() {
            return;
        }
        let event = self.exporter.alert_text(alert, now);
        if let Some(syslog) = &self.syslog {
            syslog.send(alert, &event);
        }
        if let Some(webhook) = &self.webhook {
            webhook.send(&event);
        }
    }

    /// What became of the messages: name, target, counts of each sink.
    pub fn counts(&self) -> Vec<(&'static str, String, SinkCounts)> {
        let syslog = self.syslog.as_ref().map(|sink| ("syslog", sink.target().to_owned(), sink.counts()));
        let webhook = self.webhook.as_ref().map(|sink| ("webhook", sink.target().to_owned(), sink.counts()));
        syslog.into_iter().chain(webhook).collect()
    }
}
