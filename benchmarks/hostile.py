"""Hostile files, names and folders as input of real `drn` processes.

Each case makes its files in a folder of its own and runs one command there. A case has failed when
the command ran code from a file (a marker appears), changed a file it should not, ended in a
traceback or in "unexpected:", did not end within its time and memory, or did not end with the exit
code and words that it should. Called by robustness.py.
"""

import json
import os
import pickle
import resource
import struct
import subprocess
import sys
import tempfile
import zipfile
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from safetensors.torch import save_file

SECONDS = 60  # for a command that should refuse a file
ADDRESSES = 12 << 30  # bytes of address space: a command that reads without end stops there
MARKER = "code-was-run"  # a file or folder of this name appears where code from a file ran


@dataclass(frozen=True)
class Case:
    """One hostile input.

    Attributes:
        name: What it is.
        make: Makes the files in the current folder; returns the words of the command.
        words: All of these must be on stderr or stdout.
        codes: Exit codes that are right.
        environment: Variables to set, or to remove where the value is None.
        check: Returns what is wrong afterwards, or nothing.
    """

    name: str
    make: Callable[[], list[str]]
    words: tuple[str, ...] = ()
    codes: tuple[int, ...] = (1, 2)
    environment: tuple[tuple[str, str | None], ...] = ()
    check: Callable[[str], str] = lambda _: ""


class Trap:
    """Creates the marker file when unpickled."""

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (MARKER,)


def photo(name: str = "street.png", size: tuple[int, int] = (64, 48)) -> str:
    pixels = np.random.default_rng(0).integers(0, 256, (size[1], size[0], 3), np.uint8)
    Path(name).parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(name, "PNG")
    return name


def weights(**metadata: str) -> str:
    """Write a network with arbitrary metadata, bypassing our checks."""
    from drn_cli.networks import create_model

    model = create_model("drn_a_18", "segmentation", 3)
    facts = {"format": "drn", "arch": "drn_a_18", "task": "segmentation", "classes": "3"}
    save_file(model.state_dict(), "net.safetensors", facts | metadata)
    return "net.safetensors"


def predict(file: str, image: str = "street.png") -> list[str]:
    if image == "street.png":
        photo()
    return ["predict", image, "--weights", file]


def predict_image(content: bytes, name: str = "street.png") -> list[str]:
    Path(name).write_bytes(content)
    return ["predict", name, "--weights", weights()]


def pickled() -> list[str]:
    torch.save({"state_dict": {"x": Trap()}}, "net.pth")
    return predict("net.pth")


def legacy_pickled() -> list[str]:
    Path("net.pth").write_bytes(pickle.dumps({"state_dict": Trap()}, protocol=2))
    return predict("net.pth")


