"""What a site says of its Ray cluster: the `[engine]` table and its pools."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final, Literal

from dure.jobs import CPUS_PER_NODE_MAX
from dure.text import check_slug, check_text, shown

RESOURCE: Final = re.compile(r"\A[A-Za-z0-9][A-Za-z0-9_.-]{0,63}\Z")
"""What Dure hands to Ray as an accelerator's type."""

_GPUS_PER_NODE_MAX: Final = 64


@dataclass(frozen=True, slots=True, kw_only=True)
class RayPool:
    """A pool as Ray knows it: the nodes that have GPUs, of one type where one is named."""

    pool_id: str
    gpus_per_node: int
    """GPUs of a node of the pool; a job that asks for more of each node is refused."""
    gpu_type: str | None = None
    """As Ray names it in the resource `accelerator_type:NAME`; None: any node with GPUs."""
    cpus_per_gpu: int = 0
    """CPUs that Ray sets aside for each GPU of a job; with 0 it sets none aside."""

    def __post_init__(self) -> None:
        check_slug("pool_id", self.pool_id)
        for name, least, most in (
            ("gpus_per_node", 1, _GPUS_PER_NODE_MAX),
            ("cpus_per_gpu", 0, CPUS_PER_NODE_MAX),
        ):
            value = getattr(self, name)
            if not least <= value <= most:
                raise ValueError(
                    f"{name} of pool {self.pool_id} is {value:,}; "
                    f"it must be from {least} to {most:,}"
                )
        if self.gpu_type is not None and not RESOURCE.match(self.gpu_type):
            raise ValueError(
                f"gpu_type of pool {self.pool_id} {shown(self.gpu_type)} is not one of Ray's; "
                "use 1 to 64 letters, digits or ._-, starting with a letter or digit"
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class RaySite:
    """How this site's Ray is reached."""

    type: Literal["ray"]
    dashboard: str
    """Where Ray's dashboard, and so its Jobs API, is: `http://127.0.0.1:8265` say."""
    token_file: str | None = None
    """A file with the cluster's token (RAY_AUTH_TOKEN) that its owner alone can read."""
    without_token: bool = False
    """True where the site accepts that anyone who reaches the dashboard runs anything."""
    python: str
    """The Python on the cluster's nodes that has Ray."""
    path: str = "/usr/local/bin:/usr/bin:/bin"
    """PATH of the jobs."""
    timeout_s: int = 30
    """How long an answer of Ray may take before the outcome counts as unknown."""

    def __post_init__(self) -> None:
        check_text("dashboard", self.dashboard, limit=1_024)
        if not self.dashboard.startswith(("http://", "https://")):
            raise ValueError(
                f"dashboard {shown(self.dashboard)} must start with https:// or http://"
            )
        for name in ("token_file", "python"):
            value = getattr(self, name)
            if value is not None:
                check_text(name, value, limit=1_024)
                if not value.startswith("/"):
                    raise ValueError(f"{name} {shown(value)} must be an absolute path")
        check_text("path", self.path)
        if (self.token_file is None) != self.without_token:
            raise ValueError(
                "token_file must be given, or without_token = true where the site accepts that "
                "anyone who reaches the dashboard runs anything; not both"
            )
        if not 1 <= self.timeout_s <= 600:
            raise ValueError(f"timeout_s is {self.timeout_s}; it must be from 1 to 600")
