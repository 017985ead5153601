"""`dure sinfo` and `dure sshare`: pools as partitions, and how shares stand."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import typer

from dure.cli.render import emit
from dure.cli.sbatch import WithWords
from dure.cli.shell import Output, shell_of
from dure.cli.slurm_layout import Field, by_letters, in_columns, lines, parsable, underlined
from dure.cli.slurm_words import Asked, asked, chosen, no_more, table
from dure.errors import RefusedError
from dure.listing import ShareLine

if TYPE_CHECKING:
    from dure.views import PoolView

SINFO_FORMAT: Final = "%P %.5a %.10l %.6D %.6t %N"
SINFO_LONG: Final = "%P %.5a %.10l %.6D %.11T %.14G %N"
SINFO_SUMMARY: Final = "%P %.5a %.10l %.16F  %N"
SSHARE_FORMAT: Final = "account,user,rawshares,normshares,rawusage,effectvusage,fairshare"
SSHARE_LONG: Final = f"{SSHARE_FORMAT},levelfs,gpusheld"
_PPM: Final = 1_000_000

_SINFO: Final = table(
    "clusters/M format/o partition/p states/t",
    "all/a federation json long/l noheader/h responding/r summarize/s dead/d noconvert exact/e",
)
_SSHARE: Final = table("accounts/A format/o", "all/a json long/l noheader/n parsable/p parsable2/P")


def register(app: typer.Typer) -> None:
    """Enter the commands."""
    for command in (sinfo, sshare):
        app.command(command.__name__, cls=WithWords)(command)


@dataclass(frozen=True, slots=True, kw_only=True)
class Nodes:
    """Nodes of a pool that are in one state; in a summary, all of them."""

    pool: PoolView
    state: tuple[str, str]
    count: int

    @property
    def planned(self) -> int:
        """Nodes that the pool has in service, or that are up, if those are more."""
        return max(self.pool.gpus_in_service // self.pool.gpus_per_node, self.pool.nodes_up)

    @property
    def by_state(self) -> str:
        """`allocated/idle/other/total`."""
        pool = self.pool
        allocated = pool.nodes_up - pool.nodes_idle
        other = self.planned - pool.nodes_up
        return f"{allocated}/{pool.nodes_idle}/{other}/{self.planned}"


_LETTERS: Final[Mapping[str, Field[Nodes]]] = {
    "P": Field("PARTITION", lambda one: one.pool.pool),
    "R": Field("PARTITION", lambda one: one.pool.pool),
    "a": Field("AVAIL", lambda one: "down" if one.pool.silent else "up"),
    "l": Field("TIMELIMIT", lambda _: "infinite"),
    "D": Field("NODES", lambda one: str(one.count)),
    "t": Field("STATE", lambda one: one.state[0]),
    "T": Field("STATE", lambda one: one.state[1]),
    "N": Field("NODELIST", lambda one: one.pool.pool),
    "F": Field("NODES(A/I/O/T)", lambda one: one.by_state),
    "G": Field("GRES", lambda one: f"gpu:{one.pool.gpu_model}:{one.pool.gpus_per_node}"),
    "V": Field("CLUSTER", lambda one: one.pool.cluster),
}


def sinfo(ctx: typer.Context) -> None:
    """List pools and their nodes by state, as sinfo does; a pool is a partition.

    Options of sinfo: -p (a pool), -M (a cluster or operator), -t, -s, -l, -o, -h, --json. Nodes
    that are planned, and that no site reports, are `unk`; those of a silent site too.
    """
    shell, found = shell_of(ctx), asked(ctx, _SINFO)
    no_more(found)
    with shell.client() as client:
        pools = [pool for pool in client.pools() if _wanted(pool, found)]
    rows = [row for pool in pools for row in _by_state(pool, found)]
    if "json" in found:
        emit(shell, Output.JSON, {"sinfo": [_as_json(row) for row in rows]}, lambda _: None)
        return
    usual = SINFO_LONG if "long" in found else SINFO_FORMAT
    usual = SINFO_SUMMARY if "summarize" in found else usual
    width = max([len("PARTITION"), *(len(row.pool.pool) for row in rows)])
    try:
        columns, after = by_letters(
            found.value("format") or usual.replace("%P", f"%{width}P"), _LETTERS
        )
    except ValueError as error:
        raise RefusedError("bad-input", f"{error}.") from None
    text = lines(columns, rows, after)
    if "noheader" in found:
        next(text)
    shell.stdout.writelines(f"{line.rstrip()}\n" for line in text)


def _wanted(pool: PoolView, found: Asked) -> bool:
    clusters = found.listed("clusters")
    return chosen((pool.pool,), found.listed("partition")) and (
        clusters in {None, ("all",)} or chosen((pool.cluster, pool.operator), clusters)
    )


def _by_state(pool: PoolView, found: Asked) -> Iterator[Nodes]:
    """A line for each state in which nodes of the pool are; in a summary, one."""
    whole = Nodes(pool=pool, state=("", ""), count=0)
    if "summarize" in found:
        yield whole
        return
    mixed = pool.nodes_up - pool.nodes_idle - pool.nodes_full
    counts = {
        ("alloc", "allocated"): pool.nodes_full,
        ("mix", "mixed"): mixed,
        ("idle", "idle"): pool.nodes_idle,
        ("unk", "unknown"): whole.planned - pool.nodes_up,
    }
    for state, count in counts.items():
        if count and chosen(state, found.listed("states")):
            yield Nodes(pool=pool, state=state, count=count)


def _as_json(row: Nodes) -> dict[str, object]:
    pool = row.pool
    return {
        "partition": pool.pool,
        "cluster": pool.cluster,
        "operator": pool.operator,
        "state": row.state[1],
        "nodes": row.count,
        "gres": _LETTERS["G"].value(row),
        "gpus_up": pool.gpus_up,
        "gpus_used": pool.gpus_used,
        "available": not pool.silent,
    }


# ---- shares --------------------------------------------------------------------------------------


def _account(one: ShareLine) -> str:
    """The last part of its name, further in the deeper it stands."""
    return f"{' ' * one.share.count('.')}{one.share.rpartition('.')[2]}"


def _factor(one: ShareLine) -> str:
    """2^(-usage / share), as Slurm's classic fair share. Source: slurm.schedmd.com
    /priority_multifactor.html.
    """
    if not one.entitled_ppm:
        return "0.000000"
    return f"{2 ** (-one.used_ppm / one.entitled_ppm):.6f}"


def _level(one: ShareLine) -> str:
    """Share over usage at its level; above 1 it has had less. Source: sshare(1), Level FS."""
    return f"{one.entitled_ppm / one.used_ppm:.6f}" if one.used_ppm else "inf"


_SHARES: Final[Mapping[str, Field[ShareLine]]] = {
    field.heading.lower(): field
    for field in (
        Field("Account", _account, 20, left=True),
        Field("User", lambda _: "", 10),
        Field("Share", lambda one: one.share, 30, left=True),
        Field("RawShares", lambda one: str(one.weight_milli)),
        Field("NormShares", lambda one: f"{one.entitled_ppm / _PPM:.6f}", 11),
        Field("RawUsage", lambda one: str(one.used_credit_s), 11),
        Field("EffectvUsage", lambda one: f"{one.used_ppm / _PPM:.6f}", 13),
        Field("FairShare", _factor),
        Field("LevelFS", _level),
        Field("GPUsHeld", lambda one: str(one.gpus_held)),
    )
}


def sshare(ctx: typer.Context) -> None:
    """Show how your projects' shares stand, below their owners', as sshare does.

    Options of sshare: -A (a project), -l, -o, -n, -p, -P, --json. RawUsage is in credit-seconds and
    halves with every half-life; shares and usage are those of a level, as Fair Tree has them. Usage
    is kept by project, not by user.
    """
    shell, found = shell_of(ctx), asked(ctx, _SSHARE)
    no_more(found)
    with shell.client() as client:
        rows = [one for one in client.shares() if _of_account(one, found.listed("accounts"))]
    if "json" in found:
        emit(shell, Output.JSON, rows, lambda _: None)
        return
    usual = SSHARE_LONG if "long" in found else SSHARE_FORMAT
    try:
        columns = in_columns(found.value("format") or usual, _SHARES)
    except ValueError as error:
        raise RefusedError("bad-input", f"{error}.") from None
    headless = "noheader" in found
    if "parsable" in found or "parsable2" in found:
        text = parsable(columns, rows, "|", at_end="parsable" in found)
    else:
        text = lines(columns, rows) if headless else underlined(columns, rows)
    if headless:
        next(text)
    shell.stdout.writelines(f"{line}\n" for line in text)


def _of_account(one: ShareLine, accounts: Sequence[str] | None) -> bool:
    return accounts is None or bool(set(one.share.split(".")) & set(accounts))
