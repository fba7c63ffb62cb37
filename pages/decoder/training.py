"""A support of the visitor's own: painted, described by the theory, trained on as a job, shown in the grids."""

import dataclasses
import json
from dataclasses import dataclass
from typing import Any

import streamlit as st

from backend.contracts import Result, SupportRequest
from backend.errors import PrismError
from backend.jobs import ENDED, JobStatus
from pages.decoder.board import ask
from pages.decoder.own_pictures import show_own_pictures
from pages.decoder.painter import painter
from pages.decoder.previews import draw_preview, strip
from pages.decoder.settings import KIND_TITLES, OWN, Case
from pages.shared.controls import begin, refused
from pages.shared.figures import format_value
from pages.shared.session import forget, jobs, recall, remember

SHAPES = ("ball", "square", "triangle", "digit")
EVERY_S = 1.0  # how often a running job is looked at
FAMILY = "additive_decoding"
PICTURES = 16  # training scenes shown
MEET = 0.25  # radius above which two objects side by side meet at like heights
MOVES = {  # title, free properties, recipe that it begins with, what that trains
    "heights": ("Heights", ("y",), "live", "12 starts of which training loss alone chooses one, then 800 steps"),
    "places": ("Places in the plane", ("x", "y"), "live-plane", "8 starts of which one is chosen, then 1,500 steps"),
}
PLANAR_SUPPORTS = {"apart": "Independent", "apart-dependent": "The second one's side depends on the first one's place"}
LINKS = {"identity": "none", "sigmoid": "sigmoid", "exp": "exp: blocks multiply"}
RECIPES = {"": "Many starts", "-paper": "One start, as in the paper"}  # suffix of the base, title
PAPER_SENTENCE = (
    "The paper's settings at 32 × 32 pixels: one start, Adam with rate and weight decay 5e-4, at most 20,000 steps, "
    "stopped early. One start often ends in a mixture that reconstructs well."
)
AXES = "Up: the left object's height. Right: the right object's height."


@dataclass(frozen=True, slots=True)
class Truth:
    """What scenes the visitor wants to train on, but for their support."""

    shapes: tuple[str, str] = ("ball", "ball")
    moves: str = "heights"  # a key of `MOVES`
    radius: float = 0.16
    occlusion: bool = False
    nonlinearity: float = 1.0

    @property
    def scene(self) -> dict[str, Any]:
        """The fields of the recipe's scene."""
        return {
            "shapes": list(self.shapes),
            "free": list(MOVES[self.moves][1]),
            "radius": self.radius,
            "occlusion": self.occlusion,
            "nonlinearity": self.nonlinearity,
        }

    def request(self, support: str) -> SupportRequest:
        fields = {name: tuple(value) if isinstance(value, list) else value for name, value in self.scene.items()}
        return SupportRequest(support, n=PICTURES, **fields)


def show_training() -> None:
    """On scenes with a truth of one's choice, or on pictures that one has."""
    begin("decoder.trained_on", "scenes")
    source = st.segmented_control(
        "Train on",
        ["scenes", "pictures"],
        format_func={"scenes": "Scenes drawn here", "pictures": "Pictures of your own"}.get,
        key="decoder.trained_on",
        required=True,
    )
    if source == "scenes":
        _train_on_scenes()
    else:
        show_own_pictures()


def _train_on_scenes() -> None:
    """Paint, read what the theory says of it, train, watch."""
    begin("decoder.moves", "heights")
    moves = st.segmented_control(
        "What moves", list(MOVES), format_func=lambda key: MOVES[key][0], key="decoder.moves", required=True
    )
    support = _paint() if moves == "heights" else _choose_planar()
    truth = _choose_truth(moves)
    answer = None if support is None else ask(truth.request(support))
    if support is None:
        refused("the support is empty: paint at least one cell")
    elif isinstance(answer, Result):
        _say_theory(answer, truth)
    else:
        refused(answer.sentence)
    _offer_training(support, truth, isinstance(answer, Result))
    _show_jobs()


