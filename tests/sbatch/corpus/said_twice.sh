#!/bin/bash
#SBATCH --time=1:00:00
#SBATCH --time=2:00:00
#SBATCH --mem=10G
#SBATCH --mem-per-gpu=20G
#SBATCH --requeue
#SBATCH --no-requeue
#SBATCH --gpus-per-node=2
python twice.py
