#!/usr/bin/env bash
# Replaces the service on an instance, over SSH. The functions are sent whole, on standard input, to
# a shell there: no password is an argument of a program, and a deployment whose connection is lost
# continues to its end. What serves keeps its name until its successor, user-service-new, is
# healthy; where that name is found, a deployment was cut short, and the next one undoes it first.
# shellcheck disable=SC2317,SC2329 # functions that only run there
set -euo pipefail

usage='Usage: bin/deploy.sh IMAGE:TAG | IMAGE@sha256:DIGEST | --roll-back [--yes]

Pulls the image on the instance, applies its migrations, replaces the container user-service and
waits until the new one is healthy. If a step fails, the container from before runs again, and the
migrations of this deployment are rolled back. --roll-back returns to the container before the last
deployment; if that rolls back migrations, and so deletes the data they hold, it needs --yes.
Exit: 0 healthy, 1 failed, 2 misuse.

DEPLOY_HOST, DEPLOY_USER, DEPLOY_PORT  required; ubuntu, who may use docker; 22
DEPLOY_KEY_FILE, DEPLOY_KNOWN_HOSTS    by default whatever ssh finds itself
DEPLOY_CONFIG    /etc/user-service, with env (for the service), admin.env (for migrations) and
                 docker.options (published ports, memory, mounts), of the user and of mode 0600
DEPLOY_COMMANDS  /opt/user-service: receives app/, the commands that cron runs, and deploy, the one
                 program that the key of the CI may run
DEPLOY_WAIT, DEPLOY_MIGRATE_WAIT       60, 600: seconds to become healthy, to migrate
REGISTRY_USER, REGISTRY_PASSWORD       none; for the registry that IMAGE names, stored nowhere
A key that may run that program alone leaves all these settings as they are.'

# None of these characters means anything to the shell on the instance.
image_words='[a-z0-9][A-Za-z0-9._/:-]*(:[A-Za-z0-9_][A-Za-z0-9._-]*|@sha256:[0-9a-f]{64})'
words="--roll-back( --yes)?|$image_words"

say() {
  echo "deploy: $1" >&2 || true
}
fail() { # MESSAGE [STATUS]
  say "$1"
  exit "${2:-1}"
}

inspect() { # CONTAINER FIELD
  docker container inspect -f "{{.$2}}" "$1"
}
exists() { # CONTAINER; when the engine does not answer, it counts as existing
  [[ $(docker ps -aqf "name=^/?$1\$" || echo unknown) ]]
}
repository() { # IMAGE: its name without tag and digest
  sed -E 's/@.*//; s/:[^:/]*$//' <<<"$1"
}

remove_migration() { # which runs on when the docker that started it is killed
  docker rm -f user-service-migration >/dev/null 2>&1 || true
}
migrate() { # IMAGE WORD...: its bin/migrate.js, never two at a time
  local image=$1 status=0
  shift
  remove_migration
  timeout -s KILL "$migrate_wait" docker run --rm --name user-service-migration \
    "${confined[@]}" --env-file "$config/admin.env" "$image" node bin/migrate.js "$@" || status=$?
  remove_migration
  return "$status"
}
count_pending() { # IMAGE; fails if others than its migrations are applied
  local status others
  status=$(migrate "$1" status) || return 1
  others=$(sed -nE '/ (unknown|edited)$/p' <<<"$status")
  if [[ $others ]]; then
    say "the database does not fit $1: $others"
    return 1
  fi
  sed '/ pending$/!d' <<<"$status" | wc -l
}
roll_back_until() { # IMAGE COUNT: until so many of its migrations are pending
  local pending
  pending=$(count_pending "$1") || return 1
  if ((pending < $2)); then
    migrate "$1" down $(($2 - pending)) --yes >/dev/null
  fi
}

