#!/bin/bash
#SBATCH --nodes=2
#SBATCH --gpus-per-node=8
#SBATCH --time=4:00:00
srun --container-image=nvcr.io#nvidia/pytorch:25.01-py3 \
     --container-mounts=/data/c4:/data:ro \
     python -m pretrain
