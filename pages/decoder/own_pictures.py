"""Pictures of the visitor's own: read and questioned, trained on as a job, watched, found again, forgotten."""

import time
from collections.abc import Sequence

import streamlit as st

from backend import archives, tables
from backend.additive_decoding import own_data, own_store
from backend.additive_decoding.own_data import OwnPictures, Roles
from backend.archives import PictureFiles
from backend.errors import PrismError
from backend.jobs import ENDED, JobStatus
from backend.limits import LIMITS, MIB
from backend.tables import Table
from pages.decoder.previews import draw_preview, strip
from pages.decoder.settings import KIND_TITLES
from pages.shared.controls import begin, refused
from pages.shared.figures import format_value
from pages.shared.session import escape, forget, jobs, recall, remember

SIDE = 64  # pixels that the pictures of an archive are brought to
SIDES = {32: "32 × 32", 64: "64 × 64"}
ENCODERS = {"position": "In colour", "convolutional": "In shape or place only"}
GREYISH = 24  # of 255: how far channels differ in pictures without colour
SHOWN = 12  # pictures
EVERY_S = 1.0  # how often a running job is looked at
WHAT = (
    "A **dSprites file** (.npz), or a **zip archive of pictures** with a table of their factors, or with CLEVR's "
    "scenes file inside, or without either. An additive decoder assumes that a picture is a sum: one part for each "
    "block of latents. Objects that do not hide each other are; one sprite's shape and place are not."
)
COMMAND = "The same from the command line: `python -m backend train own-images --images PATH`, a file or a folder."
ON_DISK = (
    "For the training the pictures are written to this machine's disk; “Forget” deletes them with the model. Whoever "
    "can open this page sees what was trained here. **Do not bring pictures of patients.**"
)


def show_own_pictures() -> None:
    """From a file to a trained decoder; what was trained before is listed below."""
    st.markdown(WHAT)
    pictures = _take_pictures()
    if pictures is not None:
        _offer_training(pictures)
    _show_jobs()
    st.caption(COMMAND)


# ----------------------------------------------------------------- files
def _take_pictures() -> OwnPictures | None:
    """What the visitor brought; a refused file leaves the one before on the desk."""
    upload = st.file_uploader(
        "Pictures",
        type=["npz", "zip"],
        key="decoder.own.file",
        max_upload_size=LIMITS.max_archive_bytes // MIB,
        help=f"At most {own_data.MOST_PICTURES:,} pictures are used, drawn by lot. Files are checked before anything "
        "in them is unpacked, and unpacked in memory only.",
    )
    if upload is not None and upload.file_id != recall("decoder.own.seen"):
        remember("decoder.own.seen", upload.file_id)
        remember("decoder.own.refusal", "")
        try:
            _begin(upload.name, upload.getvalue())
        except PrismError as error:
            remember("decoder.own.refusal", f"{upload.name}: {error.sentence}")
    if sentence := recall("decoder.own.refusal"):
        refused(sentence)
    if recall("decoder.own.sprites") is not None:
        return recall("decoder.own.sprites")
    files: PictureFiles | None = recall("decoder.own.files")
    return None if files is None else _take_described(files)


def _begin(name: str, data: bytes) -> None:
    """A new file is on the desk: what was chosen for the one before is over. Raises: BadInput: it cannot be read."""
    is_archive = name.lower().endswith(".zip")
    files = archives.open_archive(data) if is_archive else None
    sprites = None if is_archive else own_data.read_sprites(data)
    for key in ("read", "sizes", "encoder", "table", "table_seen", "table_refusal", "factors", "names"):
        forget(f"decoder.own.{key}")
    remember("decoder.own.name", name)
    remember("decoder.own.files", files)
    remember("decoder.own.sprites", sprites)


def _take_described(files: PictureFiles) -> OwnPictures | None:
    """The pictures of an archive with the factors that a table gives them, read once for each choice."""
    table = _take_table()
    roles = None if table is None else _choose_roles(table)
    if table is not None and roles is None:
        return None
    what = (recall("decoder.own.seen"), table and table.id, roles)
    known = recall("decoder.own.read")
    if known is None or known[0] != what:
        known = (what, *_read(files, table, roles))
        remember("decoder.own.read", known)
    if known[2]:
        refused(known[2])
    return known[1]


