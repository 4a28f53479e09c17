"""Students as they are made: sizes, budgets and what is refused."""

import json

import pytest
import torch

from compactff_md.errors import CompactFFError
from compactff_md.students import ARCHITECTURES, BUDGETS, SIZES, VARIANTS, create, rebuild
from student_builders import (
    ELEMENTS,
    MOLECULE,
    evaluate,
)


class TestCreation:
    @pytest.mark.parametrize(
        "elements", [["C"], ELEMENTS, ["H", "C", "N", "O", "F", "P", "S", "Cl"]], ids=len
    )
    @pytest.mark.parametrize("size", SIZES)
    @pytest.mark.parametrize("variant", VARIANTS)
    def test_budgets_hold(self, variant, size, elements):
        assert BUDGETS == {"original": 427_292, "tiny": 77_203, "ultra-tiny": 21_459}
        network = create(size, elements, architecture=variant)
        assert network.num_parameters <= BUDGETS[size]
        learned = sum(p.numel() for p in network.parameters())
        assert network.num_parameters == learned + len(elements) + 1
        assert network.num_parameters > BUDGETS[size] // 2

    @pytest.mark.parametrize("variant", VARIANTS)
    def test_one_seed_makes_one_network(self, variant):
        before = torch.random.get_rng_state()
        a, b, c = (create("ultra-tiny", ELEMENTS, architecture=variant, seed=seed) for seed in (5, 5, 6))
        assert torch.equal(torch.random.get_rng_state(), before)
        assert all(torch.equal(x, y) for x, y in zip(a.parameters(), b.parameters(), strict=True))
        assert not all(torch.equal(x, y) for x, y in zip(a.parameters(), c.parameters(), strict=True))

    def test_it_is_rebuilt_from_what_a_file_holds(self, trained):
        hyperparameters = json.loads(json.dumps(trained.hyperparameters))
        twin = rebuild(trained.architecture, hyperparameters, list(trained.elements), trained.cutoff_A)
        twin.load_state_dict(trained.state_dict())
        assert trained.architecture in ARCHITECTURES
        for a, b in zip(evaluate(twin.eval(), MOLECULE), evaluate(trained, MOLECULE), strict=True):
            assert torch.equal(a, b)

    def test_the_receptive_field_is_the_cutoff_times_the_interactions(self, trained):
        assert trained.cutoff_A == 5.0
        assert trained.receptive_field_A == 5.0 * trained.num_interactions

    @pytest.mark.parametrize(
        ("arguments", "options", "message"),
        [
            (("huge", ELEMENTS), {}, "unknown size 'huge'; allowed are original, tiny, ultra-tiny"),
            (("tiny", ELEMENTS), {"architecture": "gpt"}, "unknown architecture 'gpt'; allowed are moments"),
            (("tiny", []), {}, "expected at least one"),
            (("tiny", ["H", "H"]), {}, "each once"),
            (("tiny", ["H", "Xx"]), {}, "'Xx' is not an element"),
            (("tiny", ["Fr"]), {}, "'Fr' is not an element from H to Rn"),
            (("tiny", ELEMENTS), {"cutoff_A": 0.5}, "allowed are 1 to 20 A"),
            (("tiny", ELEMENTS), {"cutoff_A": 50.0}, "allowed are 1 to 20 A"),
        ],
    )
    def test_bad_arguments_are_refused(self, arguments, options, message):
        with pytest.raises(CompactFFError, match=message):
            create(*arguments, **options)

    def test_unknown_architectures_and_hyperparameters_of_a_file_are_refused(self):
        with pytest.raises(CompactFFError, match="unknown architecture 'later'"):
            rebuild("later", {}, ELEMENTS, 5.0)
        for name in ARCHITECTURES:
            with pytest.raises(CompactFFError, match="hyperparameters"):
                rebuild(name, {"unheard_of": 1}, ELEMENTS, 5.0)
