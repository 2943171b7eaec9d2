//! The facts of a cluster at one moment, as a folder that can be taken anywhere: predictions from it need no root, no
//! agents and no network.
//!
//! ```text
//! snapshot.json        what there is: SNAPSHOT_API_VERSION, when it was taken, a file for each node, and why some lack
//! inventory.json.gz    nodes, pods, Services and policies (waymark_proto::Inventory)
//! nodes/NUMBER.json.gz the facts of a node (waymark_proto::Facts, of FACTS_API_VERSION)
//! ```
//!
//! Each document says its version; a program that does not know it says so and reads nothing. Within a version fields are
//! neither taken away nor given another meaning. Files may be unpacked by hand: what does not begin like gzip is read as
//! JSON. A file that is not there, or that is cut short, is told by its name.

use std::io;
use std::path::{Component, Path, PathBuf};

use jiff::Timestamp;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use waymark_proto::{Facts, Inventory, NodeName};

use crate::packed::{self, PackedError};

/// The version of `snapshot.json` that this program writes and reads.
pub const SNAPSHOT_API_VERSION: &str = "waymark.io/snapshot/v1alpha1";

/// The longest document: facts of a node with 10,000 Services have some 30 MiB.
const MAX_DOCUMENT: usize = 1 << 30;

const CONTENTS: &str = "snapshot.json";
const INVENTORY: &str = "inventory.json.gz";
const NODES: &str = "nodes";

/// What is known of a cluster.
#[derive(Clone, Debug)]
pub struct Snapshot {
    /// When it was taken.
    pub taken: Timestamp,
    /// What there is.
    pub inventory: Inventory,
    /// Of each node whose facts could be had.
    pub facts: Vec<Facts>,
    /// The other nodes, and why.
    pub missing: Vec<MissingNode>,
}

/// A node without facts.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct MissingNode {
    /// Which.
    pub node: NodeName,
    /// Why.
    pub why: String,
}

/// `snapshot.json`.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Contents {
    api_version: String,
    taken: Timestamp,
    inventory: PathBuf,
    nodes: Vec<NodeFile>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    missing: Vec<MissingNode>,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct NodeFile {
    node: NodeName,
    facts: PathBuf,
}

/// What every version of `snapshot.json` says.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Head {
    api_version: String,
}

/// Why there is no snapshot.
#[derive(Debug, thiserror::Error)]
pub enum SnapshotError {
    /// A file or folder.
    #[error("cannot {what} {}: {source}", path.display())]
    Io {
        /// What was tried.
        what: &'static str,
        /// On what.
        path: PathBuf,
        /// Why it failed.
        source: io::Error,
    },
    /// Somebody else's files would be among those of the snapshot.
    #[error("{} is there and not empty: a snapshot gets a folder of its own", .0.display())]
    NotEmpty(PathBuf),
    /// A document that cannot be read.
    #[error("{}: {why}", path.display())]
    Document {
        /// Which.
        path: PathBuf,
        /// What is wrong with it.
        why: String,
    },
}

impl Snapshot {
    /// Writes it to a folder, which is made if it is not there. If that fails nothing of it stays in the folder.
    ///
    /// # Errors
    /// A folder that holds anything, or what the file system says.
    pub fn write(&self, folder: &Path) -> Result<(), SnapshotError> {
        std::fs::create_dir_all(folder).map_err(failed("make", folder))?;
        if std::fs::read_dir(folder).map_err(failed("read", folder))?.next().is_some() {
            return Err(SnapshotError::NotEmpty(folder.to_owned()));
        }
        let written = self.fill(folder);
        if written.is_err() {
            // What is not there need not be removed; why it could not be written is what matters.
            let _ = std::fs::remove_dir_all(folder.join(NODES));
            for name in [INVENTORY, CONTENTS] {
                let _ = std::fs::remove_file(folder.join(name));
            }
        }
        written
    }

    fn fill(&self, folder: &Path) -> Result<(), SnapshotError> {
        let nodes = folder.join(NODES);
        std::fs::create_dir(&nodes).map_err(failed("make", &nodes))?;
        let save = |name: &Path, json: Vec<u8>| {
            let path = folder.join(name);
            packed::save(&path, &json).map_err(failed("write", &path))
        };
        let mut files = Vec::new();
        for (number, facts) in self.facts.iter().enumerate() {
            let name = Path::new(NODES).join(format!("{number}.json.gz"));
            save(&name, json_of(facts))?;
            files.push(NodeFile { node: facts.node.clone(), facts: name });
        }
        save(Path::new(INVENTORY), json_of(&self.inventory))?;
        let contents = Contents {
            api_version: SNAPSHOT_API_VERSION.to_owned(),
            taken: self.taken,
            inventory: INVENTORY.into(),
            nodes: files,
            missing: self.missing.clone(),
        };
        // Last: a folder without it is no snapshot.
        save(Path::new(CONTENTS), json_of(&contents))
    }

