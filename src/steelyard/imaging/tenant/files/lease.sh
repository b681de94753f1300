#!/bin/sh
# What udhcpc runs with an answer: takes the address, and leaves a note of it for the system, which goes on renewing it
# but never takes it away, as the root disk is behind it.
# shellcheck disable=SC2154  # udhcpc says them in the environment
[ "$1" = bound ] || exit 0
ip address add "$ip/$mask" dev "$interface"
for gateway in $router; do
    ip route add default via "$gateway" dev "$interface"
    break
done
umask 022
for server in $dns; do echo "nameserver $server"; done >/run/steelyard/resolv.conf
mkdir -p /run/systemd/network
cat >/run/systemd/network/10-root.network <<NETWORK
[Match]
MACAddress=$(cat "/sys/class/net/$interface/address")
Type=ether

[Link]
RequiredForOnline=no

[Network]
DHCP=ipv4
KeepConfiguration=yes
IgnoreCarrierLoss=yes

[DHCPv4]
ClientIdentifier=mac
UseHostname=no
UseDNS=no
NETWORK
