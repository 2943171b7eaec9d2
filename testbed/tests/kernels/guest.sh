# Process 1 of a guest once it has its root: runs what the host asks for, one command after the other.
# A command comes as a line on the first port, and its status goes back there; what it prints goes to the second.
export PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
export HOME=/root CI=true RUST_BACKTRACE=0 WAYMARK_GUEST=1
mkdir -p /dev/net /dev/pts /dev/shm
mknod /dev/net/tun c 10 200
ln -s /proc/self/fd /dev/fd
mount -t devpts devpts /dev/pts
for folder in /dev/shm /run; do
	mount -t tmpfs tmpfs "$folder"
done
mount -t tracefs tracefs /sys/kernel/tracing
mount -t bpf bpf /sys/fs/bpf
mount -t securityfs securityfs /sys/kernel/security
mount -t cgroup2 cgroup2 /sys/fs/cgroup
ip link set lo up
# There is no udev to ask for the driver of a cable, and nothing asks for what any Kubernetes node has loaded.
modprobe --all virtio_net br_netfilter
# The ports of the only such device, whose number depends on what else there is.
for port in /dev/vport*p1; do
	exec 3<>"$port" >"${port%1}2" 2>&1 </dev/null
done
echo ready >&3
while read -r command <&3; do
	bash -o pipefail -c "$command" 3>&-
	echo $? >&3
done
echo o >/proc/sysrq-trigger
