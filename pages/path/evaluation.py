"""The table: every method over many test images, from a stored run or one of now, beside the paper's Table 1."""

import csv
import json
from functools import cache
from pathlib import Path
from typing import Any

import streamlit as st

from backend.errors import PrismError
from backend.jobs import ENDED, JobStatus
from pages.shared.controls import refused
from pages.shared.exports import Column, Spread, metrics_csv
from pages.shared.figures import format_value
from pages.shared.session import escape, jobs, recall, remember
from pages.shared.tables import draw_table
from pages.shared.watching import watch

ASSETS = Path(__file__).resolve().parents[2] / "assets"
SHOWN = (
    "deletion_ratio",
    "insertion_ratio",
    "deletion_normalised",
    "insertion_normalised",
    "completeness_gap",
    "corrected_share",
    "variance",
    "mass_absolute",
    "pointing",
    "seconds",
)
DATASETS = ("MNIST", "CIFAR-10", "ImageNet")


def show_evaluation(model: str) -> None:
    """Our tables of this model, the button that makes the first again, and the paper's beside it."""
    stored, status = _choose_stored(model), _last_job(model)
    if stored is not None:
        _draw_ours(stored, "stored")
        if stored["paired"]:
            _draw_paired(stored)
    else:
        st.caption(f"No stored run for {model}; the button below makes one.")
    _offer_run(model, status)
    if status is not None and status.state == "done":
        _draw_ours(jobs().result(status.id), "here")
    _draw_paper()


def _last_job(model: str) -> JobStatus | None:
    """The newest evaluation of this model, whoever asked for it: so it is found again after a reload."""
    return next((job for job in jobs().list() if job.kind == "evaluate" and job.args.get("model") == model), None)


@cache
def _stored(model: str) -> dict[str, dict[str, Any]]:
    """The runs of this model that ship, by what they are of; the plain table first."""
    paths = sorted((ASSETS / "evaluations").glob(f"path_attribution-{model}*.json"), key=lambda path: path.stem)
    tables = [json.loads(path.read_text()) for path in paths]
    return {_name(table): table for table in tables if table["model"] == model}


def _name(table: dict[str, Any]) -> str:
    return table["preset"] if table["baseline"] == "black" else f"{table['preset']}, {table['baseline']}"


def _choose_stored(model: str) -> dict[str, Any] | None:
    tables = _stored(model)
    if not tables:
        return None
    names = list(tables)
    if recall("path.table.kept") not in names:
        remember("path.table.kept", names[0])
    name = st.segmented_control("Stored runs", names, key="path.table.kept", required=True) if names[1:] else names[0]
    st.caption(escape(tables[name]["about"]))
    return tables[name]


def _draw_ours(table: dict[str, Any], where: str) -> None:
    """One run as a table, with the command that makes it."""
    known = {column["key"]: column for column in table["columns"]}
    shown = [column for key, column in known.items() if _is_shown(key, known)]
    columns = [Column("name", "Method")] + [Column(c["key"], c["title"], c["better"], c["help"]) for c in shown]
    rows = [
        {"name": row["title"], **{key: _spread(cell) for key, cell in row["metrics"].items()}} for row in table["rows"]
    ]
    images = sum(model["images"] for model in table["models"])
    baseline = table["baseline"]
    draw_table(f"{table['model']}: mean ± standard deviation, {images} test images, {baseline} baseline", columns, rows)
    for refusal in table.get("not_applicable", []):
        st.caption(f"{escape(refusal['name'])}: {escape(refusal['reason'])}")
    with st.container(horizontal=True, vertical_alignment="center"):
        st.code(table["command"], language="bash", wrap_lines=True)
        name = f"table-{table['model']}.csv"
        st.download_button(
            "CSV",
            metrics_csv(columns, rows),
            name,
            "text/csv",
            key=f"path.table.csv.{where}",
            icon=":material/download:",
            on_click="ignore",
        )
    st.caption(f"Made in {table['seconds']:.0f} s on {escape(table['machine'])}.")


def _is_shown(key: str, known: dict[str, Any]) -> bool:
    """Sensitivity-N has as many columns as subset sizes: shown where it is what a run is about."""
    return key in SHOWN or (key.startswith("sensitivity_") and "deletion_ratio" not in known)


