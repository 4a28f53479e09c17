"""A student compiled for batches of a few shapes, where that pays.

A step on small molecules is bound by the overhead of several hundred small operations; torch.compile fuses
them. It costs some half a minute a shape, and works for students with analytic gradients only (autograd's
own second derivative cannot be compiled): so it is used for long runs.
"""

from __future__ import annotations

import logging

import torch
from torch import Tensor
from torch.nn.functional import pad

from compactff_md.neighbours import PADDING_A
from compactff_md.students import DTYPES, StudentNetwork
from compactff_md.training.config import TrainConfig
from compactff_md.training.loss import Evaluate
from compactff_md.training.progress import Reporter
from compactff_md.training.shapes import Shapes

LEAST_MINUTES = 4.0  # for each shape
LEAST_STEPS = 10_000


def wants_compilation(config: TrainConfig, network: StudentNetwork, shapes: Shapes) -> bool:
    """Whether the configuration asks for it, or leaves it open and it pays."""
    if config.compile != "auto":
        return config.compile == "always"
    if network.needs_autograd:
        return False
    if config.minutes is not None:
        return config.minutes >= LEAST_MINUTES * len(shapes.widths)
    return (config.max_steps or 0) >= LEAST_STEPS * len(shapes.widths)


class CompiledEvaluation:
    """``network.energies_and_gradients``, compiled for the ``shapes``, to which batches are padded.

    Batches that no shape has room for go without. Where the compiler does not work, for want of a C++
    compiler say, a note says so and the network runs as it is.
    """

    def __init__(self, network: StudentNetwork, shapes: Shapes, dtype: str, reporter: Reporter) -> None:
        self.network, self.shapes = network, shapes
        self.compiled: Evaluate | None = None
        logging.getLogger("torch.utils.cpp_extension").setLevel(logging.ERROR)  # it misses a GPU aloud
        try:
            self.compiled = self._compile(DTYPES[dtype], reporter)
        except Exception as error:  # the compiler, or what it calls, raises whatever it meets
            first = (str(error).strip() or type(error).__name__).splitlines()[0]
            reporter.note(f"torch.compile does not work here ({first}); training goes on without it")
        network.zero_grad(set_to_none=False)

    def _compile(self, dtype: torch.dtype, reporter: Reporter) -> Evaluate:
        """Compile forward and backward for each shape by using both once, on nothing but padding."""
        torch.compiler.reset()  # it counts the shapes of all trainings of this process, and has a limit
        compiled: Evaluate = torch.compile(self.network.energies_and_gradients, dynamic=False)
        nobody = self.network.atomic_numbers.new_zeros(0, dtype=torch.long)
        vectors, neighbours = nobody.to(dtype).view(0, 1, 3), nobody.view(0, 1)
        for k, width in enumerate(self.shapes.widths):
            energies, gradients = compiled(*_padded(vectors, neighbours, nobody, (self.shapes.rows, width)))
            (energies.sum() + gradients.sum()).backward()
            reporter.update((k + 1) / len(self.shapes.widths))
        return compiled

    def __call__(self, vectors: Tensor, neighbours: Tensor, species: Tensor) -> tuple[Tensor, Tensor]:
        """Energies (A,) and gradients (A, K, 3), as the network's own."""
        atoms, width = neighbours.shape
        shape = self.shapes.room_for(atoms, width)
        if self.compiled is None or shape is None:
            return self.network.energies_and_gradients(vectors, neighbours, species)
        energies, gradients = self.compiled(*_padded(vectors, neighbours, species, shape))
        return energies[:atoms], gradients[:atoms, :width]


def _padded(
    vectors: Tensor, neighbours: Tensor, species: Tensor, shape: tuple[int, int]
) -> tuple[Tensor, Tensor, Tensor]:
    """The same with more rows and more places in each; what is added is far from everything."""
    atoms, width = neighbours.shape
    if (atoms, width) == shape:
        return vectors, neighbours, species
    more_vectors = vectors.new_zeros(*shape, 3)
    more_vectors[:, :, 0] = PADDING_A
    more_vectors[:atoms, :width] = vectors
    more_neighbours = torch.arange(shape[0], device=neighbours.device).unsqueeze(1).repeat(1, shape[1])
    more_neighbours[:atoms, :width] = neighbours
    return more_vectors, more_neighbours, pad(species, (0, shape[0] - atoms))
