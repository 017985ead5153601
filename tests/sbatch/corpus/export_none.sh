#!/bin/bash -l
#SBATCH --export=NONE
#SBATCH --get-user-env
#SBATCH --gpus=1
#SBATCH --time=1:00:00
unset SLURM_EXPORT_ENV
python infer.py