def _take_table() -> Table | None:
    upload = st.file_uploader(
        "Table of factors (optional)",
        type=["csv", "tsv", "txt", "parquet"],
        key="decoder.own.table_file",
        max_upload_size=LIMITS.max_upload_bytes // MIB,
        help="One row for each picture: a column with its name, the others with what varies. Factors are used to "
        "measure what was learned, never to train.",
    )
    if upload is not None and upload.file_id != recall("decoder.own.table_seen"):
        remember("decoder.own.table_seen", upload.file_id)
        remember("decoder.own.table_refusal", "")
        try:
            remember("decoder.own.table", tables.read_table(upload.getvalue()))
            forget("decoder.own.factors")
            forget("decoder.own.names")
            forget("decoder.own.sizes")
        except PrismError as error:
            remember("decoder.own.table_refusal", f"{upload.name}: {error.sentence}")
    if sentence := recall("decoder.own.table_refusal"):
        refused(sentence)
    return recall("decoder.own.table")


def _choose_roles(table: Table) -> Roles | None:
    """Which column names the pictures and which ones are factors; None: none can, and it was said."""
    try:
        guess = own_data.guess_roles(table)
    except PrismError as error:
        refused(error.sentence)
        return None
    names = [column.name for column in table.columns]
    begin("decoder.own.names", guess.pictures)
    begin("decoder.own.factors", list(guess.factors))
    pictures = st.selectbox("Column that names the pictures", names, key="decoder.own.names")
    factors = st.multiselect(
        "Factors, in the order of their blocks",
        [column.name for column in table.columns if column.is_feature],
        key="decoder.own.factors",
    )
    return Roles(pictures, tuple(factors))


def _read(files: PictureFiles, table: Table | None, roles: Roles | None) -> tuple[OwnPictures | None, str]:
    """The pictures, or what stands against them."""
    bar, pictures = st.progress(0.0, text="Reading pictures"), None
    try:
        for seen, total, found in own_data.read_archive(files, SIDE, table, roles):
            bar.progress(seen / max(total, 1), text=f"Reading pictures: {seen:,} of {total:,}")
            pictures = found
    except PrismError as error:
        return None, error.sentence
    finally:
        bar.empty()
    return pictures, ""


# ----------------------------------------------------------------- training
def _offer_training(pictures: OwnPictures) -> None:
    name = str(recall("decoder.own.name", "pictures"))
    known = f"{len(pictures.names)} factors" if pictures.names else "no factors"
    st.caption(f":material/check: {escape(name)}: {len(pictures):,} pictures, {known}")
    st.image(strip(pictures.pixels[:SHOWN]), alt="The first of the pictures brought", output_format="PNG")
    begin("decoder.own.sizes", ", ".join(map(str, pictures.sizes)) if len(pictures.sizes) > 1 else "2, 2")
    begin("decoder.own.side", 32)
    begin("decoder.own.kind", "additive")
    begin("decoder.own.encoder", "position" if _has_colour(pictures) else "convolutional")
    begin("decoder.own.seed", 0)
    text = st.text_input(
        "Sizes of the blocks",
        key="decoder.own.sizes",
        help="How many latents each block has: 3, 2 means two blocks, of three latents and of two.",
    )
    try:
        sizes = own_data.parse_sizes(text)
    except PrismError as error:
        refused(error.sentence)
        sizes = ()
    else:
        st.caption(_say_blocks(sizes, pictures.names))
    with st.container(horizontal=True, vertical_alignment="bottom"):
        kind = st.segmented_control(
            "Decoder", list(KIND_TITLES), format_func=KIND_TITLES.get, key="decoder.own.kind", required=True
        )
        encoder = st.segmented_control(
            "How objects differ",
            list(ENCODERS),
            format_func=ENCODERS.get,
            key="decoder.own.encoder",
            required=True,
            help="Which encoder looks at the pictures: one that finds where each colour is, or one of convolutions.",
        )
        side = st.segmented_control("Pixels", list(SIDES), format_func=SIDES.get, key="decoder.own.side", required=True)
        seed = st.number_input("Training seed", 0, 10_000, key="decoder.own.seed", width=140)
        is_wanted = st.button(
            "Train", icon=":material/model_training:", key="decoder.own.train", type="primary", disabled=not sizes
        )
    st.caption(ON_DISK)
    if is_wanted and sizes:
        images = own_store.PREFIX + own_store.keep(pictures)
        recipe = {
            "base": own_store.RECIPE,
            "kind": kind,
            "encoder": encoder,
            "images": images,
            "block_sizes": list(sizes),
            "scene": {"side": side},
        }
        args = {
            "name": own_store.RECIPE,
            "family": own_store.FAMILY,
            "seed": int(seed),
            "recipe": recipe,
            "title": name,
        }
        try:
            jobs().submit("train", args)
        except PrismError as error:
            refused(error.sentence)


