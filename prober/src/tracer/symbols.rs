//! Kernel addresses as `symbol+0xoffset`, and addresses of functions and variables, from `/proc/kallsyms`.
//!
//! The file is long, and the kernel makes it up line by line: it is read once for all.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::sync::OnceLock;

use waymark_tracer_ebpf::FUNCTIONS;

/// The kernel's functions by address.
pub struct Symbols {
    /// Address and where the name stands in `names`, by address.
    functions: Vec<(u64, u32, u32)>,
    names: String,
    entries: BTreeMap<&'static str, u64>,
    variables: Variables,
}

/// What went wrong.
#[derive(Debug, thiserror::Error)]
pub enum SymbolsError {
    /// The file could not be read.
    #[error("cannot read /proc/kallsyms: {0}")]
    Read(#[from] io::Error),
    /// Every address is zero.
    #[error("/proc/kallsyms shows no addresses; as root, set the sysctl kernel.kptr_restrict to 0 or 1")]
    Hidden,
}

impl Symbols {
    /// Those of the running kernel.
    pub fn of_running_kernel() -> Result<&'static Self, &'static SymbolsError> {
        static SYMBOLS: OnceLock<Result<Symbols, SymbolsError>> = OnceLock::new();
        let read = || {
            fs::read_to_string("/proc/kallsyms").map_err(Into::into).and_then(|text| Symbols::parse(&text))
        };
        SYMBOLS.get_or_init(read).as_ref()
    }

    fn parse(text: &str) -> Result<Self, SymbolsError> {
        let mut functions = Vec::new();
        let mut names = String::new();
        let mut variables = Variables::default();
        let watched: BTreeSet<&'static str> =
            FUNCTIONS.iter().flat_map(|function| function.symbols).copied().collect();
        let (mut entries, mut several) = (BTreeMap::new(), BTreeSet::new());
        for line in text.lines() {
            let mut words = line.split_ascii_whitespace();
            let (Some(address), Some(kind), Some(name)) = (words.next(), words.next(), words.next()) else {
                continue;
            };
            let address = match u64::from_str_radix(address, 16) {
                Ok(0) | Err(_) => continue,
                Ok(address) => address,
            };
            match name {
                "vmemmap_base" => variables.vmemmap_base = address,
                "page_offset_base" => variables.page_offset_base = address,
                _ => {}
            }
            if !matches!(kind, "t" | "T" | "w" | "W") {
                continue;
            }
            if let (Some(&symbol), None) = (watched.get(name), words.next())
                && entries.insert(symbol, address).is_some()
            {
                several.insert(symbol);
            }
            functions.push((address, names.len() as u32, name.len() as u32));
            names.push_str(name);
        }
        if functions.is_empty() {
            return Err(SymbolsError::Hidden);
        }
        functions.sort_unstable();
        entries.retain(|symbol, _| !several.contains(symbol));
        Ok(Self { functions, names, entries, variables })
    }

    /// Whether there is a function of this name, in the kernel or in a module that is loaded.
    pub fn has(&self, name: &str) -> bool {
        self.functions.iter().any(|&(_, at, len)| &self.names[at as usize..(at + len) as usize] == name)
    }

    /// Where a function of the registry begins, if the kernel itself has it, and once: what a module has can go, and
    /// another function come to its address.
    pub fn entry(&self, function: &str) -> Option<u64> {
        self.entries.get(function).copied()
    }

    /// `symbol+0xoffset` of an address; the bare address if it is before the first function.
    pub fn name(&self, address: u64) -> String {
        let after = self.functions.partition_point(|&(start, _, _)| start <= address);
        match after.checked_sub(1).and_then(|index| self.functions.get(index)) {
            Some(&(start, at, len)) => {
                let name = &self.names[at as usize..(at + len) as usize];
                format!("{name}+{:#x}", address - start)
            }
            None => format!("{address:#x}"),
        }
    }
}

/// Addresses of the kernel's variables that tell where memory is mapped; 0 of those that it does not show. Kernels of
/// distributions list their variables (`CONFIG_KALLSYMS_ALL`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Variables {
    /// Of all `struct page`.
    pub vmemmap_base: u64,
    /// Of all memory.
    pub page_offset_base: u64,
}

impl Variables {
    /// Those of the running kernel.
    pub fn of_running_kernel() -> Self {
        Symbols::of_running_kernel().map_or_else(|_| Self::default(), |symbols| symbols.variables)
    }

    /// Whether packets in pages can be read.
    pub fn are_known(&self) -> bool {
        self.vmemmap_base != 0 && self.page_offset_base != 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_get_the_function_before_them() {
        let text = "0000000000001000 T alpha\n0000000000002000 t beta [veth]\n0000000000001800 D data\n";
        let symbols = Symbols::parse(text).unwrap();
        assert_eq!(symbols.name(0x1000), "alpha+0x0");
        assert_eq!(symbols.name(0x1fff), "alpha+0xfff");
        assert_eq!(symbols.name(0x2010), "beta+0x10");
        assert_eq!(symbols.name(0x10), "0x10");
        assert!(symbols.has("beta") && !symbols.has("data") && !symbols.has("bet"));
    }

    #[test]
    fn variables_are_found_by_name() {
        let text = "ff01 D vmemmap_base\nff02 T page_offset_base_not\nff03 d page_offset_base\n";
        let found = Symbols::parse(text).unwrap().variables;
        assert_eq!(found, Variables { vmemmap_base: 0xff01, page_offset_base: 0xff03 });
        let lacks = Symbols::parse("0 D vmemmap_base\n0 D page_offset_base\nff02 T alpha\n").unwrap();
        assert!(!lacks.variables.are_known());
    }

    /// Those of modules do not stay, and of two with one name it is not known which is meant.
    #[test]
    fn entries_are_of_functions_that_stay_where_they_are() {
        let text = "ff01 T nf_hook_slow\nff02 t br_flood\t[bridge]\nff03 t tcf_classify\nff04 t tcf_classify\n\
                    ff05 T alpha\nff06 D fib_validate_source\n";
        let symbols = Symbols::parse(text).unwrap();
        assert_eq!(symbols.entry("nf_hook_slow"), Some(0xff01));
        for name in ["br_flood", "tcf_classify", "alpha", "fib_validate_source"] {
            assert_eq!(symbols.entry(name), None, "{name}");
        }
    }

    #[test]
    fn hidden_addresses_are_an_error() {
        let hidden = "0000000000000000 T alpha\n0000000000000000 T beta\n";
        assert!(matches!(Symbols::parse(hidden), Err(SymbolsError::Hidden)));
        assert!(matches!(Symbols::parse("garbage"), Err(SymbolsError::Hidden)));
    }
}
