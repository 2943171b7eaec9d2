"""Teaches Kubernetes 1.20 to serve EndpointSlices as discovery.k8s.io/v1, from the storage of v1beta1, as 1.21
does: current clients ask for nothing else. Run in the folder of the sources."""

import re
import shutil
from pathlib import Path

API = Path("staging/src/k8s.io/api/discovery")
INTERNAL = Path("pkg/apis/discovery")


def substitute(path, old, new):
    """Replaces the one occurrence that there must be."""
    path = Path(path)
    text = path.read_text()
    if old not in text:
        raise SystemExit(f"envtest: {path} is not of the version that this was written for: no {old!r}")
    path.write_text(text.replace(old, new, 1))


def copy_version(folder):
    target = folder / "v1"
    shutil.rmtree(target, ignore_errors=True)
    shutil.copytree(folder / "v1beta1", target)
    for pattern in ["*_test.go", "zz_generated.prerelease-lifecycle.go", "BUILD"]:
        for path in target.glob(pattern):
            path.unlink()
    return target


internal = copy_version(INTERNAL)
api = copy_version(API)

# The core API is called v1 in there, and now something else is.
conversion = internal / "zz_generated.conversion.go"
text = conversion.read_text().replace('v1 "k8s.io/api/core/v1"', 'corev1 "k8s.io/api/core/v1"')
conversion.write_text(re.sub(r"(?<![\w.])v1\.", "corev1.", text))

for path in [*api.glob("*.go"), api / "generated.proto", *internal.glob("*.go")]:
    text = path.read_text().replace("v1beta1", "v1").replace("V1beta1", "V1").replace("__v1_", "_v1_")
    path.write_text("\n".join(line for line in text.split("\n") if "+k8s:prerelease-lifecycle-gen" not in line))
# So it is called since 1.21.
substitute(api / "types.go", 'json:"topology,omitempty"', 'json:"deprecatedTopology,omitempty"')

install = INTERNAL / "install/install.go"
alpha = '"k8s.io/kubernetes/pkg/apis/discovery/v1alpha1"'
substitute(install, alpha, f'v1 "k8s.io/kubernetes/pkg/apis/discovery/v1"\n\t{alpha}')
beta = "utilruntime.Must(v1beta1.AddToScheme(scheme))"
substitute(install, beta, f"{beta}\n\tutilruntime.Must(v1.AddToScheme(scheme))")
order = "SetVersionPriority(v1beta1.SchemeGroupVersion"
substitute(install, order, "SetVersionPriority(v1.SchemeGroupVersion, v1beta1.SchemeGroupVersion")

storage = "pkg/registry/discovery/rest/storage_discovery.go"
substitute(storage, 'discoveryv1alpha1 "k8s', 'discoveryv1 "k8s.io/api/discovery/v1"\n\tdiscoveryv1alpha1 "k8s')
substitute(
    storage,
    "\treturn apiGroupInfo, true, nil",
    """\tif apiResourceConfigSource.VersionEnabled(discoveryv1.SchemeGroupVersion) {
\t\tstorageMap, err := p.v1beta1Storage(apiResourceConfigSource, restOptionsGetter)
\t\tif err != nil {
\t\t\treturn genericapiserver.APIGroupInfo{}, false, err
\t\t}
\t\tapiGroupInfo.VersionedResourcesStorageMap[discoveryv1.SchemeGroupVersion.Version] = storageMap
\t}

\treturn apiGroupInfo, true, nil""",
)

instance = "pkg/controlplane/instance.go"
beta = 'discoveryv1beta1 "k8s.io/api/discovery/v1beta1"'
substitute(instance, beta, f'discoveryv1 "k8s.io/api/discovery/v1"\n\t{beta}')
beta = "\t\tdiscoveryv1beta1.SchemeGroupVersion,"
substitute(instance, beta, f"\t\tdiscoveryv1.SchemeGroupVersion,\n{beta}")

aggregator = Path("cmd/kube-apiserver/app/aggregator.go")
beta = re.search(r'\t\{Group: "discovery.k8s.io", Version: "v1beta1"\}:.*\n', aggregator.read_text())
if not beta:
    raise SystemExit(f"envtest: {aggregator} is not of the version that this was written for")
one = beta.group(0).replace("v1beta1", "v1").replace("version: 12", "version: 15")
substitute(aggregator, beta.group(0), beta.group(0) + one)

# Written anew from the types.
Path("pkg/generated/openapi/zz_generated.openapi.go").unlink(missing_ok=True)
