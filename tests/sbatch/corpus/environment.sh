#!/bin/bash
#SBATCH --export=ALL,HF_TOKEN,EPOCHS=3,WANDB_MODE=offline
#SBATCH --gpus=1
#SBATCH --time=1:00:00
python finetune.py
