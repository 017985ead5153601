"""Workdirs, contents, logs and outputs: whole or not at all, and only to whom they belong."""

from __future__ import annotations

import hashlib
import json
import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from api_bench import assert_refused, bearer, cut_off, digest, raw

from dure import codec
from dure.agent.wire import (
    FILE_BYTES_MAX,
    FILES_MAX,
    MANIFEST_BYTES_MAX,
    FileEntry,
    Manifest,
    Order,
)
from dure.client import ApiError, Client
from dure.engines import EngineEnd
from dure.life import State
from dure.service import sites as service
from dure.store import files
from dure.store.blobs import Blobs, Logs
from nation import Nation, Site, spec, submit

CONTENT = b"the model's weights"
SHA = hashlib.sha256(CONTENT).hexdigest()
MANIFEST = Manifest((FileEntry("model.bin", len(CONTENT), SHA),))


def put(nation: Nation, client: Client, content: bytes, *, sha: str = SHA, to: str = "lab") -> Any:
    path = f"/v1/projects/{to}/blobs/{sha}"
    return raw(nation, "PUT", path, token=bearer(client), body=content)


def leftovers(nation: Nation) -> list[Path]:
    """Everything under the contents' folder that is not a content under its digest."""
    kept = [file for file in (nation.folder / "blobs").rglob("*") if file.is_file()]
    return [file for file in kept if hashlib.sha256(file.read_bytes()).hexdigest() != file.name]


# ---- manifests -----------------------------------------------------------------------------------


def entry(path: str = "a", **changes: Any) -> dict[str, Any]:
    return {"path": path, "size": 1, "sha256": SHA} | changes


MANIFESTS: dict[str, tuple[list[Any], str]] = {
    "out of the folder": ([entry("../a")], "'../a'"),
    "out and in": ([entry("a/../b")], "'a/../b'"),
    "absolute": ([entry("/etc/passwd")], "'/etc/passwd'"),
    "a dot": ([entry("./a")], "'./a'"),
    "nothing": ([entry("")], "path"),
    "a folder": ([entry("a/")], "'a/'"),
    "two slashes": ([entry("a//b")], "'a//b'"),
    "a backslash": ([entry("..\\a")], "backslash"),
    "a drive": ([entry("C:\\a")], "backslash"),
    "NUL": ([entry("a\0b")], "NUL"),
    "a newline": ([entry("a\nb")], "control character"),
    "10 kB": ([entry("a" * 10_240)], "10,240 characters"),
    "file and folder": ([entry("a"), entry("a/b")], "'a' is both"),
    "twice": ([entry("a"), entry("a")], "each path once"),
    "out of order": ([entry("b"), entry("a")], "order"),
    "20,001 files": ([entry(f"f{at:05}") for at in range(FILES_MAX + 1)], "20,001 entries"),
    "negative size": ([entry(size=-1)], "is -1"),
    "too large a file": ([entry(size=FILE_BYTES_MAX + 1)], "2,147,483,649"),
    "10^19 bytes": ([entry(size=10**19)], "10,000,000,000,000,000,000"),
    "too large together": ([entry(f"f{n:02}", size=FILE_BYTES_MAX) for n in range(11)], "together"),
    "no digest": ([entry(sha256="x")], "'x'"),
    "capitals": ([entry(sha256=SHA.upper())], "lower-case"),
    "a digest with a newline": ([entry(sha256=SHA + "\n")], "sha256"),
    "a link": ([entry(link="/etc/passwd")], "link is not a field"),
    "a mode": ([entry(executable=0o777)], "executable is 511"),
}


@pytest.fixture(scope="module")
def quiet(tmp_path_factory: pytest.TempPathFactory) -> Any:
    nation = Nation(tmp_path_factory.mktemp("manifests"))
    yield nation, nation.lab()
    nation.close()


@pytest.mark.parametrize(("entries", "named"), MANIFESTS.values(), ids=MANIFESTS.keys())
def test_a_manifest_that_is_none_is_refused(
    quiet: tuple[Nation, Client], entries: list[Any], named: str
):
    nation, lab = quiet
    before = digest(nation)
    answer = raw(
        nation, "POST", "/v1/projects/lab/workdirs", token=bearer(lab), body={"files": entries}
    )
    assert named in assert_refused(answer, status=422)
    assert digest(nation) == before


def test_strange_but_honest_paths_are_kept(nation: Nation):
    lab = nation.lab()
    paths = sorted(["..a", "...", "a b", "학습.py", "$(touch x)", "-rf", "%j", "\u202egpj.exe"])
    manifest = Manifest(tuple(FileEntry(path, 0, SHA) for path in paths))
    assert lab.register_workdir("lab", manifest).missing == (SHA,)


# ---- contents ------------------------------------------------------------------------------------


