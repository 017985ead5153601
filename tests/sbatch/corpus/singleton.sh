#!/bin/bash
#SBATCH --job-name=chain
#SBATCH --dependency=singleton
#SBATCH --gpus=1
#SBATCH --time=23:59:00
python train.py --resume auto
