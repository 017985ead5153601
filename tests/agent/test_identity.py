"""An agent has one key, which is its own, and signs with it what it says was used."""

from __future__ import annotations

from dataclasses import replace

import pytest
from agent_bench import AgentBench, order, reply
from cryptography.hazmat.primitives.asymmetric import ed448
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from dure.agent.identity import KEY_FILE, IdentityError, own_identity
from dure.agent.uplink import UplinkRefusedError
from dure.agent.wire import KeyOffer
from dure.attestation import is_public_key, is_signed
from dure.engines import EngineEnd


def test_a_key_is_made_once_and_for_its_user_alone(tmp_path):
    made = own_identity(tmp_path)
    assert is_public_key(made.public_key)
    assert (tmp_path / KEY_FILE).stat().st_mode & 0o777 == 0o600
    assert own_identity(tmp_path).public_key == made.public_key
    assert own_identity(tmp_path).sign("x") == made.sign("x")


def test_a_key_file_of_which_half_was_written_is_made_anew(tmp_path):
    (tmp_path / KEY_FILE).with_suffix(".new").write_bytes(b"-----BEGIN")
    assert is_public_key(own_identity(tmp_path).public_key)


OTHER_KIND = ed448.Ed448PrivateKey.generate().private_bytes(
    Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()
)


@pytest.mark.parametrize(
    ("content", "says"),
    [(b"no key", "no private key"), (OTHER_KIND, "another kind")],
    ids=["no key", "another kind"],
)
def test_what_is_no_such_key_is_refused_and_kept(tmp_path, content, says):
    (tmp_path / KEY_FILE).write_bytes(content)
    with pytest.raises(IdentityError, match=says):
        own_identity(tmp_path)
    assert (tmp_path / KEY_FILE).read_bytes() == content


def test_an_agent_names_its_key_before_it_says_anything(bench: AgentBench):
    bench.control.down = True
    bench.tick()
    bench.control.down = False
    bench.tick(times=3)

    key = own_identity(bench.root).public_key
    assert bench.control.offers == [KeyOffer(cluster_id="c", public_key=key)]
    bench.restart()
    bench.tick()
    assert bench.control.offers[1:] == bench.control.offers[:1]


def test_an_agent_whose_key_is_refused_says_nothing_and_tries_again(bench: AgentBench, monkeypatch):
    def refuses(_offer):
        raise UplinkRefusedError("PUT /v1/agent/key was answered 409")

    with monkeypatch.context() as patch:
        patch.setattr(bench.control, "enrol", refuses)
        bench.tick(times=2)
    assert bench.control.requests == []
    bench.tick()
    assert len(bench.control.requests) == 1


def test_an_end_is_signed_and_nothing_else(bench: AgentBench):
    bench.run_to_running()
    assert bench.report.signature is None
    bench.engine.complete("a-1")
    bench.tick(times=3)

    report, key = bench.report, own_identity(bench.root).public_key
    assert is_signed("c", report, key)
    for other in (
        replace(report, ended_ms=report.ended_ms + 1),
        replace(report, started_ms=None),
        replace(report, end=EngineEnd.ERRED),
        replace(report, attempt_id="a-2"),
        replace(report, signature=None),
        replace(report, signature="no base64"),
    ):
        assert not is_signed("c", other, key)
    assert not is_signed("other", report, key)


def test_an_end_before_any_start_is_signed_too(bench: AgentBench):
    bench.engine.refuses = True
    bench.control.reply = reply(order())
    bench.tick(times=3)
    assert bench.report.end is EngineEnd.START_FAILED
    assert is_signed("c", bench.report, own_identity(bench.root).public_key)


def test_drift_is_told_as_far_as_a_sync_can_carry_it(bench: AgentBench, monkeypatch):
    found = (*(f"job {n:03} runs twice" for n in range(120)), "x" * 600)
    monkeypatch.setattr(bench.engine, "drift", lambda: found)
    bench.tick()
    told = bench.control.requests[-1].drift
    assert len(told) == 100
    assert told[0] == "job 000 runs twice"
    assert all(len(one) <= 500 for one in told)
