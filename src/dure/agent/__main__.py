"""The agent's process: `python -m dure.agent --config FILE`.

Exit codes: 0 when told to stop, 2 when the configuration cannot be used. What runs on the engine
goes on in either case; under systemd that needs KillMode=process (systemd.kill(5)), or stopping the
agent stops its jobs too.
"""

from __future__ import annotations

import argparse
import logging
import os
import random
import signal
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import structlog

from dure.agent.config import AgentConfig, ConfigError, load_config, open_engine, read_token
from dure.agent.identity import Identity, IdentityError, own_identity
from dure.agent.loop import Agent, Site
from dure.agent.uplink import HttpUplink
from dure.engines import Engine, EngineError

_THREADS = 8


def main(arguments: list[str] | None = None) -> int:
    """Runs an agent until SIGTERM or SIGINT. Returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m dure.agent", description="A site's agent.")
    parser.add_argument("--config", type=Path, required=True, help="TOML or JSON")
    parser.add_argument("--log-format", choices=("console", "json"), default="console")
    options = parser.parse_args(arguments)
    here = options.config.absolute().parent
    try:
        config = load_config(options.config)
        token = read_token(here / config.token_file)
        root = _make_private(here / config.root)
        identity = own_identity(root)
        engine = open_engine(config, root / "engine")
    except (ConfigError, EngineError, IdentityError, OSError, ValueError) as error:
        sys.stderr.write(f"{error}\n")
        return 2
    _configure_log(options.log_format)
    _run(config, root, engine, HttpUplink(config.url, token), identity)
    return 0


def _make_private(root: Path) -> Path:
    """Members' data and logs are in it: nobody else may read what this process, or a job, makes."""
    os.umask(0o077)
    root.mkdir(parents=True, exist_ok=True)
    root.chmod(0o700)
    return root


def _run(
    config: AgentConfig, root: Path, engine: Engine, uplink: HttpUplink, identity: Identity
) -> None:
    with ThreadPoolExecutor(_THREADS, thread_name_prefix="dure-agent") as executor:
        agent = Agent(
            Site(
                cluster_id=config.cluster_id,
                engine_name=config.engine.type,
                interval_s=config.interval_s,
                engine=engine,
                uplink=uplink,
                identity=identity,
                blackouts=config.blackouts,
                root=root,
                executor=executor,
                dice=random.Random(),  # noqa: S311  it only spreads retries out
            )
        )
        stopping = threading.Event()

        def stop(*_: object) -> None:
            stopping.set()
            agent.wake()

        signal.signal(signal.SIGTERM, stop)
        signal.signal(signal.SIGINT, stop)
        agent.run(stopping)
        executor.shutdown(cancel_futures=True)
    engine.close()
    uplink.close()


def _configure_log(form: str) -> None:
    """One line an event to standard error. Tokens and secrets are never handed to the log."""
    structlog.configure(
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.format_exc_info,
            structlog.processors.JSONRenderer(ensure_ascii=False)
            if form == "json"
            else structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty()),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(logging.INFO),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
    )


if __name__ == "__main__":
    sys.exit(main())
