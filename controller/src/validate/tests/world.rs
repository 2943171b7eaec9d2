//! A made-up world, whose dataplane can be told to misbehave.

use super::*;

/// How the world misbehaves.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Trouble {
    #[default]
    None,
    /// Policies have no effect.
    NotEnforced,
    /// Once a policy is there, nothing gets through.
    BreaksAll,
    /// The controller is away once a policy is there.
    ControllerAway,
    /// Somebody edits a policy right after it was applied.
    Meddler,
    /// The API server does not let anything be deleted.
    NoDeleting,
    /// The user interrupts once a policy is there.
    Interrupted,
    /// The second object is refused, though its dry run was not.
    SecondRefused,
    /// The API server is away for so many requests once something was applied.
    Away(u32),
    /// The same, and the answer to what was applied is lost.
    AwayWithoutAnswer(u32),
}

pub(super) struct World {
    pub(super) base: Objects,
    pub(super) objects: Mutex<BTreeMap<Key, Value>>,
    pub(super) version: Mutex<u64>,
    pub(super) trouble: Trouble,
    pub(super) stop: tokio::sync::watch::Sender<bool>,
    pub(super) requests: Mutex<Vec<String>>,
    /// How many requests have met no server.
    pub(super) unanswered: Mutex<u32>,
}

impl World {
    pub(super) fn new(trouble: Trouble) -> (Self, Stop) {
        let pods = vec![
            pod("cart", "10.0.1.1", "cart"),
            pod("pay", "10.0.1.2", "pay"),
            pod("web", "10.0.1.3", "web"),
        ];
        let (sender, stop) = Stop::new();
        let world = Self {
            base: objects(pods),
            objects: Mutex::default(),
            version: Mutex::new(1),
            trouble,
            stop: sender,
            requests: Mutex::default(),
            unanswered: Mutex::default(),
        };
        (world, stop)
    }

    /// `pay` serves DNS, too; or nothing else.
    pub(super) fn with_dns(&mut self, alone: bool) {
        let dns = json!({"name": "dns", "containerPort": 53, "protocol": "UDP"});
        let pay = Arc::make_mut(&mut self.base.pods[1]);
        let ports = pay.spec.as_mut().unwrap().containers[0].ports.as_mut().unwrap();
        if alone {
            ports.clear();
        }
        ports.push(serde_json::from_value(dns).unwrap());
    }

    pub(super) fn with(self, name: &str, spec: &Value) -> Self {
        let key = key(name);
        let mut object = manifest(name, spec);
        object["metadata"]["uid"] = format!("uid-{name}").into();
        object["metadata"]["resourceVersion"] = "1".into();
        object["metadata"]["managedFields"] = json!([{"manager": "kubectl", "operation": "Update"}]);
        self.objects.lock().unwrap().insert(key, object);
        self
    }

    pub(super) fn state(&self) -> BTreeMap<Key, Value> {
        let mut state = self.objects.lock().unwrap().clone();
        for object in state.values_mut() {
            object["metadata"]["resourceVersion"] = Value::Null;
        }
        state
    }

    pub(super) fn stamp(&self, object: &mut Value) {
        let mut version = self.version.lock().unwrap();
        *version += 1;
        object["metadata"]["resourceVersion"] = version.to_string().into();
    }

    pub(super) fn is_changed(&self) -> bool {
        let objects = self.objects.lock().unwrap();
        objects.values().any(|object| object["metadata"]["managedFields"][0]["manager"] == "waymark")
    }

    pub(super) fn note(&self, request: String) {
        self.requests.lock().unwrap().push(request);
    }

    /// Whether the API server is there.
    pub(super) fn server(&self) -> Result<(), ClusterError> {
        let (Trouble::Away(away) | Trouble::AwayWithoutAnswer(away)) = self.trouble else { return Ok(()) };
        let mut unanswered = self.unanswered.lock().unwrap();
        if self.requests.lock().unwrap().is_empty() || *unanswered == away {
            return Ok(());
        }
        *unanswered += 1;
        Err(ClusterError::Unavailable("no server".to_owned()))
    }

    pub(super) fn inventory(&self) -> Inventory {
        let mut objects = self.base.clone();
        let policies = self.objects.lock().unwrap();
        objects.policies = policies
            .values()
            .map(|policy| Arc::new(serde_json::from_value(policy.clone()).unwrap()))
            .collect();
        convert(&objects)
    }
}

