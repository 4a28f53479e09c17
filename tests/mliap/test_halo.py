"""Exchange by ids among ranks in threads, against the rows of all atoms."""

import threading

import numpy as np
import pytest
import torch

from compactff_md.mliap.halo import OwnerHalo
from compactff_md.mliap.messages import Messages

TIMEOUT_S = 30.0


class ThreadMessages(Messages):
    """The same messages among threads: what MPI does in a process of its own."""

    def __init__(self, rank, size, board, barrier):
        self.rank, self.size, self.board, self.barrier = rank, size, board, barrier

    def counts(self, to_each):
        return self._all(np.asarray(to_each), lambda theirs: theirs[self.rank])

    def exchange(self, rows, sent, received):
        places = np.cumsum(sent) - sent
        parts = [rows[p : p + s] for p, s in zip(places, sent, strict=True)]
        arrived = self._all(parts, lambda theirs: theirs[self.rank])
        assert [len(part) for part in arrived] == list(received)
        return torch.cat([torch.as_tensor(part) for part in arrived])

    def _all(self, mine, take):
        self.board[self.rank] = mine
        self.barrier.wait(TIMEOUT_S)
        found = [take(self.board[rank]) for rank in range(self.size)]
        self.barrier.wait(TIMEOUT_S)
        return np.array(found) if np.ndim(found[0]) == 0 else found


def in_threads(size, work):
    board, barrier, results = {}, threading.Barrier(size), {}

    def call(rank):
        try:
            results[rank] = work(rank, ThreadMessages(rank, size, board, barrier) if size > 1 else None)
        except Exception as error:
            results[rank] = error
            barrier.abort()

    threads = [threading.Thread(target=call, args=(rank,)) for rank in range(size)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for result in results.values():
        if isinstance(result, Exception):
            raise result
    return [results[rank] for rank in range(size)]


@pytest.mark.parametrize("size", [1, 2, 3, 5])
def test_ghosts_get_their_owners_rows_and_give_back_what_they_collect(size):
    """Random owners, ghosts of any rank, several images of one atom; one rank owns nothing."""
    rng = np.random.default_rng(size)
    count, features = 40, 3
    owner = rng.integers(0, max(1, size - 1), count)  # the last of several ranks owns none
    ids = rng.permutation(1000)[:count] + 1
    values = torch.from_numpy(rng.normal(size=(count, features)))
    ghosts = [rng.choice(count, size=30) for _ in range(size)]
    collected = [torch.from_numpy(rng.normal(size=(count + 30, features))) for _ in range(size)]

    def work(rank, messages):
        own = np.flatnonzero(owner == rank)
        halo = OwnerHalo(np.concatenate([ids[own], ids[ghosts[rank]]]), len(own), messages)
        assert len(halo.kept) == len(set(own) | set(ghosts[rank]))  # one column for all images of an atom
        everywhere = halo(values[own], len(halo.kept))[halo.merged]
        by_column = torch.zeros(len(halo.kept), features, dtype=torch.float64)
        by_column.index_add_(0, halo.merged, collected[rank][: len(own) + 30])
        return everywhere, halo.fold(by_column)

    want = torch.zeros(count, features, dtype=torch.float64)
    for rank in range(size):
        own = np.flatnonzero(owner == rank)
        want[own] += collected[rank][: len(own)]
        want.index_add_(0, torch.from_numpy(ghosts[rank]), collected[rank][len(own) : len(own) + 30])
    for rank, (everywhere, folded) in enumerate(in_threads(size, work)):
        own = np.flatnonzero(owner == rank)
        torch.testing.assert_close(everywhere, values[np.concatenate([own, ghosts[rank]])])
        torch.testing.assert_close(folded, want[own])


def test_atoms_in_nobodys_list_have_no_features():
    def work(rank, messages):
        halo = OwnerHalo(np.array([[1, 2, 77], [2, 1, 88]][rank]), 1, messages)
        rows = torch.full((1, 2), float(rank + 1))
        return halo(rows, 3), halo.fold(torch.ones(3, 2))

    first, second = in_threads(2, work)
    assert first[0].tolist() == [[1.0, 1.0], [2.0, 2.0], [0.0, 0.0]]
    assert second[0].tolist() == [[2.0, 2.0], [1.0, 1.0], [0.0, 0.0]]
    assert first[1].tolist() == second[1].tolist() == [[2.0, 2.0]]
