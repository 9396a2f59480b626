#!/usr/bin/env bash
# Pre-trains on TPUs of a GKE cluster that XPK made, with the image of tools/clusters/Dockerfile:
#   CLUSTER=my-cluster IMAGE=REGION-docker.pkg.dev/PROJECT/REPOSITORY/bert-jax tools/clusters/xpk.sh
# XPK starts a pod again after statuses 127 to 255, which are those of signals (143: stopped after saving); 75 is added here.
# After 2 (something that a person has to mend) it does not.
set -euo pipefail

: "${CLUSTER:?is not set: the name of the cluster}"
: "${IMAGE:?is not set: the image}"
DATA=${DATA:-/mnt/shared/data}
OUTPUT=${OUTPUT:-/mnt/shared/run}
CONFIG=${CONFIG:-large}

xpk workload create \
    --cluster "$CLUSTER" \
    --workload "${WORKLOAD:-bert}" \
    --tpu-type "${TPU_TYPE:-v5litepod-16}" \
    --num-slices 1 \
    --docker-image "$IMAGE" \
    --storage "${STORAGE:-shared}" \
    --max-restarts 100 \
    --restart-on-exit-codes 75 \
    --termination-grace-period-seconds 120 \
    --command "$(printf '%q ' bert-jax pretrain "$CONFIG" --data "$DATA" --output "$OUTPUT" --distributed "$@")"
