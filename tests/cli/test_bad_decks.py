"""What is wrong with a deck, or with the LAMMPS that is to run it, is said in one message."""

import pytest

from compactff_md.engines.lammps_installation import inspect


class TestDecks:
    @pytest.mark.parametrize(
        ("options", "words"),
        [
            (("--steps", 10, "--time", "1ps"), ["steps or time_ps, and not both"]),
            (("--steps", 10, "--ensemble", "npt"), ["periodic in all directions"]),
            (("--steps", 10, "--units", "lj"), ["units is 'lj'", "'metal' or 'real'"]),
            (("--steps", 10, "--pressure", 1), ["pressure_bar is for npt only"]),
            (("--steps", 10, "--kokkos", "--ghost-neighbours"), ["with kokkos, LAMMPS exchanges"]),
            (("--steps", 10, "--repeat", 2, 1, 2), ["--repeat is 2 1 2", "no cell vector a, c"]),
            (("--steps", 10, "--repeat", 1, 1, 0), ["--repeat is 1 1 0", "1 or more"]),
            (
                ("--steps", 10, "--ensemble", "nve", "--thermostat", "langevin"),
                ["thermostat is for nvt and npt only", "is nve"],
            ),
            (
                ("--steps", 10, "--ensemble", "npt", "--thermostat", "langevin"),
                ["langevin is for nvt only", "npt has nose-hoover"],
            ),
            (("--steps", 10, "--set", "cell_changes=flexible"), ["cell_changes is for npt only", "is nvt"]),
            (
                ("--steps", 10, "--ensemble", "nve", "--set", "damping_fs=50"),
                ["damping_fs is for nvt and npt only", "is nve"],
            ),
            (("--steps", 10, "--set", "skin=1"), ["unknown setting 'skin'", "skin_A"]),
        ],
    )
    def test_settings(self, refused, tmp_path, student_file, water, options, words):
        args = ("deck", water, "--student", student_file, *options)
        refused(*args, "--out", tmp_path / "deck", words=words)
        assert not (tmp_path / "deck").exists()

    def test_elements(self, refused, tmp_path, student_file, copper):
        args = ("deck", copper, "--student", student_file, "--steps", 10)
        refused(*args, "--out", tmp_path / "deck", words=["does not know Cu", "it knows H, C, O"])

    def test_a_deck_that_is_there(self, run, refused, tmp_path, student_file, water):
        args = ("deck", water, "--student", student_file, "--steps", 10, "--out", tmp_path / "deck")
        assert run(*args).exit_code == 0
        refused(*args, words=["holds a deck already", "--overwrite"])
        assert run(*args, "--overwrite").exit_code == 0

    def test_no_deck_or_no_student_beside_it(self, refused, tmp_path):
        refused("lammps", tmp_path / "none", words=["no such deck", "compactff deck"])
        (tmp_path / "in.lammps").write_text("pair_style mliap unified gone.mliap.pt 0\nrun 5\n")
        refused("lammps", tmp_path, words=["gone.mliap.pt", "compactff export STUDENT --format mliap"])

    def test_no_lammps(self, refused, tmp_path, monkeypatch):
        (tmp_path / "in.lammps").write_text("run 5\n")
        false = tmp_path / "lmp"
        false.write_text("#!/bin/sh\necho something else\n")
        false.chmod(0o755)
        monkeypatch.setenv("COMPACTFF_LAMMPS", str(false))
        refused("lammps", tmp_path, words=["no LAMMPS that runs students", "is no LAMMPS", "make lammps"])
        false.write_text(
            "#!/bin/sh\necho 'Large-scale Atomic/Molecular Massively Parallel Simulator - 1 Jan 2020'\n"
            "printf 'Installed packages:\\n\\nKSPACE PYTHON\\n\\n'\n"
        )
        inspect.cache_clear()
        refused("lammps", tmp_path, words=["was built without ML-IAP", "lammps/build"])

    def test_export_for_lammps(self, refused, tmp_path, student_file, water):
        args = ("export", student_file, "--format", "mliap")
        refused(*args, "--out", tmp_path / "s.mliap", words=[".pt or .pth", "s.mliap.pt"])
        refused(*args, "--structure", water, "--out", tmp_path / "s.pt", words=["are for torchscript"])
        refused(*args, "--dtype", "half", "--out", tmp_path / "s.pt", words=["float32, float64"])
        assert not list(tmp_path.glob("s.*"))
