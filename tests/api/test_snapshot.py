"""The snapshot that rehearsals begin with: what it says, and what it never says."""

from __future__ import annotations

from dataclasses import replace

import pytest

from dure import codec
from dure.errors import RefusedError
from dure.jobs import Array, Checkpoint, Resources
from dure.snapshot import Snapshot
from nation import spec, submission, submit

WORDS = ("secret-plan", "do-not-tell.py", "MY_SETTING", "lab-member", "hunter2")


@pytest.fixture
def busy(nation, site):
    """Four nodes: three tasks run on them, one is being asked about, and eight more wait."""
    site.sync()
    member = nation.lab()
    job = spec(
        name="secret-plan",
        command=("python", "do-not-tell.py"),
        env={"MY_SETTING": "x"},
        checkpoint=Checkpoint(dir="ckpt"),
    )
    member.submit(submission(replace(job), secrets={"TOKEN": "hunter2"}), key="one")
    site.start_all()
    submit(member, replace(job, array=Array(tuple(range(9)))), replace(job, name="other"))
    site.start_all()
    nation.pass_s(600)
    site.round()
    return nation


def test_it_tells_what_runs_and_waits_and_where(busy):
    seen = busy.admin.snapshot()
    assert seen.at_ms == busy.now_ms
    assert sorted(one.id for one in seen.running) == ["j-1.0", "j-2.0", "j-2.1", "j-2.2"]
    assert sorted(node for one in seen.running for node in one.nodes) == [0, 1, 2, 3]
    assert [one.id for one in seen.waiting] == [*(f"j-2.{n}" for n in range(3, 9)), "j-3.0"]
    first = next(one for one in seen.running if one.id == "j-1.0")
    terms = seen.terms[first.terms]
    assert (terms.project, terms.gpus_per_node, terms.saves) == ("lab", 8, True)
    assert first.pool == "nhn-b200"
    assert first.started_ms < seen.at_ms < first.expected_ms <= first.ends_ms
    pool = next(one for one in seen.pools if one.pool == "nhn-b200")
    assert (pool.nodes, pool.down, pool.silent) == (4, (), False)
    assert dict(seen.groups) == {terms.share: "university"}


def test_jobs_alike_share_a_number_and_nobodys_words_come_along(busy):
    seen = busy.admin.snapshot()
    likes = {one.id: seen.terms[one.terms].like for one in (*seen.running, *seen.waiting)}
    assert likes["j-1.0"] == likes["j-2.8"] != likes["j-3.0"]
    text = codec.encode(seen).decode()
    assert [word for word in WORDS if word in text] == []


def test_a_silent_site_is_told_with_the_nodes_it_last_had(busy):
    busy.pass_s(3_600)
    [pool] = [one for one in busy.admin.snapshot().pools if one.pool == "nhn-b200"]
    assert (pool.nodes, pool.silent) == (4, True)


def test_what_is_down_is_told(busy, site):
    site.down.add(2)
    site.sync()
    [pool] = [one for one in busy.admin.snapshot().pools if one.pool == "nhn-b200"]
    assert (pool.nodes, pool.down) == (4, (2,))


def test_a_queue_longer_than_a_cycle_looks_at_comes_whole(nation, site):
    member = nation.lab()
    small = spec(resources=Resources(gpus_per_node=1, gpu_models=("b200",)))
    submit(member, replace(small, array=Array(tuple(range(300)))))
    assert len(nation.admin.snapshot().waiting) == 300


def test_it_is_read_back_from_a_file_strictly(busy):
    seen = busy.admin.snapshot()
    text = codec.encode(seen)
    assert codec.decode(Snapshot, text, what="snapshot") == seen
    torn = text.replace(b'"nodes":[0]', b'"nodes":[]', 1)
    with pytest.raises(RefusedError, match="name each node once"):
        codec.decode(Snapshot, torn, what="snapshot")
    moved = text.replace(b'"pool":"nhn-b200","nodes":[', b'"pool":"elsewhere","nodes":[', 1)
    with pytest.raises(RefusedError, match=r"names pool .elsewhere."):
        codec.decode(Snapshot, moved, what="snapshot")
