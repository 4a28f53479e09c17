"""What stands for the screen in tests."""

from compactff_md.training.progress import Reporter


class Notes(Reporter):
    """Keeps the sentences that it is told."""

    def __init__(self) -> None:
        self.notes: list[str] = []

    def note(self, message: str) -> None:
        self.notes.append(message)
