"""The engines: which command line each is given, in pure code."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from benchkit.errors import UsageError
from benchkit.project.engines import (
    Container,
    Mount,
    build_command,
    distribute,
    image_name,
    inspect_command,
    kill_command,
    process_command,
    run_command,
    split_command,
)

CONTAINER = Container(
    name="benchkit-1",
    image="localhost/p:1",
    command=("python", "train.py", "--name", "a b; rm -rf /", "$HOME"),
    variables={"BENCHKIT_CLOUD": "true", "EMPTY": ""},
    inherited=["AWS_SECRET_ACCESS_KEY"],
    mounts=[
        Mount(source=Path("/home/me/my model"), target="/opt/ml/model"),
        Mount(source=Path('/a,b/"c":d'), target="/x", read_only=True),
    ],
    gpus=True,
)
SHARED = [
    "--env", "BENCHKIT_CLOUD=true", "--env", "EMPTY=", "--env", "AWS_SECRET_ACCESS_KEY",
    "--mount", "type=bind,source=/home/me/my model,target=/opt/ml/model",
    "--mount", 'type=bind,"source=/a,b/""c"":d",target=/x,readonly',
    "--entrypoint", "python", "localhost/p:1", "train.py", "--name", "a b; rm -rf /", "$HOME",
]  # fmt: skip


def test_docker_is_given_each_word_by_itself() -> None:
    start = ["docker", "run", "--rm", "--name", "benchkit-1", "--ipc=host", "--init", "--gpus", "all"]
    assert list(run_command("docker", CONTAINER)) == start + SHARED


def test_podman_is_given_each_word_by_itself() -> None:
    start = ["podman", "run", "--rm", "--name", "benchkit-1", "--ipc=host"]
    start += ["--security-opt", "label=disable", "--device", "nvidia.com/gpu=all"]
    assert list(run_command("podman", CONTAINER)) == start + SHARED


@pytest.mark.parametrize("engine", ["docker", "podman"])
def test_without_gpus_none_are_asked_for(engine) -> None:
    words = " ".join(run_command(engine, Container(name="n", image="i", command=("sh",))))
    assert "gpu" not in words
    assert words.endswith("--entrypoint sh i")


@pytest.mark.parametrize("engine", ["docker", "podman"])
def test_images_are_built_looked_for_and_containers_killed_by_name(engine) -> None:
    built = build_command(engine, image="i:1", context=Path("/a b"), dockerfile=Path("/a b/Dockerfile"))
    assert built == (engine, "build", "--tag", "i:1", "--file", "/a b/Dockerfile", "/a b")
    assert inspect_command(engine, "i:1") == (
        engine,
        "image",
        "inspect",
        "--format",
        "{{json .Config.Env}}",
        "i:1",
    )
    assert kill_command(engine, "n") == (engine, "kill", "n")


def test_an_image_is_named_after_its_package() -> None:
    assert image_name("ab" * 32) == "localhost/benchkit-package:abababababababab"


@pytest.mark.parametrize(
    ("words", "command"),
    [
        (["python train.py"], ("python", "train.py")),
        (["python train.py --name 'a b' \"c \\\" d\" e\\ f ''"],
         ("python", "train.py", "--name", "a b", 'c " d', "e f", "")),
        (["python", "a b.py", "--x"], ("python", "a b.py", "--x")),
        (["python train.py $HOME *.py; true"], ("python", "train.py", "$HOME", "*.py;", "true")),
    ],
)  # fmt: skip
def test_quotes_in_a_command_survive_and_no_shell_reads_it(words, command) -> None:
    assert split_command(words) == command


@pytest.mark.parametrize("words", [[], [""], ["  "], ["''"], ["python 'a"]])
def test_a_command_that_cannot_be_run_is_refused(words) -> None:
    with pytest.raises(UsageError):
        split_command(words or [""])


def test_a_job_without_a_container_has_the_python_that_runs_this() -> None:
    assert process_command(("python", "a.py")) == (sys.executable, "a.py")
    assert process_command(("python3", "-c", "x")) == (sys.executable, "-c", "x")
    assert process_command(("sh", "python")) == ("sh", "python")


def test_several_processes_are_started_by_a_launcher() -> None:
    command = ("python", "TrainScript.py", "--lr", "1")
    assert distribute(command, 1, gpus=True) == command
    assert distribute(command, 2, gpus=False) == (
        *(
            "python",
            "-m",
            "torch.distributed.run",
            "--log-dir=/dev/null",
            "--standalone",
            "--local-addr=127.0.0.1",
            "--nproc-per-node=2",
        ),
        *command[1:],
    )
    assert distribute(command, 4, gpus=True) == (
        *("python", "-m", "accelerate.commands.launch", "--multi_gpu", "--log_dir", "/dev/null"),
        *("--num_processes", "4", "--num_machines", "1"),
        *command[1:],
    )
    for refused in (("sh", "a.sh"), ("python", "-m", "x"), ("python",)):
        with pytest.raises(UsageError, match="--processes 2 goes with"):
            distribute(refused, 2, gpus=False)
    with pytest.raises(UsageError, match="not at least 1"):
        distribute(command, 0, gpus=False)
