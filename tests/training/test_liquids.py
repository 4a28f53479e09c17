import numpy as np
import pytest
from ase.build import bulk, molecule

from compactff_md.engines.molecules import find_molecules
from compactff_md.errors import CompactFFError
from compactff_md.structure import Structure
from compactff_md.training.clusters import contact_radii
from compactff_md.training.liquids import cut_piece, draw_mixture, fill_box

PARTS = [molecule("H2O"), molecule("CH3CN"), molecule("C6H6")]


def test_a_mixture_has_water_by_its_share_and_fits():
    rng = np.random.default_rng(0)
    assert {len(part) for part in draw_mixture(PARTS, 2, 1.0, 100, rng)} == {3}
    dry = draw_mixture([PARTS[2]], 2, 0.0, 100, rng)
    assert [len(part) for part in dry] == [12] * 8
    half = draw_mixture([PARTS[2]], 1, 0.5, 300, rng)
    assert 280 < sum(map(len, half)) <= 300
    assert 0.25 < np.mean([len(part) == 3 for part in half]) < 0.75


def test_a_box_is_filled_with_whole_molecules_in_contact_and_no_closer():
    rng = np.random.default_rng(1)
    for parts in ([PARTS[0]] * 20, [PARTS[1]] * 9, PARTS * 4):
        box = fill_box(parts, 0.8, rng)
        assert box.pbc.all() and np.allclose(box.cell.array, box.cell[0, 0] * np.eye(3))
        owner = np.repeat(np.arange(len(parts)), [len(part) for part in parts])
        radii = contact_radii(box.numbers)
        closeness = box.get_all_distances(mic=True) / (radii[:, None] + radii)
        between = closeness[owner[:, None] != owner].min()
        assert 0.8 <= between < 0.95
        for k, part in enumerate(parts):
            inner = box.positions[owner == k]
            distances = np.linalg.norm(inner[:, None] - inner, axis=-1)
            assert np.allclose(distances, part.get_all_distances(), atol=1e-9)
    # As dense as can be hoped for of molecules that are turned one by one.
    water = fill_box([PARTS[0]] * 50, 0.8, rng)
    assert water.get_masses().sum() / water.get_volume() > 0.4  # u/A^3; 0.6 is the liquid


def test_a_piece_is_whole_molecules_about_a_place_and_free():
    rng = np.random.default_rng(2)
    box = fill_box([PARTS[0]] * 30, 0.8, rng)
    box.wrap()  # molecules now lie across the boundaries
    molecules = find_molecules(Structure.from_ase(box))
    for _ in range(5):
        piece = cut_piece(box, molecules, 37, rng)
        assert len(piece) == 36 and not piece.pbc.any()
        assert piece.get_chemical_symbols() == ["O", "H", "H"] * 12
        oxygens = piece.positions[::3]
        for k in (1, 2):
            assert np.linalg.norm(piece.positions[k::3] - oxygens, axis=1) == pytest.approx(
                [0.969] * 12, abs=0.01
            )
        # Round: as near to its middle as twelve places of the box can be, images counted once.
        inside = np.linalg.norm(oxygens - oxygens.mean(0), axis=1).max()
        assert inside < 0.75 * box.cell[0, 0] * (12 / 30) ** (1 / 3)
    assert len({cut_piece(box, molecules, 37, rng).positions.sum() for _ in range(5)}) == 5


def test_pieces_of_a_crystal_and_of_too_large_molecules_are_refused():
    rng = np.random.default_rng(3)
    crystal = bulk("NaCl", "rocksalt", 5.64, cubic=True)
    with pytest.raises(CompactFFError, match="crystal or a polymer"):
        cut_piece(crystal, find_molecules(Structure.from_ase(crystal)), 20, rng)
    box = fill_box([PARTS[2]] * 4, 0.8, rng)
    with pytest.raises(CompactFFError, match="no molecule there has at most 10 atoms; raise piece_atoms"):
        cut_piece(box, find_molecules(Structure.from_ase(box)), 10, rng)
