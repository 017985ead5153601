#!/bin/bash
#SBATCH --ntasks=12
#SBATCH --gpus-per-task=2
#SBATCH --cpus-per-gpu=8
#SBATCH --mem-per-cpu=4G
#SBATCH --time=3:00:00
srun --gpus-per-task=2 python worker.py