def _paint() -> str | None:
    """A support of two heights as requests take it; None: nothing is painted."""
    st.markdown(
        "Paint which heights of the left and the right object are shown **together** in training. A decoder sees only "
        "images from there; the orange hatching is what recombining its blocks would reach."
    )
    painted = painter(AXES, key="decoder.painter")
    return None if painted.is_empty else painted.text


def _choose_planar() -> str:
    """A support of two places in the plane: four latents are too many to paint."""
    st.markdown(
        "Both objects go anywhere in the frame but never touch; a block is a place. Four latents cannot be painted, so "
        "choose how the two places hang together."
    )
    begin("decoder.planar", "apart")
    return st.segmented_control(
        "Training support", list(PLANAR_SUPPORTS), format_func=PLANAR_SUPPORTS.get, key="decoder.planar", required=True
    )


def _choose_truth(moves: str) -> Truth:
    for name, value in (("left", "ball"), ("right", "ball"), ("radius", 0.16), ("hides", False), ("nonlinearity", 1.0)):
        begin(f"decoder.{name}", value)
    with st.container(horizontal=True, vertical_alignment="bottom"):
        left = st.selectbox("Left object", SHAPES, key="decoder.left", width=150)
        right = st.selectbox("Right object", SHAPES, key="decoder.right", width=150)
        if moves != "heights":
            return Truth((left, right), moves)
        radius = st.slider(
            "Size of the objects",
            0.08,
            0.3,
            step=0.01,
            key="decoder.radius",
            width=220,
            help=f"Radius as a share of the image. Above {MEET:g} objects meet at like heights.",
        )
        hides = st.toggle("The right one hides the left one", key="decoder.hides")
        share = st.slider(
            "Nonlinearity of the truth",
            0.0,
            1.0,
            step=0.05,
            key="decoder.nonlinearity",
            width=260,
            disabled=hides,
            help="1: objects move. 0: images fade linearly from the lowest to the highest place; then no method that "
            "sees images only can tell the blocks apart. Objects that hide each other are always at 1.",
        )
    if hides and radius <= MEET:
        st.caption(f"At this size the objects never meet, so nothing is hidden; make them larger than {MEET:g}.")
    return Truth((left, right), moves, radius, hides, 1.0 if hides else share)


def _say_theory(result: Result, truth: Truth) -> None:
    """What the theory asks of truth and support, before any training."""
    pieces, nonlinearity = result.values["components"], result.quality["nonlinearity_truth"]
    sentences = [
        "The support is **one piece**: blocks are identified everywhere alike."
        if pieces == 1
        else f"The support falls in **{pieces} pieces**: blocks may be learned in another order in each.",
        "It **is a product** already: nothing is left to extrapolate to."
        if result.values["is_product"]
        else "Recombining blocks reaches **beyond it**.",
        f"Sufficient nonlinearity: smallest singular value **{format_value(nonlinearity)}**"
        + (": the truth is (almost) linear, so **blocks cannot be told apart**." if nonlinearity < 0.02 else "."),
    ]
    if truth.radius > MEET and truth.moves == "heights":
        sentences.append(
            "Where objects meet, the right one **hides** the left one: such scenes are **no sum**."
            if truth.occlusion
            else "Where objects meet, their colours add up: scenes are still sums."
        )
    st.markdown(" ".join(sentences))
    pictures = result.arrays["pictures"][:PICTURES]
    st.image(strip(pictures), caption="Scenes of this training support", output_format="PNG")


