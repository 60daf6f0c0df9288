//! Names of DNS record types and response codes, as in IANA's registry "Domain Name System (DNS) Parameters".

use std::borrow::Cow;

const RECORD_TYPES: &[(u16, &str)] = &[
    (1, "A"),
    (2, "NS"),
    (5, "CNAME"),
    (6, "SOA"),
    (10, "NULL"),
    (12, "PTR"),
    (13, "HINFO"),
    (15, "MX"),
    (16, "TXT"),
    (17, "RP"),
    (18, "AFSDB"),
    (24, "SIG"),
    (25, "KEY"),
    (28, "AAAA"),
    (29, "LOC"),
    (33, "SRV"),
    (35, "NAPTR"),
    (37, "CERT"),
    (39, "DNAME"),
    (41, "OPT"),
    (42, "APL"),
    (43, "DS"),
    (44, "SSHFP"),
    (45, "IPSECKEY"),
    (46, "RRSIG"),
    (47, "NSEC"),
    (48, "DNSKEY"),
    (49, "DHCID"),
    (50, "NSEC3"),
    (51, "NSEC3PARAM"),
    (52, "TLSA"),
    (53, "SMIMEA"),
    (55, "HIP"),
    (59, "CDS"),
    (60, "CDNSKEY"),
    (61, "OPENPGPKEY"),
    (62, "CSYNC"),
    (63, "ZONEMD"),
    (64, "SVCB"),
    (65, "HTTPS"),
    (99, "SPF"),
    (108, "EUI48"),
    (109, "EUI64"),
    (249, "TKEY"),
    (250, "TSIG"),
    (251, "IXFR"),
    (252, "AXFR"),
    (255, "ANY"),
    (256, "URI"),
    (257, "CAA"),
];

const RESPONSE_CODES: &[(u16, &str)] = &[
    (0, "NOERROR"),
    (1, "FORMERR"),
    (2, "SERVFAIL"),
    (3, "NXDOMAIN"),
    (4, "NOTIMP"),
    (5, "REFUSED"),
    (6, "YXDOMAIN"),
    (7, "YXRRSET"),
    (8, "NXRRSET"),
    (9, "NOTAUTH"),
    (10, "NOTZONE"),
    (11, "DSOTYPENI"),
    (16, "BADVERS"),
    (17, "BADKEY"),
    (18, "BADTIME"),
    (19, "BADMODE"),
    (20, "BADNAME"),
    (21, "BADALG"),
    (22, "BADTRUNC"),
    (23, "BADCOOKIE"),
];

/// The name of a record type; `TYPE123` where it has none (RFC 3597).
pub fn record_type_word(number: u16) -> Cow<'static, str> {
    word(RECORD_TYPES, "TYPE", number)
}

/// The number of a record type's name.
pub fn record_type_number(name: &str) -> Option<u16> {
    number(RECORD_TYPES, "TYPE", name)
}

/// The name of a response code; `RCODE123` where it has none.
pub fn response_code_word(number: u16) -> Cow<'static, str> {
    word(RESPONSE_CODES, "RCODE", number)
}

/// The number of a response code's name.
pub fn response_code_number(name: &str) -> Option<u16> {
    number(RESPONSE_CODES, "RCODE", name)
}

fn word(table: &'static [(u16, &'static str)], prefix: &str, number: u16) -> Cow<'static, str> {
    match table.binary_search_by_key(&number, |(known, _)| *known) {
        Ok(index) => Cow::Borrowed(table[index].1),
        Err(_) => Cow::Owned(format!("{prefix}{number}")),
    }
}

fn number(table: &[(u16, &str)], prefix: &str, name: &str) -> Option<u16> {
    let listed = table.iter().find(|(_, known)| known.eq_ignore_ascii_case(name)).map(|(number, _)| *number);
    listed.or_else(|| name.strip_prefix(prefix)?.parse().ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_number_leads_to_a_word_and_back() {
        for value in 0..=u16::MAX {
            assert_eq!(record_type_number(&record_type_word(value)), Some(value));
            assert_eq!(response_code_number(&response_code_word(value)), Some(value));
        }
    }

    #[test]
    fn a_name_that_is_no_type_has_no_number() {
        assert_eq!(record_type_number("TYPE65536"), None);
        assert_eq!(record_type_number(""), None);
    }
}
