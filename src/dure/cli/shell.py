"""What a command has of the world: environment, streams, network. Tests pass their own."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TextIO

import typer

if TYPE_CHECKING:
    import httpx

    from dure.client import Client


class Output(StrEnum):
    """How an answer is written."""

    TABLE = "table"
    JSON = "json"


OutputOption = Annotated[
    Output, typer.Option("--output", "-o", help="Tables for people, JSON for programs.")
]


def _now_ms() -> int:
    return time.time_ns() // 1_000_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Shell:
    """Where a command runs. `transport` takes the place of the network."""

    environ: Mapping[str, str]
    folder: Path
    stdin: TextIO
    stdout: TextIO
    stderr: TextIO
    transport: httpx.BaseTransport | None = None
    now_ms: Callable[[], int] = _now_ms

    @classmethod
    def of_process(cls) -> Shell:
        """What the running process has."""
        return cls(
            environ=os.environ,
            folder=Path.cwd(),
            stdin=sys.stdin,
            stdout=sys.stdout,
            stderr=sys.stderr,
        )

    def client(self) -> Client:
        """A client for the control plane that environment or configuration name.

        Raises:
            RefusedError: `not-configured`, or what they say cannot be used.
        """
        from dure.cli import config  # noqa: PLC0415 (keeps `dure --help` quick, as does the next)
        from dure.client import Client  # noqa: PLC0415

        url, token = config.endpoint(self.environ)
        return Client(url, token, transport=self.transport)

    def say(self, sentence: str) -> None:
        """One line for people, beside the answer."""
        print(sentence, file=self.stderr)


def shell_of(ctx: typer.Context) -> Shell:
    """The shell that a command was started with."""
    found = ctx.find_root().obj
    if not isinstance(found, Shell):
        raise TypeError("commands run through dure.cli.run")
    return found
