//! From kubeconfig, context or service account to a connection.

use std::path::{Path, PathBuf};

use kube::config::{KubeConfigOptions, Kubeconfig, KubeconfigError};
use kube::{Client, Config};

use super::error::{KubernetesError, innermost};

/// Which cluster to talk to, and as whom. By default as `kubectl` does it: `$KUBECONFIG`, else
/// `~/.kube/config`, else the service account of the pod that this runs in.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Access {
    /// A kubeconfig file.
    pub kubeconfig: Option<PathBuf>,
    /// A context of it; default: its current one.
    pub context: Option<String>,
}

/// A client, and what errors and defaults need to know of it.
#[derive(Clone)]
pub struct Connection {
    /// The client.
    pub client: Client,
    /// The API server, for messages.
    pub address: String,
    /// The namespace of the context, else `default`.
    pub namespace: String,
}

impl std::fmt::Debug for Connection {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Connection").field("address", &self.address).finish_non_exhaustive()
    }
}

impl Access {
    /// Reads the configuration and makes a client. Nothing is sent yet.
    ///
    /// # Errors
    /// If there is no configuration, or it is missing, malformed, or lacks the context.
    pub async fn connect(&self) -> Result<Connection, KubernetesError> {
        let (config, origin) = if let Some((kubeconfig, origin)) = self.kubeconfig()? {
            (self.of_kubeconfig(kubeconfig, &origin).await?, origin)
        } else {
            let config = Config::incluster().map_err(|_| KubernetesError::NoConfiguration)?;
            (config, "the pod's service account".to_owned())
        };
        let address = config.cluster_url.to_string().trim_end_matches('/').to_owned();
        let namespace = config.default_namespace.clone();
        let client = Client::try_from(config)
            .map_err(|error| KubernetesError::Credentials { origin, why: innermost(&error) })?;
        Ok(Connection { client, address, namespace })
    }

    /// The namespace of the context, `default` if it has none; `None` without a kubeconfig. Nothing is sent.
    ///
    /// # Errors
    /// If the kubeconfig is missing, malformed, or lacks the context.
    pub async fn namespace(&self) -> Result<Option<String>, KubernetesError> {
        match self.kubeconfig()? {
            Some((kubeconfig, origin)) => {
                Ok(Some(self.of_kubeconfig(kubeconfig, &origin).await?.default_namespace))
            }
            None => Ok(None),
        }
    }

    /// The kubeconfig with the name of where it came from; `None` if there is none.
    fn kubeconfig(&self) -> Result<Option<(Kubeconfig, String)>, KubernetesError> {
        if let Some(path) = &self.kubeconfig {
            return read(path).map(Some);
        }
        let listed = std::env::var_os("KUBECONFIG").filter(|list| !list.is_empty());
        if let Some(list) = listed {
            let origin = format!("$KUBECONFIG ({})", list.display());
            let kubeconfig = Kubeconfig::read().map_err(|error| unreadable(&origin, &error))?;
            return Ok(Some((kubeconfig, origin)));
        }
        let usual = std::env::home_dir().map(|home| home.join(".kube/config"));
        match usual.filter(|path| path.exists()) {
            Some(path) => read(&path).map(Some),
            None if self.context.is_some() => Err(KubernetesError::NoConfiguration),
            None => Ok(None),
        }
    }

    async fn of_kubeconfig(&self, kubeconfig: Kubeconfig, origin: &str) -> Result<Config, KubernetesError> {
        let known: Vec<String> = kubeconfig.contexts.iter().map(|context| context.name.clone()).collect();
        let wanted = self.context.clone().or_else(|| kubeconfig.current_context.clone());
        let wanted = wanted.filter(|context| !context.is_empty());
        let origin = origin.to_owned();
        match wanted {
            None => return Err(KubernetesError::NoContext { origin, known }),
            Some(context) if !known.contains(&context) => {
                return Err(KubernetesError::UnknownContext { origin, context, known });
            }
            Some(context) => {
                if let Some(why) = useless_user(&kubeconfig, &context) {
                    return Err(KubernetesError::Kubeconfig { origin, why });
                }
            }
        }
        let options = KubeConfigOptions { context: self.context.clone(), ..KubeConfigOptions::default() };
        Config::from_custom_kubeconfig(kubeconfig, &options)
            .await
            .map_err(|error| unreadable(&origin, &error))
    }
}

