"""Speed of prediction and evaluation, compared with the method of the paper's code, in one run.

    python benchmarks/inference.py                       what this machine can do
    python benchmarks/inference.py --json > today.json
    python benchmarks/inference.py --only ms --rounds 5 --images 8
    python benchmarks/inference.py --only runtimes --weights W --images test/ --calibration train/

Four comparisons on the CPU, with DRN-D-22 and images of CamVid's size (480x360), or those of
--images; and on a GPU the network's pass over 1024x2048 in several ways.

predict: files to files. The plain way reads with Pillow, runs the network in eager float32, takes
    the arg-max of the whole map and writes index and colour images, one after the other, as the
    paper's code does. Ours is `drn predict`'s own stream: index, colour and overlay.
ms: the same for six sizes. The plain way resizes each class's log-probabilities with Pillow in as
    many threads as there are classes, as the paper's code does.
confusion: the share of an evaluation that counting costs.
runtimes: one image from pixels to classes, in eager PyTorch as the paper's code does it, in drn's
    own way, in ONNX Runtime and in OpenVINO, and with --compile through torch.compile; with
    --calibration in 8 bits as well. Also how many pixels have the class that eager PyTorch finds.

Ways take turns, and medians over the rounds are compared. The weights are random unless --weights
names some: times do not depend on them.
"""

import argparse
import json
import platform
import statistics
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

import drn_cli
from drn_cli.data.batches import normalize
from drn_cli.data.classes import generic
from drn_cli.data.folders import IMAGENET
from drn_cli.data.images import Pixels, read_image
from drn_cli.evaluation.confusion import confusion
from drn_cli.export.exporting import export
from drn_cli.export.form import ENDINGS, ExportConfig
from drn_cli.inference.inputs import InputImage, find_images
from drn_cli.inference.loading import load_predictor
from drn_cli.inference.opening import TrainedNetwork, read_network
from drn_cli.inference.outputs import DEFAULT_KINDS, write_prediction
from drn_cli.inference.predictor import SegmentationPredictor
from drn_cli.inference.preparation import for_inference
from drn_cli.inference.reading import default_concurrency
from drn_cli.inference.runtimes import open_exported
from drn_cli.inference.source import Source
from drn_cli.inference.stream import stream
from drn_cli.inference.views import resize_image
from drn_cli.networks.checkpoints import save_weights
from drn_cli.networks.models import DRN
from drn_cli.recipe.schema import MULTI_SCALE, Eval

CAMVID = (360, 480)
CLASSES = 11
CPU = torch.device("cpu")


def draw_images(folder: Path, count: int, size: tuple[int, int]) -> None:
    """Write images with PNG sizes like those of photographs: smooth shapes with noise."""
    height, width = size
    for number in range(count):
        random = np.random.default_rng(number)
        coarse = random.integers(0, 256, (height // 24, width // 24, 3)).astype(np.uint8)
        smooth = np.asarray(
            Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)
        )
        noisy = np.clip(smooth + random.normal(0, 6, smooth.shape), 0, 255).astype(np.uint8)
        Image.fromarray(noisy).save(folder / f"{number:03}.png")


# ---- The way of the paper's code ----


@torch.inference_mode()
def plainly(model: DRN, inputs: Sequence[InputImage], out: Path, scales: Sequence[float]) -> None:
    """Read, predict and write one image after the other."""
    palette = np.frombuffer(generic(CLASSES).palette(), np.uint8).reshape(256, 3)
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (IMAGENET.mean, IMAGENET.std))

    def tensor(image: Image.Image) -> torch.Tensor:
        pixels = torch.from_numpy(np.array(image)).permute(2, 0, 1).float() / 255
        return ((pixels - mean) / std)[None].contiguous()

    for item in inputs:
        image = Image.open(item.path).convert("RGB")
        if tuple(scales) == (1.0,):
            prediction = model(tensor(image)).argmax(1)[0].numpy()
        else:
            sizes = [(int(image.width * s), int(image.height * s)) for s in scales]
            views = [image.resize(size, Image.Resampling.BICUBIC) for size in sizes]
            maps = [model(tensor(view)).log_softmax(1)[0].numpy() for view in views]
            prediction = sum(_resized(one, image.size) for one in maps).argmax(0)
        classes = prediction.astype(np.uint8)
        Image.fromarray(classes).save(out / f"{item.name}.png")
        Image.fromarray(palette[classes]).save(out / f"{item.name}_colour.png")


