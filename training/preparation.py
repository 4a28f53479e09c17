"""What happens once before training: the network, its shift and scale, and torch's settings."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch
from ase.data import atomic_numbers

from compactff_md import students
from compactff_md.errors import CompactFFError
from compactff_md.student import Student, load
from compactff_md.students import StudentNetwork
from compactff_md.training.batches import FrameStore
from compactff_md.training.config import TrainConfig
from compactff_md.training.dataset import known_elements
from compactff_md.training.distributed import Team
from compactff_md.training.frames import Frame, LabelledSet, fit_energy_shifts, mean_atom_energies
from compactff_md.training.metrics import compare

# Of the bounds of energies: frames looked at, atoms at a time, what is left out at each end of the range of
# the energies, and the room beyond all of them in such ranges (a trained network's energies are about one).
BOUND_FRAMES = 4000
BOUND_ATOMS = 4096
BOUND_TAIL = 1e-3
ROOM_BELOW, ROOM_ABOVE = 0.15, 0.25
LEAST_RANGE = 0.5
SMALL_BATCH_ATOMS = 2000  # below this a second thread costs more than it brings


def create_network(config: TrainConfig, data: LabelledSet) -> StudentNetwork:
    """Make the untrained student that a configuration asks for."""
    return students.create(
        config.size,
        known_elements(data, config),
        architecture=config.architecture,
        cutoff_A=config.cutoff_A,
        seed=config.seed,
    )


def check_start(config: TrainConfig, elements: list[str] | None = None) -> None:
    """See before labels are paid for that the student can be made that is asked for.

    Parameters
    ----------
    elements
        Of the frames to learn from; None where they are not known yet, and only the rest is looked at.

    Raises
    ------
    CompactFFError
        If it cannot: of such a size, of these elements, or going on from another that is none of that kind.
    """
    wanted = list(config.elements or elements or ())
    if config.start_from is not None:
        _check_start(config, wanted, load(config.start_from))
    elif wanted:
        students.create(config.size, wanted, architecture=config.architecture, cutoff_A=config.cutoff_A)


def continued_network(config: TrainConfig, data: LabelledSet) -> StudentNetwork:
    """The student that ``config.start_from`` names, with energies of elements that suit the data.

    Where the data have energies of isolated atoms, these are taken. Else each element's energy moves by the
    least-squares fit of what the student misses, the smallest of such moves where the data leave it open.

    Raises
    ------
    CompactFFError
        If there is no such student, or its size, architecture, elements or cutoff are not those asked for.
    """
    student = load(config.start_from or "")
    network = student.network.train()
    _check_start(config, known_elements(data, config), student)
    network.bounded = False  # what was beyond its data may be within these
    shifts = network.offsets_eV().detach().clone()
    if data.isolated_eV:
        alone = network.isolated_energies().detach() * network.energy_scale_eV
        of_data = [data.isolated_eV.get(symbol, math.nan) for symbol in network.elements]
        known = torch.tensor(of_data, dtype=torch.float64)
        shifts = torch.where(known.isnan(), shifts + alone, known)
    network.anchored = bool(data.isolated_eV)
    network.energy_shift_eV.copy_(shifts)
    if not network.anchored:
        network.energy_shift_eV += torch.from_numpy(_missed_by_element(network, data.frames))
    return network


def _check_start(config: TrainConfig, elements: list[str], student: Student) -> None:
    """See that nothing was asked for that the student to start from is not."""
    network, default = student.network, TrainConfig.model_fields["cutoff_A"].default
    missing = [symbol for symbol in elements if symbol not in network.elements]
    if missing:
        raise CompactFFError(
            f"start_from is {config.start_from}, which knows {', '.join(network.elements)}; asked for are "
            f"{', '.join(missing)}, too. Train from the beginning, or start from a student of these elements"
        )
    variants = students.variants_of(network)
    architecture = config.architecture if config.architecture not in variants else None
    pairs = {
        "size": (config.size, student.metadata.size or config.size),
        "architecture": (architecture or variants[-1], variants[-1]),
        "cutoff_A": (network.cutoff_A if config.cutoff_A == default else config.cutoff_A, network.cutoff_A),
    }
    for name, (asked, there) in pairs.items():
        if asked != there:
            raise CompactFFError(
                f"{name} is {asked}, but {config.start_from} has {there}; it cannot change with start_from"
            )


def _missed_by_element(network: StudentNetwork, frames: tuple[Frame, ...]) -> np.ndarray:
    """What the network's energies lack for each of its elements, in eV, shape (S,)."""
    chosen = frames[:: max(1, math.ceil(len(frames) / BOUND_FRAMES))]
    found = compare(network.eval(), chosen)
    network.train()
    missed = found.energies_eV - found.predicted_energies_eV
    numbers = np.array([atomic_numbers[symbol] for symbol in network.elements])
    counts = np.array([(frame.structure.numbers[:, None] == numbers).sum(0) for frame in chosen], dtype=float)
    return np.asarray(np.linalg.lstsq(counts, missed, rcond=1e-8)[0])


