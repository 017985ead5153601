"""The agent's rounds against a control plane and an engine in memory."""

from __future__ import annotations

import os
import shutil
from dataclasses import replace

import pytest
from agent_bench import entry, order, reply, tree

from dure import codec
from dure.agent.wire import Wish
from dure.engines import EngineEnd, Phase
from dure.store.files import digest


def stops(bench):
    return [call for call in bench.engine.calls if call[0] == "stop"]


def test_an_order_becomes_a_prepared_folder_and_a_launch(bench):
    workdir = bench.control.hold(**{"run.sh": b"echo hi", "src/train.py": b"print()"})
    checkpoint = bench.control.hold(step=b"41")
    bench.control.hidden = {"TOKEN": "hush"}
    bench.control.reply = reply(
        order(
            workdir=workdir,
            checkpoint_dir="state/ckpt",
            checkpoint=checkpoint,
            outputs_dir="out",
            env={"LR": "0.1"},
        )
    )
    bench.tick()

    ((launch, folder),) = bench.engine.launches
    assert folder == bench.folder
    assert (folder / "src" / "train.py").read_bytes() == b"print()"
    assert (folder / "state" / "ckpt" / "step").read_bytes() == b"41"
    assert (folder / "out").is_dir()
    assert launch.env == {
        "LR": "0.1",
        "TOKEN": "hush",
        "DURE_ATTEMPT_ID": "a-1",
        "DURE_ATTEMPT_NUMBER": "1",
        "DURE_JOB_ID": "j-1",
        "DURE_JOB_NAME": "train",
        "DURE_TASK_INDEX": "0",
        "DURE_PROJECT": "climate",
        "DURE_POOL": "p",
        "DURE_OUTPUTS_DIR": f"{folder}/out",
        "DURE_CHECKPOINT_DIR": f"{folder}/state/ckpt",
    }


def test_repeated_syncs_and_lost_replies_launch_once(bench):
    bench.control.reply = reply(order())
    bench.control.lose_replies = 2
    bench.tick(times=6)
    bench.restart()
    bench.tick(times=2)
    assert len(bench.engine.launches) == 1
    assert bench.report.phase is Phase.ACCEPTED


def test_secrets_are_never_on_disk_nor_in_the_log(bench, capsys):
    bench.control.hidden = {"TOKEN": "hush-hush"}
    bench.run_to_running()
    bench.engine.complete("a-1")
    bench.tick(times=2)
    kept = [p for p in bench.root.rglob("*") if p.is_file() and b"hush-hush" in p.read_bytes()]
    assert kept == []
    assert "hush-hush" not in "".join(capsys.readouterr())


def test_what_runs_is_reported_with_the_time_of_its_last_checkpoint(bench):
    bench.run_to_running(checkpoint_dir="ckpt")
    bench.tick()
    started_ms = bench.report.started_ms
    assert bench.report.saved_ms is None
    step = bench.folder / "ckpt" / "step"
    step.write_bytes(b"9")
    os.utime(step, ns=((started_ms + 5_000) * 1_000_000,) * 2)
    bench.tick()
    assert bench.report.saved_ms == started_ms + 5_000


def test_the_end_is_reported_after_its_log_and_files_are_up(bench):
    bench.run_to_running(outputs_dir="out", checkpoint_dir="ckpt")
    (bench.folder / "out" / "model").write_bytes(b"weights")
    (bench.folder / "ckpt" / "step").write_bytes(b"9")
    bench.engine.log_path("a-1", 0).write_bytes(b"done\n")
    bench.engine.complete("a-1")
    bench.executor.held = []
    bench.tick(times=2)
    assert bench.report.phase is Phase.RUNNING

    bench.executor.release()
    bench.tick()
    assert bench.report.phase is Phase.ENDED
    assert (bench.report.end, bench.report.exit_code) == (EngineEnd.COMPLETED, 0)
    assert bench.control.manifests[bench.report.outputs] == tree(model=b"weights")
    assert bench.control.manifests[bench.report.checkpoint] == tree(step=b"9")
    assert b"weights" in bench.control.blobs.values()
    assert bench.control.logs["a-1", 0] == b"done\n"


