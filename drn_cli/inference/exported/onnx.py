"""ONNX files, run by ONNX Runtime.

ONNX Runtime reads tensors from other files where a model says so, and nodes may name operators of
other libraries or subprograms. `drn export` writes none of that, so before the runtime sees a file
its messages are walked through, and fields that ours do not have are refused.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from drn_cli.inference.exported.checksum import KEY, check_onnx
from drn_cli.inference.exported.network import INPUT, ExportedNetwork, Output, Run
from drn_cli.inference.exported.runtime import content_of, need, refused
from drn_cli.integrity import damaged

DOMAINS = (b"", b"ai.onnx")  # of operators; com.microsoft has some that read files
# The fields of each kind of message (onnx.proto), and what lies in those that are messages.
FIELDS: dict[str, dict[int, str]] = {
    "model": dict.fromkeys((1, 2, 3, 4, 5, 6, 8, 14), "") | {7: "graph"},
    "graph": dict.fromkeys((2, 10, 11, 12, 13, 14, 16), "") | {1: "node", 5: "tensor"},
    "node": dict.fromkeys((1, 2, 3, 4, 6, 7, 8, 9), "") | {5: "attribute"},
    "attribute": dict.fromkeys((1, 2, 3, 4, 7, 8, 9, 13, 20), "") | {5: "tensor", 10: "tensor"},
    "tensor": dict.fromkeys((1, 2, 4, 5, 6, 7, 8, 9, 10, 11, 12, 14, 16), ""),
}
NAMES = {
    ("model", 20): "training programs",
    ("model", 25): "functions",
    ("graph", 15): "sparse tensors",
    ("attribute", 6): "subprograms",
    ("attribute", 11): "subprograms",
    ("tensor", 13): "tensors in other files",
}
DOMAIN, LOCATION = ("node", 7), ("tensor", 14)


def open_onnx(path: Path) -> ExportedNetwork:
    """Read what a file says of itself; the session for images begins with the first use.

    Raises:
        DrnError: ONNX Runtime is not installed, or the file is damaged or holds more than ours.
    """
    ort = need("onnxruntime", "onnx", str(path))
    # Kept for the sessions: the file may be another by then, and bytes have no other files.
    content = content_of(path)
    verified = check_onnx(content, path)
    try:
        _check(memoryview(content), "model", path)
    except (IndexError, ValueError) as error:
        raise damaged(path, "not an ONNX file") from error
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    try:
        session = _session(ort, content, path, options, ["CPUExecutionProvider"])
        strings = dict(session.get_modelmeta().custom_metadata_map)
    except UnicodeDecodeError as error:
        raise damaged(path, "metadata that is not UTF-8") from error
    if strings.pop(KEY, None) is not None and not verified:
        raise damaged(path, "its checksum is not at its end: it was changed after the export")

    def start(device: torch.device, threads: int, at_once: int) -> Run:
        options = ort.SessionOptions()
        options.intra_op_num_threads = threads
        providers = ["CPUExecutionProvider"]
        if device.type == "cuda" and "CUDAExecutionProvider" in ort.get_available_providers():
            providers.insert(0, "CUDAExecutionProvider")
        session = _session(ort, content, path, options, providers)
        wanted = ort.RunOptions()
        wanted.only_execute_path_to_fetches = True

        def run(x: Tensor, output: Output) -> Tensor:
            given = {INPUT: x.contiguous().cpu().numpy()}
            return torch.from_numpy(session.run([output], given, wanted)[0]).to(x.device)

        return run

    runtime = f"ONNX Runtime {ort.__version__}"
    return ExportedNetwork(path=path, told=strings, runtime=runtime, start=start, verified=verified)


def _session(ort: Any, content: bytes, path: Path, options: Any, providers: list[str]) -> Any:
    options.log_severity_level = 3  # errors
    try:
        return ort.InferenceSession(content, options, providers=providers)
    except Exception as error:  # its errors have no class of their own
        raise damaged(path, error) from error


def _check(message: memoryview, kind: str, path: Path) -> None:
    fields = FIELDS[kind]
    for number, value in _fields(message):
        inner = fields.get(number)
        if inner is None:
            what = NAMES.get((kind, number), f"field {number} of a {kind}")
            raise refused(path, what)
        if inner or (kind, number) == DOMAIN:
            if isinstance(value, int):
                raise ValueError(f"field {number} of a {kind} is a number")
            if inner:
                _check(value, inner, path)
            elif value.tobytes() not in DOMAINS:
                raise refused(path, "operators of another library")
        elif (kind, number) == LOCATION and value != 0:
            raise refused(path, NAMES["tensor", 13])


def _fields(message: memoryview) -> Iterator[tuple[int, int | memoryview]]:
    """Yield the fields of a protobuf message: their numbers, and whole numbers or bytes."""
    at = 0
    while at < len(message):
        tag, at = _varint(message, at)
        number, wire = tag >> 3, tag & 7
        if number == 0:
            raise ValueError("no field")
        if wire == 0:
            value, at = _varint(message, at)
            yield number, value
            continue
        if wire == 2:
            length, at = _varint(message, at)
        elif wire in (1, 5):
            length = 8 if wire == 1 else 4
        else:
            raise ValueError(f"wire type {wire}")
        if at + length > len(message):
            raise ValueError("cut short")
        yield number, message[at : at + length]
        at += length


def _varint(message: memoryview, at: int) -> tuple[int, int]:
    value = 0
    for shift in range(0, 64, 7):
        byte = message[at]
        at += 1
        value |= (byte & 127) << shift
        if byte < 128:
            return value, at
    raise ValueError("a number too long")
