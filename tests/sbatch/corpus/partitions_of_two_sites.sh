#!/bin/bash
#SBATCH --partition=nhn-b200,kakao-b200,interactive
#SBATCH --gpus=8
#SBATCH --time=1:00:00
python bench.py