def test_a_wrong_digest_leaves_nothing(nation: Nation):
    lab = nation.lab()
    before = digest(nation)
    assert "SHA-256" in assert_refused(put(nation, lab, b"something else"), status=400)
    assert digest(nation) == before
    assert leftovers(nation) == []
    assert lab.register_workdir("lab", MANIFEST).missing == (SHA,)


@pytest.mark.parametrize("sha", ["x", SHA.upper(), SHA + "0", SHA[:-1] + "%0A", "..%2F..%2Fx"])
def test_what_is_no_digest_names_no_file(nation: Nation, sha: str):
    assert_refused(put(nation, nation.lab(), CONTENT, sha=sha))
    assert leftovers(nation) == []
    assert not (nation.folder / "x").exists()


def test_a_content_that_is_cut_off_leaves_nothing(nation: Nation):
    lab = nation.lab()
    before = digest(nation)
    path = f"/v1/projects/lab/blobs/{SHA}"
    assert cut_off(nation, "PUT", path, bearer(lab), CONTENT) == 400
    assert digest(nation) == before
    assert leftovers(nation) == []
    assert lab.register_workdir("lab", MANIFEST).missing == (SHA,)


def test_what_a_killed_process_left_is_gone_at_the_next_start(nation: Nation):
    left = nation.folder / "blobs" / "incoming" / "tmp123"
    left.write_bytes(b"half")
    os.utime(left, (0, 0))
    going_on = left.with_name("tmp124")
    going_on.write_bytes(b"half")
    Blobs(nation.folder / "blobs")
    assert not left.exists()
    assert going_on.exists()  # by another process on the same folder


def test_a_content_beyond_the_limit_is_refused_unread(nation: Nation):
    headers = {"Content-Length": str(FILE_BYTES_MAX + 1), "Authorization": bearer(nation.lab())}
    answer = nation.http.put(f"/v1/projects/lab/blobs/{SHA}", content=iter([]), headers=headers)
    assert_refused(answer, status=413)


def test_a_content_may_come_twice_and_at_once(nation: Nation):
    lab = nation.lab()
    with ThreadPoolExecutor(4) as pool:
        answers = list(pool.map(lambda _: put(nation, lab, CONTENT), range(4)))
    assert [answer.status_code for answer in answers] == [204] * 4
    assert lab.register_workdir("lab", MANIFEST).missing == ()
    assert leftovers(nation) == []


def test_knowing_a_digest_is_not_having_the_file(nation: Nation):
    lab, thief = nation.lab(), nation.lab("other")
    put(nation, lab, CONTENT)
    workdir = lab.register_workdir("lab", MANIFEST)
    assert workdir.missing == ()

    stolen = thief.register_workdir("other", MANIFEST)
    assert stolen == replace(workdir, missing=(SHA,))
    before = digest(nation)
    with pytest.raises(ApiError, match="lacks 1 uploads") as caught:
        submit(thief, spec(project="other", workdir=workdir.sha256))
    assert caught.value.problem.code == "workdir-incomplete"
    assert digest(nation) == before


# ---- what agents may fetch and bring -------------------------------------------------------------


def running(nation: Nation, site: Site, lab: Client, **changes: Any) -> Order:
    """A job that runs at the site, from a workdir with one file."""
    put(nation, lab, CONTENT)
    workdir = lab.register_workdir("lab", MANIFEST).sha256
    (job,) = submit(lab, spec(workdir=workdir, outputs="out", **changes))
    site.start_all()
    return site.orders[f"{job}.0"]


def blob(order: Order, sha: str) -> str:
    return f"/v1/agent/attempts/{order.attempt_id}/blobs/{sha}"


def test_a_site_reads_what_its_open_attempt_starts_from_and_no_more(nation: Nation, site: Site):
    lab = nation.lab()
    order = running(nation, site, lab)
    other = b"personal data of the same project"
    sha = hashlib.sha256(other).hexdigest()
    put(nation, lab, other, sha=sha)

    assert site.http.get(blob(order, SHA)).content == CONTENT
    assert site.http.get(blob(order, sha)).status_code == 404
    assert site.http.get(blob(order, "..%2Fsecret.key")).status_code == 404
    liar = Site(nation, cluster="kakao-national", pool="kakao-b200")
    assert liar.http.get(blob(order, SHA)).status_code == 404
    assert liar.http.put(blob(order, SHA), content=CONTENT).status_code == 404

    site.end(order, EngineEnd.COMPLETED, 0)
    site.round()
    assert site.http.get(blob(order, SHA)).status_code == 404
    assert site.http.put(blob(order, SHA), content=CONTENT).status_code == 404


def trees(order: Order, sha: str = "") -> str:
    return f"/v1/agent/attempts/{order.attempt_id}/manifests/{sha}".rstrip("/")


