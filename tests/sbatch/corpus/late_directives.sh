#!/bin/bash
#SBATCH --gpus=1
# SBATCH --nodes=9
##SBATCH --nodes=8
#PBS -l walltime=1:00:00
#SBATCH --time=15

set -euo pipefail
#SBATCH --mem=256G
python quick.py
