#!/bin/bash
#SBATCH --job-name=ray
#SBATCH --nodes=3
#SBATCH --tasks-per-node=1
#SBATCH --gpus-per-task=4
#SBATCH --cpus-per-task=32
#SBATCH --time=5:00:00
nodes=$(scontrol show hostnames "$SLURM_JOB_NODELIST")
head=$(echo "$nodes" | head -n1)
srun --nodes=1 --ntasks=1 -w "$head" ray start --head --port=6379 --block &
sleep 10
srun --nodes=2 --ntasks=2 --relative=1 ray start --address "$head:6379" --block &
sleep 10
python tune.py
