"""Real Slurm clusters on this machine, each with its own munged, slurmctld, slurmdbd and slurmds.

So have separate operators; only the database server is shared. No systemd is needed, only Debian's
packages and root, for fake GPUs are device nodes. All addresses are loopback.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

PROGRAMS = ("slurmctld", "slurmd", "slurmdbd", "munged", "mariadbd", "mariadb-install-db", "sbatch")
DEADLINE_S = 60
MODE_DEVICE = 0o600 | 0o020000  # S_IFCHR
NULL_DEVICE = os.makedev(1, 3)


def missing() -> str | None:
    """Why no cluster can be had here; None where one can."""
    where = f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin"
    lacking = [name for name in PROGRAMS if shutil.which(name, path=where) is None]
    if lacking:
        return f"no {', '.join(lacking)} (Debian: the packages that .ci/run installs)"
    return None if os.geteuid() == 0 else "fake GPUs are device nodes, which only root makes"


def until(look: Callable[[], object], what: str) -> None:
    end = time.monotonic() + DEADLINE_S
    while not look():
        assert time.monotonic() < end, f"waited too long for {what}"
        time.sleep(0.05)


def free_ports(count: int) -> int:
    """The first of so many free ports in a row, below the ephemeral ones.

    The search begins anywhere: another farm may be made on this machine at this moment.
    """
    begin = secrets.randbelow(200)
    for first in (21_000 + 50 * ((begin + step) % 200) for step in range(200)):
        with contextlib.ExitStack() as stack, contextlib.suppress(OSError):
            for port in range(first, first + count):
                probe = stack.enter_context(socket.socket())
                probe.bind(("127.0.0.1", port))
            return first
    raise AssertionError("no ports are free")


def run(*words: object, env: dict[str, str] | None = None, check: bool = True) -> str:
    environment = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "LANG": "C.UTF-8"} | (env or {})
    done = subprocess.run(
        [str(word) for word in words],
        env=environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
        timeout=DEADLINE_S,
    )
    assert not check or done.returncode == 0, f"{words}: {done.stderr or done.stdout}"
    return done.stdout


@contextlib.contextmanager
def farm_folder() -> Iterator[Path]:
    """A folder for daemons. They are killed and it is removed at the end, also where this process
    itself is killed: a shell of its own waits for that.

    It is not one of pytest's: MariaDB runs as another user, and a socket's path is short.
    """
    folder = Path(tempfile.mkdtemp(prefix="dure-slurm-"))
    folder.chmod(0o755)
    # By its environment, not its words: else it would be among what it kills.
    script = 'read -r _; kill -9 $(cat "$FARM"/*/run/*.pid); pkill -9 -f "$FARM"; rm -rf "$FARM"'
    reaper = subprocess.Popen(
        ["/bin/sh", "-c", script],
        env=os.environ | {"FARM": str(folder)},
        stdin=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        yield folder
    finally:
        reaper.communicate(timeout=DEADLINE_S)


class Database:
    """One MariaDB for all clusters."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.port = free_ports(1)
        self.password = secrets.token_hex(8)
        folder.mkdir()
        shutil.chown(folder, "mysql", "mysql")
        data = folder / "data"
        run(
            "mariadb-install-db", "--no-defaults", "--user=mysql", f"--datadir={data}",
            "--auth-root-authentication-method=socket", "--skip-test-db",
        )  # fmt: skip
        self.process = subprocess.Popen(
            [
                "/usr/sbin/mariadbd", "--no-defaults", "--user=mysql", f"--datadir={data}",
                "--bind-address=127.0.0.1", f"--port={self.port}", f"--socket={folder / 's'}",
                "--innodb-buffer-pool-size=64M", "--innodb-lock-wait-timeout=900",
                "--innodb-flush-log-at-trx-commit=2", "--innodb-log-file-size=16M",
            ],
            stdin=subprocess.DEVNULL,
            stdout=(folder / "log").open("wb"),
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )  # fmt: skip
        until(self._answers, "MariaDB")
        self._ask(
            f"CREATE USER slurm@'127.0.0.1' IDENTIFIED BY '{self.password}'; "
            "GRANT ALL ON *.* TO slurm@'127.0.0.1';"
        )

    def _ask(self, statement: str, *, check: bool = True) -> str:
        where = f"--socket={self.folder / 's'}"
        return run("mariadb", "--no-defaults", where, "-e", statement, check=check)

    def _answers(self) -> bool:
        assert self.process.poll() is None, (self.folder / "log").read_text()
        return "1" in self._ask("SELECT 1", check=False)

    def stop(self) -> None:
        self.process.terminate()
        self.process.wait(DEADLINE_S)


