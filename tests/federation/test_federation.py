"""How a machine plays a scenario: which GPUs it offers, and what it says of them."""

from __future__ import annotations

import json

import pytest

from dure import federation, scenario
from dure.agent.config import load_config
from dure.cli.federation import site_line
from dure.engines.local.devices import Devices, Gpu
from dure.federation import Federation, play

KOREA = scenario.load(scenario.find("korea"))
NOW_MS = 1_800_000_000_000


def played_on(monkeypatch, count, *, gpus=True):
    found = tuple(Gpu(index, f"GPU-{index}", "NVIDIA H100", 1) for index in range(count))
    monkeypatch.setattr(federation, "nvml_gpus", lambda: found)
    return play(KOREA, NOW_MS, gpus=gpus)


def pools_of(played, data):
    made = Federation(data=data, scenario=KOREA, port=1, played=played, say=print)
    pools = []
    for site in played:
        folder = made.agent_root(site.cluster.cluster_id)
        folder.mkdir(parents=True)
        (folder / "token").write_text("t")
        path = made._agent_config(None, site)
        assert json.loads(path.read_text())["pools"][0]["pool_id"] == site.cluster.pool_id
        pools.append(load_config(path).pools[0])
    return pools


def test_real_gpus_play_the_first_cluster_alone(monkeypatch, tmp_path):
    played = played_on(monkeypatch, 3)
    first, *others = pools_of(played, tmp_path)
    assert (first.devices, first.nodes, first.gpus_per_node) == (Devices.NVML, 0, 0)
    assert {pool.devices for pool in others} == {Devices.DECLARED}
    assert played[0].slots == 3
    assert "this machine's 3 real GPUs play" in site_line(played[0])
    assert f"{played[1].slots} slots play" in site_line(played[1])


@pytest.mark.parametrize(("count", "gpus"), [(0, True), (3, False)])
def test_without_gpus_declared_slots_play_every_cluster(monkeypatch, tmp_path, count, gpus):
    played = played_on(monkeypatch, count, gpus=gpus)
    for site, pool in zip(played, pools_of(played, tmp_path), strict=True):
        assert pool.devices is Devices.DECLARED
        assert pool.nodes * pool.gpus_per_node == site.slots > 0
        assert "real GPUs" not in site_line(site)
