"""Chains of labels that a test runs by itself, with ASE's EMT for a teacher."""

from types import SimpleNamespace

from ase.calculators.emt import EMT
from ase.io import read

from compactff_md.training.chains import Chain, shards_of
from compactff_md.training.config import SamplingConfig
from compactff_md.training.labelling import Labeller
from compactff_md.training.recipe_files import make_config


class KilledError(Exception):
    pass


def run(folder, spec, structures, config, report=lambda frames: None, calculator=EMT, limit=None):
    labeller = Labeller(SimpleNamespace(name="test", settings={}, calculator=calculator))
    return Chain(spec, structures, folder, config, labeller).run(report, limit)


def frames_of(folder):
    return [frame for shard in shards_of(folder) for frame in read(shard, ":")]


def sampling(**fields) -> SamplingConfig:
    return make_config(SamplingConfig, {"spacing_steps": 3, **fields})