fn read(path: &Path) -> Result<(Kubeconfig, String), KubernetesError> {
    let origin = path.display().to_string();
    let kubeconfig = Kubeconfig::read_from(path).map_err(|error| unreadable(&origin, &error))?;
    Ok((kubeconfig, origin))
}

/// What is wrong with the user of a context, or with the files that it names. The client would go on without
/// them, as nobody, and be refused for that.
fn useless_user(kubeconfig: &Kubeconfig, context: &str) -> Option<String> {
    let named = kubeconfig.contexts.iter().find(|named| named.name == context)?;
    let name = named.context.as_ref()?.user.as_ref()?;
    let Some(user) = kubeconfig.auth_infos.iter().find(|user| user.name == *name) else {
        return Some(format!("its context {context} is for user {name}, whom it does not have"));
    };
    let user = user.auth_info.as_ref()?;
    let files = [&user.client_certificate, &user.client_key, &user.token_file];
    files.into_iter().flatten().find_map(|path| {
        let error = std::fs::File::open(path).err()?;
        Some(format!("its user {name} names {path}: {error}"))
    })
}

fn unreadable(origin: &str, error: &KubeconfigError) -> KubernetesError {
    let why = match error {
        // Its own words name the file once more.
        KubeconfigError::ReadConfig(error, _) => error.to_string(),
        other => other.to_string(),
    };
    // The parser shows the place by some lines of the file; the first says it in words.
    let why = why.lines().next().unwrap_or_default().trim_end_matches(':').to_owned();
    KubernetesError::Kubeconfig { origin: origin.to_owned(), why }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn says(text: Option<&str>, context: Option<&str>) -> String {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("kubeconfig");
        if let Some(text) = text {
            std::fs::write(&path, text).unwrap();
        }
        let access = Access { kubeconfig: Some(path), context: context.map(str::to_owned) };
        let error = access.connect().await.unwrap_err().to_string();
        assert!(!error.contains('\n'), "{error}");
        error.replace(&folder.path().display().to_string(), "DIR")
    }

    const GOOD: &str = r#"{"apiVersion":"v1","kind":"Config","current-context":"dev",
        "clusters":[{"name":"c","cluster":{"server":"http://127.0.0.1:1"}}],
        "users":[{"name":"u","user":{"token":"t"}}],
        "contexts":[{"name":"dev","context":{"cluster":"c","user":"u","namespace":"shop"}},
                    {"name":"prod","context":{"cluster":"c","user":"gone"}},
                    {"name":"nowhere","context":{"cluster":"gone","user":"u"}}]}"#;

    #[tokio::test]
    async fn a_kubeconfig_that_cannot_be_used_is_told_with_its_name() {
        let missing = says(None, None).await;
        assert!(missing.starts_with("cannot use the kubeconfig DIR/kubeconfig: No such file"), "{missing}");
        let malformed = says(Some("{ this is"), None).await;
        assert!(
            malformed.starts_with("cannot use the kubeconfig DIR/kubeconfig: failed to parse"),
            "{malformed}"
        );
        let unknown = says(Some(GOOD), Some("stage")).await;
        assert_eq!(
            unknown,
            "the kubeconfig DIR/kubeconfig has no context \"stage\": it has dev, prod, nowhere"
        );
        let none = says(Some(&GOOD.replace("\"dev\",\n", "\"\",\n")), None).await;
        assert_eq!(
            none,
            "the kubeconfig DIR/kubeconfig has no current context: name one of dev, prod, nowhere by --context"
        );
        let no_user = says(Some(GOOD), Some("prod")).await;
        assert!(no_user.ends_with("its context prod is for user gone, whom it does not have"), "{no_user}");
        let no_cluster = says(Some(GOOD), Some("nowhere")).await;
        assert!(no_cluster.contains("cluster"), "{no_cluster}");
        let bad_certificate = GOOD
            .replace("\"token\":\"t\"", "\"client-certificate\":\"/no/such\",\"client-key\":\"/no/such\"");
        let bad_certificate = says(Some(&bad_certificate), None).await;
        assert!(bad_certificate.contains("/no/such"), "{bad_certificate}");
    }

    #[tokio::test]
    async fn a_context_gives_address_and_namespace() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), GOOD).unwrap();
        let access = Access { kubeconfig: Some(file.path().into()), context: None };
        let connection = access.connect().await.unwrap();
        assert_eq!(
            (connection.address.as_str(), connection.namespace.as_str()),
            ("http://127.0.0.1:1", "shop")
        );
    }
}
