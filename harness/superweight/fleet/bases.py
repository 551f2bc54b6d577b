"""Find the base of a model where a fleet leaves that to the registry or to the model card."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from superweight.checkpoints.hub_source import HubSource
from superweight.checkpoints.registry import ModelEntry
from superweight.checkpoints.sources import local_path
from superweight.core.errors import BadInput
from superweight.core.reason import reason
from superweight.fleet.job import FROM_CARD, FROM_REGISTRY, Job

_CARD = "README.md"


def base_of(job: Job, entry: ModelEntry) -> str | None:
    """Return the MODEL that a job's model is held to; None where it is held to none.

    Raises `BadInput` where the registry or the card names none.
    """
    if job.base == FROM_REGISTRY:
        if entry.tuned_from is None:
            raise BadInput(f"the registry does not say what {job.model} was tuned from; name its base")
        return entry.tuned_from
    return _of_card(job.model, entry) if job.base == FROM_CARD else job.base


def _of_card(model: str, entry: ModelEntry) -> str:
    named = _metadata(model, entry).get("base_model")
    if isinstance(named, list):
        if len(named) > 1:
            raise BadInput(f"the card of {model} names {len(named)} base models; name the one it is held to")
        named = named[0] if named else None
    if not isinstance(named, str) or not named:
        raise BadInput(f"the card of {model} names no base_model; name its base")
    return named


def _metadata(model: str, entry: ModelEntry) -> dict[str, Any]:
    from huggingface_hub import hf_hub_download, metadata_load

    path = local_path(entry)
    try:
        if path.exists():
            card = (path if path.is_dir() else path.parent) / _CARD
        else:
            wanted = HubSource.parse(entry.source)
            if wanted is None:
                return {}
            card = Path(hf_hub_download(wanted.repo, _CARD, revision=wanted.revision or entry.revision))
        return (metadata_load(card) or {}) if card.is_file() else {}
    # The client passes on whatever its HTTP library raises, and YAML what its parser does.
    except Exception as error:
        raise BadInput(f"the card of {model} cannot be read: {reason(error)}; name its base") from error
