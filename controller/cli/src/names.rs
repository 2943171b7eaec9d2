//! Names as kubectl's users write them: without the namespace, or of a Deployment. Pure.

/// What a target's text names.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Name<'a> {
    /// All that there is to say, or nothing that is known here: the controller says what is wrong with it.
    Whole,
    /// A pod or Service without its namespace.
    Short {
        /// `pod`, `svc` or another word for them.
        kind: &'a str,
        /// The name, with its port if there is one.
        rest: &'a str,
    },
    /// A Deployment, which stands for one of its pods.
    Deployment {
        /// Its namespace, if it was written.
        namespace: Option<&'a str>,
        /// Its name.
        name: &'a str,
        /// `:PORT` or nothing.
        port: &'a str,
    },
}

impl<'a> Name<'a> {
    /// Reads a target's text.
    pub(crate) fn read(text: &'a str) -> Self {
        let Some((kind, rest)) = text.split_once('/') else { return Self::Whole };
        let (path, port) = rest.find(':').map_or((rest, ""), |colon| rest.split_at(colon));
        let (namespace, name) = match path.split_once('/') {
            Some((namespace, name)) => (Some(namespace), name),
            None => (None, path),
        };
        if name.is_empty() || name.contains('/') || namespace == Some("") {
            return Self::Whole;
        }
        match (kind, namespace) {
            ("pod" | "po" | "pods" | "svc" | "service" | "services", None) => Self::Short { kind, rest },
            ("deploy" | "deployment" | "deployments", namespace) => {
                Self::Deployment { namespace, name, port }
            }
            _ => Self::Whole,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_read_as_kubectl_has_them() {
        let short = |kind, rest| Name::Short { kind, rest };
        let deployment = |namespace, name, port| Name::Deployment { namespace, name, port };
        for (text, name) in [
            ("pod/cart", short("pod", "cart")),
            ("po/cart:80", short("po", "cart:80")),
            ("svc/pay:80", short("svc", "pay:80")),
            ("service/pay", short("service", "pay")),
            ("deploy/cart", deployment(None, "cart", "")),
            ("deployment/shop/cart:80", deployment(Some("shop"), "cart", ":80")),
            ("pod/shop/cart", Name::Whole),
            ("svc/shop/pay:80", Name::Whole),
            ("node/n1", Name::Whole),
            ("10.0.0.1:80", Name::Whole),
            ("fd00::1", Name::Whole),
            ("pod/", Name::Whole),
            ("pod/:80", Name::Whole),
            ("deploy//cart", Name::Whole),
            ("deploy/a/b/c", Name::Whole),
            ("job/cart", Name::Whole),
        ] {
            assert_eq!(Name::read(text), name, "{text}");
        }
    }
}