def prepare_network(network: StudentNetwork, data: LabelledSet) -> None:
    """Set the energies of atoms and the scale from the data.

    The shift is the isolated atoms' energy where given, else the mean of the teacher's energies of atoms,
    else a fit on composition. The scale in eV is
    the root mean square force in eV/A: energies then vary by it over about an angstrom.
    """
    isolated = [data.isolated_eV.get(symbol) for symbol in network.elements]
    if data.isolated_eV:
        missing = [s for s, energy in zip(network.elements, isolated, strict=True) if energy is None]
        if missing:
            raise CompactFFError(
                f"isolated-atom energies are missing for {', '.join(missing)}; give all or none"
            )
        shifts = torch.tensor(isolated, dtype=torch.float64)
    else:
        of_elements = mean_atom_energies if data.has_atom_energies else fit_energy_shifts
        shifts = torch.from_numpy(of_elements(data.frames, network.elements))
    squares = sum(float((frame.forces_eV_per_A**2).sum()) for frame in data.frames)
    scale = math.sqrt(squares / (3 * sum(len(frame) for frame in data.frames)))
    network.energy_shift_eV.copy_(shifts)
    network.energy_scale_eV.fill_(scale if scale > 0 else 1.0)
    network.anchored = bool(data.isolated_eV)


def bound_to_data(network: StudentNetwork, frames: tuple[Frame, ...]) -> None:
    """Let energies of atoms level off beyond those in the data, with some room."""
    weight = network.dtype_like()
    chosen = frames[:: max(1, math.ceil(len(frames) / BOUND_FRAMES))]
    store = FrameStore(chosen, network, weight.device, weight.dtype)
    with torch.no_grad():
        found = [
            network.network_energies(batch.vectors, batch.neighbours, batch.species)
            for batch in map(store.batch, store.in_order(BOUND_ATOMS))
        ]
        if network.anchored:
            found.append(network.isolated_energies().to(weight))
    energies = torch.cat(found).double().numpy()
    low, high = np.quantile(energies, (BOUND_TAIL, 1.0 - BOUND_TAIL))
    room = max(float(high - low), LEAST_RANGE)
    lowest, highest = float(energies.min()), float(energies.max())
    network.bound_energies(lowest - ROOM_BELOW * room, highest + ROOM_ABOVE * room, room)


@contextmanager
def torch_settings(config: TrainConfig, data: LabelledSet, team: Team) -> Iterator[None]:
    """Threads of the CPU and deterministic kernels of the GPU, for the run only."""
    threads, deterministic = torch.get_num_threads(), torch.are_deterministic_algorithms_enabled()
    mean_atoms = sum(len(frame) for frame in data.frames) / len(data)
    atoms = min(config.batch_size * mean_atoms, config.batch_atoms)
    torch.set_num_threads(config.threads or (1 if atoms < SMALL_BATCH_ATOMS or team.world > 1 else threads))
    if team.device.type == "cuda":
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        torch.use_deterministic_algorithms(True, warn_only=True)
        # Nothing reads such memory, and filling it costs time.
        torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    try:
        yield
    finally:
        torch.set_num_threads(threads)
        torch.use_deterministic_algorithms(deterministic)
