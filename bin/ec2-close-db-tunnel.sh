#!/usr/bin/env bash
set -euo pipefail
usage='Usage: bin/ec2-close-db-tunnel.sh

Closes the tunnel that bin/ec2-open-db-tunnel.sh opened. That none is open is no error. Exit: 0 closed, 2 misuse.'
[[ $* != --help ]] || { echo "$usage" && exit; }
(($# == 0)) || { echo "$usage" >&2 && exit 2; }

socket=$HOME/.ssh/user-service-db-tunnel
ssh -S "$socket" -O exit db 2>/dev/null && echo 'The tunnel is closed.' && exit
rm -f "$socket" # of a master that was killed
echo 'No tunnel is open.'