def test_a_site_reads_the_manifests_that_its_open_attempt_starts_from(nation: Nation, site: Site):
    lab = nation.lab()
    order = running(nation, site, lab)
    another = lab.register_workdir("lab", Manifest((FileEntry("x", len(CONTENT), SHA),)))
    assert order.workdir == files.digest(MANIFEST)
    answer = site.http.get(trees(order, order.workdir))
    assert codec.decode(Manifest, answer.content) == MANIFEST
    for unread in (another.sha256, SHA, "x", "..%2Fsecret.key"):
        assert site.http.get(trees(order, unread)).status_code == 404
    liar = Site(nation, cluster="kakao-national", pool="kakao-b200")
    assert liar.http.get(trees(order, order.workdir)).status_code == 404
    assert liar.http.post(trees(order), content=codec.encode(MANIFEST)).status_code == 404

    site.end(order, EngineEnd.COMPLETED, 0)
    site.round()
    assert site.http.get(trees(order, order.workdir)).status_code == 404
    assert site.http.post(trees(order), content=codec.encode(MANIFEST)).status_code == 404


def end_with(site: Site, order: Order, outputs: str) -> None:
    site.end(order, EngineEnd.COMPLETED, 0)
    site.reports[order.attempt_id] = replace(
        site.reports[order.attempt_id], outputs=outputs, detail="said by the site"
    )
    site.round()


def details(lab: Client, order: Order) -> list[str | None]:
    return [attempt.detail for attempt in lab.job(order.job_id).tasks[0].attempts]


def test_outputs_are_kept_under_their_digest(nation: Nation, site: Site):
    lab = nation.lab()
    order = running(nation, site, lab)
    result = b"accuracy 0.97"
    sha = hashlib.sha256(result).hexdigest()
    manifest = Manifest((FileEntry("result.txt", len(result), sha),))
    assert site.register(order, manifest).missing == (sha,)
    assert site.http.put(blob(order, sha), content=result).status_code == 204
    upload = site.register(order, manifest)
    assert upload == site.register(order, manifest)
    assert upload.missing == ()
    end_with(site, order, upload.sha256)

    (outputs,) = lab.outputs(order.job_id)
    assert outputs.files == manifest
    assert details(lab, order) == ["said by the site"]
    assert b"".join(lab.output(order.job_id, 0, sha)) == result
    for index, wanted in ((1, sha), (0, SHA), (0, "x")):
        with pytest.raises(ApiError, match="There is no output file"):
            list(lab.output(order.job_id, index, wanted))


def test_outputs_whose_contents_never_came_are_left_out_and_that_is_said(
    nation: Nation, site: Site
):
    lab = nation.lab()
    order = running(nation, site, lab)
    never = Manifest((FileEntry("lost.txt", 5, hashlib.sha256(b"never").hexdigest()),))
    before = digest(nation)
    assert site.register(order, never).missing
    assert digest(nation) == before
    end_with(site, order, files.digest(never))
    assert lab.job(order.job_id).summary.state is State.SUCCEEDED
    assert lab.outputs(order.job_id) == ()
    assert details(lab, order) == [
        "outputs: files were named but never brought; said by the site",
    ]


def test_an_empty_tree_is_no_outputs(nation: Nation, site: Site):
    lab = nation.lab()
    order = running(nation, site, lab)
    end_with(site, order, site.register(order, Manifest(())).sha256)
    assert lab.outputs(order.job_id) == ()


@pytest.mark.parametrize("length", [600])
def test_the_largest_manifest_of_long_paths_fits(nation: Nation, site: Site, length: int):
    order = running(nation, site, nation.lab())
    paths = [f"{number:05}" + "x" * (length - 5) for number in range(FILES_MAX)]
    manifest = Manifest(tuple(FileEntry(path, len(CONTENT), SHA) for path in paths))
    assert site.register(order, manifest).missing == ()
    assert assert_refused(
        site.http.post(trees(order), content=b" " * (MANIFEST_BYTES_MAX + 1)), status=413
    )


def test_a_site_does_not_get_another_projects_file_by_calling_it_an_output(
    nation: Nation, site: Site
):
    lab, other = nation.lab(), nation.lab("other")
    secret = b"another project's file"
    sha = hashlib.sha256(secret).hexdigest()
    put(nation, other, secret, sha=sha, to="other")
    order = running(nation, site, lab)
    theirs = Manifest((FileEntry("x", len(secret), sha),))
    assert site.register(order, theirs).missing == (sha,)
    workdir = other.register_workdir("other", theirs)
    assert workdir.missing == ()
    end_with(site, order, workdir.sha256)
    assert lab.outputs(order.job_id) == ()


