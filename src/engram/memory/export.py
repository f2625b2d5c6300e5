"""A memory as one file that answers without engram: ONNX, or a program of torch.export.

The graph takes pixels as the memory stores them, uint8 [N, C, S, S] (or vectors float32 [N, D]), and gives calibrated
probabilities float32 [N, K]. Normalisation, fixed features and temperature are inside; decoding and resizing images is
left to the caller. It holds what answers are computed from and nothing else: no statistics, no optimiser, no generator.
"""

from __future__ import annotations

import contextlib
import importlib.util
import io
import json
import logging
import os
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import engram
from engram.core.files import os_errors, write_atomically
from engram.core.network import Network
from engram.errors import ConfigError, EngramError, reason
from engram.memory.memory import Memory
from engram.memory.model import Model

OPSET = 18  # of ONNX
N_CHECKED = 16  # made-up images on which a file is compared with its memory before it is written
TOLERANCE = (
    1e-3  # between probabilities there: noise is far from all that was learned, where rounding counts most
)
INPUT, OUTPUT = "images", "probabilities"


@dataclass(frozen=True)
class Exported:
    """What was written.

    Args:
        path: the file.
        facts: what stands in it about itself, see `facts_of`.
        difference: largest difference to the memory's probabilities on made-up images; None where there is nothing to
            run the file with.
    """

    path: Path
    facts: dict[str, Any]
    difference: float | None


class Predictor(nn.Module):
    """Probabilities float32 [N, K] of what a memory's rule made of images.

    Args:
        model: it has learned.
    """

    def __init__(self, model: Model) -> None:
        super().__init__()
        if model.learner is None:
            raise ConfigError(
                "a memory must have learned a class to be exported, this one has not: learn one first."
            )
        # Held in a tuple, they are no submodules: a program then holds the tensors that it uses, and no others.
        self._held: tuple[Any, ...] = (model.module, model.learner.method, model.learner.network)
        self._columns, self._temperature = model.columns, model.temperature

    def forward(self, images: Tensor) -> Tensor:
        """See the class."""
        features, method, network = self._held
        seen = images if features is None else features(images)
        assert isinstance(network, Network)
        logits = method.predict(network.normalise(seen))[:, self._columns]
        return torch.softmax(logits.double() / self._temperature, 1).float()


def facts_of(memory: Memory) -> dict[str, Any]:
    """What a file says of itself, as JSON: classes by column, input, the rule for images, versions."""
    model = memory.model
    assert model.rule is not None
    shape = list(model.rule.shape)
    return {
        "classes": list(model.classes),
        "input": {"name": INPUT, "type": "uint8" if len(shape) == 3 else "float32", "shape": ["N", *shape]},
        "output": {"name": OUTPUT, "type": "float32", "shape": ["N", len(model.classes)]},
        "rule": str(model.rule),
        "temperature": model.temperature,
        "method": model.settings.method,
        "features": model.settings.features,
        "generation": memory.generation,
        "engram": engram.__version__,
        "torch": str(torch.__version__),
    }


@os_errors()
def export(memory: Memory | str | os.PathLike[str], out: str | os.PathLike[str]) -> Exported:
    """Write a memory as a file that answers without engram.

    Args:
        memory: it, or its folder.
        out: ``NAME.onnx``, or ``NAME.pt2`` for a program of torch.export. Replaced where it is there.

    Raises:
        ConfigError: nothing is learned yet, another kind of file, a package is missing, or code of one's own that
            cannot be made a graph.
        EngramError: the file does not answer as the memory does; nothing is written.
    """
    found = memory if isinstance(memory, Memory) else Memory.open(memory)
    path = Path(out)
    kinds: dict[str, Callable[[Any, dict[str, Any]], bytes]] = {".onnx": _as_onnx, ".pt2": _as_program}
    if path.suffix not in kinds:
        raise ConfigError(f"the file must end in {' or '.join(kinds)}, got {path}: give such a name.")
    if path.suffix == ".onnx":
        _check_onnx()
    module = Predictor(found.model).eval()
    facts = facts_of(found)
    images = _made_up(found)
    with torch.no_grad(), _quiet():
        expected = module(images)  # also finds what is found once, which a graph then holds as it is
        try:
            batch = torch.export.Dim("N", min=1)
            program = torch.export.export(module, (images[:2],), dynamic_shapes=({0: batch},))
        except Exception as error:  # whatever a tracer says of code of one's own
            raise ConfigError(
                f"method {facts['method']} with these features must be one graph to be exported, it is not "
                f"({reason(error)}): predict with engram instead."
            ) from error
        content = kinds[path.suffix](
            program, {**facts, **({"opset": OPSET} if path.suffix == ".onnx" else {})}
        )
        answers = _run(path.suffix, content, images)
    difference = None if answers is None else float((answers - expected).abs().max())
    if difference is not None and not difference <= TOLERANCE:
        raise EngramError(
            f"the file must answer as the memory does within {TOLERANCE:g}, it differs by {difference:.2g}: nothing "
            "was written; export to the other kind of file."
        )
    write_atomically(path, content)
    return Exported(path, facts, difference)


def _made_up(memory: Memory) -> Tensor:
    assert memory.model.rule is not None
    shape = (N_CHECKED, *memory.model.rule.shape)
    drawn = torch.Generator().manual_seed(0)
    if len(shape) == 4:
        return torch.randint(0, 256, shape, generator=drawn, dtype=torch.uint8)
    return torch.randn(shape, generator=drawn)


def _check_onnx() -> None:
    missing = [name for name in ("onnx", "onnxscript") if importlib.util.find_spec(name) is None]
    if missing:
        raise ConfigError(
            f"ONNX needs the package {missing[0]}, which is not installed: pip install 'engram[export]', or export to "
            "a file that ends in .pt2."
        )


def _as_onnx(program: torch.export.ExportedProgram, facts: dict[str, Any]) -> bytes:
    found = torch.onnx.export(
        program, dynamo=True, opset_version=OPSET, input_names=[INPUT], output_names=[OUTPUT], verbose=False
    )
    assert found is not None
    proto = found.model_proto
    for name, value in facts.items():
        proto.metadata_props.add(
            key=f"engram.{name}", value=value if isinstance(value, str) else json.dumps(value)
        )
    return bytes(proto.SerializeToString())


def _as_program(program: torch.export.ExportedProgram, facts: dict[str, Any]) -> bytes:
    file = io.BytesIO()
    torch.export.save(program, file, extra_files={"engram.json": json.dumps(facts)})
    return file.getvalue()


def _run(kind: str, content: bytes, images: Tensor) -> Tensor | None:
    """What a file answers for images; None where nothing is installed that runs it."""
    if kind == ".pt2":
        module = torch.export.load(io.BytesIO(content)).module()
        found: Tensor = module(images)
        return found
    if importlib.util.find_spec("onnxruntime") is None:
        return None
    import onnxruntime  # for this check only

    session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
    return torch.from_numpy(session.run([OUTPUT], {INPUT: images.numpy()})[0])


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Exporters speak of their own packages, which no user can act on."""
    log = logging.getLogger("torch.onnx")
    level = log.level
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        log.setLevel(logging.ERROR)
        try:
            yield
        finally:
            log.setLevel(level)
