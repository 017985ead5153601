"""An agent's configuration file: TOML, or JSON where its name ends in .json."""

from __future__ import annotations

import json
import stat
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal

from dure import codec
from dure.agent.blackout import Blackout
from dure.engines import Engine
from dure.engines.local import LocalEngine, LocalPool
from dure.engines.ray import RayEngine, RayPool, RaySite
from dure.engines.slurm import SlurmEngine, SlurmPool, SlurmSite
from dure.errors import RefusedError
from dure.text import check_slug, shown


class ConfigError(Exception):
    """The configuration cannot be used; says in one sentence why."""


INTERVAL_S_MAX: Final = 600


@dataclass(frozen=True, slots=True, kw_only=True)
class LocalSite:
    """The embedded engine has no settings of its own."""

    type: Literal["local"] = "local"


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
    interval_s: float = 0.0
    """The shortest time between two rounds, each of which asks the engine once for all its jobs;
    0: as often as the control plane asks."""
    blackouts: tuple[Blackout, ...] = ()
    """When pools are their owner's alone."""
    engine: LocalSite | SlurmSite | RaySite
    pools: tuple[LocalPool, ...] | tuple[SlurmPool, ...] | tuple[RayPool, ...]

    def __post_init__(self) -> None:
        check_slug("cluster_id", self.cluster_id)
        if not self.url.startswith(("http://", "https://")):
            raise ValueError(f"url {shown(self.url)} must start with https:// or http://")
        if not 0 <= self.interval_s <= INTERVAL_S_MAX:
            raise ValueError(
                f"interval_s is {self.interval_s}; it must be from 0 to {INTERVAL_S_MAX}"
            )
        if not self.pools:
            raise ValueError("pools is empty; an agent must offer at least one pool")
        if len({pool.pool_id for pool in self.pools}) != len(self.pools):
            raise ValueError("pools names a pool_id twice")
        known = {pool.pool_id for pool in self.pools}
        for blackout in self.blackouts:
            if unknown := set(blackout.pools) - known:
                raise ValueError(
                    f"a blackout names the pool {shown(min(unknown))}; pools has "
                    f"{', '.join(sorted(known))}"
                )


@dataclass(frozen=True, slots=True, kw_only=True)
class LocalConfig(AgentConfig):
    """An agent of one machine."""

    engine: LocalSite
    pools: tuple[LocalPool, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class SlurmConfig(AgentConfig):
    """An agent of a Slurm cluster."""

    engine: SlurmSite
    pools: tuple[SlurmPool, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class RayConfig(AgentConfig):
    """An agent of a Ray cluster."""

    engine: RaySite
    pools: tuple[RayPool, ...]


_KINDS: Final[dict[str, type[AgentConfig]]] = {
    "local": LocalConfig,
    "slurm": SlurmConfig,
    "ray": RayConfig,
}


def load_config(path: Path) -> AgentConfig:
    """Reads and checks a configuration file. `engine` is a table with a `type`, or that alone.

    Raises:
        ConfigError: it cannot be read, is not TOML or JSON, or holds anything wrong or unknown.
    """
    try:
        text = path.read_text(encoding="utf-8")
        content: Any = json.loads(text) if path.suffix == ".json" else tomllib.loads(text)
        kind = _kind(content)
        return codec.decode(kind, json.dumps(content), what="configuration")
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError, json.JSONDecodeError) as error:
        raise ConfigError(f"{path} cannot be read: {error}") from error
    except TypeError as error:  # TOML's dates are not JSON, nor anything that is asked for here
        raise ConfigError(f"{path} holds a date, which no setting is") from error
    except RefusedError as error:
        raise ConfigError(f"{path}: {error.reason.sentence}") from error


def _kind(content: Any) -> type[AgentConfig]:
    """What the file must hold, by the engine that it names; that becomes a table in `content`."""
    if not isinstance(content, dict) or "engine" not in content:
        return LocalConfig  # whose decoding says what is missing
    if isinstance(content["engine"], str):
        content["engine"] = {"type": content["engine"]}
    name = content["engine"].get("type") if isinstance(content["engine"], dict) else None
    kind = _KINDS.get(name) if isinstance(name, str) else None
    if kind is None:
        known = ", ".join(f"'{each}'" for each in _KINDS)
        sentence = f"engine is {shown(name)}; it must be one of {known}."
        raise RefusedError("bad-input", sentence)
    return kind


def open_engine(config: AgentConfig, folder: Path) -> Engine:
    """The engine that a configuration names, with its state in `folder`.

    Raises EngineError where it cannot be driven.
    """
    match config:
        case SlurmConfig():
            return SlurmEngine(folder, config.engine, config.pools, config.cluster_id)
        case RayConfig():
            return RayEngine(folder, config.engine, config.pools, config.cluster_id)
        case LocalConfig():
            return LocalEngine(folder, config.pools)
    raise AssertionError(config)


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
