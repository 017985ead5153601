"""The flags of `dure submit` and `dure plan`, which are the same, and the draft they make."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Annotated, Any, Final, TypeVar, get_type_hints

import typer
from typer.core import TyperCommand

from dure import draft
from dure.cli.shell import Output, OutputOption, Shell
from dure.cli.values import pair, refusing
from dure.draft import Draft
from dure.errors import RefusedError
from dure.jobs import Tier
from dure.text import NAME, shown
from dure.units import walltime_s_from_text

T = TypeVar("T")

COMMAND: Final = "dure.command"
"""Where the words after `--` are kept, in the context's `meta`."""


_SCRIPTS: Final = (".py", ".sh")
_YAML: Final = (".yaml", ".yml")
_AFTER_DASHES: Final = (
    "a command goes after --: dure submit --workdir . --time 1:00:00 -- python train.py"
)


class WithCommand(TyperCommand):
    """A command whose words after `--` are a program of the user's and not read."""

    allow_extra_args = True

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Take the words after `--` away before options are looked for."""
        if "--" in args:
            at = args.index("--")
            ctx.meta[COMMAND] = tuple(args[at + 1 :])
            args = args[:at]
        super().parse_args(ctx, args)
        if ctx.args:
            raise RefusedError(
                "bad-input", f"{shown(ctx.args[0])} is one argument too many; {_AFTER_DASHES}"
            )
        return []


def _option(name: str, help_: str, metavar: str | None = None) -> Any:
    return typer.Option(name, help=help_, metavar=metavar)


@dataclass(frozen=True, slots=True, kw_only=True)
class Flags:
    """What was given; each flag goes over the job file's field."""

    file: Annotated[
        str | None,
        typer.Argument(help="A job file, - for standard input; without one, give -- COMMAND."),
    ] = None
    name: Annotated[str | None, _option("--name", "The job's name.")] = None
    project: Annotated[str | None, _option("--project", "Default: your only one.")] = None
    allocation: Annotated[str | None, _option("--allocation", "Which allocation pays.")] = None
    gpus: Annotated[int | None, _option("--gpus", "GPUs on each node.")] = None
    nodes: Annotated[int | None, _option("--nodes", "Nodes; all start together.")] = None
    gpu_model: Annotated[
        list[str] | None, _option("--gpu-model", "A model that will do, h200 say; repeatable.")
    ] = None
    pool: Annotated[
        list[str] | None, _option("--pool", "Only in this pool, as dure pools has it; repeatable.")
    ] = None
    cpus: Annotated[str | None, _option("--cpus", "CPUs on each node, at least.")] = None
    memory: Annotated[str | None, _option("--memory", "GiB on each node, at least.")] = None
    time: Annotated[
        str | None, _option("--time", "Walltime as in Slurm: 2:00:00, 1-12, 90m.", "TIME")
    ] = None
    workdir: Annotated[str | None, _option("--workdir", "Folder to upload.")] = None
    env: Annotated[list[str] | None, _option("--env", "Variable; repeatable.", "NAME=VALUE")] = None
    secret: Annotated[
        list[str] | None,
        _option(
            "--secret",
            "Secret; alone, from your environment; @ reads a file.",
            "NAME[=VALUE|@FILE]",
        ),
    ] = None
    array: Annotated[
        str | None, _option("--array", "Indices: 0-7, 1,3,5-9:2, 0-99%4.", "LIST[%N]")
    ] = None
    after_ok: Annotated[
        list[str] | None, _option("--after-ok", "Run after JOB succeeded; repeatable.", "JOB")
    ] = None
    after_any: Annotated[
        list[str] | None, _option("--after-any", "Run after JOB ended; repeatable.", "JOB")
    ] = None
    checkpoint_dir: Annotated[
        str | None, _option("--checkpoint-dir", "Folder that the job resumes from.")
    ] = None
    signal: Annotated[str | None, _option("--signal", "Notice signal, USR1 say.")] = None
    grace: Annotated[str | None, _option("--grace", "From notice to end: 90s, 2m.")] = None
    outputs: Annotated[str | None, _option("--outputs", "Folder that is kept.")] = None
    data_class: Annotated[str | None, _option("--data-class", "Class of its data.")] = None
    tier: Annotated[
        Tier | None, _option("--tier", "A price; reserved never borrows, spare always does.")
    ] = None
    priority: Annotated[
        int | None, _option("--priority", "0 to 100, of your own jobs; below 50 lets others by.")
    ] = None
    retries: Annotated[int | None, _option("--retries", "After its own failures.")] = None
    sbatch: Annotated[
        bool, _option("--sbatch", "FILE is a Slurm batch script; arguments go after --.")
    ] = False
    dry_run: Annotated[
        bool, _option("--dry-run", "With --sbatch: only report what becomes of it.")
    ] = False
    anyway: Annotated[
        bool, _option("--anyway", "With --sbatch: though something cannot be kept.")
    ] = False
    key: Annotated[
        str | None,
        _option("--key", "Idempotency key: the same key twice is one submission."),
    ] = None
    output: OutputOption = Output.TABLE