def _draw_paired(table: dict[str, Any]) -> None:
    """Whether one method's lead over each other is more than chance: intervals over images and over seeds."""
    titles = {row["name"]: row["title"] for row in table["rows"]}
    ours = titles[table["paired"][0]["ours"]]
    columns, rows = [Column("name", f"{ours} minus")], {name: {"name": title} for name, title in titles.items()}
    for key in ("deletion_ratio", "insertion_ratio"):
        title, better = next((c["title"], c["better"]) for c in table["columns"] if c["key"] == key)
        columns += [Column(key, title, better, "Mean and 95% interval over images, each averaged over seeds.")]
        pairs = [pair for pair in table["paired"] if pair["metric"] == key]
        if any(pair.get("over_seeds") for pair in pairs):
            columns += [Column(f"{key} seeds", "over seeds", "", "95% interval over training seeds.")]
        for pair in pairs:
            row, seeds = rows[pair["theirs"]], pair.get("over_seeds")
            row[key] = f"{format_value(pair['mean'])} {_interval(pair)}"
            row[f"{key} seeds"] = None if seeds is None else _interval(seeds)
        st.markdown(escape(_verdict(table, titles, key, title.lower(), better)))
    told = [row for name, row in rows.items() if len(row) > 1]
    draw_table(f"Paired differences of {ours}", columns, told, mark_best=False)


def _interval(ends: dict[str, float]) -> str:
    return f"[{format_value(ends['low'])}, {format_value(ends['high'])}]"


def _verdict(table: dict[str, Any], titles: dict[str, str], key: str, title: str, better: str) -> str:
    """Ahead of whom, level with whom, behind whom, by the intervals over images; and what the seeds leave open."""
    sign = -1.0 if better == "lower" else 1.0
    pairs = [pair for pair in table["paired"] if pair["metric"] == key]
    ahead = [pair for pair in pairs if min(sign * pair["low"], sign * pair["high"]) > 0]
    behind = [titles[pair["theirs"]] for pair in pairs if max(sign * pair["low"], sign * pair["high"]) < 0]
    level = [titles[pair["theirs"]] for pair in pairs if _holds_zero(pair)]
    parts = [f"ahead of {len(ahead)} of {len(pairs)}"]
    parts += [f"not told apart from {', '.join(level)}"] * bool(level)
    parts += [f"behind {', '.join(behind)}"] * bool(behind)
    unsure = [titles[pair["theirs"]] for pair in pairs if pair.get("over_seeds") and _holds_zero(pair["over_seeds"])]
    seeds = f" Over training seeds the interval holds 0 against {', '.join(unsure)}." if unsure else ""
    return f"By {title}, {titles[pairs[0]['ours']]} is {'; '.join(parts)}.{seeds}"


def _holds_zero(ends: dict[str, float]) -> bool:
    return ends["low"] <= 0 <= ends["high"]


def _spread(cell: dict[str, float | None]) -> Spread | None:
    return None if cell["mean"] is None else Spread(cell["mean"], cell["sd"])


# ----------------------------------------------------------------- a run of now
def _offer_run(model: str, status: JobStatus | None) -> None:
    if status is not None and status.state not in ENDED:
        watch(jobs(), status.id, "Evaluating", key="path.table.cancel")
        return
    if status is not None and status.state == "failed":
        refused(status.error)
    with st.container(horizontal=True, vertical_alignment="bottom"):
        n = st.number_input("Test images", 1, 1000, 100, key="path.table.n", width=160)
        if st.button("Run it here", icon=":material/play_arrow:", key="path.table.run"):
            try:
                jobs().submit("evaluate", {"model": model, "n": int(n)})
            except PrismError as error:
                refused(error.sentence)
                return
            st.rerun()


# ----------------------------------------------------------------- the paper's
@cache
def _paper() -> tuple[dict[str, Any], list[dict[str, str]]]:
    folder = ASSETS / "paper_tables"
    with open(folder / "samp_table1.csv", newline="") as file:
        return json.loads((folder / "samp_table1.json").read_text()), list(csv.DictReader(file))


def _draw_paper() -> None:
    about, cells = _paper()
    columns = [Column("name", "Method")]
    for dataset in DATASETS:
        columns += [Column(f"{dataset} deletion", f"{dataset}, deletion", "lower")]
        columns += [Column(f"{dataset} insertion", f"{dataset}, insertion", "higher")]
    rows: dict[str, dict[str, Any]] = {}
    for cell in cells:
        row = rows.setdefault(cell["method"], {"name": cell["method"]})
        row[f"{cell['dataset']} {cell['metric']}"] = Spread(float(cell["mean"]), float(cell["sd"]), digits=3)
    draw_table("The paper's Table 1", columns, list(rows.values()))
    score = about["score"]
    st.caption(f"{about['citation']}. {score[0].upper()}{score[1:]}. {about['note']}")
