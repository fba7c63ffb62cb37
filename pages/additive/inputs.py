"""The controls of the page of additive image models: each returns a value that can be used."""

import dataclasses
import io
from dataclasses import dataclass

import numpy as np
import streamlit as st
from PIL import Image

from backend.catalog.additive_image import NAIMS
from backend.contracts import RecordRequest, Result
from backend.errors import PrismError
from backend.limits import LIMITS, MIB
from pages.additive.board import ANSWERS, Refusal, ask
from pages.additive.path import Shown, signed
from pages.additive.settings import (
    FRAMES,
    OWN_DATA,
    SPEC,
    UPLOAD,
    Settings,
    changed_only,
    models_here,
    read_query,
)
from pages.additive.training import own_models
from pages.shared.controls import begin, draw_params, refused
from pages.shared.gallery import Thumbnail, gallery
from pages.shared.page_settings import PageSettings
from pages.shared.scrubber import data_address
from pages.shared.session import escape, recall, remember, service

NAMES = ("A", "B")
_SETTINGS = PageSettings(ANSWERS, read_query, first_control="model")
first_settings, note_settings = _SETTINGS.first, _SETTINGS.note
refuse, say_refusal = _SETTINGS.refuse, _SETTINGS.say_refusal


# ----------------------------------------------------------------- data set
def choose_model(settings: Settings) -> str:
    """A data set with the model fitted to it, by name; the visitor's own among them, and the way to new ones."""
    own = own_models()
    keys = [*models_here(), *own, OWN_DATA]
    wanted = settings.model or keys[0]
    if wanted not in keys:
        refuse("model", f"{wanted} is not here; {title_of(keys[0], own)} is shown")
        wanted = keys[0]
    begin("additive.model", wanted)
    if recall("additive.model") not in keys:
        remember("additive.model", wanted)
    key = st.selectbox(
        "Data set",
        keys,
        format_func=lambda key: title_of(key, own),
        key="additive.model",
        help="A table with a picture in each row, and the additive model that was fitted to it.",
    )
    say_refusal("model")
    if key in NAIMS:
        st.caption(escape(NAIMS[key].summary))
    return key


def title_of(key: str, own: dict[str, str]) -> str:
    if key == OWN_DATA:
        return "Your own table and pictures …"
    return own.get(key) or (NAIMS[key].title if key in NAIMS else key)


# ----------------------------------------------------------------- both ends
@dataclass(frozen=True, slots=True, eq=False)
class Upload:
    """A picture of the visitor's own at one end."""

    id: str  # sha256 of the bytes
    data: bytes
    name: str

    def put(self) -> None:
        service().put_image(self.data)


@dataclass(frozen=True, slots=True, eq=False)
class Ends:
    """Both ends of the path, ready to be asked about."""

    rows: tuple[int, int]  # rows of the data, or `UPLOAD`
    shown: Shown
    image_ids: tuple[str, str] | None  # where one of them is no row
    data: tuple[bytes, ...] = ()  # of these

    def put(self) -> None:
        """Hand the pictures to the engine again."""
        for data in self.data:
            service().put_image(data)


def choose_ends(settings: Settings, pictures: Result) -> Ends | None:
    """Two pictures: from the gallery, or uploaded; None: one of them cannot be had, and it was said why."""
    ends = _wanted_ends(settings, pictures)
    thumbnails = _thumbnails(pictures)
    chosen = []
    for k, name in enumerate(NAMES):
        st.markdown(
            f"Picture {name}", help="From the lowest effect to the highest; or your own below." if k == 0 else None
        )
        pressed = gallery(f"Picture {name}", thumbnails, str(ends[k]), key=f"additive.gallery.{name}")
        chosen.append(ends[k] if pressed is None else int(pressed))
        if pressed is not None:
            remember("additive.ends", (settings.model, *[*chosen, *ends[k + 1 :]]))
    say_refusal("ends")
    swapped, _ = st.columns([1, 1])
    if swapped.button("Swap", icon=":material/swap_horiz:", key="additive.swap", width="stretch"):
        chosen = chosen[::-1]
        uploads = recall("additive.uploads", {})
        remember(
            "additive.uploads",
            {name: uploads[other] for name, other in zip("AB", "BA", strict=True) if other in uploads},
        )
    chosen = _take_uploads(chosen)
    remember("additive.ends", (settings.model, *chosen))
    return _ready(settings.model, tuple(chosen), pictures)


