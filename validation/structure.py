"""Distances, angles and dihedrals of the student's dynamics beside the teacher's own replicas."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from compactff_md.engines.molecules import Molecules
from compactff_md.errors import CompactFFError
from compactff_md.structure import Structure
from compactff_md.validation import mda, pictures
from compactff_md.validation.campaign import Campaign, did_not_run
from compactff_md.validation.distributions import blocks_of, compare
from compactff_md.validation.outcome import Finding, Section
from compactff_md.validation.run import Run
from compactff_md.validation.statistics import statistical_inefficiency

FREE_REACH_A = 8.0
MOST_REACH_A = 10.0
DALTON_PER_A3_IN_G_PER_CM3 = 1.660539040
BINS = {"distances": 80, "angles": 60, "dihedrals": 36, "gyration": 30, "rmsd": 30, "density": 30}
# Blocks that are this many statistical inefficiencies long are about independent.
INEFFICIENCIES = 3.0
# Groups (pairs, triples, quadruples of elements) beyond this many are left out, the rarest first.
MOST_GROUPS = 12


@dataclass(frozen=True)
class Observable:
    """Histograms of each frame of several runs.

    Attributes
    ----------
    names
        Of the G groups.
    edges
        Shape (X + 1,).
    histograms
        One a run, shape (F, G, X).
    series
        One a run, shape (F, K): what tells how long frames remember.
    """

    names: tuple[str, ...]
    edges: np.ndarray
    histograms: list[np.ndarray]
    series: list[np.ndarray]

    @property
    def centres(self) -> np.ndarray:
        """Shape (X,)."""
        return 0.5 * (self.edges[1:] + self.edges[:-1])

    @property
    def block_length(self) -> int:
        """Frames of a block that is about independent of the next."""
        found = [statistical_inefficiency(column) for one in self.series for column in one.T]
        return max(1, math.ceil(INEFFICIENCIES * max(found, default=1.0)))


def run(campaign: Campaign) -> Section:
    """The section."""
    found = section_of(campaign, campaign.teacher_replicas(), campaign.student_replicas())
    if campaign.settings.pressure_bar is None:
        return found
    try:
        at_pressure = section_of(campaign, *campaign.replicas_at_pressure(), only="density")
    except CompactFFError as error:
        at_pressure = Section((did_not_run(campaign, "structure at constant pressure", error),))
    return Section(found.findings + at_pressure.findings, {}, {**found.pictures, **at_pressure.pictures})


def section_of(
    campaign: Campaign, teacher: Sequence[Run], student: Sequence[Run], only: str | None = None
) -> Section:
    """Compare runs of the teacher (or any reference) with runs of the student, ``only`` in one respect."""
    molecules, structure = campaign.molecules, campaign.structure
    findings: list[Finding] = []
    shown: dict[str, str] = {}
    for kind in [only] if only else kinds(structure, molecules, [*teacher, *student]):
        edges = _edges(kind, [*teacher, *student], structure)
        reference = observe(kind, teacher, structure, molecules, edges)
        own = observe(kind, student, structure, molecules, edges)
        theirs, ours, note = _blocks(reference, own)
        if (
            kind == "distances" and structure.pbc.all()
        ):  # radial distributions: far shells hold most of the pairs
            theirs, ours = (counts / np.diff(edges**3) for counts in (theirs, ours))
        findings.append(compare(campaign, f"structure.{kind}", theirs, ours, note, own.names))
        curves = {
            name: (_axis(kind, own.centres), _curves(kind, reference, k), _curves(kind, own, k))
            for k, name in enumerate(own.names)
        }
        labels = {"angles": "angle (°)", "dihedrals": "dihedral (°)", "density": "density (g/cm³)"}
        figure = pictures.distributions(curves, labels.get(kind, "distance (Å)"), ("teacher", "student"))
        shown[kind] = campaign.picture(f"structure-{kind}", figure)
    return Section(tuple(findings), {}, shown)


def _blocks(reference: Observable, own: Observable) -> tuple[np.ndarray, np.ndarray, str]:
    """Independent blocks of both, and what is to be said of them."""
    length = max(reference.block_length, own.block_length)
    longest = [max(map(len, one.histograms)) for one in (reference, own)]
    if length > min(longest):
        theirs, ours = (np.array([run_.mean(0) for run_ in one.histograms]) for one in (reference, own))
        return theirs, ours, "slower than the runs are long: whole runs are compared"
    short = sum(len(run_) < length for one in (reference, own) for run_ in one.histograms)
    note = f"{short} runs are too short, and left out" if short else ""
    return blocks_of(reference.histograms, length), blocks_of(own.histograms, length), note


def kinds(structure: Structure, molecules: Molecules, runs: Sequence[Run]) -> list[str]:
    """Which observables mean something for a system."""
    found = ["distances"] if len(structure) > 1 else []
    found += ["angles"] if triples(molecules, structure) else []
    found += ["dihedrals"] if quadruples(molecules, structure) else []
    if not structure.pbc.any() and len(structure) > 3 and len(np.unique(molecules.labels)) == 1:
        found += ["gyration", "rmsd"]
    if structure.pbc.all() and all(np.ptp(volumes_A3(run_)) > 1e-6 for run_ in runs):
        found.append("density")
    return found


def observe(
    kind: str, runs: Sequence[Run], structure: Structure, molecules: Molecules, edges: np.ndarray
) -> Observable:
    """Histograms of one kind of observable, frame by frame."""
    groups = _groups(kind, structure, molecules)
    histograms, series = [], []
    for run_ in runs:
        frames = [_values(kind, run_, k, groups, structure) for k in range(len(run_))]
        histograms.append(np.array([[np.histogram(v, edges)[0] for v in frame] for frame in frames], float))
        series.append(np.array([[x for v in frame for x in _features(kind, v)] for frame in frames]))
    return Observable(tuple(groups), edges, histograms, series)


def triples(molecules: Molecules, structure: Structure) -> dict[str, np.ndarray]:
    """Bonded triples by elements, the apex in the middle; name -> indices, shape (T, 3)."""
    near = _bonded(molecules)
    found: dict[str, list[tuple[int, ...]]] = defaultdict(list)
    for apex, others in near.items():
        for a, i in enumerate(others):
            for j in others[:a]:
                found[_name(structure, (j, apex, i))].append((j, apex, i))
    return _most_common(found)


def quadruples(molecules: Molecules, structure: Structure) -> dict[str, np.ndarray]:
    """Bonded chains of four by elements; name -> indices, shape (Q, 4)."""
    near = _bonded(molecules)
    found: dict[str, list[tuple[int, ...]]] = defaultdict(list)
    for j, k in molecules.bonds[~molecules.endless[molecules.bonds[:, 0]]].tolist():
        for i in near[j]:
            for end in near[k]:
                if i != k and end != j and i != end:
                    found[_name(structure, (i, j, k, end))].append((i, j, k, end))
    return _most_common(found)


def element_pairs(structure: Structure) -> dict[str, tuple[int, int]]:
    """Names of pairs of elements, and their atomic numbers; without those that a single atom would form."""
    present, counts = (found.tolist() for found in np.unique(structure.numbers, return_counts=True))
    symbols = dict(zip(structure.numbers.tolist(), structure.symbols, strict=True))
    return {
        f"{symbols[a]}-{symbols[b]}": (a, b)
        for n, a in enumerate(present)
        for b in present[n:]
        if a != b or counts[n] > 1
    }


def volumes_A3(run_: Run) -> np.ndarray:
    """Volumes of the cells, shape (F,)."""
    return np.abs(np.linalg.det(run_.cell_A))


def densities(run_: Run) -> np.ndarray:
    """In g/cm^3, shape (F,).

    Raises
    ------
    CompactFFError
        Where there is no cell.
    """
    if not run_.pbc.all():
        raise CompactFFError("a density needs a cell that is periodic in all directions; this has none")
    return run_.masses_Da.sum() / volumes_A3(run_) * DALTON_PER_A3_IN_G_PER_CM3


def gyration_A(positions_A: np.ndarray, masses_Da: np.ndarray) -> float:
    """Radius of gyration of whole atoms, shape (N, 3)."""
    arms = positions_A - np.average(positions_A, axis=0, weights=masses_Da)
    return float(np.sqrt(np.average((arms**2).sum(1), weights=masses_Da)))


def reach_A(runs: Sequence[Run]) -> float:
    """How far distances are looked at: half of the narrowest box, at most 10 A; 8 A without a box."""
    if not runs[0].pbc.any():
        return FREE_REACH_A
    heights = [
        1.0 / np.linalg.norm(np.linalg.inv(cell), axis=0).max() for run_ in runs for cell in run_.cell_A[:1]
    ]
    return float(min(MOST_REACH_A, 0.499 * min(heights)))


def _edges(kind: str, runs: Sequence[Run], structure: Structure) -> np.ndarray:
    bins = BINS[kind]
    if kind == "distances":
        return np.linspace(0.0, reach_A(runs), bins + 1)
    if kind in ("angles", "dihedrals"):
        return np.linspace(0.0 if kind == "angles" else -math.pi, math.pi, bins + 1)
    every = [_scalar(kind, run_, k, structure) for run_ in runs for k in range(len(run_))]
    return np.linspace(min(every) - 1e-9, max(every) + 1e-9, bins + 1)


def _groups(kind: str, structure: Structure, molecules: Molecules) -> dict[str, np.ndarray]:
    if kind == "distances":
        return {name: np.array(pair) for name, pair in element_pairs(structure).items()}
    if kind == "angles":
        return triples(molecules, structure)
    if kind == "dihedrals":
        return quadruples(molecules, structure)
    return {kind: np.zeros(1)}


def _values(
    kind: str, run_: Run, frame: int, groups: dict[str, np.ndarray], structure: Structure
) -> list[np.ndarray]:
    """Values of each group in one frame."""
    if kind in ("gyration", "rmsd", "density"):
        return [np.array([_scalar(kind, run_, frame, structure)])]
    positions, box = run_.positions_A[frame], mda.box_of(run_.cell_A[frame], run_.pbc)
    if kind == "angles":
        return [mda.angles(positions, members, box) for members in groups.values()]
    if kind == "dihedrals":
        return [mda.dihedrals(positions, members, box) for members in groups.values()]
    indices, distance = mda.pairs_within(positions, reach_A([run_]), box)
    pairs = np.sort(run_.numbers[indices], axis=1)
    return [distance[(pairs == np.sort(members)).all(1)] for members in groups.values()]


def _features(kind: str, values: np.ndarray) -> tuple[float, ...]:
    """Numbers of a frame whose memory is that of the observable."""
    if not len(values):
        return (0.0, 0.0)
    if kind == "dihedrals":
        return float(np.cos(values).mean()), float(np.sin(np.abs(values)).mean())
    return float(values.mean()), float((values**2).mean())


def _scalar(kind: str, run_: Run, frame: int, structure: Structure) -> float:
    if kind == "density":
        return float(densities(run_)[frame])
    if kind == "rmsd":
        return mda.rmsd_A(run_.positions_A[frame], structure.positions_A, run_.masses_Da)
    return gyration_A(run_.positions_A[frame], run_.masses_Da)


def _curves(kind: str, observable: Observable, group: int) -> np.ndarray:
    """A normalised curve of each run, shape (R, X); distances are divided by the volume of their shells."""
    counts = np.array([one[:, group].mean(0) for one in observable.histograms])
    if kind == "distances":
        counts = counts / np.diff(observable.edges**3)
    return counts / np.maximum(counts.sum(1, keepdims=True), 1e-300)


def _axis(kind: str, centres: np.ndarray) -> np.ndarray:
    return np.degrees(centres) if kind in ("angles", "dihedrals") else centres


def _bonded(molecules: Molecules) -> dict[int, list[int]]:
    """Neighbours by bonds, of atoms in finite molecules."""
    near: dict[int, list[int]] = defaultdict(list)
    for i, j in molecules.bonds[~molecules.endless[molecules.bonds[:, 0]]].tolist():
        near[i].append(j)
        near[j].append(i)
    return near


def _name(structure: Structure, atoms: tuple[int, ...]) -> str:
    symbols = structure.symbols
    name = [symbols[k] for k in atoms]
    return "-".join(min(name, name[::-1]))


def _most_common(found: dict[str, list[tuple[int, ...]]]) -> dict[str, np.ndarray]:
    names = sorted(found, key=lambda name: (-len(found[name]), name))[:MOST_GROUPS]
    return {name: np.array(found[name]) for name in names}
