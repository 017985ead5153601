"""What a rehearsal is fed with: arrivals, in order of time, each of a kind.

A kind is all that many jobs have in common and is made once; an arrival is one job, four values, so
that ten million of them stream through without weight.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from dure.jobs import Tier


@dataclass(frozen=True, slots=True, kw_only=True)
class Kind:
    """Jobs alike: who asks, for what shape, under which rules.

    `share` is the leaf of the capacity tree, `operator` whose jobs they are for the reports (its VC
    in a trace), `group` the kind of organisation. A job takes `nodes` nodes with `gpus_per_node`
    GPUs each. No `gpu_models` means any.
    """

    share: str
    operator: str
    project: str
    user: str
    group: str = ""
    name: str = ""
    nodes: int = 1
    gpus_per_node: int = 1
    gpu_models: tuple[str, ...] = ()
    pool: str | None = None
    """The one pool that its allocation is for; None: any."""
    data_class: str = "open"
    tier: Tier = Tier.STANDARD
    priority: int = 50
    walltime_s: int | None = None
    """What the user asks for; None: the workload has no such limit."""
    checkpoint_every_s: int | None = None
    """How often it writes a checkpoint; None: never."""

    @property
    def gpus(self) -> int:
        """GPUs of one job."""
        return self.nodes * self.gpus_per_node


class Arrival(NamedTuple):
    """One job: when it is submitted, how long it runs undisturbed, and what was predicted.

    Times are ms since the rehearsal's start. `predicted_ms` is None where nobody predicted: the
    core's own estimator then does.
    """

    at_ms: int
    kind: Kind
    duration_ms: int
    predicted_ms: int | None = None
    id: str = ""
