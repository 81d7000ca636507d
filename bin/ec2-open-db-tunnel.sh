#!/usr/bin/env bash
set -euo pipefail
usage='Usage: bin/ec2-open-db-tunnel.sh HOST IDENTITY

Opens an SSH tunnel in the background: 127.0.0.1:5000 here leads to the database of the instance
HOST. IDENTITY is the file of a private key that may log in there. A tunnel that is open already is
no error. Exit: 0 open, 1 could not be opened, 2 misuse.

EC2_USER_NAME  ubuntu
SSH_PORT       by default whatever ssh finds itself
TUNNEL_PORT    5000, here
DATABASE_PORT  5432, on the instance'
fail() { # MESSAGE [STATUS]
  echo "ec2-open-db-tunnel: $1" >&2
  exit "${2:-1}"
}
if [[ $* == --help || $* == -h ]]; then
  echo "$usage"
  exit
fi
[[ $# == 2 && $1 != -* ]] || fail 'expected HOST and IDENTITY; see --help' 2
[[ -r $2 ]] || fail "the key file $2 cannot be read" 2

target=${EC2_USER_NAME:-ubuntu}@$1
identity=$2
port=${TUNNEL_PORT:-5000}
forward=127.0.0.1:$port:127.0.0.1:${DATABASE_PORT:-5432}
socket=$HOME/.ssh/user-service-db-tunnel

# Two tunnels must not be mistaken for each other: the arguments of the running one say where it
# leads.
check_running() { # PID
  local arguments
  arguments=$(ps -o args= -p "$1")
  [[ "$arguments " == *" $forward "*" $target "* ]] ||
    fail 'a tunnel elsewhere is open: close it first with bin/ec2-close-db-tunnel.sh'
}

open_tunnel() {
  local options=(-o IdentitiesOnly=yes -o ExitOnForwardFailure=yes -o ConnectTimeout=10
    -o ServerAliveInterval=15)
  if [[ ${SSH_PORT-} ]]; then
    options+=(-p "$SSH_PORT")
  fi
  rm -f "$socket" # of a master that was killed: ssh would take it for a running one for ever
  if (exec 3<>"/dev/tcp/127.0.0.1/$port") 2>/dev/null; then
    fail "local port $port is taken by another program"
  fi
  ssh -f -N -M -S "$socket" -L "$forward" -i "$identity" "${options[@]}" "$target" ||
    fail "no tunnel to $target"
}

# ssh accepts a connection first, and ends it if nothing listens at the other end. PostgreSQL waits.
leads_to_server() {
  local status=0
  exec 3<>"/dev/tcp/127.0.0.1/$port" || return 1
  read -r -t 1 -u 3 || status=$?
  exec 3>&-
  [[ $status != 1 ]]
}

(umask 077 && mkdir -p "$HOME/.ssh")
if check=$(ssh -S "$socket" -O check "$target" 2>&1); then
  check_running "${check//[^0-9]/}"
  echo "The tunnel to $target is open already."
else
  open_tunnel
  echo "The tunnel to $target is open."
fi
leads_to_server ||
  echo "ec2-open-db-tunnel: nothing listens on port ${DATABASE_PORT:-5432} of the instance" >&2
echo "Connect with: psql -h 127.0.0.1 -p $port -U user_service_user db_user_service"
