//! Bytes of application protocols, read: DNS, TLS, QUIC, HTTP. Pure; every function takes untrusted bytes.
