#!/bin/bash
#SBATCH --no-requeue
#SBATCH --gpus=1
#SBATCH --time=90
python migrate.py
