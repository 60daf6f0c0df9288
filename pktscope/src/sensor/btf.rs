//! Offsets of kernel fields, from the kernel's own type information.
//!
//! Format: Documentation/bpf/btf.rst of the kernel. Only structures and what leads to them are read.

use std::{collections::HashMap, fs, path::Path};

use pktscope_common::knobs::{FIELDS, NO_OFFSET};

use super::error::SensorError;

const MAGIC: u16 = 0xeb9f;
const KIND_INT: u32 = 1;
const KIND_ARRAY: u32 = 3;
const KIND_STRUCT: u32 = 4;
const KIND_UNION: u32 = 5;
const KIND_ENUM: u32 = 6;
const KIND_TYPEDEF: u32 = 8;
const KIND_VOLATILE: u32 = 9;
const KIND_CONST: u32 = 10;
const KIND_RESTRICT: u32 = 11;
const KIND_FUNC: u32 = 12;
const KIND_FUNC_PROTO: u32 = 13;
const KIND_VAR: u32 = 14;
const KIND_DATASEC: u32 = 15;
const KIND_DECL_TAG: u32 = 17;
const KIND_TYPE_TAG: u32 = 18;
const KIND_ENUM64: u32 = 19;
const TYPE_BYTES: usize = 12;
const MEMBER_BYTES: usize = 12;
const PARAMETER_BYTES: usize = 8;
/// Structures within structures that are followed.
const MAX_DEPTH: usize = 16;

/// The kernel's types, as far as the sensor asks for them.
pub(super) struct KernelTypes {
    bytes: Vec<u8>,
    /// Position of each type; index 0 is `void`.
    types: Vec<usize>,
    strings: usize,
    structures: HashMap<String, Vec<u32>>,
    functions: HashMap<String, u32>,
}

impl KernelTypes {
    /// Reads and indexes a BTF file.
    ///
    /// # Errors
    /// [`SensorError::NoBtf`] where it cannot be read, [`SensorError::BadBtf`] where it is not BTF.
    pub(super) fn read(path: &Path) -> Result<Self, SensorError> {
        let bytes = fs::read(path).map_err(|source| SensorError::NoBtf { path: path.into(), source })?;
        Self::parse(bytes).map_err(|reason| SensorError::BadBtf { path: path.into(), reason })
    }

