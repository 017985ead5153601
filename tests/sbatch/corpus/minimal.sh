#!/bin/sh
#SBATCH --time=10
#SBATCH --gres=gpu:1
nvidia-smi
