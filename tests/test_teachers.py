import importlib
import pickle
import shutil
import sys
import threading
import types
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from ase.build import bulk, molecule
from ase.calculators.emt import EMT

from compactff_md import students, teachers
from compactff_md.artifact import describe, save_student
from compactff_md.engines.ase import StudentCalculator
from compactff_md.errors import CompactFFError
from compactff_md.student import student_file
from compactff_md.teachers import TEACHERS, TeacherKind, available, create_teacher
from compactff_md.training.liquids import fill_box
from compactff_md.units import BOHR_TO_A, HARTREE_TO_EV


@pytest.fixture
def without(monkeypatch):
    """Make a package look as if it were not installed."""

    def hide(package):
        for name in [n for n in sys.modules if n.split(".")[0] == package]:
            monkeypatch.delitem(sys.modules, name)
        monkeypatch.setitem(sys.modules, package, None)

    return hide


def replaced(monkeypatch, name, **content):
    """Put a small module in the place of a package, to see what it would be told.

    What the real ones say is in test_networks_with_their_weights_for_real, where they are installed.
    """
    parts = name.split(".")
    for end in range(1, len(parts) + 1):
        partial = ".".join(parts[:end])
        module = types.ModuleType(partial)
        module.__path__ = []
        monkeypatch.setitem(sys.modules, partial, module)
    for key, value in content.items():
        setattr(sys.modules[name], key, value)


@pytest.mark.parametrize(("name", "method"), [("gfn2-xtb", "GFN2-xTB"), ("gfn1-xtb", "GFN1-xTB")])
def test_xtb_for_real_and_quiet(name, method, capfd):
    """The reference is tblite's own interface in atomic units, without ASE."""
    interface = pytest.importorskip("tblite.interface")
    teacher = create_teacher(name)
    water = molecule("H2O")
    teacher.check(water)
    reference = interface.Calculator(method, water.numbers, water.positions / BOHR_TO_A)
    reference.set("verbosity", 0)
    result = reference.singlepoint()
    water.calc = teacher.calculator()
    assert water.get_potential_energy() == pytest.approx(result["energy"] * HARTREE_TO_EV, abs=1e-5)
    forces = -result["gradient"] * HARTREE_TO_EV / BOHR_TO_A
    assert water.get_forces() == pytest.approx(forces, abs=1e-5)
    assert teacher.version[0].isdigit()
    assert capfd.readouterr() == ("", "")


def test_xtb_arguments_reach_the_calculator():
    pytest.importorskip("tblite")
    teacher = create_teacher("gfn2-xtb", charge=1)
    assert teacher.describe()["settings"] == {"charge": 1}
    water = molecule("H2O")
    water.calc = teacher.calculator()
    assert water.get_potential_energy() > -137.9 + 5.0  # ionisation costs more than 5 eV
    with pytest.raises(CompactFFError, match=r"no argument chrage; allowed are charge"):
        create_teacher("gfn2-xtb", chrage=1)


def test_teacher_is_plain_data_with_fresh_calculators():
    teacher = create_teacher("ase.calculators.emt:EMT", asap_cutoff=True)
    again = pickle.loads(pickle.dumps(teacher))
    assert again == teacher
    assert again.calculator() is not again.calculator()
    assert isinstance(again.calculator(), EMT)
    assert again.calculator().parameters["asap_cutoff"] is True


def test_element_beyond_the_teacher():
    pytest.importorskip("tblite")
    teacher = create_teacher("gfn2-xtb")
    with pytest.raises(
        CompactFFError, match=r"fuel\.xyz: the teacher gfn2-xtb does not know U; it knows H, He"
    ):
        teacher.check(bulk("U", crystalstructure="fcc", a=4.0), "fuel.xyz")


def test_unknown_name_lists_what_exists():
    with pytest.raises(
        CompactFFError, match=r"unknown teacher 'gfn3'; allowed are gfn2-xtb.*mace:FILE.*module:"
    ):
        create_teacher("gfn3")
    for name in ("", ":", "mace", "mace:", "gfn2-xtb:file", "orb:"):
        with pytest.raises(CompactFFError, match="unknown teacher"):
            create_teacher(name)


@pytest.mark.parametrize("key", list(TEACHERS))
def test_missing_package_says_what_to_install(key, without):
    kind = TEACHERS[key]
    without(kind.module)
    usage = f"{key}:x" if kind.target else key
    with pytest.raises(CompactFFError, match=f"needs {kind.module}.*run: pip install"):
        create_teacher(usage)
    assert available()[teachers._usage(key)] == kind.install