def _has_colour(pictures: OwnPictures) -> bool:
    shown = pictures.pixels[:SHOWN].astype(int)
    return int((shown.max(-1) - shown.min(-1)).max()) > GREYISH


def _say_blocks(sizes: Sequence[int], names: Sequence[str]) -> str:
    """Which factors each block is compared with afterwards."""
    if not names:
        return f"{len(sizes)} blocks. Without factors the error is measured, but not what the blocks mean."
    if sum(sizes) != len(names):
        return (
            f"{len(sizes)} blocks of {sum(sizes)} latents, {len(names)} factors: they do not pair up, so what the "
            "blocks mean is not measured."
        )
    parts, start = [], 0
    for i, size in enumerate(sizes):
        parts.append(f"**block {i + 1}**: {escape(', '.join(names[start : start + size]))}")
        start += size
    return "Compared afterwards, in the best matching: " + " · ".join(parts)


# ----------------------------------------------------------------- jobs
def _show_jobs() -> None:
    found = own_store.trainings(jobs())
    if found:
        st.markdown("**Trained here**")
    for job in found:
        if job.state in ENDED:
            _draw_job(job)
        else:
            _watch(job.id)


def _title(job: JobStatus) -> str:
    recipe = job.args["recipe"]
    sizes = ", ".join(map(str, recipe.get("block_sizes") or ())) or "as its factors"
    what = job.args.get("title") or recipe["images"].rpartition("/")[2]
    return (
        f"{KIND_TITLES[recipe.get('kind', 'additive')]} decoder of {what}, blocks {sizes}, seed {job.args['seed']}, "
        f"{time.strftime('%d %b %H:%M', time.localtime(job.submitted))}"
    )


@st.fragment(run_every=EVERY_S)
def _watch(job_id: str) -> None:
    """Progress, loss and preview of a running job; it goes on when the page is left."""
    status = jobs().status(job_id)
    if status.state in ENDED:
        st.rerun()
    with st.container(border=True):
        st.progress(status.step.fraction, text=f"{escape(_title(status))}. {status.message or status.state}")
        if st.button("Cancel", icon=":material/stop_circle:", key=f"decoder.own.cancel.{job_id}"):
            jobs().cancel(job_id)
        draw_preview(job_id)


def _draw_job(job: JobStatus) -> None:
    """One training that has ended, with what can be done with it."""
    with st.container(border=True):
        if job.state == "done":
            st.markdown(f":material/check_circle: **{escape(_title(job))}**")
            _draw_result(job)
        elif job.state == "failed":
            refused(f"{_title(job)}: {job.error}")
        else:
            st.caption(f"Cancelled: {escape(_title(job))}.")
        draw_preview(job.id)
        with st.container(horizontal=True):
            if job.state == "done":
                queue = jobs()
                st.download_button(
                    "Model", lambda: own_store.pack_model(queue, job.id), "decoder.zip", "application/zip",
                    key=f"decoder.own.pack.{job.id}", icon=":material/download:", on_click="ignore",
                    help="Weights, card and grid.",
                )  # fmt: skip
            elif st.button("Train again", icon=":material/play_arrow:", key=f"decoder.own.again.{job.id}"):
                jobs().submit("train", job.args)
                st.rerun()
            st.button(
                "Forget", icon=":material/delete:", key=f"decoder.own.forget.{job.id}", on_click=_forget, args=(job.id,)
            )


def _draw_result(job: JobStatus) -> None:
    """Figures on held-out pictures, and the grid of recombinations."""
    card = jobs().result(job.id)
    figures = card["figures"]
    said = [
        f"RMSE ↓ on {figures['held_out_pictures']:,} held-out pictures **{format_value(figures['rmse'])}** "
        f"(their mean picture: {format_value(figures['rmse_of_mean'])})"
    ]
    if figures["lms_tree"] is not None:
        said.append(f"LMS by trees ↑ **{figures['lms_tree']:.1f}**")
    st.markdown(" · ".join(said))
    grid = jobs().read_file(job.id, card["grid"])
    if grid is not None:
        st.image(
            grid,
            caption="Left: pictures that lend their first block. Above: those that lend the second. Inside: both "
            "blocks decoded together, all other blocks from one picture.",
        )


def _forget(job_id: str) -> None:
    own_store.forget(jobs(), job_id)
