"""Where OpenMM runs: the platforms that are there, and which to take."""

from __future__ import annotations

from typing import Any

import torch

from compactff_md.engines.openmm_import import openmm
from compactff_md.errors import CompactFFError

GPU_PLATFORMS = ("CUDA", "HIP")


def platforms() -> list[str]:
    """Names of the platforms that this OpenMM has, slowest first."""
    found = [openmm.Platform.getPlatform(k) for k in range(openmm.Platform.getNumPlatforms())]
    return [platform.getName() for platform in sorted(found, key=lambda p: p.getSpeed())]


def automatic_platforms() -> list[str]:
    """What to try where the user names no platform: GPUs that PyTorch sees too, then Reference.

    Forces come from PyTorch on every platform, so all that is left for OpenMM is the integrator, and
    Reference does it in double precision without the thread pool that costs CPU 0.1-0.2 ms a step.
    """
    gpus = [name for name in GPU_PLATFORMS if name in platforms()] if torch.cuda.is_available() else []
    return [*gpus, "Reference"]


def make_context(system: Any, integrator: Any, name: str) -> Any:
    """Make a context on a platform, in mixed precision on a GPU.

    Raises
    ------
    CompactFFError
        If this OpenMM has no such platform; the message lists those it has.
    """
    if name not in platforms():
        raise CompactFFError(f"unknown platform {name!r}; this OpenMM has {', '.join(platforms())}")
    properties = {"Precision": "mixed"} if name in (*GPU_PLATFORMS, "OpenCL") else {}
    return openmm.Context(system, integrator, openmm.Platform.getPlatformByName(name), properties)
