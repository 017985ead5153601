#!/bin/bash
#SBATCH --job-name="한글 모델/v2"
#SBATCH --gpus=h200:8
#SBATCH --time=10:00:00
#DURE --data-class=national-core
python 학습.py
