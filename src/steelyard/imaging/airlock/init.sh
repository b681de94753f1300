#!/usr/bin/busybox sh
# The second stage's first process: runs the agent, which ends only by a failure.
export PATH=/usr/sbin:/usr/bin PYTHONPATH=/usr/lib/python3/dist-packages
mount -t securityfs securityfs /sys/kernel/security
python3 -S -s -B -m steelyard.agent --tpm device:/dev/tpm0 --parameters /run/steelyard/parameters \
    --event-log /sys/kernel/security/tpm0/binary_bios_measurements --work /run/steelyard
case $? in
3) while :; do sleep 3600; done ;;
*) poweroff -f ;;
esac
