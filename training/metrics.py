"""How far a student is from its labels, on frames that it did not see."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
import torch
from ase.data import chemical_symbols

from compactff_md.students import StudentNetwork
from compactff_md.training.batches import FrameStore
from compactff_md.training.frames import Frame
from compactff_md.training.loss import predict_batch
from compactff_md.units import EV_PER_A3_TO_GPA


@dataclass(frozen=True)
class Comparison:
    """Labels and predictions of some frames, atoms behind each other.

    Energies have shape (F,), forces (A, 3), virials (F, 3, 3) with NaN where a frame has no stress;
    ``frame_of_atom`` and ``numbers`` shape (A,).
    """

    frames: tuple[Frame, ...]
    frame_of_atom: np.ndarray
    numbers: np.ndarray
    energies_eV: np.ndarray
    predicted_energies_eV: np.ndarray
    forces_eV_per_A: np.ndarray
    predicted_forces_eV_per_A: np.ndarray
    virials_eV: np.ndarray
    predicted_virials_eV: np.ndarray

    @property
    def sizes(self) -> np.ndarray:
        """Atoms of each frame, shape (F,)."""
        return np.array([len(frame) for frame in self.frames])


def compare(
    network: StudentNetwork,
    frames: tuple[Frame, ...],
    store: FrameStore | None = None,
    batch_atoms: int = 4096,
) -> Comparison:
    """Evaluate a network, in evaluation mode, on labelled frames."""
    weight = network.dtype_like()
    store = store or FrameStore(frames, network, weight.device, weight.dtype)
    parts: tuple[list[np.ndarray], ...] = ([], [], [])
    with torch.no_grad():
        for chosen in store.in_order(batch_atoms):
            found = predict_batch(network.energies_and_gradients, store.batch(chosen), True)
            assert found.virials_eV is not None
            predicted = found.energies_eV, found.forces_eV_per_A, found.virials_eV
            for kept, part in zip(parts, predicted, strict=True):
                kept.append(part.detach().cpu().double().numpy())
    has = store.has_stress.cpu().numpy()[:, None, None] > 0
    return Comparison(
        frames,
        np.repeat(np.arange(len(frames)), store.sizes),
        np.concatenate([frame.structure.numbers for frame in frames]),
        np.array([frame.energy_eV for frame in frames]),
        np.concatenate(parts[0]),
        np.concatenate([frame.forces_eV_per_A for frame in frames]),
        np.concatenate(parts[1]),
        np.where(has, store.virials.cpu().double().numpy(), np.nan),
        np.concatenate(parts[2]),
    )


def joined(parts: Sequence[Comparison]) -> Comparison:
    """Several comparisons as one, such as of the tests at all temperatures."""
    starts = np.cumsum([0, *(len(part.frames) for part in parts)])
    frames = tuple(frame for part in parts for frame in part.frames)
    frame_of_atom = np.concatenate(
        [part.frame_of_atom + start for part, start in zip(parts, starts[:-1], strict=True)]
    )
    names = [field.name for field in fields(Comparison)][2:]
    return Comparison(
        frames, frame_of_atom, *(np.concatenate([getattr(part, name) for part in parts]) for name in names)
    )


def force_errors(reference: np.ndarray, predicted: np.ndarray) -> dict[str, float]:
    """Errors over all Cartesian components, in meV/A; R2 is one minus squared error over variance."""
    error = predicted - reference
    square = float((error**2).mean())
    variance = float(((reference - reference.mean()) ** 2).mean())
    return {
        "rmse_meV_per_A": 1e3 * square**0.5,
        "mae_meV_per_A": 1e3 * float(np.abs(error).mean()),
        "r2": 1.0 - square / variance if variance > 0 else float("nan"),
        "rms_meV_per_A": 1e3 * float((reference**2).mean()) ** 0.5,
    }


def energy_errors(result: Comparison) -> dict[str, float]:
    """Errors of the energies per atom in meV, as they are and up to a constant for each composition.

    The constant is the mean of the n frames of a composition; that it lies too close to them is set right
    by n / (n - 1) in the squares. Compositions with one frame count in the first kind only; where there are
    no others, both kinds are the same.
    """
    error = (result.predicted_energies_eV - result.energies_eV) / result.sizes
    groups: dict[Any, list[int]] = defaultdict(list)
    for index, frame in enumerate(result.frames):
        groups[frame.formula].append(index)
    deviations = [
        (error[members] - error[members].mean()) * np.sqrt(len(members) / (len(members) - 1))
        for members in groups.values()
        if len(members) > 1
    ]
    relative = np.concatenate(deviations) if deviations else error
    return {
        "rmse_meV_per_atom": 1e3 * float((relative**2).mean()) ** 0.5,
        "mae_meV_per_atom": 1e3 * float(np.abs(relative).mean()),
        "rmse_absolute_meV_per_atom": 1e3 * float((error**2).mean()) ** 0.5,
    }


def summary(result: Comparison) -> dict[str, Any]:
    """Every number of a test: forces, also by element and by temperature, energies, virials."""
    errors: dict[str, Any] = {
        "frames": len(result.frames),
        "forces": force_errors(result.forces_eV_per_A, result.predicted_forces_eV_per_A),
        "forces_by_element": by_element(result),
        "energy": energy_errors(result),
    }
    temperatures = by_temperature(result)
    if temperatures:
        errors["forces_by_temperature"] = temperatures
    has = np.isfinite(result.virials_eV).all(axis=(1, 2))
    if has.any():
        wrong = ((result.predicted_virials_eV - result.virials_eV) / result.sizes[:, None, None])[has]
        errors["virial"] = {"rmse_meV_per_atom": 1e3 * float((wrong**2).mean()) ** 0.5}
        errors["stress"] = stress_errors(result)
    return errors


def stress_errors(result: Comparison) -> dict[str, float]:
    """Errors of the stress over its six components, in GPa, of the frames that have one.

    R2 is one minus squared error over the variance of each component about its own mean.
    """
    has = np.isfinite(result.virials_eV).all(axis=(1, 2))
    volumes = np.array([frame.structure.volume_A3 for frame in result.frames])[has, None, None]
    row, column = np.triu_indices(3)
    reference, predicted = (
        EV_PER_A3_TO_GPA * (virials[has] / volumes)[:, row, column]
        for virials in (result.virials_eV, result.predicted_virials_eV)
    )
    square = float(((predicted - reference) ** 2).mean())
    variance = float(reference.var(axis=0).mean())
    return {"rmse_GPa": square**0.5, "r2": 1.0 - square / variance if variance > 0 else float("nan")}


def by_element(result: Comparison) -> dict[str, dict[str, float]]:
    """Force errors of the atoms of each element."""
    reference, predicted = result.forces_eV_per_A, result.predicted_forces_eV_per_A
    return {
        chemical_symbols[z]: force_errors(reference[result.numbers == z], predicted[result.numbers == z])
        for z in np.unique(result.numbers)
    }


def by_temperature(result: Comparison) -> dict[str, dict[str, float]]:
    """Force errors of the frames of each temperature."""
    known = np.array([np.nan if f.temperature_K is None else f.temperature_K for f in result.frames])
    of_atom = known[result.frame_of_atom]
    reference, predicted = result.forces_eV_per_A, result.predicted_forces_eV_per_A
    return {
        f"{t:g} K": force_errors(reference[of_atom == t], predicted[of_atom == t])
        for t in np.unique(known[np.isfinite(known)])
    }
