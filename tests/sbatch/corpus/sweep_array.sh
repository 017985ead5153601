#!/bin/bash
#SBATCH --job-name=sweep
#SBATCH --array=0-31%4
#SBATCH --gpus=1
#SBATCH --time=04:00:00
#SBATCH --output=logs/%A_%a.out
LRS=(0.1 0.03 0.01 0.003)
python train.py --lr "${LRS[$((SLURM_ARRAY_TASK_ID % 4))]}" --seed "$SLURM_ARRAY_TASK_ID"
