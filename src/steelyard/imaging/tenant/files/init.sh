#!/bin/sh
# The initramfs's first process: opens the root volume that /.steelyard/root.json describes, over the card that gets an
# address, and goes on with the system that is on it. There is nobody to ask, and no shell: what fails is said on the
# console, and the machine is switched off.
#
# Secrets are in files and in this shell's own memory, never in an argument or the environment.
# shellcheck disable=SC2154  # root.jq assigns what is in root.json

export PATH=/usr/sbin:/usr/bin DM_DISABLE_UDEV=1
umask 077
given=/.steelyard
left=/run/steelyard

say() {
    read -r uptime _ </proc/uptime
    echo "steelyard: $uptime $*"
}

fail() {
    say "failed: $*"
    poweroff -f
    while :; do sleep 3600; done
}

# Load the drivers of what the machine has, until they find nothing more.
load_drivers() {
    before=
    while found=$(cat /sys/bus/*/devices/*/modalias | sort -u) && [ "$found" != "$before" ]; do
        # shellcheck disable=SC2086  # a word for each
        modprobe -a -b -q -- $found
        before=$found
    done
}

bring_up_network() {
    ip link set lo up
    for card in /sys/class/net/*; do
        [ -e "$card/device" ] || continue
        card=${card##*/}
        ip link set "$card" up
        udhcpc -i "$card" -f -n -q -t 20 -T 1 -s /usr/lib/steelyard/lease >/dev/null 2>&1 && return
    done
    fail "no card got an address"
}

open_nbd() {
    modprobe nbd nbds_max=1 max_part=0 || fail "the nbd driver"
    mkdir /nbd
    printf %s "$authority" >/nbd/authority
    printf %s "$certificate" >/nbd/certificate
    printf %s "$key" >/nbd/key
    # What carries the root disk is neither killed for memory nor, by its mark, when the system stops. No time limit: a
    # network that was away for a while is waited for, rather than the disk being lost.
    (
        echo -1000 >/proc/self/oom_score_adj
        exec nbd-client "$address" "$port" /dev/nbd0 -name "$export" -systemd-mark \
            -cacertfile /nbd/authority -certfile /nbd/certificate -keyfile /nbd/key
    ) >/nbd/said 2>&1 || fail "opening the volume by NBD: $(tail -n 1 /nbd/said)"
    device=/dev/nbd0
}

open_iscsi() {
    modprobe -a iscsi_tcp sd_mod || fail "the iSCSI driver"
    mkdir "$left/iscsi"
    case $address in *:*) portal=[$address]:$port ;; *) portal=$address:$port ;; esac
    name=$(tr -d : <"/sys/class/net/$card/address")
    echo "InitiatorName=iqn.2026-11.internal.steelyard:$name" >"$left/initiatorname.iscsi"
    cp "$left/initiatorname.iscsi" "$left/iscsi/"
    cat >"$left/iscsi/iscsid.conf" <<SETTINGS
node.session.auth.authmethod = CHAP
node.session.auth.username = $user
node.session.auth.password = $password
node.session.auth.username_in = $target_user
node.session.auth.password_in = $target_password
node.session.timeo.replacement_timeout = -1
SETTINGS
    {
        iscsid && iscsiadm -m node -T "$target" -p "$portal" --op new && iscsiadm -m node -T "$target" -p "$portal" -l
    } >/said 2>&1 || fail "opening the volume by iSCSI: $(tail -n 1 /said)"
    tries=0
    until device=$(ls -d /sys/class/iscsi_session/session*/device/target*/*:"$lun"/block/*) 2>/said; do
        tries=$((tries + 1))
        [ "$tries" -lt 200 ] || fail "the target has no disk of LUN $lun"
        sleep 0.05
    done
    device=/dev/${device##*/}
    iscsiadm -k 0 >/said 2>&1 # the kernel keeps the session; the system's own iscsid takes it over
    rm -r "$left/iscsi"
}

# What was checked is what is used: the header is read once.
read_luks_header() {
    head -c "$header_bytes" "$device" >/header
    echo "$header_sha256  /header" | sha256sum -c -s || fail "the volume does not begin as it must"
    header=--header=/header
}

unlock() {
    modprobe -a dm_mod dm_crypt || fail "the dm-crypt driver"
    # shellcheck disable=SC2086  # an option or nothing
    cryptsetup open --type luks --key-file "$given/luks.key" $header "$device" root >/said 2>&1 ||
        fail "unlocking the volume: $(tail -n 1 /said)"
    device=/dev/mapper/root
    wipe "$given/luks.key"
}

wipe() {
    dd if=/dev/zero of="$1" bs="$(stat -c %s "$1")" count=1 conv=notrunc 2>/dev/null
    rm "$1"
}

