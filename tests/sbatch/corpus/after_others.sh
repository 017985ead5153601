#!/bin/bash
#SBATCH --job-name=evaluate
#SBATCH --dependency=afterok:4711:4712,afterany:4713
#SBATCH --kill-on-invalid-dep=yes
#SBATCH --gpus=2
#SBATCH --time=1:00:00
python evaluate.py
