"""Models and the parameters of a spec as widgets: one control each, its symbol in the paper, one sentence of help."""

import math
from collections.abc import Callable, Mapping, Sequence

import streamlit as st

from backend.catalog import MethodSpec, ModelSpec, ParamSpec
from backend.contracts import Params, ParamValue
from backend.errors import BadInput
from pages.shared.session import escape, recall, remember

AUTO = "auto"  # how an optional parameter that is left empty is written in addresses
SOURCES = {"embedded": "ships with Prism", "hub": "from the hub", "local": "yours"}


def begin(key: str, value: object) -> None:
    """The first value of a widget, unless it has one already (Streamlit drops it when its page is left)."""
    if recall(key, _MISSING) is _MISSING:
        remember(key, value)


_MISSING = object()


def choose_model(
    page: str,
    first: str,
    rows: Mapping[str, ModelSpec],
    named: Sequence[str] = (),
    *,
    on_change: Callable[[], None],
    help: str,
) -> str:
    """A model that is listed, or any other by its name; its key.

    Args:
        page: prefix of the widget's key.
        first: to begin with, and where the choice is emptied; it need not be listed.
        named: names that are offered below the listed ones.
    """
    key = f"{page}.model"
    begin(key, first)
    chosen = st.selectbox(
        "Model",
        list(dict.fromkeys([*rows, *named, first, recall(key) or first])),
        format_func=lambda one: f"{rows[one].title} · {SOURCES[rows[one].source]}" if one in rows else str(one),
        key=key,
        accept_new_options=True,
        on_change=on_change,
        help=help,
    )
    if chosen in rows:
        st.caption(escape(rows[chosen].summary or rows[chosen].architecture))
    return chosen or first


def draw_params(spec: MethodSpec, page: str, first: Params) -> Params:
    """Draw the controls of a method and return its parameters; advanced ones lie folded below the others.

    Args:
        page: prefix of the widgets' keys.
        first: values to begin with, all parameters present.
    """
    values, start = {}, dict(first)
    for param in spec.params:
        if not param.advanced:
            values[param.name] = _draw_param(param, f"{page}.{spec.key}.{param.name}", start[param.name])
    advanced = [param for param in spec.params if param.advanced]
    if advanced and st.toggle("Advanced", key=f"{page}.{spec.key}.advanced"):
        for param in advanced:
            values[param.name] = _draw_param(param, f"{page}.{spec.key}.{param.name}", start[param.name])
    return spec.complete_params(start | values)


def _draw_param(param: ParamSpec, key: str, first: ParamValue) -> ParamValue:
    begin(key, first)
    try:
        return param.check(_WIDGETS[param.kind](param, key))
    except BadInput as error:  # an emptied number that may not be empty
        refused(f"{error.sentence}; {first} is used")
        return first


def read_param(param: ParamSpec, text: str) -> ParamValue:
    """A parameter from an address's text.

    Raises: BadInput: not of the parameter's type, or out of range.
    """
    if text == AUTO:
        return param.check(None)
    if param.kind == "bool":
        return param.check({"true": True, "false": False}.get(text.lower(), text))
    if param.kind == "choice":
        return param.check(text)
    try:
        return param.check(float(text))
    except ValueError:
        return param.check(text)


def write_param(value: ParamValue) -> str:
    """A parameter as an address's text; `read_param` reads it back."""
    if value is None:
        return AUTO
    return str(value).lower() if isinstance(value, bool) else f"{value:.9g}" if isinstance(value, float) else str(value)


def refused(sentence: str) -> None:
    """One sentence directly under the control that it belongs to."""
    st.markdown(f":red[:material/error: {escape(sentence)}]")


# ----------------------------------------------------------------- one widget for each kind
def _label(param: ParamSpec) -> str:
    return f"{param.title} ${param.symbol}$" if param.symbol else param.title


def _help(param: ParamSpec) -> str:
    auto = f" Empty: {param.auto_help}." if param.optional and param.auto_help else ""
    span = f" {param.low:g}–{param.high:g}." if param.low is not None and param.high is not None else ""
    return escape(f"{param.help}{auto}{span}")


def _draw_number(param: ParamSpec, key: str) -> ParamValue:
    if param.kind == "float" and not param.optional and param.low >= 0 and param.high <= 1 and param.default > 1e-3:
        return st.slider(_label(param), param.low, param.high, step=0.01, help=_help(param), key=key)
    number = int if param.kind == "int" else float
    return st.number_input(
        _label(param),
        min_value=number(param.low),
        max_value=number(param.high),
        value=None if param.optional else "min",
        step=number(_step(param)),
        format=None if param.kind == "int" else "%g",
        placeholder=param.auto_help or ("none" if param.optional else None),
        help=_help(param),
        key=key,
    )


def _step(param: ParamSpec) -> float:
    """A round number, about a fiftieth of the range or a tenth of the default, at least 1 for whole numbers."""
    size = min((param.high - param.low) / 50, param.default / 2 if param.default else math.inf)
    step = 10.0 ** math.floor(math.log10(size))
    return max(1.0, step) if param.kind == "int" else step


def _draw_choice(param: ParamSpec, key: str) -> ParamValue:
    return st.selectbox(_label(param), param.choices, help=_help(param), key=key)


def _draw_bool(param: ParamSpec, key: str) -> ParamValue:
    return st.checkbox(_label(param), help=_help(param), key=key)


_WIDGETS = {"int": _draw_number, "float": _draw_number, "choice": _draw_choice, "bool": _draw_bool}