def _wanted_ends(settings: Settings, pictures: Result) -> tuple[int, int]:
    """The ends that were set for this data set; at first those with the lowest and the highest effect."""
    kept = recall("additive.ends")
    if kept is not None and kept[0] == settings.model:
        return kept[1:]
    if settings.ends is not None and kept is None and UPLOAD not in settings.ends:
        return settings.ends
    rows = pictures.arrays["rows"]
    return int(rows[0]), int(rows[-1])


def _thumbnails(pictures: Result) -> list[Thumbnail]:
    arrays = pictures.arrays
    return [
        Thumbnail(
            str(int(row)),
            f"row {row}, effect {signed(effect)}",
            f"Row {row}: its picture's effect is {signed(effect)}",
            data_address(picture),
        )
        for row, effect, picture in zip(arrays["rows"], arrays["effect"], arrays["images"], strict=True)
    ]


def _take_uploads(chosen: list[int]) -> list[int]:
    """Pictures of the visitor's own; a refused one leaves the picture before it where it is."""
    uploads: dict[str, Upload] = recall("additive.uploads", {})
    with st.expander("Your own picture", icon=":material/upload:"):
        st.caption("It stays in this process's memory and is never written to disk.")
        for k, name in enumerate(NAMES):
            file = st.file_uploader(
                f"as picture {name}", key=f"additive.upload.{name}", max_upload_size=LIMITS.max_upload_bytes // MIB
            )
            seen, refusal = f"additive.upload_seen.{name}", f"additive.upload_refusal.{name}"
            if file is not None and file.file_id != recall(seen):
                remember(seen, file.file_id)
                remember(refusal, "")
                try:
                    info = service().put_image(file.getvalue())
                    uploads = {**uploads, name: Upload(info.id, file.getvalue(), file.name)}
                    remember("additive.uploads", uploads)
                    chosen = [*chosen[:k], UPLOAD, *chosen[k + 1 :]]
                except PrismError as error:
                    remember(refusal, error.sentence)
            if sentence := recall(refusal):
                refused(sentence)
    return chosen


def _ready(model: str, rows: tuple[int, int], pictures: Result) -> Ends | None:
    """The pictures at both ends, and their ids where one of them is no row of the data."""
    uploads: dict[str, Upload] = recall("additive.uploads", {})
    titles, shown, data = [], [], []
    for row, name in zip(rows, NAMES, strict=True):
        if row == UPLOAD and name in uploads:
            titles.append(uploads[name].name)
            data.append(uploads[name].data)
            with Image.open(io.BytesIO(data[-1])) as opened:
                shown.append(np.asarray(opened.convert("RGB").resize((64, 64))))
            continue
        picture = _picture_of(model, row, pictures)
        if picture is None:
            return None
        titles.append(f"row {row}")
        shown.append(picture)
        data.append(_png(picture))
    if UPLOAD not in rows:
        return Ends(rows, Shown(tuple(titles), tuple(shown)), None)
    ids = tuple(service().put_image(item).id for item in data)
    return Ends(rows, Shown(tuple(titles), tuple(shown)), ids, tuple(data))


def _picture_of(model: str, row: int, pictures: Result) -> np.ndarray | None:
    """The picture of a row, whether it hangs in the gallery or not; None: there is no such row."""
    found = np.flatnonzero(pictures.arrays["rows"] == row)
    if len(found):
        return pictures.arrays["images"][found[0]]
    answer = ask(RecordRequest(model, row))
    if isinstance(answer, Refusal):
        refused(answer.sentence)
        return None
    return answer.arrays["image"]


def _png(pixels: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "png")
    return buffer.getvalue()


# ----------------------------------------------------------------- the path
def choose_path(settings: Settings) -> Settings:
    """How many frames, how far beyond the ends, which stochastic code, which seed."""
    begin("additive.frames", settings.frames)
    begin("additive.seed", settings.seed)
    is_open = any(control in _SETTINGS.refusals() for control in ("frames", "seed", *dict(settings.path_params)))
    with st.expander("The path", icon=":material/tune:", expanded=is_open):
        frames = st.slider("Frames", *FRAMES, step=8, key="additive.frames", help="Decoded in one batch.")
        params = draw_params(SPEC, "additive", settings.path_params)
        seed = st.number_input(
            "Seed", 0, 2**31 - 1, step=1, key="additive.seed", help="Of a random stochastic code, and of intervals."
        )
        say_refusal("frames", "seed", *dict(settings.path_params))
    return dataclasses.replace(settings, frames=int(frames), params=changed_only(params), seed=int(seed))