def test_closed_is_forgotten_and_its_folder_deleted(bench):
    bench.run_to_running()
    bench.engine.complete("a-1")
    bench.tick(times=2)
    bench.control.reply = reply(closed=["a-1"])
    bench.tick(times=2)
    assert not bench.folder.exists()
    assert list((bench.root / "agent" / "records").iterdir()) == []
    assert bench.engine.seen == {}
    assert bench.control.reports == {}


def test_a_closed_ones_read_only_folder_is_deleted(bench):
    bench.run_to_running()
    (bench.folder / "go" / "pkg").mkdir(parents=True)
    (bench.folder / "go" / "pkg" / "x").touch()
    (bench.folder / "go" / "pkg").chmod(0o555)
    bench.folder.chmod(0o555)
    bench.engine.complete("a-1")
    bench.tick(times=2)
    bench.control.reply = reply(closed=["a-1"])
    bench.tick()
    assert not bench.folder.exists()
    assert list((bench.root / "agent" / "trash").iterdir()) == []


def test_folders_that_a_killed_agent_left_are_removed_and_no_others(bench):
    bench.run_to_running()
    for name in ("a-2", "a-3"):
        (bench.folder.parent / name).mkdir()
    (bench.root / "agent" / "trash" / "half").mkdir()
    bench.engine.become("a-3", Phase.RUNNING)  # the engine has it, though its record was lost
    bench.restart()
    bench.engine.silent = True
    bench.tick()
    assert len(list(bench.folder.parent.iterdir())) == 3
    bench.engine.silent = False
    bench.tick()
    assert sorted(left.name for left in bench.folder.parent.iterdir()) == ["a-1", "a-3"]
    assert list((bench.root / "agent" / "trash").iterdir()) == []


def test_an_end_is_repeated_until_closed_and_outlives_a_restart(bench):
    bench.run_to_running(outputs_dir="out")
    (bench.folder / "out" / "model").write_bytes(b"weights")
    bench.engine.complete("a-1")
    bench.tick(times=2)
    said = bench.report
    bench.restart()
    bench.tick(times=2)
    assert bench.report == said
    assert said.outputs == digest(tree(model=b"weights"))


def test_an_end_while_the_agent_was_dead_is_found(bench):
    bench.run_to_running(outputs_dir="out")
    (bench.folder / "out" / "model").write_bytes(b"weights")
    bench.restart()
    bench.engine.complete("a-1")
    bench.tick()
    assert bench.report.phase is Phase.RUNNING
    bench.tick()
    assert bench.report.outputs == digest(tree(model=b"weights"))


def test_a_record_that_a_power_loss_emptied_is_made_again(bench):
    bench.run_to_running()
    (bench.root / "agent" / "records" / "a-1.json").write_bytes(b"")
    bench.restart()
    bench.engine.complete("a-1")
    bench.tick(times=3)
    assert bench.report.end is EngineEnd.COMPLETED
    assert len(bench.engine.launches) == 1


@pytest.mark.parametrize("wanted", [order(wish=Wish.STOP), None])
def test_stop_and_no_longer_ordered_stop_it(bench, wanted):
    bench.run_to_running()
    bench.control.reply = reply(*([wanted] if wanted else []))
    bench.tick()
    assert stops(bench) == [("stop", "a-1")]


def test_a_stranger_is_left_alone_and_reported(bench):
    bench.engine.become("x-1", Phase.RUNNING)
    bench.control.reply = reply(strangers=["x-1"])
    bench.tick(times=3)
    assert bench.engine.calls == []
    assert bench.control.reports["x-1"].phase is Phase.RUNNING


def test_stopped_while_preparing_it_ends_unstarted(bench):
    bench.control.reply = reply(order())
    bench.executor.held = []
    bench.tick()
    bench.control.reply = reply(order(wish=Wish.STOP))
    bench.tick(times=2)
    assert (bench.report.end, bench.report.started_ms) == (EngineEnd.STOPPED, None)
    bench.executor.release()
    bench.control.reply = reply(order())
    bench.tick(times=2)
    assert bench.engine.launches == []


