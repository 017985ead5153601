"""Where a job writes: its log, and the files that its directives name."""

from __future__ import annotations

import contextlib
import os
import re
from pathlib import Path


class Tee:
    """A pipe whose content goes to a stream of this process and, unless it is None, to a file."""

    def __init__(self, stream: int, file: int | None) -> None:
        self.source, self.into = os.pipe()
        self.targets = [stream] + ([] if file is None else [file])

    def __enter__(self) -> Tee:  # noqa: PYI034  Self is of Python 3.11
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self.source)
        for target in self.targets[1:]:
            os.close(target)

    def copy(self) -> bool:
        """What is there now; False at its end."""
        data = os.read(self.source, 65_536)
        for target in list(self.targets):
            rest = memoryview(data)
            try:
                while rest:
                    rest = rest[os.write(target, rest) :]
            except OSError as error:  # a full disk ends a file, not the job
                if target == self.targets[0]:
                    raise
                os.write(2, f"dure: the output file ends here: {error}\n".encode())
                self.targets.remove(target)
        return bool(data)


def opened(pattern: str, env: dict[str, str], *, append: bool) -> int | None:
    """An output file, in a folder that may have to be made; None for /dev/null."""
    path = filled(pattern, env)
    if path == os.devnull:
        return None
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    how = os.O_WRONLY | os.O_CREAT | os.O_APPEND
    return os.open(path, how if append else how | os.O_TRUNC, 0o644)


def filled(pattern: str, env: dict[str, str]) -> str:
    """A file name with its % symbols replaced. Source: sbatch(1), "filename pattern"."""
    if "\\" in pattern:
        return pattern.replace("\\", "")
    number, step = env.get("SLURM_JOB_ID", "0"), env.get("SLURM_STEP_ID", "batch")
    name = env.get("SLURMD_NODENAME", "")
    values = {
        "A": env.get("SLURM_ARRAY_JOB_ID", number),
        "a": env.get("SLURM_ARRAY_TASK_ID", "4294967294"),  # what Slurm writes outside an array
        "J": number if step == "batch" else f"{number}.{step}",
        "j": number,
        "N": name if name.startswith("127.") else name.partition(".")[0],
        "n": env.get("SLURM_NODEID", "0"),
        "s": step,
        "t": env.get("SLURM_PROCID", "0"),
        "u": env.get("SLURM_JOB_USER", ""),
        "x": env.get("SLURM_JOB_NAME", "").replace("/", "_"),
        "%": "%",
    }

    def one(match: re.Match[str]) -> str:
        value = values.get(match[2])
        if value is None:
            return match[0]
        return value.zfill(int(match[1])) if match[1] and value.isdigit() else value

    return re.sub(r"%(\d{0,2})(.)", one, pattern)


class Shown:
    """A file that grows, copied to a stream; with a label, each line behind the task's number."""

    def __init__(self, path: Path, stream: int, label: str | None) -> None:
        self.path, self.stream, self.label = path, stream, label
        self.place, self.rest = 0, b""

    def copy(self, *, last: bool = False) -> None:
        """What is new."""
        with contextlib.suppress(FileNotFoundError), self.path.open("rb") as file:
            file.seek(self.place)
            data = file.read()
            self.place += len(data)
            if self.label is not None:
                *lines, self.rest = (self.rest + data).split(b"\n")
                lines += [self.rest] if last and self.rest else []
                data = b"".join(f"{self.label}: ".encode() + line + b"\n" for line in lines)
            with contextlib.suppress(BrokenPipeError):
                while data:
                    data = data[os.write(self.stream, data) :]
