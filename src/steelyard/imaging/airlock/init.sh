#!/usr/bin/busybox sh
# The second stage's first process: runs the agent, which ends only by a failure.
export PATH=/usr/sbin:/usr/bin PYTHONPATH=/usr/lib/python3/dist-packages
mkdir /run/lock
mount -t securityfs securityfs /sys/kernel/security
# The compiled file itself, as to look a module up by its name takes its time; nothing beside it is to be imported.
python3 -P -S -s -B /usr/lib/python3/dist-packages/steelyard/agent/__main__.pyc device:/dev/tpm0 \
    /run/steelyard/parameters /sys/kernel/security/tpm0/binary_bios_measurements \
    /sys/kernel/security/ima/binary_runtime_measurements /run/steelyard
case $? in
3)
    echo "airlock: waiting for whoever looks after this node"
    while :; do sleep 3600; done
    ;;
*) poweroff -f ;;
esac
