"""openb: Alibaba's pods on shared GPUs, a pod list with the node list beside it; one VC, `openb`.

Source of the layout: github.com/alibaba/clusterdata, cluster-trace-gpu-v2023 (Weng et al., ATC'23).
A pod that asked for part of a GPU (`gpu_milli` below 1000) takes one whole GPU here, and the
nodes, which have 1 to 8 GPUs, are counted as nodes of 8 with as many GPUs in all: models and node
sizes do not tell pods apart. Users are not published: the pods' classes of service pass for them.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Final

from dure.rehearsal.traces.files import csv_jobs, csv_values, csvs_in
from dure.rehearsal.traces.trace import (
    GPUS_PER_NODE,
    BadRowError,
    Trace,
    TraceJob,
    Within,
    bad_trace,
    gpu_count,
    seconds,
)

COLUMNS: Final = (
    "name", "qos", "creation_time", "scheduled_time", "deletion_time", "num_gpu", "pod_phase",
)  # fmt: skip

VC: Final = "openb"


def read(pods: Path, within: Within) -> Trace:
    """Read a pod list; pods that were never scheduled are left out as `never-ran`.

    Raises:
        RefusedError: `bad-trace`: a file is missing or cannot be read as what it should be.
    """
    nodes = [file for file in csvs_in(pods.parent) if "node_list" in file.name]
    if not nodes:
        raise bad_trace(f"There is no openb_node_list*.csv beside {pods.name}; a trace needs it.")
    return Trace(
        {VC: sum(map(_gpus_on, nodes)) // GPUS_PER_NODE},
        {pods.name: lambda: csv_jobs(pods, COLUMNS, _job)},
        within=within,
    )


def _gpus_on(file: Path) -> int:
    gpus = 0
    for line, values in csv_values(file, ("sn", "gpu")):
        try:
            if isinstance(values, BadRowError):
                raise values
            gpus += gpu_count("gpu", values[1])
        except BadRowError as wrong:
            raise bad_trace(f"{file.name}:{line}: {wrong}.") from wrong
    return gpus


def _job(values: Sequence[str]) -> TraceJob:
    name, qos, created, scheduled, deleted, gpus, phase = values
    if not scheduled:
        raise BadRowError("never-ran", "scheduled_time is ''; right is when the pod was scheduled")
    ran_s = seconds("deletion_time", deleted) - seconds("scheduled_time", scheduled)
    if ran_s < 0:
        raise BadRowError(
            "bad-deletion_time", f"deletion_time is {deleted}; right is {scheduled} or later"
        )
    submit_s = seconds("creation_time", created)
    return TraceJob(name, VC, qos, submit_s, ran_s, gpu_count("num_gpu", gpus), phase)
