"""Catalogue rows as plain JSON, the same for the API and the command line."""

import dataclasses
from typing import Any

from backend.catalog import ROWS_OF, KindSpec, MethodSpec
from backend.service import InterpretService, ModelStatus


def describe_methods() -> list[dict[str, Any]]:
    """The methods of every family, and the kinds of model that a family compares."""
    return [describe_method(spec) for rows in ROWS_OF.values() for spec in rows.values()]


def describe_models(service: InterpretService) -> list[dict[str, Any]]:
    """The models of every family."""
    return [describe_model(status) for status in service.models()]


def describe_method(spec: MethodSpec | KindSpec) -> dict[str, Any]:
    """A method's row as JSON, its parameters with type, range and default; a kind of model goes by its family."""
    row = dataclasses.asdict(spec)
    if isinstance(spec, KindSpec):
        return {**row, "group": {"additive_decoding": "decoder", "additive_image": "additive model"}[spec.family]}
    row["needs"] = sorted(spec.needs)
    del row["implementation"]
    return row


def describe_model(status: ModelStatus) -> dict[str, Any]:
    """A model's row as JSON, with what is known of its state; no path of this machine is told."""
    row = dataclasses.asdict(status.spec)
    del row["weights"]
    row["options"] = dict(status.spec.options)
    row["layers"] = dict(status.spec.layers)
    row["n_labels"] = len(status.spec.labels)
    if len(status.spec.labels) > 50:
        row["labels"] = list(status.spec.labels[:50])
    return {**row, "is_loaded": status.is_loaded, "resident_bytes": status.nbytes, "digest": status.digest}
