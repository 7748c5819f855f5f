#!/bin/sh
# The control API with curl: statd goes, a minute passes, everything is put back.
#
#     nfslab serve --ports auto &
#     nfslab/examples/control_api.sh [ADDRESS:PORT]
set -eu
at=http://${1:-${NFSLAB_CONTROL:-127.0.0.1:9049}}
ask() { curl --silent --show-error --fail-with-body "$@"; echo; }

ask "$at/version"
ask -X PUT -H 'content-type: application/json' -d '{"condition": "absent"}' "$at/v1/services/statd"
ask "$at/v1/locks?limit=10"
ask "$at/v1/peers"
ask -X POST -H 'content-type: application/json' -d '{"advance": "60s"}' "$at/v1/clock"
ask "$at/v1/events?after=0"
ask -X POST "$at/v1/reset"
ask "$at/metrics" | grep '^nfslab_service_condition'