# The root file system of a sealed machine: below the image, read only, each block checked against the hash that the
# tenant gave; above it what is written, encrypted, in the rest of the volume. Whoever serves the volume can neither
# change the one nor read the other.
mount_sealed() {
    described=$(jq -r -f /usr/lib/steelyard/seal.jq "$given/seal.json" 2>/said) ||
        fail "/.steelyard/seal.json is not understood: $(tail -n 1 /said)"
    eval "$described"
    modprobe -a dm_mod dm_verity dm_crypt overlay ext4 || fail "the drivers of a sealed disk"
    start=$((image_bytes / 512))
    length=$(($(cat "/sys/class/block/${device##*/}/size") - start))
    [ "$length" -gt 65536 ] || fail "the volume has no room beside the image"
    veritysetup open "$device" image "$device" "$root_hash" --hash-offset="$data_bytes" >/said 2>&1 ||
        fail "the image is not the one that was sealed: $(tail -n 1 /said)"
    echo "0 $length linear $device $start" | dmsetup create rest >/said 2>&1 || fail "dividing the volume"
    # The key is random: making it slow to try would make each boot slow instead.
    if ! cryptsetup isLuks --type luks2 /dev/mapper/rest; then
        say "first boot: making the encrypted disk"
        cryptsetup luksFormat --batch-mode --type luks2 --cipher aes-xts-plain64 --key-size 512 --pbkdf pbkdf2 \
            --pbkdf-force-iterations 1000 --luks2-metadata-size 16k --luks2-keyslots-size 256k \
            --key-file "$given/luks.key" /dev/mapper/rest >/said 2>&1 || fail "making the encrypted disk: $(tail -n 1 /said)"
    fi
    cryptsetup open --type luks2 --key-file "$given/luks.key" /dev/mapper/rest root >/said 2>&1 ||
        fail "unlocking the volume: $(tail -n 1 /said)"
    wipe "$given/luks.key"
    # What LUKS says of itself is not secured by its key: whoever serves it could say that nothing is encrypted.
    cryptsetup status root | grep -q '^ *cipher: *aes-xts-plain64$' || fail "the disk is not encrypted as it must be"
    if [ -z "$(blkid /dev/mapper/root)" ]; then
        mke2fs -q -t ext4 -m 0 -J size=16 -E lazy_itable_init=1,lazy_journal_init=1 -L layer /dev/mapper/root >/said 2>&1 || fail "making a file system: $(tail -n 1 /said)"
    fi
    # In /run, so that they are moved on with it.
    mkdir -m 0700 "$left/image" "$left/layer"
    mount -t ext4 -o ro /dev/mapper/image "$left/image" 2>/said || fail "mounting the image: $(tail -n 1 /said)"
    mount -t ext4 -o noatime /dev/mapper/root "$left/layer" 2>/said || fail "mounting the disk: $(tail -n 1 /said)"
    mkdir -p "$left/layer/upper" "$left/layer/work"
    chmod 0755 "$left/layer/upper"
    mount -t overlay -o "lowerdir=$left/image,upperdir=$left/layer/upper,workdir=$left/layer/work" overlay /root 2>/said ||
        fail "laying one over the other: $(tail -n 1 /said)"
    rm "$given/seal.json"
}

mount_plain() {
    header=
    [ -z "$header_bytes" ] || read_luks_header
    [ ! -e "$given/luks.key" ] || unlock
    kind=$(blkid "$device" | sed -n 's/.* TYPE="\([a-z0-9_]*\)".*/\1/p')
    modprobe -q "$kind" 2>/said
    mount -t "${kind:-none}" -o noatime "$device" /root 2>/said ||
        fail "mounting the volume (${kind:-unknown}): $(tail -n 1 /said)"
}

# The seed for the unit that applies it, the rest for the tenant's own programs; no credential of the volume.
hand_on() {
    mkdir "$left/seed"
    for file in meta-data user-data; do [ ! -e "$given/$file" ] || mv "$given/$file" "$left/seed/"; done
    for file in "$given"/*; do
        case ${file##*/} in root.json | \*) ;; *) mv "$file" "$left/" && chmod 0600 "$left/${file##*/}" ;; esac
    done
}

mount -t proc -o nosuid,nodev,noexec proc /proc
mount -t sysfs -o nosuid,nodev,noexec sysfs /sys
mount -t devtmpfs -o nosuid,mode=0755 devtmpfs /dev
mount -t tmpfs -o nosuid,nodev,mode=0755 tmpfs /run
mkdir -m 0755 "$left" /run/lock
say "initramfs"

[ -e "$given/root.json" ] || fail "nothing says where the root volume is"
described=$(jq -r -f /usr/lib/steelyard/root.jq "$given/root.json" 2>/said) ||
    fail "/.steelyard/root.json is not understood: $(tail -n 1 /said)"
eval "$described" # assignments, each value quoted by jq

load_drivers
bring_up_network
say "network up"
"open_$protocol"
say "volume open"
if [ -e "$given/seal.json" ]; then mount_sealed; else mount_plain; fi
[ -x /root/sbin/init ] || [ -L /root/sbin/init ] || fail "no system is on the volume"
hand_on
say "root mounted"
for place in dev proc run sys; do mount -o move "/$place" "/root/$place"; done
exec switch_root /root /sbin/init
