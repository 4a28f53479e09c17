"""Finding a student's uncertainty: from the features and errors of the training, and of held-out frames."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from scipy.stats import rankdata

from compactff_md.students import StudentNetwork
from compactff_md.students.uncertainty import Uncertainty
from compactff_md.training.batches import FrameStore
from compactff_md.training.frames import Frame
from compactff_md.training.metrics import Comparison, compare

MOST_FRAMES = 2000  # of the training, evenly spaced: clusters need no more
MOST_ATOMS = 200_000  # in them
BLOCK_ATOMS = 10_000  # whose distances to all centres are in memory at a time
CENTRES = 16
DIMENSIONS = 24
ITERATIONS = 20
FLOOR = 1e-4  # of the largest variance: directions with less are rounding
RIDGE = 30.0  # atoms' worth of pull of the weights towards zero
STEEPEST = 3.0  # exponent of the distance
LEAST_ERROR = 0.03  # of the root mean square error: below it, logarithms tell more of luck than of the atom
EXTREME = 1e-3  # of the errors expected in the data, at each end
USUAL = 0.99
FEW_ATOMS = 50  # an element's own scale counts as much as that of all
LARGE_ERROR = 3.0  # times the median: what the ROC curve is about


@dataclass(frozen=True)
class Environments:
    """Last features (A, H) and species (A,) of all atoms of some frames."""

    features: np.ndarray
    species: np.ndarray


def environments(network: StudentNetwork, frames: tuple[Frame, ...], batch_atoms: int = 4096) -> Environments:
    """Ask a network, in evaluation mode, for the features of every atom."""
    weight = network.dtype_like()
    store = FrameStore(frames, network, weight.device, weight.dtype)
    parts = []
    with torch.no_grad():
        for chosen in store.in_order(batch_atoms):
            batch = store.batch(chosen)
            found = network.features(batch.vectors, batch.neighbours, batch.species)
            parts.append(found.cpu().double().numpy())
    return Environments(np.concatenate(parts), store.species.cpu().numpy())


def fit_uncertainty(
    network: StudentNetwork, train: tuple[Frame, ...], held_out: Comparison, seed: int = 0
) -> Uncertainty | None:
    """Find clusters on the training frames, what errors go with on both, and the scale on held-out ones.

    Parameters
    ----------
    network
        Trained, in evaluation mode.
    train
        At most 2,000 of them, and 200,000 atoms, are looked at.
    held_out
        Frames that the training did not see, as compared by :func:`compactff_md.training.metrics.compare`.

    Returns
    -------
    Uncertainty
        None where the student has no features.
    """
    atoms = sum(map(len, train))
    sample = train[:: max(1, -(-len(train) // MOST_FRAMES), -(-atoms // MOST_ATOMS))]
    seen, held = environments(network, sample), environments(network, held_out.frames)
    if seen.features.shape[1] == 0:
        return None
    elements = len(network.elements)
    rng = np.random.default_rng([seed, 50])
    centres, labels = _cluster(seen, elements, rng)
    projection = _whitening(seen.features - centres[seen.species, labels])
    made = Uncertainty(elements, CENTRES, projection.shape[1], seen.features.shape[1]).double()
    made.projection.copy_(torch.from_numpy(projection))
    made.centres.copy_(torch.from_numpy(centres @ projection))
    parts = [(seen, force_error(compare(network, sample))), (held, held_error := force_error(held_out))]
    _regress(made, parts)
    _calibrate(made, held, held_error)
    return made.float().eval()


def _cluster(seen: Environments, elements: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Centres (S, Q, H) of each element's features, and the cluster of each atom (A,).

    Elements that do not occur are infinitely far: their centres lie where nothing is.
    """
    scale = seen.features.std(0) + 1e-12
    centres = np.full((elements, CENTRES, seen.features.shape[1]), 1e3 * scale.max())
    labels = np.zeros(len(seen.species), dtype=int)
    for s in np.unique(seen.species):
        rows = np.flatnonzero(seen.species == s)
        centres[s], labels[rows] = k_means(seen.features[rows] / scale, CENTRES, rng)
        centres[s] *= scale
    return centres, labels


