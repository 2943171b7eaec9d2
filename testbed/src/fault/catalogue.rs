//! All faults, from the files that are embedded in this program.

use std::sync::LazyLock;

use include_dir::{Dir, include_dir};

use super::Fault;
use super::definition::{Definition, Family};
use crate::plan::{Cluster, Dataplane};
use crate::{Error, Result};

/// A folder per category, a file per fault.
static FILES: Dir<'static> = include_dir!("$CARGO_MANIFEST_DIR/faults");

static CATALOGUE: LazyLock<Vec<Fault>> = LazyLock::new(|| {
    // They cannot change any more, and a test reads them all.
    read().expect("the embedded catalogue is valid")
});

/// All faults, by category and name.
pub fn all() -> impl Iterator<Item = &'static Fault> {
    CATALOGUE.iter()
}

/// A fault by name.
pub fn fault(name: &str) -> Result<&'static Fault> {
    all().find(|fault| fault.name == name).ok_or_else(|| Error::UnknownFault(name.to_owned()))
}

/// The text of a file at the top of the catalogue.
pub(super) fn top_file(name: &str) -> &'static str {
    FILES.get_file(name).and_then(include_dir::File::contents_utf8).unwrap_or_default()
}

fn read() -> std::result::Result<Vec<Fault>, String> {
    let mut faults = Vec::new();
    for folder in FILES.dirs() {
        let category = folder.path().to_str().ok_or("a category's name is not text")?;
        for file in folder.files() {
            let path = file.path();
            let name = path.file_stem().and_then(std::ffi::OsStr::to_str).ok_or("a file without a name")?;
            let text = file.contents_utf8().ok_or_else(|| format!("{} is not text", path.display()))?;
            let definition: Definition =
                toml::from_str(text).map_err(|error| format!("{}: {error}", path.display()))?;
            for &family in &definition.families {
                let second = family == Family::V6 && definition.families.len() > 1;
                let name = format!("{name}{}", if second { "-ipv6" } else { "" });
                faults.push(Fault { name, category, family, definition: definition.clone() });
            }
        }
    }
    Ok(faults)
}

/// The catalogue for people, with what is expected of a cluster.
pub fn table(cluster: &Cluster, active: &[String]) -> String {
    let mut table =
        crate::status::table(&["CATEGORY", "FAULT", "DATAPLANES", "TRAFFIC", "EXPECTED", "WHAT IT DOES"]);
    for fault in all() {
        let dataplanes = &fault.definition.dataplanes;
        let dataplanes = if dataplanes.len() == Dataplane::ALL.len() {
            "all".to_owned()
        } else {
            dataplanes.iter().map(|dataplane| dataplane.name()).collect::<Vec<_>>().join(", ")
        };
        let name = if active.contains(&fault.name) {
            format!("{} (injected)", fault.name)
        } else {
            fault.name.clone()
        };
        let (traffic, expected) = match (fault.probe(cluster), fault.expected(cluster)) {
            (Ok(probe), Ok(expected)) => (probe.to_string(), expected.to_string()),
            _ => ("-".into(), "-".into()),
        };
        table.add_row([fault.category, &name, &dataplanes, &traffic, &expected, fault.about()]);
    }
    table.to_string()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fault::{Act, pairs};
    use crate::plan::Proxy;
    use crate::topology::Topology;

    /// Files are read strictly, every template renders on every dataplane for which it is, and what is
    /// injected can be undone.
    #[test]
    fn every_file_holds_on_every_dataplane() {
        let faults = read().unwrap();
        for dataplane in Dataplane::ALL {
            for proxy in [Proxy::Iptables, Proxy::Nftables] {
                let cluster = Cluster::plan("t", &Topology::default(), dataplane, proxy);
                let mut count = 0;
                for fault in faults.iter().filter(|fault| fault.is_for(dataplane, proxy)) {
                    let expected = fault.expected(&cluster).unwrap();
                    assert!(cluster.namespaces().contains(&expected.netns), "{}", fault.name);
                    fault.says(&cluster).unwrap();
                    let breakage = fault.breakage(&cluster).unwrap();
                    assert_eq!(breakage.inject.is_empty(), fault.is_lasting(), "{}", fault.name);
                    assert_eq!(breakage.inject.is_empty(), breakage.undo.is_empty(), "{}", fault.name);
                    let json = serde_json::to_string(&breakage.undo).unwrap();
                    assert_eq!(serde_json::from_str::<Vec<Act>>(&json).unwrap(), breakage.undo);
                    count += 1;
                }
                assert!(count >= 75, "{count} on {dataplane}");
            }
        }
    }

    #[test]
    fn names_are_unique_and_wrong_ones_refused() {
        let names: std::collections::BTreeSet<_> = all().map(|fault| &fault.name).collect();
        assert_eq!(names.len(), all().count());
        assert!(fault("no-such-fault").unwrap_err().to_string().contains("fault list"));
        let cluster = Cluster::plan("t", &Topology::default(), Dataplane::Routed, Proxy::Iptables);
        let error = fault("wrong-vni").unwrap().probe(&cluster).unwrap_err().to_string();
        assert_eq!(error, "fault wrong-vni does not apply: it is not for the routed dataplane");
    }

    #[test]
    fn the_catalogue_is_broad() {
        let files = FILES.dirs().map(|folder| folder.files().count()).sum::<usize>();
        assert!(files >= 75, "{files}");
        assert!(pairs().len() >= 10);
    }

    #[test]
    fn what_a_file_should_not_say_is_refused() {
        let text = "about = \"x\"\nwhatever = 1\n[traffic]\nto = \"target\"\nprotocol = \"tcp\"\n\
                    [expected]\nat = \"target-node\"\nhook = \"route\"\ncause = \"no-route\"\n";
        assert!(toml::from_str::<Definition>(text).unwrap_err().to_string().contains("whatever"));
        toml::from_str::<Definition>(&text.replace("whatever = 1", "subset = [4]")).unwrap();
    }
}
