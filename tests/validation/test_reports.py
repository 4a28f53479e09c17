"""Reports of the suite: written, read again, and summed up."""

import json

import pytest

from compactff_md.errors import CompactFFError
from compactff_md.validation.comparison import Candidate, write_comparison
from compactff_md.validation.outcome import Section, judge
from compactff_md.validation.report import Report, command_line, read_report, write_report
from compactff_md.validation.thresholds import Threshold


class TestReport:
    @pytest.mark.parametrize(
        ("values", "code"), [((0.0,), 0), ((0.0, None), 0), ((0.0, 2.0), 1), ((None,), 2)]
    )
    def test_exit_codes(self, values, code):
        findings = tuple(judge("k", value, "", Threshold(maximum=1.0)) for value in values)
        assert Report("r", {"s": Section(findings)}).exit_code == code

    def test_comparison(self, tmp_path):
        candidates = []
        for name, value in (("A", 0.2), ("B", 3.0)):
            finding = judge("symmetry.rotation", value, "meV/Å", Threshold(maximum=1.0))
            report = Report(name, {"symmetry": Section((finding,))}, {"teacher": "<t>", "engine": name})
            (tmp_path / name).mkdir()
            write_report(tmp_path / name, report)
            candidates.append(Candidate(name, read_report(tmp_path / name), tmp_path / name))
        page = write_comparison(tmp_path / "both", candidates).read_text()
        assert "<b>0.2 meV/Å</b>" in page and "They also differ in: engine" in page
        rows = json.loads((tmp_path / "both" / "comparison.json").read_text())["rows"]
        assert [cell["verdict"] for cell in rows["symmetry.rotation"]] == ["pass", "fail"]
        with pytest.raises(CompactFFError, match="expected two or more"):
            write_comparison(tmp_path / "both", candidates[:1])

    def test_an_undecided_number_is_not_the_best(self, tmp_path):
        candidates = []
        for name, value, undecided in (("A", 0.1, True), ("B", 0.2, False), ("C", 0.5, False)):
            limit = Threshold(maximum=1.0)
            finding = judge("symmetry.rotation", value, "", limit, undecided=undecided)
            candidates.append(Candidate(name, Report(name, {"s": Section((finding,))}), tmp_path))
        page = write_comparison(tmp_path / "both", candidates).read_text()
        assert "<b>0.2" in page and page.count("<b>") == 1

    @pytest.mark.parametrize("program", ["bin/compactff", "compactff_md/__main__.py"])
    def test_command_can_be_typed_again(self, monkeypatch, program):
        monkeypatch.setattr("sys.argv", [program, "validate", "my student", "--suite", "quick"])
        start = "compactff" if program.endswith("compactff") else "python -m compactff_md"
        assert command_line() == f"{start} validate 'my student' --suite quick"

    def test_no_report(self, tmp_path):
        with pytest.raises(CompactFFError, match="no report"):
            read_report(tmp_path)