    /// Reads one from a folder.
    ///
    /// # Errors
    /// A file that is not there, is no such document, or is of another version.
    pub fn read(folder: &Path) -> Result<Self, SnapshotError> {
        let path = folder.join(CONTENTS);
        let bytes = load(&path)?;
        let Head { api_version } = parse(&path, &bytes)?;
        if api_version != SNAPSHOT_API_VERSION {
            let why =
                format!("a snapshot of version {api_version:?}; this program reads {SNAPSHOT_API_VERSION:?}");
            return Err(SnapshotError::Document { path, why });
        }
        let contents: Contents = parse(&path, &bytes)?;
        let within = |name: &Path| {
            let plain = name.components().all(|part| matches!(part, Component::Normal(_)));
            let why = || format!("{} is not a file within the snapshot", name.display());
            if plain {
                Ok(folder.join(name))
            } else {
                Err(SnapshotError::Document { path: path.clone(), why: why() })
            }
        };
        let inventory = within(&contents.inventory)?;
        let wrong = |path: &Path, why: String| SnapshotError::Document { path: path.to_owned(), why };
        let read = |file: &NodeFile| {
            let path = within(&file.facts)?;
            let facts = Facts::from_json(&load(&path)?).map_err(|why| wrong(&path, why))?;
            if facts.node == file.node {
                return Ok(facts);
            }
            Err(wrong(&path, format!("the facts of {}, not those of {}", facts.node, file.node)))
        };
        Ok(Self {
            taken: contents.taken,
            facts: contents.nodes.iter().map(read).collect::<Result<_, _>>()?,
            inventory: Inventory::from_json(&load(&inventory)?)
                .map_err(|error| wrong(&inventory, error.to_string()))?,
            missing: contents.missing,
        })
    }
}

fn failed(what: &'static str, path: &Path) -> impl FnOnce(io::Error) -> SnapshotError {
    let path = path.to_owned();
    move |source| SnapshotError::Io { what, path, source }
}

fn json_of(document: &impl Serialize) -> Vec<u8> {
    serde_json::to_vec(document).expect("documents have keys that are text")
}

fn load(path: &Path) -> Result<Vec<u8>, SnapshotError> {
    packed::load(path, MAX_DOCUMENT).map_err(|error| {
        let path = path.to_owned();
        match error {
            PackedError::Io(source) => SnapshotError::Io { what: "read", path, source },
            PackedError::Compression(error) => {
                SnapshotError::Document { path, why: format!("it cannot be decompressed: {error}") }
            }
            PackedError::TooLarge => {
                SnapshotError::Document { path, why: format!("larger than {} MiB", MAX_DOCUMENT >> 20) }
            }
        }
    })
}

fn parse<T: DeserializeOwned>(path: &Path, bytes: &[u8]) -> Result<T, SnapshotError> {
    serde_json::from_slice(bytes).map_err(|error| SnapshotError::Document {
        path: path.to_owned(),
        why: format!("not a complete document: {error}"),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn snapshot() -> Snapshot {
        let inventory = br#"{"nodes":[{"name":"a","ip":"10.0.0.1"},{"name":"b/c","ip":"10.0.0.2"}]}"#;
        let facts = |node: &str| Facts {
            api_version: waymark_proto::FACTS_API_VERSION.into(),
            node: node.into(),
            kernel: "6.1".into(),
            namespaces: vec![waymark_proto::NetnsFacts { name: "host".into(), ..Default::default() }],
        };
        Snapshot {
            taken: Timestamp::UNIX_EPOCH,
            inventory: Inventory::from_json(inventory).unwrap(),
            facts: vec![facts("b/c")],
            missing: vec![MissingNode { node: "a".into(), why: "no agent".into() }],
        }
    }

    #[test]
    fn what_was_written_is_read() {
        let folder = tempfile::tempdir().unwrap();
        let folder = folder.path().join("new");
        snapshot().write(&folder).unwrap();
        let read = Snapshot::read(&folder).unwrap();
        assert_eq!((&read.facts, &read.missing), (&snapshot().facts, &snapshot().missing));
        assert_eq!((&read.inventory, read.taken), (&snapshot().inventory, snapshot().taken));
        let again = snapshot().write(&folder).unwrap_err().to_string();
        assert!(again.ends_with("is there and not empty: a snapshot gets a folder of its own"), "{again}");
    }

    #[test]
    fn what_is_wrong_is_told_with_its_file() {
        let folder = tempfile::tempdir().unwrap();
        let folder = folder.path();
        snapshot().write(folder).unwrap();
        let whole = std::fs::read_to_string(folder.join(CONTENTS)).unwrap();
        let facts = folder.join("nodes/0.json.gz");
        let packed = std::fs::read(&facts).unwrap();
        let told = || Snapshot::read(folder).unwrap_err().to_string();
        for (from, to, words) in [
            (
                "v1alpha1",
                "v9",
                "snapshot.json: a snapshot of version \"waymark.io/snapshot/v9\"; this program reads",
            ),
            (
                "nodes/0.json.gz",
                "../0.json.gz",
                "snapshot.json: ../0.json.gz is not a file within the snapshot",
            ),
            (
                "nodes/0.json.gz",
                "/etc/passwd",
                "snapshot.json: /etc/passwd is not a file within the snapshot",
            ),
            ("nodes/0.json.gz", "nodes/7.json.gz", "nodes/7.json.gz: No such file or directory"),
            ("\"node\":\"b/c\"", "\"node\":\"a\"", "nodes/0.json.gz: the facts of b/c, not those of a"),
            ("\"nodes\"", "\"knots\"", "snapshot.json: not a complete document: unknown field `knots`"),
        ] {
            std::fs::write(folder.join(CONTENTS), whole.replace(from, to)).unwrap();
            let told = told();
            assert!(told.contains(words), "{told}");
        }
        std::fs::write(folder.join(CONTENTS), &whole).unwrap();
        std::fs::write(&facts, &packed[..packed.len() / 2]).unwrap();
        assert!(told().contains("nodes/0.json.gz: it cannot be decompressed: "), "{}", told());
        std::fs::write(&facts, "{}").unwrap();
        assert!(told().contains("nodes/0.json.gz: not a complete facts document: "), "{}", told());
        std::fs::remove_file(folder.join(CONTENTS)).unwrap();
        assert!(told().contains("snapshot.json: No such file or directory"), "{}", told());
    }
}
