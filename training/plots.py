"""Pictures of a run: parity of forces, learning curve, total energy of a trajectory."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from compactff_md.files import atomic_write
from compactff_md.training.metrics import force_errors

DOTS_PER_INCH = 130
MOST_POINTS = 20_000

Pairs = dict[str, tuple[np.ndarray, np.ndarray]]


def plot_report(path: str | Path, pairs: Pairs, history: list[dict[str, float]], title: str) -> None:
    """Draw parity of forces beside the learning curve into a PNG.

    Parameters
    ----------
    pairs
        Name of a test -> forces of the labels and of the student, each (A, 3), in eV/A.
    history
        Rows of :class:`compactff_md.training.loop.TrainResult`.
    """
    figure, (left, right) = _figure(title, 2)
    draw_parity(left, pairs)
    draw_learning(right, history)
    _save(figure, path)


def plot_demo(
    path: str | Path, pairs: Pairs, time_ps: np.ndarray, total_energy_eV: np.ndarray, title: str = ""
) -> None:
    """Draw parity of forces beside the total energy of a trajectory into a PNG.

    ``time_ps`` and ``total_energy_eV`` have shape (T,).
    """
    figure, (left, right) = _figure(title, 2)
    draw_parity(left, pairs)
    draw_energy(right, time_ps, total_energy_eV)
    _save(figure, path)


def draw_parity(axes: Axes, pairs: Pairs) -> None:
    """Forces of the student over those of the labels, one colour a test."""
    for name, (reference, predicted) in pairs.items():
        x, y = reference.ravel(), predicted.ravel()
        stride = max(1, len(x) // MOST_POINTS)
        errors = force_errors(x, y)
        label = f"{name}: RMSE {errors['rmse_meV_per_A']:.1f} meV/Å, R² {errors['r2']:.5f}"
        axes.plot(x[::stride], y[::stride], ".", markersize=2, alpha=0.4, label=label, rasterized=True)
    everything = [abs(part).max() for pair in pairs.values() for part in pair]
    limit = 1.05 * max(everything, default=1.0)
    axes.plot([-limit, limit], [-limit, limit], color="0.4", linewidth=0.7, zorder=0)
    axes.set(xlim=(-limit, limit), ylim=(-limit, limit), aspect="equal")
    axes.set(
        xlabel="force of the labels (eV/Å)",
        ylabel="force of the student (eV/Å)",
        title="forces, unseen frames",
    )
    if pairs:
        axes.legend(loc="upper left", fontsize=7, markerscale=4, frameon=False)


def draw_learning(axes: Axes, history: list[dict[str, float]]) -> None:
    """Force errors over the time spent training."""
    minutes = [row["elapsed_s"] / 60 for row in history]
    for key, name in (
        ("train_force_rmse", "training"),
        ("valid_force_rmse", "validation (averaged weights)"),
    ):
        axes.plot(minutes, [row[key] for row in history], marker=".", linewidth=1, label=name)
    axes.set(yscale="log", xlabel="training time (min)", ylabel="force RMSE (meV/Å)", title="learning")
    axes.grid(True, which="both", linewidth=0.3)
    axes.legend(fontsize=8, frameon=False)


def draw_energy(axes: Axes, time_ps: np.ndarray, total_energy_eV: np.ndarray) -> None:
    """Total energy over time in meV around its mean, with the line of its drift."""
    shifted = 1e3 * (np.asarray(total_energy_eV) - np.mean(total_energy_eV))
    slope, offset = np.polyfit(time_ps, shifted, 1) if len(time_ps) > 1 else (0.0, 0.0)
    axes.plot(time_ps, shifted, linewidth=0.6, label=f"standard deviation {shifted.std():.2f} meV")
    axes.plot(time_ps, slope * np.asarray(time_ps) + offset, linewidth=1, label=f"drift {slope:+.4f} meV/ps")
    axes.set(xlabel="time (ps)", ylabel="total energy - mean (meV)", title="energy conservation")
    axes.legend(fontsize=8, frameon=False)


def _figure(title: str, columns: int) -> tuple[Figure, np.ndarray]:
    figure = Figure(figsize=(5.2 * columns, 4.8), layout="constrained")
    FigureCanvasAgg(figure)
    figure.suptitle(title, fontsize=10)
    return figure, figure.subplots(1, columns)


def _save(figure: Figure, path: str | Path) -> None:
    with atomic_write(path) as temporary:
        figure.savefig(temporary, dpi=DOTS_PER_INCH, format="png")
