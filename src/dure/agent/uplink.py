"""The agent's calls to the control plane. It always calls; nobody calls it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import BinaryIO, Final, Protocol, TypeVar, cast
from urllib.parse import quote, urlsplit

import httpx
from pydantic import ValidationError

from dure import codec
from dure.agent.wire import FileEntry, KeyOffer, Manifest, SyncReply, SyncRequest
from dure.errors import RefusedError
from dure.text import shown
from dure.views import Upload

LOG_BYTES_MAX: Final = 256 * 1024
"""Bytes of a log in one call."""

T = TypeVar("T")

_CHUNK_BYTES: Final = 1024 * 1024
_JSON: Final = {"Content-Type": "application/json"}
_TIMEOUT: Final = httpx.Timeout(30.0, connect=5.0)
_UNSURE: Final = frozenset({401, 403, 408, 425, 429})
"""Refusals that may pass: a token being renewed, too many calls."""


class UplinkError(Exception):
    """The call was not answered, or not yet: ask again later. Nothing is known."""


class UplinkRefusedError(Exception):
    """The control plane understood and said no; the same call will get the same answer."""


class Uplink(Protocol):
    """What an agent asks of the control plane. Every call may raise the two errors above."""

    def enrol(self, offer: KeyOffer) -> None:
        """Names the key that the site signs with. The same again changes nothing."""
        ...

    def sync(self, request: SyncRequest) -> SyncReply:
        """States what is, and hears what should be."""
        ...

    def secrets(self, attempt_id: str) -> dict[str, str]:
        """The attempt's secrets, by the names of their variables."""
        ...

    def fetch(self, attempt_id: str, entry: FileEntry) -> Iterator[bytes]:
        """The content of one of the attempt's input files, unchecked."""
        ...

    def manifest(self, attempt_id: str, sha256: str) -> Manifest:
        """A manifest that the attempt starts from."""
        ...

    def register(self, attempt_id: str, manifest: Manifest) -> Upload:
        """Registers what the attempt left; the answer names the contents to be brought first."""
        ...

    def put(self, attempt_id: str, entry: FileEntry, content: BinaryIO) -> None:
        """Hands over a file's content. Raises OSError where the file has become shorter."""
        ...

    def push_log(self, attempt_id: str, rank: int, offset: int, content: bytes) -> int:
        """Appends to a rank's log at `offset`; the size that the control plane now has."""
        ...


class HttpUplink:
    """Implements `Uplink` over HTTP. Safe to use from several threads."""

    def __init__(
        self, url: str, token: str, *, transport: httpx.BaseTransport | None = None
    ) -> None:
        host = urlsplit(url).hostname or ""
        self._client = httpx.Client(
            base_url=f"{url.rstrip('/')}/v1/agent",
            headers={"Authorization": f"Bearer {token}"},
            timeout=_TIMEOUT,
            transport=transport,
            # A site's proxy is the environment's to name, but never on the way to this machine.
            trust_env=host not in {"localhost", "127.0.0.1", "::1"},
        )

    def close(self) -> None:
        """Closes the connections."""
        self._client.close()

    def enrol(self, offer: KeyOffer) -> None:
        """See `Uplink.enrol`."""
        self._call("PUT", "/key", content=codec.encode(offer), headers=_JSON)

    def sync(self, request: SyncRequest) -> SyncReply:
        """See `Uplink.sync`."""
        response = self._call("POST", "/sync", content=codec.encode(request), headers=_JSON)
        return _decoded(SyncReply, response, "sync")

    def secrets(self, attempt_id: str) -> dict[str, str]:
        """See `Uplink.secrets`. Errors never quote what was received."""
        response = self._call("GET", f"/attempts/{quote(attempt_id, safe='')}/secrets")
        try:
            found = codec.adapter(dict[str, str]).validate_json(response.content, strict=True)
        except ValidationError:
            raise UplinkError("the reply to secrets is not an object of strings") from None
        return cast("dict[str, str]", found)

    def fetch(self, attempt_id: str, entry: FileEntry) -> Iterator[bytes]:
        """See `Uplink.fetch`."""
        try:
            with self._client.stream("GET", _blob(attempt_id, entry.sha256)) as response:
                _check(response)
                yield from response.iter_bytes(_CHUNK_BYTES)
        except httpx.HTTPError as error:
            raise UplinkError(_said(error)) from error

    def manifest(self, attempt_id: str, sha256: str) -> Manifest:
        """See `Uplink.manifest`."""
        path = f"/attempts/{quote(attempt_id, safe='')}/manifests/{sha256}"
        return _decoded(Manifest, self._call("GET", path), "manifests")

    def register(self, attempt_id: str, manifest: Manifest) -> Upload:
        """See `Uplink.register`."""
        response = self._call(
            "POST",
            f"/attempts/{quote(attempt_id, safe='')}/manifests",
            content=codec.encode(manifest),
            headers=_JSON,
        )
        return _decoded(Upload, response, "manifests")

    def put(self, attempt_id: str, entry: FileEntry, content: BinaryIO) -> None:
        """See `Uplink.put`."""
        self._call(
            "PUT",
            _blob(attempt_id, entry.sha256),
            content=_exactly(content, entry),
            headers={"Content-Length": str(entry.size)},
        )

    def push_log(self, attempt_id: str, rank: int, offset: int, content: bytes) -> int:
        """See `Uplink.push_log`."""
        response = self._call(
            "PUT",
            f"/attempts/{quote(attempt_id, safe='')}/logs/{rank}",
            content=content,
            params={"offset": str(offset)},
        )
        try:
            return int(response.json()["size"])
        except (json.JSONDecodeError, KeyError, TypeError, ValueError) as error:
            raise UplinkError("the reply to a log is not a size") from error

    def _call(
        self,
        method: str,
        path: str,
        *,
        content: bytes | Iterator[bytes] | None = None,
        headers: dict[str, str] | None = None,
        params: dict[str, str] | None = None,
    ) -> httpx.Response:
        try:
            response = self._client.request(
                method, path, content=content, headers=headers, params=params
            )
        except httpx.HTTPError as error:
            raise UplinkError(_said(error)) from error
        _check(response)
        return response


def _decoded(type_: type[T], response: httpx.Response, what: str) -> T:
    try:
        return codec.decode(type_, response.content, what="reply")
    except RefusedError as error:
        raise UplinkError(f"the reply to {what} is not one: {error.reason.sentence}") from error


def _exactly(content: BinaryIO, entry: FileEntry) -> Iterator[bytes]:
    """As many bytes as were announced: the file may have changed since."""
    left = entry.size
    while left:
        chunk = content.read(min(_CHUNK_BYTES, left))
        if not chunk:
            raise OSError(f"{shown(entry.path)} has become shorter")
        left -= len(chunk)
        yield chunk


def _blob(attempt_id: str, sha256: str) -> str:
    return f"/attempts/{quote(attempt_id, safe='')}/blobs/{sha256}"


def _check(response: httpx.Response) -> None:
    """A redirect is a refusal too: an agent goes only where its operator sent it."""
    status = response.status_code
    if response.is_success:
        return
    sentence = f"{response.request.method} {response.request.url.path} was answered {status}"
    if response.is_server_error or status in _UNSURE:
        raise UplinkError(sentence)
    raise UplinkRefusedError(sentence)


def _said(error: httpx.HTTPError) -> str:
    return f"{type(error).__name__}: {error}"
