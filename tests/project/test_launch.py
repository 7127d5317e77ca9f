"""Laws of starting the training script."""

from __future__ import annotations

import json
import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import pytest

from benchkit.errors import ProjectError, UsageError
from benchkit.project.launch import Hardware, LaunchPlan, find_hardware, plan_launch
from benchkit.project.launchers import Machines

ROOT = Path(__file__).resolve().parents[2]
CPU_ONLY = Hardware(gpus=0, cores=8)
FOUR_GPUS = Hardware(gpus=4, cores=32)

# Says what every process was given, and that they are joined.
REPORTING_SCRIPT = """
import json, os, sys
from pathlib import Path
import torch
from accelerate import Accelerator

accelerator = Accelerator()
total = accelerator.reduce(torch.ones(()), reduction="sum")
Path(f"rank{accelerator.process_index}.json").write_text(json.dumps({
    "world": accelerator.num_processes,
    "joined": int(total),
    "arguments": sys.argv[1:],
    "threads": os.environ["OMP_NUM_THREADS"],
    "project": os.environ["BENCHKIT_PROJECT"],
    "cwd": os.getcwd(),
}))
accelerator.end_training()
"""


@pytest.fixture
def project(tmp_path: Path) -> Path:
    folder = tmp_path / "a project"
    folder.mkdir()
    (folder / "benchkit.toml").write_text('[project]\nid = "p"\nremote = "store"\n')
    (folder / "manage.py").write_bytes((ROOT / "manage.py").read_bytes())
    (folder / "TrainScript.py").write_text(REPORTING_SCRIPT)
    return folder


def command_of(plan: LaunchPlan) -> list[str]:
    """Return a plan's arguments between the interpreter and the script's own."""
    assert plan.command[0] == sys.executable
    return list(plan.command[1:])


def test_cpus_are_trained_on_with_standalone_torchrun(project: Path) -> None:
    plan = plan_launch(project, ["--epochs", "3"], hardware=CPU_ONLY, processes=2)
    assert command_of(plan) == [
        "-m", "torch.distributed.run", "--log-dir=/dev/null",
        "--standalone", "--local-addr=127.0.0.1", "--nproc-per-node=2",
        str(project / "TrainScript.py"), "--epochs", "3",
    ]  # fmt: skip
    assert dict(plan.variables) == {"BENCHKIT_PROJECT": str(project), "ACCELERATE_USE_CPU": "true"}
    assert plan.defaults == (("OMP_NUM_THREADS", "4"),)


def test_one_process_on_cpus_needs_no_launcher(project: Path) -> None:
    plan = plan_launch(project, ["--epochs", "3"], hardware=CPU_ONLY)
    assert command_of(plan) == [str(project / "TrainScript.py"), "--epochs", "3"]
    assert ("ACCELERATE_USE_CPU", "true") in plan.variables
    machines = Machines(count=2, rank=1, address="10.0.0.1")
    plan = plan_launch(project, [], hardware=CPU_ONLY, machines=machines)
    assert "torch.distributed.run" in command_of(plan)


@pytest.mark.parametrize(
    ("processes", "options"),
    [
        (1, ["--num_processes", "1", "--num_machines", "1"]),
        (3, ["--multi_gpu", "--log_dir", "/dev/null", "--num_processes", "3", "--num_machines", "1"]),
        (None, ["--multi_gpu", "--log_dir", "/dev/null", "--num_processes", "4", "--num_machines", "1"]),
    ],
)
def test_gpus_are_trained_on_with_accelerate(
    project: Path, processes: int | None, options: list[str]
) -> None:
    plan = plan_launch(project, [], hardware=FOUR_GPUS, processes=processes)
    assert dict(plan.variables) == {"BENCHKIT_PROJECT": str(project)}
    assert command_of(plan) == ["-m", "accelerate.commands.launch", *options, str(project / "TrainScript.py")]


