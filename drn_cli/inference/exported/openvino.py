"""OpenVINO's files, an .xml with its .bin beside it.

An .xml can define entities that grow to any size, and name operators of other libraries. `drn
export` writes none of that, so an .xml is parsed before OpenVINO sees it, and what ours do not have
is refused.
"""

import re
import threading
from functools import cache, lru_cache
from pathlib import Path
from typing import Any
from xml.parsers import expat

import numpy as np
import torch
from torch import Tensor

from drn_cli.errors import DrnError
from drn_cli.files import read_bytes
from drn_cli.inference.exported.checksum import check_openvino
from drn_cli.inference.exported.network import ExportedNetwork, Output, Run
from drn_cli.inference.exported.runtime import (
    content_of,
    half_written,
    need,
    refused,
    strings_of,
)
from drn_cli.integrity import damaged
from drn_cli.replacing import half_replaced

TOLD = "drn"  # where our strings are, among what an .xml says of itself
LARGEST_XML = 16 << 20  # bytes; the largest of ours has 0.4 MB
FREE = "rt_info"  # holds elements of any name, which are data
ELEMENTS = {
    *("net", "layers", "layer", "data", "input", "output", "port", "dim", "edges", "edge", FREE)
}
OPSET = re.compile(r"opset\d{1,2}")
DEEPEST = 30  # elements within each other


def open_openvino(path: Path) -> ExportedNetwork:
    """Read a file; it is compiled for each output with its first use.

    Raises:
        DrnError: OpenVINO is not installed, or the file is damaged or holds more than ours.
    """
    openvino = need("openvino", "openvino", str(path))
    core = _core(openvino)
    weights = path.with_suffix(".bin")
    xml = read_bytes(path, LARGEST_XML)
    _check(xml, path)
    if not weights.exists():
        raise damaged(path, f"the .bin file {weights.name} is missing beside it")
    content = content_of(weights)
    try:
        try:
            verified = check_openvino(xml, content, path)
        except DrnError:
            if half_replaced(path):
                raise half_written(path) from None
            raise
        if not verified and half_replaced(path):
            raise half_written(path)
        # The bytes that were checked, copied, as it takes none that cannot be written to.
        tensor = openvino.Tensor(openvino.Type.u8, [len(content)])
        tensor.data[:] = np.frombuffer(content, np.uint8)
        del content
        model = core.read_model(xml.decode(), tensor)
        text = model.get_rt_info([TOLD]).value if model.has_rt_info([TOLD]) else "{}"
    except DrnError:
        raise
    except Exception as error:  # its errors have no class of their own
        raise damaged(path, error) from error

    def start(_: torch.device, threads: int, at_once: int) -> Run:
        settings = {
            "INFERENCE_NUM_THREADS": threads * at_once,
            "NUM_STREAMS": at_once,
            # Some processors would compute in bfloat16 otherwise.
            "INFERENCE_PRECISION_HINT": "f32",
        }
        requests = threading.local()  # a request answers one picture at a time

        @lru_cache
        def compiled(output: Output) -> Any:
            part = openvino.Model([model.output(output)], model.get_parameters())
            return core.compile_model(part, "CPU", settings)

        def run(x: Tensor, output: Output) -> Tensor:
            mine = requests.__dict__
            if output not in mine:
                mine[output] = compiled(output).create_infer_request()
            given = [x.contiguous().cpu().numpy()]
            answer = mine[output].infer(given, share_inputs=True, share_outputs=True)[0]
            return torch.from_numpy(answer.copy()).to(x.device)  # the request's memory is its own

        return run

    runtime = f"OpenVINO {openvino.__version__.partition('-')[0]}"
    told = strings_of(text, path)
    return ExportedNetwork(path=path, told=told, runtime=runtime, start=start, verified=verified)


@cache
def _core(openvino: Any) -> Any:
    """Return the process's one core of OpenVINO, which lives as long as the process.

    The first network that a core compiles puts a stack of OpenVINO's own under signal handlers
    (sigaltstack); the end of the core frees it and puts the one before it back. Of two cores that
    do not end in reverse order, the second puts back what the first has freed, and the next signal
    (Ctrl-C, the end of a data loader worker) kills the process with SIGSEGV.
    """
    return openvino.Core()


def _check(xml: bytes, path: Path) -> None:
    if not xml.startswith(b"<?xml"):  # OpenVINO would try all the formats that it knows
        raise damaged(path, "not an .xml file")
    open_elements: list[str] = []

    def start(name: str, attributes: dict[str, str]) -> None:
        free = FREE in open_elements
        open_elements.append(name)
        if len(open_elements) > DEEPEST or not (free or name in ELEMENTS):
            raise refused(path, f"an element {name[:40]!r}, {len(open_elements)} deep")
        if name == "layer" and not free and not OPSET.fullmatch(attributes.get("version", "")):
            raise refused(path, "operators of another library")

    def refuse(*_: object) -> None:
        raise refused(path, "a document type or an instruction")

    parser = expat.ParserCreate("utf-8")
    parser.StartElementHandler = start
    parser.EndElementHandler = lambda _: open_elements.pop()
    parser.StartDoctypeDeclHandler = parser.ProcessingInstructionHandler = refuse
    try:
        parser.Parse(xml, True)
    except expat.ExpatError as error:
        raise damaged(path, f"XML: {error}") from error
