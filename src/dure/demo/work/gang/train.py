# ruff: noqa: INP001, T201  (a job's folder is no package, and its log is its standard output)
"""One model, trained by several nodes together: data-parallel, over plain TCP, with a checkpoint.

Every rank works on its part of each batch; the gradients are summed over all ranks (all-reduce), so
all take the same step. The ranks find each other by MASTER_ADDR, MASTER_PORT, WORLD_SIZE and RANK,
as under torchrun. Rank 0 writes a checkpoint after every epoch, and on SIGTERM at once; a later
attempt goes on from it.
"""

import json
import os
import signal
import socket
import sys
import time
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from sklearn.datasets import load_digits  # type: ignore[import-untyped]  # it ships no types

Vector = NDArray[np.float32]

RANK, WORLD = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
MASTER = (os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"]))
CHECKPOINT = Path(os.environ["DURE_CHECKPOINT_DIR"], "state.npz")
EPOCHS = int(os.environ.get("EPOCHS", "40"))
FIRST_PACE_S = float(os.environ.get("FIRST_PACE_S", "0"))
"""How long an epoch of the first attempt takes at least: a real one takes minutes, and this one is
over before anybody can break a node."""

PIXELS, HIDDEN, CLASSES = 64, 64, 10
SHAPES = [(PIXELS, HIDDEN), (HIDDEN,), (HIDDEN, CLASSES), (CLASSES,)]
BATCH, RATE, MOMENTUM = 32, 0.1, 0.9  # the batch is of each rank
MEET_S = 60.0


class Ranks:
    """All ranks of the gang. Rank 0 listens, the others connect to it."""

    def __init__(self) -> None:
        self.peers: list[socket.socket] = []
        if RANK == 0:
            with socket.create_server(MASTER) as server:
                server.settimeout(MEET_S)
                self.peers = [server.accept()[0] for _ in range(WORLD - 1)]
        else:
            self.peers = [_connect()]
        for peer in self.peers:
            peer.settimeout(MEET_S)
            peer.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def sum(self, mine: Vector) -> Vector:
        """The sum over all ranks, the same everywhere. Raises OSError when one is gone."""
        if RANK == 0:
            total = mine.copy()
            for peer in self.peers:
                total += _receive(peer, mine)
            for peer in self.peers:
                peer.sendall(total.tobytes())
            return total
        self.peers[0].sendall(mine.tobytes())
        return _receive(self.peers[0], mine)


def _connect() -> socket.socket:
    deadline = time.monotonic() + MEET_S
    while True:
        try:
            return socket.create_connection(MASTER, timeout=MEET_S)
        except ConnectionRefusedError:  # rank 0 does not listen yet
            if time.monotonic() > deadline:
                raise
            time.sleep(0.05)


def _receive(peer: socket.socket, like: Vector) -> Vector:
    got = bytearray()
    while len(got) < like.nbytes:
        if not (piece := peer.recv(like.nbytes - len(got))):
            raise ConnectionError("another rank is gone")
        got += piece
    return np.frombuffer(got, np.float32)


def weights_of(flat: Vector) -> list[Vector]:
    """The flat vector's parts, in the shapes of the layers; views of it."""
    sizes = np.cumsum([int(np.prod(shape)) for shape in SHAPES])[:-1]
    return [part.reshape(s) for part, s in zip(np.split(flat, sizes), SHAPES, strict=True)]


def gradient(flat: Vector, x: Vector, y: NDArray[np.int64]) -> tuple[float, float, Vector]:
    """Summed loss, number of right answers, and summed gradient of the loss, over these images."""
    w1, b1, w2, b2 = weights_of(flat)
    hidden = np.maximum(x @ w1 + b1, 0)
    scores = hidden @ w2 + b2
    scores -= scores.max(axis=1, keepdims=True)
    likely = np.exp(scores) / np.exp(scores).sum(axis=1, keepdims=True)
    rows = np.arange(len(y))
    loss, right = -np.log(likely[rows, y] + 1e-9).sum(), (likely.argmax(axis=1) == y).sum()
    likely[rows, y] -= 1
    back = (likely @ w2.T) * (hidden > 0)
    parts = [x.T @ back, back.sum(axis=0), hidden.T @ likely, likely.sum(axis=0)]
    return float(loss), float(right), np.concatenate([part.ravel() for part in parts])


def load(size: int) -> tuple[int, Vector, Vector]:
    """The step to go on with, the weights and their momentum; rank 0's count."""
    if RANK == 0 and CHECKPOINT.exists():
        with np.load(CHECKPOINT) as state:
            return int(state["step"]), state["weights"], state["momentum"]
    start = np.random.default_rng(0).normal(0, 0.1, size).astype(np.float32)
    return 0, start, np.zeros(size, np.float32)


def save(step: int, weights: Vector, momentum: Vector) -> None:
    """Write the checkpoint whole or not at all."""
    if RANK == 0:
        draft = CHECKPOINT.with_name("draft.npz")
        np.savez(draft, step=step, weights=weights, momentum=momentum)
        draft.replace(CHECKPOINT)


def begin(ranks: Ranks) -> tuple[int, Vector, Vector]:
    """What `load` says on rank 0, on every rank: only its folder need hold the checkpoint."""
    step, weights, momentum = load(sum(int(np.prod(shape)) for shape in SHAPES))
    mine = np.concatenate([weights, momentum, [step]]).astype(np.float32)
    state = ranks.sum(mine if RANK == 0 else np.zeros_like(mine))
    weights, momentum = np.split(state[:-1], 2)
    return int(state[-1]), weights, momentum


def train(ranks: Ranks, noticed: list[int]) -> None:
    """Train to the last epoch, or to the notice."""
    images, labels = load_digits(return_X_y=True)
    order = np.random.default_rng(0).permutation(len(labels))
    x, y = (images[order] / 16).astype(np.float32), labels[order]
    cut, batch = len(y) * 3 // 4, BATCH * WORLD
    per_epoch = cut // batch
    step, weights, momentum = begin(ranks)
    origin = f"resumed from epoch {step // per_epoch}" if step else "started anew"
    print(f"rank {RANK} of {WORLD}: {origin}")
    pace_s = FIRST_PACE_S if os.environ["DURE_ATTEMPT_NUMBER"] == "1" else 0.0
    began, loss = time.monotonic(), 0.0
    while step < EPOCHS * per_epoch:
        epoch, within = divmod(step, per_epoch)
        shuffled = np.random.default_rng(epoch).permutation(cut)
        mine = shuffled[within * batch :][:batch][RANK::WORLD]
        part, _, slope = gradient(weights, x[mine], y[mine])
        total = ranks.sum(np.concatenate([slope, [part, len(noticed)]]).astype(np.float32))
        momentum = MOMENTUM * momentum - RATE / batch * total[:-2]
        weights, loss, step = weights + momentum, loss + float(total[-2]), step + 1
        stop = total[-1] > 0  # all ranks learn of the notice in the same step
        if stop or step % per_epoch == 0:
            save(step, weights, momentum)
        if stop:
            print(f"rank {RANK}: notice; checkpoint of step {step} written")
            return
        if step % per_epoch == 0:
            time.sleep(max(0.0, pace_s - (time.monotonic() - began)))
            if RANK == 0:
                mean = loss / (per_epoch * batch)
                print(f"epoch {step // per_epoch}: loss {mean:.4f}, checkpoint written")
            began, loss = time.monotonic(), 0.0
    if RANK == 0:
        report(weights, x[cut:], y[cut:])


def report(weights: Vector, x: Vector, y: NDArray[np.int64]) -> None:
    """Test the model on images that it has not seen, and write down how it did."""
    loss, right, _ = gradient(weights, x, y)
    result = {"loss": loss / len(y), "accuracy": right / len(y), "epochs": EPOCHS}
    print(f"loss {result['loss']:.4f}, accuracy {result['accuracy']:.4f} on {len(y)} unseen images")
    Path(os.environ["DURE_OUTPUTS_DIR"], "result.json").write_text(json.dumps(result))


def main() -> int:
    """Meet the other ranks and train with them. Returns the exit code."""
    noticed: list[int] = []
    signal.signal(signal.SIGTERM, lambda number, _: noticed.append(number))
    try:
        train(Ranks(), noticed)
    except OSError as error:
        print(f"rank {RANK}: {error}; the last checkpoint stands")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
