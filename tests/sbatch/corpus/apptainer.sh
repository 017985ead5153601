#!/bin/bash
#SBATCH --gres=gpu:2
#SBATCH -c 16
#SBATCH --mem=128000
#SBATCH -t 0-08
#SBATCH -o slurm-%N-%j.out
apptainer exec --nv image.sif python train.py
