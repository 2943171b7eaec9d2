//! What the running kernel's BTF says of functions: how many arguments they have, and what they answer.
//!
//! The crates that read BTF do not tell what functions return, so this reads as much of the format as that takes
//! (`include/uapi/linux/btf.h`).

use std::collections::BTreeMap;
use std::fs;
use std::sync::OnceLock;

use waymark_tracer_ebpf::{DEEP_POINTS, FIRST_DEEP, FUNCTIONS, Function};

/// The enum of drop reasons.
const REASON: &str = "skb_drop_reason";

/// One function of the kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Signature {
    /// How many arguments it has.
    pub arguments: u8,
    /// Whether it answers by a drop reason.
    pub gives_reason: bool,
}

/// The functions of the registry that the kernel itself has, not its modules.
#[derive(Debug, Default)]
pub struct Types(BTreeMap<&'static str, Signature>);

impl Types {
    /// Those of the running kernel; none if it has no BTF.
    pub fn of_running_kernel() -> &'static Self {
        static TYPES: OnceLock<Types> = OnceLock::new();
        let read =
            || fs::read("/sys/kernel/btf/vmlinux").ok().and_then(|btf| Self::parse(&btf)).unwrap_or_default();
        TYPES.get_or_init(read)
    }

    /// The first of these functions that is there.
    pub fn first(&self, symbols: &[&'static str]) -> Option<(&'static str, Signature)> {
        symbols.iter().find_map(|symbol| Some((*symbol, *self.0.get(symbol)?)))
    }

    /// How many arguments each function of the registry has, by its point.
    pub fn arguments(&self) -> [u8; DEEP_POINTS] {
        let mut all = [0; DEEP_POINTS];
        for function in FUNCTIONS {
            let at = (function.point as u32 - FIRST_DEEP) as usize;
            all[at] = self.first(function.symbols).map_or(0, |(_, signature)| signature.arguments);
        }
        all
    }

    /// Whether a function's answer is a drop reason.
    pub fn gives_reason(&self, function: &Function) -> bool {
        self.first(function.speaks_like()).is_some_and(|(_, signature)| signature.gives_reason)
    }

    fn parse(btf: &[u8]) -> Option<Self> {
        let blob = Blob::new(btf)?;
        let headers: Vec<Header> = blob.headers().collect();
        let wanted: BTreeMap<&str, &'static str> =
            FUNCTIONS.iter().flat_map(|function| function.symbols).map(|symbol| (*symbol, *symbol)).collect();
        let of_id = |id: u32| headers.get((id as usize).checked_sub(1)?);
        let is_reason = |mut id: u32| {
            // A chain of names and qualifiers ends; a damaged file must not make it endless.
            for _ in 0..16 {
                match of_id(id) {
                    Some(Header { kind: kind::ENUM, name, .. }) => return blob.string(*name) == Some(REASON),
                    Some(Header { kind: kind::TYPEDEF | kind::CONST, of, .. }) => id = *of,
                    _ => return false,
                }
            }
            false
        };
        let functions = headers.iter().filter(|header| header.kind == kind::FUNC).filter_map(|header| {
            let symbol = wanted.get(blob.string(header.name)?)?;
            let prototype = of_id(header.of).filter(|header| header.kind == kind::FUNC_PROTO)?;
            let signature = Signature {
                arguments: u8::try_from(prototype.members).ok()?,
                gives_reason: is_reason(prototype.of),
            };
            Some((*symbol, signature))
        });
        Some(Self(functions.collect()))
    }
}

/// Kinds of types (`BTF_KIND_*`).
mod kind {
    pub(super) const INT: u32 = 1;
    pub(super) const ARRAY: u32 = 3;
    pub(super) const STRUCT: u32 = 4;
    pub(super) const UNION: u32 = 5;
    pub(super) const ENUM: u32 = 6;
    pub(super) const TYPEDEF: u32 = 8;
    pub(super) const CONST: u32 = 10;
    pub(super) const FUNC: u32 = 12;
    pub(super) const FUNC_PROTO: u32 = 13;
    pub(super) const VAR: u32 = 14;
    pub(super) const DATASEC: u32 = 15;
    pub(super) const DECL_TAG: u32 = 17;
    pub(super) const ENUM64: u32 = 19;
}

/// One type, without what follows its `struct btf_type`.
struct Header {
    /// Where its name is among the strings.
    name: u32,
    kind: u32,
    members: u32,
    /// The type that it refers to, or its size.
    of: u32,
}

/// A file of BTF.
struct Blob<'a> {
    types: &'a [u8],
    strings: &'a [u8],
}

