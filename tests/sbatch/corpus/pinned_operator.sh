#!/bin/bash
#SBATCH --clusters=nhn-cloud
#SBATCH --gpus=16
#SBATCH --time=2:00:00
module load nccl-tests
srun ./all_reduce_perf -b 8 -e 8G -f 2
