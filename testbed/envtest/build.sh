#!/bin/sh
# Builds kube-apiserver, kube-controller-manager and kube-proxy 1.20.2 for the testbed and the tests, from the
# source package of Debian 12, into the cache where they are looked for. Takes about five minutes on two cores,
# and 3 GB of disk until it is done. Nothing is installed: compiler and sources go into a folder that is removed.
#
# Not built: apiextensions-apiserver of a current version, with which some tests prove the custom resources. It
# needs a newer Go than Debian 12 has; put it into a folder and name that in KUBEBUILDER_ASSETS.
#
# Needs apt, python3 and Debian's keys (package debian-archive-keyring); amd64 or arm64.
# DEBIAN_MIRROR names another mirror than this machine's own, or https://deb.debian.org/debian.
set -eu

here=$(cd "$(dirname "$0")" && pwd)
target=${XDG_CACHE_HOME:-$HOME/.cache}/waymark/envtest/built
keys=/usr/share/keyrings/debian-archive-keyring.gpg

fail() {
	echo "envtest: $1" >&2
	exit 1
}
if [ -x "$target/kube-apiserver" ]; then
	echo "envtest: $target is there already; remove it to build it anew"
	exit 0
fi
for program in apt-get dpkg python3 tar; do
	command -v "$program" >/dev/null || fail "$program is missing: the programs are built from Debian's sources; on \
another system put kube-apiserver, kube-controller-manager, kube-proxy and etcd into a folder and name it in \
KUBEBUILDER_ASSETS"
done
[ -r "$keys" ] || fail "$keys is missing: apt-get install debian-archive-keyring"

mirror=${DEBIAN_MIRROR:-}
if [ -z "$mirror" ] && grep -q '^ID=debian' /etc/os-release; then
	mirror=$(sed -n 's/^URIs: *\([^ ]*\).*/\1/p' /etc/apt/sources.list.d/debian.sources 2>/dev/null | head -n 1)
fi
mirror=${mirror:-https://deb.debian.org/debian}

# Beside the target, so that the last step is a rename.
mkdir -p "$(dirname "$target")"
work=$(mktemp -d "$target.XXXXXX")
trap 'chmod -R u+w "$work"; rm -rf "$work"' EXIT
trap 'exit 1' INT TERM

echo "envtest: fetching compiler and sources from $mirror"
mkdir -p "$work/apt/lists/partial" "$work/apt/cache/archives/partial" "$work/packages" "$work/root"
for kind in deb deb-src; do
	echo "$kind [signed-by=$keys] $mirror bookworm main"
done >"$work/apt/sources.list"
apt() {
	apt-get -qq -o "Dir::Etc::SourceList=$work/apt/sources.list" -o Dir::Etc::SourceParts=- \
		-o "Dir::State::Lists=$work/apt/lists" -o "Dir::Cache=$work/apt/cache" \
		-o APT::Sandbox::User= -o Acquire::Languages=none "$@"
}
apt update
cd "$work/packages"
apt download golang-1.19-go golang-1.19-src golang-github-modern-go-reflect2-dev
apt source --download-only kubernetes
for package in ./*.deb; do
	dpkg -x "$package" "$work/root"
done

export GOROOT="$work/root/usr/lib/go-1.19" GOPATH="$work/gopath" GOCACHE="$work/gocache"
# What a killed build leaves behind goes with the folder too.
export GOTMPDIR="$work/tmp"
mkdir -p "$GOTMPDIR"
export GO111MODULE=off GOPROXY=off GOFLAGS='' CGO_ENABLED=0
PATH=$GOROOT/bin:$PATH
# Debian's Go finds its sources by links that lead out of the private folder.
for folder in src test api misc pkg/include; do
	if [ -L "$GOROOT/$folder" ] && [ ! -e "$GOROOT/$folder" ] && [ -e "$work/root/usr/share/go-1.19/$folder" ]; then
		ln -sfn "$work/root/usr/share/go-1.19/$folder" "$GOROOT/$folder"
	fi
done
sources=$GOPATH/src/k8s.io/kubernetes
mkdir -p "$sources" "$work/bin"
tar xf kubernetes_*.orig.tar.gz -C "$sources" --strip-components=1
cd "$sources"
# The vendored version crashes when it is built by Go 1.18 and newer.
reflect=vendor/github.com/modern-go/reflect2
rm -f $reflect/*.go $reflect/*.s
cp "$work"/root/usr/share/gocode/src/github.com/modern-go/reflect2/*.go $reflect/
python3 "$here/serve_discovery_v1.py"

echo "envtest: building"
go build -o "$work/openapi-gen" ./vendor/k8s.io/kube-openapi/cmd/openapi-gen
packages=$(grep -rl --include='*.go' '+k8s:openapi-gen=' pkg staging/src/k8s.io cmd |
	grep -v -E 'zz_generated|_test.go|/code-generator/|/sample-apiserver/|_examples' |
	xargs -n1 dirname | LC_ALL=C sort -u |
	sed -e 's#^staging/src/#k8s.io/kubernetes/vendor/#; t; s#^#k8s.io/kubernetes/#' | paste -s -d,)
"$work/openapi-gen" --logtostderr -i "$packages" -p k8s.io/kubernetes/pkg/generated/openapi \
	-O zz_generated.openapi -h vendor/k8s.io/code-generator/hack/boilerplate.go.txt \
	-r "$work/violations" --output-base "$GOPATH/src"
flags="-s -w"
for package in component-base/version client-go/pkg/version; do
	package=k8s.io/kubernetes/vendor/k8s.io/$package
	flags="$flags -X $package.gitVersion=v1.20.2 -X $package.gitMajor=1 -X $package.gitMinor=20"
	flags="$flags -X $package.gitTreeState=clean"
done
go build -trimpath -tags providerless -ldflags "$flags" -o "$work/bin/" \
	./cmd/kube-apiserver ./cmd/kube-controller-manager ./cmd/kube-proxy
mv -T "$work/bin" "$target"
echo "envtest: built into $target"
