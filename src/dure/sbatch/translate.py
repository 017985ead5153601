"""From a batch script to a job: a draft of it, what its nodes run, and the report.

Nothing that was said is left out of the report: what no rule here speaks of is looked up in
`losses`, and an option in neither would be a fault (a test holds the tables against the options).
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from dure.draft import Draft, array_from_text
from dure.jobs import GRACE_S_MAX, Array, DependencyKind, Notice
from dure.sbatch import body, places, values
from dure.sbatch.losses import COMMANDS, LOSSES, Said, kept, lost, translated
from dure.sbatch.places import Known, Place
from dure.sbatch.precedence import Chosen
from dure.sbatch.report import Line, Report, Verdict, in_order
from dure.sbatch.script import Script
from dure.sbatch.shape import Shape, shape
from dure.sbatch.values import Signal
from dure.sbatch.wrapped import Batch, variables, wrap
from dure.text import ENV_NAME, NAME, shown

NAME_MAX: Final = 63
_UNFIT: Final = re.compile(r"[^A-Za-z0-9가-힣 ._()+-]+")
_GPU_OPTIONS: Final = ("gpus-per-node", "gres", "gpus", "gpus-per-task")
_BY_DEFAULT: Final = "by default"
_HARDNESS: Final = (Verdict.KEPT, Verdict.TRANSLATED, Verdict.PINNED, Verdict.LOST)


@dataclass(frozen=True, slots=True, kw_only=True)
class Submitted:
    """What the submitter's shell says besides: the script's name and arguments, who and where."""

    name: str
    folder: Path
    args: tuple[str, ...] = ()
    user: str = "user"
    host: str = "localhost"


@dataclass(frozen=True, slots=True, kw_only=True)
class Translation:
    """A job's draft, and what became of every line."""

    draft: Draft
    report: Report


@dataclass(frozen=True, slots=True, kw_only=True)
class _Timing:
    """Walltime and notice: by the engine where there is a checkpoint, by `onnode` elsewhere."""

    asked_s: int
    walltime_s: int
    grace_s: int | None = None
    notice: Notice | None = None
    signal: Signal | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class _Files:
    """Where a job reads and writes; patterns are not filled in before it runs."""

    output: str
    error: str | None
    input: str | None
    workdir: Path | None


@dataclass(slots=True)
class _Sheet:
    """What has been said so far of each option, and of what Slurm would take for granted."""

    chosen: Chosen
    said: dict[str, Said] = field(default_factory=dict)
    unsaid: list[Line] = field(default_factory=list)

    def say(self, option: str, said: Said) -> None:
        """One thing more on an option: the harder verdict stands, and both notes."""
        before = self.said.get(option)
        if before is not None:
            harder = max(before.verdict, said.verdict, key=_HARDNESS.index)
            notes = "; ".join(filter(None, (before.note, said.note)))
            said = Said(harder, notes, before.stops or said.stops)
        self.said[option] = said

    def default(self, what: str, note: str, verdict: Verdict = Verdict.TRANSLATED) -> None:
        """Something that nobody said, and that is not as it would be on Slurm."""
        self.unsaid.append(Line(where="", said=what, verdict=verdict, note=note))


def translate(script: Script, chosen: Chosen, submitted: Submitted, known: Known) -> Translation:
    """The job that a script asks for.

    Raises:
        ValueError: one sentence: a value that is none, or something that is missing.
    """
    sheet = _Sheet(chosen)
    place = places.place(chosen, _gpu_types(chosen), known)
    sheet.said.update(place.said)
    form = _shape(sheet, place)
    timing = _timing(sheet)
    name = _name(sheet, submitted)
    array = _array(sheet)
    after = _dependencies(sheet)
    env, secrets = _environment(sheet)
    files = _files(sheet, submitted, array)
    batch = Batch(
        name=name,
        args=submitted.args,
        walltime_s=timing.asked_s,
        ntasks=form.ntasks,
        gpus_per_task=form.gpus_per_task,
        output=files.output,
        error=files.error,
        input=files.input,
        append=chosen.value("open-mode") == "append",
        requeue="no-requeue" not in chosen.given,
        signal=timing.signal,
        variables=variables(form, chosen, array)
        | {"SLURM_JOB_USER": submitted.user, "SLURM_SUBMIT_HOST": submitted.host},
    )
    draft = Draft(
        name=_fit(name),
        project=place.project,
        allocation=place.allocation,
        run=wrap(script.text, batch),
        workdir=files.workdir,
        env=env,
        secrets=secrets,
        nodes=form.nodes,
        gpus_per_node=form.gpus_per_node,
        gpu_models=place.models or None,
        pools=place.pools or None,
        cpus_per_node=form.cpus_per_node,
        memory_gib_per_node=form.memory_gib_per_node,
        walltime_s=timing.walltime_s,
        array=array,
        retries=_retries(chosen),
        after_ok=after.get(DependencyKind.AFTEROK),
        after_any=after.get(DependencyKind.AFTERANY),
        checkpoint_dir=chosen.value("checkpoint-dir"),
        signal=timing.notice,
        grace_s=timing.grace_s,
        outputs=chosen.value("outputs"),
        data_class=chosen.value("data-class"),
        tier=place.tier,
    )
    return Translation(draft=draft, report=_report(script, sheet, place, known))


