"""A scenario: one TOML file that says what fleet there is, under which rules and prices, and how
`dure up` plays it on one machine.

Read key by key, so that every mistake is answered with the path of the key in the file and one
sentence. The canonical JSON form is what a store keeps of each version.
"""

from __future__ import annotations

import json
import tomllib
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import date
from pathlib import Path
from typing import Any, Final, TypeVar

from pydantic import TypeAdapter, ValidationError

from dure.errors import RefusedError
from dure.fleet import (
    Cluster,
    EngineKind,
    Fleet,
    GpuModel,
    Operator,
    OwnerKind,
    PhaseStart,
    Pool,
    Share,
    Wave,
    WavePhase,
)
from dure.metering import Season, Tariff
from dure.policy import DataClass, Rule, Rules
from dure.text import SLUG, check_name, check_slug, shown
from dure.units import INT64_MAX, instant_from_iso

LOCAL_NODES_MAX: Final = 64
"""Of one cluster played on this machine."""

FILE_BYTES_MAX: Final = 4 * 1024 * 1024

_Built = TypeVar("_Built")
_Text = TypeVar("_Text", bound=str)


@dataclass(frozen=True, slots=True)
class LocalCluster:
    """How `dure up` plays a cluster on this machine: `nodes` nodes in the shape of `pool_id`'s, so
    that one local slot stands for many GPUs of the pool.
    """

    cluster_id: str
    pool_id: str
    nodes: int

    def __post_init__(self) -> None:
        check_slug("local cluster id", self.cluster_id)
        check_slug("local pool", self.pool_id)
        if not 1 <= self.nodes <= LOCAL_NODES_MAX:
            raise ValueError(f"nodes is {self.nodes}; it must be from 1 to {LOCAL_NODES_MAX}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Scenario:
    """Fleet, rules and tariff, each with its own version, and the local stand-ins."""

    name: str
    fleet: Fleet
    rules: Rules
    tariff: Tariff
    local: tuple[LocalCluster, ...]

    def __post_init__(self) -> None:
        check_name("scenario name", self.name)
        _check_rules(self.fleet, self.rules)
        _check_tariff(self.fleet, self.tariff)
        _check_local(self.fleet, self.local)


_ADAPTER: Final = TypeAdapter(Scenario)


def load(path: Path) -> Scenario:
    """Read a scenario from a TOML file.

    Raises:
        RefusedError: `bad-scenario`: the file cannot be read, or something in it is wrong; the
            sentence names the file and the key.
    """
    try:
        return _Table("", _toml(path)).build(_read_scenario)
    except ValueError as wrong:
        raise _bad(f"{path.name}: {wrong}.") from wrong


def find(name_or_path: str) -> Path:
    """The file of a scenario: a path, or the bare name of one that comes with Dure.

    Raises:
        RefusedError: `bad-scenario`: neither is there; the sentence names those that are.
    """
    shipped = {file.stem: file for folder in _folders() for file in sorted(folder.glob("*.toml"))}
    if SLUG.match(name_or_path) and name_or_path in shipped:
        return shipped[name_or_path]
    with suppress(OSError, ValueError):  # a name too long, a NUL: no such file either
        if Path(name_or_path).is_file():
            return Path(name_or_path)
    raise _bad(
        f"There is no scenario {shown(name_or_path)}; "
        f"name a TOML file or one of {', '.join(sorted(shipped))}."
    )


def to_json(scenario: Scenario) -> str:
    """The canonical form: keys sorted, no spaces; equal scenarios give equal text."""
    data = _ADAPTER.dump_python(scenario, mode="json")
    return json.dumps(data, sort_keys=True, separators=(",", ":"), ensure_ascii=False)


def from_json(text: str | bytes) -> Scenario:
    """Read the canonical form back.

    Raises:
        RefusedError: `bad-scenario`: it is not one.
    """
    try:
        return _ADAPTER.validate_json(text, strict=True, extra="forbid")
    except ValidationError as wrong:
        first = wrong.errors()[0]
        where = ".".join(str(part) for part in first["loc"]) or "the document"
        raise _bad(f"{where}: {first['msg'].removeprefix('Value error, ')}.") from wrong


def _bad(sentence: str) -> RefusedError:
    return RefusedError("bad-scenario", sentence)


def _folders() -> tuple[Path, ...]:
    """In a wheel the scenarios lie inside the package, in a checkout beside `src`."""
    here = Path(__file__).resolve()
    return tuple(
        folder
        for folder in (here.parent / "scenarios", here.parents[2] / "scenarios")
        if folder.is_dir()
    )


def _toml(path: Path) -> dict[str, Any]:
    try:
        with path.open("rb") as file:
            raw = file.read(FILE_BYTES_MAX + 1)
    except OSError as wrong:
        raise ValueError(f"the file cannot be read: {wrong.strerror}") from wrong
    if len(raw) > FILE_BYTES_MAX:
        raise ValueError(f"the file is larger than {FILE_BYTES_MAX:,} bytes")
    try:
        return tomllib.loads(raw.decode())
    except UnicodeDecodeError as wrong:
        raise ValueError(f"the file is not UTF-8 at byte {wrong.start}") from wrong
    except (ValueError, RecursionError) as wrong:
        raise ValueError(f"the file is not TOML: {wrong}") from wrong


# What refers to what: checked on the values, so that a scenario from the store is held to it too.


def _check_known(what: str, id_: str, kind: str, known: set[str]) -> None:
    if id_ not in known:
        raise ValueError(
            f"{what} names {kind} {shown(id_)}; the fleet has {', '.join(sorted(known))}"
        )


def _check_rules(fleet: Fleet, rules: Rules) -> None:
    owners = {pool.owner for pool in fleet.pools}
    operators = {operator.id for operator in fleet.operators}
    for rule in rules.rules:
        for owner in rule.owners_allowed or ():
            _check_known(f"rule {rule.id}", owner, "owner", owners)
        for operator_id in rule.operators_denied:
            _check_known(f"rule {rule.id}", operator_id, "operator", operators)


def _check_tariff(fleet: Fleet, tariff: Tariff) -> None:
    models = {model.id for model in fleet.models}
    operators = {operator.id for operator in fleet.operators}
    weighed = [model for model, _ in tariff.weights_milli]
    priced = [operator for operator, _ in tariff.operator_prices_milli]
    for model in weighed:
        _check_known("tariff.weights_milli", model, "gpu model", models)
    for operator_id in priced:
        _check_known("tariff.operator_prices_milli", operator_id, "operator", operators)
    for field, missing in (
        ("weights_milli", models.difference(weighed)),
        ("operator_prices_milli", operators.difference(priced)),
    ):
        if missing:
            raise ValueError(f"tariff.{field} leaves out {', '.join(sorted(missing))}")


def _check_local(fleet: Fleet, local: tuple[LocalCluster, ...]) -> None:
    clusters = {cluster.id: cluster for cluster in fleet.clusters}
    seen: set[str] = set()
    for stand_in in local:
        _check_known("local", stand_in.cluster_id, "cluster", set(clusters))
        if stand_in.cluster_id in seen:
            raise ValueError(f"local names cluster {stand_in.cluster_id} twice")
        seen.add(stand_in.cluster_id)
        pools = {pool.id for pool in clusters[stand_in.cluster_id].pools}
        if stand_in.pool_id not in pools:
            raise ValueError(
                f"local cluster {stand_in.cluster_id} names pool {shown(stand_in.pool_id)}; "
                f"the cluster has {', '.join(sorted(pools)) or 'none'}"
            )


class _AtPathError(ValueError):
    """Something wrong whose sentence begins with its path in the file."""


class _Table:
    """One table of the file. Each key is read once, by its type; `build` refuses those left over.

    `_path` leads from the top of the file to this table; in an array, a table goes by its id.
    """

    def __init__(self, path: str, data: Mapping[str, Any]) -> None:
        self._path = path
        self._left = dict(data)

    def text(self, key: str) -> str:
        text: str = self._value(key, str, "a text in quotes")
        return text

    def integer(self, key: str) -> int:
        value: int = self._value(key, int, "a whole number")
        if abs(value) > INT64_MAX:
            raise self._error(key, "is beyond 64 bits; write a smaller number")
        return value

    def flag(self, key: str, *, default: bool) -> bool:
        return bool(self._value(key, bool, "true or false")) if key in self._left else default

    def one_of(self, key: str, known: Iterable[_Text]) -> _Text:
        """A text that is one of those known."""
        return self._known(key, self.text(key), known)

    def texts(self, key: str) -> tuple[str, ...] | None:
        """A list of texts, None when the key is not there."""
        if key not in self._left:
            return None
        values: list[Any] = self._value(key, list, "a list of texts")
        if not all(isinstance(value, str) for value in values):
            raise self._error(key, f"is {shown(values)}; write a list of texts")
        return tuple(values)

    def some_of(self, key: str, known: Iterable[_Text]) -> tuple[_Text, ...] | None:
        """A list of texts that are among those known, None when the key is not there."""
        values = self.texts(key)
        return None if values is None else tuple(self._known(key, v, known) for v in values)

    def instant_ms(self, key: str) -> int:
        """A date (midnight UTC) or date and time, as TOML's own or as a text in ISO 8601."""
        value = self._value(key, (date, str), "a date such as 2026-11-23")
        try:
            return instant_from_iso(value if isinstance(value, str) else value.isoformat())
        except (ValueError, OverflowError) as wrong:
            sentence = f"is {shown(str(value))}; write a date such as 2026-11-23"
            raise self._error(key, sentence) from wrong

    def phases(self) -> tuple[PhaseStart, ...]:
        """The dates of a wave, one key a phase, in the order of the phases."""
        return tuple(
            PhaseStart(phase, self.instant_ms(phase)) for phase in WavePhase if phase in self._left
        )

    def pairs(self, key: str) -> tuple[tuple[str, int], ...]:
        """A table of whole numbers, in the order of its keys: the file's order means nothing."""
        table = self.table(key)
        return tuple((name, table.integer(name)) for name in sorted(table._left))  # noqa: SLF001 (our own class)

    def table(self, key: str) -> _Table:
        return _Table(self._at(key), self._value(key, dict, f"a table [{key}]"))

    def tables(self, key: str, read: Callable[[_Table], _Built]) -> tuple[_Built, ...]:
        """An array of tables, each read by `read`; empty when the key is not there."""
        if key not in self._left:
            return ()
        rows = self._value(key, list, f"tables [[{key}]]")
        built = []
        for number, row in enumerate(rows, start=1):
            if not isinstance(row, dict):
                raise self._error(key, f"is {shown(rows)}; write tables [[{key}]]")
            id_ = row.get("id")
            label = id_ if isinstance(id_, str) and SLUG.match(id_) else str(number)
            table = _Table(f"{self._at(key)}[{label}]", row)
            built.append(table.build(read))
        return tuple(built)

    def build(self, read: Callable[[_Table], _Built]) -> _Built:
        """What `read` makes of this table, all of whose keys must then be read.

        Raises:
            ValueError: the first thing wrong, with its path.
        """
        try:
            built = read(self)
        except _AtPathError:
            raise
        except ValueError as wrong:
            raise _AtPathError(f"{self._path}: {wrong}" if self._path else str(wrong)) from wrong
        for key in self._left:
            raise self._error(key, "is not a known key here; take it out or correct its spelling")
        return built

    def _value(self, key: str, kind: type | tuple[type, ...], wanted: str) -> Any:
        if key not in self._left:
            raise self._error(key, f"is missing; write {wanted}")
        value = self._left.pop(key)
        # bool is an int to Python, and not to people.
        if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
            raise self._error(key, f"is {shown(value)}; write {wanted}")
        return value

    def _known(self, key: str, value: str, known: Iterable[_Text]) -> _Text:
        among = list(known)
        for text in among:
            if text == value:
                return text
        raise self._error(key, f"is {shown(value)}; write one of {', '.join(among) or 'none'}")

    def _error(self, key: str, sentence: str) -> _AtPathError:
        return _AtPathError(f"{self._at(key)} {sentence}")

    def _at(self, key: str) -> str:
        plain = key if SLUG.match(key.replace("_", "-")) else shown(key)
        return f"{self._path}.{plain}" if self._path else plain


# The shape of the file, from the top down.


def _read_scenario(top: _Table) -> Scenario:
    return Scenario(
        name=top.text("name"),
        fleet=_read_fleet(top),
        rules=top.table("rules").build(_read_rules),
        tariff=top.table("tariff").build(_read_tariff),
        local=top.table("local").build(lambda local: local.tables("cluster", _read_local)),
    )


def _read_fleet(top: _Table) -> Fleet:
    """The file lists operators, clusters and pools flat, each naming the one it belongs to."""
    version = top.text("version")
    models = top.tables("model", _read_model)
    operators = top.tables("operator", lambda table: (table.text("id"), table.text("name")))
    clusters = top.tables(
        "cluster", lambda table: _read_cluster(table, [id_ for id_, _ in operators])
    )
    by_id = {cluster.id: cluster for cluster in clusters}
    pools = top.tables("pool", lambda table: _read_pool(table, by_id, [m.id for m in models]))
    full = tuple(
        replace(cluster, pools=tuple(pool for pool in pools if pool.cluster_id == cluster.id))
        for cluster in clusters
    )
    return Fleet(
        version,
        tuple(
            Operator(id_, name, tuple(cluster for cluster in full if cluster.operator_id == id_))
            for id_, name in operators
        ),
        models,
    )


def _read_model(table: _Table) -> GpuModel:
    return GpuModel(table.text("id"), table.text("name"), table.integer("memory_gib"))


def _read_cluster(table: _Table, operator_ids: list[str]) -> Cluster:
    """A cluster without its pools yet."""
    return Cluster(
        id=table.text("id"),
        operator_id=table.one_of("operator", operator_ids),
        engine=table.one_of("engine", EngineKind),
        pools=(),
    )


def _read_pool(table: _Table, clusters: Mapping[str, Cluster], model_ids: list[str]) -> Pool:
    cluster = clusters[table.one_of("cluster", clusters)]
    return Pool(
        id=table.text("id"),
        cluster_id=cluster.id,
        operator_id=cluster.operator_id,
        gpu_model=table.one_of("gpu_model", model_ids),
        gpus_per_node=table.integer("gpus_per_node"),
        cpus_per_node=table.integer("cpus_per_node"),
        memory_gib_per_node=table.integer("memory_gib_per_node"),
        interconnect=table.text("interconnect"),
        owner=table.text("owner"),
        owner_kind=table.one_of("owner_kind", OwnerKind),
        jurisdiction=table.text("jurisdiction"),
        waves=table.tables("wave", _read_wave),
        shares=table.tables("share", _read_share),
    )


def _read_wave(table: _Table) -> Wave:
    return Wave(
        id=table.text("id"),
        gpus=table.integer("gpus"),
        assumed=table.flag("assumed", default=False),
        phases=table.phases(),
    )


def _read_share(table: _Table) -> Share:
    return Share(
        holder=table.text("holder"),
        gpus=table.integer("gpus"),
        may_lend=table.flag("may_lend", default=False),
        may_borrow=table.flag("may_borrow", default=False),
    )


def _read_rules(table: _Table) -> Rules:
    return Rules(
        version=table.text("version"),
        data_classes=table.tables(
            "data_class", lambda row: DataClass(row.text("id"), row.text("name"))
        ),
        rules=table.tables("rule", _read_rule),
    )


def _read_rule(table: _Table) -> Rule:
    return Rule(
        id=table.text("id"),
        data_classes=table.texts("data_classes") or (),
        sentence=table.text("sentence"),
        owners_allowed=table.texts("owners_allowed"),
        owner_kinds_allowed=table.some_of("owner_kinds_allowed", OwnerKind),
        jurisdictions_allowed=table.texts("jurisdictions_allowed"),
        operators_denied=table.texts("operators_denied") or (),
    )


def _read_tariff(table: _Table) -> Tariff:
    return Tariff(
        version=table.text("version"),
        weights_milli=table.pairs("weights_milli"),
        tiers_milli=table.pairs("tiers_milli"),
        seasons=table.tables("season", _read_season),
        operator_prices_milli=table.pairs("operator_prices_milli"),
    )


def _read_season(table: _Table) -> Season:
    return Season(
        id=table.text("id"),
        starts_ms=table.instant_ms("starts"),
        ends_ms=table.instant_ms("ends"),
        factor_milli=table.integer("factor_milli"),
    )


def _read_local(table: _Table) -> LocalCluster:
    return LocalCluster(table.text("id"), table.text("pool"), table.integer("nodes"))
