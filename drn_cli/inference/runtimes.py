"""Exported networks and the runtimes that execute them: ONNX Runtime, OpenVINO, torch.export.

A file is read once: its checksum is verified and its contents are compared with an allow-list (see
`export_safety` and `pt2_safety`), then the runtime gets the same bytes.
"""

import io
import logging
import threading
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cache, lru_cache
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any, Literal, cast

import numpy as np
import torch
from torch import Tensor

from drn_cli.data.folders import ChannelStats
from drn_cli.errors import DrnError, warn_for_all
from drn_cli.files import parse_json, read_bytes
from drn_cli.inference.export_safety import check_onnx, check_xml, checksum_matches
from drn_cli.integrity import damaged
from drn_cli.interrupts import defer_interrupts
from drn_cli.networks.catalog import Architecture, Task, architecture
from drn_cli.networks.metadata import check_metadata
from drn_cli.replacing import half_replaced

log = logging.getLogger(__name__)

Output = Literal["logits", "scores", "classes"]
Session = Callable[[Tensor, Output], Tensor]  # computes one of the outputs
SessionFactory = Callable[[torch.device, int, int], Session]  # threads per image, concurrent images

INPUT = "images"  # name of the input in every format; "pictures" in older exports
UINT8 = "uint8"  # metadata "input" where normalization is part of the network
# Identity normalization of uint8 pixels.
UINT8_STATISTICS = ChannelStats((0.0,) * 3, (1 / 255,) * 3)
METADATA_KEY = "drn"  # OpenVINO rt_info entry; in a .pt2, the file drn.json
REQUIRED = ("arch", "task", "classes", "input", "outputs")  # metadata keys
MAX_BYTES = 2 << 30  # limit of protobuf; the largest export has 0.25 GB
MAX_XML_BYTES = 16 << 20  # the largest export has 0.4 MB


