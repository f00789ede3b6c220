#!/bin/sh
# Sends a file of JSON lines with curl, in pieces of 8 MB: SLUICE_API_KEY=... ship.sh FILE
# Each piece is sent again until it is stored. Run again with the same file, it stores nothing twice.
set -eu
url="http://127.0.0.1:8000/api/v1/events?source=shop&type_field=kind&time_field=at&dedupe=content"

pieces=$(mktemp -d)
trap 'rm -r "$pieces"' EXIT
split --line-bytes=8M "$1" "$pieces/"
for piece in "$pieces"/*; do
    # --retry is for 408, 429, 5xx and timeouts, and obeys Retry-After. The loop is for broken connections.
    until curl --silent --show-error --fail-with-body --max-time 60 --retry 1000000 --retry-delay 1 \
        --header "X-API-Key: $SLUICE_API_KEY" --header "Content-Type: application/x-ndjson" --data-binary "@$piece" "$url"
    do
        [ $? -ne 22 ] || exit 1 # a 4xx: sending it again does not help
        sleep 1
    done
done
