"""The path player: the pictures along a path method's path and the score they get, under one finger."""

from backend.contracts import Result
from pages.shared.figures import format_value
from pages.shared.scrubber import Track, scrubber

DIRECTIONS = {"deletion": "Image → baseline", "insertion": "Baseline → image"}


def path_player(result: Result, *, key: str) -> None:
    """Show a `PathRequest`'s result: both directions, pixels leaving or arriving, the score curve beside."""
    label, unit = result.values["label"], result.unit
    tracks = []
    for direction, title in DIRECTIONS.items():
        if f"{direction}_frames" not in result.arrays:
            continue
        fractions, scores = result.arrays[f"{direction}_fractions"], result.arrays[f"{direction}_scores"]
        tracks.append(
            Track(
                title,
                result.arrays[f"{direction}_frames"],
                fractions * 100,
                scores,
                [
                    f"{fraction:.0%} of the way · score of “{label}” {format_value(float(score))} {unit}"
                    for fraction, score in zip(fractions, scores, strict=True)
                ],
            )
        )
    scrubber(tracks, x_title="share of the way gone, %", y_title=f"score, {unit}", key=key)
