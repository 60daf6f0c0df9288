//! Values that several modules' tests share.

use std::{sync::Arc, time::Duration};

use crate::core::{
    flow::{
        Attribution, ClientHello, ConnState, Direction, Domain, DomainSource, EndReason, Endpoint, Flow, FlowId, Geo,
        Method, Owner, TcpSummary, Transport, Volume,
    },
    process::{FileId, ImageHash, Package, Process, ProcessKey},
    time::{BootTime, Moment, WallTime},
};

/// In nanoseconds.
pub(crate) const SECOND: u64 = 1_000_000_000;

/// 100 s after a boot at 2026-11-20T00:00:00Z.
pub(crate) fn now() -> Moment {
    Moment { boot: BootTime(100 * SECOND), wall: WallTime(1_795_132_900 * 1_000_000_000) }
}

/// A boot time in seconds.
pub(crate) fn boot(seconds: u64) -> BootTime {
    BootTime(seconds * SECOND)
}

/// A process with everything known of it.
pub(crate) fn curl() -> Arc<Process> {
    Arc::new(Process {
        key: ProcessKey { pid: 4242, started_at: BootTime(9 * SECOND + 1) },
        entity_id: "b0:4242:9".into(),
        comm: "curl".into(),
        executable: "/usr/bin/curl".into(),
        file: Some(FileId { device: 2049, inode: 77 }),
        hash: ImageHash::Sha256("ab12".into()),
        package: Some(Arc::new(Package {
            manager: "dpkg",
            name: "curl".into(),
            version: "7.88.1-10".into(),
            is_unmodified: Some(true),
        })),
        script: None,
        command_line: "curl https://example.com/".into(),
        uid: Some(1000),
        user: Some("ada".into()),
        parent: Some(ProcessKey { pid: 4000, started_at: boot(5) }),
        parent_executable: Some("/usr/bin/bash".into()),
        container_id: Some("c0ffee".into()),
        container_image: Some("debian:12".into()),
        cgroup_id: Some(5150),
        cgroup_path: Some("/user.slice".into()),
        missing: None,
        is_agent: false,
    })
}

/// An address and a port.
pub(crate) fn endpoint(addr: &str, port: u16) -> Endpoint {
    Endpoint { addr: addr.parse().unwrap(), port }
}

/// A flow of this process.
pub(crate) fn owned_by(process: Arc<Process>) -> Attribution {
    Attribution::Process(Owner { process, method: Method::Connect, creator: None, ambiguity: None })
}

/// An ended TCP flow of [`curl`].
pub(crate) fn flow() -> Flow {
    Flow {
        id: FlowId(7),
        transport: Transport::TCP,
        source: endpoint("192.0.2.10", 43_210),
        destination: endpoint("93.184.216.34", 443),
        icmp: None,
        direction: Direction::Egress,
        sent: Volume { ip_bytes: 900, packets: 9, payload_bytes: 400 },
        received: Volume { ip_bytes: 5_000, packets: 8, payload_bytes: 4_600 },
        started_at: boot(10),
        last_seen: boot(12),
        ended: Some((boot(13), EndReason::EndOfFlow)),
        attribution: owned_by(curl()),
        domain: Some(Domain {
            name: "www.example.com".into(),
            registrable: "example.com".into(),
            source: DomainSource::TlsSni,
            learned_at: boot(8),
            candidates: 1,
            disagreeing: None,
        }),
        geo: Geo { country: Some(*b"US"), as_number: Some(15133), as_organization: Some("Edgecast".into()) },
        tcp: Some(TcpSummary {
            history: "ShADadFf".into(),
            conn_state: ConnState::SF,
            retransmitted: [Some(1), Some(0)],
            out_of_order: Some([0, 2]),
            gap_bytes: Some([0, 0]),
            smoothed_rtt: None,
            handshake_rtt: Some(Duration::from_millis(30)),
        }),
        tls: Some(Arc::new(ClientHello {
            server_name: Some("www.example.com".into()),
            alpn: vec!["h2".into(), "http/1.1".into()],
            ja4: "t13d1516h2_8daaf6152771_02713d6af862".into(),
            has_encrypted_hello: false,
        })),
    }
}