# ---- the report ----------------------------------------------------------------------------------


def _report(script: Script, sheet: _Sheet, place: Place, known: Known) -> Report:
    lines = [
        Line(
            where=given.where,
            said=given.text,
            verdict=Verdict.OVERRIDDEN,
            note=f"by {by.text} ({by.where})",
        )
        for given, by in sheet.chosen.overridden
    ]
    lines += [
        Line(where=f"line {one.line}", said=one.text, verdict=Verdict.LOST, note=one.why)
        for one in script.ignored
    ]
    for option, given in sheet.chosen.given.items():
        said = sheet.said.get(option) or LOSSES.get(option) or COMMANDS[option]
        lines.append(
            Line(
                where=given.where,
                said=given.text,
                verdict=said.verdict,
                note=said.note,
                stops=said.stops,
            )
        )
    lines += sheet.unsaid
    operators = sorted({pool.operator for pool in known.pools if pool.pool in place.pools})
    site = operators[0] if len(operators) == 1 else None
    return Report(in_order([*lines, *body.remarks(script, site)]))


# ---- one thing after the other -------------------------------------------------------------------


def _gpu_types(chosen: Chosen) -> dict[str, str]:
    """The GPU type that each option names, where it names one."""
    found = {}
    for option in _GPU_OPTIONS:
        text = chosen.value(option)
        if text is None:
            continue
        gpus = values.gres(text).gpus if option == "gres" else values.gpus(option, text)
        if gpus is not None and gpus.type is not None:
            found[option] = gpus.type
    return found


def _shape(sheet: _Sheet, place: Place) -> Shape:
    form = shape(sheet.chosen, place.node_gpus)
    for option, note in form.notes.items():
        sheet.say(option, translated(note))
    if (text := sheet.chosen.value("gres")) is not None:
        others = values.gres(text).others
        what = f"{', '.join(others)} is left out, since of such only GPUs are known here"
        sheet.say("gres", lost(what) if others else kept())
    if not form.asks_for_gpus:
        sheet.default(
            f"no GPU ({_BY_DEFAULT})",
            "a job holds at least one GPU on each node, and pays for it",
        )
    return form


def _timing(sheet: _Sheet) -> _Timing:
    text = sheet.chosen.value("time")
    if text is None:
        raise ValueError(
            "time is missing; a partition's default is not known here, so say it: --time=2:00:00"
        )
    asked_s = values.time_s(text)
    said = sheet.chosen.value("signal")
    if said is None:
        return _Timing(asked_s=asked_s, walltime_s=asked_s)
    signal = values.signal(said)
    notice = Notice(f"SIG{signal.name}") if f"SIG{signal.name}" in set(Notice) else None
    grace_s = min(signal.before_s, GRACE_S_MAX)
    saves = sheet.chosen.value("checkpoint-dir") is not None
    if not saves or notice is None or not 0 < grace_s < asked_s:
        to = "the batch shell" if signal.to_shell else "the srun steps"
        sheet.said["signal"] = kept(
            f"to {to}; GPUs that are called back get SIGTERM (--checkpoint-dir: this signal)"
        )
        return _Timing(asked_s=asked_s, walltime_s=asked_s, signal=signal)
    sheet.said["signal"] = translated(
        f"to all processes, {grace_s} s before the end, and as well when GPUs are called back"
    )
    return _Timing(asked_s=asked_s, walltime_s=asked_s - grace_s, grace_s=grace_s, notice=notice)


def _name(sheet: _Sheet, submitted: Submitted) -> str:
    name = sheet.chosen.value("job-name") or submitted.name
    if "job-name" in sheet.chosen.given:
        fit = _fit(name)
        sheet.said["job-name"] = kept() if fit == name else translated(f"{fit} in lists")
    return name


def _fit(name: str) -> str:
    """A name that Dure takes, as near to it as can be."""
    fit = _UNFIT.sub("-", name).lstrip(" ._()+-")[:NAME_MAX]
    return fit if NAME.match(fit) else "sbatch"


