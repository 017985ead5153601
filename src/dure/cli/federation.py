"""`dure serve` (a control plane), `dure up` (a federation on this machine), `dure demo`, and the
backups of what they keep.
"""

from __future__ import annotations

import logging
import signal
import sys
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from dure.cli.backup import backup, restore
from dure.cli.demo import demo
from dure.cli.render import console, line
from dure.cli.shell import shell_of

if TYPE_CHECKING:
    from dure.federation import Played
    from dure.scenario import Scenario

PORT = 8470

DataOption = Annotated[
    Path, typer.Option("--data", help="The folder that everything is kept in.", metavar="DIR")
]


def register(app: typer.Typer) -> None:
    """Enter the commands."""
    app.command("demo")(demo)
    app.command("up")(up)
    app.command("serve")(serve)
    app.command("backup")(backup)
    app.command("restore")(restore)


def serve(
    data: DataOption,
    scenario: Annotated[
        str | None, typer.Option(help="A name or a file; without one, goes on with what it has.")
    ] = None,
    host: Annotated[str, typer.Option(help="The address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=1, max=65_535)] = PORT,
) -> None:
    """Run a control plane: API, control loop, database. Put TLS in front of it."""
    from dure.server import ServerConfig, serve as run  # noqa: I001, PLC0415 (as below: quick help)
    from dure.store.where import settings_of  # noqa: PLC0415

    _log_to_stderr()
    loaded = None if scenario is None else _scenario(scenario)
    config = ServerConfig(
        data=data, host=host, port=port, scenario=loaded, settings=settings_of(data)
    )
    run(config)


def up(
    ctx: typer.Context,
    scenario: Annotated[str, typer.Argument(help="A name or a TOML file.")] = "korea",
    data: DataOption = Path("dure-data"),
    port: Annotated[int, typer.Option(min=1, max=65_535)] = PORT,
    gpus: Annotated[  # noqa: FBT002  an option of the command line
        bool,
        typer.Option("--gpus/--no-gpus", help="Use this machine's NVIDIA GPUs, if it has any."),
    ] = True,
) -> None:
    """Run a federation on this machine until Ctrl-C: a control plane and an agent per cluster."""
    from dure.federation import Federation, check_port_free, play  # noqa: PLC0415

    shell = shell_of(ctx)
    out = console(shell.stdout)
    loaded = _scenario(scenario)
    check_port_free(port)
    played = play(loaded, shell.now_ms(), gpus=gpus)
    federation = Federation(
        data=data.absolute(), scenario=loaded, port=port, played=played, say=shell.say
    )
    stopping = threading.Event()
    for signal_ in (signal.SIGINT, signal.SIGTERM):
        signal.signal(signal_, lambda *_: stopping.set())
    line(out, f"Starting {len(played)} sites of scenario {loaded.name} ...")
    federation.start()
    try:
        for site in played:
            line(out, f"  {site_line(site)}")
        line(out, f"The API is at {federation.url}, its description at /openapi.json.")
        line(out, f"The administrator's token is in {federation.token_file}.")
        line(out, f"  dure login {federation.url} < {federation.token_file}")
        line(out, "Ctrl-C stops it; what runs goes on, and the next `dure up` finds it again.")
        federation.keep(stopping.is_set)
    finally:
        line(out, "Stopping ...")
        federation.stop()


def site_line(site: Played) -> str:
    """Which slots play a cluster, and what each of them stands for."""
    each = max(1, round(site.stands_for / site.slots))
    real = site.uses_real_gpus
    who = f"this machine's {site.slots} real GPUs" if real else f"{site.slots} slots"
    return (
        f"{site.operator}: {who} play {site.stands_for:,} {site.gpu_model.upper()} in service "
        f"({'each' if real else 'a slot'} stands for {each:,} GPUs)"
    )


def _scenario(name: str) -> Scenario:
    from dure import scenario as scenarios  # noqa: PLC0415

    if name.endswith(".json"):
        return scenarios.from_json(Path(name).read_text())
    return scenarios.load(scenarios.find(name))


def _log_to_stderr() -> None:
    import structlog  # noqa: PLC0415

    structlog.configure(
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.format_exc_info,
            structlog.processors.JSONRenderer(ensure_ascii=False),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(logging.INFO),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
    )
