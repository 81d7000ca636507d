#!/usr/bin/env bash
set -euo pipefail
usage='Usage: bin/ec2-open-db-tunnel.sh HOST IDENTITY

Opens an SSH tunnel in the background: 127.0.0.1:5000 here is the database of the instance HOST, whose private key
IDENTITY is. Opening it twice is no error. Environment: EC2_USER_NAME (ubuntu), SSH_PORT (what ssh finds itself),
TUNNEL_PORT (5000), DATABASE_PORT (5432). Exit: 0 open, 1 could not be opened, 2 misuse.'
fail() { echo "ec2-open-db-tunnel: $1" >&2 && exit "${2:-1}"; }
[[ $* != --help ]] || { echo "$usage" && exit; }
[[ $# == 2 && $1 != -* ]] || fail 'say HOST and IDENTITY; see --help' 2
[[ -r $2 ]] || fail "the key file $2 cannot be read" 2

to=${EC2_USER_NAME:-ubuntu}@$1 port=${TUNNEL_PORT:-5000} socket=$HOME/.ssh/user-service-db-tunnel
(umask 077 && mkdir -p "$HOME/.ssh")
if check=$(ssh -S "$socket" -O check "$to" 2>&1); then
  # Two instances must not be mistaken for each other: the master's own arguments say which it is.
  [[ "$(ps -o args= -p "${check//[^0-9]/}") " == *" $to "* ]] ||
    fail 'a tunnel to another host is open: close it first with bin/ec2-close-db-tunnel.sh'
  echo "The tunnel to $to is open already."
else
  rm -f "$socket" # of a master that was killed: ssh would take it for a running one for ever
  (exec 3<>"/dev/tcp/127.0.0.1/$port") 2>/dev/null && fail "local port $port is taken by another program"
  ssh -f -N -M -S "$socket" -L "127.0.0.1:$port:127.0.0.1:${DATABASE_PORT:-5432}" -i "$2" ${SSH_PORT:+-p "$SSH_PORT"} \
    -o IdentitiesOnly=yes -o ExitOnForwardFailure=yes -o ConnectTimeout=10 -o ServerAliveInterval=15 "$to" ||
    fail "no tunnel to $to"
  echo "The tunnel to $to is open."
fi
echo "Connect with: psql -h 127.0.0.1 -p $port -U user_service_user db_user_service"
