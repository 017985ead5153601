#!/bin/bash
#SBATCH --chdir=experiments
#SBATCH --output=/scratch/kim/logs/%x-%4j.out
#SBATCH --error=/dev/null
#SBATCH --input=params.txt
#SBATCH --gpus=1
#SBATCH --time=5:00
python fit.py
