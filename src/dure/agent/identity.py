"""The agent's own key: made once, enrolled once, kept in its folder; it never leaves the site."""

from __future__ import annotations

import os
from base64 import b64encode
from pathlib import Path
from typing import Final

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)

KEY_FILE: Final = "agent-key.pem"


class IdentityError(Exception):
    """The key cannot be used; says in one sentence why."""


class Identity:
    """An Ed25519 key (RFC 8032), and what it signs."""

    def __init__(self, key: Ed25519PrivateKey) -> None:
        self._key = key

    @property
    def public_key(self) -> str:
        """Its 32 bytes in base64."""
        return b64encode(self._key.public_key().public_bytes_raw()).decode()

    def sign(self, text: str) -> str:
        """The signature in base64. Equal texts give equal signatures."""
        return b64encode(self._key.sign(text.encode())).decode()


def own_identity(root: Path) -> Identity:
    """The key in an agent's folder, made there at the first start and readable by its user alone.

    Raises:
        IdentityError: the file is there and holds no such key.
        OSError: it can be neither read nor written.
    """
    path = root / KEY_FILE
    if not path.exists():
        _write_new(path, Ed25519PrivateKey.generate())
    try:
        key = load_pem_private_key(path.read_bytes(), password=None)
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise IdentityError(f"{path} holds no private key in PEM: {error}") from error
    if not isinstance(key, Ed25519PrivateKey):
        raise IdentityError(f"{path} holds another kind of key than Ed25519")
    return Identity(key)


def _write_new(path: Path, key: Ed25519PrivateKey) -> None:
    """Whole or not at all: a key of which half was written could never be enrolled again."""
    pem = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    draft = path.with_suffix(".new")
    draft.unlink(missing_ok=True)
    draft.touch(mode=0o600, exist_ok=False)
    with draft.open("wb") as file:
        file.write(pem)
        file.flush()
        os.fsync(file.fileno())
    draft.replace(path)
