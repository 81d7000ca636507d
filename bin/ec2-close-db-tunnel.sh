#!/usr/bin/env bash
set -euo pipefail

usage() {
  cat <<'END'
Usage: bin/ec2-close-db-tunnel.sh

Closes the tunnel that bin/ec2-open-db-tunnel.sh opened. That none is open is no error.
Exit: 0 closed, 1 could not be closed, 2 misuse.
END
}

[[ ${1-} == --help ]] && usage && exit
[[ $# == 0 ]] || { usage >&2 && exit 2; }
socket=$HOME/.ssh/user-service-db-tunnel

if ! ssh -S "$socket" -O check db 2>/dev/null; then
  rm -f "$socket"
  echo 'No tunnel is open.'
elif ssh -q -S "$socket" -O exit db; then
  echo 'The tunnel is closed.'
else
  echo 'ec2-close-db-tunnel: the tunnel could not be closed' >&2 && exit 1
fi