@pytest.mark.parametrize("restart_after", range(5))
@pytest.mark.parametrize("begun", ["no", "preparing", "ready", "submitting"])
def test_cancelled_before_the_engine_had_it_it_never_runs(bench, begun, restart_after):
    bench.control.reply = reply() if begun == "no" else reply(order())
    bench.executor.held = [] if begun in {"preparing", "ready"} else None
    bench.engine.drops = begun == "submitting"
    bench.tick()
    bench.engine.drops = False
    if begun == "ready":
        bench.executor.release()
    stopped = reply(order(wish=Wish.STOP))
    for step, said in enumerate([stopped, stopped, stopped, reply(order()), reply()]):
        if step == restart_after:
            bench.restart()
        bench.control.reply = said
        bench.tick()
        if step >= 1 + (step == restart_after):
            assert (bench.report.end, bench.report.started_ms) == (EngineEnd.STOPPED, None)
    bench.tick()
    assert bench.report.detail == "stopped before it started"
    assert bench.engine.launches == []


def test_long_preparation_holds_up_no_sync_and_reports_nothing(bench):
    bench.control.reply = reply(order())
    bench.executor.held = []
    bench.tick(times=3)
    assert len(bench.control.requests) == 3
    assert bench.control.reports == {}
    bench.executor.release()
    bench.tick()
    assert len(bench.engine.launches) == 1


def test_what_cannot_be_prepared_is_reported_after_three_tries(bench):
    workdir = bench.control.hold(data=b"right")
    bench.control.blobs[entry("data", b"right").sha256] = b"wrong"
    bench.control.reply = reply(order(workdir=workdir))
    bench.tick(times=3)
    assert bench.control.reports == {}
    bench.tick()
    assert bench.report.end is EngineEnd.START_FAILED
    assert bench.report.detail == (
        "cannot be prepared: what came for data is not the 5 bytes announced"
    )
    bench.tick(times=3)
    assert bench.engine.launches == []


def test_what_was_spoilt_in_the_cache_is_fetched_again(bench):
    workdir = bench.control.hold(data=b"right", more=b"more")
    bench.control.reply = reply(order(workdir=workdir))
    bench.executor.held = []
    bench.tick()
    cache = bench.root / "agent" / "cache"
    for content in (b"right", b"more"):
        (cache / entry("x", content).sha256).write_bytes(bytes(len(content)))
    bench.executor.release()
    bench.tick()
    assert (bench.folder / "data").read_bytes() == b"right"
    assert (bench.folder / "more").read_bytes() == b"more"
    assert len(bench.engine.launches) == 1


def test_a_silent_control_plane_costs_no_try(bench):
    workdir = bench.control.hold(data=b"right")
    bench.control.reply = reply(order(workdir=workdir))
    bench.executor.held = []
    bench.tick()
    for _ in range(5):
        bench.control.down = True
        bench.executor.release()
        bench.executor.held = []
        bench.tick()
        bench.control.down = False
        bench.tick()
    bench.executor.release()
    bench.tick()
    assert len(bench.engine.launches) == 1


def test_a_refused_launch_is_a_failed_start(bench):
    bench.engine.refuses = True
    bench.control.reply = reply(order())
    bench.tick(times=2)
    assert (bench.report.end, bench.report.detail) == (EngineEnd.START_FAILED, "no such node")


def test_an_engine_that_hangs_up_is_asked_before_it_is_told_again(bench):
    bench.engine.hangs_up = True
    bench.control.reply = reply(order())
    bench.tick(times=3)
    assert len(bench.engine.launches) == 1
    assert bench.report.phase is Phase.ACCEPTED


def test_what_the_engine_lost_is_not_run_again(bench):
    bench.run_to_running()
    bench.engine.seen.clear()
    bench.restart()
    bench.tick(times=3)
    assert len(bench.engine.launches) == 1
    assert bench.control.reports == {}
    assert bench.control.requests[-1].denied == ("a-1",)


def test_what_an_emptied_disk_lost_is_denied_and_not_run_again(bench):
    bench.run_to_running()
    shutil.rmtree(bench.root / "agent")
    bench.engine.seen.clear()
    bench.restart()
    for wish in Wish:
        bench.control.reply = reply(order(accepted=True, wish=wish), order("a-2"))
        bench.tick(times=3)
        assert bench.control.requests[-1].denied == ("a-1",)
        assert list(bench.control.reports) == ["a-2"]
    assert [launch.attempt_id for launch, _ in bench.engine.launches] == ["a-1", "a-2"]