def _array(sheet: _Sheet) -> Array | None:
    text = sheet.chosen.value("array")
    if text is None:
        return None
    array = array_from_text(text)
    running = f", at most {array.max_running} at a time" if array.max_running else ""
    sheet.said["array"] = kept(f"{len(array.indices)} tasks{running}")
    return array


def _dependencies(sheet: _Sheet) -> dict[DependencyKind, tuple[str, ...]]:
    text = sheet.chosen.value("dependency")
    invalid = sheet.chosen.value("kill-on-invalid-dep")
    if "kill-on-invalid-dep" in sheet.chosen.given:
        sheet.said["kill-on-invalid-dep"] = (
            kept() if invalid == "yes" else lost("a job that can never run is cancelled")
        )
    if text is None:
        return {}
    found = values.dependencies(text)
    jobs = ", ".join(f"{kind} {job}" for kind, job in found.after)
    sheet.said["dependency"] = (
        lost(
            f"{', '.join(found.others)}: only afterok and afterany of whole jobs, all of them, "
            f"are known{f' ({jobs} is kept)' if jobs else ''}",
            stops=True,
        )
        if found.others
        else kept(jobs)
    )
    return {
        kind: tuple(job for its, job in found.after if its is kind)
        for kind in {kind for kind, _ in found.after}
    }


def _environment(sheet: _Sheet) -> tuple[dict[str, str | None], dict[str, str | None]]:
    """Variables with values, and those whose value is the submitter's own, which stays secret."""
    text = sheet.chosen.value("export")
    names = [] if text is None else [part.strip() for part in text.split(",") if part.strip()]
    alone = "name those that the job needs, --export=HF_TOKEN,EPOCHS=10: its site is another one"
    if not names or names == ["ALL"]:
        note = f"your shell's variables stay with you; {alone}"
        if text is None:
            sheet.default(f"--export=ALL ({_BY_DEFAULT})", note)
        else:
            sheet.said["export"] = translated(note)
        return {}, {}
    env: dict[str, str | None] = {}
    secrets: dict[str, str | None] = {}
    for part in names:
        name, equals, value = part.partition("=")
        if part in {"ALL", "NONE", "NIL"}:
            continue
        if not ENV_NAME.match(name):
            raise ValueError(f"export {shown(name)} is not a variable's name; write NAME=VALUE")
        if equals:
            env[name] = value
        else:
            secrets[name] = None
    note = "a value of your environment travels encrypted" if secrets else ""
    if "ALL" in names:
        sheet.said["export"] = translated(f"only those that it names; {note or 'ALL is left out'}")
    else:
        sheet.said["export"] = kept(note)
    return env, secrets


def _files(sheet: _Sheet, submitted: Submitted, array: Array | None) -> _Files:
    default = "slurm-%j.out" if array is None else "slurm-%A_%a.out"
    output = _pattern(sheet, "output") or default
    if "output" not in sheet.chosen.given:
        sheet.default(f"--output={default} ({_BY_DEFAULT})", _LOG)
    return _Files(
        output=output,
        error=_pattern(sheet, "error"),
        input=_pattern(sheet, "input"),
        workdir=_workdir(sheet, submitted),
    )


_LOG: Final = "dure logs JOB shows it as it is written; the file is in the job's folder"


def _pattern(sheet: _Sheet, option: str) -> str | None:
    """A file inside the job's folder: of a path of the old site, its last part."""
    text = sheet.chosen.value(option)
    if text is None:
        return None
    if text == "/dev/null":
        sheet.said[option] = kept("no file; dure logs JOB has it" if option != "input" else "")
        return text
    path = text.removeprefix("./")
    if path.startswith(("/", "~")) or ".." in path.split("/"):
        path = path.rpartition("/")[2]
        sheet.said[option] = translated(f"{path} in the job's folder; {_LOG.partition(';')[0]}")
    else:
        sheet.said[option] = kept(_LOG if option == "output" else "in the job's folder")
    if not path or path.endswith("/"):
        raise ValueError(f"{option} {shown(text)} is a folder; name a file")
    return path


def _workdir(sheet: _Sheet, submitted: Submitted) -> Path | None:
    given = sheet.chosen.given
    back = "what the job writes comes back from --outputs=DIR only"
    if "chdir" in given or "workdir" in given:
        option = "chdir" if "chdir" in given else "workdir"
        sheet.said[option] = translated(f"uploaded; {back}")
        return submitted.folder / (given[option].value or "")
    if "no-workdir" in given:
        return None
    if "outputs" not in given:
        sheet.default(f"the folder you are in ({_BY_DEFAULT})", f"a copy is uploaded; {back}")
    return submitted.folder


def _retries(chosen: Chosen) -> int | None:
    text = chosen.value("retries")
    return None if text is None else values.count("retries", text)
