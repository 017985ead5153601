#!/bin/bash
#SBATCH --ntasks=16
#SBATCH --mem-per-cpu=2000M
#SBATCH --time=0-02:30
mpirun ./cfd input.nml