def test_an_engine_that_does_not_answer_denies_nothing(bench):
    bench.run_to_running()
    bench.engine.seen.clear()
    bench.engine.silent = True
    bench.restart()
    bench.tick(times=2)
    assert bench.control.requests[-1].denied == ()
    bench.engine.silent = False
    bench.tick()
    assert bench.control.requests[-1].denied == ("a-1",)


def test_what_was_seen_after_a_hang_up_is_not_submitted_again_when_it_is_gone(bench):
    bench.engine.hangs_up = True
    bench.control.reply = reply(order())
    bench.tick(times=2)
    bench.engine.seen.clear()
    bench.restart()
    bench.tick(times=3)
    assert len(bench.engine.launches) == 1
    assert bench.control.requests[-1].denied == ("a-1",)


def test_what_is_being_settled_or_was_ended_is_not_denied(bench):
    bench.run_to_running()
    bench.engine.complete("a-1")
    bench.executor.held = []
    bench.tick()
    bench.engine.seen.clear()
    bench.control.reply = reply(order(accepted=True))
    bench.tick()
    assert bench.control.requests[-1].denied == ()
    bench.executor.release()
    bench.tick(times=2)
    assert bench.control.requests[-1].denied == ()
    assert bench.report.end is EngineEnd.COMPLETED


def test_one_attempts_broken_folder_is_not_the_others(bench):
    bench.control.reply = reply(*(order(id_) for id_ in ("a-1", "a-2", "a-3")))
    bench.tick()
    bench.engine.calls.clear()
    real = bench.engine.extend

    def extend(attempt_id, lease_until_ms):
        if attempt_id == "a-1":
            raise FileNotFoundError("lease")
        real(attempt_id, lease_until_ms)

    bench.engine.extend = extend
    real_path = bench.engine.log_path
    odd = {"a-2": bench.engine.root / ("x" * 300)}  # too long a name: it cannot be looked at
    bench.engine.log_path = lambda id_, rank: odd.get(id_) or real_path(id_, rank)
    real_path("a-3", 0).write_bytes(b"goes on")
    bench.tick()
    assert [call[1] for call in bench.engine.calls] == ["a-2", "a-3"]
    assert bench.control.logs["a-3", 0] == b"goes on"


def test_an_engine_whose_folder_cannot_be_read_holds_up_no_lease(bench):
    bench.run_to_running()
    bench.engine.calls.clear()

    def observe():
        raise PermissionError("attempts")

    bench.engine.observe = observe
    bench.tick()
    assert not bench.control.requests[-1].engine_answered
    assert [call[0] for call in bench.engine.calls] == ["extend"]


def test_contents_that_are_there_already_are_not_brought_again(bench):
    bench.control.hold(model=b"weights")
    bench.control.refuse_puts = True
    bench.run_to_running(outputs_dir="out")
    (bench.folder / "out" / "model").write_bytes(b"weights")
    bench.engine.complete("a-1")
    bench.tick(times=2)
    assert bench.report.outputs == digest(tree(model=b"weights"))


def test_a_sync_stays_small_whatever_a_job_leaves(bench):
    bench.run_to_running(outputs_dir="out")
    for number in range(300):
        (bench.folder / "out" / f"{number}{'x' * 200}").touch()
    bench.engine.complete("a-1")
    bench.tick(times=2)
    assert len(bench.control.manifests[bench.report.outputs].files) == 300
    assert len(codec.encode(bench.control.requests[-1])) < 1_000


def test_a_silent_engine_keeps_the_last_known_and_starts_nothing(bench):
    bench.run_to_running()
    bench.engine.silent = True
    bench.control.reply = reply(order(), order("a-2"))
    bench.tick()
    assert not bench.control.requests[-1].engine_answered
    assert bench.report.phase is Phase.RUNNING
    assert len(bench.engine.launches) == 1
    bench.engine.silent = False
    bench.tick()
    assert len(bench.engine.launches) == 2


