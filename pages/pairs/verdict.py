"""What a table of methods shows, in sentences: on which measures a bottleneck is surely ahead, and of whom.

Nothing here is written for one model: every sentence follows from the paired differences of the table.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import streamlit as st

from backend.catalog import PAIR_METHODS
from pages.pairs.runs import titled
from pages.shared.session import escape

_WHERE = ("iou", "iou_attainable", "span_iou", "pointing")
_CHANCE, _STRANGER = "words_chance", "words_first_control"


def draw_verdict(table: Mapping[str, Any]) -> None:
    """One list item for each bottleneck and side that the table judges."""
    lines = [*places_said(table), *words_said(table)]
    if lines:
        st.markdown("\n".join(f"- {escape(line)}" for line in lines))


def places_said(table: Mapping[str, Any]) -> list[str]:
    """Which rows each bottleneck is ahead of with the whole 95 % interval above 0, measure by measure."""
    columns = {column["key"]: column["title"] for column in table["columns"]}
    said = []
    for ours in _bottlenecks(table):
        measures = [key for key in _WHERE if _others(table, ours["name"], key)]
        if not measures:
            continue
        ahead = [key for key in measures if not _unbeaten(table, ours["name"], key)]
        parts = []
        for key in (key for key in measures if key not in ahead):
            behind, open_ = _unbeaten(table, ours["name"], key, True), _unbeaten(table, ours["name"], key, False)
            parts += [f"on {columns[key]} behind {_listed(behind)}"] if behind else []
            parts += [f"on {columns[key]} not surely ahead of {_listed(open_)}"] if open_ else []
        if ahead:
            parts.insert(0, f"ahead of every other method and of the priors on {_listed([columns[k] for k in ahead])}")
        said.append(f"Places, {titled(ours)}: {'; '.join(parts).rstrip('.')}.")
    return said


def words_said(table: Mapping[str, Any]) -> list[str]:
    """Whether a bottleneck puts the words that matter first more often than chance, and than before a stranger."""
    said = []
    for ours in _bottlenecks(table):
        found = {
            pair["theirs"]: pair
            for pair in table["paired"]
            if pair["ours"] == f"{ours['name']}: words_first" and pair["low"] is not None
        }
        if not {_CHANCE, _STRANGER} <= set(found):
            continue
        holds = all(found[theirs]["low"] > 0 for theirs in (_CHANCE, _STRANGER))
        share = ours["metrics"]["words_first"]["mean"]
        said.append(
            f"Words, {titled(ours)}: a key word is first in {share:.0%}, {_gap(found[_CHANCE])} over chance and "
            f"{_gap(found[_STRANGER])} over the same map before a stranger: "
            + ("it shows what the input supports." if holds else "it does not surely show what the input supports.")
        )
    return said


def _bottlenecks(table: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    return [row for row in table["rows"] if _is_bottleneck(row["name"])]


def _is_bottleneck(name: str) -> bool:
    spec = PAIR_METHODS.get(name.partition(":")[0])
    return spec is not None and spec.group == "bottleneck"


def _others(table: Mapping[str, Any], ours: str, key: str) -> list[Mapping[str, Any]]:
    """Paired differences to rows that are no bottlenecks."""
    return [
        pair
        for pair in table["paired"]
        if (pair["ours"], pair["metric"]) == (ours, key) and not _is_bottleneck(pair["theirs"])
        if pair["low"] is not None
    ]


def _unbeaten(table: Mapping[str, Any], ours: str, key: str, is_behind: bool | None = None) -> list[str]:
    """Titles of the rows that it is not surely ahead of. Args: is_behind: only those it is surely behind, or is not."""
    titles = {row["name"]: titled(row) for row in table["rows"]}
    return [
        titles[pair["theirs"]]
        for pair in _others(table, ours, key)
        if pair["low"] <= 0 and is_behind in (None, pair["high"] < 0)
    ]


def _gap(pair: Mapping[str, Any]) -> str:
    return f"{pair['mean']:+.0%} [{pair['low']:+.0%}, {pair['high']:+.0%}]"


def _listed(names: Sequence[str]) -> str:
    """Names in words.

    >>> _listed(["a", "b", "c"])
    'a, b and c'
    """
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"
