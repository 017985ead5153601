#!/bin/bash
#SBATCH -J short
#SBATCH -A vision
#SBATCH -p nhn-b200
#SBATCH -N 1 -n 4 -c 6
#SBATCH -G 4
#SBATCH -t 2-00
#SBATCH -o out/%j.log
#SBATCH -D .
srun python train.py
