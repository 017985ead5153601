"""An agent's configuration file: TOML, or JSON where its name ends in .json."""

from __future__ import annotations

import json
import stat
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from dure import codec
from dure.engines.local.devices import LocalPool
from dure.errors import RefusedError
from dure.text import check_slug, shown


class ConfigError(Exception):
    """The configuration cannot be used; says in one sentence why."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AgentConfig:
    """Who the agent is, whom it calls, and what it drives. Relative paths start at the file."""

    cluster_id: str
    url: str
    """Where the control plane's API is, `https://dure.example.kr` say."""
    token_file: str
    """A file that holds the agent's token and that its owner alone can read."""
    root: str
    """The folder for everything that the agent keeps."""
    engine: Literal["local"]
    pools: tuple[LocalPool, ...]

    def __post_init__(self) -> None:
        check_slug("cluster_id", self.cluster_id)
        if not self.url.startswith(("http://", "https://")):
            raise ValueError(f"url {shown(self.url)} must start with https:// or http://")
        if not self.pools:
            raise ValueError("pools is empty; an agent must offer at least one pool")
        if len({pool.pool_id for pool in self.pools}) != len(self.pools):
            raise ValueError("pools names a pool_id twice")


def load_config(path: Path) -> AgentConfig:
    """Reads and checks a configuration file.

    Raises:
        ConfigError: it cannot be read, is not TOML or JSON, or holds anything wrong or unknown.
    """
    try:
        text = path.read_text(encoding="utf-8")
        content: Any = json.loads(text) if path.suffix == ".json" else tomllib.loads(text)
        return codec.decode(AgentConfig, json.dumps(content), what="configuration")
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError, json.JSONDecodeError) as error:
        raise ConfigError(f"{path} cannot be read: {error}") from error
    except TypeError as error:  # TOML's dates are not JSON, nor anything that is asked for here
        raise ConfigError(f"{path} holds a date, which no setting is") from error
    except RefusedError as error:
        raise ConfigError(f"{path}: {error.reason.sentence}") from error


def read_token(path: Path) -> str:
    """The token in a file that nobody but its owner may read.

    Raises:
        ConfigError: it cannot be read, is open to others, or is empty.
    """
    try:
        mode = path.stat().st_mode
        token = path.read_text(encoding="ascii").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"the token file {path} cannot be read: {error}") from error
    if stat.S_IMODE(mode) & 0o077:
        raise ConfigError(f"the token file {path} can be read by others; make its mode 0600")
    if not token:
        raise ConfigError(f"the token file {path} is empty")
    return token
