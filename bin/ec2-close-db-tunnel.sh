#!/usr/bin/env bash
set -euo pipefail
usage='Usage: bin/ec2-close-db-tunnel.sh

Closes the tunnel that bin/ec2-open-db-tunnel.sh opened. If none is open, that is no error.
Exit: 0 closed, 2 misuse.'
if [[ $* == --help || $* == -h ]]; then
  echo "$usage"
  exit
fi
if (($# > 0)); then
  echo "$usage" >&2
  exit 2
fi

socket=$HOME/.ssh/user-service-db-tunnel
if ssh -S "$socket" -O exit db 2>/dev/null; then
  echo 'The tunnel is closed.'
else
  rm -f "$socket" # of a master that was killed
  echo 'No tunnel is open.'
fi
