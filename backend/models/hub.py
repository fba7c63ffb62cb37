"""timm classifiers from the hub: what their configuration says, and their weights, fetched only on request.

Without network this fails at once and in one sentence; what lies in the local hub cache is used without network.
"""

import contextlib
import functools
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path

from torch import nn

from backend.catalog import ModelSpec
from backend.errors import BadInput, NotAvailable

PREFIX = "timm:"
_REACH_S = 4.0  # seconds to find out whether the hub answers
_WEIGHTS = "model.safetensors"
_SILENCE = threading.Lock()  # the client's switch is one for the process: who turns it puts it back before the next


@functools.lru_cache(maxsize=256)
def hub_spec(name: str) -> ModelSpec:
    """The row of any timm classifier with weights on the hub; asks no network.

    Raises: BadInput: timm knows no such model, or has no weights for it.
    """
    import timm

    if not timm.is_model(name) or not timm.is_model_pretrained(name):
        raise BadInput(f"timm has no classifier with weights named {name!r}; see timm.list_pretrained()", "model")
    config = timm.get_pretrained_cfg(name)
    if config is None or not config.hf_hub_id or not config.num_classes:
        raise BadInput(f"{name!r} is not a classifier with weights on the hub", "model")
    channels, height, width = config.input_size
    if channels != 3:
        raise BadInput(f"{name!r} takes images of {channels} channels; expected 3", "model")
    return ModelSpec(
        key=PREFIX + name,
        title=f"{name} (timm)",
        architecture=PREFIX + name,
        source="hub",
        labels=_labels(config),
        input_size=(height, width),
        mean=tuple(config.mean),
        std=tuple(config.std),
        licence=config.license or "see the model's page on the hub",
        summary=f"{config.num_classes:,} classes; weights from the hub ({config.hf_hub_id}).",
    )


def _labels(config) -> tuple[str, ...]:
    """Class names where timm knows them (ImageNet in its variants), else numbers."""
    from timm.data import ImageNetInfo, infer_imagenet_subset

    subset = infer_imagenet_subset(config.to_dict())
    if subset is None:
        return tuple(f"class {index}" for index in range(config.num_classes))
    info = ImageNetInfo(subset)
    return tuple(info.index_to_description(index) for index in range(config.num_classes))


def load_network(name: str) -> nn.Module:
    """The network with its weights, from the local hub cache or the hub.

    Raises: BadInput: no such model; NotAvailable: not in the cache, and the hub does not answer.
    """
    import timm

    hub_spec(name)
    path = fetch(timm.get_pretrained_cfg(name).hf_hub_id, name)
    try:
        return timm.create_model(name, pretrained=True, pretrained_cfg_overlay={"file": path})
    except Exception as error:  # whatever timm's many loaders raise on a damaged download
        raise NotAvailable(
            f"the weights of {name} in the hub cache cannot be used ({type(error).__name__}); delete them and retry",
            "model",
        ) from error


def fetch(repository: str, name: str) -> str:
    """Path of the weights file in the local hub cache, downloaded if it is not there.

    The hub's client retries for most of a minute without network, so one short question comes first.
    Raises: NotAvailable: not in the cache, and the hub does not answer or does not have it.
    """
    import huggingface_hub

    cached = huggingface_hub.try_to_load_from_cache(repository, _WEIGHTS)
    if isinstance(cached, str):
        return cached
    with _asking(repository, name):
        return huggingface_hub.hf_hub_download(repository, _WEIGHTS)


def fetch_folder(repository: str, patterns: Sequence[str]) -> Path:
    """A repository's files in the local hub cache, downloaded if they are not there.

    Args: patterns: of the files' names; weights must be among the cached ones.
    Raises: NotAvailable: as `fetch`.
    """
    import huggingface_hub

    cached = huggingface_hub.try_to_load_from_cache(repository, _WEIGHTS) if _is_repository(repository) else None
    if isinstance(cached, str):
        return Path(cached).parent
    with _asking(repository, repository):
        return Path(huggingface_hub.snapshot_download(repository, allow_patterns=list(patterns)))


def _is_repository(name: str) -> bool:
    import huggingface_hub

    try:
        huggingface_hub.utils.validate_repo_id(name)
    except ValueError:
        return False
    return True


@contextlib.contextmanager
def cached_if_silent() -> Iterator[None]:
    """While the hub does not answer its client looks into its cache only: it would retry for half a minute per file."""
    from huggingface_hub import constants

    if answers():
        yield
        return
    with _SILENCE:
        before = constants.HF_HUB_OFFLINE
        constants.HF_HUB_OFFLINE = True
        try:
            yield
        finally:
            constants.HF_HUB_OFFLINE = before


def answers() -> bool:
    """Whether the hub can be reached."""
    import huggingface_hub

    try:
        huggingface_hub.get_session().head(huggingface_hub.constants.ENDPOINT, timeout=_REACH_S)
    except Exception:  # the client's, the HTTP library's and the system's errors all mean the same here
        return False
    return True


@contextlib.contextmanager
def _asking(repository: str, name: str) -> Iterator[None]:
    """Ask the hub a short question before something is downloaded. Raises: NotAvailable: it does not answer."""
    import huggingface_hub

    try:
        url = huggingface_hub.hf_hub_url(repository, _WEIGHTS)
        huggingface_hub.get_session().head(url, timeout=_REACH_S)
        yield
    except Exception as error:  # the client's, the HTTP library's and the system's errors all mean the same here
        raise NotAvailable(
            f"{name} needs weights from the hub, which does not answer; connect once, or choose a model that ships",
            "model",
        ) from error
