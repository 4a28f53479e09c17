"""Where a training stands, in one file that is replaced whole; read without pickle's code."""

from __future__ import annotations

import pickle
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from compactff_md.errors import CompactFFError
from compactff_md.files import atomic_write

FORMAT_VERSION = 1


@dataclass
class TrainState:
    """Everything that continues a run exactly.

    Nothing in training draws from a global random state: the order of frames follows from seed and
    epoch, so it needs no random state here. ``position`` counts the epoch's batches that each of ``world``
    processes has done, ``elapsed_s`` the wall-clock time spent training, over all interruptions; ``begun``
    is the fraction of the run that was over before the first step, ``history`` one row a validation.
    """

    step: int = 0
    epoch: int = 0
    position: int = 0
    elapsed_s: float = 0.0
    finished: bool = False
    history: list[dict[str, float]] = field(default_factory=list)
    world: int = 1
    begun: float = 0.0


def save_checkpoint(
    path: Path,
    state: TrainState,
    weights: dict[str, Tensor],
    average: Tensor,
    optimiser: dict[str, Any],
) -> None:
    """Write a checkpoint atomically; a killed process leaves the one before."""
    content = {
        "format_version": FORMAT_VERSION,
        "state": asdict(state),
        "weights": weights,
        "average": average,
        "optimiser": optimiser,
    }
    with atomic_write(path) as temporary:
        torch.save(content, temporary)


def load_checkpoint(path: Path, device: torch.device) -> tuple[TrainState, dict[str, Any]]:
    """Read a checkpoint: the state, and the rest under ``weights``, ``average``, ``optimiser``.

    Raises
    ------
    CompactFFError
        If the file is damaged or of another version.
    """
    advice = f"remove {path} to start the training again"
    try:
        content = torch.load(path, map_location=device, weights_only=True)
        version = content["format_version"]
        if version != FORMAT_VERSION:
            raise CompactFFError(f"{path} has version {version}, expected {FORMAT_VERSION}; {advice}")
        return TrainState(**content["state"]), content
    except (RuntimeError, pickle.UnpicklingError, EOFError, KeyError, TypeError, OSError) as error:
        # The text of torch's own error advises to load without its safeguard.
        kind = type(error).__name__
        raise CompactFFError(
            f"{path} is damaged, or no checkpoint of a training ({kind}); {advice}"
        ) from error
