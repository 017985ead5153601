"""The process that stands by one node of one attempt, and outlives the agent that started it.

It runs the command once, enforces walltime, lease and stop requests, ends everything that the
command left behind, and writes down how it ended. Everything between it and the engine goes through
small files in the attempt's folder, so either side may die and start again:

    attempt/launch.json   argument vectors and environments, secrets among them; gone once all began
    attempt/lease         its mtime is the boot-time instant until which the attempt may go on
    attempt/stop.json     the first cause to stop, whoever gave it
    attempt/RANK/lock     held (flock) for as long as this process lives
    attempt/RANK/shim.json   a shim took this rank; no other ever will
    attempt/RANK/begun.json  the command runs
    attempt/RANK/exit.json   how it ended; durable, and believed once the lock is free
    attempt/RANK/log      both its streams

Run as `shim.py DIR RANK`, or as `shim.py --serve`, which forks a shim for each line of its
standard input: an interpreter start for each node would cost more than the rest of a short job.
Only the standard library is imported, for the same reason.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import fcntl
import json
import os
import select
import signal
import stat
import sys
import time
import traceback
from pathlib import Path
from typing import Any, Final, NoReturn

LAUNCH: Final = "launch.json"
LEASE: Final = "lease"
STOP: Final = "stop.json"
LOCK: Final = "lock"
SHIM: Final = "shim.json"
BEGUN: Final = "begun.json"
EXIT: Final = "exit.json"
LOG: Final = "log"

COMPLETED: Final = "completed"
ERRED: Final = "erred"
STOPPED: Final = "stopped"
WALLTIME_REACHED: Final = "walltime-reached"
START_FAILED: Final = "start-failed"

ASKED: Final = "asked"
PEER: Final = "peer"
LEASE_ENDED: Final = "lease"
MACHINE: Final = "machine"
CLUSTER: Final = "cluster"
WALLTIME: Final = "walltime"

CAUSES: Final = {
    ASKED: "stopped on request",
    PEER: "stopped because another node of the job failed",
    LEASE_ENDED: "stopped because its lease ended without news from the control plane",
    MACHINE: "stopped because its machine is being shut down",
    CLUSTER: "stopped by the cluster that it ran on",
}

CONTROL_BYTES_MAX: Final = 64 * 1024
LAUNCH_BYTES_MAX: Final = 256 * 1024**2
SPOILT: Final = frozenset(
    {errno.EACCES, errno.EPERM, errno.ELOOP, errno.ENOTDIR, errno.EISDIR, errno.ENXIO}
)
"""What the system says of a control file or folder that a job has taken away or changed."""

_GANG_POLL_S: Final = 0.01
_LOCK_TRIES: Final = 50
_LOCK_WAIT_S: Final = 0.02

# A link in the log's place is not followed, and a pipe not waited for.
_APPEND: Final = (
    os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
)

# linux/prctl.h
_PR_SET_PDEATHSIG: Final = 1
PR_SET_CHILD_SUBREAPER: Final = 36


def boot_ms() -> int:
    """Milliseconds since the machine started: one clock for all its processes, never set back."""
    return time.clock_gettime_ns(time.CLOCK_BOOTTIME) // 1_000_000


def start_ticks(pid: int) -> int | None:
    """When a process started, in clock ticks since boot; None when there is no such process.

    Field 22 of /proc/PID/stat (proc(5)). With the pid it names a process for good: a zombie, which
    runs nothing any more, counts as gone.
    """
    try:
        text = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None
    fields = text.rpartition(")")[2].split()
    return None if fields[0] in {"Z", "X"} else int(fields[19])


class SpoiltError(Exception):
    """A control file that only a job can have left as it is."""


def read_whole(path: Path, bytes_max: int = CONTROL_BYTES_MAX) -> bytes | None:
    """A regular file's content, or None when there is no such file. Never waits, follows no link.

    Raises:
        SpoiltError: something else is in its place, or too much, or it may not be read.
        OSError: what may pass, too many open files say.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError:
        return None
    except OSError as error:
        if error.errno in SPOILT:
            raise SpoiltError(path.name) from error
        raise
    try:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode) or status.st_size > bytes_max:
            raise SpoiltError(path.name)
        with os.fdopen(descriptor, "rb", closefd=False) as file:
            return file.read(bytes_max)
    finally:
        os.close(descriptor)


