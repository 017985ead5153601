#!/bin/bash
#SBATCH -a 1,3,10-20:5
#SBATCH -t 30
#SBATCH --gres=gpu:rtx_pro_6000:2
#SBATCH --mem-per-gpu=48G
./render.sh "$SLURM_ARRAY_TASK_ID"
