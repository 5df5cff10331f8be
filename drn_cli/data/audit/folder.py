"""Which kind of folder is this? Audit it accordingly."""

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
    """Audit a data folder of either kind.

    Args:
        root: A list folder or a class folder.
        lists: Where the lists are, if not in the folder itself.
        classes: Number of classes of a list folder, if info.json does not name them.
        splits: Which to look at; by default all that training wants, and the test split if it is
            there.
        progress: Called with files read and files in all.

    Raises:
        DrnError: The folder is missing or of neither kind, or has not the splits.
    """
    for path in (root, lists):
        if path is not None:
            require_folder(path, "lists or classes", "`drn data prepare` makes data folders")
    folder = ListDataset.open(root, lists)
    found = splits_with_lists(folder.lists)
    if found:
        return check_list_folder(folder, _chosen(folder.lists, found, splits), classes, progress)
    if lists is not None:
        raise DrnError(f"{lists}: has no lists (train_images.txt, train_labels.txt, ...)")
    if not is_class_folder(root):
        raise DrnError(
            f"{root}: has neither lists (train_images.txt, ...) nor class folders (train/CLASS)",
            "`drn data prepare` makes data folders",
        )
    if classes is not None:
        raise DrnError(f"{root}: --classes is for label maps; the folders here are the classes")
    found = [split for split in CLASS_SPLITS if (root / split).is_dir()]
    return check_class_folder(FolderDataset.open(root), _chosen(root, found, splits), progress)


def _chosen(place: Path, found: Sequence[str], splits: Sequence[str]) -> list[str]:
    """Give the splits to look at, training first.

    A folder with training images is meant for training, so that it should have validation
    images too; one without may be for evaluation or prediction only.
    """
    for split in splits:
        if split not in found:
            raise DrnError(f"{place}: has no {split} split", f"it has {', '.join(found)}")
    wanted = splits or (*found, *(["val"] if "train" in found else []))
    return sorted(set(wanted), key=["train", "val", "test"].index)
