#!/bin/bash
# What every job of Dure on Slurm runs. It is the same for all of them: what differs is data in the
# attempt's folder, and no text of a user is in this file, its arguments or a directive.
#
#   batch.sh ATTEMPT_FOLDER PYTHON RANK_PROGRAM
#
# On one node this process becomes the rank's. On more, srun starts one rank a node, and the job ends
# with the exit code of the first rank that failed.
attempt=$1 python=$2 program=$3
DURE_BEGAN_S=$EPOCHSECONDS
DURE_MASTER_ADDR=$(uname -n)
export DURE_BEGAN_S DURE_MASTER_ADDR
if ((SLURM_JOB_NUM_NODES == 1)); then
    exec "$python" -I -S "$program" "$attempt"
fi
# Since 22.05 srun no longer takes the job's own count of CPUs a task (srun(1), SLURM_CPUS_PER_TASK).
if [[ -n $SLURM_CPUS_PER_TASK ]]; then export SRUN_CPUS_PER_TASK=$SLURM_CPUS_PER_TASK; fi
# A rank that has written how it ended exits with 0, and the others have their grace. One that was
# killed has not: --kill-on-bad-exit ends the others. --overlap lets the job's own srun run beside it.
srun --ntasks-per-node=1 --overlap --mem=0 --kill-on-bad-exit=1 --input=none --output=none \
    --error="$attempt/srun.%N.err" "$python" -I -S "$program" "$attempt" || exit $?
exec "$python" -I -S "$program" --exit-code "$attempt"
