"""Reading recorded workloads: what is a job, what is not and why, in every layout."""

from __future__ import annotations

import gzip
import json
from contextlib import suppress
from pathlib import Path
from tempfile import NamedTemporaryFile, TemporaryDirectory

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dure.errors import RefusedError
from dure.rehearsal.traces import Format, Within, dure, files, read
from dure.rehearsal.traces.files import json_items
from dure.rehearsal.traces.trace import EXAMPLES_MAX, TraceJob

HEADER = "job_id,vc,user,submit,duration,gpus,status\n"


def folder(tmp_path: Path, rows: str, nodes: str = '{\n "a": 2,\n "b": 1\n}') -> Path:
    (tmp_path / "jobs.csv").write_text(HEADER + rows, encoding="utf-8")
    (tmp_path / "nodes.json").write_text(nodes, encoding="utf-8")
    return tmp_path


def refused(path: Path, **how: object) -> str:
    with pytest.raises(RefusedError) as caught:
        list(read(path, **how).jobs())  # type: ignore[arg-type]
    assert caught.value.reason.code == "bad-trace"
    return caught.value.reason.sentence


def test_a_row_is_a_job(tmp_path: Path) -> None:
    trace = read(folder(tmp_path, "j1,a,u1,5,60,8,COMPLETED\n"))

    assert list(trace.jobs()) == [TraceJob("j1", "a", "u1", 5, 60, 8, "COMPLETED", None)]
    assert (trace.count, len(trace.bad), trace.in_order) == (1, 0, True)
    assert trace.gpus() == {"a": 16, "b": 8}


@pytest.mark.parametrize(
    ("row", "cause", "sentence"),
    [
        ("j,a,u,1,2,8", "bad-columns", "columns are 6; right is 7, as in line 1"),
        ("j,a,u,-1,2,8,x", "bad-submit", "submit is '-1'; right is 0 to 10000000000 seconds"),
        ("j,a,u,1,soon,8,x", "bad-duration", "duration is 'soon'; right is a number"),
        ("j,a,u,1,nan,8,x", "bad-duration", "duration is 'nan'; right is a number"),
        ("j,a,u,1,1e99,8,x", "bad-duration", "duration is '1e99'; right is a number"),
        ("j,a,u,1,2,0,x", "no-gpus", "gpus is 0; right is at least 1: a job on CPUs is left out"),
        ("j,a,u,1,2,-8,x", "bad-gpus", "gpus is '-8'; right is a whole number, 1 or more"),
        ("j,a,u,1,2,1.5,x", "bad-gpus", "gpus is '1.5'; right is a whole number, 1 or more"),
        ("j,c,u,1,2,8,x", "unknown-vc", "vc is 'c'; right is one of a, b"),
        ("j,b,u,1,2,9,x", "too-large", "gpus is 9; right is 1 to 8, all that b can give"),
    ],
)
def test_a_bad_row_is_counted_and_shown_with_file_line_and_what_is_right(
    tmp_path: Path, row: str, cause: str, sentence: str
) -> None:
    trace = read(folder(tmp_path, f"j1,a,u,0,1,1,x\n{row}\nj2,a,u,9,1,1,x\n"))

    assert [job.id for job in trace.jobs()] == ["j1", "j2"]
    assert dict(trace.bad.counts) == {cause: 1}
    assert trace.bad.examples == [f"jobs.csv:3: {sentence}"]


def test_all_bad_rows_are_counted_and_the_first_few_of_each_cause_shown(tmp_path: Path) -> None:
    rows = "j,a,u,0,1,1,x\n" + "j,a,u,0,1,0,x\n" * 50 + "j,b,u,0,1,99,x\n"
    bad = read(folder(tmp_path, rows)).bad

    assert len(bad) == 51
    assert bad.counts == {"no-gpus": 50, "too-large": 1}
    assert len(bad.examples) == EXAMPLES_MAX + 1


def test_a_job_may_be_limited_by_the_largest_vc_rather_than_its_own(tmp_path: Path) -> None:
    rows = "j1,b,u,0,1,16,x\nj2,b,u,0,1,17,x\n"

    trace = read(folder(tmp_path, rows), within=Within.ANY)
    assert [job.id for job in trace.jobs()] == ["j1"]
    assert trace.bad.counts == {"too-large": 1}


