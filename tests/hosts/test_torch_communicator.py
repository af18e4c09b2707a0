"""`fusedopt.torch.Communicator`: processes over gloo are the ranks of a sharded optimizer."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from datetime import timedelta
from pathlib import Path
from typing import Any

import fusedopt as fo
import numpy as np
import pytest
import ranks

torch = pytest.importorskip("torch")
if not (torch.distributed.is_available() and torch.distributed.is_gloo_available()):
    pytest.skip("this PyTorch is built without gloo", allow_module_level=True)

import fusedopt.torch  # noqa: E402
import torch.distributed as dist  # noqa: E402

HERE = Path(__file__).parent

# It leaves without the exit's destructors; test_distributed.py has the reason.
RANK = """
import os, sys
import fusedopt as fo
import fusedopt.torch
import ranks
import torch
import torch.distributed as dist

what, rank, size, port, path = sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), sys.argv[4], sys.argv[5]
torch.set_num_threads(1)
fo.set_num_threads(1)
dist.init_process_group("gloo", f"tcp://127.0.0.1:{port}", rank=rank, world_size=size)
if what == "trains":
    tensors = {name: torch.from_numpy(w) for name, w in ranks.variables().items()}
    optimizer = fo.Sharded(ranks.new(), fusedopt.torch.Communicator())
    optimizer.build(tensors)
    for step in range(4):
        gradients = ranks.gradients(rank, step).items()
        optimizer.apply({name: torch.from_numpy(g) for name, g in gradients})
    found = ranks.digest(w.numpy() for w in tensors.values())
    optimizer.save(f"{path}/state")
elif what == "some":  # ranks 2 and 0 of three make a group, in which they are 1 and 0
    group = dist.new_group([2, 0])
    try:
        communicator = fusedopt.torch.Communicator(group)
        w = torch.zeros(5000)
        optimizer = fo.Sharded(fo.SGD(1.0), communicator)
        optimizer.build([w])
        optimizer.apply([torch.full((5000,), rank + 1.0)])
        found = f"{communicator!r} {w.unique().tolist()}"
    except ValueError as error:
        found = str(error)
else:
    optimizer = fo.Sharded(fo.SGD(1.0), fusedopt.torch.Communicator())
    optimizer.build([torch.zeros(5000)])
    if rank == 1:
        os._exit(0)
    try:
        optimizer.apply([torch.ones(5000)])
        found = "no error"
    except RuntimeError as error:
        found = f"RuntimeError: {error}"
with open(f"{path}/{rank}.txt", "w") as file:
    file.write(found)
dist.barrier() if what != "ends" else None
os._exit(0)
"""


def findings(what: str, size: int, folder: Path) -> list[str]:
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        port = str(listening.getsockname()[1])
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", RANK, what, str(rank), str(size), port, str(folder)],
            stderr=subprocess.PIPE,
            text=True,
            env=os.environ
            | {"PYTHONPATH": f"{HERE.parent}{os.pathsep}{os.environ.get('PYTHONPATH', '')}"},
        )
        for rank in range(size)
    ]
    errors = [process.communicate(timeout=300)[1] for process in processes]
    assert [process.returncode for process in processes] == [0] * size, errors
    found = [folder / f"{rank}.txt" for rank in range(size)]
    return [path.read_text(encoding="utf-8") for path in found if path.exists()]


@pytest.mark.parametrize("size", [2, 3])
def test_ranks_train_like_one_process(size: int, tmp_path: Path) -> None:
    pytest.importorskip("safetensors")
    single = ranks.new()
    expected = ranks.train(single, lambda step: ranks.summed(size, step))
    assert findings("trains", size, tmp_path) == [expected] * size
    single.save(tmp_path / "single")
    assert (tmp_path / "state").read_bytes() == (tmp_path / "single").read_bytes()


def test_a_group_of_some_processes(tmp_path: Path) -> None:
    first, outside, last = findings("some", 3, tmp_path)
    assert first == "<Communicator, rank 0 of 2> [-4.0]"
    assert last == "<Communicator, rank 1 of 2> [-4.0]"
    assert outside == "group: expected one that this process is in, found one of other processes"


def test_a_rank_that_ends_is_an_error_on_the_other(tmp_path: Path) -> None:
    (found,) = findings("ends", 2, tmp_path)
    assert found.startswith("RuntimeError: ")


def test_before_processes_know_each_other() -> None:
    with pytest.raises(ValueError, match="call torch.distributed.init_process_group first"):
        fusedopt.torch.Communicator()


@pytest.fixture
def alone() -> Any:
    dist.init_process_group(
        "gloo", store=dist.HashStore(), rank=0, world_size=1, timeout=timedelta(seconds=60)
    )
    yield
    dist.destroy_process_group()


@pytest.mark.usefixtures("alone")
def test_what_is_no_group() -> None:
    with pytest.raises(TypeError, match="expected a torch.distributed.ProcessGroup or None"):
        fusedopt.torch.Communicator("gloo")
    with pytest.raises(TypeError, match=r"fusedopt\.torch\.Communicator"):
        fo.Sharded(fo.SGD(), dist.group.WORLD)


@pytest.mark.usefixtures("alone")
def test_another_backend(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dist, "get_backend_config", lambda group: "cuda:nccl")
    with pytest.raises(ValueError, match="expected gloo .*, found 'cuda:nccl'"):
        fusedopt.torch.Communicator()


@pytest.mark.usefixtures("alone")
def test_the_default_backend() -> None:
    both = dist.new_group([0], backend="cpu:gloo,cuda:gloo")
    assert fusedopt.torch.Communicator(both).size == 1


@pytest.mark.usefixtures("alone")
def test_nothing_is_copied() -> None:
    sent = np.arange(7, dtype=np.uint8)
    sent.flags.writeable = False
    from fusedopt.torch import communicator

    assert communicator._tensor(sent).data_ptr() == sent.ctypes.data
    received = np.zeros(7, np.uint8)
    fusedopt.torch.Communicator().allgatherv(sent, received, [7])
    assert received.tolist() == sent.tolist()
