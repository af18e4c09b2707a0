"""The processes of `torch.distributed` as the ranks of a `fusedopt.Sharded`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch  # type: ignore[import-not-found, unused-ignore]
import torch.distributed as dist  # type: ignore[import-not-found, unused-ignore]

from fusedopt.communicators import Bytes, Exchange

__all__ = ["Communicator"]


class Communicator:
    """A process group of PyTorch, as the communicator of a `fusedopt.Sharded`.

    Its backend for CPU memory must be gloo. The group may be in use elsewhere, for example by
    ``DistributedDataParallel``, as long as all ranks use it in the same order.

    Parameters
    ----------
    group : torch.distributed.ProcessGroup, optional
        A group that this process is in. Default: the group of all processes.

    Attributes
    ----------
    rank, size : int
        The number of this process in the group, from 0, and how many there are.

    Raises
    ------
    ValueError
        If ``init_process_group`` has not been called, if this process is not in the group, or if the backend of the
        group is another, such as NCCL.
    TypeError
        If it is no process group.

    Notes
    -----
    If a rank ends, gloo raises a RuntimeError on the others, at once if the connection breaks, or else after the
    timeout of the group.

    Examples
    --------
    ``torchrun --nproc-per-node 2 train.py`` runs this on two ranks. Here there is one:

    >>> import torch
    >>> import torch.distributed as dist
    >>> import fusedopt as fo
    >>> import fusedopt.torch
    >>> dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    >>> model = torch.nn.Linear(2, 1, bias=False)
    >>> _ = torch.nn.init.ones_(model.weight)
    >>> communicator = fusedopt.torch.Communicator()
    >>> optimizer = fo.Sharded(fo.SGD(learning_rate=0.5), communicator, average=True)
    >>> optimizer.build(dict(model.named_parameters()))
    >>> model(torch.tensor([1.0, -1.0])).sum().backward()
    >>> optimizer.apply({name: parameter.grad for name, parameter in model.named_parameters()})
    >>> model.weight.tolist()
    [[0.5, 1.5]]
    >>> dist.destroy_process_group()
    """

    def __init__(self, group: Any = None) -> None:
        if not (dist.is_available() and dist.is_initialized()):
            raise ValueError(
                "group: expected processes that know each other, found none; "
                "call torch.distributed.init_process_group first"
            )
        group = dist.group.WORLD if group is None else group
        if group is dist.GroupMember.NON_GROUP_MEMBER:
            raise ValueError(
                "group: expected one that this process is in, found one of other processes"
            )
        if not isinstance(group, dist.ProcessGroup):
            raise TypeError(
                f"group: expected a torch.distributed.ProcessGroup or None, found {group!r}"
            )
        backends = dist.get_backend_config(group)
        if "cpu:gloo" not in backends.split(","):
            raise ValueError(
                f"group: expected gloo as the backend for CPU memory, found {backends!r}; "
                'make another group for the optimizer, by torch.distributed.new_group(backend="gloo")'
            )
        self._group = group
        self.rank: int = dist.get_rank(group)
        self.size: int = dist.get_world_size(group)

    def __repr__(self) -> str:
        """Show which rank this is."""
        return f"<{type(self).__name__}, rank {self.rank} of {self.size}>"

    def alltoallv(
        self,
        send: Bytes,
        send_counts: Sequence[int],
        receive: Bytes,
        receive_counts: Sequence[int],
    ) -> Exchange:
        """Begin to send a part of ``send`` to each rank, and to receive a part of ``receive`` from each."""
        under_way: Exchange = dist.all_to_all_single(
            _tensor(receive),
            _tensor(send),
            list(receive_counts),
            list(send_counts),
            self._group,
            async_op=True,
        )
        return under_way

    def allgatherv(self, send: Bytes, receive: Bytes, counts: Sequence[int]) -> Exchange:
        """Begin to send all of ``send`` to each rank, and to receive a part of ``receive`` from each.

        gloo gathers only parts of equal size, so each rank broadcasts its own.
        """
        parts = _tensor(receive).split(list(counts))
        parts[self.rank].copy_(_tensor(send))
        return _All(
            [
                dist.broadcast(part, group=self._group, group_src=rank, async_op=True)
                for rank, part in enumerate(parts)
                if part.numel() > 0
            ]
        )


class _All:
    """Several exchanges as one."""

    def __init__(self, exchanges: Sequence[Exchange]) -> None:
        self._exchanges = exchanges

    def wait(self) -> None:
        for exchange in self._exchanges:
            exchange.wait()


class _Writable:
    """The memory of an array, without the mark that it is read-only, of which PyTorch warns."""

    def __init__(self, array: Bytes) -> None:
        self._array = array  # whose memory it is
        self.__array_interface__ = array.__array_interface__ | {
            "data": (array.__array_interface__["data"][0], False)
        }


def _tensor(array: Bytes) -> torch.Tensor:
    """Return a tensor over the memory of an array, whose owner waits until the exchange is over."""
    if not array.size:
        return torch.empty(0, dtype=torch.uint8)
    return torch.from_numpy(np.asarray(_Writable(array)))
