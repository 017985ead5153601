"""What runs on each node of a batch job: its script once, on the first, in Slurm's surroundings.

The first node runs the script. The others wait for what `srun` in it sends them, until the script
has ended; then the job has. A site that is Slurm itself has all of it: there the script is run on
the first node, and nothing else is done.

Nodes meet in the job's folder, which they share:

    .dure-batch/host.RANK            its name, once it is there
    .dure-batch/step.N/ask.RANK      tasks that a node is asked to run, as JSON
    .dure-batch/step.N/RANK.T.out    what its task T writes, and `.err`
    .dure-batch/step.N/done.RANK     its tasks' exit codes, as JSON
    .dure-batch/step.N/signal.K      the K-th signal to the step
    .dure-batch/end                  the script has ended

A job carries these modules with it as text (`dure.sbatch.wrapped`): they know nothing else of Dure,
import only the standard library, and Python 3.8 will do. Sources: sbatch(1), srun(1), scontrol(1).
"""