@given(st.lists(st.integers(0, 9), min_size=1, max_size=20))
def test_jobs_come_in_order_of_submission_equals_as_they_stand(submits: list[int]) -> None:
    trace = dure.Trace(
        {"a": 1},
        {
            "jobs.csv": lambda: iter(
                [(n, TraceJob(f"j{n:02}", "a", "u", at, 1, 1)) for n, at in enumerate(submits)]
            )
        },
    )
    came = [(job.submit_s, job.id) for job in trace.jobs()]

    assert came == sorted(came)
    assert trace.in_order == (submits == sorted(submits))


def test_gzip_a_byte_order_mark_comments_and_decimals_are_read_as_they_are(tmp_path: Path) -> None:
    path = folder(tmp_path, "")
    (path / "jobs.csv").unlink()
    rows = "\ufeff# from somewhere\n" + HEADER + "j1,a,u,5.0,59.6,8.0,x\n"
    (path / "jobs.csv.gz").write_bytes(gzip.compress(rows.encode()))

    (job,) = read(path).jobs()
    assert (job.submit_s, job.duration_s, job.gpus) == (5, 60, 8)


@pytest.mark.parametrize(
    ("nodes", "sentence"),
    [
        ('{"a": 2,}', "nodes.json:1: not JSON:"),
        ('{"a": 2,\n "b": 0}', "nodes.json:2: nodes of 'b' is 0; right is a whole number"),
        ('{"a": true}', "nodes.json:1: nodes of 'a' is True; right is a whole number"),
        ("[]", "nodes.json must be an object of nodes by VC"),
        ("[" * 200_000, "nodes.json: nested too deep"),
    ],
)
def test_nodes_that_are_none_are_refused(tmp_path: Path, nodes: str, sentence: str) -> None:
    assert sentence in refused(folder(tmp_path, "j,a,u,0,1,1,x\n", nodes))


def test_a_file_that_is_no_trace_is_refused_in_a_sentence(tmp_path: Path) -> None:
    path = folder(tmp_path, "j,a,u,0,1,0,x\n")
    jobs = path / "jobs.csv"

    assert "no row of 1 is a job: jobs.csv:2: gpus is 0" in refused(path)
    jobs.write_text("job_id,vc,user,submit,gpus,status\n")
    assert "jobs.csv:1: columns are job_id, vc" in refused(path)
    assert "jobs.csv:1: column duration is missing; the first line must name" in refused(
        path, format=Format.DURE
    )
    jobs.write_bytes(b"\xff\xfe\x00")
    assert "jobs.csv is not text" in refused(path)
    jobs.write_bytes(gzip.compress(HEADER.encode() * 999)[:-9])
    assert "jobs.csv cannot be read" in refused(path)
    jobs.write_text(HEADER + 'j,"' + "x" * 200_000)
    assert "jobs.csv:2: not CSV" in refused(path)
    jobs.unlink()
    (path / "others.csv").write_text(HEADER)
    assert "There is no jobs.csv or jobs.csv.gz in" in refused(path, format=Format.DURE)
    assert "There is no file" in refused(path / "jobs.csv")
    (path / "empty").mkdir()
    assert "There is no CSV file in" in refused(path / "empty")


CELL = st.sampled_from(
    ["job_id", "7", "-1", "1e400", "", "nan", "[", "]", '"', ",", "\n", ";", " "]
)


@settings(max_examples=150)
@given(
    st.sampled_from(Format),
    st.one_of(st.binary(max_size=60), st.lists(CELL).map(lambda cells: "".join(cells).encode())),
    st.booleans(),
)
def test_no_file_is_answered_with_a_traceback(
    format_: Format,
    content: bytes,
    headed: bool,  # noqa: FBT001
) -> None:
    with TemporaryDirectory() as made:
        path = folder(Path(made), "")
        (path / "cluster_job_log").write_bytes(content)
        (path / "jobs.csv").write_bytes(HEADER.encode() * headed + content)
        for file in (path / "jobs.csv", path / "cluster_job_log"):
            with suppress(RefusedError):
                list(read(file, format_).jobs())


