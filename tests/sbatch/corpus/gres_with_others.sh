#!/bin/bash
#SBATCH --gres=lscratch:400,gpu:v100x:4
#SBATCH --cpus-per-task=28
#SBATCH --mem=120g
#SBATCH --time=5-00:00:00
cp -r /data/kim/set "$SLURM_TMPDIR"
python train.py --data "$SLURM_TMPDIR/set"
