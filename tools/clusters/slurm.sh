#!/usr/bin/env bash
# Pre-trains on nodes of a Slurm cluster, and goes on after a time limit, a preemption or a failed node:
#   DATA=/shared/data OUTPUT=/shared/run sbatch tools/clusters/slurm.sh
# DATA and OUTPUT are on a file system that all nodes share. Under Slurm, JAX gives each task one GPU: as many tasks as GPUs.
#SBATCH --job-name=bert
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=8
#SBATCH --gpus-per-node=8
#SBATCH --time=24:00:00
#SBATCH --requeue
#SBATCH --open-mode=append
# The tasks get SIGTERM two minutes before the time limit: they finish the step, save and end with 143.
#SBATCH --signal=TERM@120
set -uo pipefail

: "${DATA:?is not set: the directory that bert-jax prepare made}"
: "${OUTPUT:?is not set: the run directory}"
CONFIG=${CONFIG:-large_lamb}
CRASHES=${CRASHES:-20} # starts after which a crash is no longer tried again
# Compiled programs, shared by all nodes and kept for the next start.
export JAX_COMPILATION_CACHE_DIR=${JAX_COMPILATION_CACHE_DIR:-$(dirname "$OUTPUT")/compiled}

# A task that fails ends the others: they would wait for it.
srun --kill-on-bad-exit=1 bert-jax pretrain "$CONFIG" --data "$DATA" --output "$OUTPUT" --distributed "$@"
status=$?

case $status in
    75 | 143) # the machines failed, or the run was stopped after saving: the same job goes on from its newest checkpoint
        echo "status $status: put back into the queue" >&2
        scontrol requeue "$SLURM_JOB_ID"
        ;;
    134 | 137 | 139) # a process crashed or was killed, for which srun hides the 75 of the others
        if ((${SLURM_RESTART_COUNT:-0} < CRASHES)); then
            echo "status $status: put back into the queue" >&2
            scontrol requeue "$SLURM_JOB_ID"
        fi
        ;;
esac
exit "$status"
