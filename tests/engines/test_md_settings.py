import pytest

from compactff_md.engines.md_settings import MDSettings
from compactff_md.errors import CompactFFError


def test_steps_or_time_give_the_length():
    assert MDSettings(steps=7).total_steps == 7
    assert MDSettings(time_ps=10).total_steps == 20_000
    assert MDSettings(time_ps=1e-9).total_steps == 1


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({}, r"no length: give steps \(--steps 20000\) or time_ps \(--time 10ps\)"),
        ({"steps": 1, "time_ps": 1}, "two lengths.*not both"),
        ({"steps": 0}, "steps is 0: .*greater than or equal to 1"),
        ({"steps": 10, "ensemble": "nph"}, "ensemble is 'nph': .*'nve', 'nvt' or 'npt'"),
        ({"steps": 10, "timestep_fs": 0}, "timestep_fs is 0"),
        ({"steps": 10, "temperature_K": -5}, "temperature_K is -5"),
        ({"steps": 10, "temperature_K": float("nan")}, "temperature_K is nan"),
        ({"steps": 10, "pressure_bar": 1.0}, "for npt only"),
        ({"steps": 10, "cell_changes": "flexible"}, "cell_changes is for npt only, and the ensemble is nvt"),
        ({"steps": 10, "barostat_interval": 5}, "barostat_interval is for npt only"),
        ({"steps": 10, "ensemble": "nve", "friction_per_ps": 5}, "friction_per_ps is for nvt and npt only"),
        ({"steps": 10, "ensemble": "npt", "temperature_K": 0}, "temperature above 0 K"),
        (
            {"steps": 10, "temperature": 300},
            "unknown setting 'temperature'; known are ensemble, temperature_K",
        ),
        ({"steps": 10, "force": "torch"}, "force is 'torch'"),
        ({"steps": 10, "trajectory_format": "pdb"}, "'xtc' or 'dcd'"),
    ],
)
def test_wrong_settings_name_the_field_and_what_is_allowed(fields, message):
    with pytest.raises(CompactFFError, match=message):
        MDSettings(**fields)


def test_differences_are_named_but_for_what_may_change():
    one = MDSettings(steps=10, seed=1, platform="CPU")
    other = MDSettings(time_ps=1, timestep_fs=1.0, seed=2)
    assert one.differences(other) == ["timestep_fs", "seed"]
    assert one.differences(MDSettings(**one.model_dump())) == []


def test_what_the_ensemble_uses_and_defaults_are_taken():
    assert MDSettings(steps=1, ensemble="npt", cell_changes="flexible", barostat_interval=5).unused() == []
    assert MDSettings(steps=1, ensemble="nve", friction_per_ps=5, equilibration_ps=1).friction_per_ps == 5
    assert MDSettings(steps=1, ensemble="nve", friction_per_ps=1.0, cell_changes="isotropic").unused() == []


def test_settings_of_earlier_runs_are_read_without_what_they_did_not_use():
    idle = {"cell_changes": "flexible", "friction_per_ps": 5.0}
    plain = MDSettings(steps=1, ensemble="nve")
    assert MDSettings.saved({**plain.model_dump(), **idle}).differences(plain) == []
    warm = MDSettings(steps=1, ensemble="nve", equilibration_ps=1.0, friction_per_ps=5.0)
    assert MDSettings.saved({**warm.model_dump(), **idle}) == warm