impl<'a> Blob<'a> {
    fn new(btf: &'a [u8]) -> Option<Self> {
        let magic = u16::from_ne_bytes(*btf.first_chunk()?);
        let after = word(btf, 4)?;
        let section = |at: usize| {
            let start = (after as usize).checked_add(word(btf, at)? as usize)?;
            btf.get(start..start.checked_add(word(btf, at + 4)? as usize)?)
        };
        (magic == 0xeb9f).then(|| Some(Self { types: section(8)?, strings: section(16)? })).flatten()
    }

    fn string(&self, at: u32) -> Option<&'a str> {
        let rest = self.strings.get(at as usize..)?;
        let end = rest.iter().position(|&byte| byte == 0)?;
        std::str::from_utf8(&rest[..end]).ok()
    }

    /// All types in the order of their ids, the first of which is 1.
    fn headers(&self) -> impl Iterator<Item = Header> {
        let mut rest = self.types;
        std::iter::from_fn(move || {
            let (name, info, of) = (word(rest, 0)?, word(rest, 4)?, word(rest, 8)?);
            let (kind, members) = (info >> 24 & 0x1f, info & 0xffff);
            let follows = match kind {
                kind::INT | kind::VAR | kind::DECL_TAG => 4,
                kind::ARRAY => 12,
                kind::STRUCT | kind::UNION | kind::DATASEC | kind::ENUM64 => members as usize * 12,
                kind::ENUM | kind::FUNC_PROTO => members as usize * 8,
                _ => 0,
            };
            rest = rest.get(12 + follows..)?;
            Some(Header { name, kind, members, of })
        })
    }
}

fn word(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_ne_bytes(*bytes.get(at..)?.first_chunk()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A file with `enum skb_drop_reason f(int, int)` under the names of two functions, the second of which returns an int.
    fn sample() -> Vec<u8> {
        let strings = b"\0int\0skb_drop_reason\0ip_finish_output2\0ip_protocol_deliver_rcu\0";
        let at = |name: &str| {
            let text = std::str::from_utf8(strings).unwrap();
            u32::try_from(text.find(&format!("\0{name}\0")).unwrap() + 1).unwrap()
        };
        let kind = |kind: u32, members: u32| kind << 24 | members;
        let words = [
            &[at("int"), kind(kind::INT, 0), 4, 32][..],
            &[at("skb_drop_reason"), kind(kind::ENUM, 1), 4, 0, 0],
            &[0, kind(kind::FUNC_PROTO, 2), 2, 0, 1, 0, 1],
            &[at("ip_finish_output2"), kind(kind::FUNC, 0), 3],
            &[0, kind(kind::FUNC_PROTO, 1), 1, 0, 1],
            &[at("ip_protocol_deliver_rcu"), kind(kind::FUNC, 0), 5],
        ]
        .concat();
        let types: Vec<u8> = words.iter().flat_map(|word| word.to_ne_bytes()).collect();
        let (types_len, strings_len) = (types.len() as u32, strings.len() as u32);
        let mut file = 0x0001_eb9f_u32.to_ne_bytes().to_vec();
        file.extend(
            [24, 0, types_len, types_len, strings_len].iter().flat_map(|word: &u32| word.to_ne_bytes()),
        );
        file.extend(types);
        file.extend(strings);
        file
    }

    #[test]
    fn functions_are_found_with_what_they_answer() {
        let types = Types::parse(&sample()).unwrap();
        let first = types.first(&["not_there", "ip_finish_output2", "ip_protocol_deliver_rcu"]);
        assert_eq!(first, Some(("ip_finish_output2", Signature { arguments: 2, gives_reason: true })));
        let second = types.first(&["ip_protocol_deliver_rcu"]).unwrap().1;
        assert_eq!(second, Signature { arguments: 1, gives_reason: false });
        assert_eq!(types.first(&["not_there"]), None);
        let forward = FUNCTIONS.iter().find(|function| function.name == "ip_finish_output2").unwrap();
        assert!(types.gives_reason(forward));
        assert_eq!(types.arguments()[(forward.point as u32 - FIRST_DEEP) as usize], 2);
    }

    #[test]
    fn damaged_files_do_no_harm() {
        let whole = sample();
        for end in 0..whole.len() {
            let _ = Types::parse(&whole[..end]);
        }
        assert!(Types::parse(b"\x7fELF, which is something else").is_none());
    }
}
