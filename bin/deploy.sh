#!/usr/bin/env bash
# on_instance and what it calls run on the instance: sent there whole on standard input, so that no
# password is an argument, they go on to their end, or back, when the connection is lost. The journal
# holds what is under way: a deployment that a reboot cut short is undone by the next one.
set -euo pipefail

usage() {
  cat <<'END'
Usage: bin/deploy.sh IMAGE:TAG | --roll-back [--yes]

Deploys to the instance over SSH: pulls the image, applies its migrations, replaces the container
user-service and waits until it is healthy. When a step fails, what ran before runs again, and the
migrations of this deployment are taken back. --roll-back returns to the container before the last
deployment; where that takes migrations back, with the data they hold, it wants --yes.

Environment, with defaults
  DEPLOY_HOST, DEPLOY_USER, DEPLOY_PORT  none, ubuntu, 22; the user may use docker
  DEPLOY_KEY_FILE, DEPLOY_KNOWN_HOSTS    what ssh finds itself
  DEPLOY_CONFIG    /etc/user-service, the user's own, with env (of the service), admin.env (of the
                   migrations) and docker.options (published ports, memory, mounts), of mode 0600
  DEPLOY_COMMANDS  /opt/user-service, where the commands for cron are renewed, in app/
  DEPLOY_WAIT, DEPLOY_MIGRATE_WAIT       60, 600: seconds to become healthy, to migrate
  REGISTRY_USER, REGISTRY_PASSWORD       none; to pull with, not kept on the instance
Exit: 0 healthy, 1 failed, 2 misuse.
END
}

say() { echo "deploy: $1" >&2 || true; }
fail() { say "$1" && exit "${2:-1}"; }
inspect() { docker container inspect -f "$1" user-service; }
exists() { [[ $(docker ps -aqf "name=^/?$1\$" || echo unknown) ]]; }

migrate() { # IMAGE WORD...: its bin/migrate.js, one at a time
  docker rm -f user-service-migration >/dev/null 2>&1 || true
  timeout -s KILL "$migrate_wait" docker run --rm --name user-service-migration "${confined[@]}" \
    --env-file "$config/admin.env" "$1" node bin/migrate.js "${@:2}" 2>&1
}

pending() { # IMAGE: how many of its migrations are not applied
  local lines
  lines=$(migrate "$1" status) || { say "$lines" && return 1; }
  grep -c ' pending$' <<<"$lines" || [[ $? == 1 ]]
}

healthy() { # whether user-service becomes healthy, as soon as that is certain
  local state i
  for ((i = 0; i < wait; i++)); do
    state=$(inspect '{{.State.Status}} {{.RestartCount}} {{with .State.Health}}{{.Status}}{{end}}')
    [[ $state != 'running 0 healthy' ]] || return 0
    [[ $state == 'running 0 starting' ]] || break
    sleep 1
  done
  say "user-service is not healthy (state, restarts, health: $state); the end of its log:"
  docker logs --tail 30 user-service >&2 || true
  return 1
}

undo() { # IMAGE N: N of its migrations are pending again; what it replaced, if anything, runs again
  local left said='' status=0
  if exists user-service-old; then
    docker stop user-service >/dev/null 2>&1 || true
    docker rm -f user-service >/dev/null 2>&1 || true
  fi
  if ! left=$(pending "$1") || ! { ((left >= $2)) || said=$(migrate "$1" down $(($2 - left)) --yes); }; then
    say "the migrations of $1 were not taken back: $said" && status=1
  fi
  if exists user-service-old; then
    docker rename user-service-old user-service
    { docker start user-service >/dev/null && healthy; } || status=1
  fi
  ((status)) || : >"$journal"
  return "$status"
}

give_up() { # WHY
  undo "$image" "$count" || fail "$1, and what ran before did not come back"
  fail "$1; everything is as it was before"
}

finish() { # the commands that cron runs are those of the version that serves
  : >"$journal"
  [[ ! -w $commands ]] || {
    rm -rf "$commands/new" && docker cp user-service:/app "$commands/new" >/dev/null &&
      rm -rf "$commands/app" && mv "$commands/new" "$commands/app"
  } || say "$commands/app was not renewed"
  say "user-service is healthy, its image $(inspect '{{.Config.Image}}')" && exit
}