def zip_bomb() -> list[str]:
    with zipfile.ZipFile("net.pth", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("net/data.pkl", b"\x80\x02}.")
        with archive.open("net/data/0", "w", force_zip64=True) as file:
            for _ in range(6144):
                file.write(bytes(1 << 20))
    return predict("net.pth")


def bomb_around_weights() -> list[str]:
    with (
        zipfile.ZipFile("net.zip", "w", zipfile.ZIP_DEFLATED) as archive,
        archive.open("net.pth", "w", force_zip64=True) as file,
    ):
        for _ in range(6144):
            file.write(bytes(1 << 20))
    return predict("net.zip")


def long_header() -> list[str]:
    Path("net.safetensors").write_bytes(struct.pack("<Q", 1 << 60) + b"{" * 4096)
    return predict("net.safetensors")


def exported(name: str) -> str:
    """Export a small network with `drn export`; return the file."""
    ending = {"onnx": ".onnx", "openvino": ".xml", "pt2": ".pt2"}[name]
    from drn_cli.export.exporting import export
    from drn_cli.export.form import ExportConfig
    from drn_cli.inference.source import Source

    export(Source(Path(weights()), None), ExportConfig(format=name), Path("net" + ending))  # type: ignore[arg-type]
    return "net" + ending


def rewrite_pt2(change: Callable[[dict[str, Any]], None], prefix: bytes = b"") -> list[str]:
    """Change the program's JSON, and put bytes before the archive."""
    file = Path(exported("pt2"))
    with zipfile.ZipFile(file) as archive:
        members = {info.filename: archive.read(info) for info in archive.infolist()}
    name = next(each for each in members if each.endswith("models/model.json"))
    program = json.loads(members[name])
    change(program)
    members[name] = json.dumps(program).encode()
    with zipfile.ZipFile(file, "w") as archive:
        for each, content in members.items():
            archive.writestr(each, content)
    if prefix:
        file.write_bytes(prefix + file.read_bytes())
    return predict(str(file))


def enum_treespec() -> list[str]:
    """Write a file that refers to a shared library, which creates the marker when loaded."""
    source = '#include <sys/stat.h>\n__attribute__((constructor)) void f(void){mkdir("%s",0700);}'
    Path("x.c").write_text(source % MARKER)
    subprocess.run(["gcc", "-shared", "-fPIC", "x.c", "-o", "x.so"], check=True)
    enum = {"__enum__": True, "fqn": "ctypes:cdll", "name": str(Path("x.so").absolute())}

    def change(program: dict[str, Any]) -> None:
        leaf: dict[str, Any] = {"type": None, "context": None, "children_spec": []}
        spec = {"type": "builtins.dict", "context": json.dumps([enum]), "children_spec": [leaf]}
        for call in program["graph_module"]["module_call_graph"]:
            if call["signature"]:
                call["signature"]["in_spec"] = json.dumps([1, spec])

    return rewrite_pt2(change)


def calls_os(program: dict[str, Any]) -> None:
    program["graph_module"]["graph"]["nodes"][0]["target"] = "os.system"


def external_data() -> list[str]:
    import onnx

    model = onnx.load(exported("onnx"))
    tensor = model.graph.initializer[0]
    tensor.ClearField("raw_data")
    tensor.data_location = onnx.TensorProto.EXTERNAL
    del tensor.external_data[:]
    tensor.external_data.add(key="location", value="/etc/passwd")
    Path("net.onnx").write_bytes(model.SerializeToString())
    return predict("net.onnx")


def entity_bomb() -> list[str]:
    entities = "".join(
        f'<!ENTITY e{n} "{f"&e{n - 1};" * 10 if n else "x" * 100}">' for n in range(12)
    )
    Path("net.xml").write_text(
        f'<?xml version="1.0"?><!DOCTYPE net [{entities}]><net name="&e11;" version="11"></net>'
    )
    Path("net.bin").write_bytes(b"")
    return predict("net.xml")


def postscript() -> list[str]:
    Path("bin").mkdir()
    Path("bin/gs").write_text(f"#!/bin/sh\nmkdir -p {Path(MARKER).absolute()}\n")
    Path("bin/gs").chmod(0o755)
    program = f"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n({MARKER}) (w) file closefile\n"
    return predict_image(program.encode())


def other_format(name: str) -> Callable[[], list[str]]:
    def make() -> list[str]:
        Image.new("RGB", (64, 64), (9, 8, 7)).save("x.bin", name)
        return predict_image(Path("x.bin").read_bytes())

    return make


def large_png() -> list[str]:
    """Write a PNG of 177 megapixels in about 20 KB."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        check = struct.pack(">I", zlib.crc32(kind + content))
        return struct.pack(">I", len(content)) + kind + content + check

    side = 13_300
    packer = zlib.compressobj(9)
    data = b"".join(packer.compress(bytes(side // 8 + 2)) for _ in range(side)) + packer.flush()
    head = struct.pack(">IIBBBBB", side, side, 1, 0, 0, 0, 0)
    return predict_image(
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", data) + chunk(b"IEND", b"")
    )


def fifo_image() -> list[str]:
    os.mkfifo("street.png")
    return ["predict", "street.png", "--weights", weights()]


def alias_bomb() -> list[str]:
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]" for n in range(1, 12)]
    Path("bomb.yaml").write_text("\n".join(lines))
    return ["recipes", "check", "bomb.yaml"]


def long_chain() -> list[str]:
    for number in range(1500):
        Path(f"r{number}.yaml").write_text(f"extends: r{number + 1}.yaml\n")
    Path("r1500.yaml").write_text("task: segmentation\n")
    return ["recipes", "check", "r0.yaml"]


def extends(target: str) -> Callable[[], list[str]]:
    def make() -> list[str]:
        if target == "fifo":
            os.mkfifo("fifo")
        Path("r.yaml").write_text(f"extends: {target}\n")
        return ["recipes", "check", "r.yaml"]

    return make


def data_folder() -> str:
    for split in ("train", "val"):
        for number in range(4):
            photo(f"data/{split}{number}.png")
            ids = np.full((48, 64), number % 3, np.uint8)
            Image.fromarray(ids).save(f"data/{split}{number}_ids.png")
        names = range(4)
        Path(f"data/{split}_images.txt").write_text("".join(f"{split}{n}.png\n" for n in names))
        Path(f"data/{split}_labels.txt").write_text("".join(f"{split}{n}_ids.png\n" for n in names))
    info = {"mean": [0.5] * 3, "std": [0.3] * 3, "classes": ["a", "b", "c"]}
    Path("data/info.json").write_text(json.dumps(info | {"colours": [[9, 9, 9]] * 3}))
    return "data"


def train(*words: str) -> list[str]:
    data_folder()
    settings = ("data.classes=3", "augment.crop=32", "train.batch_size=4", "train.epochs=1")
    return ["train", "drn_d_22_camvid", "data.root=data", "model.arch=drn_a_18", *settings, *words]


def deep_info() -> list[str]:
    words = train()
    Path("data/info.json").write_text('{"mean":' * 100_000)
    return words


def broken_runs() -> list[str]:
    for name, text in (("deep", "[" * 100_000), ("digits", '{"step":' + "9" * 100_000 + "}")):
        folder = Path("runs/easy") / name
        folder.mkdir(parents=True)
        for file in ("metrics.jsonl", "environment.json", "best.json"):
            (folder / file).write_text(text + "\n")
        (folder / "recipe.yaml").write_text("task: segmentation\n")
    return ["runs"]


def modules_here() -> list[str]:
    for name in ("yaml", "torch", "numpy", "typer", "_pytest", "PIL", "drn_cli"):
        Path(f"{name}.py").write_text(f"import os; os.makedirs({MARKER!r}, exist_ok=True)\n")
    return train("--gpus", "2", "data.workers=1")


def linked_lock() -> list[str]:
    Path("victim").write_text("precious")
    Path("predictions").mkdir()
    Path("predictions/.lock").symlink_to(Path("victim").absolute())
    return predict(weights())


def linked_run_lock() -> list[str]:
    words = train("--run-dir", "run")
    Path("victim").write_text("precious")
    Path("run").mkdir()
    Path("run/.lock").symlink_to(Path("victim").absolute())
    return words


def victim(_: str) -> str:
    return "" if Path("victim").read_text() == "precious" else "the linked file was changed"


def escapes() -> list[str]:
    name = "\x1b]0;title\x07\x1b[31mred:smile:.png"
    Path(name).write_bytes(b"nothing")
    return ["predict", name, "--weights", weights()]


def no_escapes(output: str) -> str:
    return "a control character reached the terminal" if "\x1b" in output else ""


def formula() -> list[str]:
    from drn_cli.networks import create_model

    photo("=1+2.png")
    facts = {"format": "drn", "arch": "drn_a_18", "task": "classification", "classes": "3"}
    state = create_model("drn_a_18", "classification", 3).state_dict()
    save_file(state, "net.safetensors", facts)
    return ["predict", "=1+2.png", "--weights", "net.safetensors", "--csv", "out.csv"]


def no_formula(_: str) -> str:
    cells = Path("out.csv").read_text().replace('"', "").replace("\n", ",").split(",")
    return "a formula is in the CSV" if any(cell.startswith("=") for cell in cells) else ""


def looped_folders() -> list[str]:
    photo("photos/street.png")
    Path("photos/again").symlink_to("..")
    return ["predict", "photos", "--weights", weights()]


NOT_NUMBERS = {"NaN": "[NaN, 0.4, 0.4]", "1e400": "[1e400, 0.4, 0.4]", "text": '["a", 0, 0]'}

CASES = [
    Case("pickle in a zip checkpoint", pickled, ("refused",)),
    Case("pickle in a legacy checkpoint", legacy_pickled, ("refused",)),
    Case("6 GB in a 6 MB checkpoint", zip_bomb, ("net.pth",)),
    Case("6 GB in a zip around a .pth", bomb_around_weights, ("net.zip",)),
    Case("safetensors header of 1 EiB", long_header, ("net.safetensors",)),
    *(
        Case(
            f"mean {name}",
            lambda text=text: predict(weights(mean=text, std="[0.2, 0.2, 0.2]")),  # type: ignore[misc]
            ("mean",),
        )
        for name, text in NOT_NUMBERS.items()
    ),
    Case("std 0", lambda: predict(weights(mean="[0,0,0]", std="[0, 0.2, 0.2]")), ("std",)),
    Case(
        "colours {}",
        lambda: predict(weights(class_names='["a","b","c"]', colours="{}")),
        ("colours",),
    ),
    Case("colours nested deep", lambda: predict(weights(colours="[" * 200_000)), ("colours",)),
    Case("enum in a .pt2 treespec", enum_treespec, ("refused",)),
    Case("os.system in a .pt2", lambda: rewrite_pt2(calls_os), ("refused",)),
    Case(".pt2 behind an ELF file", lambda: rewrite_pt2(lambda _: None, b"\x7fELF" + bytes(60))),
    Case("ONNX that reads /etc/passwd", external_data, ("net.onnx",)),
    Case("entity bomb in an OpenVINO .xml", entity_bomb, ("net.xml",)),
    Case("PostScript named .png", postscript, ("street.png",)),
    *(
        Case(f"{name} named .png", other_format(name), ("street.png",))
        for name in ("ICNS", "JPEG2000", "DDS", "TGA", "PCX")
    ),
    Case("PNG of 177 Mpx in 20 KB", large_png, ("--max-pixels",)),
    Case("fifo named .png", fifo_image, ("street.png",)),
    Case("YAML alias bomb", alias_bomb, ("bomb.yaml",)),
    Case("1500 chained extends", long_chain, ("yaml",)),
    *(Case(f"extends {name}", extends(name), (name,)) for name in ("fifo", "/dev/zero")),
    Case("info.json nested deep", deep_info, ("info.json",)),
    Case("runs with broken metrics", broken_runs, ("deep", "digits"), codes=(0,)),
    Case("modules in the current folder", modules_here, codes=(0,)),
    Case("lock of predictions is a link", linked_lock, (".lock",), check=victim),
    Case("lock of a run is a link", linked_run_lock, (".lock",), check=victim),
    Case("escape sequences in a file name", escapes, check=no_escapes),
    Case("formula as a file name", formula, codes=(0,), check=no_formula),
    Case("folder linked into itself", looped_folders, codes=(0,)),
    Case(
        "no HOME",
        lambda: predict(weights()),
        codes=(0,),
        environment=(("HOME", None), ("XDG_CACHE_HOME", None)),
    ),
]


def run(case: Case) -> str:
    """Run a case in its own folder; return the problem, or None."""
    home = Path.cwd()
    with tempfile.TemporaryDirectory() as scratch:
        os.chdir(scratch)
        try:
            return _judge(case)
        finally:
            os.chdir(home)


def _judge(case: Case) -> str:
    words = case.make()
    environment = os.environ | {
        "PYTHONPATH": str(Path(__file__).resolve().parents[1]),
        "PATH": f"{Path('bin').absolute()}:{os.environ['PATH']}",
    }
    for name, value in case.environment:
        environment.pop(name, None)
        if value is not None:
            environment[name] = value
    try:
        done = subprocess.run(
            [sys.executable, "-P", "-m", "drn_cli", *words],
            env=environment,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=SECONDS,
            check=False,
            preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_AS, (ADDRESSES, ADDRESSES)),
        )
    except subprocess.TimeoutExpired:
        return f"did not end within {SECONDS} s"
    output = done.stdout + done.stderr
    last = (done.stderr.strip().splitlines() or ["nothing on stderr"])[-1]
    wrong = [f"{word} {last}" for word in ("Traceback", "unexpected:") if word in output]
    if Path(MARKER).exists():
        wrong.append("code was run")
    if done.returncode not in case.codes:
        wrong.append(f"exit code {done.returncode}: {last}")
    wrong += [f"does not say {word!r}: {last}" for word in case.words if word not in output]
    return "; ".join([*wrong, *filter(None, [case.check(output)])])


def campaign(names: list[str] | None = None) -> int:
    """Run all cases and print a line for each; return the number of failures."""
    failed = 0
    for case in CASES:
        if names and not any(name in case.name for name in names):
            continue
        wrong = run(case)
        failed += bool(wrong)
        print(f"{'FAILED' if wrong else 'held':8}{case.name}{': ' + wrong if wrong else ''}")
        sys.stdout.flush()
    return failed