#[async_trait]
impl Cluster for World {
    async fn objects(&self) -> Result<Objects, ClusterError> {
        let mut objects = self.base.clone();
        let policies = self.objects.lock().unwrap();
        objects.policies = policies
            .values()
            .map(|policy| Arc::new(serde_json::from_value(policy.clone()).unwrap()))
            .collect();
        Ok(objects)
    }

    async fn get(&self, key: &Key) -> Result<Option<Value>, ClusterError> {
        self.server()?;
        Ok(self.objects.lock().unwrap().get(key).cloned())
    }

    async fn apply(&self, item: &Item, mode: Mode) -> Result<Value, ClusterError> {
        if mode == Mode::Real && self.trouble == Trouble::SecondRefused && item.key.name == "second" {
            return Err(ClusterError::Refused("no".to_owned()));
        }
        let mut object = item.manifest.clone();
        object["metadata"]["uid"] = format!("uid-{}", item.key.name).into();
        object["metadata"]["managedFields"] = json!([{"manager": "waymark", "operation": "Apply"}]);
        if mode == Mode::Real {
            self.note(format!("apply {}", item.key.name));
            self.stamp(&mut object);
            let mut kept = object.clone();
            if self.trouble == Trouble::Meddler {
                kept["spec"]["podSelector"] = json!({"matchLabels": {"app": "meddled"}});
                kept["metadata"]["managedFields"][0] =
                    json!({"manager": "argocd", "time": "2026-11-24T00:00:00Z"});
            }
            self.objects.lock().unwrap().insert(item.key.clone(), kept);
            if matches!(self.trouble, Trouble::AwayWithoutAnswer(_)) {
                self.server()?;
            }
        }
        Ok(object)
    }

    async fn create(&self, key: &Key, manifest: &Value) -> Result<Value, ClusterError> {
        self.note(format!("create {}", key.name));
        assert!(manifest["metadata"]["uid"].is_null() && manifest["metadata"]["resourceVersion"].is_null());
        let mut object = manifest.clone();
        object["metadata"]["uid"] = "uid-new".into();
        self.stamp(&mut object);
        self.objects.lock().unwrap().insert(key.clone(), object.clone());
        Ok(object)
    }

    async fn replace(&self, key: &Key, manifest: &Value) -> Result<Value, ClusterError> {
        self.note(format!("replace {}", key.name));
        let now = self.objects.lock().unwrap().get(key).cloned().unwrap();
        if now["metadata"]["resourceVersion"] != manifest["metadata"]["resourceVersion"] {
            return Err(ClusterError::Conflict("another version".to_owned()));
        }
        let mut object = manifest.clone();
        if object["spec"] != now["spec"] {
            // As the API server does: whoever changes fields manages them.
            object["metadata"]["managedFields"] = json!([{"manager": "waymark", "operation": "Update"}]);
        }
        self.stamp(&mut object);
        self.objects.lock().unwrap().insert(key.clone(), object.clone());
        Ok(object)
    }

    async fn delete(&self, key: &Key, uid: &str, mode: Mode) -> Result<(), ClusterError> {
        if mode == Mode::DryRun {
            return Ok(());
        }
        self.note(format!("delete {}", key.name));
        if self.trouble == Trouble::NoDeleting {
            return Err(ClusterError::Forbidden("not permitted to delete it".to_owned()));
        }
        let removed = self.objects.lock().unwrap().remove(key).unwrap();
        assert_eq!(removed["metadata"]["uid"], uid);
        Ok(())
    }
}

#[async_trait]
impl Probe for World {
    async fn check(&self, pair: &Pair) -> Result<Observation, ProbeError> {
        let changed = self.is_changed();
        match self.trouble {
            Trouble::ControllerAway if changed => {
                return Err(ProbeError::Away("the controller went away".into()));
            }
            Trouble::Interrupted if changed => drop(self.stop.send(true)),
            _ => {}
        }
        let mut inventory = self.inventory();
        if self.trouble == Trouble::NotEnforced {
            inventory.policies.clear();
        }
        let all = BTreeSet::from(["shop".to_owned()]);
        let reach = Survey::new(&[&inventory], &all).reachability(&inventory).get(pair);
        let works = reach == Reach::Allowed && !(changed && self.trouble == Trouble::BreaksAll);
        let seen = if works { Seen::Works } else { Seen::Fails };
        Ok(Observation { seen, fault: None, note: None })
    }
}
