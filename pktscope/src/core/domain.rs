//! Names of hosts: registrable domains by the Public Suffix List, and how raw name bytes are written.
//!
//! Everything here takes untrusted bytes and gives printable ASCII of bounded length.

use std::fmt::Write as _;

/// Longest name kept, in characters: 255 bytes of wire format (RFC 1035, 2.3.4), each at most four when escaped.
pub const MAX_NAME_LEN: usize = 1020;

/// The part of `name` that its owner registered: the public suffix and one label (eTLD+1), ICANN and private
/// section alike; the name itself where it has none, as an address, a single label or a suffix has.
///
/// `name` is in the form that [`normalize`] gives. A top-level domain that the list does not know counts as a suffix
/// of one label, which is the list's own default rule.
pub fn registrable(name: &str) -> &str {
    registrable_or_none(name).unwrap_or(name)
}

/// [`registrable`], with `None` where the name has no registrable part.
pub fn registrable_or_none(name: &str) -> Option<&str> {
    if name.starts_with('.') || is_address(name) {
        return None;
    }
    psl::domain_str(name)
}

/// Whether the list has a rule for the name's last labels: false of `host.corp`, of addresses and of the empty name.
pub fn has_known_suffix(name: &str) -> bool {
    !is_address(name) && psl::suffix(name.as_bytes()).is_some_and(|suffix| suffix.is_known())
}

/// Whether the text is an IPv4 or IPv6 address and so not a name.
pub fn is_address(name: &str) -> bool {
    name.parse::<std::net::IpAddr>().is_ok()
}

/// A name as it is kept: ASCII in lower case, without the trailing dot, every other byte than a printable one as
/// `\DDD`; cut at [`MAX_NAME_LEN`].
pub fn normalize(raw: &[u8]) -> String {
    let raw = raw.strip_suffix(b".").unwrap_or(raw);
    let mut name = String::with_capacity(raw.len().min(MAX_NAME_LEN));
    for &byte in raw {
        push_escaped(&mut name, byte, false);
        if name.len() >= MAX_NAME_LEN {
            break;
        }
    }
    name
}

/// A name's labels joined by dots in the form of [`normalize`]; a dot inside a label becomes `\.`.
pub fn normalize_labels<'a>(labels: impl Iterator<Item = &'a [u8]>) -> String {
    let mut name = String::new();
    for label in labels {
        if !name.is_empty() {
            name.push('.');
        }
        label.iter().for_each(|&byte| push_escaped(&mut name, byte, true));
    }
    name
}

/// Appends one byte in the presentation format of RFC 1035, 5.1.
fn push_escaped(name: &mut String, byte: u8, is_in_label: bool) {
    match byte {
        b'.' if is_in_label => name.push_str("\\."),
        b'\\' => name.push_str("\\\\"),
        0x21..=0x7e => name.push(char::from(byte.to_ascii_lowercase())),
        // Writing to a String cannot fail.
        _ => drop(write!(name, "\\{byte:03}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[track_caller]
    fn check(name: &str, expected: Option<&str>) {
        assert_eq!(registrable_or_none(name), expected, "{name}");
    }

    #[test]
    fn registrable_domains() {
        check("www.example.com", Some("example.com"));
        check("www.example.co.uk", Some("example.co.uk"));
        check("co.uk", None);
        check("localhost", None);
        check("", None);
        check("192.0.2.1", None);
        check("2001:db8::1", None);
    }

    #[test]
    fn private_section_counts_as_suffix() {
        check("evil.duckdns.org", Some("evil.duckdns.org"));
        check("a.b.github.io", Some("b.github.io"));
    }

    #[test]
    fn default_rule_for_unknown_top_level_domains() {
        check("a.b.corp-internal", Some("b.corp-internal"));
        assert!(!has_known_suffix("a.b.corp-internal"));
        assert!(has_known_suffix("a.b.com"));
    }

    #[test]
    fn raw_names_become_printable() {
        assert_eq!(normalize(b"WWW.Example.COM."), "www.example.com");
        assert_eq!(normalize(b"a\0b\xffc d"), "a\\000b\\255c\\032d");
        assert_eq!(normalize_labels([&b"a.b"[..], b"C\\"].into_iter()), "a\\.b.c\\\\");
    }

    #[test]
    fn published_list_tests() {
        let Some(rows) = crate::captures::rows("truth/psl_expected.jsonl.gz") else { return };
        let mut checked = 0;
        for row in &rows {
            let Some(input) = row["input"].as_str() else { continue };
            check(&input.to_lowercase(), row["registrable"].as_str());
            checked += 1;
        }
        assert!(checked > 50, "only {checked} rows");
    }

    proptest! {
        #[test]
        fn any_bytes_are_bounded_and_printable(raw in proptest::collection::vec(any::<u8>(), 0..2000)) {
            let name = normalize(&raw);
            prop_assert!(name.len() < MAX_NAME_LEN + 4);
            prop_assert!(name.bytes().all(|byte| (0x21..=0x7e).contains(&byte)));
            let _ = registrable(&name);
        }
    }
}
