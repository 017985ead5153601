#!/bin/bash
#SBATCH --job-name=long
#SBATCH --signal=B:USR1@300
#SBATCH --open-mode=append
#SBATCH --requeue
#SBATCH --gres=gpu:a100:4
#SBATCH --time=1-00:00:00
#SBATCH --output=long.log

requeue() {
    touch CHECKPOINT
    scontrol requeue "$SLURM_JOB_ID"
}
trap requeue USR1
python train.py --resume &
wait
