"""Programs of torch.export, run by PyTorch without the code of the network."""

import io
import logging
import warnings
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.export.passes import move_to_device_pass
from torch.fx.graph import CodeGen

from drn_cli.errors import DrnError
from drn_cli.inference.exported.archive import check_archive
from drn_cli.inference.exported.network import ExportedNetwork, Output, Run
from drn_cli.inference.exported.runtime import content_of, strings_of
from drn_cli.integrity import damaged

TOLD = "drn.json"  # our strings, among the files in the archive


def open_program(path: Path) -> ExportedNetwork:
    """Read a program, after a look whether that could run code.

    Raises:
        DrnError: It cannot be read, or could run code.
    """
    logging.getLogger("torch.export").setLevel(logging.ERROR)  # it shows tracebacks as warnings
    files = {TOLD: "{}"}
    try:
        # What is checked is what is loaded; the bytes go when it is.
        content = content_of(path)
        verified = check_archive(content, path)
        with warnings.catch_warnings(action="ignore"):  # of torch 2.11, about its own buffers
            program = torch.export.load(io.BytesIO(content), extra_files=files)
    except DrnError:
        raise
    except Exception as error:  # what a damaged archive raises has no bounds
        raise damaged(path, error) from error
    told = strings_of(files[TOLD], path)

    def start(device: torch.device, threads: int, at_once: int) -> Run:
        moved = program if device.type == "cpu" else move_to_device_pass(program, device)

        @lru_cache
        def part(output: Output) -> Any:
            return _computing(moved, told["outputs"].split(",").index(output))

        def run(x: Tensor, output: Output) -> Tensor:
            with torch.inference_mode():
                answer: Tensor = part(output)(x)
            return answer

        return run

    runtime = f"PyTorch {torch.__version__}"
    return ExportedNetwork(path=path, told=told, runtime=runtime, start=start, verified=verified)


def _computing(program: torch.export.ExportedProgram, number: int) -> torch.fx.GraphModule:
    """Cut a program down to what one of its outputs needs."""
    # What it would check is that sides are above 8; it computes smaller ones as well.
    module = program.module(check_guards=False)
    result = module.graph.output_node()
    outputs = result.args[0]
    assert isinstance(outputs, tuple | list)
    result.args = (outputs[number],)
    module.graph.set_codegen(CodeGen())  # the old one wants all outputs
    module.graph.eliminate_dead_code()
    module.recompile()
    return module
