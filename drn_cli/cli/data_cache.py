"""`drn data cache`: decode the training images before training."""

from pathlib import Path
from typing import Annotated

import typer

from drn_cli.cli import console
from drn_cli.cli.images import MaxPixels
from drn_cli.cli.prepare.common import AsJson, progress_bar
from drn_cli.errors import DrnError

EPILOG = """[bold]Examples[/]

  drn data cache data/cityscapes

  drn data cache /nfs/cityscapes --folder /local/cs

  drn train drn_d_22_cityscapes data.cache=disk data.cache_folder=/local/cs

  drn data cache data/cityscapes --remove

Training with data.cache=disk caches each image when it first reads it; this
command does so beforehand, on all cores. The cache takes four bytes per
pixel, 25 GB for Cityscapes. Changed files are decoded again. An interrupted
run continues where it stopped.
"""


def cache(
    root: Annotated[Path, typer.Argument(metavar="DIR", help="Data folder.")],
    folder: Annotated[
        Path | None, typer.Option(help="Cache folder. Default: drn-cache, beside the lists.")
    ] = None,
    lists: Annotated[Path | None, typer.Option(help="Folder of the lists, if not DIR.")] = None,
    remove: Annotated[bool, typer.Option("--remove", help="Remove the cache.")] = False,
    max_pixels: MaxPixels = None,
    as_json: AsJson = False,
) -> None:
    """Decode the training images, so that training reads only the crops it needs."""
    from drn_cli.data.cache import FOLDER, DecodedCache, cache_plan
    from drn_cli.data.folders import ListDataset
    from drn_cli.data.memory_folder import claim
    from drn_cli.data.parallel import in_parallel
    from drn_cli.formatting import size

    data = ListDataset.open(root, lists)
    decoded = DecodedCache(folder or data.lists / FOLDER, data.root)
    if remove:
        count = decoded.remove()
        if as_json:
            console.emit_json({"cache_folder": str(decoded.folder), "removed": count})
        else:
            console.out.print(f"{decoded.folder}: removed {count} samples", soft_wrap=True)
        return
    samples = data.samples("train")
    lacking = cache_plan(decoded, samples)
    if lacking.samples:
        wants = f"{len(lacking.samples)} samples take {size(lacking.bytes)} decoded"
        if not lacking.fits:
            raise DrnError(
                f"{decoded.folder}: {wants}, and {size(lacking.free)} are free",
                "use --folder on another disk",
            )
        console.note(f"{wants}; {size(lacking.free)} are free")
        try:
            claim(decoded.folder)
        except OSError as error:
            raise DrnError(f"{decoded.folder}: cannot be created: {error.strerror}") from error
        with progress_bar() as progress:
            for _ in in_parallel(decoded.add, lacking.samples, progress):
                pass
    decoded.sweep()
    if as_json:
        console.emit_json(
            {
                "cache_folder": str(decoded.folder),
                "images": len(samples),
                "decoded": len(lacking.samples),
                "bytes": lacking.bytes,
            }
        )
        return
    done = f"decoded {len(lacking.samples)}" if lacking.samples else "is up to date"
    console.out.print(f"{decoded.folder} {done}: {len(samples)} samples", soft_wrap=True)
    setting = f" data.cache_folder={folder}" if folder else ""
    console.note(f"train with it: data.cache=disk{setting}")
