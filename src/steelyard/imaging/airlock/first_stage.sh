#!/bin/busybox sh
# The first stage: brings up a network card, fetches the second stage and the node's parameters, and goes on with the
# second stage when it is the one that the command line names. Firmware and kernel measured this file and that line.

say() {
    read -r uptime _ </proc/uptime
    echo "airlock: $uptime $*"
}

fail() {
    say "failed: $*"
    poweroff -f
}

/bin/busybox mkdir /proc /sys /dev /run /second
/bin/busybox --install -s /bin
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs devtmpfs /dev
mount -t tmpfs -o mode=0755,nosuid,nodev tmpfs /run
say "first stage"

wanted=
for word in $(cat /proc/cmdline); do
    case $word in steelyard.second=*) wanted=${word#*=} ;; esac
done
[ ${#wanted} -eq 64 ] || fail "no digest of the second stage on the command line"

while read -r module; do insmod "/modules/$module" || fail "module $module"; done </modules/order

mkdir /run/steelyard
ip link set lo up
# As the firmware asks that boots by HTTP, and whatever it did boot by: the answer has the address of the boot files.
for card in /sys/class/net/*; do
    card=${card##*/}
    [ "$card" = lo ] && continue
    ip link set "$card" up
    udhcpc -i "$card" -f -n -q -C -t 20 -T 1 -V HTTPClient:Arch:00016:UNDI:003001 -x 0x5d:0010 -s /lease >/dev/null &&
        [ -s /run/steelyard/boot-url ] && break
done
[ -s /run/steelyard/boot-url ] || fail "no card got an address and a boot file"
read -r files </run/steelyard/boot-url
say "network up, boot files at $files"

wget -q -O /airlock.squashfs "$files/airlock.squashfs" || fail "fetching the second stage"
wget -q -O /run/steelyard/parameters "$files/parameters" || fail "fetching the parameters"
say "second stage fetched"
echo "$wanted  /airlock.squashfs" | sha256sum -c -s || fail "the second stage is not the one that this image is for"
say "second stage checked"

mount -t squashfs -o ro,nosuid,nodev /airlock.squashfs /second || fail "mounting the second stage"
for place in proc sys dev run; do mount --move "/$place" "/second/$place"; done
exec switch_root /second /sbin/init