def test_the_lease_counts_from_when_the_sync_was_sent(bench):
    bench.run_to_running()
    bench.engine.calls.clear()
    sent_ms = bench.now_ms
    real = bench.control.sync

    def slow(request):
        bench.now_ms += 7_000
        return real(request)

    bench.control.sync = slow
    bench.tick()
    assert ("extend", "a-1", sent_ms + 60_000) in bench.engine.calls


def test_after_its_lease_an_order_starts_nothing(bench):
    bench.control.reply = reply(order(), lease_s=5)
    bench.executor.held = []
    bench.tick()
    bench.now_ms += 10_000
    bench.executor.release()  # prepared at last, but perhaps it runs elsewhere by now
    bench.agent.act()
    assert bench.engine.launches == []
    bench.tick()
    assert len(bench.engine.launches) == 1


def test_backoff_grows_to_a_bound_with_jitter_and_recovers(bench):
    bench.tick()
    bench.control.down = True
    delays = [bench.tick() for _ in range(10)]
    assert all(delay <= 15 for delay in delays)  # a quarter of the lease
    assert delays[4] > delays[0]
    assert len({round(delay, 6) for delay in delays}) == 10
    bench.control.down = False
    assert bench.tick() == 1.0


def test_outputs_that_are_refused_or_odd_are_said_in_the_detail(bench):
    bench.run_to_running(outputs_dir="out", checkpoint_dir="ckpt")
    (bench.folder / "out" / "model").write_bytes(b"weights")
    (bench.folder / "ckpt" / "link").symlink_to("/etc/passwd")
    bench.control.refuse_puts = True
    bench.engine.complete("a-1")
    bench.tick(times=2)
    assert bench.report.end is EngineEnd.COMPLETED
    assert bench.report.outputs is None
    assert bench.report.detail == (
        "outputs were not taken: 413; checkpoint: 1 links, special files or unfit names left out"
    )


@pytest.mark.parametrize("lost", range(5))
def test_logs_arrive_byte_for_byte_whatever_reply_is_lost(bench, lost):
    log = os.urandom(700_000)
    bench.run_to_running()
    path = bench.engine.log_path("a-1", 0)
    path.write_bytes(log[:300_000])
    bench.control.lose_replies = lost
    bench.tick(times=lost + 1)
    assert bench.control.logs["a-1", 0] == log[:300_000]
    bench.restart()
    path.write_bytes(log)
    bench.engine.complete("a-1")
    bench.control.lose_replies = lost
    bench.tick(times=2 * lost + 2)
    assert bench.report.phase is Phase.ENDED
    assert bench.control.logs["a-1", 0] == log
    assert all(size <= 256 * 1024 for _, size in bench.control.log_calls)


def test_a_log_that_is_no_longer_taken_does_not_hold_up_the_end(bench):
    bench.control.log_bytes_max = 10
    bench.run_to_running()
    bench.engine.log_path("a-1", 0).write_bytes(b"x" * 300_000)
    bench.engine.complete("a-1")
    bench.tick(times=2)
    assert bench.report.detail == "the log of rank 0 was not taken whole"


@pytest.mark.parametrize(
    "attempt_id", ["../a-2", "/dev/null/a-2", "", ".", "A-2", "a-2\n", "a/2", "가", "a" * 64]
)
@pytest.mark.parametrize("wish", Wish)
def test_an_order_whose_id_cannot_name_files_is_logged_and_left(bench, capsys, attempt_id, wish):
    bench.control.reply = reply(order(attempt_id, wish=wish, outputs_dir="out"), order("a-1"))
    bench.tick(times=3)
    assert [launch.attempt_id for launch, _ in bench.engine.launches] == ["a-1"]
    assert list(bench.control.reports) == ["a-1"]
    found = {path.name for path in (bench.root / "agent").iterdir()}
    assert found == {"cache", "records", "trash", "work"}
    assert [path.name for path in bench.folder.parent.iterdir()] == ["a-1"]
    assert capsys.readouterr().out.count("order-refused") == 1


def test_two_orders_do_not_share_troubles(bench):
    bad = replace(order("a-1"), workdir=digest(tree(gone=b"never uploaded")))
    bench.control.reply = reply(bad, order("a-2"))
    bench.tick()
    assert [launch.attempt_id for launch, _ in bench.engine.launches] == ["a-2"]
