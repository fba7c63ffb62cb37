"""What can be asked of additive models of a table and an image."""

from dataclasses import dataclass
from typing import ClassVar

from backend.contracts.values import Params


@dataclass(frozen=True, slots=True)
class ImagePathRequest:
    """Frames and image effect on the way from one image to another: two rows of the example, or two images."""

    kind: ClassVar[str] = "image_path"
    family: ClassVar[str] = "additive_image"
    model: str
    method: str = "naim"
    rows: tuple[int, ...] | None = None  # two rows of the model's data
    image_ids: tuple[str, ...] | None = None  # or two images that were put in
    frames: int = 33
    params: Params = ()
    seed: int = 0  # of a random x_T


@dataclass(frozen=True, slots=True)
class ImageCornersRequest:
    """A square of frames between four images: codes are mixed bilinearly."""

    kind: ClassVar[str] = "image_corners"
    family: ClassVar[str] = "additive_image"
    model: str
    rows: tuple[int, ...] | None = None  # four: top left, top right, bottom left, bottom right
    image_ids: tuple[str, ...] | None = None
    side: int = 5  # frames along each side
    params: Params = ()
    seed: int = 0


@dataclass(frozen=True, slots=True)
class ImageDirectionRequest:
    """One image moved along an attribute's direction in the code, and what that does to its effect."""

    kind: ClassVar[str] = "image_direction"
    family: ClassVar[str] = "additive_image"
    model: str
    attribute: str
    row: int | None = None
    image_id: str | None = None
    frames: int = 9
    strength: float = 1.0  # how far to either side, in standard deviations of the attribute
    params: Params = ()
    seed: int = 0


@dataclass(frozen=True, slots=True)
class ShapeFunctionsRequest:
    """Every column's shape function with its band, density, importance and, where known, the truth."""

    kind: ClassVar[str] = "shape_functions"
    family: ClassVar[str] = "additive_image"
    model: str
    points: int = 201  # along a numeric column; at whole numbers only, if it holds nothing else


@dataclass(frozen=True, slots=True)
class ImageGalleryRequest:
    """Images of the model's data with their effects, spread evenly over the range of effects."""

    kind: ClassVar[str] = "image_gallery"
    family: ClassVar[str] = "additive_image"
    model: str
    n: int = 24
    seed: int = 0


@dataclass(frozen=True, slots=True)
class RecordRequest:
    """One record explained: what each column and the image add to the intercept, ending at the prediction."""

    kind: ClassVar[str] = "record"
    family: ClassVar[str] = "additive_image"
    model: str
    row: int = 0
    image_id: str | None = None  # instead of the row's own image
    values: Params = ()  # columns with other values than the row's; categories by name


@dataclass(frozen=True, slots=True)
class AttributeEffectsRequest:
    """What each known attribute of the images does to the response along its direction, with an interval."""

    kind: ClassVar[str] = "attribute_effects"
    family: ClassVar[str] = "additive_image"
    model: str
    seed: int = 0


@dataclass(frozen=True, slots=True)
class ModelComparisonRequest:
    """Held-out fit of this model, the table alone, a boosting machine and a black box; checks of additivity."""

    kind: ClassVar[str] = "model_comparison"
    family: ClassVar[str] = "additive_image"
    model: str
    n: int = 2000  # held-out rows
    seed: int = 0
