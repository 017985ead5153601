"""Slurm's batch scripts as they are: read, translated into a job, with a word on every line.

What is given comes from `options` and `script`, and `precedence` says which counts; `shape` and
`places` say what the job needs and where it may run; `translate` makes its draft and the `report`;
`wrapped` makes the script that its nodes run. All is pure but `onnode`, which runs on those nodes.

Source of the rules: sbatch(1) of Slurm 22.05, unless a line names another.
"""
