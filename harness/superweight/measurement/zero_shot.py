"""Measure zero-shot accuracy of a loaded model with lm-evaluation-harness (Table 1 of the paper).

The library brings the tasks, the prompts and the scoring; `fixtures/tasks` adds two tasks in its own
YAML that need no data set from anywhere. It is optional: pip install 'superweight-harness[eval]'.
"""

from __future__ import annotations

import copy
import logging
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from superweight.core.errors import BadInput
from superweight.core.resources import fixtures_directory
from superweight.measurement.evaluate import Values
from superweight.model.subject import Subject

if TYPE_CHECKING:
    from lm_eval.api.task import Task

_METRIC = "acc"
# The library's own; some of its tasks show examples, drawn at random.
_FEWSHOT_SEED = 1234


@dataclass(frozen=True)
class Accuracy:
    """How one task went: 1 or 0 for each item, (items,), and what guessing would reach.

    ``standard_error`` is the library's own. Guessing is one over the number of choices, and zero
    where the answer must be written.
    """

    task: str
    right: Values
    guessing: float
    standard_error: float

    @property
    def mean(self) -> float:
        return float(self.right.mean())


@dataclass(frozen=True)
class Tasks:
    """Tasks as the library has read them, and how many items of each are asked."""

    loaded: Mapping[str, Task]
    limit: int | None


def read_tasks(names: Sequence[str], limit: int | None = None) -> Tasks:
    """Read tasks, groups or tags by the names that lm-evaluation-harness knows them by.

    Raises `BadInput` for a missing library, an unknown name, data that is not to be had, a
    task that is not scored by accuracy, and a limit that asks nothing.
    """
    if limit is not None and limit < 2:
        raise BadInput(f"--limit {limit} is too few for a standard error; give 2 or more")
    try:
        from lm_eval.tasks import TaskManager
    except ImportError:
        raise BadInput(
            "zero-shot tasks need lm-evaluation-harness: pip install 'superweight-harness[eval]'"
        ) from None
    logging.getLogger("lm_eval").setLevel(logging.ERROR)
    if not names:
        raise BadInput("no task is named; give one or more, separated by commas")
    own = fixtures_directory() / "tasks"
    manager = TaskManager(include_path=str(own), include_defaults=False)
    if not set(names) <= set(manager.all_tasks):
        manager = TaskManager(include_path=[str(own), *_folders(names)], include_defaults=False)
    loaded: dict[str, Task] = {}
    for name in names:
        if name not in manager.all_tasks:
            raise BadInput(
                f"lm-evaluation-harness knows no task {name!r}; lm-eval ls tasks lists its own, and "
                "superweight_cloze and superweight_choice come with this harness"
            )
        try:
            try:
                loaded |= manager.load([name])["tasks"]
            except KeyError:  # a group of tasks from other folders
                manager = TaskManager(include_path=str(own))
                loaded |= manager.load([name])["tasks"]
        # The loader passes on whatever the hub client, pyarrow or the disk raises.
        except Exception as error:
            raise BadInput(f"task {name}: its data is not to be had: {_first_line(error)}") from error
    for name, task in loaded.items():
        if _METRIC not in task.aggregation():
            raise BadInput(f"task {name} is not scored by accuracy; give one that reports acc")
        if task.get_config("num_fewshot") is None:
            task.set_config(key="num_fewshot", value=0)
        task.set_fewshot_seed(seed=_FEWSHOT_SEED)
    return Tasks(loaded, limit)


def _folders(names: Sequence[str]) -> list[str]:
    """Return the library's folders in which a name is spelled; to parse all of its files takes far longer."""
    import lm_eval.tasks

    root = Path(lm_eval.tasks.__file__).parent
    spelled = re.compile(rb"(?<!\w)(%s)(?!\w)" % b"|".join(re.escape(name.encode()) for name in names))
    hits = (path for path in root.rglob("*.yaml") if spelled.search(path.read_bytes()))
    return sorted({str(root / path.relative_to(root).parts[0]) for path in hits})


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__


def accuracies(subject: Subject, tasks: Tasks, *, batch: int = 16) -> dict[str, Accuracy]:
    """Return the accuracy of each task on the subject as it is now, edits in force included."""
    from lm_eval.models.huggingface import HFLM

    model = HFLM(
        pretrained=subject.model,
        # The library gives the tokenizer a padding token; the subject's own stays as it is.
        tokenizer=copy.deepcopy(subject.tokenizer),
        device=str(subject.device),
        batch_size=batch,
        # What the tokenizer puts in front of a text is what the harness measures with everywhere.
        add_bos_token=subject.provenance.begins_with_bos,
    )
    return accuracies_of(model, tasks)


def accuracies_of(model: Any, tasks: Tasks) -> dict[str, Accuracy]:
    """Return the accuracy of each task for a model as lm-evaluation-harness has them."""
    from lm_eval.evaluator import evaluate

    groups: dict[str, Any] = {"groups": {}, "group_map": {}}
    results = evaluate(lm=model, task_dict={"tasks": dict(tasks.loaded), **groups}, limit=tasks.limit)
    return {name: _accuracy(name, task.OUTPUT_TYPE or "", results) for name, task in tasks.loaded.items()}


def _accuracy(name: str, kind: str, results: Any) -> Accuracy:
    samples = sorted(results["samples"][name], key=lambda sample: int(sample["doc_id"]))
    choices = [len(sample["arguments"]) for sample in samples]
    guessing = float(np.mean([1 / count for count in choices])) if kind == "multiple_choice" else 0.0
    return Accuracy(
        name,
        np.array([float(sample[_METRIC]) for sample in samples]),
        guessing,
        float(results["results"][name][f"{_METRIC}_stderr,none"]),
    )
