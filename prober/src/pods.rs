//! The namespaces of a node: its own, and those of its pods.
//!
//! Where Kubernetes is the source, nobody says by which path a pod's namespace can be opened: container
//! runtimes name them as they like, and some only hold them by a process. So the namespace of a pod is the
//! one that holds its address. Candidates are the files in folders where runtimes keep namespaces, and what
//! processes are in. What was found is remembered by path and inode, and its address is looked at again
//! whenever it is opened: inode numbers are used again soon after a namespace ended, and an open descriptor
//! kept for later would not let it end.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fs;
use std::net::IpAddr;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};

use waymark_proto::{NetnsInode, NetnsName, Place, Pod, Scope};

use crate::facts;
use crate::netns::{Netns, NetnsError};

/// Where `ip netns`, containerd and CRI-O keep namespaces, and where Docker does.
const FOLDERS: [&str; 2] = ["/run/netns", "/var/run/docker/netns"];
/// Paths that an error names before it only counts.
const NAMED: usize = 4;

/// Why the namespace of a pod is not known.
#[derive(Debug, thiserror::Error)]
pub enum LocateError {
    /// It cannot be opened or entered.
    #[error(transparent)]
    Netns(#[from] NetnsError),
    /// None has the address.
    #[error("no network namespace holds {ip}, the address of pod {pod}: {searched}")]
    NotFound {
        /// `namespace/name`.
        pod: String,
        /// Its address.
        ip: IpAddr,
        /// Where was looked, and what could not be looked into.
        searched: Box<Searched>,
    },
    /// More than one has the address.
    #[error(
        "pod {pod} has the address {ip}, which {} network namespaces hold ({}): name the folder with the namespaces of this cluster by --pod-netns",
        paths.len(),
        list(paths)
    )]
    Ambiguous {
        /// `namespace/name`.
        pod: String,
        /// Its address.
        ip: IpAddr,
        /// Where they are.
        paths: Vec<PathBuf>,
    },
}

/// Where was looked for namespaces, and with what success.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Searched {
    /// Namespaces that were entered.
    pub entered: usize,
    /// The places.
    pub places: Vec<String>,
    /// Processes whose namespace could not be told.
    pub hidden: usize,
    /// Namespaces that could not be entered: how many, and why the first.
    pub refused: Option<(usize, String)>,
}

impl std::fmt::Display for Searched {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} were looked into, found by {}", self.entered, self.places.join(", "))?;
        if self.hidden > 0 {
            let count = self.hidden;
            write!(f, "; those of {count} processes could not be told, which takes CAP_SYS_PTRACE")?;
        }
        if let Some((count, first)) = &self.refused {
            write!(f, "; {count} more could not be entered, the first because: {first}")?;
        }
        Ok(())
    }
}

fn list(paths: &[PathBuf]) -> String {
    let named = paths.iter().take(NAMED).map(|path| path.display().to_string());
    let more = paths.len().checked_sub(NAMED).filter(|more| *more > 0).map(|more| format!("{more} more"));
    named.chain(more).collect::<Vec<_>>().join(", ")
}

/// A namespace of a node, or why it cannot be opened.
#[derive(Debug)]
pub struct Opened {
    /// Which it is.
    pub place: Place,
    /// The pod whose own it is, as `namespace/name`.
    pub pod: Option<String>,
    /// The namespace.
    pub netns: Result<Netns, LocateError>,
}

/// Finds the namespaces of pods.
#[derive(Debug)]
pub struct Pods {
    folders: Vec<PathBuf>,
    /// Whether processes are asked for their namespaces too.
    processes: bool,
    found: Mutex<HashMap<NetnsName, Spot>>,
}

/// Where a pod's namespace was found.
#[derive(Clone, Debug)]
struct Spot {
    path: PathBuf,
    inode: NetnsInode,
}

/// A namespace that may be a pod's.
struct Candidate {
    path: PathBuf,
    netns: Netns,
}

impl Default for Pods {
    /// Searches where container runtimes keep namespaces, and asks all processes.
    fn default() -> Self {
        Self { folders: FOLDERS.map(PathBuf::from).into(), processes: true, found: Mutex::default() }
    }
}

impl Pods {
    /// Searches in these folders alone; everywhere if there are none.
    pub fn within(folders: Vec<PathBuf>) -> Self {
        if folders.is_empty() {
            return Self::default();
        }
        Self { folders, processes: false, found: Mutex::default() }
    }

    /// Searches without looking for a certain pod.
    pub fn survey(&self) -> Searched {
        self.search(None).1
    }

    /// Opens the namespaces of a node: its own first, then those of its pods, in the order of the scope. A
    /// pod that uses its node's namespace is not listed again.
    pub fn open_all(&self, scope: &Scope) -> Vec<Opened> {
        let mut listed = BTreeSet::from([&scope.node.netns]);
        let mut pods = Vec::new();
        for pod in &scope.pods {
            if !pod.host_network && listed.insert(&pod.netns) {
                pods.push(pod);
            }
        }
        // Pods that are gone need no memory.
        self.spots().retain(|name, _| listed.contains(name));
        self.open(scope.node.place(), &pods)
    }

    /// Opens one of the namespaces of a node; `None` if the scope does not have it.
    pub fn open_one(&self, scope: &Scope, name: &NetnsName) -> Option<Opened> {
        let pod = scope.pods.iter().find(|pod| pod.netns == *name);
        let mut opened = self.open(scope.node.place(), pod.as_slice());
        opened.drain(..).find(|opened| opened.place.netns == *name)
    }

