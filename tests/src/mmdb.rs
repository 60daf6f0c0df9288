//! Small MaxMind databases of a test's own making (MaxMind DB file format 2.0).

use std::net::Ipv4Addr;

/// Bits of a tree's record.
const RECORD_SIZE: u16 = 24;
/// Zero bytes between tree and data.
const SEPARATOR: usize = 16;

/// A value of the data section.
#[derive(Clone, Debug)]
pub enum Value {
    /// A string.
    Text(&'static str),
    /// An unsigned integer of this many bits: 16, 32 or 64.
    Number(u64, u8),
    /// A map.
    Map(Vec<(&'static str, Value)>),
    /// An array.
    List(Vec<Value>),
}

/// A database that knows these networks, each an address with its prefix length.
pub fn database(kind: &'static str, networks: &[(Ipv4Addr, u8, Value)]) -> Vec<u8> {
    let mut tree = Tree { nodes: vec![[Child::Nothing; 2]] };
    let mut data = Vec::new();
    for (addr, length, value) in networks {
        tree.insert(u32::from(*addr), *length, data.len());
        encode(value, &mut data);
    }
    let mut file = tree.encode();
    file.extend([0; SEPARATOR]);
    file.extend(data);
    file.extend(b"\xab\xcd\xefMaxMind.com");
    encode(&metadata(kind, tree.nodes.len()), &mut file);
    file
}

fn metadata(kind: &'static str, node_count: usize) -> Value {
    Value::Map(vec![
        ("binary_format_major_version", Value::Number(2, 16)),
        ("binary_format_minor_version", Value::Number(0, 16)),
        ("build_epoch", Value::Number(1_700_000_000, 64)),
        ("database_type", Value::Text(kind)),
        ("description", Value::Map(vec![("en", Value::Text("of a test"))])),
        ("ip_version", Value::Number(4, 16)),
        ("languages", Value::List(vec![Value::Text("en")])),
        ("node_count", Value::Number(node_count as u64, 32)),
        ("record_size", Value::Number(RECORD_SIZE.into(), 16)),
    ])
}

#[derive(Clone, Copy)]
enum Child {
    Nothing,
    Node(usize),
    Data(usize),
}

struct Tree {
    nodes: Vec<[Child; 2]>,
}

impl Tree {
    fn insert(&mut self, addr: u32, length: u8, offset: usize) {
        let mut node = 0;
        for bit in 0..length {
            let side = (addr >> (31 - bit) & 1) as usize;
            if bit + 1 == length {
                self.nodes[node][side] = Child::Data(offset);
            } else if let Child::Node(next) = self.nodes[node][side] {
                node = next;
            } else {
                self.nodes.push([Child::Nothing; 2]);
                self.nodes[node][side] = Child::Node(self.nodes.len() - 1);
                node = self.nodes.len() - 1;
            }
        }
    }

    fn encode(&self) -> Vec<u8> {
        let count = self.nodes.len();
        let record = |child: &Child| match child {
            Child::Nothing => count,
            Child::Node(number) => *number,
            Child::Data(offset) => count + SEPARATOR + offset,
        };
        self.nodes.iter().flatten().flat_map(|child| (record(child) as u32).to_be_bytes().into_iter().skip(1)).collect()
    }
}

fn encode(value: &Value, to: &mut Vec<u8>) {
    match value {
        Value::Text(text) => {
            control(2, text.len(), to);
            to.extend(text.bytes());
        }
        Value::Number(number, bits) => {
            let bytes = number.to_be_bytes();
            let bytes = &bytes[bytes.len() - usize::from(*bits) / 8..];
            control(
                match bits {
                    16 => 5,
                    32 => 6,
                    _ => 9,
                },
                bytes.len(),
                to,
            );
            to.extend(bytes);
        }
        Value::Map(entries) => {
            control(7, entries.len(), to);
            for (key, value) in entries {
                encode(&Value::Text(key), to);
                encode(value, to);
            }
        }
        Value::List(values) => {
            control(11, values.len(), to);
            values.iter().for_each(|value| encode(value, to));
        }
    }
}

/// Type and size; types above 7 are extended ones, sizes from 29 take one more byte.
fn control(kind: u8, size: usize, to: &mut Vec<u8>) {
    let (short, rest) = if size < 29 { (size as u8, None) } else { (29, Some((size - 29) as u8)) };
    if kind > 7 {
        to.extend([short, kind - 7]);
    } else {
        to.push(kind << 5 | short);
    }
    to.extend(rest);
}

/// A country database.
pub fn countries(networks: &[(Ipv4Addr, u8, &'static str)]) -> Vec<u8> {
    let record = |code| Value::Map(vec![("country", Value::Map(vec![("iso_code", Value::Text(code))]))]);
    let networks: Vec<_> = networks.iter().map(|(addr, length, code)| (*addr, *length, record(code))).collect();
    database("GeoLite2-Country", &networks)
}

/// An AS database.
pub fn systems(networks: &[(Ipv4Addr, u8, u32, &'static str)]) -> Vec<u8> {
    let record = |number: u32, name| {
        let number = ("autonomous_system_number", Value::Number(number.into(), 32));
        Value::Map(vec![number, ("autonomous_system_organization", Value::Text(name))])
    };
    let networks: Vec<_> =
        networks.iter().map(|(addr, length, number, name)| (*addr, *length, record(*number, name))).collect();
    database("GeoLite2-ASN", &networks)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reader_that_is_not_ours_finds_what_was_put_in() {
        let bytes =
            systems(&[([45, 33, 0, 0].into(), 16, 63_949, "Akamai"), ([8, 8, 8, 0].into(), 24, 15_169, "Google")]);
        let reader = maxminddb::Reader::from_source(bytes).unwrap();
        let found = reader.lookup([45, 33, 1, 2].into()).unwrap().decode::<maxminddb::geoip2::Asn>().unwrap().unwrap();
        assert_eq!(found.autonomous_system_organization, Some("Akamai"));
        assert!(reader.lookup([9, 9, 9, 9].into()).unwrap().decode::<maxminddb::geoip2::Asn>().unwrap().is_none());
        let reader = maxminddb::Reader::from_source(countries(&[([45, 0, 0, 0].into(), 8, "DE")])).unwrap();
        let found =
            reader.lookup([45, 1, 1, 1].into()).unwrap().decode::<maxminddb::geoip2::Country>().unwrap().unwrap();
        assert_eq!(found.country.iso_code, Some("DE"));
    }
}
