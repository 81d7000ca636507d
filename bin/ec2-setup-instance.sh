#!/usr/bin/env bash
# User data for an EC2 instance with Ubuntu or Debian: fill in these values. cloud-init runs it as
# root. It is safe to run again: existing passwords and settings stay as they are.
set -euo pipefail
CI_PUBLIC_KEY=${CI_PUBLIC_KEY-}        # for deployments, ssh-ed25519 AAAA...; none if empty
EC2_USER_NAME=${EC2_USER_NAME:-ubuntu} # deploys and runs the cron jobs; "admin" on Debian
S3_BUCKET=${S3_BUCKET:-s3://user-service-database-dumps}

usage='Usage: bin/ec2-setup-instance.sh, as root or as user data

Installs PostgreSQL, Docker, the AWS CLI and Node. PostgreSQL listens on localhost and on the bridge
of Docker, 172.17.0.1, and nowhere else. Makes passwords and writes /etc/user-service: env,
admin.env, cron.env, database.env, docker.options, secrets-key. CI_PUBLIC_KEY may then log in, but
only run /opt/user-service/deploy, which the first deployment by another key puts there. cron backs
up and monitors. Exit: 0 done, 1 failed, 2 misuse.

Environment: CI_PUBLIC_KEY, EC2_USER_NAME, S3_BUCKET, as at the top of the script'
fail() { # MESSAGE [STATUS]
  echo "ec2-setup-instance: $1" >&2
  exit "${2:-1}"
}
if [[ $* == --help || $* == -h ]]; then
  echo "$usage"
  exit
fi
(($# == 0)) || fail 'expected no arguments; see --help' 2
((EUID == 0)) || fail 'must run as root; see --help' 2
home=$(getent passwd "$EC2_USER_NAME" | cut -d: -f6) ||
  fail "there is no user $EC2_USER_NAME: set EC2_USER_NAME" 2
trap 'fail "stopped at line $LINENO"' ERR

export DEBIAN_FRONTEND=noninteractive
install_packages() { # NAME...
  apt-get -qy install --no-install-recommends "$@"
}
apt-get -q update
install_packages ca-certificates cron curl docker.io postgresql procps
if ! command -v aws >/dev/null; then
  # Ubuntu 24.04 has no package of the AWS CLI; AWS publishes it as a snap.
  install_packages awscli || snap install aws-cli --classic
fi
# The distributions' own Node is too old to run TypeScript without a build.
key=/usr/share/keyrings/nodesource.asc
curl -fsSL https://deb.nodesource.com/gpgkey/nodesource-repo.gpg.key -o $key
cat >/etc/apt/sources.list.d/nodesource.list <<END
deb [signed-by=$key] https://deb.nodesource.com/node_22.x nodistro main
END
apt-get -q update
install_packages nodejs
usermod -aG docker "$EC2_USER_NAME"

# Lets PostgreSQL start at boot before Docker's bridge has its address.
echo 'net.ipv4.ip_nonlocal_bind = 1' >/etc/sysctl.d/60-user-service.conf
sysctl -q -p /etc/sysctl.d/60-user-service.conf
for cluster in /etc/postgresql/*/main; do
  cat >"$cluster/conf.d/user-service.conf" <<END
listen_addresses = 'localhost,172.17.0.1'
password_encryption = 'scram-sha-256'
# An aborted migration must not keep its locks.
client_connection_check_interval = '2s'
END
  rule='host db_user_service user_service_admin,user_service_manager 172.17.0.0/16 scram-sha-256'
  if ! grep -qxF "$rule" "$cluster/pg_hba.conf"; then
    echo "$rule" >>"$cluster/pg_hba.conf"
  fi
done
# The database runs before the threads that hash passwords: looking up a key must not wait for them.
slice=/etc/systemd/system/system-postgresql.slice.d/user-service.conf
install -D -m 644 /dev/stdin $slice <<END
[Slice]
CPUWeight=1000
END
systemctl daemon-reload
systemctl enable --now docker cron
systemctl restart postgresql
ip -4 address show docker0 | grep -q 'inet 172.17.0.1/16' ||
  fail "Docker's bridge is not 172.17.0.1/16: set bip in /etc/docker/daemon.json"

config=/etc/user-service
install -d -o "$EC2_USER_NAME" /opt/user-service
install -d -o "$EC2_USER_NAME" -m 700 $config
write() { # FILE LINE...: once, readable by the deploying user alone
  local file=$config/$1
  if [[ ! -e $file ]]; then
    printf '%s\n' "${@:2}" | install -o "$EC2_USER_NAME" -m 600 /dev/stdin "$file"
  fi
}
password() { # ADMIN, MANAGER or USER: the line that sets it for that role
  sed -n "s/^$1_PASSWORD=/DATABASE_PASSWORD=/p" $config/database.env
}
random() {
  head -c 24 /dev/urandom | base64 | tr '+/' '-_'
}
write database.env DATABASE_HOST=/var/run/postgresql \
  "ADMIN_PASSWORD=$(random)" "MANAGER_PASSWORD=$(random)" "USER_PASSWORD=$(random)"
write env DATABASE_HOST=172.17.0.1 "$(password MANAGER)" SECRETS_KEY_FILE=/secrets-key
write admin.env DATABASE_HOST=172.17.0.1 DATABASE_USER=user_service_admin \
  "$(password ADMIN)" "S3_BUCKET=$S3_BUCKET"
write cron.env DATABASE_HOST=localhost "$(password USER)" "S3_BUCKET=$S3_BUCKET"
write docker.options "--publish 80:80 --volume $config/secrets-key:/secrets-key:ro"
if [[ ! -e $config/secrets-key ]]; then
  # Only its owner may read it: the user of the image.
  head -c 32 /dev/urandom | base64 | install -o 1000 -m 400 /dev/stdin $config/secrets-key.new
  mv $config/secrets-key.new $config/secrets-key
fi

user=$EC2_USER_NAME
run="$user cd /opt/user-service/app && node --env-file=$config/cron.env"
prune="$user docker image prune --all --force --filter until=168h"
cat >/etc/cron.d/user-service <<END
PATH=/usr/local/bin:/usr/bin:/bin:/snap/bin
*/20 * * * * $run bin/backup.js --quiet 2>&1 | logger -t user-service-backup
23 4 * * 0 $run bin/restore.js latest --check 2>&1 | logger -t user-service-drill
41 4 * * 0 $prune 2>&1 | logger -t user-service-prune
*/5 * * * * $run bin/monitor.js 2>&1 | logger -t user-service-monitor
END

admit() { # PUBLIC_KEY: to run one program, whatever rights an older line gave it
  local keys=$home/.ssh/authorized_keys
  install -d -o "$EC2_USER_NAME" -m 700 "$home/.ssh"
  {
    grep -svF "$1" "$keys" || true
    echo "restrict,command=\"/opt/user-service/deploy\" $1"
  } >"$keys.new"
  chown "$EC2_USER_NAME:" "$keys.new"
  chmod 600 "$keys.new"
  mv "$keys.new" "$keys"
}
if [[ $CI_PUBLIC_KEY ]]; then
  admit "$CI_PUBLIC_KEY"
fi
echo 'The instance is set up: next, create the database (bin/README.md, step 6)'
