"""Displacements and diffusion, against MDAnalysis and random walks of which both are known."""

import re
from dataclasses import replace

import numpy as np
import pytest

from compactff_md.validation import shipped, transport
from compactff_md.validation.outcome import Section
from compactff_md.validation.report import Report
from validation_builders import campaign, gas, subject


@pytest.mark.parametrize(
    ("scale", "spread", "verdict"),
    [
        (0.0, 0.4, "undecided"),
        (0.5, 0.2, "undecided"),
        (1.0, 0.4, "undecided"),
        (1.0, 0.05, "pass"),
        (1.03, 0.01, "pass"),
        (0.3, 0.05, "fail"),
    ],
)
def test_diffusion_passes_only_where_half_of_it_would_be_seen(tmp_path, monkeypatch, scale, spread, verdict):
    rows = np.array([-1.0, -0.4, 0.4, 1.0])
    values = 3e-5 * np.concatenate([1.0 + spread * rows, scale * (1.0 + spread * rows)])
    runs = [gas(seed) for seed in range(8)]
    of_run = dict(zip(map(id, runs), values, strict=True))
    monkeypatch.setattr(transport, "diffusion_cm2_per_s", lambda run, _: of_run[id(run)])
    bench = campaign(tmp_path, subject(), runs[0].structure(0))
    found = transport.compare_transport(bench, runs[:4], runs[4:]).findings
    finding = next(f for f in found if f.key == "dynamics.diffusion")
    assert finding.verdict == verdict, finding
    # In a report of when all that was near enough passed, the same is told from the note.
    a, b = values[:4], values[4:]
    error = np.sqrt((a.var(ddof=1) + b.var(ddof=1)) / 4)
    note = f"student {b.mean():.3g}, teacher {a.mean():.3g}, error {error:.2g} cm²/s"
    earlier = replace(finding, verdict="pass", note=note)
    report = shipped.by_present_rules(Report("r", {"dynamics": Section((earlier,))}))
    assert report.findings[0].verdict == ("pass" if verdict == "pass" else "undecided")


def test_runs_of_a_few_frames_tell_no_transport(tmp_path):
    runs = [gas(seed, frames=1) for seed in range(8)]
    bench = campaign(tmp_path, subject(), runs[0].structure(0))
    found = transport.compare_transport(bench, runs[:4], runs[4:]).findings
    assert [finding.verdict for finding in found] == ["undecided"] * 2


@pytest.mark.parametrize(("scale", "verdict"), [(1.0, "pass"), (2.0, "fail")])
def test_displacements_of_random_walks_are_told_apart(tmp_path, scale, verdict):
    runs = [gas(seed, frames=401) for seed in range(8)]
    students = [replace(run, positions_A=scale * run.positions_A) for run in runs[4:]]
    bench = campaign(tmp_path, subject(), runs[0].structure(0))
    found = transport.compare_transport(bench, runs[:4], students)
    for finding in (f for f in found.findings if f.key == "dynamics.msd"):
        assert finding.verdict == verdict, finding
        student, teacher, low, high = map(float, re.findall(r"\d+\.?\d*", finding.note)[:4])
        expected = 3 * 0.2**2 * 100  # A^2, in a hundred steps: a quarter
        assert teacher == pytest.approx(expected, rel=0.2) and low <= teacher <= high
        assert student == pytest.approx(scale**2 * expected, rel=0.2)
        assert finding.note.endswith("in 10 ps")
    assert (tmp_path / found.pictures["mean squared displacement"]).stat().st_size > 10_000


def test_displacement_is_that_of_mdanalysis():
    pytest.importorskip("MDAnalysis")
    import MDAnalysis
    from MDAnalysis.analysis.msd import EinsteinMSD

    run = gas(3)
    universe = MDAnalysis.Universe.empty(24, trajectory=True)
    universe.load_new(run.positions_A.astype(np.float32))
    expected = EinsteinMSD(universe, msd_type="xyz", fft=False).run().results.timeseries
    assert transport.mean_squared_displacement(run.positions_A) == pytest.approx(expected, rel=1e-4, abs=1e-3)


def test_diffusion_of_a_random_walk():
    run = gas(5, frames=3000)
    found = transport.diffusion_cm2_per_s(run, np.ones(24, dtype=bool))
    assert found == pytest.approx(0.2**2 / (2 * 0.1) * 1e-4, rel=0.35)  # <dx^2> / 2 dt, in A^2/ps


@pytest.mark.parametrize(("of_teacher", "of_student", "verdict"), [(4, 8, "pass"), (4, 3, "undecided")])
def test_sides_may_have_different_numbers_of_replicas(tmp_path, of_teacher, of_student, verdict):
    runs = [gas(seed, frames=401) for seed in range(of_teacher + of_student)]
    bench = campaign(tmp_path, subject(), runs[0].structure(0))
    found = transport.compare_transport(bench, runs[:of_teacher], runs[of_teacher:])
    findings = [f for f in found.findings if f.key == "dynamics.msd"]
    assert findings and {f.verdict for f in findings} == {verdict}, findings
