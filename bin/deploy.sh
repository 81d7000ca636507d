#!/usr/bin/env bash
# The functions run in a shell on the instance: sent there whole on standard input, so that no password is an
# argument, they go on to their end, or back, when the connection is lost. What serves keeps its name until what follows
# it, user-service-new, is healthy: where that name is found, a deployment was cut short, and the next one undoes it.
set -euo pipefail

usage='Usage: bin/deploy.sh IMAGE:TAG | --roll-back [--yes]

Pulls the image on the instance, over SSH, applies its migrations, replaces the container user-service and
waits until it is healthy. When a step fails, what ran before runs again, and the migrations of this deployment
are taken back. --roll-back returns to the container before the last deployment; where that takes migrations
back, with the data they hold, it wants --yes. Exit: 0 healthy, 1 failed, 2 misuse.

DEPLOY_HOST, DEPLOY_USER, DEPLOY_PORT  none, ubuntu, 22; the user may use docker
DEPLOY_KEY_FILE, DEPLOY_KNOWN_HOSTS    what ssh finds itself
DEPLOY_CONFIG    /etc/user-service, with env (of the service), admin.env (of the migrations) and
                 docker.options (published ports, memory, mounts), of the user and of mode 0600
DEPLOY_COMMANDS  /opt/user-service, where the commands for cron are renewed, in app/
DEPLOY_WAIT, DEPLOY_MIGRATE_WAIT       60, 600: seconds to become healthy, to migrate
REGISTRY_USER, REGISTRY_PASSWORD       none; for the registry that IMAGE begins with, kept nowhere'

say() { echo "deploy: $1" >&2 || true; }
fail() { say "$1" && exit "${2:-1}"; }
inspect() { docker container inspect -f "{{.$2}}" "$1"; } # CONTAINER FIELD
exists() { [[ $(docker ps -aqf "name=^/?$1\$" || echo unknown) ]]; }

migrate() { # WORD...: the image's bin/migrate.js, one at a time
  docker rm -f user-service-migration >/dev/null 2>&1 || true
  timeout -s KILL "$migrate_wait" docker run --rm --name user-service-migration "${confined[@]}" \
    --env-file "$config/admin.env" "$image" node bin/migrate.js "$@"
}
pending() { migrate status | sed '/ pending$/!d' | wc -l; }

healthy() { # CONTAINER: whether it becomes healthy, as soon as that is certain
  local i=0 state format='{{.State.Status}} {{.RestartCount}} {{with .State.Health}}{{.Status}}{{end}}'
  while state=$(docker container inspect -f "$format" "$1") &&
    [[ $state == 'running 0 starting' ]] && ((i++ < wait)); do sleep 1; done
  [[ $state != 'running '*' healthy' ]] || return 0
  say "$1 is not healthy (state, restarts, health: $state); the end of its log:"
  docker logs --tail 30 "$1" >&2 || true
  return 1
}

undo() { # of user-service-new: its migrations are pending again; what it replaced, if anything, runs again
  local image count left status=0
  image=$(inspect user-service-new Config.Image) count=$(inspect user-service-new Config.Labels.migrations)
  docker stop user-service-new >/dev/null || status=1
  { left=$(pending) && { ((left >= count)) || migrate down $((count - left)) --yes >/dev/null; }; } ||
    { say "the migrations of $image were not taken back" && status=1; }
  exists user-service || docker rename user-service-previous user-service 2>/dev/null || true
  ! exists user-service || { docker start user-service >/dev/null && healthy user-service; } || status=1
  ((status)) || docker rm user-service-new >/dev/null
  return "$status"
}

roll_back() {
  exists user-service-previous || fail 'there is no container to go back to'
  count=$(inspect user-service Config.Labels.migrations)
  [[ $count == 0 || $yes ]] || fail "that takes $count migrations back, with the data they hold: say --yes"
  docker rename user-service user-service-new
  undo || fail 'what ran before is not well: deploy an image that is'
}

give_up() { # WHY
  undo || fail "$1, and what ran before did not come back"
  fail "$1; everything is as it was before"
}

