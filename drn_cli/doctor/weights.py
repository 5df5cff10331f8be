"""The cache folder, and which published weights lie in it."""

import shutil
from pathlib import Path

from drn_cli.doctor.finding import Finding, gigabytes
from drn_cli.doctor.folders import nearest, why_not_writable
from drn_cli.networks.published import PUBLISHED

ROOM = 1e9  # bytes: weights of several networks


def cache() -> Finding:
    """See that weights can be put where they are looked for."""
    from drn_cli.networks.download import cache_folder, weights_folder

    folder, name = cache_folder(), "cache folder"
    place = nearest(weights_folder())
    remedy = "set DRN_CACHE to a folder that can be written"
    if not place.is_dir():
        return Finding(name, "failure", f"{folder}: {place} is no folder", remedy)
    if (why := why_not_writable(place)) is not None:
        if weights_folder().is_dir():
            found = f"{folder} cannot be written ({why}): only what is there already can be used"
            return Finding(name, "warning", found, remedy)
        return Finding(name, "failure", f"{folder} cannot be made: {place}: {why}", remedy)
    free = shutil.disk_usage(place).free
    found = f"{folder}{'' if folder.exists() else ', not made yet'}: {gigabytes(free)} free"
    if free < ROOM:
        return Finding(name, "warning", found, f"make room, or {remedy}")
    return Finding(name, "ok", found)


def at_hand() -> Finding:
    """Count the published files in the cache folder, and check them as a download would."""
    from drn_cli.integrity import digest_file
    from drn_cli.networks.download import matches, weights_folder

    folder = weights_folder()
    there = [file for file in PUBLISHED if (folder / file.name).is_file()]
    bad = [file for file in there if not matches(folder / file.name, file)]
    if bad:
        places = [folder / file.name for file in bad]
        paths = [str(one) for path in places for one in (path, digest_file(path)) if one.exists()]
        return Finding(
            "weights",
            "warning",
            f"not as published, by their checksums: {', '.join(file.name for file in bad)}",
            f"rm {' '.join(paths)}; drn models fetch {bad[0].arch} gets it again",
        )
    packed = [file for file in PUBLISHED if file not in there and _packed(folder, file.name)]
    if not there and not packed:
        found = f"none of {len(PUBLISHED)} published files; drn models fetch ARCH gets them"
        return Finding("weights", "ok", found)
    networks = ", ".join(sorted({file.arch for file in [*there, *packed]}))
    found = f"{len(there)} of {len(PUBLISHED)} published files are there and sound"
    if packed:
        found += f", {len(packed)} as archives that are unpacked when they are used"
    return Finding("weights", "ok", f"{found}: {networks}")


def _packed(folder: Path, name: str) -> bool:
    return (folder / f"{name}.zip").is_file()
