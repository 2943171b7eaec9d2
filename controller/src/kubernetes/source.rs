//! A source that watches a cluster.
//!
//! Each kind is listed and then watched. When a watch breaks, the kind is listed anew, with growing pauses;
//! what was known stays until then, and [`doubt`](Source::doubt) says how old it is. The inventory is built
//! when somebody asks and something that matters changed since.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use futures::StreamExt;
use futures::future::join_all;
use k8s_openapi::api::authorization::v1::{
    ResourceAttributes, SelfSubjectAccessReview, SelfSubjectAccessReviewSpec,
};
use k8s_openapi::api::core::v1::{Namespace, Node, Pod, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use k8s_openapi::api::networking::v1::NetworkPolicy;
use kube::api::PostParams;
use kube::runtime::reflector::store::Writer;
use kube::runtime::reflector::{ObjectRef, Store, store};
use kube::runtime::watcher::{self, DefaultBackoff, Event, watcher};
use kube::{Api, Client};
use tokio::sync::{Mutex, watch};
use tokio::task::JoinSet;
use waymark_proto::{Inventory, Text, text};

use super::client::Connection;
use super::convert::{Objects, convert};
use super::error::{KubernetesError, Verb};
use super::tracked::Tracked;
use crate::source::{Source, SourceError};

/// How long the first lists may take. A hundred thousand pods come in pages within a minute.
const READY: Duration = Duration::from_secs(120);
/// How long a watch must have lasted after the right to it was missing, until it counts as granted.
const SETTLED: Duration = Duration::from_secs(5);
/// Watches are cut now and then and come back at once: not worth a word.
const GLITCH: Duration = Duration::from_secs(5);

/// How a kind stands.
#[derive(Clone, Debug)]
enum Health {
    /// Not listed yet.
    Starting,
    /// Being watched.
    Live,
    /// Not being watched since.
    Lost { since: Instant, why: Arc<KubernetesError> },
}

type Kinds = BTreeMap<String, Health>;

/// A cluster that is being watched. Dropping it ends the watches.
#[derive(Debug)]
pub struct KubernetesSource {
    shared: Arc<Shared>,
    stores: Stores,
    /// The version that the inventory was built at, and the inventory.
    built: Mutex<Option<(u64, Arc<Inventory>)>>,
    _watches: JoinSet<()>,
}

#[derive(Debug)]
struct Shared {
    address: String,
    /// Grows with every change that matters.
    version: AtomicU64,
    health: watch::Sender<Kinds>,
}

#[derive(Debug)]
struct Stores {
    nodes: Store<Node>,
    pods: Store<Pod>,
    services: Store<Service>,
    slices: Store<EndpointSlice>,
    policies: Store<NetworkPolicy>,
    namespaces: Store<Namespace>,
}

impl KubernetesSource {
    /// Begins to watch, and waits until everything was listed once.
    ///
    /// # Errors
    /// If the API server cannot be reached, or does not permit to list or watch one of the kinds.
    pub async fn start(connection: Connection) -> Result<Self, KubernetesError> {
        let Connection { client, address, .. } = connection;
        let (health, mut changes) = watch::channel(Kinds::new());
        let shared = Arc::new(Shared { address, version: AtomicU64::new(0), health });
        let mut watches = JoinSet::new();
        let stores = Stores {
            nodes: follow(&client, &shared, &mut watches),
            pods: follow(&client, &shared, &mut watches),
            services: follow(&client, &shared, &mut watches),
            slices: follow(&client, &shared, &mut watches),
            policies: follow(&client, &shared, &mut watches),
            namespaces: follow(&client, &shared, &mut watches),
        };
        let begun = |kinds: &Kinds| !kinds.values().any(|health| matches!(health, Health::Starting));
        let kinds = match tokio::time::timeout(READY, changes.wait_for(begun)).await {
            Ok(Ok(kinds)) => kinds.clone(),
            // The sender is held by this function, so there is no other way than time's.
            Ok(Err(_)) | Err(_) => return Err(too_slow(&shared)),
        };
        let error = first_error(&kinds);
        if error.as_ref().is_none_or(KubernetesError::is_watch_forbidden) {
            // Some watches may not have been refused yet.
            may_watch(&client, &shared.address).await?;
        }
        if let Some(error) = error {
            return Err(error);
        }
        Ok(Self { shared, stores, built: Mutex::default(), _watches: watches })
    }
}

/// Keeps a kind in a store, for as long as its task lives.
fn follow<K: Tracked>(client: &Client, shared: &Arc<Shared>, watches: &mut JoinSet<()>) -> Store<K> {
    let (reader, writer) = store();
    shared.set::<K>(Health::Starting);
    watches.spawn(keep(Api::<K>::all(client.clone()), reader.clone(), writer, Arc::clone(shared)));
    reader
}

async fn keep<K: Tracked>(api: Api<K>, reader: Store<K>, mut writer: Writer<K>, shared: Arc<Shared>) {
    let mut pauses = DefaultBackoff::default();
    // Whether a watch must first last before its kind counts as watched.
    let mut distrust = false;
    loop {
        let mut events = std::pin::pin!(watcher(api.clone(), watcher::Config::default()));
        let mut listed: Option<tokio::time::Instant> = None;
        let error = loop {
            let settled = async {
                match listed {
                    Some(at) if distrust => tokio::time::sleep_until(at + SETTLED).await,
                    _ => std::future::pending().await,
                }
            };
            let event = tokio::select! {
                event = events.next() => event,
                () = settled => {
                    distrust = false;
                    shared.set::<K>(Health::Live);
                    continue;
                }
            };
            match event.expect("a watcher has no end") {
                Ok(event) => {
                    let event = event.modify(K::trim);
                    let matters = matters(&reader, &event);
                    writer.apply_watcher_event(&event);
                    if matters {
                        shared.version.fetch_add(1, Ordering::Release);
                    }
                    if matches!(event, Event::InitDone) {
                        listed = Some(tokio::time::Instant::now());
                        if !distrust {
                            shared.set::<K>(Health::Live);
                        }
                    }
                }
                Err(error) => break KubernetesError::of_watcher(&K::resource(), &shared.address, &error),
            }
        };
        distrust = error.is_watch_forbidden();
        tracing::warn!(resource = K::resource(), %error, "not watched any more; will list anew");
        shared.lost::<K>(error);
        tokio::time::sleep(pauses.next().unwrap_or(SETTLED)).await;
    }
}

/// Whether an event changes what is known.
fn matters<K: Tracked>(known: &Store<K>, event: &Event<K>) -> bool {
    match event {
        Event::Apply(object) => {
            known.get(&ObjectRef::from_obj(object)).is_none_or(|before| *before != *object)
        }
        Event::Delete(_) | Event::InitDone => true,
        Event::Init | Event::InitApply(_) => false,
    }
}

impl Shared {
    fn set<K: Tracked>(&self, health: Health) {
        self.health.send_modify(|kinds| {
            kinds.insert(K::resource(), health);
        });
    }

    /// Notes why a kind is not watched; for how long stays as it was.
    fn lost<K: Tracked>(&self, why: KubernetesError) {
        self.health.send_modify(|kinds| {
            let since = match kinds.get(&K::resource()) {
                Some(Health::Lost { since, .. }) => *since,
                _ => Instant::now(),
            };
            kinds.insert(K::resource(), Health::Lost { since, why: Arc::new(why) });
        });
    }
}

fn too_slow(shared: &Shared) -> KubernetesError {
    let kinds = shared.health.borrow();
    let slow = kinds.iter().filter(|(_, health)| matches!(health, Health::Starting));
    KubernetesError::TooSlow {
        address: shared.address.clone(),
        resources: slow.map(|(name, _)| name.as_str()).collect::<Vec<_>>().join(", "),
        after: READY,
    }
}

/// What keeps the source from starting: of missing rights all, of other errors the first.
fn first_error(kinds: &Kinds) -> Option<KubernetesError> {
    let errors: Vec<Arc<KubernetesError>> = kinds
        .values()
        .filter_map(|health| match health {
            Health::Lost { why, .. } => Some(Arc::clone(why)),
            Health::Starting | Health::Live => None,
        })
        .collect();
    let forbidden: Vec<_> = errors
        .iter()
        .filter_map(|error| match &**error {
            KubernetesError::Forbidden { verb, resources, user } => Some((*verb, resources, user)),
            _ => None,
        })
        .collect();
    let refused = forbidden.first().map(|(verb, _, user)| KubernetesError::Forbidden {
        verb: *verb,
        resources: forbidden.iter().map(|(_, name, _)| name.as_str()).collect::<Vec<_>>().join(", "),
        user: (*user).clone(),
    });
    refused.or_else(|| errors.first().map(|error| KubernetesError::clone(error)))
}

/// Asks whether everything that was listed may be watched too: a watch that is refused would show only later.
async fn may_watch(client: &Client, address: &str) -> Result<(), KubernetesError> {
    let kinds = [
        attributes::<Node>(),
        attributes::<Pod>(),
        attributes::<Service>(),
        attributes::<EndpointSlice>(),
        attributes::<NetworkPolicy>(),
        attributes::<Namespace>(),
    ];
    let reviews: Api<SelfSubjectAccessReview> = Api::all(client.clone());
    let ask = |attributes: ResourceAttributes| {
        let reviews = reviews.clone();
        async move {
            let resource = attributes.resource.clone().unwrap_or_default();
            let spec =
                SelfSubjectAccessReviewSpec { resource_attributes: Some(attributes), ..Default::default() };
            let review = SelfSubjectAccessReview { spec, ..Default::default() };
            let answer = reviews.create(&PostParams::default(), &review).await;
            // Who may not even ask is told by the watch itself.
            let denied = answer.is_ok_and(|review| review.status.is_some_and(|status| !status.allowed));
            denied.then_some(resource)
        }
    };
    let mut denied: Vec<String> = join_all(kinds.map(ask)).await.into_iter().flatten().collect();
    denied.sort();
    if denied.is_empty() {
        return Ok(());
    }
    let user = format!("with the credentials for {address}");
    Err(KubernetesError::Forbidden { verb: Verb::Watch, resources: denied.join(", "), user })
}

fn attributes<K: Tracked>() -> ResourceAttributes {
    ResourceAttributes {
        group: Some(K::group(&()).into_owned()),
        resource: Some(K::resource()),
        verb: Some(Verb::Watch.to_string()),
        ..ResourceAttributes::default()
    }
}

#[async_trait]
impl Source for KubernetesSource {
    async fn inventory(&self) -> Result<Arc<Inventory>, SourceError> {
        let mut built = self.built.lock().await;
        // Read before the stores are: what changes meanwhile is built the next time.
        let version = self.shared.version.load(Ordering::Acquire);
        if let Some((at, inventory)) = &*built
            && *at == version
        {
            return Ok(Arc::clone(inventory));
        }
        let objects = self.stores.objects();
        let inventory = tokio::task::spawn_blocking(move || convert(&objects)).await;
        let inventory = inventory.unwrap_or_else(|error| std::panic::resume_unwind(error.into_panic()));
        let inventory = match built.take() {
            Some((_, same)) if *same == inventory => same,
            _ => Arc::new(inventory),
        };
        *built = Some((version, Arc::clone(&inventory)));
        Ok(inventory)
    }

    fn doubt(&self) -> Option<Text> {
        doubt(&self.shared.health.borrow(), Instant::now())
    }
}

/// What is not watched, for how long, and why.
fn doubt(kinds: &Kinds, now: Instant) -> Option<Text> {
    let lost: Vec<_> = kinds
        .iter()
        .filter_map(|(name, health)| match health {
            Health::Lost { since, why } => Some((name.as_str(), now.saturating_duration_since(*since), why)),
            Health::Starting | Health::Live => None,
        })
        .filter(|(_, age, _)| *age >= GLITCH)
        .collect();
    let (_, age, why) = lost.iter().max_by_key(|(_, age, _)| *age)?;
    let names: Vec<&str> = lost.iter().map(|(name, ..)| *name).collect();
    Some(text!(note::Stale { kinds: names.join(", "), seconds: age.as_secs(), why: why.to_string() }))
}

impl Stores {
    fn objects(&self) -> Objects {
        Objects {
            nodes: self.nodes.state(),
            pods: self.pods.state(),
            services: self.services.state(),
            slices: self.slices.state(),
            policies: self.policies.state(),
            namespaces: self.namespaces.state(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_watch_that_was_lost_says_how_old_its_knowledge_is() {
        let now = Instant::now();
        let lost = |ago| Health::Lost {
            since: now.checked_sub(Duration::from_secs(ago)).unwrap(),
            why: Arc::new(KubernetesError::Unauthorized { address: "https://h".into() }),
        };
        let mut kinds = Kinds::from([("nodes".into(), Health::Live), ("pods".into(), lost(2))]);
        assert_eq!(doubt(&kinds, now), None, "a glitch");
        kinds.insert("services".into(), lost(42));
        let says = doubt(&kinds, now).unwrap();
        assert!(
            says.starts_with("what is known of services may be 42 s old: the Kubernetes API server"),
            "{says}"
        );
        kinds.insert("pods".into(), lost(7));
        assert!(doubt(&kinds, now).unwrap().starts_with("what is known of pods, services may be 42 s old"));
    }

    #[test]
    fn missing_rights_are_told_together() {
        let refused = |resources: &str| Health::Lost {
            since: Instant::now(),
            why: Arc::new(KubernetesError::Forbidden {
                verb: Verb::List,
                resources: resources.into(),
                user: "as user x".into(),
            }),
        };
        let kinds = Kinds::from([
            ("nodes".into(), refused("nodes")),
            ("pods".into(), Health::Live),
            ("services".into(), refused("services")),
        ]);
        let says = first_error(&kinds).unwrap().to_string();
        assert!(says.starts_with("not permitted to list nodes, services (as user x)"), "{says}");
        assert!(first_error(&Kinds::from([("pods".into(), Health::Live)])).is_none());
    }
}
