"""Memory that the ranks of one machine see: what is written is read, nothing depends on it, nothing of it stays."""

import os
from pathlib import Path

import pytest
import torch
import torch.distributed as dist

from monosem.learn import board as boards
from monosem.learn.board import MARK, Board
from monosem.learn.mesh import Mesh
from monosem.learn.swap import shown_to_all
from tests.learn.ranks import together
from tests.learn.test_mesh import trained


def rounds(mesh: Mesh, sizes: list[int]) -> list[list[list[int]]]:
    """In each round every rank writes its rank and the round, and reads everybody's."""
    board, read = Board(mesh.replica_group), []
    for n, size in enumerate(sizes):
        assert board.turn("ab"[n % 3 == 0], size)
        board.part(board.me)[:size] = 10 * n + board.me
        board.written()
        read.append([board.part(k)[:size].tolist() for k in range(len(board.ranks))])
    return read


def test_every_rank_reads_what_all_wrote_in_every_round():
    sizes = [3, 5, 1, 5000, 2, 9000, 9000]
    for read in together(rounds, 3, 1, sizes):
        for n, (size, parts) in enumerate(zip(sizes, read, strict=True)):
            assert parts == [[10 * n + k] * size for k in range(3)]


def without_board(mesh: Mesh, *arguments: object) -> object:
    board, mesh.board = mesh.board, None
    try:
        return trained(mesh, *arguments)
    finally:
        mesh.board = board


def with_board(mesh: Mesh, *arguments: object) -> object:
    found = trained(mesh, *arguments)
    assert mesh.board.on and {"sums", "rows"} <= set(mesh.board.pages)
    return found


@pytest.mark.parametrize("variant", ["relu", "topk-auxk"])
def test_the_bits_of_sockets(variant):
    shown, told = (together(work, 3, 1, variant, 40) for work in (with_board, without_board))
    assert {digest for digest, *_ in shown} == {digest for digest, *_ in told}


def sums(mesh: Mesh) -> tuple[torch.Tensor, torch.Tensor]:
    torch.manual_seed(mesh.seat.rank)
    t, part = torch.randn(400, 60), mesh.part(8)
    shown = [part.add(t.clone()) for _ in range(3)]
    assert mesh.part_board.pages and all(torch.equal(shown[0], other) for other in shown)
    told = t.clone()
    dist.all_reduce(told, group=mesh.part_group)
    return shown[0], told


def test_two_parts_add_up_to_the_bits_of_an_all_reduce():
    for shown, told in together(sums, 1, 2):
        assert torch.equal(shown, told)


def no_memory(mesh: Mesh) -> tuple[bool, torch.Tensor]:
    made, boards._made = boards._made, lambda total: (None, None)
    try:
        board, rows = Board(mesh.replica_group), torch.full((3, 2), float(mesh.seat.rank))
        return shown_to_all([[rows[:1], rows[1:]]], board) or board.turn("a", 1), rows
    finally:
        boards._made = made


def test_without_memory_nobody_has_a_board_and_nothing_is_done():
    for rank, (on, rows) in enumerate(together(no_memory, 2)):
        assert not on and torch.equal(rows, torch.full((3, 2), float(rank)))


def test_another_machines_memory_of_the_same_name_is_not_taken(tmp_path):
    fd, (place, mark) = boards._made(5000 + MARK)
    try:
        assert boards._opened(place, mark, 5000 + MARK)
        assert boards._opened(place, bytes(MARK), 5000 + MARK) is None, "another mark"
        assert boards._opened(place, mark, 6000) is None, "another size"
        assert boards._opened(str(tmp_path / "none"), mark, 6000) is None
    finally:
        os.close(fd)


def maps(mesh: Mesh) -> list[str]:
    board = Board(mesh.replica_group)
    assert board.turn("a", 100)
    return [line for line in Path("/proc/self/maps").read_text().splitlines() if "monosem-board" in line]


def test_the_memory_belongs_to_no_file():
    for found in together(maps, 2):
        assert found and all("/memfd:" in line for line in found), "nothing can be left when a rank is killed"