def _resized(scores: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Resize the map of each class, one thread per class."""

    def resize(one: np.ndarray) -> np.ndarray:
        return np.asarray(Image.fromarray(one).resize(size, Image.Resampling.BILINEAR))

    with ThreadPoolExecutor(len(scores)) as pool:
        return np.stack(list(pool.map(resize, scores)))


# ---- Ours ----


def ours(predictor: SegmentationPredictor, inputs: Sequence[InputImage], out: Path) -> None:
    """Predict as `drn predict` does."""

    def finish(item: InputImage, image: np.ndarray, classes: torch.Tensor) -> dict[str, str]:
        return write_prediction(
            out, item.name, DEFAULT_KINDS, image, classes.numpy(), None, predictor.class_set
        )

    for _ in stream(inputs, lambda item: read_image(Path(item.path)), predictor.batch, finish, CPU):
        pass


# ---- Measuring ----


def in_turns(ways: Mapping[str, Callable[[], object]], rounds: int) -> dict[str, float]:
    """Run each once as warm-up, then all alternately; return the median seconds of each."""
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for number in range(rounds + 1):
        for name, way in ways.items():
            start = time.perf_counter()
            way()
            if number:
                seconds[name].append(time.perf_counter() - start)
    return {name: statistics.median(values) for name, values in seconds.items()}


def compare_predictions(
    network: TrainedNetwork, inputs: Sequence[InputImage], scales: Sequence[float], rounds: int
) -> dict[str, float]:
    """Return the time of both in seconds per image."""
    model = network.model
    view = Eval(scales=tuple(scales))
    concurrency = default_concurrency(CPU, len(inputs))
    predictor = load_predictor(network, CPU, view=view, concurrency=concurrency)
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder)
        seconds = in_turns(
            {
                "plain": lambda: plainly(model, inputs, out, scales),
                "drn": lambda: ours(predictor, inputs, out),
            },
            rounds,
        )
    return {name: value / len(inputs) for name, value in seconds.items()}


def compare_counting(
    network: TrainedNetwork, inputs: Sequence[InputImage], rounds: int
) -> dict[str, float]:
    """Return the seconds per image of prediction and of the confusion matrix, in one thread."""
    predictor = load_predictor(network, CPU)
    images = [read_image(Path(item.path)) for item in inputs]
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    maps = [predictor(image) for image in images]
    seconds = in_turns(
        {
            "predict": lambda: [predictor(image) for image in images],
            "count": lambda: [confusion(one, one, predictor.classes) for one in maps],
        },
        rounds,
    )
    torch.set_num_threads(threads)
    return {name: value / len(inputs) for name, value in seconds.items()}


def export_all(
    network: TrainedNetwork, folder: Path, calibration: Sequence[str]
) -> dict[str, Path]:
    """Export a network for each CPU runtime; return the files by runtime and precision."""
    forms = [ExportConfig(format="onnx"), ExportConfig(format="openvino")]
    if calibration:
        forms += [replace(form, precision="int8") for form in forms]
    source = Source(folder / "network.safetensors", None)
    save_weights(source.checkpoint, network.model, network.metadata)
    files = {}
    for number, form in enumerate(forms):
        out = folder / f"{number}{ENDINGS[form.format]}"
        export(source, form, out, calibration=calibration, inputs=calibration)
        files[f"{open_exported(out).runtime}, {form.precision}"] = out
    return files


def compare_runtimes(
    network: TrainedNetwork,
    exported: Mapping[str, Path],
    image: Pixels,
    rounds: int,
    compiled: bool,
) -> dict[str, dict[str, float]]:
    """Return the seconds per image and the share of equal pixels of every runtime."""
    drn = load_predictor(network, CPU, concurrency=1)
    folded = replace(drn, network=for_inference(network.model, CPU, exact=False).scores)
    predictors = {"folded": folded, "drn": drn}
    if compiled:
        for name, predictor in list(predictors.items()):
            inner = torch.compile(predictor.network, dynamic=False)
            predictors[f"{name}, compiled"] = replace(predictor, network=inner)
        predictors["drn, bf16"] = load_predictor(
            network, CPU, autocast=torch.bfloat16, concurrency=1
        )
    predictors |= {name: load_predictor(out, CPU, concurrency=1) for name, out in exported.items()}
    tensor = normalize(torch.from_numpy(image)[None], drn.statistics).contiguous()

    @torch.inference_mode()
    def plainly_one() -> torch.Tensor:
        return network.model(tensor).argmax(1)[0]

    right = plainly_one()
    ways: dict[str, Callable[[], torch.Tensor]] = {"plain": plainly_one}
    ways |= {name: partial(one, image) for name, one in predictors.items()}
    same = {name: float((way() == right).double().mean()) for name, way in ways.items()}
    seconds = in_turns(ways, rounds)
    return {name: {"seconds": seconds[name], "agreement": same[name]} for name in ways}


def all_runtimes(
    network: TrainedNetwork, image: Pixels, args: argparse.Namespace
) -> dict[str, dict[str, dict[str, float]]]:
    """Compare runtimes with one thread, with all threads, and on an image of 2048x1024."""
    whole, threads = np.array(image), torch.get_num_threads()
    large = np.array(resize_image(whole, 1024, 2048))
    found = {}
    with tempfile.TemporaryDirectory() as folder:
        exported = export_all(network, Path(folder), args.calibration)
        for item, count in ((whole, 1), (whole, threads), (large, threads)):
            title = f"{item.shape[1]}x{item.shape[0]}, {count} threads"
            torch.set_num_threads(count)
            found[title] = compare_runtimes(network, exported, item, args.rounds, args.compile)
    return found


@torch.inference_mode()
def on_gpu(network: TrainedNetwork, rounds: int) -> dict[str, float]:
    """Return the time of whole predictions of 2048x1024 on a GPU, in seconds per image."""
    device = torch.device("cuda")
    image = np.random.default_rng(0).integers(0, 256, (1024, 2048, 3)).astype(np.uint8)
    plain = network.model.to(device)
    mean, std = (
        torch.tensor(values, device=device).view(3, 1, 1)
        for values in (IMAGENET.mean, IMAGENET.std)
    )

    def eagerly() -> None:
        pixels = torch.from_numpy(image).to(device).permute(2, 0, 1).float() / 255
        plain(((pixels - mean) / std)[None].contiguous()).argmax(1)
        torch.cuda.synchronize()

    ways: dict[str, Callable[[], object]] = {"plain, float32": eagerly}
    for name, options in (
        ("drn, float32", {}),
        ("drn, bf16", {"autocast": torch.bfloat16}),
        ("drn, bf16, compiled", {"autocast": torch.bfloat16, "compiled": True}),
    ):
        predictor = load_predictor(network, device, **options)  # type: ignore[arg-type]

        def whole(predictor: SegmentationPredictor = predictor) -> None:
            predictor.batch([image])
            torch.cuda.synchronize()

        ways[name] = whole
    return in_turns(ways, max(rounds, 20))


def machine() -> dict[str, str]:
    """Return the machine and versions."""
    cpu = next(
        (
            line.partition(":")[2].strip()
            for line in Path("/proc/cpuinfo").read_text().splitlines()
            if line.startswith("model name")
        ),
        platform.processor(),
    )
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else "none"
    return {
        "cpu": f"{cpu}, {torch.get_num_threads()} threads",
        "gpu": gpu,
        "torch": torch.__version__,
        "python": platform.python_version(),
        "drn": drn_cli.__version__,
    }


def table(title: str, seconds: dict[str, float], same: dict[str, float] | None = None) -> None:
    """Print each result relative to the first, and the share of equal pixels."""
    print(f"\n{title}")
    first = next(iter(seconds.values()))
    for name, value in seconds.items():
        agreement = f"{100 * same[name]:12.3f} % the same" if same else ""
        speed = f"{1 / value:10.2f} a second{first / value:8.2f}x{agreement}"
        print(f"  {name:<32}{1000 * value:10.1f} ms{speed}")


def tell(results: dict[str, Any]) -> None:
    """Print everything as tables."""
    print(", ".join(results["machine"].values()), "|", results["arch"])
    for name, title in (
        ("predict", "drn predict, files to files, an image"),
        ("ms", "drn predict --ms, files to files, an image"),
        ("gpu", "1024x2048 on a GPU, an image"),
    ):
        if name in results:
            table(title, results[name])
    if "confusion" in results:
        share = results["confusion"]["count"] / sum(results["confusion"].values())
        print(f"\nThe confusion matrix takes {100 * share:.2f} % of an evaluation")
    for title, found in results.get("runtimes", {}).items():
        seconds, same = (
            {name: one[key] for name, one in found.items()} for key in ("seconds", "agreement")
        )
        table(f"{title}, an image", seconds, same)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--arch", default="drn_d_22")
    parser.add_argument("--weights", type=Path, help="a checkpoint, instead of random weights")
    parser.add_argument("--images", type=Path, help="a folder of images, instead of drawn ones")
    parser.add_argument("--images", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--only", choices=("predict", "ms", "confusion", "runtimes", "gpu"))
    parser.add_argument("--calibration", default=(), nargs="+", help="images, for 8 bits")
    parser.add_argument("--compile", action="store_true", help="torch.compile and bfloat16, too")
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()

    if args.weights is not None:
        network = read_network(args.weights, "segmentation")
    else:
        model = drn_cli.create_model(args.arch, "segmentation", CLASSES).eval()
        network = TrainedNetwork(Path(args.arch), model, {}, verified=False)
    results: dict[str, Any] = {"machine": machine(), "arch": network.model.arch}
    with tempfile.TemporaryDirectory() as folder:
        if args.images is None:
            draw_images(Path(folder), args.inputs, CAMVID)
        inputs = find_images([str(args.images or folder)])[: args.inputs]
        if args.only in (None, "predict"):
            results["predict"] = compare_predictions(network, inputs, (1.0,), args.rounds)
        if args.only in (None, "ms"):
            few = inputs[: max(2, args.inputs // 4)]
            results["ms"] = compare_predictions(network, few, MULTI_SCALE, args.rounds)
        if args.only in (None, "confusion"):
            results["confusion"] = compare_counting(network, inputs, args.rounds)
        if args.only in (None, "runtimes"):
            image = read_image(Path(inputs[0].path))
            results["runtimes"] = all_runtimes(network, image, args)
        if args.only in (None, "gpu") and torch.cuda.is_available():
            results["gpu"] = on_gpu(network, args.rounds)
    if args.json:
        print(json.dumps(results, indent=2))
        return
    tell(results)


if __name__ == "__main__":
    main()
