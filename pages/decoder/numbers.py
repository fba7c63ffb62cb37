"""Figures of decoders as rows of tables: what is measured, which direction is better, what the theory asks."""

from collections.abc import Sequence

from backend.contracts import Result
from pages.decoder.board import Drawn, figures_request, known
from pages.shared.exports import Column, Row

COLUMNS = (
    Column("name", "Decoder"),
    Column("rmse", "RMSE, seen", "lower", "Encode and decode test scenes of the training support; images in [0, 1]."),
    Column("rmse_out", "RMSE, never seen", "lower", "The same for scenes of the extension that training left out."),
    Column(
        "rmse_recombined",
        "RMSE, recombined",
        "lower",
        "Each object's block from another scene, decoded together, against the true scene.",
    ),
    Column(
        "lms_spearman",
        "LMS, seen",
        "higher",
        "Latent matching score: 100 times the rank correlation of learned with true latents, best matching.",
    ),
    Column("lms_spearman_out", "LMS, never seen", "higher", "The same on scenes that training left out."),
    Column(
        "lms_tree",
        "LMS by trees",
        "higher",
        "100 times the R² of regression trees from each learned block to its true block.",
    ),
    Column("renders", "Renders per grid", "lower", "Decoder calls for this grid: n + m where the image is a sum."),
)


def figures_of(drawn: Drawn) -> Result | None:
    answer = known().get(figures_request(drawn.key))
    return answer if isinstance(answer, Result) else None


def figures_table(decoders: Sequence[Drawn]) -> tuple[list[Column], list[Row]]:
    """The table on screen; figures that are still measured, or not defined here, are None."""
    rows = []
    for drawn in decoders:
        figures = figures_of(drawn)
        row = {"name": drawn.title, "renders": drawn.grid.values["renders"]}
        if figures is not None:
            row |= {name: figures.quality.get(name) for name in (column.key for column in COLUMNS[1:-1])}
        rows.append(row)
    is_measured = any(figures_of(drawn) for drawn in decoders)
    columns = [
        column
        for column in COLUMNS
        if column.key in ("name", "renders") or not is_measured or any(row.get(column.key) is not None for row in rows)
    ]
    return columns, rows
