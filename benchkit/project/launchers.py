"""The launchers that start a script in several processes: torchrun on CPUs, Accelerate's on GPUs.

Each is given nowhere to log: it would leave an empty folder in the temporary one, and all that a rank prints
goes to the terminal.
"""

from __future__ import annotations

from dataclasses import dataclass

from benchkit.errors import UsageError

DEFAULT_PORT = 29500
_NOWHERE = "/dev/null"


@dataclass(frozen=True, slots=True, kw_only=True)
class Machines:
    """The machines that train together, and which of them this is.

    Attributes:
        count: How many machines.
        rank: This machine among them, from 0.
        address: The host name or address of machine 0; needed from two machines on.
        port: A free TCP port of machine 0.
    """

    count: int = 1
    rank: int = 0
    address: str | None = None
    port: int = DEFAULT_PORT

    def __post_init__(self) -> None:
        if self.count < 1:
            raise UsageError(f"--nnodes {self.count} is not at least 1")
        if not 0 <= self.rank < self.count:
            raise UsageError(f"--node-rank {self.rank} is outside 0..{self.count - 1}")
        if not 0 < self.port < 1 << 16:
            raise UsageError(f"--master-port {self.port} is outside 1..65535")
        if self.count > 1 and not self.address:
            raise UsageError(f"--nnodes {self.count} needs --master-addr, the address of machine 0")


THIS_MACHINE = Machines()


def torchrun(processes: int, machines: Machines = THIS_MACHINE) -> list[str]:
    """Return what stands between Python and a script that torchrun starts so often on each machine."""
    module = ["-m", "torch.distributed.run", f"--log-dir={_NOWHERE}"]
    if machines.count == 1:
        # Else it would look for this machine's name in the network, and wait long where that has no address.
        return [*module, "--standalone", "--local-addr=127.0.0.1", f"--nproc-per-node={processes}"]
    return [
        *module,
        f"--nnodes={machines.count}",
        f"--node-rank={machines.rank}",
        f"--master-addr={machines.address}",
        f"--master-port={machines.port}",
        f"--nproc-per-node={processes}",
    ]


def accelerate(processes: int, machines: Machines = THIS_MACHINE) -> list[str]:
    """Return what stands between Python and a script that Accelerate starts so often on each machine."""
    total = processes * machines.count
    options = ["--multi_gpu", "--log_dir", _NOWHERE] if total > 1 else []
    options += ["--num_processes", str(total), "--num_machines", str(machines.count)]
    if machines.count > 1:
        options += ["--machine_rank", str(machines.rank)]
        options += ["--main_process_ip", str(machines.address), "--main_process_port", str(machines.port)]
    return ["-m", "accelerate.commands.launch", *options]
