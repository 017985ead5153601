from __future__ import annotations

from types import SimpleNamespace

import pynvml
import pytest
from local_bench import launch

from dure.engines import LaunchRefusedError
from dure.engines.local.devices import Devices, Gpu, LocalPool, node_slots, nvml_gpus
from dure.engines.local.engine import LocalEngine


class FakeNvml:
    """A machine with GPUs, some of them split by MIG or broken."""

    def __init__(self, gpus=4, split=(), broken=(), *, driver=True):
        self.gpus, self.split, self.broken, self.driver = gpus, split, broken, driver
        self.open = 0
        self.shuts_down = True

    def nvmlInit(self):  # noqa: N802  NVML's own name
        if not self.driver:
            raise pynvml.NVMLError(pynvml.NVML_ERROR_LIBRARY_NOT_FOUND)
        self.open += 1

    def nvmlShutdown(self):  # noqa: N802  NVML's own name
        if not self.shuts_down:
            raise pynvml.NVMLError(pynvml.NVML_ERROR_UNKNOWN)
        self.open -= 1

    def nvmlDeviceGetCount(self):  # noqa: N802  NVML's own name
        return self.gpus

    def nvmlDeviceGetHandleByIndex(self, index):  # noqa: N802  NVML's own name
        if index in self.broken:
            raise pynvml.NVMLError(pynvml.NVML_ERROR_GPU_IS_LOST)
        return index

    def nvmlDeviceGetUUID(self, handle):  # noqa: N802  NVML's own name
        return f"GPU-{handle:04d}"

    def nvmlDeviceGetName(self, handle):  # noqa: ARG002, N802  NVML's own name
        return "NVIDIA H200"

    def nvmlDeviceGetMemoryInfo(self, handle):  # noqa: ARG002, N802  NVML's own name
        return SimpleNamespace(total=141 * 10**9)

    def nvmlDeviceGetMigMode(self, handle):  # noqa: N802  NVML's own name
        if not self.split:
            raise pynvml.NVMLError(pynvml.NVML_ERROR_NOT_SUPPORTED)
        return [int(handle in self.split), 0]


def test_gpus_are_listed_by_nvml():
    nvml = FakeNvml(gpus=2)
    assert nvml_gpus(nvml) == (
        Gpu(0, "GPU-0000", "NVIDIA H200", 141 * 10**9),
        Gpu(1, "GPU-0001", "NVIDIA H200", 141 * 10**9),
    )
    assert nvml.open == 0


def test_split_and_lost_gpus_are_left_out():
    assert [gpu.index for gpu in nvml_gpus(FakeNvml(split=(1,), broken=(3,)))] == [0, 2]


def test_without_a_driver_there_are_none():
    assert nvml_gpus(FakeNvml(driver=False)) == ()


def test_an_nvml_pool_is_one_node_of_what_was_found():
    pool = LocalPool(pool_id="p", devices=Devices.NVML)
    assert node_slots(pool, FakeNvml(gpus=3)) == (("GPU-0000", "GPU-0001", "GPU-0002"),)
    assert node_slots(pool, FakeNvml(driver=False)) == ()
    assert node_slots(pool, FakeNvml(gpus=0)) == ()


@pytest.mark.parametrize("declared", [{"nodes": 2}, {"gpus_per_node": 8}])
def test_an_nvml_pool_declares_nothing(declared):
    with pytest.raises(ValueError, match="pool p has devices nvml; leave out nodes and gpus_per_n"):
        LocalPool(pool_id="p", devices=Devices.NVML, **declared)


def test_gpus_that_nvml_no_longer_finds_are_down_and_take_nothing(tmp_path):
    nvml = FakeNvml(gpus=2)
    engine = LocalEngine(tmp_path, [LocalPool(pool_id="p", devices=Devices.NVML)], nvml=nvml)

    def nodes():
        (report,) = engine.capacity()
        return [(node.gpus, node.up) for node in report.nodes]

    nvml.driver = False
    assert nodes() == []
    nvml.driver = True
    assert nodes() == [(2, True)]
    nvml.driver = False
    assert nodes() == [(2, False)]
    with pytest.raises(LaunchRefusedError, match="node 0 of pool p is down"):
        engine.submit(launch(), tmp_path)
    nvml.driver, nvml.shuts_down = True, False
    assert nodes() == [(2, True)]
    engine.close()


def test_a_declared_pool_says_what_it_has():
    with pytest.raises(ValueError, match="nodes of pool p is 0; it must be from 1 to"):
        LocalPool(pool_id="p")


def test_the_machines_gpus_are_in_one_pool_only(tmp_path):
    pools = [LocalPool(pool_id=name, devices=Devices.NVML) for name in ("p", "q")]
    with pytest.raises(ValueError, match="in one only"):
        LocalEngine(tmp_path, pools, nvml=FakeNvml())


@pytest.mark.engine
def test_a_job_sees_the_uuids_of_its_gpus(bench):
    bench.engine.close()
    pool = LocalPool(pool_id="p", devices=Devices.NVML)
    bench.engine = LocalEngine(bench.root / "engine", [pool], nvml=FakeNvml())
    bench.bash("a-1", "sleep 60", gpus_per_node=1)
    bench.bash("a-2", "echo $CUDA_VISIBLE_DEVICES", gpus_per_node=2)
    bench.ended("a-2")
    assert bench.log("a-2") == "GPU-0001,GPU-0002\n"
    (report,) = bench.engine.capacity()
    assert [(node.ordinal, node.gpus, node.up) for node in report.nodes] == [(0, 4, True)]