class Cluster:
    """One cluster: `nodes` nodes of `gpus` fake GPUs of a type, one partition `gpu`."""

    def __init__(self, folder: Path, database: Database, name: str, gpu_type: str) -> None:
        self.folder, self.database, self.name, self.gpu_type = folder, database, name, gpu_type
        self.nodes, self.gpus = 3, 4
        self.port = free_ports(2 + self.nodes)
        self.conf = folder / "slurm.conf"
        self.env = {"SLURM_CONF": str(self.conf)}
        for inside in ("state", "run", "log", "gpu", *(f"spool/{n}" for n in self.node_names)):
            (folder / inside).mkdir(parents=True)
        for gpu in range(self.gpus):
            os.mknod(folder / "gpu" / f"gpu{gpu}", MODE_DEVICE, NULL_DEVICE)
        self._write("munge.key", secrets.token_bytes(128))
        self._write("slurm.conf", self._slurm_conf().encode())
        self._write("slurmdbd.conf", self._slurmdbd_conf().encode())
        gres = f"NodeName={name}-n[1-{self.nodes}] Name=gpu Type={gpu_type} "
        self._write("gres.conf", f"{gres}File={folder}/gpu/gpu[0-{self.gpus - 1}]\n".encode())

    @property
    def node_names(self) -> list[str]:
        return [f"{self.name}-n{number}" for number in range(1, self.nodes + 1)]

    def _write(self, name: str, content: bytes) -> None:
        path = self.folder / name
        path.touch(mode=0o600)
        path.write_bytes(content)

    def _slurm_conf(self) -> str:
        d, first = self.folder, self.port + 2
        return f"""\
ClusterName={self.name}
SlurmctldHost=localhost(127.0.0.1)
SlurmctldPort={self.port}
SlurmctldPidFile={d}/run/slurmctld.pid
SlurmctldLogFile={d}/log/slurmctld.log
SlurmdPidFile={d}/run/slurmd.%n.pid
SlurmdLogFile={d}/log/slurmd.%n.log
SlurmdSpoolDir={d}/spool/%n
StateSaveLocation={d}/state
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket={d}/run/munge.sock
CredType=cred/munge
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
MpiDefault=none
SwitchType=switch/none
CommunicationParameters=NoInAddrAny,NoCtldInAddrAny
ReturnToService=2
SlurmctldTimeout=30
SlurmdTimeout=10
KillWait=3
MinJobAge=300
SchedulerType=sched/backfill
SchedulerParameters=bf_interval=2,sched_interval=2,batch_sched_delay=0,sched_min_interval=0
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
SlurmdParameters=config_overrides
GresTypes=gpu
DefMemPerCPU=1000
JobRequeue=1
AccountingStorageType=accounting_storage/slurmdbd
AccountingStorageEnforce=associations,limits,qos
AccountingStorageHost=127.0.0.1
AccountingStoragePort={self.port + 1}
AccountingStorageTRES=gres/gpu,gres/gpu:{self.gpu_type}
AccountingStoragePass={d}/run/munge.sock
NodeName={self.name}-n[1-{self.nodes}] NodeHostname={socket.gethostname()} NodeAddr=127.0.0.1 \
Port=[{first}-{first + self.nodes - 1}] CPUs=64 Boards=1 SocketsPerBoard=1 CoresPerSocket=64 \
ThreadsPerCore=1 RealMemory=1000000 Gres=gpu:{self.gpu_type}:{self.gpus} State=UNKNOWN
PartitionName=gpu Nodes=ALL Default=YES MaxTime=INFINITE State=UP
"""

    def _slurmdbd_conf(self) -> str:
        d = self.folder
        return f"""\
AuthType=auth/munge
AuthInfo=socket={d}/run/munge.sock
DbdHost=localhost
DbdAddr=127.0.0.1
DbdPort={self.port + 1}
SlurmUser=root
PidFile={d}/run/slurmdbd.pid
LogFile={d}/log/slurmdbd.log
StorageType=accounting_storage/mysql
StorageHost=127.0.0.1
StoragePort={self.database.port}
StorageUser=slurm
StoragePass={self.database.password}
StorageLoc=slurm_{self.name}
CommitDelay=1
"""

    def start(self) -> Cluster:
        """Starts everything; returns when all nodes are idle."""
        run_ = self.folder / "run"
        run(
            "munged", "--force", f"--key-file={self.folder}/munge.key",
            f"--socket={run_}/munge.sock", f"--pid-file={run_}/munged.pid",
            f"--log-file={self.folder}/log/munged.log", f"--seed-file={run_}/munged.seed",
            "--num-threads=2",
        )  # fmt: skip
        self.start_dbd()
        self.ask("sacctmgr", "-i", "-Q", "add", "cluster", self.name, check=False)
        self.ask("slurmctld", "-i")
        for node in self.node_names:
            self.ask("slurmd", "-N", node)
        self.ask("sacctmgr", "-i", "-Q", "add", "account", "national", "second")
        self.ask("sacctmgr", "-i", "-Q", "add", "user", "root", "account=national,second")
        until(self._is_idle, f"the nodes of {self.name}")
        return self

    def _is_idle(self) -> bool:
        states = self.ask("sinfo", "-h", "-N", "-o", "%t", check=False).split()
        return states == ["idle"] * self.nodes

    def start_dbd(self) -> None:
        self.ask("slurmdbd")

        def listens() -> bool:
            with socket.socket() as probe:
                return probe.connect_ex(("127.0.0.1", self.port + 1)) == 0

        until(listens, "slurmdbd")

    def ask(self, *words: object, check: bool = True) -> str:
        """Runs one of Slurm's commands against this cluster."""
        return run(*words, env=self.env, check=check)

    def signal(self, name: str, number: signal.Signals) -> None:
        """Signals one of its daemons by its pid file; returns when it is gone."""
        path = self.folder / "run" / f"{name}.pid"
        pid = int(path.read_text())
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, number)
        until(lambda: not _alive(pid), f"the end of {name}")
        path.unlink(missing_ok=True)

    def stop(self) -> None:
        """Ends its jobs and its daemons. What a daemon does not do in time is done for it."""
        self.ask("scancel", "--user=root", check=False)
        names = [f"slurmd.{node}" for node in self.node_names]
        for name in (*names, "slurmctld", "slurmdbd", "munged"):
            if (self.folder / "run" / f"{name}.pid").exists():
                self.signal(name, signal.SIGKILL)

    @contextlib.contextmanager
    def without_controller(self) -> Iterator[None]:
        """The controller is killed, and started again at the end."""
        self.signal("slurmctld", signal.SIGKILL)
        try:
            yield
        finally:
            self.ask("slurmctld")
            until(lambda: "UP" in self.ask("scontrol", "ping", check=False), "slurmctld")
            until(lambda: "unk" not in self.ask("sinfo", "-h", "-N", "-o", "%t"), "the nodes")

    @contextlib.contextmanager
    def without_accounting(self) -> Iterator[None]:
        """The accounting daemon is killed, and started again at the end."""
        self.signal("slurmdbd", signal.SIGKILL)
        try:
            yield
        finally:
            self.start_dbd()

    @contextlib.contextmanager
    def node_lost(self, node: str) -> Iterator[None]:
        """The node's daemon is killed with all that it runs; it comes back at the end."""
        stepds = self.ask("pgrep", "-f", f"slurmstepd.*{node}", check=False).split()
        self.signal(f"slurmd.{node}", signal.SIGKILL)
        for pid in stepds:
            run("pkill", "-KILL", "-P", pid, check=False)
            with contextlib.suppress(ProcessLookupError):
                os.kill(int(pid), signal.SIGKILL)
        try:
            yield
        finally:
            self.ask("slurmd", "-N", node)
            state = ("sinfo", "-h", "-n", node, "-o", "%t")
            until(lambda: self.ask(*state).split()[:1] in (["idle"], ["mix"]), node)


def _alive(pid: int) -> bool:
    try:
        with open(f"/proc/{pid}/stat", encoding="utf-8", errors="replace") as file:  # noqa: PTH123
            return file.read().rpartition(")")[2].split()[0] not in {"Z", "X"}
    except OSError:
        return False
