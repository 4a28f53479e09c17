"""Work that asks for labels as it goes, done alone or side by side with others of its kind.

Such work is a generator: it yields a structure, is sent its label, and returns what it made. Where the label
cannot be had, TeacherFailure is raised in it.
"""

from __future__ import annotations

from collections.abc import Generator, Sequence
from typing import TypeVar

import ase

from compactff_md.training.label import Label
from compactff_md.training.labelling import Labeller, TeacherFailure

T = TypeVar("T")
Asking = Generator[ase.Atoms, Label, T]


def answered(work: Asking[T], labeller: Labeller) -> T:
    """Do a piece of work, asking for one label after the other."""
    return answered_together([work], labeller)[0]


def answered_together(works: Sequence[Asking[T]], labeller: Labeller) -> list[T]:
    """Do pieces of work side by side: what all of them ask for next is labelled together.

    What one of them raises ends all; each has to catch what shall end only itself.
    """
    results: dict[int, T] = {}
    answers: dict[int, Label | TeacherFailure | None] = dict.fromkeys(range(len(works)))
    while answers:
        asked: dict[int, ase.Atoms] = {}
        for k, answer in answers.items():
            try:
                asked[k] = _go_on(works[k], answer)
            except StopIteration as done:
                results[k] = done.value
        answers = dict(zip(asked, labeller.label_all(list(asked.values())), strict=True))
    return [results[k] for k in range(len(works))]


def _go_on(work: Asking[T], answer: Label | TeacherFailure | None) -> ase.Atoms:
    if isinstance(answer, TeacherFailure):
        return work.throw(answer)
    return next(work) if answer is None else work.send(answer)