def test_callable_from_the_current_folder(tmp_path, monkeypatch):
    code = "from ase.calculators.emt import EMT\ndef make(cutoff=1):\n    return EMT()\nNOT = dict\n"
    (tmp_path / "my_teacher.py").write_text(code)
    monkeypatch.chdir(tmp_path)
    before = list(sys.path)
    teacher = create_teacher("my_teacher:make", cutoff=2)
    assert teacher.version.startswith("unknown, my_teacher.py sha256 ")
    assert (teacher.elements, sys.path) == (None, before)
    teacher.check(molecule("H2O"))
    for name, message in {
        "my_teacher:none": "no attribute 'none'",
        "no_such_module:x": "No module named",
        "my_teacher:NOT": "returned a dict; expected an ASE calculator",
    }.items():
        with pytest.raises(CompactFFError, match=message):
            create_teacher(name)
    with pytest.raises(CompactFFError, match="unexpected keyword"):
        create_teacher("my_teacher:make", wrong=1)
    monkeypatch.delitem(sys.modules, "my_teacher")


def test_the_version_is_that_of_the_code_that_was_imported(tmp_path, monkeypatch):
    """A process goes on with what it has, whatever becomes of the file."""
    monkeypatch.syspath_prepend(tmp_path)
    code = "from ase.calculators.emt import EMT as make\n"
    (tmp_path / "edited_teacher.py").write_text(code)
    teacher = create_teacher("edited_teacher:make")
    (tmp_path / "edited_teacher.py").write_text(code + "# edited\n")
    assert create_teacher("edited_teacher:make") == teacher
    teacher.calculator()
    importlib.reload(sys.modules["edited_teacher"])
    assert create_teacher("edited_teacher:make").version != teacher.version
    with pytest.raises(CompactFFError, match=r"edited_teacher:make is .* in a process on .*, wanted is"):
        teacher.calculator()
    monkeypatch.delitem(sys.modules, "edited_teacher")


def test_a_model_that_was_replaced_is_another_teacher(tmp_path):
    model = tmp_path / "model.safetensors"
    shutil.copy(student_file("organic-ultra-tiny"), model)
    teacher = create_teacher(f"student:{model}")
    teacher.calculator()
    shutil.copy(student_file("organic-tiny"), model)
    assert create_teacher(teacher.name).version != teacher.version
    with pytest.raises(CompactFFError, match="restart the dask workers"):
        teacher.calculator()


class Told(EMT):
    def __init__(self, *args, **kwargs):
        super().__init__()
        self.told = (args, kwargs)


def test_sevennet_tells_its_elements(monkeypatch):
    class Net(Told):
        type_map = {1: 0, 8: 1}  # noqa: RUF012

    replaced(monkeypatch, "sevenn.calculator", SevenNetCalculator=Net)
    teacher = create_teacher("sevennet-0", device="cpu")
    assert teacher.calculator().told == (("7net-0",), {"device": "cpu"})
    with pytest.raises(CompactFFError, match="does not know C; it knows H, O"):
        teacher.check(molecule("CH4"))


def test_chgnet_is_for_crystals(monkeypatch):
    replaced(monkeypatch, "chgnet.model.dynamics", CHGNetCalculator=Told)
    teacher = create_teacher("chgnet", device="cpu")
    assert teacher.calculator().told == ((), {"use_device": "cpu"})
    teacher.check(bulk("Cu"))
    with pytest.raises(CompactFFError, match=r"is for crystals.*pbc \[False, False, False\]"):
        teacher.check(molecule("H2O"))


def foundations(monkeypatch):
    """MACE's names of models with weights that it downloads; the first stands for its default."""
    calculators = sys.modules["mace.calculators"]
    names = types.ModuleType("mace.calculators.foundations_models")
    names.mace_mp_names = [None, "medium-mpa-0", "small"]
    monkeypatch.setitem(sys.modules, names.__name__, names)
    monkeypatch.setattr(sys.modules["mace"], "calculators", calculators, raising=False)


def test_mace_knows_models_by_name(monkeypatch):
    crystals, molecules = [], []
    replaced(
        monkeypatch,
        "mace.calculators",
        mace_mp=lambda **options: crystals.append(options) or EMT(),
        mace_off=lambda **options: molecules.append(options) or EMT(),
    )
    foundations(monkeypatch)
    create_teacher("mace:medium-mpa-0", device="cpu")
    assert crystals == [{"model": "medium-mpa-0", "device": "cpu", "default_dtype": "float64"}]
    create_teacher("mace:off-small", device="cpu", default_dtype="float32")
    assert molecules == [{"model": "small", "device": "cpu", "default_dtype": "float32"}]
    with pytest.raises(CompactFFError, match="one of MACE's: medium-mpa-0, small, off-small, off-"):
        create_teacher("mace:huge")


