#!/bin/bash
#SBATCH --nodes=1
#SBATCH --sockets-per-node=2
#SBATCH --ntasks-per-socket=4
#SBATCH --hint=nomultithread
#SBATCH --distribution=block:cyclic
#SBATCH --gpu-bind=closest
#SBATCH --switches=1@10:00
#SBATCH --contiguous
#SBATCH --profile=all
#SBATCH --nice=100
#SBATCH --wckey=paper
#SBATCH --tmp=200G
#SBATCH --gpus=8
#SBATCH --time=30:00
srun ./gromacs mdrun
