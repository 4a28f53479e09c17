"""A student compiled for batches of one shape, where that pays.

A step on small molecules is bound by the overhead of several hundred small operations; torch.compile fuses
them. It costs some half a minute once, works for students with analytic gradients only (autograd's own
second derivative cannot be compiled), and each new shape would be compiled again: so it is used for long
runs on frames of one size, and batches of another shape, such as the last of an epoch, go without it.
"""

from __future__ import annotations

import logging

import torch
from torch import Tensor

from compactff_md.students import StudentNetwork
from compactff_md.training.batches import Batch, FrameStore
from compactff_md.training.config import TrainConfig
from compactff_md.training.loss import Evaluate
from compactff_md.training.progress import Reporter

LEAST_MINUTES = 4.0
LEAST_STEPS = 10_000


def wants_compilation(config: TrainConfig, network: StudentNetwork, store: FrameStore) -> bool:
    """Whether the configuration asks for it, or leaves it open and it pays."""
    if config.compile != "auto":
        return config.compile == "always"
    uniform = bool((store.sizes == store.sizes[0]).all())
    if config.minutes is not None:
        return uniform and not network.needs_autograd and config.minutes >= LEAST_MINUTES
    return uniform and not network.needs_autograd and (config.max_steps or 0) >= LEAST_STEPS


class CompiledEvaluation:
    """``network.energies_and_gradients``, compiled for batches shaped like ``sample``.

    Where the compiler does not work, for want of a C++ compiler say, a note says so and the network runs
    as it is.
    """

    def __init__(self, network: StudentNetwork, sample: Batch, reporter: Reporter) -> None:
        self.network = network
        self.shape = sample.vectors.shape
        self.compiled: Evaluate | None = None
        logging.getLogger("torch.utils.cpp_extension").setLevel(logging.ERROR)  # it misses a GPU aloud
        try:
            self.compiled = self._compile(sample)
        except Exception as error:  # the compiler, or what it calls, raises whatever it meets
            first = (str(error).strip() or type(error).__name__).splitlines()[0]
            reporter.note(f"torch.compile does not work here ({first}); training goes on without it")
        network.zero_grad(set_to_none=False)

    def _compile(self, sample: Batch) -> Evaluate:
        """Compile forward and backward by using both once."""
        compiled = torch.compile(self.network.energies_and_gradients, dynamic=False)
        energies, gradients = compiled(sample.vectors, sample.neighbours, sample.species)
        (energies.sum() + gradients.sum()).backward()
        return compiled

    def __call__(self, vectors: Tensor, neighbours: Tensor, species: Tensor) -> tuple[Tensor, Tensor]:
        """Energies (A,) and gradients (A, K, 3), as the network's own."""
        if self.compiled is None or vectors.shape != self.shape:
            return self.network.energies_and_gradients(vectors, neighbours, species)
        return self.compiled(vectors, neighbours, species)
