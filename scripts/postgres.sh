#!/usr/bin/env bash
# PostgreSQL for tests and trials: install it, and run a private server that nobody else sees.
#
#   scripts/postgres.sh install          install Debian's PostgreSQL if there is none; starts nothing
#   scripts/postgres.sh start [FOLDER]   make a server in FOLDER (default: a new one in /tmp), start it, print its URL;
#                                        a server that was made there before is started again, with its data
#   scripts/postgres.sh stop FOLDER [fast|immediate]   stop it; "immediate" is a crash, told to the next start
#   scripts/postgres.sh remove FOLDER    stop it and delete FOLDER
#
# The server listens on a unix socket in FOLDER and on no port. FOLDER is open to its owner only (and to root): whoever
# can reach the socket is the server's superuser "ledger_owner". As root the server runs as "postgres".
set -euo pipefail

binaries() { # the folder of the newest server's programs
  local found
  found=$(ls -d /usr/lib/postgresql/*/bin /usr/pgsql-*/bin /opt/homebrew/opt/postgresql*/bin 2>/dev/null | sort -V | tail -n 1 || true)
  [[ -n $found && -x $found/initdb ]] || found=$(dirname "$(command -v initdb || echo /nowhere/initdb)")
  [[ -x $found/initdb && -x $found/pg_ctl ]] || return 1
  echo "$found"
}

install_server() {
  binaries >/dev/null && return 0
  [[ $(id -u) == 0 ]] || { echo "PostgreSQL is missing: sudo apt-get install postgresql" >&2; exit 2; }
  export DEBIAN_FRONTEND=noninteractive
  apt-get update --quiet=2
  apt-get install --yes --quiet=2 --no-install-recommends postgresql-common >/dev/null
  # Debian would make and start a server of its own, which nobody asked for.
  sed --in-place 's/^#\?create_main_cluster.*/create_main_cluster = false/' /etc/postgresql-common/createcluster.conf
  apt-get install --yes --quiet=2 --no-install-recommends postgresql >/dev/null
}

unprivileged() { # initdb and postgres refuse to run as root
  if [[ $(id -u) == 0 ]]; then (cd / && runuser -u postgres -- "$@"); else "$@"; fi
}

control() { unprivileged "$bin/pg_ctl" --silent --pgdata "$folder/data" --wait --timeout 60 "$@"; }

usage() { sed -n '2,9s/^# \{0,1\}//p' "$0" >&2; exit 2; }

command=${1:-}
case $command in
  install) install_server; exit 0 ;;
  start) folder=${2:-$(mktemp -d /tmp/millcert-postgres.XXXXXX)} ;;
  stop | remove) folder=${2:-} ;;
  *) usage ;;
esac
[[ -n $folder ]] || usage
bin=$(binaries) || { echo "There is no PostgreSQL server here: scripts/postgres.sh install" >&2; exit 2; }

if [[ $command == start ]]; then
  mkdir -p "$folder"
  folder=$(cd "$folder" && pwd)
  chmod 700 "$folder"
  [[ $(id -u) != 0 ]] || chown postgres: "$folder"
  if [[ ! -e $folder/data/PG_VERSION ]]; then
    # --no-sync: the making of an empty server need not survive a loss of power; its commits do (fsync stays on).
    unprivileged "$bin/initdb" --pgdata "$folder/data" --username ledger_owner --auth trust --encoding UTF8 --locale C \
      --no-sync --no-instructions >/dev/null
    unprivileged tee --append "$folder/data/postgresql.conf" >/dev/null <<CONF
listen_addresses = ''
unix_socket_directories = '$folder'
max_connections = 50
shared_buffers = 64MB
CONF
  fi
  control --log "$folder/log" start >/dev/null || { tail -n 20 "$folder/log" >&2; exit 5; }
  echo "postgresql://ledger_owner@/postgres?host=$folder"
else
  if unprivileged "$bin/pg_ctl" --pgdata "$folder/data" status >/dev/null 2>&1; then
    control --mode "${3:-fast}" stop >/dev/null
  fi
  [[ $command != remove ]] || rm -rf -- "$folder"
fi