    fn parse(bytes: Vec<u8>) -> Result<Self, &'static str> {
        let word = |at: usize| read_u32(&bytes, at).ok_or("header is cut short");
        if word(0)? & 0xffff != u32::from(MAGIC) {
            return Err("wrong magic number, or another byte order");
        }
        let [header, type_at, type_bytes, string_at] = [word(4)?, word(8)?, word(12)?, word(16)?].map(|n| n as usize);
        let start = header + type_at;
        let end = start.checked_add(type_bytes).filter(|&end| end <= bytes.len()).ok_or("types are cut short")?;
        let mut kernel = Self {
            strings: header + string_at,
            bytes,
            types: vec![0],
            structures: HashMap::new(),
            functions: HashMap::new(),
        };
        kernel.index(start, end)?;
        Ok(kernel)
    }

    fn index(&mut self, mut at: usize, end: usize) -> Result<(), &'static str> {
        while at < end {
            let info = read_u32(&self.bytes, at + 4).ok_or("types are cut short")?;
            let id = u32::try_from(self.types.len()).map_err(|_| "too many types")?;
            self.types.push(at);
            self.note(at, kind(info), id);
            at += TYPE_BYTES + extra_bytes(info).ok_or("unknown kind of type")?;
        }
        Ok(())
    }

    fn note(&mut self, at: usize, kind: u32, id: u32) {
        let name = self.name(at).to_owned();
        match kind {
            KIND_STRUCT if !name.is_empty() => self.structures.entry(name).or_default().push(id),
            KIND_FUNC => {
                self.functions.insert(name, id);
            }
            _ => {}
        }
    }

    /// Name of the type or member at a position; empty where it has none.
    fn name(&self, at: usize) -> &str {
        let start = self.strings + read_u32(&self.bytes, at).unwrap_or(0) as usize;
        let text = self.bytes.get(start..).unwrap_or_default();
        let length = text.iter().position(|&byte| byte == 0).unwrap_or(0);
        text.get(..length).and_then(|name| std::str::from_utf8(name).ok()).unwrap_or("")
    }

    /// Whether the kernel has a function of that name.
    pub(super) fn has_function(&self, name: &str) -> bool {
        self.functions.contains_key(name)
    }

    /// Whether a function of the kernel has a parameter of that name.
    pub(super) fn has_parameter(&self, function: &str, name: &str) -> bool {
        self.parameters(function).is_some_and(|found| found.contains(&name))
    }

    fn parameters(&self, function: &str) -> Option<Vec<&str>> {
        let function = *self.types.get(*self.functions.get(function)? as usize)?;
        let prototype = *self.types.get(read_u32(&self.bytes, function + 8)? as usize)?;
        let info = read_u32(&self.bytes, prototype + 4)?;
        let name = |index| self.name(prototype + TYPE_BYTES + index * PARAMETER_BYTES);
        (kind(info) == KIND_FUNC_PROTO).then(|| (0..length(info)).map(name).collect())
    }

    /// Offsets of every [`pktscope_common::knobs::Field`], in its order; [`NO_OFFSET`] where the kernel has no such field.
    pub(super) fn offsets(&self) -> Vec<u64> {
        FIELDS.iter().map(|(structure, path)| self.offset(structure, path).unwrap_or(NO_OFFSET)).collect()
    }

    /// Offset in bytes of a member, by a path of names separated by dots.
    pub(super) fn offset(&self, structure: &str, path: &str) -> Option<u64> {
        self.structures.get(structure)?.iter().find_map(|&id| self.path_offset(id, path))
    }

    fn path_offset(&self, id: u32, path: &str) -> Option<u64> {
        let (first, rest) = path.split_once('.').map_or((path, None), |(first, rest)| (first, Some(rest)));
        let (bits, member) = self.member(id, first, 0)?;
        let inner = rest.map_or(Some(0), |rest| self.path_offset(member, rest))?;
        Some(bits / 8 + inner)
    }

    /// Offset in bits and type of a member, anonymous structures and unions included.
    fn member(&self, id: u32, name: &str, depth: usize) -> Option<(u64, u32)> {
        let at = *self.types.get(self.resolve(id)? as usize)?;
        let info = read_u32(&self.bytes, at + 4)?;
        if !matches!(kind(info), KIND_STRUCT | KIND_UNION) || depth == MAX_DEPTH {
            return None;
        }
        (0..length(info)).find_map(|index| {
            let member = at + TYPE_BYTES + index * MEMBER_BYTES;
            let bits = member_bits(info, read_u32(&self.bytes, member + 8)?);
            let of = read_u32(&self.bytes, member + 4)?;
            match self.name(member) {
                found if found == name => Some((bits, of)),
                "" => self.member(of, name, depth + 1).map(|(inner, of)| (bits + inner, of)),
                _ => None,
            }
        })
    }

    /// The type behind typedefs and qualifiers.
    fn resolve(&self, mut id: u32) -> Option<u32> {
        for _ in 0..MAX_DEPTH {
            let at = *self.types.get(id as usize)?;
            match kind(read_u32(&self.bytes, at + 4)?) {
                KIND_TYPEDEF | KIND_VOLATILE | KIND_CONST | KIND_RESTRICT | KIND_TYPE_TAG => {
                    id = read_u32(&self.bytes, at + 8)?
                }
                _ => return Some(id),
            }
        }
        None
    }
}

fn read_u32(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_ne_bytes(*bytes.get(at..)?.first_chunk()?))
}

fn kind(info: u32) -> u32 {
    (info >> 24) & 0x1f
}

fn length(info: u32) -> usize {
    (info & 0xffff) as usize
}

