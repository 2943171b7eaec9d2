#!/bin/busybox sh
# Process 1 of a guest until it has a root: the host's, read-only, under what the guest writes.
# It hands itself over to guest.sh by switch_root, for only then are modules loaded when they are asked for.
set -e
export PATH=/bin
/bin/busybox --install -s /bin
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t devtmpfs dev /dev
# Built in or a module, by kernel.
for module in virtio_pci virtio_console virtiofs overlay; do
	modprobe "$module" 2>/dev/null || true
done
mount -t virtiofs -o ro host /host
mount -t tmpfs own /own
mkdir /own/upper /own/work
mount -t overlay -o lowerdir=/host,upperdir=/own/upper,workdir=/own/work root /root
mount --move /proc /root/proc
mount --move /sys /root/sys
mount --move /dev /root/dev
. /guest.env
mkdir -p /root/lib/modules
ln -sfn "$modules" "/root/lib/modules/$(uname -r)"
# Programs that this machine may not have, each with its own libraries.
tool() { # tool NAME PROGRAM
	rm -f "/root/usr/sbin/$1"
	printf '#!/bin/sh\nexec %s --argv0 %s %s "$@"\n' "$loader" "$1" "$tools/$2" >"/root/usr/sbin/$1"
	chmod 755 "/root/usr/sbin/$1"
}
tool modprobe bin/kmod
tool lsmod bin/kmod
tool ipvsadm sbin/ipvsadm
tool wg bin/wg
cp /guest.sh /root/guest.sh
exec switch_root /root /bin/bash /guest.sh
