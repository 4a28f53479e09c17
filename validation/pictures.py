"""The pictures of a report."""

from __future__ import annotations

import numpy as np
from ase.data import chemical_symbols, covalent_radii
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from compactff_md.engines.molecules import find_molecules
from compactff_md.structure import Structure

MOST_POINTS = 20_000
TEACHER, STUDENT = "0.35", "tab:blue"


def figure(
    columns: int = 1, rows: int = 1, width: float = 5.2, height: float = 3.8
) -> tuple[Figure, list[Axes]]:
    """An empty figure and its axes, row by row."""
    made = Figure(figsize=(width * columns, height * rows), layout="constrained")
    FigureCanvasAgg(made)
    axes = made.subplots(rows, columns, squeeze=False)
    return made, list(axes.ravel())


def parity(pairs: dict[str, tuple[np.ndarray, np.ndarray]]) -> Figure:
    """Forces of the student over those of the teacher, and their difference; one panel a set."""
    made, axes = figure(len(pairs), height=4.6, width=4.4)
    for panel, (name, (reference, predicted)) in zip(axes, pairs.items(), strict=True):
        x, y = reference.ravel(), predicted.ravel()
        stride = max(1, len(x) // MOST_POINTS)
        panel.plot(x[::stride], y[::stride], ".", markersize=2, alpha=0.4, color=STUDENT, rasterized=True)
        limit = 1.05 * max(float(np.abs(x).max()), float(np.abs(y).max()), 1e-6)
        panel.plot([-limit, limit], [-limit, limit], color="0.4", linewidth=0.7, zorder=0)
        panel.set(xlim=(-limit, limit), ylim=(-limit, limit), aspect="equal", title=name.replace("_", " "))
        panel.set(xlabel="force of the teacher (eV/Å)", ylabel="force of the student (eV/Å)")
    return made


def errors_on_structure(structure: Structure, errors_meV_per_A: np.ndarray) -> Figure:
    """Atoms seen along the thinnest direction, coloured by their errors, shape (N,)."""
    made, (panel,) = figure(height=4.2)
    centred = structure.positions_A - structure.positions_A.mean(0)
    _, _, axes = np.linalg.svd(centred, full_matrices=False)
    flat = centred @ axes.T if len(centred) > 2 else centred
    order = np.argsort(flat[:, 2])
    bonds = np.zeros((0, 2), dtype=int) if structure.pbc.any() else find_molecules(structure).bonds
    for i, j in bonds:
        panel.plot(flat[[i, j], 0], flat[[i, j], 1], color="0.6", linewidth=2.0, zorder=0)
    sizes = 700 * covalent_radii[structure.numbers] / max(1.0, len(structure) / 25)
    points = panel.scatter(
        flat[order, 0], flat[order, 1], s=sizes[order], c=errors_meV_per_A[order], cmap="viridis",
        edgecolors="0.2", linewidths=0.6,
    )  # fmt: skip
    if len(structure) <= 60:
        middle = 0.5 * (errors_meV_per_A.min() + errors_meV_per_A.max())
        for k in order:
            shade = "black" if errors_meV_per_A[k] > middle else "white"
            panel.text(
                flat[k, 0], flat[k, 1], chemical_symbols[structure.numbers[k]], color=shade, fontsize=7,
                ha="center", va="center",
            )  # fmt: skip
    panel.set(aspect="equal", xlabel="Å", ylabel="Å")
    panel.margins(0.12)
    made.colorbar(points, label="mean error of the force (meV/Å)")
    return made


def errors_over_time(rmse_meV_per_A: np.ndarray, runs: int) -> Figure:
    """Error of each labelled frame, shape (F,), in the order of the runs."""
    made, (panel,) = figure()
    for k, part in enumerate(np.array_split(rmse_meV_per_A, runs)):
        panel.plot(np.linspace(0, 100, len(part)), part, marker=".", linewidth=0.8, label=f"run {k + 1}")
    panel.set(xlabel="part of the run (%)", ylabel="RMSE of the forces (meV/Å)", ylim=(0, None))
    if runs <= 8:
        panel.legend(fontsize=7, frameon=False)
    return made


def energies(runs: dict[str, tuple[np.ndarray, np.ndarray]], unit: str = "meV/atom") -> Figure:
    """Total energies over time around their means; name -> time in ps and energy, shape (F,) each."""
    made, axes = figure(min(2, len(runs)), (len(runs) + 1) // 2, height=2.8)
    for panel, (name, (time_ps, energy)) in zip(axes, runs.items(), strict=False):
        panel.plot(time_ps, energy - np.mean(energy), linewidth=0.6, color=STUDENT)
        panel.set(xlabel="time (ps)", ylabel=f"total energy ({unit})")
        panel.set_title(name, fontsize=9)
    for panel in axes[len(runs) :]:
        panel.set_visible(False)
    return made


def power_law(timesteps_fs: np.ndarray, fluctuations: np.ndarray, exponent: float) -> Figure:
    """Fluctuation of the energy over the timestep, with the square law through the largest."""
    made, (panel,) = figure()
    panel.loglog(timesteps_fs, fluctuations, "o-", color=STUDENT, label=f"measured, exponent {exponent:.2f}")
    law = fluctuations[-1] * (timesteps_fs / timesteps_fs[-1]) ** 2
    panel.loglog(timesteps_fs, law, "--", color=TEACHER, label="square of the timestep")
    panel.set(xlabel="timestep (fs)", ylabel="fluctuation of the total energy (meV/atom)")
    panel.legend(fontsize=8, frameon=False)
    return made


def distributions(
    curves: dict[str, tuple[np.ndarray, np.ndarray, np.ndarray]],
    xlabel: str,
    names: tuple[str, str],
    ylabel: str = "",
) -> Figure:
    """Small panels of x, the reference's curves (R, X) and the student's (S, X); at most 12.

    Without ``ylabel`` heights have no unit, and no numbers.
    """
    shown = dict(list(curves.items())[:12])
    columns = min(3, len(shown))
    made, axes = figure(columns, -(-len(shown) // columns), width=4.0, height=2.7)
    for panel, (title, (x, reference, student)) in zip(axes, shown.items(), strict=False):
        for data, colour, name in ((reference, TEACHER, names[0]), (student, STUDENT, names[1])):
            panel.fill_between(x, data.min(0), data.max(0), color=colour, alpha=0.2, linewidth=0)
            panel.plot(x, data.mean(0), color=colour, linewidth=1.2, label=name)
        panel.set_title(title, fontsize=9)
        panel.set(xlabel=xlabel, ylabel=ylabel)
        if not ylabel:
            panel.set_yticks([])
    axes[0].legend(fontsize=7, frameon=False)
    for panel in axes[len(shown) :]:
        panel.set_visible(False)
    return made


def curves(
    panels: dict[str, dict[str, tuple[np.ndarray, np.ndarray]]], xlabel: str, ylabel: str, style: str = "-"
) -> Figure:
    """Panels of named lines; panel -> name -> x and y."""
    columns = min(3, len(panels))
    made, axes = figure(columns, -(-len(panels) // columns), width=4.4, height=3.2)
    for panel, (title, lines) in zip(axes, panels.items(), strict=False):
        for name, (x, y) in lines.items():
            colour = {"teacher": TEACHER, "student": STUDENT}.get(name)
            panel.plot(x, y, style, linewidth=1.1, label=name, color=colour)
        panel.set_title(title, fontsize=9)
        panel.set(xlabel=xlabel, ylabel=ylabel)
        panel.legend(fontsize=7, frameon=False)
    for panel in axes[len(panels) :]:
        panel.set_visible(False)
    return made
