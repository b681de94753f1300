#!/bin/sh
# Makes the initramfs that opens a root volume on the network. What other packages put in is taken out again: theirs
# waits for devices and asks people, and firmware measures each megabyte some three times.
set -e
case ${1:-} in prereqs) exit 0 ;; esac
# shellcheck source=/dev/null  # of initramfs-tools
. /usr/share/initramfs-tools/hook-functions

modules=$DESTDIR/usr/lib/modules
find "$DESTDIR" -mindepth 2 ! -type d ! -path "$modules/*" ! -path "$DESTDIR/etc/modprobe.d/*" -delete
rm -rf "$DESTDIR/conf" "$DESTDIR/etc/iscsi" "$DESTDIR/scripts"/* "$DESTDIR/usr/lib/udev" "$DESTDIR/usr/lib/systemd"

# Cards by what they are; the volume by either protocol; encryption; the file system.
copy_modules_dir kernel/drivers/net/ethernet
manual_add_modules virtio_pci virtio_net vmxnet3 hv_netvsc
manual_add_modules nbd iscsi_tcp sd_mod crc32c_generic
manual_add_modules dm_mod dm_verity dm_crypt overlay aes_generic xts ecb cbc essiv sha256_generic sha256_ssse3 aesni_intel
manual_add_modules ext4

for program in busybox jq kmod; do copy_exec "/usr/bin/$program"; done
for program in cryptsetup dmsetup iscsiadm iscsid mke2fs nbd-client veritysetup; do copy_exec "/usr/sbin/$program"; done
# OpenSSL's ciphers of old, which it insists on finding, and what ends a thread: both are loaded by name.
copy_exec /usr/lib/x86_64-linux-gnu/ossl-modules/legacy.so
copy_exec /usr/lib/x86_64-linux-gnu/libgcc_s.so.1
ln -s ../bin/kmod "$DESTDIR/usr/sbin/modprobe"
for name in $(busybox --list); do ln -s busybox "$DESTDIR/usr/bin/$name" 2>/dev/null || :; done
mkdir -p "$DESTDIR/dev" "$DESTDIR/proc" "$DESTDIR/root" "$DESTDIR/run" "$DESTDIR/sys" "$DESTDIR/usr/lib/steelyard"
# iscsid looks nowhere else for its settings, and obeys whoever has the name of root.
ln -s /run/steelyard/iscsi "$DESTDIR/etc/iscsi"
echo "root:*:0:0::/root:/bin/false" >"$DESTDIR/etc/passwd"
cp /usr/lib/steelyard/init "$DESTDIR/init"
cp /usr/lib/steelyard/lease /usr/lib/steelyard/*.jq "$DESTDIR/usr/lib/steelyard/"
