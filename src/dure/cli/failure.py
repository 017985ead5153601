"""What a failed command says, in one sentence on stderr, and its exit code."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Sequence
from itertools import pairwise
from typing import Final

import typer

from dure.cli.render import plain
from dure.cli.shell import Shell
from dure.errors import RefusedError
from dure.views import Problem

DONE: Final = 0
FAILED: Final = 1
REFUSED: Final = 2
INTERRUPTED: Final = 130  # 128 + SIGINT, as shells have it

_TRACEBACK: Final = "DURE_TRACEBACK"


def exit_code(error: BaseException, argv: Sequence[str], shell: Shell) -> int:
    """Say what went wrong and return how the process should end."""
    match error:
        case typer.Exit():
            return error.exit_code
        case SystemExit():
            return error.code if isinstance(error.code, int) else FAILED
        case KeyboardInterrupt() | typer.Abort():
            return INTERRUPTED
        case typer.TyperException() if not error.format_message():  # its help was shown
            return REFUSED
        case BrokenPipeError():  # the reader, `head` say, has enough
            if shell.stdout is sys.stdout:
                os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            return FAILED
    code, problem = _problem(error)
    if problem.code == "internal" and shell.environ.get(_TRACEBACK):
        raise error
    if _wants_json(argv):
        fields = {name: getattr(problem, name) for name in problem.__slots__}
        print(json.dumps(fields), file=shell.stderr)
    else:
        print(f"dure: {plain(problem.detail)}", file=shell.stderr)
    return code


def _problem(error: BaseException) -> tuple[int, Problem]:
    import httpx  # noqa: PLC0415 (a failed command may take its time)
    from pydantic import ValidationError  # noqa: PLC0415

    from dure.client import ApiError, UnreachableError  # noqa: PLC0415
    from dure.codec import sentence  # noqa: PLC0415

    match error:
        case ApiError():
            return (REFUSED if error.problem.status < 500 else FAILED), error.problem
        case RefusedError():
            return REFUSED, _said(error.reason.code, error.reason.sentence, error.status)
        case typer.TyperException():
            path = getattr(getattr(error, "ctx", None), "command_path", "dure")
            said = error.format_message().replace("Value error, ", "").rstrip(".")
            text = f"{said}; see {path} --help."
            return REFUSED, _said("usage", text, 400)
        case UnreachableError() | httpx.HTTPError():
            return FAILED, _said("unreachable", str(error), 503)
        case ValidationError():
            what = sentence(error.errors(include_url=False), "answer")
            text = f"The control plane's answer is not one that this dure can read: {what}"
            return FAILED, _said("bad-answer", text, 502)
        case OSError():
            return FAILED, _said("system", _of_system(error), 500)
    text = f"This is a fault in dure: {type(error).__name__}: {error} ({_TRACEBACK}=1 shows where)."
    return FAILED, _said("internal", text, 500)


def _of_system(error: OSError) -> str:
    """`PATH: No such file or directory.`, with both paths where two were involved."""
    names = [
        os.fsdecode(n) for n in (error.filename, error.filename2) if isinstance(n, str | bytes)
    ]
    return f"{' -> '.join(names)}{': ' if names else ''}{error.strerror or error}."


def _said(code: str, sentence: str, status: int) -> Problem:
    return Problem(
        type="about:blank", title=code.replace("-", " "), status=status, detail=sentence, code=code
    )


def _wants_json(argv: Sequence[str]) -> bool:
    """Whether the options ask for JSON, even where they could not be understood whole."""
    options = list(argv[: argv.index("--")]) if "--" in argv else list(argv)
    if "--output=json" in options or "-ojson" in options:
        return True
    return any(
        option in {"-o", "--output"} and value == "json" for option, value in pairwise(options)
    )
