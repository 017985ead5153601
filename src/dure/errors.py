"""What Dure says when it says no: a code for programs, one sentence for people."""

from __future__ import annotations

from dataclasses import dataclass

from dure.text import shown


@dataclass(frozen=True, slots=True)
class Reason:
    """Why something waits, was refused, placed or ended.

    `code` is stable, kebab-case and fit for programs (`allocation-exhausted`); `sentence` names
    the things involved and is fit to be shown as it stands.
    """

    code: str
    sentence: str


class RefusedError(Exception):
    """A request that Dure understood and does not carry out; nothing has changed.

    `status` is the HTTP status that the API answers with: 400 for what can never be right,
    403 and 404 for what is not the caller's, 409 for what clashes with the present state.
    """

    def __init__(self, code: str, sentence: str, *, status: int = 400) -> None:
        super().__init__(sentence)
        self.reason = Reason(code, sentence)
        self.status = status


class NotFoundError(RefusedError):
    """No such thing, or not the caller's: the same answer, so that existence stays secret."""

    def __init__(self, kind: str, id_: object) -> None:
        named = str(id_)
        shown_id = named if named.isprintable() and len(named) <= 120 else shown(named)
        sentence = f"There is no {kind} {shown_id} that you may see."
        super().__init__("not-found", sentence, status=404)
