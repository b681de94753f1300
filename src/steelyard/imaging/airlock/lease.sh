#!/bin/busybox sh
# What udhcpc runs with an answer: takes the address, and notes where the boot files are.
[ "$1" = bound ] || exit 0
ip address flush dev "$interface"
ip address add "$ip/$mask" dev "$interface"
for gateway in $router; do
    ip route add default via "$gateway" dev "$interface"
    break
done
for server in $dns; do echo "nameserver $server"; done >/run/resolv.conf
case $boot_file in http://*/*) echo "${boot_file%/*}" >/run/steelyard/boot-url ;; esac