def test_several_machines_meet_at_the_first_and_do_not_stand_alone(project: Path) -> None:
    machines = Machines(count=2, rank=1, address="10.0.0.1", port=4000)
    plan = plan_launch(project, [], hardware=CPU_ONLY, processes=2, machines=machines)
    assert command_of(plan)[:-1] == [
        "-m", "torch.distributed.run", "--log-dir=/dev/null",
        "--nnodes=2", "--node-rank=1", "--master-addr=10.0.0.1", "--master-port=4000", "--nproc-per-node=2",
    ]  # fmt: skip

    plan = plan_launch(project, [], hardware=FOUR_GPUS, machines=machines)
    assert command_of(plan)[:-1] == [
        "-m", "accelerate.commands.launch", "--multi_gpu", "--log_dir", "/dev/null",
        "--num_processes", "8", "--num_machines", "2",
        "--machine_rank", "1", "--main_process_ip", "10.0.0.1", "--main_process_port", "4000",
    ]  # fmt: skip


def test_machines_of_one_gpu_each_are_still_several_processes(project: Path) -> None:
    machines = Machines(count=2, rank=0, address="a")
    plan = plan_launch(project, [], hardware=Hardware(gpus=1, cores=2), machines=machines)
    assert command_of(plan)[2:7] == ["--multi_gpu", "--log_dir", "/dev/null", "--num_processes", "2"]


def test_cpu_leaves_the_gpus_alone(project: Path) -> None:
    plan = plan_launch(project, [], hardware=FOUR_GPUS, processes=8, cpu=True)
    assert command_of(plan)[5] == "--nproc-per-node=8"
    assert ("ACCELERATE_USE_CPU", "true") in plan.variables


@pytest.mark.parametrize(
    ("cores", "processes", "threads"), [(8, 1, "8"), (8, 3, "2"), (2, 2, "1"), (2, 8, "1")]
)
def test_the_processes_share_the_cores(project: Path, cores: int, processes: int, threads: str) -> None:
    plan = plan_launch(project, [], hardware=Hardware(gpus=0, cores=cores), processes=processes)
    assert dict(plan.defaults) == {"OMP_NUM_THREADS": threads}


@pytest.mark.parametrize("processes", [0, -1])
def test_fewer_than_one_process_is_refused(project: Path, processes: int) -> None:
    with pytest.raises(UsageError, match="is not at least 1"):
        plan_launch(project, [], hardware=CPU_ONLY, processes=processes)


def test_more_processes_than_gpus_are_refused_naming_the_way_out(project: Path) -> None:
    with pytest.raises(UsageError, match=r"--processes 5 is more than this machine's 4 GPU.*--cpu"):
        plan_launch(project, [], hardware=FOUR_GPUS, processes=5)


def test_a_project_without_a_script_is_an_error_naming_it(project: Path) -> None:
    (project / "TrainScript.py").unlink()
    with pytest.raises(ProjectError, match=r"TrainScript\.py is missing"):
        plan_launch(project, [], hardware=CPU_ONLY)


@pytest.mark.parametrize(
    ("machines", "reason"),
    [
        ({"count": 0}, "--nnodes 0"),
        ({"count": 2}, "needs --master-addr"),
        ({"count": 2, "rank": 2, "address": "a"}, r"--node-rank 2 is outside 0\.\.1"),
        ({"count": 2, "rank": -1, "address": "a"}, "--node-rank -1"),
        ({"count": 2, "address": "a", "port": 0}, "--master-port 0"),
        ({"count": 2, "address": "a", "port": 65536}, "--master-port 65536"),
    ],
)
def test_machines_that_cannot_meet_are_refused(machines: dict[str, object], reason: str) -> None:
    with pytest.raises(UsageError, match=reason):
        Machines(**machines)  # type: ignore[arg-type]


