"""`dure rehearse live`: the running federation, and what if."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from dure.cli import rehearse
from dure.cli.render import emit, line, table
from dure.cli.shell import Output, OutputOption, Shell, shell_of
from dure.cli.values import instant_ms, milli, pair
from dure.errors import RefusedError
from dure.text import shown

if TYPE_CHECKING:
    from dure.rehearsal.live import AddedWave, Given, LiveAsking, Outage
    from dure.snapshot import Snapshot

DAYS: Final = 28
"""How far ahead is looked where nobody says."""

_WAVE: Final = re.compile(r"\A([1-9][0-9]{0,8})@(.+)\Z")
_MS_PER_DAY: Final = 86_400_000


def live(  # noqa: PLR0913 (a command's parameters are its options)
    ctx: typer.Context,
    out: Annotated[
        Path, typer.Option("--out", metavar="DIR", help="For Parquet tables and an HTML report.")
    ],
    *,
    until: Annotated[
        str | None, typer.Option(metavar="DATE", help=f"Default: {DAYS} days on.")
    ] = None,
    set_: rehearse.SetOption = None,
    add_wave: Annotated[
        list[str] | None,
        typer.Option(metavar="POOL=GPUS@DATE", help="GPUs that come into service; repeatable."),
    ] = None,
    outage: Annotated[
        list[str] | None,
        typer.Option(metavar="CLUSTER=FROM..UNTIL", help="A site lost meanwhile; repeatable."),
    ] = None,
    give: Annotated[
        list[str] | None,
        typer.Option(metavar="KIND=20%", help="A part of national for a kind of organisation."),
    ] = None,
    workload: Annotated[
        str,
        typer.Option(metavar="SCENARIO|none", help="Who submits meanwhile: its [[workload]]s."),
    ] = "none",
    against: Annotated[
        str, typer.Option(metavar="none|asis", help="Compare with nothing changed.")
    ] = "none",
    policy: Annotated[str, typer.Option(metavar="dure|no-lending")] = "dure",
    seed: Annotated[int, typer.Option(min=0, help="Of the workloads' chance.")] = 0,
    ask_every: rehearse.AskOption = None,
    snapshot: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Begin with this, not the server's.")
    ] = None,
    save: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Keep the snapshot for another time.")
    ] = None,
    output: OutputOption = Output.TABLE,
) -> None:
    """Rehearse the running federation, as it stands or with changes (programme office)."""
    shell = shell_of(ctx)
    rehearse.check_ready(shell, out)
    from dure.rehearsal.live import Ahead, LiveAsking, WhatIf  # noqa: PLC0415 (quick help)

    what_if = WhatIf(
        settings=tuple(set_ or ()),
        waves=tuple(_wave(text) for text in add_wave or ()),
        outages=tuple(_outage(text) for text in outage or ()),
        given=tuple(_given(text) for text in give or ()),
    )
    compares = _compares(against, changes=bool(what_if.lines()))
    until_ms = instant_ms("until", until)
    found = _snapshot(shell, snapshot, save)
    asked = LiveAsking(
        snapshot=found,
        ahead=Ahead(
            until_ms=found.at_ms + DAYS * _MS_PER_DAY if until_ms is None else until_ms,
            seed=seed,
            workload=_workload(workload),
        ),
        what_if=what_if,
        policy=policy,
        ask_every=ask_every,
    )
    if compares:
        _both(shell, asked, shell.folder / out, output)
    else:
        _alone(shell, asked, out, output)


# ---- What was typed ------------------------------------------------------------------------------


def _compares(against: str, *, changes: bool) -> bool:
    if against not in {"none", "asis"}:
        raise RefusedError(
            "bad-input", f"--against is {shown(against)}; right is one of none, asis."
        )
    if against == "asis" and not changes:
        raise RefusedError(
            "bad-input",
            "--against asis has nothing to compare: name a change with --set, --add-wave, "
            "--outage or --give.",
        )
    return against == "asis"


def _wave(text: str) -> AddedWave:
    from dure.rehearsal.live import AddedWave  # noqa: PLC0415 (quick help, as all below)

    pool, said = pair("add-wave", text)
    match = _WAVE.match(said)
    if match is None:
        raise RefusedError(
            "bad-input",
            f"--add-wave {shown(text)} is not POOL=GPUS@DATE; write kakao-b200=1000@2027-03-01.",
        )
    return AddedWave(pool=pool, gpus=int(match[1]), at_ms=_instant("add-wave", match[2]))


def _outage(text: str) -> Outage:
    from dure.rehearsal.live import Outage  # noqa: PLC0415

    cluster, said = pair("outage", text)
    starts, dots, ends = said.partition("..")
    if not dots:
        raise RefusedError(
            "bad-input",
            f"--outage {shown(text)} is not CLUSTER=FROM..UNTIL; "
            "write nhn-national=2026-12-01..2026-12-08.",
        )
    return Outage(
        cluster=cluster, starts_ms=_instant("outage", starts), ends_ms=_instant("outage", ends)
    )


def _given(text: str) -> Given:
    from dure.allocations import OrganisationKind  # noqa: PLC0415
    from dure.rehearsal.asking import one_of  # noqa: PLC0415
    from dure.rehearsal.live import Given  # noqa: PLC0415

    kind, said = pair("give", text)
    known = OrganisationKind(one_of("--give", kind, tuple(OrganisationKind)))
    return Given(kind=known, part_milli=_part_milli(said))


def _part_milli(text: str) -> int:
    percent = re.fullmatch(r"([0-9]{1,3})\s?%", text)
    if percent is not None and 1 <= int(percent[1]) <= 100:
        return int(percent[1]) * 10
    return milli("give", text)


def _instant(name: str, text: str) -> int:
    found = instant_ms(name, text)
    assert found is not None
    return found


def _workload(text: str) -> Path | None:
    from dure import scenario  # noqa: PLC0415

    return None if text == "none" else scenario.find(text)


def _snapshot(shell: Shell, file: Path | None, save: Path | None) -> Snapshot:
    from dure import codec  # noqa: PLC0415
    from dure.snapshot import Snapshot  # noqa: PLC0415

    if file is None:
        with shell.client() as client:
            found = client.snapshot()
    else:
        try:
            text = (shell.folder / file).read_bytes()
        except OSError as wrong:
            raise RefusedError(
                "bad-input", f"--snapshot {shown(str(file))} cannot be read: {wrong.strerror}."
            ) from None
        found = codec.decode(Snapshot, text, what="snapshot")
    if save is not None:
        from dure.cli.private import replace_private  # noqa: PLC0415

        replace_private(shell.folder / save, [codec.encode_text(found), "\n"])
    return found


# ---- With and without ----------------------------------------------------------------------------


def _alone(shell: Shell, asked: LiveAsking, out: Path, output: Output) -> None:
    from dure.cli import rehearsed  # noqa: PLC0415

    found = _written(shell, asked, shell.folder / out)
    emit(shell, output, found, lambda to: rehearsed.show(to, found, out))


def _both(shell: Shell, asked: LiveAsking, out: Path, output: Output) -> None:
    """Rehearse it as it is and as it might be, and set them side by side."""
    from dure.rehearsal import compare  # noqa: PLC0415

    ways = {"as-is": asked.as_is(), "what-if": asked}
    found = {name: _written(shell, way, out / name) for name, way in ways.items()}
    both = compare.compare(out / "as-is", out / "what-if")
    (out / "compare.html").write_text(compare.html(both), encoding="utf-8")

    def people(to: Any) -> None:
        for change in asked.what_if.lines():
            line(to, f"What if: {change}")
        columns = ("figure", "as it is", "what if", *compare.COLUMNS[3:])
        rows = [one.cells() for one in both.whole]
        to.print(table(columns, rows, right=set(columns[1:])))
        for name, one in found.items():
            if one["unserved_jobs"]:
                line(to, f"{name}: {one['unserved_jobs']:,} jobs never ran, and are not counted.")
        line(to, f"Side by side: {out}/compare.html")

    as_is, what_if = found["as-is"], found["what-if"]
    answer = {"as_is": as_is, "what_if": what_if, "compare": both.to_dict()}
    emit(shell, output, answer, people)


def _written(shell: Shell, asked: LiveAsking, folder: Path) -> dict[str, Any]:
    """The summary of a rehearsal that was written to a folder, tables, report and all."""
    from dure.cli import rehearsed  # noqa: PLC0415
    from dure.rehearsal import report, runs  # noqa: PLC0415

    with rehearsed.bar(shell, "Rehearsing", "jobs") as begin:
        ready = asked.ready()
        found = rehearse.played(ready, folder, begin(ready.jobs))
    report.write(runs.write(folder, found))
    return found