# Waits until the container is healthy; fails as soon as it is certain that it will not be.
become_healthy() { # CONTAINER
  local deadline=$((SECONDS + wait)) state
  local format='{{.State.Status}} {{.RestartCount}} {{with .State.Health}}{{.Status}}{{end}}'
  while true; do
    state=$(docker container inspect -f "$format" "$1") || state=unknown
    if [[ $state != 'running 0 starting' ]] || ((SECONDS >= deadline)); then
      break
    fi
    sleep 1
  done
  if [[ $state == 'running '*' healthy' ]]; then
    return 0
  fi
  say "$1 is not healthy (state, restarts, health: $state); the end of its log:"
  docker logs --tail 30 "$1" >&2 || true
  return 1
}
start() { # CONTAINER
  docker start "$1" >/dev/null && become_healthy "$1"
}

# Undoes user-service-new: rolls its migrations back, and starts what it replaced, if anything.
undo() {
  local image count status=0
  image=$(inspect user-service-new Config.Image)
  count=$(inspect user-service-new Config.Labels.migrations)
  docker stop user-service-new >/dev/null || status=1
  if ! roll_back_until "$image" "$count"; then
    say "the migrations of $image were not rolled back"
    status=1
  fi
  # Fails where that name is taken.
  docker rename user-service-previous user-service 2>/dev/null || true
  if exists user-service; then
    start user-service || status=1
  fi
  if ((status == 0)); then
    docker rm user-service-new >/dev/null
  fi
  return "$status"
}
give_up() { # REASON
  undo || fail "$1, and the container from before did not come back"
  fail "$1; everything is as it was before"
}

roll_back() {
  local count
  exists user-service-previous || fail 'there is no container to go back to'
  count=$(inspect user-service Config.Labels.migrations)
  if [[ $count != 0 && ! $yes ]]; then
    fail "rolling back $count migrations deletes the data they hold: pass --yes to do so"
  fi
  docker rename user-service user-service-new
  undo || fail 'the container from before is not healthy: deploy an image that is'
}

log_in() {
  local answer
  DOCKER_CONFIG=$(mktemp -d)
  export DOCKER_CONFIG
  trap 'rm -rf "$DOCKER_CONFIG"' EXIT
  # Not <<<, for which bash before 5.1 writes a temporary file.
  answer=$(printf '%s\n' "$password" |
    docker login -u "$user" --password-stdin "${image%%/*}" 2>&1) ||
    fail "nothing changed: $answer"
}

deploy() {
  local count options
  if [[ $password ]]; then
    log_in
  fi
  docker pull -q "$image" >/dev/null || fail 'nothing changed: the image could not be pulled'
  count=$(count_pending "$image") ||
    fail 'nothing changed: the image cannot tell its migrations, or the database has others'
  read -r -d '' -a options <"$config/docker.options" || true
  docker create --name user-service-new --label "migrations=$count" --restart unless-stopped \
    --stop-timeout 15 --log-driver local --log-opt max-size=10m --log-opt max-file=5 \
    "${confined[@]}" --env-file "$config/env" "${options[@]}" "$image" >/dev/null ||
    fail 'nothing changed: see docker.options'
  migrate "$image" up >/dev/null ||
    give_up "a migration failed, or took more than $migrate_wait s"
  if exists user-service; then
    docker stop user-service >/dev/null || give_up 'the old container could not be stopped'
  fi
  start user-service-new || give_up "$image failed"
  docker rm -f user-service-previous >/dev/null 2>&1 || true
  if exists user-service; then
    docker rename user-service user-service-previous
  fi
  docker rename user-service-new user-service
}

# The commands that cron runs are those of the version that serves.
renew_commands() {
  rm -rf "$commands/new" &&
    docker cp user-service:/app "$commands/new" >/dev/null &&
    rm -rf "$commands/app" &&
    mv "$commands/new" "$commands/app"
}
program() { # COMMAND: the functions and settings, and COMMAND, for a shell on the instance
  declare -p words config commands wait migrate_wait
  declare -f
  echo "set -euo pipefail; $1"
}
# What a restricted key runs instead of what it is told to run.
renew_program() {
  {
    echo '#!/usr/bin/env bash'
    program restricted
  } >"$commands/deploy.new" &&
    chmod 700 "$commands/deploy.new" &&
    mv "$commands/deploy.new" "$commands/deploy"
}