/// With the kind flag set, the upper 8 bits are a bit field's size.
fn member_bits(info: u32, offset: u32) -> u64 {
    u64::from(if info >> 31 == 1 { offset & 0x00ff_ffff } else { offset })
}

/// Bytes that follow the three words of a type; `None` for a kind that is not known.
fn extra_bytes(info: u32) -> Option<usize> {
    Some(match kind(info) {
        KIND_INT | KIND_VAR | KIND_DECL_TAG => 4,
        KIND_ARRAY => 12,
        KIND_STRUCT | KIND_UNION | KIND_DATASEC | KIND_ENUM64 => 12 * length(info),
        KIND_ENUM | KIND_FUNC_PROTO => 8 * length(info),
        0 | 2 | 7..=12 | 16 | KIND_TYPE_TAG => 0,
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn word(bytes: &mut Vec<u8>, words: &[u32]) {
        words.iter().for_each(|word| bytes.extend(word.to_ne_bytes()));
    }

    /// `struct outer { int a; union { struct { int b; } inner; }; int c:3; }` with `typedef` between, and `call(int a)`.
    fn sample() -> Vec<u8> {
        let strings = b"\0outer\0a\0inner\0b\0c\0call\0";
        let mut types = Vec::new();
        word(&mut types, &[0, 1 << 24, 4, 32]); // 1: int
        word(&mut types, &[0, 4 << 24 | 1, 4, 15, 1, 0]); // 2: struct { int b; }
        word(&mut types, &[0, 8 << 24, 2]); // 3: typedef of 2
        word(&mut types, &[0, 5 << 24 | 1, 4, 9, 3, 0]); // 4: union { 3 inner; }
        word(&mut types, &[1, 1 << 31 | 4 << 24 | 3, 12, 7, 1, 0, 0, 4, 32, 17, 1, 3 << 24 | 64]); // 5: struct outer
        word(&mut types, &[19, 12 << 24, 7]); // 6: func call
        word(&mut types, &[0, 13 << 24 | 1, 0, 7, 1]); // 7: its prototype
        let mut bytes = Vec::new();
        word(&mut bytes, &[0x0001_eb9f, 24, 0, types.len() as u32, types.len() as u32, strings.len() as u32]);
        bytes.extend(types);
        bytes.extend(strings);
        bytes
    }

    #[test]
    fn finds_members_through_anonymous_structures_and_typedefs() {
        let types = KernelTypes::parse(sample()).unwrap();
        assert_eq!(types.offset("outer", "a"), Some(0));
        assert_eq!(types.offset("outer", "inner.b"), Some(4));
        assert_eq!(types.offset("outer", "c"), Some(8));
        assert_eq!(types.offset("outer", "nothing"), None);
        assert_eq!(types.offset("nothing", "a"), None);
        assert!(types.has_function("call"));
        assert!(types.has_parameter("call", "a") && !types.has_parameter("call", "b"));
        assert!(!types.has_parameter("outer", "a"));
    }

    #[test]
    fn refuses_what_is_not_btf_or_cut_short() {
        let whole = sample();
        for length in 0..whole.len() {
            // Strings cut short only lose names.
            if let Ok(types) = KernelTypes::parse(whole[..length].to_vec()) {
                let _ = types.offset("outer", "inner.b");
            }
        }
        assert!(KernelTypes::parse(vec![0; 64]).is_err());
    }

    #[test]
    fn agrees_with_the_running_kernel_where_it_has_btf() {
        let path = Path::new("/sys/kernel/btf/vmlinux");
        if !path.exists() {
            return;
        }
        let types = KernelTypes::read(path).unwrap();
        // `__sk_common` is the first member, and these two are fixed by what old programs rely on (include/net/sock.h).
        assert_eq!(types.offset("sock", "__sk_common.skc_daddr"), Some(0));
        assert_eq!(types.offset("sock", "__sk_common.skc_rcv_saddr"), Some(4));
        assert!(types.offset("task_struct", "tgid").is_some());
    }
}
