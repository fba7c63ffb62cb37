"""What can be taken away."""

from pages.pairs.board import Board


def show(board: Board) -> None:
    """One row of buttons."""
