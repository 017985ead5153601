#!/bin/bash
#SBATCH -C "ib&nvme"
#SBATCH --gpus=1
#SBATCH --time=1:00:00
./run