@given(st.permutations(range(6)), st.sets(st.integers(0, 5)))
def test_predictions_find_their_jobs_in_any_order(order: list[int], left_out: set[int]) -> None:
    with TemporaryDirectory() as made:
        rows = "".join(f"j{number},a,u,{number},1,1,x\n" for number in range(6))
        path = folder(Path(made), rows)
        beside = path / "predicted.csv"
        lines = [f"j{number},{number * 10 - 20}" for number in order if number not in left_out]
        beside.write_text("\n".join(["job_id,predicted_s", *lines]))

        predicted = [job.predicted_s for job in read(path, predictions=beside).jobs()]
    assert predicted == [None if n in left_out else n * 10 - 20 for n in range(6)]


def test_a_line_that_is_no_prediction_is_refused(tmp_path: Path) -> None:
    path = folder(tmp_path, "j,a,u,0,1,1,x\n")
    beside = path / "predicted.csv"

    beside.write_text("job_id,predicted_s\nj,soon\n")
    assert "predicted.csv:2: predicted_s is 'soon'; right is a number" in refused(
        path, predictions=beside
    )
    beside.write_text("job_id\nj\n")
    assert "predicted.csv:1: column predicted_s is missing" in refused(path, predictions=beside)


HELIOS = (
    "job_id,user,vc,gpu_num,cpu_num,node_num,state,submit_time,start_time,end_time,duration,queue\n"
    "7,u1,vcA,16,64,2,COMPLETED,2020-06-09 18:41:01,2020-06-09 18:42:01,None,40,60\n"
    "8,u1,vcA,0,4,1,FAILED,2020-06-09 18:41:02,None,None,0,0\n"
    "9,u1,vcA,8,4,1,FAILED,yesterday,None,None,0,0\n"
)


def test_helios_is_read_with_its_gpus_by_day(tmp_path: Path) -> None:
    (tmp_path / "cluster_log.csv").write_text(HELIOS)
    (tmp_path / "cluster_gpu_number.csv").write_text(
        "date,vcA,vcB,total\n2020-06-09,8,0,8\n2020-06-10,16,0,16\n"
    )
    trace = read(tmp_path)

    assert trace.nodes == {"vcA": 2}
    (job,) = trace.jobs()
    assert job == TraceJob("7", "vcA", "u1", 1_591_728_061, 40, 16, "COMPLETED")
    assert trace.bad.counts == {"no-gpus": 1, "bad-submit_time": 1}


def attempt(start: str, end: str | None, gpus: int) -> dict[str, object]:
    return {
        "start_time": f"2017-10-07 01:{start}",
        "end_time": end and f"2017-10-07 01:{end}",
        "detail": [{"ip": "m1", "gpus": [f"gpu{number}" for number in range(gpus)]}],
    }


def philly(id_: str, *attempts: object) -> dict[str, object]:
    return {
        "status": "Pass",
        "vc": "ee9e8c",
        "jobid": id_,
        "attempts": list(attempts),
        "submitted_time": "2017-10-07 01:11:39",
        "user": "u",
    }


def test_philly_sums_a_jobs_attempts(tmp_path: Path) -> None:
    jobs = [
        philly("j1", attempt("12:00", "13:00", 8), attempt("20:00", "20:30", 4)),
        philly("j2"),
        philly("j3", attempt("12:00", None, 8)),
        {"jobid": "j4"},
        "j5",
    ]
    (tmp_path / "cluster_job_log").write_text(json.dumps(jobs, indent=1))
    assert "cluster_job_log does not say what nodes its VCs have" in refused(tmp_path)
    (tmp_path / "nodes.json").write_text('{"ee9e8c": 4}')

    trace = read(tmp_path)

    (job,) = trace.jobs()
    assert job == TraceJob("j1", "ee9e8c", "u", 1_507_338_699, 90, 8, "Pass")
    assert trace.bad.counts == {"never-ran": 1, "no-end": 1, "bad-attempts": 2}


@given(st.lists(st.dictionaries(st.text(max_size=3), st.text(max_size=9)), max_size=6), st.data())
def test_json_is_read_by_the_piece_as_it_is_whole(
    items: list[dict[str, str]], data: st.DataObject
) -> None:
    text = json.dumps(items, indent=data.draw(st.sampled_from([None, 1])))
    with NamedTemporaryFile() as file, pytest.MonkeyPatch.context() as patch:
        patch.setattr(files, "_PIECE", data.draw(st.integers(1, 40)))
        Path(file.name).write_text(text)
        read_items = list(json_items(Path(file.name)))

    assert [item for _, item in read_items] == items
    lines = text.split("\n")
    assert all(lines[line - 1].lstrip(" [").startswith("{") for line, _ in read_items)


