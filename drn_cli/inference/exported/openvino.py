"""OpenVINO's files, an .xml with its .bin beside it."""

import threading
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from drn_cli.errors import DrnError
from drn_cli.files import parse_json
from drn_cli.inference.exported.network import Output, Run, Start
from drn_cli.inference.exported.runtime import damaged, need

TOLD = "drn"  # where our strings are, among what an .xml says of itself


def open_openvino(path: Path) -> tuple[Mapping[str, str], str, Start]:
    """Read a file; it is compiled for each output with its first use.

    Raises:
        DrnError: OpenVINO is not installed, or cannot read the file.
    """
    openvino = need("openvino", "openvino", str(path))
    core = openvino.Core()
    try:
        with path.open("rb") as file:
            if file.read(5) != b"<?xml":  # it would try all the formats that it knows
                raise damaged(path, "not an .xml file")
        model = core.read_model(path)
    except DrnError:
        raise
    except Exception as error:  # its errors have no class of their own
        raise damaged(path, error) from error
    told = {}
    if model.has_rt_info([TOLD]):
        told = parse_json(model.get_rt_info([TOLD]).value, f"{path}: metadata {TOLD}")

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

    return told, f"OpenVINO {openvino.__version__.partition('-')[0]}", start
