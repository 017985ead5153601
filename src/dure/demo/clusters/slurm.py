"""A Slurm cluster with accounting on this machine: its own munged, slurmctld, slurmdbd and slurmds.

So have separate operators; only the database server is shared. No systemd is needed, only Debian's
packages and root: the GPUs are pretended ones, for which Slurm wants device nodes.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import signal
import socket
import stat
import subprocess
import sys
from pathlib import Path
from typing import Final, Self

import psutil  # type: ignore[import-untyped]  # its types are a separate package

from dure.demo.clusters.processes import free_ports, run, until, write_private
from dure.demo.clusters.reaper import environment, kill_trees, processes_of, words

_PROGRAMS: Final = (
    *("slurmctld", "slurmd", "slurmdbd", "munged", "mariadbd", "mariadb-install-db", "sbatch"),
)
_INSTALL: Final = (
    "apt-get install --yes --no-install-recommends "
    "slurmctld slurmd slurmdbd slurm-client munge mariadb-server"
)
_ACCOUNTS: Final = ("national", "second")
_PARTITION: Final = "gpu"


def missing() -> tuple[str, str] | None:
    """What keeps a cluster from being had here, and the command that mends it (Debian's)."""
    where = f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin"
    lacking = [name for name in _PROGRAMS if shutil.which(name, path=where) is None]
    if lacking:
        return f"no Slurm ({', '.join(lacking)})", _INSTALL
    if os.geteuid() != 0:
        return "no root for Slurm's pretended GPUs, which are device nodes", "sudo -s"
    return None


class Database:
    """One MariaDB for the accounting of all clusters; it runs from here on."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.port = free_ports(1)
        self.password = secrets.token_hex(8)
        folder.mkdir()
        shutil.chown(folder, "mysql", "mysql")
        where = ("--no-defaults", "--user=mysql", f"--datadir={folder / 'data'}")
        run(
            (
                *("mariadb-install-db", *where, "--skip-test-db"),
                "--auth-root-authentication-method=socket",
            ),
            {},
        )
        with (folder / "log").open("wb") as log:
            self.process = subprocess.Popen(  # noqa: S603  words of ours
                [
                    *("/usr/sbin/mariadbd", *where, "--bind-address=127.0.0.1"),
                    *(f"--port={self.port}", f"--socket={folder / 's'}"),
                    *("--innodb-buffer-pool-size=64M", "--innodb-log-file-size=16M"),
                    # as slurmdbd asks for (Slurm's accounting guide)
                    *("--innodb-lock-wait-timeout=900", "--innodb-flush-log-at-trx-commit=2"),
                ],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        until(self._answers, "MariaDB")
        self._ask(
            f"CREATE USER slurm@'127.0.0.1' IDENTIFIED BY '{self.password}'; "
            "GRANT ALL ON *.* TO slurm@'127.0.0.1';"
        )

    def _ask(self, statement: str, *, check: bool = True) -> str:
        where = f"--socket={self.folder / 's'}"
        return run(("mariadb", "--no-defaults", where, "-e", statement), {}, check=check)

    def _answers(self) -> bool:
        return "1" in self._ask("SELECT 1", check=False)


class SlurmCluster:
    """`nodes` nodes of `gpus` pretended GPUs of a type, in one partition `gpu`.

    Implements `dure.federation.RealCluster`.
    """

    def __init__(
        self, folder: Path, database: Database, name: str, gpu_type: str, *, nodes: int, gpus: int
    ) -> None:
        self.folder, self.database, self.name, self.gpu_type = folder, database, name, gpu_type
        self.nodes, self.gpus = nodes, gpus
        self.port = free_ports(2 + nodes)
        self.conf = folder / "slurm.conf"
        self.env = {"SLURM_CONF": str(self.conf)}

    @property
    def node_names(self) -> list[str]:
        """In the order of their numbers in Dure."""
        return [f"{self.name}-n{number}" for number in range(1, self.nodes + 1)]

    def start(self) -> Self:
        """Starts everything; returns when all nodes are idle. Raises RefusedError."""
        self._write_files()
        run_, log = self.folder / "run", self.folder / "log"
        self.ask(
            *("munged", "--force", "--num-threads=2", f"--key-file={self.folder}/munge.key"),
            *(f"--socket={run_}/munge.sock", f"--pid-file={run_}/munged.pid"),
            *(f"--log-file={log}/munged.log", f"--seed-file={run_}/munged.seed"),
        )
        self.start_accounting()
        self.ask("sacctmgr", "-i", "-Q", "add", "cluster", self.name, check=False)
        self.ask("slurmctld", "-i")
        for node in self.node_names:
            self.ask("slurmd", "-N", node)
        self.ask("sacctmgr", "-i", "-Q", "add", "account", *_ACCOUNTS)
        accounts = f"account={','.join(_ACCOUNTS)}"
        self.ask("sacctmgr", "-i", "-Q", "add", "user", "root", accounts)
        until(self._is_idle, f"all nodes of {self.name}")
        return self

    def _is_idle(self) -> bool:
        states = self.ask("sinfo", "-h", "-N", "-o", "%t", check=False).split()
        return states == ["idle"] * self.nodes

    def start_accounting(self) -> None:
        """Starts slurmdbd; returns when it answers."""
        self.ask("slurmdbd")

        def listens() -> bool:
            with socket.socket() as probe:
                return probe.connect_ex(("127.0.0.1", self.port + 1)) == 0

        until(listens, "slurmdbd")

    def ask(self, *words: object, check: bool = True) -> str:
        """Runs one of Slurm's commands against this cluster."""
        return run(words, self.env, check=check)

    def configured(self, pool_id: str) -> dict[str, object]:
        """See `RealCluster.configured`."""
        path = f"{Path(sys.executable).parent}:/usr/local/bin:/usr/bin:/bin"
        engine = {"slurm_conf": str(self.conf), "account": _ACCOUNTS[0], "path": path}
        pool = {"pool_id": pool_id, "partition": _PARTITION, "gpu_type": self.gpu_type}
        return {"engine": {"type": "slurm", **engine}, "pools": [pool], "interval_s": 1}

    def nodes_of(self, name: str) -> list[str]:
        """The nodes of the running job of that name, by rank."""
        nodes = self.ask("squeue", "-h", f"--name={name}", "--states=R", "-o", "%N").strip()
        return self.ask("scontrol", "show", "hostnames", nodes).split() if nodes else []

    def lose_node(self, attempt_id: str, rank: int) -> None:
        """See `RealCluster.lose_node`."""
        self.kill_node(self.nodes_of(attempt_id)[rank])

    def kill_node(self, node: str) -> None:
        """Kills a node's daemon, what stands by its jobs, and they: it reports nothing any more."""
        self.signal(f"slurmd.{node}", signal.SIGKILL)
        kill_trees(self._stepds(node))

    def _stepds(self, node: str) -> set[psutil.Process]:
        """What stands by a node's jobs: nothing says whose it is but the jobs' environment."""
        found = set()
        for process in processes_of(self.folder):
            if environment(process).get("SLURMD_NODENAME") == node:
                with contextlib.suppress(psutil.Error):
                    found |= {p for p in process.parents() if p.name().startswith("slurmstepd")}
        return found

    def signal(self, daemon: str, number: signal.Signals) -> None:
        """Signals one of its daemons by its pid file; returns when it is gone."""
        path = self.folder / "run" / f"{daemon}.pid"
        process = psutil.Process(int(path.read_text()))
        with contextlib.suppress(psutil.Error):
            process.send_signal(number)
        until(lambda: not words(process), f"the end of {daemon}")
        path.unlink(missing_ok=True)

    def lose(self) -> None:
        """See `RealCluster.lose`."""
        kill_trees(processes_of(self.folder))

    def gpu_s_by_job(self) -> dict[str, int]:
        """GPU-seconds of every run in Slurm's own accounting, summed by the job's name."""
        fields = "JobName,ElapsedRaw,AllocTRES"
        rows = self.ask("sacct", "--duplicates", "-X", "-n", "-P", "-S", "now-1day", "-o", fields)
        found: dict[str, int] = {}
        for name, elapsed_s, tres in (row.split("|") for row in rows.splitlines()):
            given = dict(part.split("=") for part in tres.split(",") if part)
            found[name] = found.get(name, 0) + int(elapsed_s) * int(given.get("gres/gpu", 0))
        return found

    def _write_files(self) -> None:
        for inside in ("state", "run", "log", "gpu", *(f"spool/{n}" for n in self.node_names)):
            (self.folder / inside).mkdir(parents=True)
        null = os.stat(os.devnull).st_rdev  # noqa: PTH116  a device, not a path
        for gpu in range(self.gpus):
            os.mknod(self.folder / "gpu" / f"gpu{gpu}", 0o600 | stat.S_IFCHR, null)
        gres = f"NodeName={self.name}-n[1-{self.nodes}] Name=gpu Type={self.gpu_type} "
        files = f"File={self.folder}/gpu/gpu[0-{self.gpus - 1}]\n"
        for name, content in (
            ("munge.key", secrets.token_bytes(128)),
            ("slurm.conf", self._slurm_conf().encode()),
            ("slurmdbd.conf", self._slurmdbd_conf().encode()),
            ("gres.conf", (gres + files).encode()),
        ):
            write_private(self.folder / name, content)

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
MaxJobCount=30000
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
PartitionName={_PARTITION} Nodes=ALL Default=YES MaxTime=INFINITE State=UP
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
StorageLoc=slurm_{self.name.replace("-", "_")}
CommitDelay=1
"""
