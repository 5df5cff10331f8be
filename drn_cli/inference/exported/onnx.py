"""ONNX files, run by ONNX Runtime."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from drn_cli.inference.exported.network import INPUT, Output, Run, Start
from drn_cli.inference.exported.runtime import damaged, need


def open_onnx(path: Path) -> tuple[Mapping[str, str], str, Start]:
    """Read what a file says of itself; the session for pictures begins with the first use.

    Raises:
        DrnError: ONNX Runtime is not installed, or cannot read the file.
    """
    ort = need("onnxruntime", "onnx", str(path))
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    told = _session(ort, path, options, ["CPUExecutionProvider"]).get_modelmeta()

    def start(device: torch.device, threads: int, at_once: int) -> Run:
        options = ort.SessionOptions()
        options.intra_op_num_threads = threads
        providers = ["CPUExecutionProvider"]
        if device.type == "cuda" and "CUDAExecutionProvider" in ort.get_available_providers():
            providers.insert(0, "CUDAExecutionProvider")
        session = _session(ort, path, options, providers)
        wanted = ort.RunOptions()
        wanted.only_execute_path_to_fetches = True

        def run(x: Tensor, output: Output) -> Tensor:
            given = {INPUT: x.contiguous().cpu().numpy()}
            return torch.from_numpy(session.run([output], given, wanted)[0]).to(x.device)

        return run

    return told.custom_metadata_map, f"ONNX Runtime {ort.__version__}", start


def _session(ort: Any, path: Path, options: Any, providers: list[str]) -> Any:
    options.log_severity_level = 3  # errors
    try:
        return ort.InferenceSession(str(path), options, providers=providers)
    except Exception as error:  # its errors have no class of their own
        raise damaged(path, error) from error
