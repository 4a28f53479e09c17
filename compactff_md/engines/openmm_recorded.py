"""An exported student that is called from Python on a GPU, with as few launches as can be."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from compactff_md.export.verlet import VerletTable, cartesian, drift, vectors_of
from compactff_md.recorded import RECORDED_PAIRS, Recorded, rounded_width
from compactff_md.units import NM_TO_A


class RecordedModule:
    """Calls a scripted :class:`compactff_md.export.exported.ExportedStudent`, or plays its work again.

    The module makes the neighbour list, and computes when there is none that holds. As long as its list does,
    everything from the positions to the forces is one CUDA graph, the check of the list too: what is fetched
    from the device is a single tensor.

    Parameters
    ----------
    module
        On its device.
    """

    def __init__(self, module: torch.jit.ScriptModule) -> None:
        self.module = module
        self.device = module.species.device
        self._work: Recorded | None = None
        self._table: VerletTable | None = None

    def __call__(self, positions_nm: np.ndarray, box_nm: np.ndarray | None) -> tuple[float, np.ndarray]:
        """Energy in kJ/mol and forces in kJ/mol/nm, shape (N, 3), at positions (N, 3) in a box (3, 3)."""
        if self._work is not None:
            self._positions.copy_(torch.from_numpy(positions_nm))
            if box_nm is not None:
                self._cell.copy_(torch.from_numpy(box_nm))
            (found,) = self._work()
            result = found.cpu().numpy()
            energy, lacking = result[:2]
            if lacking <= 0.0:  # not where it is NaN
                return float(energy), result[2:].reshape(-1, 3)
        positions = torch.from_numpy(positions_nm).to(self.device)
        box = None if box_nm is None else torch.from_numpy(box_nm).to(self.device)
        energy, forces = self.module(positions, box)
        self._keep(positions.shape[0])
        return float(energy), forces.detach().to("cpu", torch.float64).numpy()

    def _keep(self, count: int) -> None:
        """Take the module's table, in the tensors of the last one if they have room."""
        table = VerletTable(*self.module.table)
        width = table.neighbours.shape[1]
        if count * width > RECORDED_PAIRS:
            self._work = self._table = None
            return
        kept = self._table
        if kept is not None and _has_room(kept, table):
            for old, new in zip(kept, _widened(table, kept.neighbours.shape[1]), strict=True):
                if isinstance(old, Tensor) and isinstance(new, Tensor):
                    old.copy_(new)
            return
        table = _widened(table, rounded_width(width))
        tensors: dict[str, Any] = {
            name: x.clone() for name, x in table._asdict().items() if isinstance(x, Tensor)
        }
        self._table = table._replace(**tensors)
        self._positions = self._table.neighbours.new_zeros((count, 3), dtype=torch.float64)
        self._cell = self._positions.new_zeros((3, 3))
        self._work = Recorded(self._compute, self.device)

    def _compute(self) -> tuple[Tensor]:
        """Energy, how much the table lacks, and forces, one after the other, shape (2 + 3 N,)."""
        table, module, species = self._table, self.module, self.module.species
        assert table is not None
        positions, cell = self._positions * NM_TO_A, self._cell * NM_TO_A
        lacking = positions.new_zeros(2)
        if table.reference_A.numel():
            lacking = drift(table, positions, cell, module.cutoff_A, module.skin_A)
            table = table._replace(offsets_A=cartesian(table.shifts, cell))
        energies, forces, _, _ = module.student(vectors_of(table, positions), table.neighbours, species)
        energy = energies.sum(0, keepdim=True) * module.energy_unit
        forces = forces.to(torch.float64) * module.force_unit
        return (torch.cat([energy, lacking[:1], forces.flatten()]),)


def _has_room(kept: VerletTable, table: VerletTable) -> bool:
    """Whether a table is of the kept one's kind, and no wider."""
    same = kept.periodicity == table.periodicity and kept.neighbours.shape[0] == table.neighbours.shape[0]
    return same and kept.neighbours.shape[1] >= table.neighbours.shape[1]


def _widened(table: VerletTable, width: int) -> VerletTable:
    """A table with rows filled up by the atoms themselves, far away."""
    count, more = table.neighbours.shape[0], width - table.neighbours.shape[1]
    if not more or not table.shifts.numel():
        return table
    own = torch.arange(count, device=table.neighbours.device).unsqueeze(1).expand(count, more)
    beyond = table.shifts.new_tensor([0.0, 0.0, 0.0, 1.0]).expand(count, more, 4)
    shifts = torch.cat([table.shifts, beyond], dim=1)
    return table._replace(
        neighbours=torch.cat([table.neighbours, own], dim=1),
        shifts=shifts,
        offsets_A=cartesian(shifts, table.cell),
    )
