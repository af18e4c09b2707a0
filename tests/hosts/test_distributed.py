"""DistributedDataParallel on two processes over gloo: both ranks end with the bits of each other."""

from __future__ import annotations

import socket
import subprocess
import sys
from pathlib import Path

import pytest

torch = pytest.importorskip("torch")
if not (torch.distributed.is_available() and torch.distributed.is_gloo_available()):
    pytest.skip("this PyTorch is built without gloo", allow_module_level=True)

# PyTorch's gloo sometimes aborts a process at its exit if a ZeroRedundancyOptimizer lives, with its own AdamW, too. So
# a rank leaves without the exit's destructors.
RANK = """
import os
import sys
import torch
import fusedopt as fo
import fusedopt.torch
from torch.distributed.optim import ZeroRedundancyOptimizer

kind, rank, port, path = sys.argv[1], int(sys.argv[2]), sys.argv[3], sys.argv[4]
torch.set_num_threads(1)
torch.distributed.init_process_group("gloo", f"tcp://127.0.0.1:{port}", rank=rank, world_size=2)
torch.manual_seed(0)
model = torch.nn.Sequential(torch.nn.Linear(6, 12), torch.nn.Tanh(), torch.nn.Linear(12, 1))
parallel = torch.nn.parallel.DistributedDataParallel(model)
options = {"lr": 1e-2, "weight_decay": 0.1}
if kind == "ours":
    optimizer = fusedopt.torch.AdamW(parallel.parameters(), max_norm=1.0, **options)
elif kind == "sharded":
    optimizer = ZeroRedundancyOptimizer(parallel.parameters(), fusedopt.torch.AdamW, **options)
elif kind == "rule":
    optimizer = fusedopt.torch.Optimizer(parallel.parameters(), fo.Lamb(1e-2))
else:
    optimizer = torch.optim.AdamW(parallel.parameters(), **options)
for number in range(6):
    x = torch.randn(16, 6, generator=torch.Generator().manual_seed(2 * number + rank))
    optimizer.zero_grad()
    (parallel(x) - x.sum(1, keepdim=True)).square().mean().backward()
    if kind in ("theirs", "sharded"):
        torch.nn.utils.clip_grad_norm_(parallel.parameters(), 1.0)
    optimizer.step()
torch.save([p.detach() for p in model.parameters()], f"{path}/{kind}{rank}.pt")
torch.distributed.destroy_process_group()
sys.stderr.flush()
os._exit(0)
"""


def free_port() -> int:
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        port: int = listening.getsockname()[1]
    return port


def trained(kind: str, folder: Path) -> list[list[torch.Tensor]]:
    port = str(free_port())
    ranks = [
        subprocess.Popen(
            [sys.executable, "-c", RANK, kind, str(rank), port, str(folder)],
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    ]
    errors = [rank.communicate(timeout=300)[1] for rank in ranks]
    assert [rank.returncode for rank in ranks] == [0, 0], errors
    return [torch.load(folder / f"{kind}{rank}.pt") for rank in range(2)]


@pytest.mark.parametrize("kind", ["ours", "sharded"])
def test_two_ranks_train_like_torch(kind: str, tmp_path: Path) -> None:
    first, second = trained(kind, tmp_path)
    for a, b in zip(first, second, strict=True):
        assert torch.equal(a, b)
    for found, expected in zip(first, trained("theirs", tmp_path)[0], strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-6)


def test_any_rule_trains_alike_on_two_ranks(tmp_path: Path) -> None:
    first, second = trained("rule", tmp_path)
    for a, b in zip(first, second, strict=True):
        assert torch.equal(a, b)
