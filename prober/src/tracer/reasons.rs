//! Names of drop reasons, from the running kernel's BTF: their numbers change with every release
//! (`NETFILTER_DROP` is 7, 11 or 12), so none is compiled in.

use std::collections::HashMap;

use btf::{Btf, Type};

/// The enum of `include/net/dropreason-core.h`.
const ENUM: &str = "skb_drop_reason";
const PREFIX: &str = "SKB_DROP_REASON_";

/// Drop reasons by number; empty on kernels before 5.17, which give none.
#[derive(Default)]
pub struct DropReasons(HashMap<u32, String>);

impl DropReasons {
    /// Reads the running kernel's.
    pub fn of_running_kernel() -> Self {
        let Ok(btf) = Btf::from_file("/sys/kernel/btf/vmlinux") else {
            return Self::default();
        };
        let entries = match btf.get_type_by_name(ENUM).map(|found| &found.base_type) {
            Ok(Type::Enum32(reasons) | Type::Enum64(reasons)) => reasons.entries.as_slice(),
            _ => &[],
        };
        let named = entries.iter().filter_map(|entry| {
            let name = entry.name.as_deref()?;
            Some((u32::try_from(entry.value).ok()?, name.strip_prefix(PREFIX)?.to_owned()))
        });
        Self(named.collect())
    }

    /// The kernel's name without prefix (`NO_SOCKET`); the bare number if the kernel has no name for it,
    /// as for the reasons of subsystems; `None` for 0, which says that there is no reason.
    pub fn name(&self, reason: u32) -> Option<String> {
        if reason == 0 {
            return None;
        }
        Some(self.0.get(&reason).cloned().unwrap_or_else(|| reason.to_string()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_kernel_has_names_for_its_reasons() {
        let reasons = DropReasons::of_running_kernel();
        assert_eq!(reasons.name(0), None);
        if !reasons.0.is_empty() {
            assert!(reasons.0.values().any(|name| name == "NO_SOCKET"));
            assert_eq!(reasons.name(u32::MAX), Some(u32::MAX.to_string()));
        }
    }
}
