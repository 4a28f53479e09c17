"""What stands for the screen in tests."""

from compactff_md.training.progress import Reporter


class Notes(Reporter):
    """Keeps the sentences that it is told."""

    def __init__(self) -> None:
        self.notes: list[str] = []

    def note(self, message: str) -> None:
        self.notes.append(message)


def flat(text: str) -> str:
    """Text without the frames and line ends that rich adds."""
    return " ".join(text.replace("│", " ").split())
