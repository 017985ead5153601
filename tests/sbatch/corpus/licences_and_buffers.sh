#!/bin/bash
#SBATCH --licenses=ansys:2
#SBATCH --bb="capacity=1TB access_mode=striped"
#SBATCH --gpus=4
#SBATCH --time=2:00:00
fluent 3d -g -i case.jou
