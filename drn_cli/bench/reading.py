"""The input pipeline: batches of augmented crops from files, as fast as training can read them."""

from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import replace
from itertools import count
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import numpy as np
import torch
from PIL import Image

from drn_cli.bench.cases import Case
from drn_cli.bench.subject import Subject
from drn_cli.bench.training import recipe_of
from drn_cli.data.batches import Batch, TrainingBatches
from drn_cli.data.classes import cityscapes
from drn_cli.data.prepare.scenes import draw_scene, make_scenes
from drn_cli.distributed.group import Group
from drn_cli.errors import DrnError
from drn_cli.recipe.schema import Recipe
from drn_cli.training.setup import set_up
from drn_cli.training.tasks import Material, task_of

AT_A_TIME = 16  # batches that are timed together: one alone is there already, or is waited for
DRAWN = 8  # pictures, where there are no others
STEPS = 64  # of an epoch of those: its end, where readers wait, should be rare
PHOTOGRAPH = (500, 375)  # width and height of ImageNet's usual pictures
NOISE = 9.3  # standard deviation with which a drawn picture's file is as large as a photograph's


class Reading(NamedTuple):
    """A call that reads batches, and how many of them."""

    call: Callable[[], object]
    batches: int


def check_pictures(subject: Subject, cases: Sequence[Case], data: Path | None) -> None:
    """See that there is something to read, before anything is measured.

    Raises:
        DrnError: The pictures are not there, or are too few for a batch.
    """
    for case in cases:
        if case.what == "input" and not _are_drawn(subject, data):
            recipe = _recipe(subject, case, _place(data))
            try:
                material = task_of(recipe).find_material(recipe)
            except DrnError as error:
                raise DrnError(error.message, "name a folder to read from with --data") from error
            _check_batch(case, recipe, material)


@contextmanager
def reading(
    subject: Subject, case: Case, device: torch.device, data: Path | None
) -> Iterator[Reading]:
    """Make the pictures of a run, of a folder, or drawn ones ready to be read.

    Args:
        subject: Its run's recipe, or else a shipped one, says how pictures are read.
        case: Says batch, crop and reading processes.
        device: A GPU wants batches in page-locked memory.
        data: A data folder, instead of the run's.

    Raises:
        DrnError: The pictures are not there, or are too few for a batch.
    """
    with TemporaryDirectory(prefix="drn-bench-") as scratch:
        drawn = _are_drawn(subject, data)
        settings = _draw(subject, case, Path(scratch) / "data") if drawn else _place(data)
        recipe = _recipe(subject, case, settings)
        material = task_of(recipe).find_material(recipe)
        _check_batch(case, recipe, material)
        if drawn:
            enough = -(-STEPS * case.batch // len(material.train))
            material = replace(material, train=list(material.train) * enough)
        training = set_up(recipe, material, Group(0, 1, device))
        together = min(AT_A_TIME, training.order.steps)
        with closing(_endless(training.batches)) as batches:
            yield Reading(lambda: [next(batches) for _ in range(together)], together)


def _endless(batches: TrainingBatches) -> Generator[Batch, None, None]:
    for epoch in count():
        yield from batches.epoch(epoch)


def _are_drawn(subject: Subject, data: Path | None) -> bool:
    return data is None and subject.recipe is None


def _place(data: Path | None) -> dict[str, Any]:
    return {} if data is None else {"root": str(data), "lists": None}


def _recipe(subject: Subject, case: Case, settings: dict[str, Any]) -> Recipe:
    return recipe_of(subject, case, {"workers": case.workers, **settings})


def _check_batch(case: Case, recipe: Recipe, material: Material) -> None:
    if case.batch > len(material.train):
        raise DrnError(
            f"--batch {case.batch}: {recipe.data.root} has {len(material.train)} training pictures"
        )


def _draw(subject: Subject, case: Case, root: Path) -> dict[str, Any]:
    """Draw pictures as large as the field's; give the recipe's settings for them."""
    if subject.task == "classification":
        for split in ("train", "val"):
            for number in range(DRAWN):
                _draw_photograph(root / split / f"class{number % 2}" / f"{number}.jpg", number)
        return {"root": str(root), "classes": 2}
    # Twice as high and four times as wide as the crop, but no larger than those of Cityscapes.
    side = min(max(16, *case.size), 512)
    make_scenes(root, train=DRAWN, val=1, test=0, width=4 * side, height=2 * side)
    return {"root": str(root), "lists": None, "classes": len(cityscapes())}


def _draw_photograph(path: Path, seed: int) -> None:
    scene, _ = draw_scene(seed, *PHOTOGRAPH)
    noisy = scene + np.random.default_rng(seed).normal(0, NOISE, scene.shape)
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.clip(noisy, 0, 255).astype(np.uint8)).save(path, quality=95)