on_instance() {
  trap '' HUP PIPE
  local said options cut='' count=0 registry=${image%%/*} journal=$config/deployment
  local confined=(--read-only --cap-drop ALL --security-opt no-new-privileges --pids-limit 256
    --add-host host.docker.internal:host-gateway)
  [[ $(find "$config"/{env,admin.env,docker.options} -readable ! -perm /077 | wc -l) == 3 ]] ||
    fail "$config needs env, admin.env and docker.options, of mode 0600 and ours"
  exec 9>>"$journal"
  flock -n 9 || fail 'another deployment is running on the instance'
  read -r -d '' -a options <"$config/docker.options" || true
  read -r cut count <"$journal" || true
  [[ ! $cut ]] || say "the deployment of $cut was cut short: what ran before it comes back first"
  [[ ! $cut ]] || undo "$cut" "$count" || say 'it did not'

  if [[ $roll_back ]]; then
    exists user-service-previous || fail 'there is no container to go back to'
    count=$(inspect '{{.Config.Labels.migrations}}') && image=$(inspect '{{.Config.Image}}')
    [[ $count == 0 || $yes ]] ||
      fail "that takes $count migrations back, with the data they hold: say --yes"
    echo "$image $count" >"$journal"
    docker rename user-service-previous user-service-old
    undo "$image" "$count" || fail 'what ran before is not well: deploy an image that is'
    finish
  fi

  if [[ $password ]]; then
    DOCKER_CONFIG=$(mktemp -d) && export DOCKER_CONFIG && trap 'rm -rf "$DOCKER_CONFIG"' EXIT
    [[ $registry == *[.:]* ]] || registry=docker.io
    said=$(docker login -u "$user" --password-stdin "$registry" 2>&1 <<<"$password") ||
      fail "nothing changed: $said"
  fi
  docker pull -q "$image" >/dev/null || fail 'nothing changed: the image could not be pulled'
  count=$(pending "$image") || fail 'nothing changed: the state of the database is not known'
  echo "$image $count" >"$journal"
  said=$(migrate "$image" up) || give_up "a migration failed: ${said:-it took more than $migrate_wait s}"
  ! exists user-service || {
    docker rename user-service user-service-old && docker stop user-service-old
  } >/dev/null || give_up 'the old container could not be stopped'
  if ! docker run -d --name user-service --restart unless-stopped "${confined[@]}" --stop-timeout 15 \
    --log-driver local --log-opt max-size=10m --log-opt max-file=5 --label "migrations=$count" \
    --env-file "$config/env" "${options[@]}" "$image" >/dev/null || ! healthy; then
    exists user-service-old || docker rm -f user-service >/dev/null 2>&1 || true
    give_up "$image failed"
  fi
  if exists user-service-old; then
    docker rm -f user-service-previous >/dev/null 2>&1 || true
    docker rename user-service-old user-service-previous
  fi
  finish
}

image='' roll_back='' yes=''
case "$# $*" in
  '1 --help') usage && exit ;;
  '1 --roll-back') roll_back=1 ;;
  '2 --roll-back --yes') roll_back=1 yes=1 ;;
  '1 '[a-z0-9]*:*[A-Za-z0-9]) image=$1 ;;
  *) fail 'say which image, as IMAGE:TAG; see --help' 2 ;;
esac
[[ ${DEPLOY_HOST-} ]] || fail 'DEPLOY_HOST must be set; see --help' 2
config=${DEPLOY_CONFIG:-/etc/user-service} commands=${DEPLOY_COMMANDS:-/opt/user-service}
wait=${DEPLOY_WAIT:-60} migrate_wait=${DEPLOY_MIGRATE_WAIT:-600}
user=${REGISTRY_USER-} password=${REGISTRY_PASSWORD-}
known=${DEPLOY_KNOWN_HOSTS-} key=${DEPLOY_KEY_FILE-}

status=0
{
  declare -p image roll_back yes config commands wait migrate_wait user password
  declare -f say fail exists inspect migrate pending healthy undo give_up finish on_instance
  echo 'set -euo pipefail; on_instance </dev/null'
} | ssh -o BatchMode=yes -o StrictHostKeyChecking=yes -o ConnectTimeout=15 -o ServerAliveInterval=15 \
  ${known:+-o UserKnownHostsFile="$known"} ${key:+-o IdentitiesOnly=yes -i "$key"} \
  -p "${DEPLOY_PORT:-22}" "${DEPLOY_USER:-ubuntu}@$DEPLOY_HOST" bash -s || status=$?
((status != 255)) ||
  fail "no connection to $DEPLOY_HOST, or it was lost: a deployment that began goes on there"
((status == 0)) || exit 1