def k_means(points: np.ndarray, count: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Lloyd's algorithm from k-means++ (Arthur and Vassilvitskii 2007): centres (Q, H), labels (A,)."""
    centres = points[rng.integers(len(points), size=1)]
    for _ in range(count - 1):
        apart = _squares(points, centres).min(1)
        total = apart.sum()
        weights = apart / total if total > 0 else np.full(len(points), 1.0 / len(points))
        centres = np.concatenate([centres, points[rng.choice(len(points), size=1, p=weights)]])
    labels = np.zeros(len(points), dtype=int)
    for _ in range(ITERATIONS):
        labels = _squares(points, centres).argmin(1)
        for k in np.unique(labels):
            centres[k] = points[labels == k].mean(0)
    return centres, labels


def _squares(points: np.ndarray, centres: np.ndarray) -> np.ndarray:
    """Squared distances, shape (A, Q)."""
    return np.maximum((points**2).sum(1)[:, None] - 2.0 * points @ centres.T + (centres**2).sum(1), 0.0)


def _whitening(residuals: np.ndarray) -> np.ndarray:
    """Projection (H, D) onto the directions of largest variance, each scaled to variance one."""
    variance, directions = np.linalg.eigh(residuals.T @ residuals / len(residuals))
    order = np.argsort(variance)[::-1][:DIMENSIONS]
    floor = FLOOR * max(float(variance.max()), 1e-12)
    return directions[:, order] / np.sqrt(variance[order] + floor)


def force_error(result: Comparison) -> np.ndarray:
    """Root mean square error over the three components of each atom's force in eV/A, shape (A,)."""
    error = result.predicted_forces_eV_per_A - result.forces_eV_per_A
    return np.sqrt((error**2).mean(1))


def _regress(made: Uncertainty, parts: list[tuple[Environments, np.ndarray]]) -> None:
    """Fit log(error) to log(distance) on held-out atoms, and what is left to the features on all.

    ``parts`` are environments and errors of training and held-out frames. Errors of the training are smaller
    than others: of each element and part only the differences from its mean count.
    """
    logs = [np.log(error + LEAST_ERROR * np.sqrt((error**2).mean()) + 1e-9) for _, error in parts]
    distances = [np.log(_in_blocks(made.distance, part)) for part, _ in parts]
    held, y, x = parts[-1][0].species, logs[-1], distances[-1]
    x, y = _centred(x, held), _centred(y, held)
    slope = float((x * y).sum() / max(float((x * x).sum()), 1e-12))
    exponent = float(np.clip(slope, 0.0, STEEPEST))
    made.exponent.fill_(exponent)
    left = [log - exponent * distance for log, distance in zip(logs, distances, strict=True)]
    made.log_scale.fill_(float(left[-1].mean()))
    features = np.concatenate([part.features for part, _ in parts])
    species = np.concatenate([part.species for part, _ in parts])
    wanted = np.concatenate([_centred(v, part.species) for v, (part, _) in zip(left, parts, strict=True)])
    for s in np.unique(species).tolist():
        own = features[species == s]
        mean, deviation = own.mean(0), own.std(0) + 1e-9
        scaled = (own - mean) / deviation
        pull = RIDGE * np.eye(scaled.shape[1])
        weights = np.linalg.solve(scaled.T @ scaled + pull, scaled.T @ wanted[species == s]) / deviation
        offset = float(made.log_scale[s]) - float(mean @ weights)
        ends = np.quantile(offset + own @ weights, (EXTREME, 1.0 - EXTREME))
        made.weights[:, s] = torch.from_numpy(weights)
        made.log_scale[s] = offset
        made.lowest[s], made.highest[s] = float(ends[0]), float(ends[1])


def _in_blocks(
    ask: Callable[[torch.Tensor, torch.Tensor], torch.Tensor],
    part: Environments,
    dtype: torch.dtype = torch.float64,
) -> np.ndarray:
    """What a function of features and species says of every atom, shape (A,)."""
    features, species = torch.from_numpy(part.features), torch.from_numpy(part.species)
    with torch.no_grad():
        told = [
            ask(some.to(dtype), of).double()
            for some, of in zip(features.split(BLOCK_ATOMS), species.split(BLOCK_ATOMS), strict=True)
        ]
    return torch.cat(told).numpy()


def _centred(values: np.ndarray, species: np.ndarray) -> np.ndarray:
    """Differences from the mean of each element."""
    centred = values.copy()
    for s in np.unique(species):
        centred[species == s] -= centred[species == s].mean()
    return centred


def _calibrate(made: Uncertainty, held_out: Environments, error: np.ndarray) -> None:
    """Let errors over expectations have a mean square of one, for each element as far as it has atoms."""
    squares = (error / _in_blocks(made, held_out)) ** 2
    of_all = max(float(squares.mean()), 1e-12)
    for s in range(len(made.log_scale)):
        own = squares[held_out.species == s]
        square = (float(own.sum()) + FEW_ATOMS * of_all) / (len(own) + FEW_ATOMS)
        for part in (made.log_scale, made.lowest, made.highest):
            part[s] += 0.5 * float(np.log(square))
    made.usual_eV_per_A.fill_(float(np.quantile(_in_blocks(made, held_out), USUAL)))


def tell(made: Uncertainty, network: StudentNetwork, frames: tuple[Frame, ...]) -> np.ndarray:
    """Force error to expect of every atom in eV/A, shape (A,)."""
    return _in_blocks(made, environments(network, frames), made.projection.dtype)


def quality(told_eV_per_A: np.ndarray, error_eV_per_A: np.ndarray) -> dict[str, Any]:
    """How well an uncertainty tells errors, over the atoms of a test.

    ``pearson_log`` and ``spearman`` correlate expected and true errors; ``roc_auc`` is about errors above
    3 times the median; ``calibration`` is the root mean square of error over expectation, 1 where right.
    """
    large = error_eV_per_A > LARGE_ERROR * np.median(error_eV_per_A)
    return {
        "atoms": len(error_eV_per_A),
        "pearson_log": _correlation(np.log(told_eV_per_A), np.log(error_eV_per_A + 1e-9)),
        "spearman": _correlation(rankdata(told_eV_per_A), rankdata(error_eV_per_A)),
        "roc_auc": roc_auc(told_eV_per_A, large),
        "share_of_large_errors": float(large.mean()),
        "calibration": float(np.sqrt(((error_eV_per_A / told_eV_per_A) ** 2).mean())),
    }


def roc_auc(score: np.ndarray, positive: np.ndarray) -> float | None:
    """Chance that a positive scores above a negative, ties half; None where one kind is missing."""
    hits, misses = int(positive.sum()), int((~positive).sum())
    if not hits or not misses:
        return None
    return float((rankdata(score)[positive].sum() - hits * (hits + 1) / 2) / (hits * misses))


def _correlation(x: np.ndarray, y: np.ndarray) -> float | None:
    if x.std() == 0 or y.std() == 0:
        return None
    return float(np.corrcoef(x, y)[0, 1])
