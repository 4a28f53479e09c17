import io

from rich.console import Console

from compactff_md.training.progress import Reporter, RichReporter


def use(reporter: Reporter) -> None:
    with reporter:
        reporter.start("training", 10.0)
        reporter.update(4.0, force_RMSE=12.5)
        reporter.update(25.0)
        reporter.note("the teacher failed on 2 of 100 frames")
        reporter.finish()
        reporter.update(1.0)


def test_silence_by_default(capsys):
    use(Reporter())
    captured = capsys.readouterr()
    assert captured.out == captured.err == ""


def test_bars_and_notes():
    stream = io.StringIO()
    use(RichReporter(Console(file=stream, width=120, force_terminal=True)))
    text = stream.getvalue()
    assert "training" in text and "100%" in text and "force RMSE 12.5" in text
    assert "the teacher failed on 2 of 100 frames" in text
