#!/bin/sh
# Puts kernels of Debian's releases, and the programs that boot them, into the cache where the tests look for them:
# a folder for each release, and `tools` with QEMU and what else a guest needs, all with the libraries that they need.
# Some 300 MB are fetched, once. Nothing is installed: packages are unpacked into the cache, by an apt that knows
# neither this system's packages nor its sources; it checks them by Debian's signatures.
#
#     fetch.sh [RELEASE...]       without a name all: bullseye bookworm trixie sid
#
# What is there already stays; remove its folder to have it anew. What cannot be fetched is told and left out; under
# CI that is a failure.
#
# Needs apt and Debian's keys (package debian-archive-keyring), on amd64. DEBIAN_MIRROR names another mirror than
# this machine's own, and must on a system that is not Debian.
set -eu

target=${XDG_CACHE_HOME:-$HOME/.cache}/waymark/kernels
keys=/usr/share/keyrings/debian-archive-keyring.gpg
# The release whose programs boot the kernels: QEMU 7 of bookworm crashes guests of 6.12 and newer.
tools=trixie
[ $# -gt 0 ] || set -- bullseye bookworm trixie sid

lack() { # lack WHAT: it is left out
	echo "kernels: $1" >&2
	[ -z "${CI:-}" ] || exit 1
}
for release in tools "$@"; do
	[ -d "$target/$release" ] || wanted=yes
done
[ -n "${wanted:-}" ] || exit 0

mirror=${DEBIAN_MIRROR:-}
if [ -z "$mirror" ] && grep -q '^ID=debian' /etc/os-release; then
	mirror=$(cat /etc/apt/sources.list.d/debian.sources /etc/apt/sources.list 2>/dev/null |
		sed -n 's/^URIs: *\([^ ]*\).*/\1/p; s/^deb \(\[[^]]*\] \)\{0,1\}\([^ ]*\).*/\2/p' | head -n 1)
fi
for program in apt-get dpkg; do
	command -v "$program" >/dev/null || missing="$program is missing: the kernels are Debian's packages"
done
[ -r "$keys" ] || missing="$keys is missing: apt-get install debian-archive-keyring"
[ -n "$mirror" ] || missing="no mirror of Debian is known: name one in DEBIAN_MIRROR"
[ "$(uname -m)" = x86_64 ] || missing="this machine is $(uname -m): the guests are made for x86_64"
if [ -n "${missing:-}" ]; then
	lack "$missing"
	exit 0
fi

# Beside the target, so that the last step is a rename.
mkdir -p "$target"
work=$(mktemp -d "$target/.fetching.XXXXXX")
trap 'rm -rf "$work"' EXIT
trap 'exit 1' INT TERM

of() { # of RELEASE PROGRAM...: apt with this release as the only one in the world
	release=$1 program=$2
	shift 2
	apt=$work/apt-$release
	"$program" -qq -o "Dir::Etc::SourceList=$apt/sources.list" -o Dir::Etc::SourceParts=- \
		-o "Dir::State=$apt" -o "Dir::State::Status=$apt/status" -o "Dir::Cache=$apt/cache" \
		-o APT::Sandbox::User= -o APT::Architecture=amd64 -o APT::Architectures=amd64 \
		-o APT::Install-Recommends=false -o APT::Update::Error-Mode=any -o Acquire::Languages=none "$@"
}
update() { # update RELEASE: its lists, once
	apt=$work/apt-$1
	[ ! -d "$apt" ] || return 0
	mkdir -p "$apt/lists/partial" "$apt/cache/archives/partial"
	: >"$apt/status"
	echo "deb [signed-by=$keys] $mirror $1 main" >"$apt/sources.list"
	of "$1" apt-get update
}
unpack() { # unpack FOLDER NAME: all packages in FOLDER, as NAME
	mkdir "$work/$2"
	for package in "$1"/*.deb; do
		dpkg -x "$package" "$work/$2" || return 1
	done
	rm "$1"/*.deb
}
run() { # run PROGRAM NAME [ARGUMENT...]: one of the tools under this name, with its own libraries
	program=$1 name=$2
	shift 2
	"$target/tools/usr/lib/x86_64-linux-gnu/ld-linux-x86-64.so.2" --argv0 "$name" \
		--library-path "$target/tools/usr/lib/x86_64-linux-gnu" "$target/tools/usr/bin/$program" "$@"
}
fetch_tools() {
	update "$tools" &&
		of "$tools" apt-get install --yes --download-only -o Debug::NoLocking=1 \
			qemu-system-x86 virtiofsd kmod busybox-static ipvsadm wireguard-tools >/dev/null &&
		unpack "$work/apt-$tools/cache/archives" tools &&
		mv -T "$work/tools" "$target/tools"
}
fetch_kernel() { # fetch_kernel RELEASE
	update "$1" || return 1
	# The package of that name is empty: it depends on the newest version, and that on its parts.
	packages=$(of "$1" apt-cache depends --recurse --no-recommends --no-suggests --no-conflicts --no-breaks \
		--no-replaces linux-image-cloud-amd64 | grep -E '^linux-(image|base|binary|modules)-[0-9]') || return 1
	mkdir "$work/packages-$1"
	# shellcheck disable=SC2086 # one word per package
	(cd "$work/packages-$1" && of "$1" apt-get download $packages) && unpack "$work/packages-$1" "$1" || return 1
	mkdir -p "$work/made-$1/lib/modules"
	# Releases have them in one of two places, and some a part in each.
	mv "$work/$1"/boot/vmlinuz-* "$work/made-$1/vmlinuz" 2>/dev/null ||
		mv "$work/$1"/usr/lib/modules/*/vmlinuz "$work/made-$1/vmlinuz" || return 1
	for folder in "$work/$1/lib/modules" "$work/$1/usr/lib/modules"; do
		[ ! -d "$folder" ] || cp -a "$folder/." "$work/made-$1/lib/modules/" || return 1
	done
	run kmod depmod --basedir "$work/made-$1" "$(ls "$work/made-$1/lib/modules")" || return 1
	mv -T "$work/made-$1" "$target/$1"
	rm -rf "${work:?}/$1"
}

if [ ! -d "$target/tools" ]; then
	echo "kernels: fetching QEMU of $tools from $mirror"
	if ! fetch_tools; then
		lack "QEMU and its libraries could not be fetched from $mirror; without them no kernel boots"
		exit 0
	fi
fi
for release in "$@"; do
	[ ! -d "$target/$release" ] || continue
	echo "kernels: fetching the kernel of $release from $mirror"
	fetch_kernel "$release" || lack "the kernel of $release could not be fetched from $mirror and is left out"
done
