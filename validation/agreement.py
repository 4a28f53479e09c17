"""Whether engines agree: the same atoms and velocities, by energies, forces and a short trajectory."""

from __future__ import annotations

import numpy as np
from ase.data import atomic_masses

from compactff_md.errors import CompactFFError
from compactff_md.structure import Structure
from compactff_md.validation.campaign import Campaign
from compactff_md.validation.engine_ase import at_rest_at
from compactff_md.validation.engine_lammps import LAMMPSEngine
from compactff_md.validation.outcome import Finding, Section
from compactff_md.validation.subject import ENGINES
from compactff_md.validation.task import Engine, State, Task

FRAMES = 3
STRAIN = 1e-4


def run(campaign: Campaign) -> Section:
    """The section: every engine that works here against ASE."""
    others = [name for name in ENGINES if name != "ase"]
    findings: list[Finding] = []
    for name in others:
        try:
            engine = campaign.student_engine(name=name)
            findings += compare_points(campaign, engine, name)
            findings += compare_virials(campaign, name)
            findings += compare_runs(campaign, engine, name)
        except CompactFFError as error:
            findings.append(campaign.judge("engines.forces", None, "meV/Å", note=str(error), subject=name))
    return Section(tuple(findings))


def compare_points(campaign: Campaign, engine: Engine, subject: str) -> list[Finding]:
    """Energies and forces of single structures, in float32."""
    reference = campaign.student_engine(name="ase")
    frames = campaign.sample(FRAMES)
    energy, force, scale = 0.0, 0.0, 0.0
    for frame in frames:
        expected, got = reference.single_point(frame), engine.single_point(frame)
        energy = max(energy, 1e3 * abs(got[0] - expected[0]) / len(frame))
        force = max(force, 1e3 * float(np.abs(got[1] - expected[1]).max()))
        scale = max(scale, 1e3 * float(np.abs(expected[1]).max()))
    note = f"the largest force is {scale:.4g} meV/Å"
    return [
        campaign.judge("engines.energy", energy, "meV/atom", subject=subject),
        campaign.judge("engines.forces", force, "meV/Å", subject=subject, note=note),
    ]


def compare_virials(campaign: Campaign, subject: str) -> list[Finding]:
    """Virials of a periodic structure in float64, for which small differences of energies are exact enough.

    Of an engine that tells none its trace is taken from the energies of two volumes.
    """
    structure = campaign.sample(1)[0]
    if not structure.pbc.all():
        return []
    engine = campaign.student_engine("float64", subject)
    atoms = structure.to_ase()
    atoms.calc = campaign.subject.calculator("float64")
    expected = -atoms.get_stress(voigt=False) * atoms.get_volume()
    if isinstance(engine, LAMMPSEngine):
        difference, note = np.abs(engine.virial(structure) - expected).max(), "all six components"
    else:
        energies = [engine.single_point(_scaled(structure, 1 + sign * STRAIN))[0] for sign in (1, -1)]
        trace = -(energies[0] - energies[1]) / (2 * STRAIN)
        difference, note = abs(trace - np.trace(expected)), "the trace, by finite differences"
    value = 100 * float(difference / np.abs(expected).max())
    return [campaign.judge("engines.virial", value, "%", subject=subject, note=note)]


def _scaled(structure: Structure, factor: float) -> Structure:
    return Structure(
        structure.positions_A * factor, structure.numbers, structure.cell_A * factor, structure.pbc
    )


def compare_runs(campaign: Campaign, engine: Engine, subject: str) -> list[Finding]:
    """Masses, and how far two trajectories of the same start are apart at the end."""
    s = campaign.settings
    structure = campaign.structure
    rng = np.random.default_rng(campaign.seed("agreement"))
    masses = atomic_masses[structure.numbers]
    drawn = rng.normal(size=(len(structure), 3)) / np.sqrt(masses)[:, None]
    start = State(structure.positions_A, at_rest_at(structure, drawn, s.temperature_K))
    every = max(1, s.agreement_steps // 20)
    steps = s.agreement_steps // every * every
    task = Task("nve", s.temperature_K, s.timestep_fs, steps, every, campaign.seed("agreement"))
    reference = campaign.run("agreement-ase", campaign.student_engine(name="ase"), task, start)
    run_ = campaign.run(f"agreement-{subject}", engine, task, start)
    weight = 100 * float(np.abs(run_.masses_Da / masses - 1).max())
    findings = [campaign.judge("engines.masses", weight, "%", subject=subject)]
    if run_.failure or reference.failure:
        reason = run_.failure or reference.failure
        return [*findings, campaign.judge("engines.trajectory", None, "Å", note=reason, subject=subject)]
    apart = run_.positions_A - reference.positions_A
    apart = apart - apart[:1]  # engines may hold other periodic images
    distance = np.sqrt((apart**2).sum(2).mean(1))
    moved = np.sqrt(((reference.positions_A[-1] - reference.positions_A[0]) ** 2).sum(1).mean())
    note = f"after {steps} steps, in which the atoms moved by {moved:.3g} Å"
    temperature = abs(run_.kinetic_temperature_K[0] / reference.kinetic_temperature_K[0] - 1)
    return [
        *findings,
        campaign.judge("engines.trajectory", float(distance[-1]), "Å", note=note, subject=subject),
        campaign.judge("engines.kinetic", 100 * float(temperature), "%", subject=subject),
    ]
