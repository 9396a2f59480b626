#!/usr/bin/env bash
# Pre-trains on all hosts of a Cloud TPU VM, and starts again after a preemption or a lost host until the run is finished:
#   TPU=my-v5e-16 ZONE=us-west4-a DATA=/mnt/shared/data OUTPUT=/mnt/shared/run tools/clusters/tpu_vm.sh
# The hosts share DATA and OUTPUT, and have a checkout, installed by `pip install ".[tpu]"`. A spot VM that is gone has to be made
# again first: QUEUE="gcloud compute tpus queued-resources create ..." is run where the VM is not ready, and then it is waited for.
set -uo pipefail

: "${TPU:?is not set: the name of the TPU VM}"
: "${ZONE:?is not set: its zone}"
: "${DATA:?is not set: the directory that bert-jax prepare made}"
: "${OUTPUT:?is not set: the run directory}"
CONFIG=${CONFIG:-large}
TRIES=${TRIES:-100}
PAUSE=${PAUSE:-30}
QUEUE=${QUEUE:-}

train=$(printf '%q ' bert-jax pretrain "$CONFIG" --data "$DATA" --output "$OUTPUT" --distributed "$@")
train="JAX_COMPILATION_CACHE_DIR=$(printf '%q' "$(dirname "$OUTPUT")/compiled") $train"

state() { gcloud compute tpus tpu-vm describe "$TPU" --zone "$ZONE" --format='value(state)' 2>/dev/null; }

for ((try = 1; try <= TRIES; try++)); do
    gcloud compute tpus tpu-vm ssh "$TPU" --zone "$ZONE" --worker=all --command "$train"
    status=$?
    case $status in
        0 | 2) # finished, or something that a person has to mend
            exit "$status"
            ;;
        1) # a bug; or gcloud's own status for a VM that was preempted, or that is not there
            found=$(state)
            [[ $found == READY || -z $found$QUEUE ]] && exit 1
            ;;
    esac
    # 143 saved and stopped, 75 the machines failed, 255 ssh found nobody: go on from the newest checkpoint.
    echo "start $try of $TRIES ended with status $status: again in $PAUSE s" >&2
    sleep "$PAUSE"
    if [[ -n $QUEUE && $(state) != READY ]]; then
        bash -c "$QUEUE"
        echo "waiting for $TPU to be ready" >&2
        until [[ $(state) == READY ]]; do sleep "$PAUSE"; done
    fi
done
echo "gave up after $TRIES starts" >&2
exit 75