def test_mace_takes_a_file_and_records_its_checksum(monkeypatch, tmp_path):
    class Mace(Told):
        z_table = types.SimpleNamespace(zs=[1, 6])

    replaced(monkeypatch, "mace.calculators", MACECalculator=Mace)
    foundations(monkeypatch)
    with pytest.raises(CompactFFError, match="no such MACE model"):
        create_teacher(f"mace:{tmp_path / 'none'}")
    model = tmp_path / "mace.model"
    model.write_bytes(b"weights")
    teacher = create_teacher(f"mace:{model}", device="cpu")
    assert teacher.elements == {"H", "C"}
    assert "mace.model sha256 " in teacher.version
    assert teacher.calculator().told[1]["model_paths"] == str(model)


@pytest.mark.parametrize(
    ("loaded", "place"), [("model", "calculator"), (("model", "adapter"), "inference.calculator")]
)
def test_orb_of_old_and_new_releases(monkeypatch, loaded, place):
    replaced(monkeypatch, f"orb_models.forcefield.{place}", ORBCalculator=Told)
    pretrained = types.SimpleNamespace(orb_v2=lambda device: loaded)
    monkeypatch.setattr(sys.modules["orb_models.forcefield"], "pretrained", pretrained, raising=False)
    monkeypatch.setattr(teachers, "_installed", lambda module: module in f"orb_models.forcefield.{place}")
    made = create_teacher("orb:orb-v2", device="cpu").calculator()
    assert made.told == ((loaded if isinstance(loaded, tuple) else (loaded,)), {"device": "cpu"})
    with pytest.raises(CompactFFError, match="no model 'nothing'"):
        create_teacher("orb:nothing")


@pytest.mark.parametrize("name", ["sevennet-0", "chgnet"])
def test_networks_with_their_weights_for_real(name):
    pytest.importorskip(TEACHERS[name].module)
    teacher = create_teacher(name, device="cpu")
    copper = bulk("Cu")
    teacher.check(copper)
    copper.calc = teacher.calculator()
    assert copper.get_potential_energy() == pytest.approx(-4.1, abs=0.1)


def test_a_student_teaches(tmp_path):
    network = students.create("ultra-tiny", ["H", "O"], seed=2)
    network.eval()
    path = tmp_path / "student.safetensors"
    save_student(path, network, describe(network))
    teacher = create_teacher(f"student:{path}", device="cpu")
    assert teacher.elements == {"H", "O"}
    assert path.name in teacher.version and "sha256" in teacher.version
    water = molecule("H2O")
    water.calc = teacher.calculator()
    reference = water.copy()
    reference.calc = StudentCalculator(network, device="cpu")
    assert water.get_forces() == pytest.approx(reference.get_forces(), abs=1e-6)
    with pytest.raises(CompactFFError, match="does not know C"):
        teacher.check(molecule("CH4"))
    with pytest.raises(CompactFFError, match="no student 'nothing'"):
        create_teacher("student:nothing")


def test_gfn2_is_warned_of_where_a_structure_is_periodic():
    free, box = molecule("CH3OH"), molecule("CH3OH", cell=[8.0] * 3, pbc=True)
    pytest.importorskip("tblite")
    assert "gfn1-xtb" in create_teacher("gfn2-xtb").caution([free, box])
    assert create_teacher("gfn2-xtb").caution([free]) == ""
    assert create_teacher("gfn1-xtb").caution([box]) == ""


def test_gfn2_is_still_to_be_warned_of():
    """Once this fails, tblite has mended its periodic GFN2-xTB, and the warning can go."""
    tblite = pytest.importorskip("tblite.ase")
    rng = np.random.default_rng(0)
    box = fill_box([molecule("H2O") for _ in range(16)], 0.8, rng)
    free = box.copy()
    free.pbc = False
    wide = free.copy()
    wide.set_cell([16.0] * 3)
    wide.pbc = True
    found = {}
    for method in ("GFN1-xTB", "GFN2-xTB"):
        for atoms in (free, wide):
            atoms.calc = tblite.TBLite(method=method, verbosity=0)
        found[method] = (wide.get_potential_energy() - free.get_potential_energy()) / 16
    assert (
        abs(found["GFN1-xTB"]) < 0.01 < found["GFN2-xTB"]
    )  # eV a molecule, of a droplet far from its images


def test_the_standard_output_is_there_after_two_threads_made_teachers(monkeypatch):
    second_begins, first_is_done = threading.Event(), threading.Event()

    def build(target, settings):
        if target == "first":
            second_begins.wait(0.2)
        else:
            second_begins.set()
            first_is_done.wait(0.2)
        return EMT()

    def make(name):
        create_teacher(f"orb:{name}")
        first_is_done.set()

    monkeypatch.setitem(teachers.KINDS, "orb", TeacherKind(build, "ase", "", target="NAME"))
    before = sys.stdout
    with ThreadPoolExecutor(2) as threads:
        list(threads.map(make, ("first", "second")))
    assert sys.stdout is before