def read_json(path: Path, bytes_max: int = CONTROL_BYTES_MAX) -> dict[str, Any] | None:
    """A file's object, or None when there is no such file. Raises as `read_whole`."""
    content = read_whole(path, bytes_max)
    if content is None:
        return None
    try:
        found = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise SpoiltError(path.name) from error
    if not isinstance(found, dict):
        raise SpoiltError(path.name)
    return found


def write_once(path: Path, value: dict[str, Any], *, durable: bool = False) -> bool:
    """Writes a file whole, readable by its owner only, and only the first time.

    Returns False, and changes nothing, when it stood already.
    """
    temporary = _write_beside(path, value, durable=durable)
    try:
        os.link(temporary, path)
    except FileExistsError:
        return False
    finally:
        temporary.unlink()
    if durable:
        sync_folder(path.parent)
    return True


def write_over(path: Path, value: dict[str, Any], *, durable: bool = True) -> None:
    """Writes a file whole, in place of whatever stood there."""
    _write_beside(path, value, durable=durable).replace(path)
    if durable:
        sync_folder(path.parent)


def _write_beside(path: Path, value: dict[str, Any], *, durable: bool) -> Path:
    # The host too: on Slurm the ranks of a gang share the folder.
    temporary = path.with_name(f".{path.name}.{os.uname().nodename}.{os.getpid()}")
    temporary.unlink(missing_ok=True)  # whatever it is, a pipe say, it is not written to
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        json.dump(value, file)
        if durable:
            file.flush()
            os.fsync(file.fileno())
    return temporary


def sync_folder(folder: Path) -> None:
    """Makes the names in a folder survive a loss of power."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def try_lock(path: Path) -> int | None:
    """The open lock file, held for this process alone, or None when another holds it."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        return None
    return descriptor


