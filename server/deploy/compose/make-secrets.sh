#!/bin/sh
# Makes the passwords and the key file that compose.yaml uses, in the folder `secrets` beside it. Fails if there is one.
set -eu
cd "$(dirname "$0")"
mkdir -m 700 secrets
password=$(openssl rand -hex 24)
openssl rand -base64 756 > secrets/mongodb-key
openssl rand -hex 12 > secrets/grafana-password
echo "$password" > secrets/mongodb-password
echo "mongodb://sluice:$password@mongo1:27017,mongo2:27017,mongo3:27017/?replicaSet=sluice" > secrets/mongodb-url
chmod 444 secrets/*  # containers read them as users of their own; only you may enter the folder