def test_outputs_go_to_members_only(nation: Nation, site: Site):
    lab = nation.lab()
    order = running(nation, site, lab)
    end_with(site, order, site.register(order, MANIFEST).sha256)
    assert b"".join(lab.output(order.job_id, 0, SHA)) == CONTENT
    for who in (nation.admin, nation.lab("other")):
        with pytest.raises(ApiError, match="There is no job"):
            who.outputs(order.job_id)
        with pytest.raises(ApiError, match="There is no job"):
            list(who.output(order.job_id, 0, SHA))


@pytest.mark.parametrize("path", ["../x", "/etc/passwd", "a\\b", "a\0b"])
def test_a_site_cannot_name_outputs_outside_the_folder(nation: Nation, site: Site, path: str):
    order = running(nation, site, nation.lab())
    before = digest(nation)
    answer = site.http.post(trees(order), content=json.dumps({"files": [entry(path)]}))
    assert_refused(answer, status=422)
    assert digest(nation) == before


@pytest.mark.parametrize(
    ("answered", "changes", "named"),
    [
        (True, {"outputs": "x"}, "outputs 'x'"),
        (True, {"checkpoint": SHA.upper()}, "checkpoint"),
        (True, {"outputs": {"files": []}}, "outputs"),
        (True, {"denied": ["a-1"]}, "both reported and denied"),
        (False, {"denied": ["a-2"]}, "did not answer"),
        (True, {"denied": ["a\0"]}, "denied"),
    ],
)
def test_a_sync_that_makes_no_sense_is_refused(
    nation: Nation, site: Site, changes: dict[str, Any], named: str, *, answered: bool
):
    denied = changes.pop("denied", [])
    report = {"attempt_id": "a-1", "engine_id": "e", "phase": "ended", "end": "completed"}
    body = {"cluster_id": site.cluster, "engine": "local", "engine_answered": answered}
    body |= {"pools": [], "attempts": [report | changes], "denied": denied}
    before = digest(nation)
    answer = site.http.post("/v1/agent/sync", content=json.dumps(body))
    assert named in assert_refused(answer, status=422)
    assert digest(nation) == before


# ---- logs ----------------------------------------------------------------------------------------


@pytest.fixture
def log(nation: Nation, site: Site) -> Any:
    """Append to the log of a running attempt; the size afterwards, or the answer's status."""
    order = running(nation, site, nation.lab())

    def append(offset: int, data: bytes, *, rank: int = 0, by: Site = site) -> int:
        path = f"/v1/agent/attempts/{order.attempt_id}/logs/{rank}"
        answer = by.http.put(path, params={"offset": offset}, content=data)
        return int(answer.json()["size"]) if answer.is_success else answer.status_code

    append.file = nation.folder / "logs" / order.attempt_id / "0.log"  # type: ignore[attr-defined]
    return append


def test_no_byte_of_a_log_comes_twice_or_out_of_place(log: Any):
    assert log(0, b"one\n") == 4
    assert log(0, b"one\n") == 4  # the answer was lost, so it is sent again
    assert log(0, b"one\ntwo\n") == 8
    assert log(2, b"e\ntwo\nthree\n") == 14
    assert log(20, b"later") == 14  # would leave a gap
    assert log(3, b"") == 14
    assert log(14, b"end") == 17
    assert log.file.read_bytes() == b"one\ntwo\nthree\nend"


def test_a_call_that_was_given_up_and_goes_on_doubles_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    logs = Logs(tmp_path)
    logs.append("a-1", 0, 0, b"one\n")
    with monkeypatch.context() as patch:  # both have looked before either has written
        patch.setattr(Logs, "size", lambda *_: 4)
        logs.append("a-1", 0, 4, b"two\n")
        logs.append("a-1", 0, 4, b"two\nthree\n")
        logs.append("a-1", 0, 4, b"two\n")
    assert logs.path("a-1", 0).read_bytes() == b"one\ntwo\nthree\n"


def test_logs_have_bounds(nation: Nation, log: Any):
    assert log(0, b"x" * (service.LOG_PIECE_BYTES_MAX + 1)) == 413
    assert log(-1, b"x") == 422
    assert log(2**63, b"x") == 422
    assert log(0, b"x", rank=1) == 404  # the attempt has one node
    assert log(0, b"x", rank=10**9) == 422
    assert log(0, b"x", by=Site(nation, "kakao-national", "kakao-b200")) == 404
    assert not log.file.exists()


def test_a_log_ends_at_its_limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("dure.store.blobs.LOG_BYTES_MAX", 10)
    logs = Logs(tmp_path)
    assert logs.append("a-1", 0, 0, b"12345678") == 8
    assert logs.append("a-1", 0, 8, b"90ab") == 10
    assert logs.append("a-1", 0, 10, b"more") == 10
    assert logs.path("a-1", 0).read_bytes() == b"1234567890"
