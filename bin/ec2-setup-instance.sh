#!/usr/bin/env bash
# User data for an EC2 instance with Ubuntu or Debian: give it with these values filled in. Run by
# cloud-init as root; safe to run again: passwords and settings that are there stay as they are.
set -euo pipefail
CI_PUBLIC_KEY=${CI_PUBLIC_KEY-}               # the deployments' key, ssh-ed25519 AAAA...; empty: none
EC2_USER_NAME=${EC2_USER_NAME:-ubuntu}        # who deploys and whose cron backs up; "admin" on Debian
S3_BUCKET=${S3_BUCKET:-s3://user-service-database-dumps}

usage='Usage: sudo [CI_PUBLIC_KEY=...] [EC2_USER_NAME=...] [S3_BUCKET=...] bin/ec2-setup-instance.sh, or as user data

Installs PostgreSQL, Docker, the AWS CLI and Node; lets PostgreSQL listen on localhost and on the bridge of Docker,
172.17.0.1, and nowhere else; makes passwords and writes /etc/user-service (env, admin.env, cron.env, database.env,
docker.options, 0600); admits CI_PUBLIC_KEY; has cron back up and monitor. Exit: 0 done, 1 failed, 2 misuse.'
fail() { echo "ec2-setup-instance: $1" >&2 && exit "${2:-1}"; }
[[ $* != --help ]] || { echo "$usage" && exit; }
[[ $# == 0 && $EUID == 0 ]] || fail 'takes no words, and must run as root; see --help' 2
home=$(getent passwd "$EC2_USER_NAME" | cut -d: -f6) || fail "there is no user $EC2_USER_NAME: set EC2_USER_NAME" 2
trap 'fail "stopped at line $LINENO"' ERR

export DEBIAN_FRONTEND=noninteractive
apt-get -q update
apt-get -qy install --no-install-recommends ca-certificates cron curl docker.io postgresql procps
# Ubuntu 24.04 has no package of the AWS CLI; AWS publishes it as a snap.
command -v aws >/dev/null || apt-get -qy install --no-install-recommends awscli || snap install aws-cli --classic
key=/usr/share/keyrings/nodesource.asc # the Node of the distributions is too old to run our text as it is
curl -fsSL https://deb.nodesource.com/gpgkey/nodesource-repo.gpg.key -o $key
echo "deb [signed-by=$key] https://deb.nodesource.com/node_22.x nodistro main" >/etc/apt/sources.list.d/nodesource.list
apt-get -q update
apt-get -qy install --no-install-recommends nodejs
usermod -aG docker "$EC2_USER_NAME"

# At boot PostgreSQL may come up before Docker's bridge has its address: it listens there all the same.
echo 'net.ipv4.ip_nonlocal_bind = 1' >/etc/sysctl.d/60-user-service.conf
sysctl -q -p /etc/sysctl.d/60-user-service.conf
for cluster in /etc/postgresql/*/main; do
  # The last line: a migration that was given up must not go on holding its locks.
  printf '%s\n' "listen_addresses = 'localhost,172.17.0.1'" "password_encryption = 'scram-sha-256'" \
    "client_connection_check_interval = '2s'" >"$cluster/conf.d/user-service.conf"
  rule='host db_user_service user_service_admin,user_service_manager 172.17.0.0/16 scram-sha-256'
  grep -qxF "$rule" "$cluster/pg_hba.conf" || echo "$rule" >>"$cluster/pg_hba.conf"
done
# Before the threads that hash passwords: a look-up of a key must not wait for them.
install -D -m 644 /dev/stdin /etc/systemd/system/system-postgresql.slice.d/user-service.conf <<<$'[Slice]\nCPUWeight=1000'
systemctl daemon-reload
systemctl enable --now docker cron
systemctl restart postgresql
ip -4 address show docker0 | grep -q 'inet 172.17.0.1/16' ||
  fail "Docker's bridge is not 172.17.0.1/16: set bip in /etc/docker/daemon.json"

config=/etc/user-service
install -d -o "$EC2_USER_NAME" /opt/user-service
install -d -o "$EC2_USER_NAME" -m 700 $config
write() { # FILE LINE...: only once, for the deploying user alone
  [[ -e $config/$1 ]] || printf '%s\n' "${@:2}" | install -o "$EC2_USER_NAME" -m 600 /dev/stdin "$config/$1"
}
password() { sed -n "s/^$1_PASSWORD=/DATABASE_PASSWORD=/p" $config/database.env; }
random() { head -c 24 /dev/urandom | base64 | tr '+/' '-_'; }
write database.env DATABASE_HOST=/var/run/postgresql \
  "ADMIN_PASSWORD=$(random)" "MANAGER_PASSWORD=$(random)" "USER_PASSWORD=$(random)"
write env DATABASE_HOST=172.17.0.1 "$(password MANAGER)"
write admin.env DATABASE_HOST=172.17.0.1 DATABASE_USER=user_service_admin "$(password ADMIN)" "S3_BUCKET=$S3_BUCKET"
write cron.env DATABASE_HOST=localhost "$(password USER)" "S3_BUCKET=$S3_BUCKET"
write docker.options '--publish 80:80'

run="$EC2_USER_NAME cd /opt/user-service/app && node --env-file=$config/cron.env"
cat >/etc/cron.d/user-service <<END
PATH=/usr/local/bin:/usr/bin:/bin:/snap/bin
*/20 * * * * $run bin/backup.js --quiet 2>&1 | logger -t user-service-backup
23 4 * * 0 $run bin/restore.js latest --check 2>&1 | logger -t user-service-drill
41 4 * * 0 $EC2_USER_NAME docker image prune --all --force --filter until=168h 2>&1 | logger -t user-service-prune
*/5 * * * * $run bin/monitor.js 2>&1 | logger -t user-service-monitor
END

if [[ $CI_PUBLIC_KEY ]] && ! grep -qsF "$CI_PUBLIC_KEY" "$home/.ssh/authorized_keys"; then
  install -d -o "$EC2_USER_NAME" -m 700 "$home/.ssh"
  echo "restrict $CI_PUBLIC_KEY" | runuser -u "$EC2_USER_NAME" -- tee -a "$home/.ssh/authorized_keys" >/dev/null
fi
echo 'The instance is set up: next, create the database (bin/README.md, step 6)'
