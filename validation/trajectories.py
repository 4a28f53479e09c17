"""The suite's analyses of trajectories that were run before, by whatever program."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from ase import units
from ase.calculators.calculator import BaseCalculator
from ase.data import atomic_masses, atomic_numbers
from ase.io.formats import open_with_compression

from compactff_md.artifact import package_versions
from compactff_md.engines.md_velocities import degrees_of_freedom
from compactff_md.errors import CompactFFError
from compactff_md.structure import Structure, read_structures
from compactff_md.units import NM_TO_A
from compactff_md.validation import dynamics, mda, pictures, stability, structure
from compactff_md.validation.campaign import Campaign, Silent, section_or_why
from compactff_md.validation.engine_ase import kinetic_eV
from compactff_md.validation.outcome import Section
from compactff_md.validation.report import Report, command_line, write_report
from compactff_md.validation.run import Run
from compactff_md.validation.settings import SuiteSettings
from compactff_md.validation.stages import Stages
from compactff_md.validation.subject import Subject
from compactff_md.validation.thresholds import Thresholds

# A/ps, MDAnalysis' unit of velocities, in A/fs.
A_PER_PS = 1e-3
FEWEST_FRAMES = 2
DUMP, DCD, EXTENDED_XYZ = "LAMMPS dump", "DCD file of LAMMPS", "extended XYZ file"
# MDAnalysis makes up times of the first, and takes those of the second, in the units of the run, for others.
TIMELESS = (DUMP, DCD)
# MDAnalysis takes the extents of free atoms for a box, or leaves out the box.
ASES = (DUMP, EXTENDED_XYZ)
HEAD_BYTES = 4096
DCD_TITLES_END = 264  # two titles of 80 bytes after the header


class _Frames(NamedTuple):
    """What a file holds, in A and A/fs: velocities are None where it has none, cells zero without a box."""

    positions_A: np.ndarray  # (F, N, 3)
    velocities: np.ndarray | None  # (F, N, 3)
    cell_A: np.ndarray  # (F, 3, 3)
    pbc: np.ndarray  # (3,)
    time_ps: np.ndarray  # (F,)


class _Files:
    """Stands for the teacher where only trajectories are compared."""

    name = "the reference trajectories"

    def calculator(self) -> BaseCalculator:
        return _no_calculator("float64")


def analyse(
    trajectories: Sequence[str | Path],
    topology: str | Path,
    out: str | Path,
    *,
    references: Sequence[str | Path] = (),
    settings: SuiteSettings,
    thresholds: Thresholds,
    progress: Any = None,
) -> Report:
    """Compare trajectories with those of a reference, each file a replica; write the report.

    Parameters
    ----------
    trajectories, references
        LAMMPS dumps, extended XYZ, or any other format that MDAnalysis reads, with the atoms of the topology.
        Without references there are stability and pictures, and nothing is compared.
    topology
        What names the elements.

    Raises
    ------
    CompactFFError
        For files that are missing, unreadable or of other atoms; fewer than two frames; elements that the
        topology does not tell; files of LAMMPS without ``frame_fs`` among the fields that were set.

    Notes
    -----
    Frames of files that know no times are taken to be ``settings.frame_fs`` apart. Dumps and DCD files of
    LAMMPS tell steps, in whatever units: of them no default is believed.
    """
    own = [read_trajectory(path, topology, settings) for path in trajectories]
    theirs = [read_trajectory(path, topology, settings) for path in references]
    _check_same(own[0], [*own, *theirs], [*trajectories, *references])
    identity = {
        "trajectories": [_fingerprint(path) for path in trajectories],
        "references": [_fingerprint(path) for path in references],
        "topology": _fingerprint(topology),
        "settings": settings.model_dump(),
    }
    with Stages(out, identity) as stages:
        subject = Subject(", ".join(Path(p).name for p in trajectories), _no_calculator, 0.0)
        frame = own[0].structure(0)
        campaign = Campaign(
            frame.to_ase().get_chemical_formula(),
            subject,
            _Files(),
            [frame],
            settings,
            thresholds,
            stages,
            progress=progress or Silent(),
        )
        sections = {"stability": _stability(campaign, own)}
        if theirs:
            sections["structure"] = section_or_why(
                campaign, "structure", lambda: structure.section_of(campaign, theirs, own)
            )
            if all(np.isfinite(run.kinetic_eV).all() for run in (*own, *theirs)):
                names = ("reference", "trajectory")
                sections["dynamics"] = section_or_why(
                    campaign, "dynamics", lambda: dynamics.compare_spectra(campaign, theirs, own, names)
                )
        title = f"{subject.name} against {', '.join(Path(p).name for p in references) or 'nothing'}"
        report = Report(
            title, sections, {**identity, "versions": package_versions(), "command": command_line()}
        )
        write_report(stages.path, report)
    return report


def read_trajectory(path: str | Path, topology: str | Path, settings: SuiteSettings) -> Run:
    """A trajectory as a run; energies are NaN, and velocities zero where the file has none.

    Raises
    ------
    CompactFFError
        See :func:`analyse`.
    """
    kind = _kind_of(path)
    if kind in TIMELESS and "frame_fs" not in settings.model_fields_set:
        raise CompactFFError(
            f"{path} is a {kind}, which tells steps and no times; give the time between two of its frames "
            "(the timestep in fs times the steps between them), such as --set frame_fs=5"
        )
    universe = mda.universe(topology, None if kind in ASES else path)
    numbers = elements_of(universe, topology)
    found = _by_ase(path, settings) if kind in ASES else _by_mdanalysis(universe, path, kind, settings)
    count, atoms = found.positions_A.shape[:2]
    if atoms != len(numbers):
        raise CompactFFError(f"{path} has {atoms} atoms, and the topology {topology} {len(numbers)}")
    if count < FEWEST_FRAMES:
        raise CompactFFError(f"{path} has {count} frames; expected at least {FEWEST_FRAMES}")
    masses, free = atomic_masses[numbers], not found.pbc.any()
    velocities = np.zeros_like(found.positions_A) if found.velocities is None else found.velocities
    kinetic = [np.nan if found.velocities is None else kinetic_eV(v, masses) for v in velocities]
    return Run(
        time_ps=found.time_ps - found.time_ps[0],
        potential_eV=np.full(count, np.nan),
        kinetic_eV=np.array(kinetic),
        positions_A=found.positions_A,
        velocities_A_per_fs=velocities,
        numbers=numbers,
        cell_A=np.zeros((count, 3, 3)) if free else found.cell_A,
        pbc=found.pbc,
        masses_Da=masses,
        timestep_fs=settings.timestep_fs,
        temperature_K=settings.temperature_K,
        dof=degrees_of_freedom(found.positions_A[0] / NM_TO_A, stop_rotation=free),
        engine=Path(path).name,
    )


def _kind_of(path: str | Path) -> str:
    """What a file is by its beginning, where that matters; else empty."""
    if not Path(path).is_file():
        raise CompactFFError(f"no such file: {path}")
    with open_with_compression(str(path), "rb") as file:
        head = file.read(HEAD_BYTES)
    if head.startswith(b"ITEM: "):
        return DUMP
    if head[4:8] == b"CORD" and b"LAMMPS" in head[:DCD_TITLES_END]:
        return DCD
    comment = head.partition(b"\n")[2].partition(b"\n")[0]
    return EXTENDED_XYZ if b"Properties=" in comment or b"Lattice=" in comment else ""


def _by_ase(path: str | Path, settings: SuiteSettings) -> _Frames:
    """Of formats of which MDAnalysis does not read which sides are periodic; boxes are turned for it."""
    rows = []
    frames = read_structures(path)
    for number, atoms in enumerate(frames):
        Structure.from_ase(atoms)  # refuses what makes no sense
        cell, turn = atoms.cell.standard_form() if atoms.pbc.all() else (atoms.cell, np.eye(3))
        time_ps = float(atoms.info.get("time_ps", number * settings.frame_fs / 1e3))
        speeds = atoms.get_velocities() * units.fs
        rows.append((atoms.positions @ turn.T, speeds @ turn.T, cell.array, time_ps))
    if len({len(atoms) for atoms in frames}) > 1:
        raise CompactFFError(f"the frames of {path} differ in their atoms; expected the same in all")
    positions, velocities, cells, times = (np.array(part) for part in zip(*rows, strict=True))
    moving = all(atoms.has("momenta") for atoms in frames)
    return _Frames(positions, velocities if moving else None, cells, frames[0].pbc.copy(), times)


def _by_mdanalysis(universe: Any, path: str | Path, kind: str, settings: SuiteSettings) -> _Frames:
    frames, velocities, cells, times = [], [], [], []
    moving = True
    try:
        for moment in universe.trajectory:
            frames.append(np.array(moment.positions, dtype=np.float64))
            moving = moving and bool(moment.has_velocities)
            velocities.append(np.array(moment.velocities) * A_PER_PS if moving else np.zeros_like(frames[-1]))
            box = moment.dimensions
            cells.append(np.zeros((3, 3)) if box is None else np.array(moment.triclinic_dimensions, float))
            made_up_ps = float(moment.frame) * settings.frame_fs / 1e3
            times.append(made_up_ps if kind in TIMELESS else _time_ps(moment, made_up_ps))
    except (OSError, ValueError, EOFError) as error:
        raise CompactFFError(f"{path} is damaged after frame {len(frames)}: {error}") from error
    periodic = bool(np.abs(np.linalg.det(np.array(cells))).min() > 0)
    speeds = np.array(velocities) if moving else None
    return _Frames(np.array(frames), speeds, np.array(cells), np.full(3, periodic), np.array(times))


def _time_ps(moment: Any, otherwise_ps: float) -> float:
    """Time of a frame; ``otherwise_ps`` where the format knows none, as XYZ."""
    with warnings.catch_warnings():
        # MDAnalysis makes up 1 ps, and only warns.
        warnings.filterwarnings("error", message="Reader has no dt information")
        try:
            return float(moment.time)
        except UserWarning:
            return otherwise_ps


def elements_of(universe: Any, topology: str | Path) -> np.ndarray:
    """Atomic numbers, shape (N,), of the topology's elements, or of names that are elements.

    Raises
    ------
    CompactFFError
        Where it tells neither.
    """
    for attribute in ("elements", "names"):
        symbols = [str(s).strip().capitalize() for s in getattr(universe.atoms, attribute, [])]
        if symbols and all(symbol in atomic_numbers and symbol != "X" for symbol in symbols):
            return np.array([atomic_numbers[symbol] for symbol in symbols])
    raise CompactFFError(
        f"the topology {topology} does not tell the elements of its atoms; expected a PDB with columns 77 "
        "and 78, an XYZ, or another format with elements"
    )


def _stability(campaign: Campaign, runs: Sequence[Run]) -> Section:
    """Bonds of the first frame along every trajectory."""
    reference = Structure(runs[0].positions_A[0], runs[0].numbers, runs[0].cell_A[0], runs[0].pbc)
    found = [stability.survival(run, reference, campaign.molecules) for run in runs]
    findings = stability.survival_findings(campaign, found, "")
    bonds = campaign.molecules.bonds
    if not len(bonds):
        return Section(tuple(findings))
    lines = {}
    for run in runs[:6]:
        lengths = stability.bond_lengths(run, bonds)
        lines[run.engine] = (run.time_ps, np.abs(lengths - lengths[0]).max(1))
    figure = pictures.curves({"largest change of a bond": lines}, "time (ps)", "Å")
    return Section(tuple(findings), {}, {"bonds": campaign.picture("stability", figure)})


def _check_same(first: Run, runs: Sequence[Run], paths: Sequence[str | Path]) -> None:
    for run, path in zip(runs, paths, strict=True):
        if not np.array_equal(run.numbers, first.numbers) or not np.array_equal(run.pbc, first.pbc):
            raise CompactFFError(
                f"{path} and {paths[0]} differ in their atoms or in having a box; expected the same system"
            )


def _fingerprint(path: str | Path) -> dict[str, Any]:
    """Name and size: a trajectory may be too long to be read twice."""
    return {"file": Path(path).name, "bytes": Path(path).stat().st_size if Path(path).is_file() else None}


def _no_calculator(dtype: str) -> BaseCalculator:
    raise CompactFFError(
        "trajectories have no calculator; give a student and a teacher for energies and forces"
    )
