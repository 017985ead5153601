#!/bin/bash
#SBATCH --nodes=2-8
#SBATCH --ntasks-per-node=4
#SBATCH --gres=gpu:4
#SBATCH --time=40:00
srun python elastic.py