def with_flags(
    act: Callable[[typer.Context, Flags, tuple[str, ...] | None], None],
) -> Callable[..., None]:
    """A command that takes `Flags`, one parameter for each field, and the words after `--`."""

    def command(ctx: typer.Context, **values: Any) -> None:
        act(ctx, Flags(**values), ctx.meta.get(COMMAND))

    hints = get_type_hints(Flags, include_extras=True)
    parameters = [
        inspect.Parameter("ctx", inspect.Parameter.KEYWORD_ONLY, annotation=typer.Context)
    ]
    parameters += [
        inspect.Parameter(
            one.name,
            inspect.Parameter.KEYWORD_ONLY,
            default=one.default,
            annotation=hints[one.name],
        )
        for one in fields(Flags)
    ]
    # typer reads a command's parameters from these two.
    command.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]  # a function has it once it is set
    command.__annotations__ = {one.name: one.annotation for one in parameters}
    command.__doc__ = act.__doc__
    return command


def drafts(flags: Flags, command: tuple[str, ...] | None, shell: Shell) -> tuple[Draft, ...]:
    """The drafts that file and flags make together.

    Raises:
        RefusedError: one sentence on what is wrong.
    """
    if command == ():
        raise RefusedError("bad-input", "There is no command after --; write -- python train.py.")
    over = draft_of(flags, command, shell)
    if flags.file is None:
        if command is None:
            raise RefusedError(
                "bad-input", "There is nothing to run; name a job file or write -- COMMAND."
            )
        return (over.over(Draft(name=_name(command[0]))),)
    found = _file(flags.file, shell)
    if flags.name is not None and len(found) > 1:
        raise RefusedError(
            "bad-input", f"--name fits one job; {shown(flags.file)} holds {len(found)}."
        )
    return tuple(over.over(one) for one in found)


def _name(word: str) -> str:
    base = word.rpartition("/")[2][:63]
    return base if NAME.match(base) else "job"


def _file(name: str, shell: Shell) -> tuple[Draft, ...]:
    from dure import jobfile  # noqa: PLC0415 (only where there is a file)
    from dure.yamltext import TEXT_BYTES_MAX  # noqa: PLC0415

    if name == "-":
        return jobfile.parse(shell.stdin.read(TEXT_BYTES_MAX + 1), shell.folder, source="stdin")
    file = shell.folder / name
    if file.suffix in _SCRIPTS:
        raise RefusedError(
            "bad-job-file", f"{shown(name)} is a program and a job file is YAML; {_AFTER_DASHES}"
        )
    try:
        with file.open(encoding="utf-8") as opened:
            text = opened.read(TEXT_BYTES_MAX + 1)
    except (OSError, ValueError) as error:
        why = error.strerror if isinstance(error, OSError) else "it is not text in UTF-8"
        raise RefusedError(
            "bad-job-file",
            f"Job file {shown(name)} cannot be read: {why}; {_AFTER_DASHES}",
        ) from None
    try:
        return jobfile.parse(text, file.parent, source=file.name)
    except RefusedError as error:
        if file.suffix in _YAML:
            raise
        said = error.reason.sentence.removesuffix(".")
        raise RefusedError(
            error.reason.code, f"{said}; a job file is YAML, and {_AFTER_DASHES}"
        ) from None


def draft_of(flags: Flags, command: tuple[str, ...] | None, shell: Shell) -> Draft:
    """What the flags alone say. Raises RefusedError."""
    with refusing():
        return Draft(
            name=flags.name,
            project=flags.project,
            allocation=flags.allocation,
            command=command,
            workdir=None if flags.workdir is None else shell.folder / flags.workdir,
            env=dict(pair("env", text) for text in flags.env or ()),
            secrets=_secrets(flags.secret or (), shell),
            nodes=flags.nodes,
            gpus_per_node=flags.gpus,
            gpu_models=_tuple(flags.gpu_model, draft.gpu_model_from_text),
            pools=_tuple(flags.pool, str),
            cpus_per_node=_read(draft.cpus_from_text, flags.cpus),
            memory_gib_per_node=_read(draft.memory_gib_from_text, flags.memory),
            walltime_s=_read(walltime_s_from_text, flags.time),
            array=_read(draft.array_from_text, flags.array),
            retries=flags.retries,
            after_ok=_tuple(flags.after_ok, str),
            after_any=_tuple(flags.after_any, str),
            checkpoint_dir=flags.checkpoint_dir,
            signal=_read(draft.signal_from_text, flags.signal),
            grace_s=_read(draft.grace_s_from_text, flags.grace),
            outputs=flags.outputs,
            data_class=flags.data_class,
            tier=flags.tier,
            priority=flags.priority,
        )


def _read(reader: Callable[[str], T], text: str | None) -> T | None:
    return None if text is None else reader(text)


def _tuple(texts: Sequence[str] | None, reader: Callable[[str], str]) -> tuple[str, ...] | None:
    return tuple(reader(text) for text in texts) if texts else None


def _secrets(texts: Sequence[str], shell: Shell) -> dict[str, str | None]:
    """`NAME` from the environment, `NAME=VALUE`, or `NAME=@FILE` without its last line end."""
    secrets: dict[str, str | None] = {}
    for text in texts:
        if "=" not in text:
            secrets[text] = None
            continue
        name, value = pair("secret", text)
        secrets[name] = _secret_file(name, shell.folder / value[1:]) if value[:1] == "@" else value
    return secrets


def _secret_file(name: str, file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8").removesuffix("\n")
    except (OSError, ValueError):
        raise RefusedError(
            "bad-input", f"--secret {shown(name)}: {shown(str(file))} cannot be read as text."
        ) from None
