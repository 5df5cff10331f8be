"""Check of a data folder of any kind."""

from collections.abc import Sequence
from pathlib import Path

from drn_cli.data.audit.class_folder import SPLITS as CLASS_SPLITS
from drn_cli.data.audit.class_folder import check_class_folder
from drn_cli.data.audit.list_folder import check_list_folder
from drn_cli.data.audit.lists import splits_with_lists
from drn_cli.data.audit.report import CheckReport
from drn_cli.data.class_folders import FolderDataset, is_class_folder
from drn_cli.data.folders import ListDataset
from drn_cli.data.parallel import Progress
from drn_cli.errors import DrnError
from drn_cli.files import require_folder


def check_folder(
    root: Path,
    *,
    lists: Path | None = None,
    classes: int | None = None,
    splits: Sequence[str] = (),
    progress: Progress | None = None,
) -> CheckReport:
    """Check a list folder or class folder.

    Args:
        root: A list folder or a class folder.
        lists: Folder of the lists, if not `root`.
        classes: Number of classes of a list folder; by default that of info.json.
        splits: Splits to check; by default all that exist, and `val` if there is `train`.
        progress: Called with files read and total.

    Raises:
        DrnError: The folder is missing or of neither kind, or has no such split.
    """
    for path in (root, lists):
        if path is not None:
            require_folder(path, "lists or classes", "`drn data prepare` makes data folders")
    folder = ListDataset.open(root, lists)
    found = splits_with_lists(folder.lists)
    if found:
        chosen = _select_splits(folder.lists, found, splits)
        return check_list_folder(folder, chosen, classes, progress)
    if lists is not None:
        raise DrnError(f"{lists}: contains no lists (train_images.txt, train_labels.txt, ...)")
    if not is_class_folder(root):
        raise DrnError(
            f"{root}: contains neither lists (train_images.txt, ...) nor class folders "
            "(train/CLASS)",
            "`drn data prepare` makes data folders",
        )
    if classes is not None:
        raise DrnError(f"{root}: --classes is for label maps; here, folders are the classes")
    found = [split for split in CLASS_SPLITS if (root / split).is_dir()]
    chosen = _select_splits(root, found, splits)
    return check_class_folder(FolderDataset.open(root), chosen, progress)


def _select_splits(place: Path, found: Sequence[str], splits: Sequence[str]) -> list[str]:
    """Return the splits to check, training first.

    A folder with training images should have validation images as well; one without may be for
    evaluation or prediction only.
    """
    for split in splits:
        if split not in found:
            raise DrnError(f"{place}: has no {split} split", f"it has {', '.join(found)}")
    wanted = splits or (*found, *(["val"] if "train" in found else []))
    return sorted(set(wanted), key=["train", "val", "test"].index)
