#!/bin/busybox sh
# A guest's first process: mounts, loads modules, runs /command, reports its status on ttyS2, powers off.
export PATH=/usr/bin:/bin HOME=/root TERM=dumb
/bin/busybox --install -s /bin
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t devtmpfs dev /dev
stty -F /dev/ttyS1 raw -echo
stty -F /dev/ttyS2 raw -echo
mkdir -p /dev/pts /dev/shm
mount -t devpts devpts /dev/pts
mount -t tmpfs shm /dev/shm
ln -s /proc/self/fd /dev/fd
mount -t tmpfs run /run
mount -t tmpfs tmp /tmp
mount -t cgroup2 cgroup2 /sys/fs/cgroup
mount -t bpf bpf /sys/fs/bpf
ip link set lo up
[ -e /modules/order ] && while read -r module; do insmod "/modules/$module"; done </modules/order >/dev/null 2>&1
cd /tmp
setsid sh /command </dev/null >/dev/ttyS1 2>&1
echo "status=$?" >/dev/ttyS2
sync
poweroff -f
