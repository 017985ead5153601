"""A real PostgreSQL for tests: from the distribution's packages, in a temporary folder, as a user
without rights, on a socket in that folder and no network.
"""

from __future__ import annotations

import os
import pwd
import shutil
import subprocess
import tempfile
from collections.abc import Callable
from itertools import count
from pathlib import Path

import pytest
from sqlalchemy import URL, create_engine

from dure.store.database import Database
from dure.store.postgresql import url

INSTALL = "apt-get install --no-install-recommends postgresql"


def programs() -> Path | None:
    """The folder of the newest server installed here."""
    found = sorted(
        Path("/usr/lib/postgresql").glob("*/bin/initdb"), key=lambda path: int(path.parts[-3])
    )
    if found:
        return found[-1].parent
    on_path = shutil.which("initdb")
    return None if on_path is None else Path(on_path).parent


class Server:
    """One server. It refuses to run as root, so that as root it runs as `nobody`."""

    def __init__(self) -> None:
        found = programs()
        if found is None:
            pytest.skip(f"PostgreSQL is not installed here: {INSTALL}")
        self.programs = found
        self.folder = Path(tempfile.mkdtemp(prefix="dure-pg-", dir="/tmp"))
        self.user = "nobody" if os.getuid() == 0 else pwd.getpwuid(os.getuid()).pw_name
        if os.getuid() == 0:
            shutil.chown(self.folder, self.user)
        self._names = count(1)
        self._templates: set[str] = set()
        data = str(self.folder / "data")
        self._run("initdb", "-D", data, "-A", "trust", "-U", "dure", "--no-sync", "-E", "UTF8",
                  "--locale=C.UTF-8")  # fmt: skip
        self.start()

    def start(self, *, durable: bool = False) -> None:
        """`durable`: with fsync, for what measures or cuts the power."""
        settings = f"-c listen_addresses= -c unix_socket_directories={self.folder}"
        settings += " -c max_connections=200"
        if not durable:
            settings += " -c fsync=off -c full_page_writes=off"
        self._control("-l", str(self.folder / "log"), "-w", "-o", settings, "start")

    def stop(self, mode: str = "fast") -> None:
        """`immediate` is what a crash is to it."""
        self._control("-m", mode, "-w", "stop")

    def close(self) -> None:
        self.stop("immediate")
        shutil.rmtree(self.folder)

    def where(self, name: str) -> str:
        """The address of one of its databases, as settings have it."""
        return f"postgresql://dure@/{name}?host={self.folder}"

    def create(self, template: str = "template0") -> str:
        """A fresh database; its name."""
        name = f"t{next(self._names)}"
        self.administer(f"CREATE DATABASE {name} TEMPLATE {template}")
        return name

    def template(self, name: str, fill: Callable[[Database], None]) -> str:
        """A database to be copied, filled at the first call; its name."""
        if name not in self._templates:
            self.administer(f"CREATE DATABASE {name} TEMPLATE template0")
            made = Database(self.url(name))
            fill(made)
            made.close()
            self._templates.add(name)
        return name

    def url(self, name: str) -> URL:
        return url(self.where(name))

    def administer(self, statement: str) -> None:
        engine = create_engine(self.url("postgres"), isolation_level="AUTOCOMMIT")
        with engine.connect() as connection:
            connection.exec_driver_sql(statement)
        engine.dispose()

    def _control(self, *words: str) -> None:
        self._run("pg_ctl", "-D", str(self.folder / "data"), *words)

    def _run(self, program: str, *words: str) -> None:
        drop = {"user": self.user, "extra_groups": []} if os.getuid() == 0 else {}
        subprocess.run(
            [self.programs / program, *words],
            check=True,
            cwd=self.folder,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            env={"PATH": os.environ["PATH"], "LC_ALL": "C.UTF-8", "TZ": "UTC"},
            **drop,
        )