    fn open(&self, own: Place, pods: &[&Pod]) -> Vec<Opened> {
        let netns = Netns::open(&own.netns).map_err(LocateError::Netns);
        let mut opened = vec![Opened { place: own, pod: None, netns }];
        let mut lost: Vec<(usize, &Pod)> = Vec::new();
        for &pod in pods {
            let netns = match pod.netns.pod() {
                None => Netns::open(&pod.netns).map_err(LocateError::Netns),
                Some(_) => self.remembered(pod).ok_or_else(|| {
                    lost.push((opened.len(), pod));
                    not_found(pod, Searched::default())
                }),
            };
            opened.push(Opened { place: pod.place(), pod: Some(pod.full_name()), netns });
        }
        if !lost.is_empty() {
            let own = opened[0].netns.as_ref().ok().map(Netns::inode);
            let (candidates, searched) = self.search(own);
            for (index, pod) in lost {
                opened[index].netns = self.choose(pod, &candidates, &searched);
            }
        }
        opened
    }

    /// A namespace that was found before, if it is still the pod's.
    fn remembered(&self, pod: &Pod) -> Option<Netns> {
        let spot = self.spots().get(&pod.netns).cloned()?;
        let netns = Netns::open_at(&pod.netns, &spot.path).ok()?;
        let addresses = (netns.inode() == spot.inode).then(|| addresses_in(&netns).ok())??;
        addresses.contains(&pod.ip).then_some(netns)
    }

    fn spots(&self) -> std::sync::MutexGuard<'_, HashMap<NetnsName, Spot>> {
        // Every change is one insert or one retain, so a panic elsewhere cannot leave it half done.
        self.found.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn choose(
        &self,
        pod: &Pod,
        candidates: &BTreeMap<IpAddr, Vec<Candidate>>,
        searched: &Searched,
    ) -> Result<Netns, LocateError> {
        match candidates.get(&pod.ip).map(Vec::as_slice) {
            None | Some([]) => Err(not_found(pod, searched.clone())),
            Some([only]) => {
                let spot = Spot { path: only.path.clone(), inode: only.netns.inode() };
                self.spots().insert(pod.netns.clone(), spot);
                Ok(only.netns.named(&pod.netns))
            }
            Some(many) => Err(LocateError::Ambiguous {
                pod: pod.full_name(),
                ip: pod.ip,
                paths: many.iter().map(|candidate| candidate.path.clone()).collect(),
            }),
        }
    }

    /// All namespaces that can be found, by the addresses they hold; neither the node's own nor that of
    /// this process.
    fn search(&self, own: Option<NetnsInode>) -> (BTreeMap<IpAddr, Vec<Candidate>>, Searched) {
        let mut by_address: BTreeMap<IpAddr, Vec<Candidate>> = BTreeMap::new();
        let mut searched = Searched::default();
        let Ok(myself) = fs::metadata("/proc/self/ns/net") else { return (by_address, searched) };
        let mut known = BTreeSet::from([myself.ino()]);
        known.extend(own.map(|inode| u64::from(inode.0)));
        for path in self.paths(&mut searched) {
            let metadata = match fs::metadata(&path) {
                Ok(metadata) => metadata,
                Err(error) => {
                    searched.hidden += usize::from(error.kind() == std::io::ErrorKind::PermissionDenied);
                    continue;
                }
            };
            // All namespaces are files of one kernel-internal file system; other files may lie beside them.
            if metadata.dev() != myself.dev() || !known.insert(metadata.ino()) {
                continue;
            }
            let name = NetnsName::from(path.display().to_string());
            let looked = Netns::open(&name).and_then(|netns| Ok((addresses_in(&netns)?, netns)));
            match looked {
                Ok((addresses, netns)) => {
                    searched.entered += 1;
                    for ip in addresses {
                        let candidate = Candidate { path: path.clone(), netns: netns.clone() };
                        by_address.entry(ip).or_default().push(candidate);
                    }
                }
                // It ended between the two looks.
                Err(NetnsError::Open { .. }) => {}
                Err(error) => {
                    searched.refused.get_or_insert_with(|| (0, error.to_string())).0 += 1;
                }
            }
        }
        (by_address, searched)
    }

    /// Files that may be namespaces. Those of folders come first: they last longer than processes.
    fn paths(&self, searched: &mut Searched) -> Vec<PathBuf> {
        let mut paths = Vec::new();
        for folder in &self.folders {
            let mut place = folder.display().to_string();
            match fs::read_dir(folder) {
                Ok(entries) => paths.extend(sorted(entries.flatten().map(|entry| entry.path()))),
                Err(error) => place = format!("{place} ({error})"),
            }
            searched.places.push(place);
        }
        if self.processes {
            let is_process = |path: &PathBuf| {
                path.file_name().is_some_and(|name| name.as_encoded_bytes().iter().all(u8::is_ascii_digit))
            };
            let entries = fs::read_dir("/proc").into_iter().flatten().flatten().map(|entry| entry.path());
            paths.extend(sorted(entries.filter(is_process).map(|path| path.join("ns/net"))));
            searched.places.push("the processes in /proc".to_owned());
        }
        paths
    }
}

fn sorted(paths: impl Iterator<Item = PathBuf>) -> Vec<PathBuf> {
    let mut paths: Vec<PathBuf> = paths.collect();
    paths.sort();
    paths
}

fn not_found(pod: &Pod, searched: Searched) -> LocateError {
    LocateError::NotFound { pod: pod.full_name(), ip: pod.ip, searched: Box::new(searched) }
}

/// The addresses that a namespace holds, but for those that every namespace holds.
fn addresses_in(netns: &Netns) -> Result<BTreeSet<IpAddr>, NetnsError> {
    let addresses = netns.run(facts::addresses_here)?;
    let addresses =
        addresses.inspect_err(|error| tracing::debug!(netns = %netns.name(), %error, "no addresses"));
    Ok(addresses.unwrap_or_default().into_iter().filter(|ip| !ip.is_loopback()).collect())
}
