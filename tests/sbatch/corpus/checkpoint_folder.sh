#!/bin/bash
#SBATCH --job-name=resumes
#SBATCH --signal=USR1@120
#SBATCH --gpus-per-node=8
#SBATCH --time=8:00:00
#DURE --checkpoint-dir=ckpt --outputs=results
#DURE --retries=2
python train.py --checkpoint ckpt