check_settings() {
  local found
  found=$(find "$config"/{env,admin.env,docker.options} -readable ! -perm /077 | wc -l)
  [[ $found == 3 ]] ||
    fail "$config needs env, admin.env and docker.options, of mode 0600 and ours"
}
on_instance() { # IMAGE or --roll-back, [--yes]
  local unfinished
  image=$1 yes=${2-}
  trap '' HUP PIPE
  echo reached
  confined=(--read-only --cap-drop ALL --security-opt no-new-privileges --pids-limit 256
    --add-host host.docker.internal:host-gateway)
  check_settings
  exec 9<"$config/env"
  flock -n 9 || fail 'another deployment is running on the instance'
  if exists user-service-new; then
    unfinished=$(inspect user-service-new Config.Image)
    say "the deployment of $unfinished was cut short: restoring what ran before it"
    undo || say 'that failed'
    docker rm -f user-service-new >/dev/null 2>&1 || true
  fi
  if [[ $image == --roll-back ]]; then
    roll_back
  else
    deploy
  fi
  renew_commands || say "$commands/app was not renewed"
  say "user-service is healthy, its image $(inspect user-service Config.Image)"
}

unrestricted() { # as on_instance
  on_instance "$@"
  renew_program || say "$commands/deploy was not renewed"
}

# The same for a key whose forced command this is. Of what it sends, only the words and the lines
# with the registry's user and password are read.
restricted() {
  [[ ${SSH_ORIGINAL_COMMAND-} =~ ^bash\ -s\ --\ ($words)$ ]] ||
    fail 'this key can deploy and roll back, and nothing else' 2
  local arguments serving
  read -r -a arguments <<<"${BASH_REMATCH[1]}"
  if [[ ${arguments[0]} != --roll-back ]]; then
    serving=$(inspect user-service Config.Image) ||
      fail 'nothing changed: the first deployment needs an unrestricted key'
    [[ $(repository "${arguments[0]}") == "$(repository "$serving")" ]] ||
      fail "nothing changed: this key can only deploy images of $(repository "$serving")"
  fi
  read -r _
  IFS= read -r user
  IFS= read -r password
  on_instance "${arguments[@]}" </dev/null
}

if [[ $* == --help || $* == -h ]]; then
  echo "$usage"
  exit
fi
[[ $* =~ ^($words)$ ]] ||
  fail 'expected IMAGE:TAG, IMAGE@sha256:DIGEST or --roll-back; see --help' 2
[[ ${DEPLOY_HOST-} ]] || fail 'DEPLOY_HOST must be set; see --help' 2
config=${DEPLOY_CONFIG:-/etc/user-service}
commands=${DEPLOY_COMMANDS:-/opt/user-service}
wait=${DEPLOY_WAIT:-60}
migrate_wait=${DEPLOY_MIGRATE_WAIT:-600}
options=(-o BatchMode=yes -o StrictHostKeyChecking=yes -o ConnectTimeout=15
  -o ServerAliveInterval=15 -p "${DEPLOY_PORT:-22}")
if [[ ${DEPLOY_KNOWN_HOSTS-} ]]; then
  options+=(-o "UserKnownHostsFile=$DEPLOY_KNOWN_HOSTS")
fi
if [[ ${DEPLOY_KEY_FILE-} ]]; then
  options+=(-o IdentitiesOnly=yes -i "$DEPLOY_KEY_FILE")
fi

# The shell on the instance reads its program and the two lines from the same stream.
send() {
  echo 'IFS= read -r user; IFS= read -r password'
  printf '%s\n' "${REGISTRY_USER-}" "${REGISTRY_PASSWORD-}"
  # shellcheck disable=SC2016 # expands there
  program 'unrestricted "$@" </dev/null'
}
status=0
# shellcheck disable=SC2029 # expands here, into words
reached=$(send | ssh "${options[@]}" "${DEPLOY_USER:-ubuntu}@$DEPLOY_HOST" "bash -s -- $*") ||
  status=$?
if ((status == 255)); then
  [[ $reached ]] || fail "no connection to $DEPLOY_HOST: nothing changed"
  fail "the connection to $DEPLOY_HOST was lost: the deployment continues there"
fi
exit "$status"