class Shim:
    """One node of one attempt, from taking its rank to writing how it ended."""

    poll_s = 0.2
    """How often it looks for a cause to stop."""

    def __init__(self, attempt: Path, rank: int) -> None:
        self.attempt = attempt
        self.rank = rank
        self.place = attempt / str(rank)
        self.started_ms: int | None = None
        self.started_s = 0.0
        self.machine_stops = False
        self.libc = ctypes.CDLL(None, use_errno=True)

    def run(self) -> None:
        """Everything, once: a second shim for the same rank finds it taken and leaves."""
        lock = self._take_lock()
        if lock is None or (self.place / EXIT).exists():
            return
        launch = read_json(self.attempt / LAUNCH, LAUNCH_BYTES_MAX)
        mine = {"pid": os.getpid(), "start_ticks": start_ticks(os.getpid())}
        if not write_once(self.place / SHIM, mine):
            return
        if launch is None:
            self._write_exit(START_FAILED, None, "the launch file is gone")
            return
        signal.signal(signal.SIGTERM, self._on_sigterm)
        # Orphans of the command become children of this process: none can leave its tree.
        self.libc.prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
        if cause := self._wait_for_gang(len(launch["environments"])):
            self._write_exit(STOPPED, None, f"{CAUSES[cause]}, before it started")
            return
        self._begin(launch)

    def _take_lock(self) -> int | None:
        """The engine looks at the lock for an instant at a time, so a few tries are enough."""
        for _ in range(_LOCK_TRIES):
            if (descriptor := try_lock(self.place / LOCK)) is not None:
                return descriptor
            time.sleep(_LOCK_WAIT_S)
        return None

    def _on_sigterm(self, *_: object) -> None:
        self.machine_stops = True

    def _wait_for_gang(self, world: int) -> str | None:
        """Returns when every rank has its shim, or the cause for which none may start."""
        missing = [self.attempt / str(rank) / SHIM for rank in range(world)]
        while True:
            if cause := self._cause_to_stop():
                return cause
            missing = [path for path in missing if not path.exists()]
            if not missing:
                return None
            time.sleep(_GANG_POLL_S)

    def _cause_to_stop(self) -> str | None:
        if self.machine_stops:
            write_once(self.attempt / STOP, {"cause": MACHINE})
            return MACHINE
        if (stop := read_json(self.attempt / STOP)) is not None:
            return str(stop["cause"])
        try:
            lease_ms = (self.attempt / LEASE).stat().st_mtime_ns // 1_000_000
        except FileNotFoundError:  # the site's disk was emptied: nobody accounts for this any more
            return LEASE_ENDED
        return LEASE_ENDED if boot_ms() >= lease_ms else None

    def _begin(self, launch: dict[str, Any]) -> None:
        try:
            os.chdir(launch["folder"])
        except OSError as error:
            self._write_exit(START_FAILED, None, f"the job's folder cannot be entered: {error}")
            return
        try:
            log = os.open(self.place / LOG, _APPEND, 0o600)
        except OSError as error:
            self._write_exit(START_FAILED, None, f"its log cannot be opened: {error}")
            return
        self.started_ms = time.time_ns() // 1_000_000
        self.started_s = time.monotonic()
        shim = os.getpid()
        child = os.fork()
        if child == 0:
            self._become(launch, log, shim)
        # On both sides of the fork: whichever is first, a signal to the group finds it.
        with contextlib.suppress(PermissionError, ProcessLookupError):
            os.setpgid(child, child)
        write_once(
            self.place / BEGUN,
            {"pid": child, "start_ticks": start_ticks(child), "started_ms": self.started_ms},
        )
        self._drop_secrets(len(launch.pop("environments")))
        status, cause = self._stand_by(child, launch)
        self._record(status, cause)

    def _become(self, launch: dict[str, Any], log: int, shim: int) -> NoReturn:
        """The child's side: turns into the user's command, with a shell's exit codes if it cannot.

        The kernel kills it when its shim dies, so that a node that failed is silent at once.
        """
        program, environment = launch["argv"][0], launch["environments"][self.rank]
        code = 126
        try:
            os.setpgid(0, 0)
            self.libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
            if os.getppid() != shim:
                os._exit(128 + signal.SIGKILL)
            os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
            os.dup2(log, 1)
            os.dup2(log, 2)
            for ignored in (signal.SIGPIPE, signal.SIGXFSZ):  # Python ignores them
                signal.signal(ignored, signal.SIG_DFL)
            os.execvpe(program, launch["argv"], environment)  # noqa: S606  an argument vector is meant
        except (FileNotFoundError, NotADirectoryError):
            code, why = 127, "there is no such program"
        except OSError as error:
            why = os.strerror(error.errno or 0)
        except ValueError as error:
            why = str(error)
        os.write(2, f"dure: cannot run {program!a}: {why}\n".encode())
        os._exit(code)

    def _drop_secrets(self, world: int) -> None:
        """The last rank to begin removes the launch file; every rank has read its own part."""
        if all((self.attempt / str(rank) / BEGUN).exists() for rank in range(world)):
            (self.attempt / LAUNCH).unlink(missing_ok=True)

    def _stand_by(self, child: int, launch: dict[str, Any]) -> tuple[int, str | None]:
        """Waits for the command's end, or brings it about when there is cause to; then ends
        everything that is left of it.

        Returns its wait status, and the cause for which it was given notice, if any.
        """
        walltime_at = self.started_s + launch["walltime_s"]
        cause: str | None = None
        ends = select.poll()
        ends.register(os.pidfd_open(child), select.POLLIN)
        while (status := self._reap(child)) is None:
            now = time.monotonic()
            cause = WALLTIME if now >= walltime_at else self._cause_to_stop()
            if cause is not None:
                self._notify(child, signal.Signals[launch["notice"]])
                status = self._give_grace(child, now + launch["grace_s"])
                break
            ends.poll(max(1, min(self.poll_s, walltime_at - now) * 1_000))
        return self._end_the_rest(child, status), cause

    @staticmethod
    def _reap(child: int) -> int | None:
        """Takes the ends of all that ended; the command's own wait status, if it is among them.

        Raises ChildProcessError when nothing is left.
        """
        while True:
            pid, status = os.waitpid(-1, os.WNOHANG)
            if pid == child:
                return status
            if pid == 0:
                return None

    def _notify(self, child: int, notice: signal.Signals) -> None:
        """Signals each process below this one, once: the command's group in one call, so that none
        of it is missed, and the others one by one.
        """
        others = [pid for pid, group in _below(_by_parent()) if group != child]
        for send, number in ((os.killpg, child), *((os.kill, pid) for pid in others)):
            with contextlib.suppress(ProcessLookupError, PermissionError):
                send(number, notice)

    def _give_grace(self, child: int, kill_at: float) -> int | None:
        """Waits for all that runs, not for the command alone: a shell that dies of the notice must
        not cost the program below it its checkpoint.

        Returns the command's wait status; None when it outlasted its grace.
        """
        status: int | None = None
        # Blocked, the signal waits for sigtimedwait, even one that came before it.
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGCHLD})
        while (left_s := kill_at - time.monotonic()) > 0:
            try:
                found = self._reap(child)
            except ChildProcessError:
                break
            if found is not None:
                status = found
            else:
                signal.sigtimedwait({signal.SIGCHLD}, left_s)
        return status

    @staticmethod
    def _end_the_rest(child: int, status: int | None) -> int:
        """Kills what runs; returns when nothing is left: until then the attempt has not ended.

        As parents die their children come here, level by level: only a child's pid, and a group
        that is seen below, cannot have become another's.

        `status` is the command's wait status where it was taken already; returns it in any case.
        """
        while True:
            try:
                pid, found = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                assert status is not None, "a child ends but once"
                return status
            if pid == child:
                status = found
            elif pid == 0:
                by_parent = _by_parent()
                if any(group == child for _, group in _below(by_parent)):
                    with contextlib.suppress(ProcessLookupError):
                        os.killpg(child, signal.SIGKILL)
                for process, _ in by_parent.get(os.getpid(), ()):
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(process, signal.SIGKILL)
                time.sleep(0.005)

    def _record(self, status: int, cause: str | None) -> None:
        code = os.waitstatus_to_exitcode(status)
        exit_code = code if code >= 0 else 128 - code
        # Only what the end and the exit code do not say themselves.
        words = [CAUSES[cause]] if cause in {PEER, LEASE_ENDED, MACHINE, CLUSTER} else []
        if code < 0:
            words.append(f"ended by {_signal_name(-code)}")
        end = COMPLETED if code == 0 else ERRED
        if cause is not None:
            end = WALLTIME_REACHED if cause == WALLTIME else STOPPED
        self._write_exit(end, exit_code, "; ".join(words))

    def _write_exit(self, end: str, exit_code: int | None, detail: str) -> None:
        ended_ms = time.time_ns() // 1_000_000
        if self.started_ms is not None:  # a clock that was set in between changes no length
            ended_ms = self.started_ms + int((time.monotonic() - self.started_s) * 1_000)
        value = {
            "end": end,
            "exit_code": exit_code,
            "started_ms": self.started_ms,
            "ended_ms": ended_ms,
            "detail": detail,
        }
        # Over what the command may have put there: the engine reads it once this process is gone.
        write_over(self.place / EXIT, value)
        if end not in {COMPLETED, STOPPED}:
            write_once(self.attempt / STOP, {"cause": PEER, "rank": self.rank})


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:  # a real-time signal between the first and the last
        return f"signal {number}"


