import ase.io
import pytest
from ase.build import molecule

from compactff_md.training.bench_ablation import USUAL, ablation, variants
from compactff_md.training.config import DistillConfig
from compactff_md.training.recipe_files import make_config


def test_every_variant_is_a_recipe_of_the_same_cost():
    calls = 3000
    for name, fields in variants(calls).items():
        config = make_config(DistillConfig, {"structures": "aspirin.xyz", "steps": 10, **fields}, name)
        cost = config.rounds.labels if config.rounds.most else 0
        for step in config.sampling.steps:
            a_frame = 1.0
            if step.kind == "md" and step.driver is None:
                a_frame = (step.spacing_steps + step.rattles) / (1 + step.rattles)
            cost += step.frames * a_frame
        assert cost == pytest.approx(calls, rel=0.01), name
    assert USUAL in variants(calls)


@pytest.mark.slow
def test_a_small_table(tmp_path, monkeypatch):
    pytest.importorskip("tblite")
    chosen = {name: fields for name, fields in variants(200).items() if name in (USUAL, "dynamics alone")}
    assert len(chosen) == 2

    ase.io.write(tmp_path / "water.xyz", molecule("H2O"))
    monkeypatch.setattr("compactff_md.training.bench_ablation.variants", lambda calls: chosen)
    rows = ablation(tmp_path / "water.xyz", 200, 20, tmp_path / "out", jobs=2)
    assert [row["what"] for row in rows] == list(chosen)
    assert all(row["frames"] > 3 and row["test_300K_rmse_meV_per_A"] > 0 for row in rows)
