//! Kernel addresses as `symbol+0xoffset`, from `/proc/kallsyms`.

use std::fs;
use std::io;
use std::sync::OnceLock;

/// The kernel's functions by address.
pub struct Symbols {
    /// Address and where the name stands in `names`, by address.
    functions: Vec<(u64, u32, u32)>,
    names: String,
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
    /// Reads the running kernel's functions.
    pub fn of_running_kernel() -> Result<Self, SymbolsError> {
        Self::parse(&fs::read_to_string("/proc/kallsyms")?)
    }

    fn parse(text: &str) -> Result<Self, SymbolsError> {
        let mut functions = Vec::new();
        let mut names = String::new();
        for line in text.lines() {
            let mut words = line.split_ascii_whitespace();
            let (Some(address), Some(kind), Some(name)) = (words.next(), words.next(), words.next()) else {
                continue;
            };
            if !matches!(kind, "t" | "T" | "w" | "W") {
                continue;
            }
            match u64::from_str_radix(address, 16) {
                Ok(0) | Err(_) => {}
                Ok(address) => {
                    functions.push((address, names.len() as u32, name.len() as u32));
                    names.push_str(name);
                }
            }
        }
        if functions.is_empty() {
            return Err(SymbolsError::Hidden);
        }
        functions.sort_unstable();
        Ok(Self { functions, names })
    }

    /// Whether there is a function of this name, in the kernel or in a module that is loaded.
    pub fn has(&self, name: &str) -> bool {
        self.functions.iter().any(|&(_, at, len)| &self.names[at as usize..(at + len) as usize] == name)
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
        static FOUND: OnceLock<Variables> = OnceLock::new();
        let read = || {
            fs::read_to_string("/proc/kallsyms").map_or_else(|_| Self::default(), |text| Self::parse(&text))
        };
        *FOUND.get_or_init(read)
    }

    /// Whether packets in pages can be read.
    pub fn are_known(&self) -> bool {
        self.vmemmap_base != 0 && self.page_offset_base != 0
    }

    fn parse(text: &str) -> Self {
        let mut found = Self::default();
        for line in text.lines() {
            let mut words = line.split_ascii_whitespace();
            let address = words.next().and_then(|address| u64::from_str_radix(address, 16).ok());
            match (address, words.nth(1)) {
                (Some(address), Some("vmemmap_base")) => found.vmemmap_base = address,
                (Some(address), Some("page_offset_base")) => found.page_offset_base = address,
                _ => {}
            }
        }
        found
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
        assert_eq!(Variables::parse(text), Variables { vmemmap_base: 0xff01, page_offset_base: 0xff03 });
        assert!(!Variables::parse("0 D vmemmap_base\n0 D page_offset_base\n").are_known());
        assert!(!Variables::parse("garbage").are_known());
    }

    #[test]
    fn hidden_addresses_are_an_error() {
        let hidden = "0000000000000000 T alpha\n0000000000000000 T beta\n";
        assert!(matches!(Symbols::parse(hidden), Err(SymbolsError::Hidden)));
        assert!(matches!(Symbols::parse("garbage"), Err(SymbolsError::Hidden)));
    }
}
