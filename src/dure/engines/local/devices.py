"""Which GPUs a local pool offers: what NVML finds on this machine, or declared slots.

A slot is what CUDA_VISIBLE_DEVICES may name: a GPU's UUID, or for a declared slot its number on its
node. Nothing here has been run on real GPUs yet; the tests play them through `Nvml`.
"""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Protocol, cast

import pynvml  # type: ignore[import-untyped]  # NVIDIA ships no types

from dure.jobs import GPUS_PER_NODE_MAX, NODES_MAX
from dure.text import check_slug


class Devices(StrEnum):
    """Where a pool's slots come from."""

    DECLARED = "declared"
    NVML = "nvml"


@dataclass(frozen=True, slots=True, kw_only=True)
class LocalPool:
    """A pool of this machine: declared nodes of equal slots, or with `nvml` the GPUs found.

    Those are the pool's one node, all of them; where NVML finds none, the pool has no node.
    """

    pool_id: str
    nodes: int = 0
    gpus_per_node: int = 0
    devices: Devices = Devices.DECLARED

    def __post_init__(self) -> None:
        check_slug("pool_id", self.pool_id)
        if self.devices is Devices.NVML:
            if self.nodes or self.gpus_per_node:
                raise ValueError(
                    f"pool {self.pool_id} has devices nvml; leave out nodes and gpus_per_node "
                    f"({self.nodes:,} and {self.gpus_per_node:,}), for the GPUs found are its node"
                )
            return
        for field, value, most in (
            ("nodes", self.nodes, NODES_MAX),
            ("gpus_per_node", self.gpus_per_node, GPUS_PER_NODE_MAX),
        ):
            if not 1 <= value <= most:
                raise ValueError(
                    f"{field} of pool {self.pool_id} is {value:,}; it must be from 1 to {most:,}"
                )


@dataclass(frozen=True, slots=True)
class Gpu:
    """A GPU that NVML found and that is not split by MIG."""

    index: int
    uuid: str
    name: str
    memory_bytes: int


class Nvml(Protocol):
    """The part of NVIDIA's `pynvml` module that is used here."""

    def nvmlInit(self) -> None: ...  # noqa: D102, N802  NVML's own name
    def nvmlShutdown(self) -> None: ...  # noqa: D102, N802  NVML's own name
    def nvmlDeviceGetCount(self) -> int: ...  # noqa: D102, N802  NVML's own name
    def nvmlDeviceGetHandleByIndex(self, index: int) -> Any: ...  # noqa: D102, N802  NVML's own name
    def nvmlDeviceGetUUID(self, handle: Any) -> str: ...  # noqa: D102, N802  NVML's own name
    def nvmlDeviceGetName(self, handle: Any) -> str: ...  # noqa: D102, N802  NVML's own name
    def nvmlDeviceGetMemoryInfo(self, handle: Any) -> Any: ...  # noqa: D102, N802  NVML's own name
    def nvmlDeviceGetMigMode(self, handle: Any) -> Any: ...  # noqa: D102, N802  NVML's own name


def nvml_gpus(nvml: Nvml | None = None) -> tuple[Gpu, ...]:
    """The machine's NVIDIA GPUs in NVML's order; none where there is no driver.

    A GPU that does not answer, or that is split by MIG, is left out: its slot cannot be promised.
    """
    source = nvml if nvml is not None else cast("Nvml", pynvml)
    try:
        source.nvmlInit()
    except pynvml.NVMLError:
        return ()
    try:
        found = (_gpu(source, index) for index in range(source.nvmlDeviceGetCount()))
        return tuple(gpu for gpu in found if gpu is not None)
    except pynvml.NVMLError:
        return ()
    finally:
        with contextlib.suppress(pynvml.NVMLError):
            source.nvmlShutdown()


def _gpu(nvml: Nvml, index: int) -> Gpu | None:
    try:
        handle = nvml.nvmlDeviceGetHandleByIndex(index)
        if _is_split(nvml, handle):
            return None
        memory_bytes = int(nvml.nvmlDeviceGetMemoryInfo(handle).total)
        uuid, name = nvml.nvmlDeviceGetUUID(handle), nvml.nvmlDeviceGetName(handle)
    except pynvml.NVMLError:
        return None
    return Gpu(index, uuid, name, memory_bytes)


def _is_split(nvml: Nvml, handle: Any) -> bool:
    try:
        current, _ = nvml.nvmlDeviceGetMigMode(handle)
    except pynvml.NVMLError_NotSupported:  # models without MIG
        return False
    return bool(current)


def node_slots(pool: LocalPool, nvml: Nvml | None = None) -> tuple[tuple[str, ...], ...]:
    """The slots of each of the pool's nodes, by ordinal."""
    if pool.devices is Devices.NVML:
        gpus = nvml_gpus(nvml)
        return (tuple(gpu.uuid for gpu in gpus),) if gpus else ()
    return tuple(tuple(map(str, range(pool.gpus_per_node))) for _ in range(pool.nodes))
