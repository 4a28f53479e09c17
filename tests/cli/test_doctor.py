"""``compactff doctor`` as a user calls it."""

import json

import pytest

from compactff_md.cli import doctor


class TestDoctor:
    def test_report(self, run, monkeypatch):
        tried = []

        def pretend(probe):
            tried.append(probe.name)
            if probe.name == "OpenMM":
                return doctor.Finding(probe.group, probe.name, "works", "8.6, platforms: Reference, CPU")
            if probe.name == "TorchForce":
                return doctor.Finding(probe.group, probe.name, "broken", "crashed with SIGSEGV", probe.mend)
            return doctor.Finding(probe.group, probe.name, "works", "fine")

        monkeypatch.setattr("torch.version.cuda", None)
        monkeypatch.setattr(doctor, "_is_installed", lambda package: False)
        monkeypatch.setattr(doctor, "_try", pretend)
        monkeypatch.setattr(doctor, "has_gpu", lambda: True)
        result = run("doctor")
        assert result.exit_code == 0, result.output
        assert {
            "students",
            "CUDA",
            "OpenMM CPU",
            "PythonForce",
            "openmm-ml",
            "MDAnalysis",
            "gfn2-xtb",
        } <= set(tried)
        shown = " ".join(result.stdout.replace("│", " ").split())
        assert "TorchForce broken crashed with SIGSEGV run: pip install" in shown
        assert shown.count('run: pip install "compactff-md[openmm-cuda13]"') == 2
        assert "OpenMM CUDA missing OpenMM has no CUDA platform run: pip install" in shown
        findings = json.loads(run("doctor", "--json").stdout)["findings"]
        assert all(f["mend"] for f in findings if f["state"] != "works")

    @pytest.mark.parametrize(
        ("gpu", "cuda", "extra", "wheel"),
        [(False, None, "[openmm]", "cpu==1.10"), (True, "12.8", "[openmm-cuda12]", "cu12==1.10")],
    )
    def test_a_gpu_has_a_probe_and_a_cure_of_its_own(self, monkeypatch, gpu, cuda, extra, wheel):
        monkeypatch.setattr(doctor, "has_gpu", lambda: gpu)
        monkeypatch.setattr("torch.version.cuda", cuda)
        for replace, words in ((False, extra), (True, wheel)):
            monkeypatch.setattr(doctor, "_is_installed", lambda package, replace=replace: replace)
            probes = doctor._list(["Reference", "CUDA"])
            found = [probe for probe in probes if probe.name.startswith("TorchForce")]
            on_gpu = [("torchforce", "CUDA")] if gpu else []
            assert [probe.arguments for probe in found] == [("torchforce",), *on_gpu]
            assert all(words in probe.mend for probe in found)
            assert not any("[openmm]" in probe.mend for probe in probes if gpu)

    def test_probes_for_real(self):
        found = doctor._try(doctor.Probe("engines", "students", ("student",), "mend"))
        assert (found.state, found.mend) == ("works", None), found
        pytest.importorskip("openmmtorch")
        found = doctor._try(doctor.Probe("plugins", "TorchForce", ("torchforce",), "mend"))
        assert found.state == "works", found

    def test_a_crash_is_a_finding(self, monkeypatch, tmp_path):
        script = tmp_path / "crash.py"
        script.write_text("import os, signal; os.kill(os.getpid(), signal.SIGSEGV)")
        monkeypatch.setattr(doctor.probes, "__file__", str(script))
        found = doctor._try(doctor.Probe("plugins", "TorchForce", ("torchforce",), "mend it"))
        assert (found.state, found.mend) == ("broken", "mend it")
        assert "SIGSEGV" in found.detail

    def test_hanging_failing_and_missing(self, monkeypatch, tmp_path):
        script = tmp_path / "slow.py"
        script.write_text("import time; time.sleep(30)")
        monkeypatch.setattr(doctor.probes, "__file__", str(script))
        monkeypatch.setattr(doctor, "TIMEOUT_S", 0.2)
        assert "no answer" in doctor._try(doctor.Probe("g", "n", (), "mend")).detail
        monkeypatch.undo()
        found = doctor._try(doctor.Probe("g", "n", ("platform", "Abacus"), "mend"))
        assert found.state == "broken" and found.detail
        found = doctor._try(doctor.Probe("g", "n", ("student",), "mend", needs="no_such_module"))
        assert (found.state, found.detail, found.mend) == ("missing", "not installed", "mend")
