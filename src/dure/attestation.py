"""What a site signs of each attempt that has ended, so that nobody can later say it said otherwise.

The statement is one line of JSON with sorted keys: whose attempt, when it started and ended, how.
The signature is Ed25519 (RFC 8032) over its UTF-8 bytes, by the key that the cluster's agent
enrolled once. Both are kept with the attempt as they came, so an auditor needs only the public key.
"""

from __future__ import annotations

import json
from base64 import b64decode
from binascii import Error as NotBase64Error
from collections.abc import Iterable
from typing import Final

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from dure.agent.wire import AttemptReport

PUBLIC_KEY_BYTES: Final = 32


def statement(cluster: str, report: AttemptReport) -> str:
    """What is signed of the report of an attempt that has ended."""
    said = {
        "attempt": report.attempt_id,
        "cluster": cluster,
        "end": report.end,
        "ended_ms": report.ended_ms,
        "engine_id": report.engine_id,
        "exit_code": report.exit_code,
        "started_ms": report.started_ms,
        "v": 1,
    }
    return json.dumps(said, sort_keys=True, separators=(",", ":"), ensure_ascii=False)


def attestation(cluster: str, report: AttemptReport) -> str | None:
    """Statement and signature, to be kept with the attempt; None for what is not signed."""
    if report.signature is None:
        return None
    return json.dumps([statement(cluster, report), report.signature], ensure_ascii=False)


def is_signed(cluster: str, report: AttemptReport, public_key: str) -> bool:
    """Whether the owner of a key, in base64, has signed this report."""
    return report.signature is not None and _verifies(
        public_key, report.signature, statement(cluster, report)
    )


def fault(kept: str, attempt: tuple[str, str, int, int], public_keys: Iterable[str]) -> str | None:
    """What is wrong with the attestation of an attempt, given its id, cluster, GPUs and metered
    GPU-milliseconds; None where it is in order.
    """
    id_, cluster, gpus, gpu_ms = attempt
    try:
        said_text, signature = json.loads(kept)
        said = json.loads(said_text)
        named = said["attempt"], said["cluster"]
        started_ms, ended_ms = said["started_ms"], said["ended_ms"]
        ran_ms = None if None in (started_ms, ended_ms) else max(0, ended_ms - started_ms)
    except (ValueError, TypeError, KeyError):
        return "is not one"
    if not any(_verifies(key, signature, said_text) for key in public_keys):
        return "carries no signature by a key that its cluster has enrolled"
    if named != (id_, cluster):
        return f"is of attempt {named[0]} on {named[1]}"
    if ran_ms is not None and gpu_ms > ran_ms * gpus:
        return f"says that it ran for {ran_ms:,} ms, less than what was metered"
    return None


def is_public_key(text: str) -> bool:
    """Whether this is a public key of Ed25519 in base64."""
    try:
        raw = b64decode(text, validate=True)
        Ed25519PublicKey.from_public_bytes(raw)
    except (NotBase64Error, ValueError):
        return False
    return len(raw) == PUBLIC_KEY_BYTES


def _verifies(public_key: str, signature: str, said: str) -> bool:
    try:
        key = Ed25519PublicKey.from_public_bytes(b64decode(public_key, validate=True))
        key.verify(b64decode(signature, validate=True), said.encode())
    except (InvalidSignature, NotBase64Error, ValueError, TypeError):
        return False
    return True
