#!/bin/bash
#SBATCH --partition=a100-galvani
#SBATCH --gres=gpu:a100_3g.20gb:1
#SBATCH --qos=long
#SBATCH --account=mladm2
#SBATCH --time=3-00:00:00
#SBATCH --nodelist=galvani-cn101
#SBATCH --exclude=galvani-cn[105-107]
#SBATCH --reservation=tutorial
source /mnt/lustre/work/mladm2/env/bin/activate
python /home/kim/project/main.py --data /scratch/kim/imagenet