@dataclass(frozen=True, slots=True, kw_only=True)
class ExportedNetwork:
    """A network in a file of another runtime.

    The input is `(N, 3, H, W)`, float32 and normalized or uint8. Segmentation networks return
    `logits` `(N, classes, H, W)` and `scores` at an eighth of the size, or `classes`, uint8
    `(N, H, W)`; classifiers return `logits` `(N, classes)` and `scores` per position, whose mean
    the logits are.
    """

    path: Path
    metadata: Mapping[str, str]  # metadata written by `drn export`
    runtime: str  # name and version of the runtime
    start: SessionFactory
    verified: bool = False  # whether a checksum shows that the file is as it was written

    @property
    def architecture(self) -> Architecture:
        return architecture(self.arch, float(self.metadata.get("width", 1.0)))

    @property
    def arch(self) -> str:
        return self.metadata["arch"]

    @property
    def task(self) -> Task:
        return cast(Task, self.metadata["task"])

    @property
    def classes(self) -> int:
        return int(self.metadata["classes"])

    @property
    def outputs_classes(self) -> bool:
        """Whether the output is the class map instead of scores."""
        return self.metadata["outputs"] == "classes"

    @property
    def takes_uint8(self) -> bool:
        """Whether the input is uint8 pixels."""
        return self.metadata["input"] == UINT8

    @property
    def size(self) -> tuple[int, int] | None:
        """Height and width if the input size is fixed."""
        if "size" not in self.metadata:
            return None
        height, width = map(int, self.metadata["size"].split("x"))
        return height, width

    def session(self, device: torch.device, concurrency: int) -> Session:
        """Return a session that several threads can use, for `concurrency` images at a time.

        It takes normalized float32 images, and raises DrnError for a size that the file does not
        support.
        """
        run = self.start(device, max(1, torch.get_num_threads() // concurrency), concurrency)

        def checked(x: Tensor, output: Output) -> Tensor:
            height, width = x.shape[-2:]
            if self.size is not None and (height, width) != self.size:
                raise DrnError(
                    f"{self.path}: input size {width}x{height} is not the fixed "
                    f"{self.size[1]}x{self.size[0]} of this network",
                    "export it without --size",
                )
            return run(x.round().to(torch.uint8) if self.takes_uint8 else x, output)

        return checked


def is_exported(path: Path) -> bool:
    """Whether the file extension is that of an exported network."""
    return path.suffix.lower() in _READERS


def open_exported(path: Path, *, quiet: bool = False) -> ExportedNetwork:
    """Open a network written by `drn export`.

    Args:
        path: The .onnx, .xml or .pt2 file.
        quiet: Do not warn about a missing checksum.

    Raises:
        DrnError: The file is missing, damaged or foreign, or its runtime is not installed.
    """
    if not path.is_file():
        if half_replaced(path):
            raise _half_replaced(path)
        read_bytes(path, MAX_BYTES)  # names the problem, even if the runtime is not installed
    try:
        network = _READERS[path.suffix.lower()](path)
    except OSError as error:
        raise damaged(path, error) from error
    if missing := [key for key in REQUIRED if key not in network.metadata]:
        raise DrnError(
            f"{path}: no metadata {', '.join(missing)}",
            "only networks written by `drn export` can be used",
        )
    if not (network.verified or quiet):
        warn_for_all(
            log, f"{path}: not verified, as it holds no checksum (exporting it again writes one)"
        )
    return replace(network, metadata=check_metadata(network.metadata, path, ours=True))


def require_package(package: str, extra: str, user: str) -> ModuleType:
    """Import a package of an optional extra, for `user`, the subject of the error message.

    Raises:
        DrnError: It is not installed.
    """
    try:
        with defer_interrupts():  # a compiled module turns Ctrl-C into an error of its own
            return import_module(package)
    except ModuleNotFoundError as error:
        raise DrnError(
            f"{user}: needs {error.name}, which is not installed", f"pip install 'drn-cli[{extra}]'"
        ) from error


def _open_onnx(path: Path) -> ExportedNetwork:
    ort = require_package("onnxruntime", "onnx", str(path))
    # Sessions get these bytes too: the file may change, and bytes cannot refer to files beside it.
    content = read_bytes(path, MAX_BYTES)
    verified = checksum_matches(path, content)
    if verified is False:
        raise damaged(path, "checksum mismatch")
    check_onnx(content, path)

    def open_session(providers: list[str], **settings: Any) -> Any:
        options = ort.SessionOptions()
        options.log_severity_level = 3  # errors
        for name, value in settings.items():
            setattr(options, name, value)
        try:
            return ort.InferenceSession(content, options, providers=providers)
        except Exception as error:  # ONNX Runtime has no common base class
            raise damaged(path, error) from error

    cpu = ["CPUExecutionProvider"]
    unoptimized = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    try:
        found = open_session(cpu, graph_optimization_level=unoptimized).get_modelmeta()
        metadata = dict(found.custom_metadata_map)
    except UnicodeDecodeError as error:
        raise damaged(path, "metadata is not UTF-8") from error
    if metadata.pop("checksum", None) is not None and not verified:
        raise damaged(path, "the checksum is not at the end: changed after the export")

    def start(device: torch.device, threads: int, concurrency: int) -> Session:
        cuda = [p for p in ort.get_available_providers() if p == "CUDAExecutionProvider"]
        providers = [*(cuda if device.type == "cuda" else ()), *cpu]
        session = open_session(providers, intra_op_num_threads=threads)
        names = [one.name for one in session.get_inputs()]
        options = ort.RunOptions()
        options.only_execute_path_to_fetches = True

        def run(x: Tensor, output: Output) -> Tensor:
            inputs = dict.fromkeys(names, x.contiguous().cpu().numpy())
            return torch.from_numpy(session.run([output], inputs, options)[0]).to(x.device)

        return run

    return ExportedNetwork(
        path=path,
        metadata=metadata,
        runtime=f"ONNX Runtime {ort.__version__}",
        start=start,
        verified=bool(verified),
    )


def _open_openvino(path: Path) -> ExportedNetwork:
    openvino = require_package("openvino", "openvino", str(path))
    core = _openvino_core(openvino)
    xml = read_bytes(path, MAX_XML_BYTES)
    check_xml(xml, path)
    weights = path.with_suffix(".bin")
    if not weights.exists():
        raise damaged(path, f"the .bin file {weights.name} is missing")
    content = read_bytes(weights, MAX_BYTES)
    verified = checksum_matches(path, xml, content)
    if not verified and half_replaced(path):
        raise _half_replaced(path)
    if verified is False:
        raise damaged(path, f"checksum mismatch, or {weights.name} is from another export")
    try:
        tensor = openvino.Tensor(openvino.Type.u8, [len(content)])  # takes writable memory only
        tensor.data[:] = np.frombuffer(content, np.uint8)
        del content
        model = core.read_model(xml.decode(), tensor)
        known = model.has_rt_info([METADATA_KEY])
        metadata = model.get_rt_info([METADATA_KEY]).value if known else "{}"
    except Exception as error:  # OpenVINO has no common base class
        raise damaged(path, error) from error

    def start(_: torch.device, threads: int, concurrency: int) -> Session:
        settings = {
            "INFERENCE_NUM_THREADS": threads * concurrency,
            "NUM_STREAMS": concurrency,
            "INFERENCE_PRECISION_HINT": "f32",  # some CPUs default to bfloat16
        }
        local = threading.local()  # an infer request serves one image at a time

        @lru_cache
        def compiled(output: Output) -> Any:
            part = openvino.Model([model.output(output)], model.get_parameters())
            return core.compile_model(part, "CPU", settings)

        def run(x: Tensor, output: Output) -> Tensor:
            requests = local.__dict__
            if output not in requests:
                requests[output] = compiled(output).create_infer_request()
            inputs = [x.contiguous().cpu().numpy()]
            result = requests[output].infer(inputs, share_inputs=True, share_outputs=True)[0]
            return torch.from_numpy(result.copy()).to(x.device)  # the request owns its memory

        return run

    return ExportedNetwork(
        path=path,
        metadata=_parse_metadata(metadata, path),
        runtime=f"OpenVINO {openvino.__version__.partition('-')[0]}",
        start=start,
        verified=bool(verified),
    )


@cache
def _openvino_core(openvino: Any) -> Any:
    """Return the only OpenVINO core of this process, which lives as long as the process.

    The first network that a core compiles installs an alternate signal stack (sigaltstack) of
    OpenVINO's own; the end of the core frees it and restores the previous one. Of two cores that do
    not end in reverse order, the second restores what the first has freed, and the next signal
    (Ctrl-C, the end of a data loader worker) kills the process with SIGSEGV.
    """
    return openvino.Core()


def _open_program(path: Path) -> ExportedNetwork:
    from torch.export.passes import move_to_device_pass  # torch.export takes a second to import

    from drn_cli.inference.pt2_safety import check_archive

    logging.getLogger("torch.export").setLevel(logging.ERROR)  # it logs tracebacks as warnings
    files = {f"{METADATA_KEY}.json": "{}"}
    content = read_bytes(path, MAX_BYTES)
    try:
        verified = check_archive(content, path)
        with warnings.catch_warnings(action="ignore"):  # torch 2.11 warns about its own buffers
            program = torch.export.load(io.BytesIO(content), extra_files=files)
    except DrnError:
        raise
    except Exception as error:  # a damaged archive can raise anything
        raise damaged(path, error) from error
    metadata = _parse_metadata(files[f"{METADATA_KEY}.json"], path)

    def start(device: torch.device, threads: int, concurrency: int) -> Session:
        moved = program if device.type == "cpu" else move_to_device_pass(program, device)

        @lru_cache
        def part(output: Output) -> Any:
            return _single_output(moved, metadata["outputs"].split(",").index(output))

        def run(x: Tensor, output: Output) -> Tensor:
            with torch.inference_mode():
                return cast(Tensor, part(output)(x))

        return run

    return ExportedNetwork(
        path=path,
        metadata=metadata,
        runtime=f"PyTorch {torch.__version__}",
        start=start,
        verified=verified,
    )


def _single_output(program: torch.export.ExportedProgram, index: int) -> torch.fx.GraphModule:
    """Return the program without the computation of its other outputs."""
    module = program.module(check_guards=False)  # guards reject sides below 9, which do work
    result = module.graph.output_node()
    result.args = (cast(tuple[Any, ...], result.args[0])[index],)
    module.graph.set_codegen(torch.fx.graph.CodeGen())  # the exported one expects all outputs
    module.graph.eliminate_dead_code()
    module.recompile()
    return module


def _parse_metadata(text: str, path: Path) -> dict[str, str]:
    metadata = parse_json(text, f"{path}: metadata")
    if not isinstance(metadata, dict) or not all(isinstance(v, str) for v in metadata.values()):
        raise damaged(path, "metadata: not an object of strings")
    return metadata


def _half_replaced(path: Path) -> DrnError:
    return DrnError(
        f"{path}: half replaced by an interrupted export", "run the export again with --force"
    )


_READERS: dict[str, Callable[[Path], ExportedNetwork]] = {
    ".onnx": _open_onnx,
    ".xml": _open_openvino,
    ".pt2": _open_program,
}