def _by_parent() -> dict[int, list[tuple[int, int]]]:
    """The children of every process, as (pid, process group), by the parent's pid.

    From /proc: fields 4 and 5 of each stat file are the parent and the group (proc(5)).
    """
    children: dict[int, list[tuple[int, int]]] = {}
    for name in os.listdir("/proc"):  # noqa: PTH208  start-up and speed: names are all it needs
        if not name.isdigit():
            continue
        try:
            text = Path(f"/proc/{name}/stat").read_text(encoding="utf-8", errors="replace")
        except OSError:
            continue
        parent, group = map(int, text.rpartition(")")[2].split()[1:3])
        children.setdefault(parent, []).append((int(name), group))
    return children


def _below(by_parent: dict[int, list[tuple[int, int]]]) -> list[tuple[int, int]]:
    """Each process below this one, as (pid, process group)."""
    found = list(by_parent.get(os.getpid(), ()))
    for pid, _ in found:  # grows as it goes
        found.extend(by_parent.get(pid, ()))
    return found


def _serve() -> None:
    """Forks a shim for each `["DIR", RANK]` line; ends when the engine's side of the pipe closes.

    The shims are in sessions of their own and go on without it.
    """
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # the kernel reaps them
    for line in sys.stdin:
        folder, rank = json.loads(line)
        if os.fork() == 0:
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            os.setsid()
            os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
            try:
                Shim(Path(folder), int(rank)).run()
            except BaseException:  # noqa: BLE001  a forked child must never run on in the server
                traceback.print_exc()
            finally:
                sys.stderr.flush()
                os._exit(0)


if __name__ == "__main__":
    if sys.argv[1:] == ["--serve"]:
        _serve()
    else:
        Shim(Path(sys.argv[1]).absolute(), int(sys.argv[2])).run()
