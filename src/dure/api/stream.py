"""Server-sent events with exact resume: every event's id is the place to go on from.

A stream ends with an event `done`. One that ends without it was cut, by a lost connection or by the
limit on a stream's age: the reader asks again with Last-Event-ID and misses and repeats nothing.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from typing import Any, Final

from anyio import sleep
from fastapi import Response
from fastapi.sse import KEEPALIVE_COMMENT, format_sse_event
from starlette.responses import StreamingResponse

from dure import codec
from dure.errors import RefusedError

POLL_S: Final = 0.3
KEEPALIVE_S: Final = 15.0
AGE_S_MAX: Final = 300.0
"""Then the reader must come again, with a token that is still good."""
STREAMS_MAX: Final = 500
STREAMS_OF_PERSON_MAX: Final = 50


@dataclass(frozen=True, slots=True)
class Piece:
    """What was found at a place: (value, its id) pairs, the next place, whether all is told."""

    found: tuple[tuple[Any, str], ...]
    place: Any
    ended: bool


Look = Callable[[Any], Awaitable[Piece]]


class Streams:
    """How many streams each person has open; beyond the limits they are asked to come later."""

    def __init__(self) -> None:
        self.open: Counter[str] = Counter()

    async def answer(self, look: Look, place: Any, person: str, *, follow: bool) -> Response:
        """Stream what `look` finds from `place` on; to the end of all, or only what is there now.

        The first look is before the first byte, so that a refusal is a proper answer.
        """
        if self.open.total() >= STREAMS_MAX or self.open[person] >= STREAMS_OF_PERSON_MAX:
            raise RefusedError("too-many-streams", "Too many streams are open.", status=503)
        first = await look(place)
        return StreamingResponse(
            self._events(look, first, person, follow=follow),
            media_type="text/event-stream",
            headers={"Cache-Control": "no-store", "X-Accel-Buffering": "no"},
        )

    async def _events(
        self, look: Look, piece: Piece, person: str, *, follow: bool
    ) -> AsyncIterator[bytes]:
        self.open[person] += 1
        began = said = time.monotonic()
        try:
            while True:
                for value, id_ in piece.found:
                    yield format_sse_event(data_str=codec.encode_text(value), id=id_)
                    said = time.monotonic()
                if not piece.found:
                    if piece.ended or not follow:
                        yield format_sse_event(data_str="{}", event="done")
                        return
                    if time.monotonic() - said > KEEPALIVE_S:
                        yield KEEPALIVE_COMMENT
                        said = time.monotonic()
                    await sleep(POLL_S)
                if time.monotonic() - began > AGE_S_MAX:
                    return
                piece = await look(piece.place)
        finally:
            self.open[person] -= 1
