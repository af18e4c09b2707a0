"""What a rank of `test_sharded_mpi.py` does. It writes a line for each of its findings into a folder."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import fusedopt as fo
import numpy as np
import ranks
from mpi4py import MPI


def trains(folder: Path) -> list[Any]:
    comm = MPI.COMM_WORLD
    optimizer = fo.Sharded(ranks.new(), comm)
    found = ranks.train(optimizer, lambda step: ranks.gradients(comm.rank, step))
    optimizer.save(folder / "state", variables=True)
    optimizer.load(folder / "state")
    optimizer.save(folder / "index", variables=True, per_rank=True)
    optimizer.load(folder / "index")
    return [found, optimizer.iterations]


def refuses(folder: Path) -> list[Any]:
    comm = MPI.COMM_WORLD
    optimizer = fo.Sharded(fo.SGD(0.1), comm)
    w = np.ones(5000, np.float32)
    optimizer.build([w])
    try:
        optimizer.apply([np.ones(3 if comm.rank == 1 else 5000, np.float32)])
    except ValueError as error:
        optimizer.apply([np.ones(5000, np.float32)])
        return [error, (w == np.float32(1) - np.float32(0.1) * np.float32(comm.size)).all()]
    return ["no error"]


def forks(folder: Path) -> list[Any]:
    comm = MPI.COMM_WORLD
    optimizer = fo.Sharded(fo.SGD(0.1), comm)
    optimizer.build([np.ones(3)])
    readable, writable = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            optimizer.apply([np.ones(3)])
        except ValueError as error:
            os.write(writable, str(error).encode())
        os._exit(0)
    os.waitpid(child, 0)
    optimizer.apply([np.ones(3)])
    return [os.read(readable, 1000).decode()]


def ends(end: Callable[[], Any]) -> list[Any]:
    comm = MPI.COMM_WORLD
    optimizer = fo.Sharded(fo.SGD(0.1), comm)
    w = np.ones(5000, np.float32)
    optimizer.build([w])
    if comm.rank == 1:
        end()
    optimizer.apply([w.copy()])
    return ["all ranks have gone on"]


def dies(folder: Path) -> list[Any]:
    return ends(lambda: os.kill(os.getpid(), signal.SIGKILL))


def raises(folder: Path) -> list[Any]:
    return ends(lambda: int("no number"))


def exits(folder: Path) -> list[Any]:
    return ends(lambda: sys.exit(3))


def shows(folder: Path) -> list[Any]:
    config = fo.show_config()
    return [config["ranks"], config["ranks_from"], config["advice"]]


if __name__ == "__main__":
    folder = Path(sys.argv[2])
    work = [trains, refuses, forks, dies, raises, exits, shows]
    findings = {each.__name__: each for each in work}[sys.argv[1]](folder)
    text = "\n".join(str(each) for each in findings)
    (folder / f"{MPI.COMM_WORLD.rank}.txt").write_text(text, encoding="utf-8")
