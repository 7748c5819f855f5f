#!/bin/sh
# The same from the shell: a server of one's own on free ports, made ill and well again.
#
#     PATH=$PWD/target/debug:$PATH nfslab/examples/shell.sh
set -eu
folder=$(mktemp -d)
nfslab serve --ports auto --control "unix:$folder/control" --ready-file "$folder/ready" &
server=$!
trap 'kill $server; wait $server; rm -r "$folder"' EXIT
# It is there, whole, once every listener accepts.
while ! [ -e "$folder/ready" ]; do kill -0 $server; sleep 0.05; done
export NFSLAB_CONTROL="unix:$folder/control"

nfslab service statd absent     # lockd cannot give a new client its first lock any more
nfslab service lockd 'slow 2s'  # and answers two seconds late
nfslab service list
nfslab clock advance 60s
nfslab lock list --output json
nfslab peer list
nfslab events
nfslab reset
nfslab service list
