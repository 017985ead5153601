#!/bin/bash
#SBATCH --begin=2027-01-20T22:00:00
#SBATCH --hold
#SBATCH --gpus=1
#SBATCH --time=1:00:00
python nightly.py
