#!/bin/sh
# Installs the system packages that Waymark is built and tested with, if any is missing.
# Says what it is about to do before it does it.
set -eu

missing=""
need() { # need PACKAGE TEST...: PACKAGE is missing unless the test succeeds
	package=$1
	shift
	"$@" >/dev/null 2>&1 || missing="$missing $package"
}
any_clang() {
	for version in -22 -21 -20 -19 -18 -17 -16 -15 -14 ""; do
		command -v "clang$version" && return 0
	done
	return 1
}
wish() { # the same, where there is such a package: all of Debian, not all that is made of it
	if grep -q '^ID=debian' /etc/os-release || apt-cache show "$1" >/dev/null 2>&1; then
		need "$@"
	fi
}
cni() { test -x /usr/lib/cni/bridge || test -x /opt/cni/bin/bridge; }
libclang() { ls /usr/lib/llvm-*/lib/libclang*.so* /usr/lib/*/libclang*.so*; }

PATH=$PATH:/usr/sbin:/sbin
need clang any_clang
need libclang-dev libclang
need llvm sh -c 'ls /usr/bin/llvm-strip*'
need libbpf-dev test -e /usr/include/bpf/bpf_helpers.h
need libnftnl-dev test -e /usr/include/libnftnl/table.h
need libmnl-dev test -e /usr/include/libmnl/libmnl.h
need libpcap-dev test -e /usr/include/pcap/pcap.h
need pkg-config command -v pkg-config
need nftables command -v nft
need iptables command -v iptables-save
need ipset command -v ipset
need iproute2 command -v ip
need iputils-ping command -v ping
need procps command -v sysctl
need conntrack command -v conntrack
need xz-utils command -v xz
need tshark command -v tshark
need tcpdump command -v tcpdump
# What perf is packed with differs from one distribution to the other.
wish linux-perf perf --version
# For testbeds with a Kubernetes control plane; what needs them says so where they are not to be had.
wish etcd-server command -v etcd
wish kubernetes-client command -v kubectl
wish containernetworking-plugins cni

[ -n "$missing" ] || exit 0

if ! command -v apt-get >/dev/null; then
	echo "Waymark needs these packages (Debian names):$missing" >&2
	echo "Install your distribution's equivalents and run this again." >&2
	exit 1
fi
sudo=""
[ "$(id -u)" = 0 ] || sudo=sudo
echo "Waymark needs system packages that are missing here. About to run:"
echo "    $sudo apt-get update && $sudo apt-get install$missing"
$sudo apt-get update -qq
# shellcheck disable=SC2086 # one word per package
$sudo env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $missing