@pytest.mark.parametrize("text", ["{", '[{"jobid": "j"}', '[{"jobid": "j"}, {"x": ]', "[" * 9_999])
def test_json_that_is_no_array_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "cluster_job_log").write_text(text)
    (tmp_path / "nodes.json").write_text('{"ee9e8c": 4}')

    assert "cluster_job_log" in refused(tmp_path, format=Format.PHILLY)


def test_itp_is_a_folder_of_clusters(tmp_path: Path) -> None:
    header = "job_id,submission_time,duration,num_gpu\n"
    (tmp_path / "cluster-1.csv").write_text(header + "j1,16566,3890,4\nj2,7,1,9\n")
    (tmp_path / "cluster-2.csv").write_text(header + "j3,5,10,2\n")
    (tmp_path / "nodes.json").write_text('{"cluster-1": 1, "cluster-2": 1}')
    trace = read(tmp_path)

    assert [(job.id, job.vc) for job in trace.jobs()] == [("j3", "cluster-2"), ("j1", "cluster-1")]
    assert trace.bad.examples == [
        "cluster-1.csv:3: gpus is 9; right is 1 to 8, all that cluster-1 can give"
    ]


def test_openb_rounds_a_part_of_a_gpu_up_to_one(tmp_path: Path) -> None:
    (tmp_path / "openb_node_list_gpu_node.csv").write_text(
        "sn,cpu_milli,memory_mib,gpu,model\nn0,64000,262144,8,P100\nn1,64000,262144,8,P100\n"
    )
    (tmp_path / "openb_pod_list_default.csv").write_text(
        "name,cpu_milli,memory_mib,num_gpu,gpu_milli,gpu_spec,qos,pod_phase,creation_time,"
        "deletion_time,scheduled_time\n"
        "p0,6000,12288,1,460,,LS,Running,100,400,150\n"
        "p1,6000,12288,1,1000,,BE,Pending,100,200,\n"
        "p2,6000,12288,0,0,,BE,Failed,100,200,100\n"
    )
    trace = read(tmp_path)

    assert list(trace.jobs()) == [TraceJob("p0", "openb", "LS", 100, 250, 1, "Running")]
    assert trace.bad.counts == {"never-ran": 1, "no-gpus": 1}
    assert trace.nodes == {"openb": 2}


def test_swf_takes_a_processor_for_a_gpu(tmp_path: Path) -> None:
    log = tmp_path / "KTH-SP2.swf"
    log.write_text(
        "; Version: 2.2\n; MaxNodes: 4\n;  MaxProcs:  100\n"
        "1 0 5 60 -1 -1 -1 16 7200 -1 1 3 1 -1 -1 -1 -1 -1\n"
        "2 9.7 5 60 4 -1 -1 -1 7200 -1 0 3 1 -1 -1 -1 -1 -1\n"
        "3 9 5 -1 4 -1 -1 4 7200 -1 5 3 1 -1 -1 -1 -1 -1\n"
        "4 9 5 60 4 -1 -1 4 7200 -1 2 3 1 -1 -1 -1 -1 -1\n"
        "5 9 5 60 4\n"
    )
    trace = read(log)

    assert trace.nodes == {"KTH-SP2": 13}
    assert list(trace.jobs()) == [
        TraceJob("1", "KTH-SP2", "3", 0, 60, 16, "completed"),
        TraceJob("2", "KTH-SP2", "3", 10, 60, 4, "failed"),
    ]
    assert trace.bad.counts == {"never-ran": 1, "partial": 1, "bad-columns": 1}
    assert "KTH-SP2.swf:8: fields are 5; right is 18" in trace.bad.examples


def test_what_was_published_is_read_whole(traces: Path) -> None:
    venus = read(traces / "venus", predictions=traces / "venus" / "predicted_duration_s.csv")
    assert (venus.count, len(venus.bad), venus.in_order) == (1_867, 0, True)
    assert all(job.predicted_s is not None for job in venus.jobs())

    itp = read(traces / "itp")
    assert (itp.count, len(itp.bad), itp.in_order) == (69_351, 0, True)

    openb = read(traces / "openb")
    assert openb.count + len(openb.bad) == 8_152
    assert openb.bad.counts.keys() == {"never-ran", "no-gpus"}
    assert openb.gpus() == {"openb": 6_208}