def test_the_command_shown_is_the_command_a_shell_would_run(project: Path) -> None:
    plan = plan_launch(project, ["--note", "two words"], hardware=CPU_ONLY, folder=project)
    words = shlex.split(str(plan))
    assert words == [
        f"BENCHKIT_PROJECT={project}",
        "ACCELERATE_USE_CPU=true",
        "OMP_NUM_THREADS=8",
        *plan.command,
    ]
    assert words[-3:] == ["TrainScript.py", "--note", "two words"]


def test_the_hardware_found_has_a_core() -> None:
    hardware = find_hardware()
    assert hardware.cores >= 1
    assert hardware.gpus >= 0


def environment(**changes: str) -> dict[str, str]:
    kept = {
        name: value
        for name, value in os.environ.items()
        if name not in ("ACCELERATE_USE_CPU", "OMP_NUM_THREADS", "BENCHKIT_PROJECT")
    }
    return kept | changes


def start(project: Path, arguments: Sequence[str], *, cwd: Path, **variables: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, str(project / "manage.py"), "train", *arguments],
        cwd=cwd,
        env=environment(**variables),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


@pytest.mark.processes
def test_two_processes_are_started_and_joined_and_get_the_arguments(project: Path, tmp_path: Path) -> None:
    cwd, temporary = tmp_path / "elsewhere", tmp_path / "temporary"
    cwd.mkdir()
    temporary.mkdir()
    variables = {"BENCHKIT_PROJECT": "/another/project", "TMPDIR": str(temporary)}
    arguments = ["--processes", "2", "--cpu", "--epochs", "3", "--note=a b", "word", "--", "--cpu", "--debug"]
    with start(project, arguments, cwd=cwd, **variables) as running:
        output, errors = running.communicate(timeout=120)
    assert running.returncode == 0, errors
    assert not list(temporary.iterdir())
    assert output.startswith(f"+ BENCHKIT_PROJECT='{project}' ")
    assert "-m torch.distributed.run --log-dir=/dev/null --standalone --local-addr=127.0.0.1 " in output
    reports = [json.loads((cwd / f"rank{rank}.json").read_text()) for rank in range(2)]
    threads = str(max(1, find_hardware().cores // 2))
    assert reports == 2 * [
        {
            "world": 2,
            "joined": 2,
            "arguments": ["--epochs", "3", "--note=a b", "word", "--cpu", "--debug"],
            "threads": threads,
            "project": str(project),
            "cwd": str(cwd),
        }
    ]


@pytest.mark.processes
def test_the_users_own_thread_number_is_kept(project: Path) -> None:
    with start(project, ["--cpu"], cwd=project, OMP_NUM_THREADS="7") as running:
        _, errors = running.communicate(timeout=120)
    assert running.returncode == 0, errors
    report = json.loads((project / "rank0.json").read_text())
    assert (report["world"], report["threads"]) == (1, "7")


@pytest.mark.processes
def test_a_script_that_fails_fails_the_command(project: Path) -> None:
    (project / "TrainScript.py").write_text("import sys; sys.exit(3)")
    with start(project, ["--processes", "2", "--cpu"], cwd=project) as running:
        running.communicate(timeout=120)
    assert running.returncode != 0


@pytest.mark.processes
@pytest.mark.parametrize("ending", [signal.SIGINT, signal.SIGTERM])
def test_ctrl_c_and_termination_reach_the_processes(project: Path, ending: signal.Signals) -> None:
    (project / "TrainScript.py").write_text(
        "import os, time; from pathlib import Path\n"
        "Path(f'{os.environ[\"RANK\"]}.pid').write_text(str(os.getpid()))\n"
        "time.sleep(300)\n"
    )
    with start(project, ["--processes", "2", "--cpu"], cwd=project) as running:
        wait_until(lambda: len([file for file in project.glob("*.pid") if file.read_text()]) == 2)
        pids = [int(file.read_text()) for file in project.glob("*.pid")]
        # A terminal signals its whole foreground group, whoever stops a job only the process it started.
        if ending is signal.SIGINT:
            os.killpg(running.pid, ending)
        else:
            os.kill(running.pid, ending)
        running.communicate(timeout=60)
    assert running.returncode != 0
    wait_until(lambda: not any(Path(f"/proc/{pid}").exists() for pid in pids))


def wait_until(condition: object, *, seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while not condition():  # type: ignore[operator]
        assert time.monotonic() < deadline, "it never happened"
        time.sleep(0.05)


CRASHING = """\
import os, sys, time
from pathlib import Path

import torch.distributed as dist

dist.init_process_group("gloo")
with Path(f"{os.environ['RANK']}.starts").open("a") as file:
    file.write(f"{os.getpid()}\\n")
dist.barrier()
if len(Path("0.starts").read_text().split()) <= int(sys.argv[1]) and os.environ["RANK"] == "1":
    time.sleep(0.2)
    os.kill(os.getpid(), 9)
dist.barrier()
dist.destroy_process_group()
"""


@pytest.mark.processes
@pytest.mark.parametrize(("crashes", "restarts", "starts"), [(2, 3, 3), (5, 1, 2), (0, 2, 1)])
def test_a_run_that_crashes_is_started_again_as_often_as_asked(
    project: Path, crashes: int, restarts: int, starts: int
) -> None:
    (project / "TrainScript.py").write_text(CRASHING)
    options = ["--processes", "2", "--cpu", "--restarts", str(restarts), str(crashes)]
    with start(project, options, cwd=project) as running:
        _, errors = running.communicate(timeout=240)
    assert (running.returncode == 0) == (crashes < starts), errors
    assert len((project / "0.starts").read_text().split()) == starts, errors
    assert errors.count("it is started again") == starts - 1


@pytest.mark.processes
@pytest.mark.parametrize("ending", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_a_run_that_is_ended_is_not_started_again(project: Path, ending: signal.Signals) -> None:
    (project / "TrainScript.py").write_text(
        "import os, time; from pathlib import Path\n"
        "Path(f'{os.environ[\"RANK\"]}-{os.getpid()}.pid').write_text(str(os.getpid()))\n"
        "time.sleep(300)\n"
    )
    with start(project, ["--processes", "2", "--cpu", "--restarts", "3"], cwd=project) as running:
        wait_until(lambda: len([file for file in project.glob("*.pid") if file.read_text()]) == 2)
        pids = [int(file.read_text()) for file in project.glob("*.pid")]
        if ending is signal.SIGINT:
            os.killpg(running.pid, ending)
        else:
            os.kill(running.pid, ending)
        running.communicate(timeout=60)
    assert running.returncode != 0
    wait_until(lambda: not any(Path(f"/proc/{pid}").exists() for pid in pids))
    assert len(list(project.glob("*.pid"))) == 2


@pytest.mark.processes
@pytest.mark.parametrize("early", [False, True])
def test_ranks_do_not_outlive_a_launcher_that_is_killed(project: Path, early: bool) -> None:
    told = "Path(f'{os.environ[\"RANK\"]}.pid').write_text(str(os.getpid()))\n"
    begun = "from benchkit import get_accelerator\nget_accelerator()\n"
    parts = [told, "time.sleep(2)\n", begun] if early else [begun, told]
    script = ["import os, time; from pathlib import Path\n", *parts, "time.sleep(300)\n"]
    (project / "TrainScript.py").write_text("".join(script))
    with start(project, ["--processes", "2", "--cpu"], cwd=project) as running:
        wait_until(lambda: len([file for file in project.glob("*.pid") if file.read_text()]) == 2)
        pids = [int(file.read_text()) for file in project.glob("*.pid")]
        running.kill()
        running.communicate(timeout=60)
    wait_until(lambda: not any(Path(f"/proc/{pid}").exists() for pid in pids))


def test_fewer_restarts_than_none_are_refused(project: Path) -> None:
    with start(project, ["--cpu", "--restarts", "-1"], cwd=project) as running:
        _, errors = running.communicate(timeout=60)
    assert running.returncode == UsageError.exit_code
    assert "--restarts" in errors
