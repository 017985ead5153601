#!/bin/bash
#SBATCH --job-name=lightning
#SBATCH --nodes=4
#SBATCH --ntasks-per-node=8
#SBATCH --gres=gpu:h200:8
#SBATCH --cpus-per-task=12
#SBATCH --time=24:00:00
#SBATCH --signal=SIGUSR1@90
#SBATCH --requeue
export NCCL_DEBUG=INFO
srun python fit.py --devices 8 --num_nodes 4
