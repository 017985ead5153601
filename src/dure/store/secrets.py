"""Secrets at rest: encrypted with the installation's key (Fernet), deleted when the job ends."""

from __future__ import annotations

import hashlib
import hmac
import os
from contextlib import suppress
from pathlib import Path

from cryptography.fernet import Fernet
from sqlalchemy import Connection, delete, insert, select

from dure.store.schema import secrets


class Vault:
    """The installation's key, made at first use, in a file that only its owner reads."""

    def __init__(self, path: Path) -> None:
        self._key = _load_or_make(path)
        self._fernet = Fernet(self._key)

    def seal(self, text: str) -> bytes:
        """Encrypt."""
        return self._fernet.encrypt(text.encode())

    def open(self, sealed: bytes) -> str:
        """Decrypt what `seal` made."""
        return self._fernet.decrypt(sealed).decode()

    def fingerprint(self, data: bytes) -> str:
        """A keyed digest: tells equal from different, and nobody without the key what it was."""
        return hmac.new(self._key, data, hashlib.sha256).hexdigest()


def _load_or_make(path: Path) -> bytes:
    """The key; made whole beside its place and then linked there, so that a crash leaves either
    none or all of it.
    """
    if not path.exists():
        draft = path.with_name(f".{path.name}.{os.getpid()}")
        descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with os.fdopen(descriptor, "wb") as file:
            file.write(Fernet.generate_key())
            file.flush()
            os.fsync(file.fileno())
        with suppress(FileExistsError):
            os.link(draft, path)
        draft.unlink()
    path.chmod(0o600)
    return path.read_bytes()


def keep(connection: Connection, vault: Vault, job: int, given: dict[str, str]) -> None:
    """Store a job's secrets."""
    for name, value in sorted(given.items()):
        connection.execute(insert(secrets).values(job=job, name=name, sealed=vault.seal(value)))


def read(connection: Connection, vault: Vault, job: int) -> dict[str, str]:
    """A job's secrets, for the agent that launches it."""
    rows = connection.execute(select(secrets.c.name, secrets.c.sealed).where(secrets.c.job == job))
    return {row.name: vault.open(row.sealed) for row in rows}


def drop(connection: Connection, job: int) -> None:
    """Delete a job's secrets."""
    connection.execute(delete(secrets).where(secrets.c.job == job))
