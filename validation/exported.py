"""Whether an exported file is the trained student, and what single precision costs."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import torch
from ase.calculators.calculator import BaseCalculator

from compactff_md.artifact import student_from_bytes
from compactff_md.errors import CompactFFError
from compactff_md.structure import Structure
from compactff_md.student import Student
from compactff_md.validation.campaign import Campaign
from compactff_md.validation.outcome import Finding, Section, failed
from compactff_md.validation.subject import fingerprint
from compactff_md.validation.symmetry import evaluate

DTYPES = ("float32", "float64")
FRAMES = 4


def run(campaign: Campaign) -> Section:
    """The section: TorchScript files in both dtypes and an ML-IAP file, written and read again."""
    frames = campaign.sample(FRAMES)
    findings = [_rounding(campaign, frames)]
    student = campaign.subject.student
    if student is not None:
        folder = campaign.stages.file("exported")
        folder.mkdir(exist_ok=True)
        for dtype in DTYPES:
            path = folder / f"{campaign.place}-{dtype}.pt"
            try:
                student.export(path, dtype=dtype)
                findings += compare_file(campaign, path, campaign.calculator(dtype), frames, dtype)
            except CompactFFError as error:  # the exporter found the difference itself
                finding = campaign.judge("export.torchscript.forces", None, "meV/Å", subject=dtype)
                findings.append(failed(finding, str(error)))
        path = student.export(folder / f"{campaign.place}.mliap.pt", format="mliap")
        findings.append(same_weights(campaign, path, student))
    return Section(tuple(findings))


def compare_file(
    campaign: Campaign, path: Path, calculator: BaseCalculator, frames: list[Structure], subject: str
) -> list[Finding]:
    """Differences of a TorchScript file from the student, in the file's own dtype."""
    module = torch.jit.load(str(path))
    energy, force, virial = 0.0, 0.0, 0.0
    for frame in frames:
        found = _from_file(module, frame)
        expected = evaluate(calculator, frame)
        energy = max(energy, 1e3 * abs(found[0] - expected[0]) / len(frame))
        force = max(force, 1e3 * float(np.abs(found[1] - expected[1]).max()))
        if frame.pbc.all():
            virial = max(virial, _virial_difference(found[2], calculator, frame))
    findings = [
        campaign.judge("export.torchscript.energy", energy, "meV/atom", subject=subject),
        campaign.judge("export.torchscript.forces", force, "meV/Å", subject=subject),
    ]
    if frames[0].pbc.all():
        findings.append(campaign.judge("export.torchscript.virial", virial, "meV/atom", subject=subject))
    return findings


def same_weights(campaign: Campaign, path: Path, student: Student) -> Finding:
    """Whether an ML-IAP file holds the weights of this student; 0 where it does, 1 where not."""
    with warnings.catch_warnings():
        # torch.load passes TorchScript files on to torch.jit.load and warns; they are refused below.
        warnings.filterwarnings("ignore", message=".*TorchScript archive")
        loaded: Any = torch.load(path, weights_only=False)  # a pickle of our own
    content = getattr(loaded, "content", None)
    if not isinstance(content, bytes):
        raise CompactFFError(f"{path} is no ML-IAP file of compactff-md; expected one by compactff export")
    network, _ = student_from_bytes(content, str(path))
    same = fingerprint(network) == fingerprint(student.network)
    return campaign.judge("export.mliap.weights", 0.0 if same else 1.0, "")


def _rounding(campaign: Campaign, frames: list[Structure]) -> Finding:
    """Root mean square difference between the forces in float32 and in float64."""
    single, double = (campaign.calculator(dtype) for dtype in DTYPES)
    squares = [((evaluate(single, f)[1] - evaluate(double, f)[1]) ** 2).mean() for f in frames]
    return campaign.judge("export.rounding", 1e3 * float(np.sqrt(np.mean(squares))), "meV/Å")


def _from_file(module: Any, frame: Structure) -> tuple[float, np.ndarray, np.ndarray]:
    """Energy, forces and virial by the file."""
    inputs = (
        torch.from_numpy(np.array(a)) for a in (frame.positions_A, frame.numbers, frame.cell_A, frame.pbc)
    )
    energies, forces, virial = module.evaluate(*inputs)
    return float(energies.sum()), forces.double().numpy(), virial.double().numpy()


def _virial_difference(virial_eV: np.ndarray, calculator: BaseCalculator, frame: Structure) -> float:
    atoms = frame.to_ase()
    atoms.calc = calculator
    expected = atoms.get_stress(voigt=False) * frame.volume_A3
    return 1e3 * float(np.abs(virial_eV - expected).max()) / len(frame)
