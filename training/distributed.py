"""One process or many: what ``torchrun`` starts, and the few things its processes tell each other."""

from __future__ import annotations

import atexit
import os
from dataclasses import dataclass
from datetime import timedelta

import torch
import torch.distributed as dist
from torch import Tensor

from compactff_md.errors import CompactFFError

# The others wait while the first process labels or validates.
TIMEOUT = timedelta(hours=48)


@dataclass(frozen=True)
class Team:
    """The processes of a run; ``rank`` 0 writes the files."""

    rank: int
    world: int
    device: torch.device

    @property
    def leads(self) -> bool:
        """Whether this process writes files and shows progress."""
        return self.rank == 0

    def wait(self) -> None:
        """Return when every process has come here."""
        if self.world > 1:
            dist.all_reduce(torch.zeros(()))

    def share(self, value: float) -> float:
        """Return the first process' number."""
        if self.world == 1:
            return value
        tensor = torch.tensor(value, dtype=torch.float64)
        dist.broadcast(tensor, src=0)
        return float(tensor)

    def share_tensors(self, tensors: list[Tensor]) -> None:
        """Overwrite tensors by those of the first process."""
        if self.world > 1:
            for tensor in tensors:
                dist.broadcast(tensor, src=0)

    def average(self, tensor: Tensor) -> None:
        """Replace a tensor by its mean over the processes."""
        if self.world > 1:
            dist.all_reduce(tensor)
            tensor /= self.world


def join_team(device: str = "auto") -> Team:
    """Join the processes that ``torchrun`` started, or be the only one.

    Every call returns the same processes. On the CPU they talk through gloo, on GPUs
    through NCCL with gloo beside it for numbers on the host.

    Raises
    ------
    CompactFFError
        If the device is unknown, not there, or one GPU for several processes.
    """
    rank, world = int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))
    local_rank = int(os.environ.get("LOCAL_RANK", "0")) if world > 1 else 0
    chosen = pick_device(device, local_rank, int(os.environ.get("LOCAL_WORLD_SIZE", "1")))
    if world > 1 and not dist.is_initialized():
        dist.init_process_group("cpu:gloo,cuda:nccl" if chosen.type == "cuda" else "gloo", timeout=TIMEOUT)
        # At the end of the process and no sooner: a second group would wait on the first one's keys.
        atexit.register(dist.destroy_process_group)
    return Team(rank, world, chosen)


def pick_device(name: str, local_rank: int = 0, local_world: int = 1) -> torch.device:
    """Turn "auto" or a name into a device; "auto" and "cuda" take the GPU of the local rank.

    Raises
    ------
    CompactFFError
        If the name is not one that torch knows, there is no such device, or it is one of several GPUs that
        all ``local_world`` processes of this machine would share.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise CompactFFError(f"device is {name!r}; allowed are auto, cpu, cuda and cuda:INDEX") from error
    if device.type not in ("cpu", "cuda"):
        raise CompactFFError(f"device is {name!r}; allowed are auto, cpu, cuda and cuda:INDEX")
    if device.type == "cuda":
        count = torch.cuda.device_count()
        index = local_rank if device.index is None else device.index
        if index >= count:
            raise CompactFFError(
                f"device is {name!r} (GPU {index}), but there are {count} GPUs; use device 'cpu'"
            )
        if device.index is not None and min(local_world, count) > 1:
            raise CompactFFError(
                f"device is {name!r} for all {local_world} processes of this machine; use device 'cuda', "
                "which gives each its own GPU"
            )
        device = torch.device("cuda", index)
        torch.cuda.set_device(device)
    return device