deploy() {
  if [[ $password ]]; then
    DOCKER_CONFIG=$(mktemp -d) && export DOCKER_CONFIG && trap 'rm -rf "$DOCKER_CONFIG"' EXIT
    said=$(docker login -u "$user" --password-stdin "${image%%/*}" 2>&1 <<<"$password") || fail "nothing changed: $said"
  fi
  docker pull -q "$image" >/dev/null || fail 'nothing changed: the image could not be pulled'
  count=$(pending) || fail 'nothing changed: the state of the database is not known'
  read -r -d '' -a options <"$config/docker.options" || true
  docker create --name user-service-new --label "migrations=$count" --restart unless-stopped --stop-timeout 15 \
    --log-driver local --log-opt max-size=10m --log-opt max-file=5 "${confined[@]}" \
    --env-file "$config/env" "${options[@]}" "$image" >/dev/null || fail 'nothing changed: see docker.options'
  migrate up >/dev/null || give_up "a migration failed, or took more than $migrate_wait s"
  ! exists user-service || docker stop user-service >/dev/null || give_up 'the old container could not be stopped'
  { docker start user-service-new >/dev/null && healthy user-service-new; } || give_up "$image failed"
  docker rm -f user-service-previous >/dev/null 2>&1 || true
  ! exists user-service || docker rename user-service user-service-previous
  docker rename user-service-new user-service
}

on_instance() {
  trap '' HUP PIPE
  confined=(--read-only --cap-drop ALL --security-opt no-new-privileges --pids-limit 256
    --add-host host.docker.internal:host-gateway)
  [[ $(find "$config"/{env,admin.env,docker.options} -readable ! -perm /077 | wc -l) == 3 ]] ||
    fail "$config needs env, admin.env and docker.options, of mode 0600 and ours"
  exec 9<"$config/env"
  flock -n 9 || fail 'another deployment is running on the instance'
  if exists user-service-new; then
    say "the deployment of $(inspect user-service-new Config.Image) was cut short: what ran before it comes back first"
    undo || say 'it did not'
    docker rm -f user-service-new >/dev/null 2>&1 || true
  fi
  if [[ $image == --roll-back ]]; then roll_back; else deploy; fi
  # The commands that cron runs are those of the version that serves.
  { rm -rf "$commands/new" && docker cp user-service:/app "$commands/new" >/dev/null &&
    rm -rf "$commands/app" && mv "$commands/new" "$commands/app"; } || say "$commands/app was not renewed"
  say "user-service is healthy, its image $(inspect user-service Config.Image)"
}

[[ $* != --help ]] || { echo "$usage" && exit; }
[[ $* =~ ^(--roll-back( --yes)?|[a-z0-9][^ ]*:[^ ]*[A-Za-z0-9])$ ]] || fail 'say IMAGE:TAG; see --help' 2
[[ ${DEPLOY_HOST-} ]] || fail 'DEPLOY_HOST must be set; see --help' 2
image=$1 yes=${2-} user=${REGISTRY_USER-} password=${REGISTRY_PASSWORD-}
config=${DEPLOY_CONFIG:-/etc/user-service} commands=${DEPLOY_COMMANDS:-/opt/user-service}
wait=${DEPLOY_WAIT:-60} migrate_wait=${DEPLOY_MIGRATE_WAIT:-600}

{
  declare -p image yes user password config commands wait migrate_wait
  declare -f
  echo 'set -euo pipefail; on_instance </dev/null'
} | ssh -o BatchMode=yes -o StrictHostKeyChecking=yes -o ConnectTimeout=15 -o ServerAliveInterval=15 \
  ${DEPLOY_KNOWN_HOSTS:+-o UserKnownHostsFile="$DEPLOY_KNOWN_HOSTS"} -p "${DEPLOY_PORT:-22}" \
  ${DEPLOY_KEY_FILE:+-o IdentitiesOnly=yes -i "$DEPLOY_KEY_FILE"} "${DEPLOY_USER:-ubuntu}@$DEPLOY_HOST" bash -s || {
  (($? != 255)) || fail "no connection to $DEPLOY_HOST, or it was lost: a deployment that began goes on there"
  exit 1
}
