#!/bin/sh
# Applies the NoCloud seed in /run/steelyard/seed: host name, and who may log in as root; makes the host key that this
# machine is known by. Of cloud-config it knows the few lines below, and refuses all of it for one that it does not
# know: a machine that is set up in part is worse than one that says what is wrong.
seed=/run/steelyard/seed
known=/var/lib/steelyard/instance-id
host_key=/etc/ssh/ssh_host_ed25519_key

fail() {
    echo "steelyard: the seed is not applied: $*" >&2
    exit 1
}

# Read `key: word`, and lists of public keys, from $1; $2 is its key for the host name, $3 that of the list.
read_document() {
    [ -e "$seed/$1" ] || return
    list=
    while IFS= read -r line || [ -n "$line" ]; do
        case $line in
        '' | \#* | ---) ;;
        "$2: "*) host_name=$(word "${line#*: }") list= ;;
        "instance-id: "*) instance=$(word "${line#*: }") list= ;;
        "$3:") list=yes ;;
        "- "* | "  - "*)
            [ -n "$list" ] || fail "$1 has a list that is none of keys"
            keys="$keys$(public_key "${line#*- }")$end"
            ;;
        *) fail "$1 has a line that is not known: $(printf %.40s "$line" | tr -cd '[:print:]')" ;;
        esac || exit 1
    done <"$seed/$1"
}

unquoted() {
    case $1 in
    \"*\" | \'*\') inner=${1%?} && printf %s "${inner#?}" ;;
    *) printf %s "$1" ;;
    esac
}

word() {
    found=$(unquoted "$1")
    case $found in '' | *[!A-Za-z0-9.-]* | [.-]*) fail "not a name: $(printf %.40s "$1" | tr -cd '[:print:]')" ;; esac
    [ ${#found} -le 64 ] || fail "a name of ${#found} characters"
    printf %s "$found"
}

public_key() {
    found=$(unquoted "$1")
    case $found in
    *[![:print:]]*) fail "a key that is not printable" ;;
    ssh-* | ecdsa-* | sk-*) printf %s "$found" ;;
    *) fail "a key that is none: $(printf %.20s "$found")" ;;
    esac
}

end='
'
host_name='' instance='' keys=''
read_document meta-data local-hostname public-keys
read_document user-data hostname ssh_authorized_keys

umask 077
mkdir -p "${known%/*}" /root/.ssh
# Who is another instance than the one that this disk was, as one made of its snapshot, is another machine.
if [ -n "$instance" ] && [ "$instance" != "$(cat "$known" 2>/dev/null)" ]; then
    rm -f "$host_key" "$host_key.pub"
    echo "$instance" >"$known"
fi
[ -s "$host_key" ] || ssh-keygen -q -t ed25519 -N '' -C '' -f "$host_key" || fail "no host key could be made"
[ -z "$keys" ] || printf %s "$keys" >/root/.ssh/authorized_keys
if [ -n "$host_name" ]; then
    (umask 022 && echo "$host_name" >/etc/hostname)
    echo "$host_name" >/proc/sys/kernel/hostname
fi
echo "steelyard: $(cat /proc/sys/kernel/hostname) has the host key $(ssh-keygen -l -f "$host_key.pub")"
