#!/bin/sh
# Install the servers the test suite starts for itself: Redis, RabbitMQ and PostgreSQL.
#
# Does nothing when all three are here. Needs apt and root (or sudo without a password); fails and
# says what is missing otherwise. The suite starts private servers of its own, on free ports, so
# nothing installed here has to run as a service: Debian's scripts are told not to start any.
set -eu

missing() {
    command -v redis-server >/dev/null 2>&1 || printf 'redis-server '
    [ -x /usr/lib/rabbitmq/bin/rabbitmq-server ] ||
        command -v rabbitmq-server >/dev/null 2>&1 || printf 'rabbitmq-server '
    ls /usr/lib/postgresql/*/bin/initdb >/dev/null 2>&1 ||
        command -v initdb >/dev/null 2>&1 || printf 'postgresql '
}

fail() {
    echo "umbel: cannot install the servers the tests need: $1" >&2
    echo "umbel: install these yourself and try again (or run 'make test-fast'): $packages" >&2
    exit 1
}

packages=$(missing)
[ -n "$packages" ] || exit 0

command -v apt-get >/dev/null 2>&1 || fail "this system has no apt-get"
root=
if [ "$(id -u)" != 0 ]; then
    sudo -n true 2>/dev/null || fail "neither root nor sudo without a password"
    root="sudo -n"
fi

# invoke-rc.d asks this file whether a package may start its service; 101 means no. A file that
# is already here belongs to the system's owner and stays as it is.
policy=/usr/sbin/policy-rc.d
if [ ! -e "$policy" ]; then
    trap '$root rm -f "$policy"' EXIT
    printf '#!/bin/sh\nexit 101\n' | $root tee "$policy" >/dev/null
    $root chmod 755 "$policy"
fi

echo "umbel: installing $packages"
# Every package list that can be read is enough: a broken extra source is not our business.
$root apt-get -qq update || true
log=$(mktemp)
# shellcheck disable=SC2086 # $root and $packages are lists of words
$root env DEBIAN_FRONTEND=noninteractive apt-get install -qq -y --no-install-recommends \
    -o Dpkg::Use-Pty=0 $packages >"$log" 2>&1 ||
    { tail -n 30 "$log" >&2; fail "apt-get install failed"; }

rm -f "$log"
packages=$(missing)
[ -z "$packages" ] || fail "installed, yet not found"
