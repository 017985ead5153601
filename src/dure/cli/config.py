"""Where the control plane is and who the caller is: environment first, then one file.

`$XDG_CONFIG_HOME/dure/config.toml` (else below `~/.config`) holds `url`, `token` and, if wanted,
`project`; only its owner can read it.
"""

from __future__ import annotations

import json
import os
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

from dure.cli.private import replace_private
from dure.errors import RefusedError
from dure.text import SLUG, shown

URL: Final = "DURE_URL"
TOKEN: Final = "DURE_TOKEN"  # noqa: S105 (the variable's name)


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """What the file says."""

    url: str | None = None
    token: str | None = field(default=None, repr=False)
    project: str | None = None


def _bad(sentence: str) -> RefusedError:
    return RefusedError("not-configured", sentence)


def path(environ: Mapping[str, str]) -> Path:
    """Where the file is."""
    base = environ.get("XDG_CONFIG_HOME") or os.path.join(environ.get("HOME", "~"), ".config")  # noqa: PTH118 (kept text: HOME may hold anything)
    return Path(base).expanduser() / "dure" / "config.toml"


def load(environ: Mapping[str, str]) -> Config:
    """Read the file; one that is not there says nothing.

    Raises:
        RefusedError: `not-configured`: it is there and cannot be used.
    """
    file = path(environ)
    try:
        data = tomllib.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return Config()
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not TOML"
        raise _bad(f"{file} cannot be read: {reason}; run dure login again.") from None
    for key, value in data.items():
        if key not in {"url", "token", "project"} or not isinstance(value, str):
            raise _bad(f"{file} has {shown(key)}; it holds texts url, token and project only.")
    return Config(**data)


def save(environ: Mapping[str, str], config: Config) -> Path:
    """Write the file, readable by its owner only."""
    file = path(environ)
    file.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    said = {"url": config.url, "token": config.token, "project": config.project}
    # A JSON string of ASCII is a TOML string too.
    lines = [f"{name} = {json.dumps(value)}\n" for name, value in said.items() if value]
    replace_private(file, lines)
    return file


def endpoint(environ: Mapping[str, str]) -> tuple[str, str]:
    """URL and token to use.

    Raises:
        RefusedError: `not-configured`: there is none, or it cannot be used.
    """
    stored = Config() if environ.get(URL) and environ.get(TOKEN) else load(environ)
    url, token = environ.get(URL) or stored.url, environ.get(TOKEN) or stored.token
    if not url or not token:
        missing = "control plane" if not url else "token"
        raise _bad(f"No {missing} is known; run dure login URL, or set {URL} and {TOKEN}.")
    check_url(url)
    check_token(token)
    return url, token


def project(environ: Mapping[str, str]) -> str | None:
    """The project to submit for when none is named."""
    found = environ.get("DURE_PROJECT") or load(environ).project
    if found and not SLUG.match(found):
        raise _bad(f"The default project {shown(found)} is not a project's id.")
    return found


def check_url(url: str) -> None:
    """An http or https address without a name and password in it."""
    try:
        parts = urlsplit(url)
        fits = parts.scheme in {"http", "https"} and parts.hostname and parts.port != 0
    except ValueError:
        fits = False
    if not fits or "@" in parts.netloc or not url.isascii() or not url.isprintable() or " " in url:
        raise _bad(f"{shown(url)} is not an address; write https://dure.example.kr")


def check_token(token: str) -> None:
    """Printable ASCII without spaces, as a header can carry it. The token is not shown."""
    if not token.isascii() or not token.isprintable() or " " in token or len(token) > 500:
        raise _bad("The token holds characters that no token has; copy it again.")