# ----------------------------------------------------------------- training
def _offer_training(support: str | None, truth: Truth, is_possible: bool) -> None:
    begin("decoder.kind", "additive")
    begin("decoder.job_seed", 0)
    begin("decoder.link", "identity")
    begin("decoder.recipe", "")
    with st.container(horizontal=True, vertical_alignment="bottom"):
        kind = st.segmented_control(
            "Decoder", list(KIND_TITLES), format_func=KIND_TITLES.get, key="decoder.kind", required=True
        )
        link = st.selectbox(
            "Link σ",
            list(LINKS),
            format_func=LINKS.get,
            key="decoder.link",
            width=190,
            help="What the sum of blocks goes through. With exp the image is a product of blocks; sigmoid keeps it "
            "between 0 and 1.",
        )
        suffix = st.selectbox("Recipe", list(RECIPES), format_func=RECIPES.get, key="decoder.recipe", width=230)
        seed = st.number_input("Training seed", 0, 10_000, key="decoder.job_seed", width=140)
        if st.button("Train", icon=":material/model_training:", key="decoder.train", disabled=not is_possible):
            recipe = {
                "base": MOVES[truth.moves][2] + suffix,
                "kind": kind,
                "link": link,
                "support": support,
                "scene": truth.scene,
            }
            args = {"name": "live", "family": FAMILY, "seed": int(seed), "recipe": recipe}
            try:
                remember("decoder.watched", jobs().submit("train", args))
            except PrismError as error:
                refused(error.sentence)
    small = f"The small recipe: 32 × 32 pixels, {MOVES[truth.moves][3]}; under three minutes on two cores."
    st.caption(
        f"{PAPER_SENTENCE if suffix else small} "
        "It goes on when you leave this page, and is found again when you come back."
    )


def trainings() -> list[JobStatus]:
    """Trainings of supports of one's own in this installation, the newest first."""
    return [
        job
        for job in jobs().list()
        if job.kind == "train"
        and job.args.get("family") == FAMILY
        and not job.args.get("recipe", {"images": True}).get("images")  # those have no truth to be drawn beside
    ]


def own_case() -> Case | None:
    """The newest finished training, beside those of other kinds on the same support and truth."""
    done = [job for job in trainings() if job.state == "done"]
    if not done:
        return None
    newest = _question(done[0])
    by_kind: dict[str, str] = {}
    for job in done:
        if _question(job) == newest:
            by_kind.setdefault(job.args["recipe"]["kind"], f"job-{job.id}")
    kinds = tuple(kind for kind in KIND_TITLES if kind in by_kind)
    return Case(
        OWN,
        "Trained here",
        "Trained here, on the support that was painted last: what lies in the dashed frames was never seen together.",
        tuple(by_kind[kind] for kind in kinds),
        kinds,
    )


def _question(job: JobStatus) -> str:
    recipe = job.args["recipe"]
    return json.dumps([recipe.get("support"), recipe.get("scene")], sort_keys=True)


def _show_jobs() -> None:
    found = trainings()
    if not found:
        return
    if found[0].state not in ENDED:
        _watch(found[0].id)
    else:
        _draw_job(found[0])


@st.fragment(run_every=EVERY_S)
def _watch(job_id: str) -> None:
    """Progress, loss and preview of a running job."""
    status = jobs().status(job_id)
    if status.state in ENDED:
        st.rerun()
    _draw_job(status)


def _draw_job(status: JobStatus) -> None:
    recipe = status.args["recipe"]
    link = recipe.get("link", "identity")
    name = f"{KIND_TITLES[recipe['kind']]} decoder" + (f", link {link}" if link != "identity" else "")
    name += f", seed {status.args['seed']}"
    with st.container(border=True):
        if status.state in ("queued", "running"):
            st.progress(status.step.fraction, text=f"Training: {name}. {status.message or status.state}")
            if st.button("Cancel", icon=":material/stop_circle:", key="decoder.train.cancel"):
                jobs().cancel(status.id)
        elif status.state == "done":
            st.markdown(f":material/check_circle: Trained: **{name}**.")
            st.button(
                "Show it in the grids",
                icon=":material/arrow_upward:",
                key="decoder.train.show",
                on_click=_show_own,
                type="primary",
            )
        elif status.state == "failed":
            refused(f"{name}: {status.error}")
        else:
            st.caption(f"Cancelled: {name}. Train again to start over.")
        draw_preview(status.id)


def _show_own() -> None:
    remember("decoder.case", OWN)
    settings = recall("decoder.settings")
    remember("decoder.settings", dataclasses.replace(settings, case=OWN, kinds=()))
    forget(f"decoder.kinds.{OWN}")
