"""Sovereignty rules: which pools may run work on which class of data (invariant I12).

A job names the class of its data; every rule that names this class must allow the pool. A class
that no rule names may go anywhere. Every no carries its rule and a sentence.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from dure.errors import Reason, RefusedError
from dure.fleet import OwnerKind, Pool
from dure.text import check_name, check_slug, check_text, shown

EXCLUDED_BY_RULE: Final = "excluded-by-rule"


@dataclass(frozen=True, slots=True)
class DataClass:
    """How sensitive a job's data is."""

    id: str
    name: str

    def __post_init__(self) -> None:
        check_slug("data class id", self.id)
        check_name("data class name", self.name)


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """What a pool must be for data of these classes; None or () means that anything is right.

    `sentence` is shown to people after the fact that excluded a pool: a clause that says what the
    rule demands, without its full stop.
    """

    id: str
    data_classes: tuple[str, ...]
    sentence: str
    owners_allowed: tuple[str, ...] | None = None
    owner_kinds_allowed: tuple[OwnerKind, ...] | None = None
    jurisdictions_allowed: tuple[str, ...] | None = None
    operators_denied: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        check_slug("rule id", self.id)
        check_text("sentence", self.sentence, limit=300)
        if not self.data_classes:
            raise ValueError(f"rule {self.id} names no data class; it would never apply")
        allowing = (self.owners_allowed, self.owner_kinds_allowed, self.jurisdictions_allowed)
        if not self.operators_denied and all(allowed is None for allowed in allowing):
            raise ValueError(f"rule {self.id} demands nothing; name what it allows or denies")
        if () in allowing:
            raise ValueError(f"rule {self.id} allows nobody at all; leave the field out or fill it")


@dataclass(frozen=True, slots=True)
class Rules:
    """A versioned set of rules; a decision stores the version that it was made under."""

    version: str
    data_classes: tuple[DataClass, ...]
    rules: tuple[Rule, ...]

    def __post_init__(self) -> None:
        check_slug("rules version", self.version)
        known = [data_class.id for data_class in self.data_classes]
        for kind, ids in (("data class", known), ("rule", [rule.id for rule in self.rules])):
            for id_ in ids:
                if ids.count(id_) > 1:
                    raise ValueError(f"{kind} {id_} is named twice; ids are unique")
        for rule in self.rules:
            for id_ in rule.data_classes:
                if id_ not in known:
                    raise ValueError(
                        f"rule {rule.id} names data class {shown(id_)}; "
                        f"known are {', '.join(known) or 'none'}"
                    )


@dataclass(frozen=True, slots=True)
class Allowed:
    """No rule speaks against this pool."""

    pool_id: str


@dataclass(frozen=True, slots=True)
class Excluded:
    """A rule, the first that does so in the rules' order, speaks against this pool."""

    pool_id: str
    rule_id: str
    reason: Reason


def verdict(rules: Rules, data_class: str, pool: Pool) -> Allowed | Excluded:
    """Whether data of this class may go to this pool.

    Raises:
        RefusedError: the rules know no such class.
    """
    check_data_class(rules, data_class)
    for rule in rules.rules:
        if data_class in rule.data_classes and (fact := _objection(rule, pool)):
            sentence = (
                f"Pool {pool.id} is excluded by rule '{rule.id}': {fact}, and {rule.sentence}."
            )
            return Excluded(pool.id, rule.id, Reason(EXCLUDED_BY_RULE, sentence))
    return Allowed(pool.id)


def allowed_pools(
    rules: Rules, data_class: str, pools: Iterable[Pool]
) -> tuple[tuple[Pool, ...], tuple[Excluded, ...]]:
    """The pools that data of this class may go to, and a verdict for each other; order is kept.

    Raises:
        RefusedError: the rules know no such class.
    """
    check_data_class(rules, data_class)
    allowed: list[Pool] = []
    excluded: list[Excluded] = []
    for pool in pools:
        match verdict(rules, data_class, pool):
            case Excluded() as no:
                excluded.append(no)
            case Allowed():
                allowed.append(pool)
    return tuple(allowed), tuple(excluded)


def check_data_class(rules: Rules, data_class: str) -> None:
    """Refuse a class that the rules do not know: a slip must not pass as "no rule applies".

    Raises:
        RefusedError: the rules know no such class.
    """
    known = [known.id for known in rules.data_classes]
    if data_class not in known:
        raise RefusedError(
            "unknown-data-class",
            f"There is no data class {shown(data_class)}; known are {', '.join(known) or 'none'}.",
        )


def _objection(rule: Rule, pool: Pool) -> str | None:
    """The fact about the pool that the rule does not allow."""
    if rule.jurisdictions_allowed and pool.jurisdiction not in rule.jurisdictions_allowed:
        return f"it stands in {pool.jurisdiction}"
    if rule.owner_kinds_allowed and pool.owner_kind not in rule.owner_kinds_allowed:
        return f"its hardware belongs to {pool.owner} ({pool.owner_kind})"
    if rule.owners_allowed and pool.owner not in rule.owners_allowed:
        return f"its hardware belongs to {pool.owner}"
    if pool.operator_id in rule.operators_denied:
        return f"it is run by {pool.operator_id}"
    return None
