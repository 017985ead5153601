#!/bin/bash
#SBATCH --constraint="h200|b200"
#SBATCH --gpus-per-node=4
#SBATCH --mem=500G
#SBATCH --time=6:00:00
python serve.py
