"""A sweep of a blink: three tasks of digits, few samples, a small perceptron."""

from __future__ import annotations

from typing import Any

from engram.studies.settings import DataSettings, NetworkSettings

DATA = DataSettings(data="digits", tasks=3, max_per_class=30, valid_fraction=0.2)
NETWORK = NetworkSettings("mlp", {"hidden": [8]})
SMALL = ["--data", "digits", "--tasks", "3", "--max-per-class", "30", "--valid-fraction", "0.2"]
SMALL += ["--recipe", "none", "--network", "mlp", "--mlp.hidden", "[8]"]
GIVEN: dict[str, Any] = {"data": DATA, "network": NETWORK, "recipe": "none"}


def alone(options: dict[str, Any], seed: int = 0) -> dict[str, Any]:
    """What a trial of finetune measures when nothing interrupts it, in this process."""
    import engram
    from engram.protocols.protocol import Protocol
    from engram.studies.building import prepare

    stream, network = prepare(DATA, NETWORK)
    spec = engram.method("finetune", options)
    return engram.run(stream, network, spec, Protocol("class", record_valid=True), seed=seed)


def measured(entry: dict[str, Any]) -> dict[str, Any]:
    """What a seed measured, times left out."""
    return {k: entry[k] for k in ("accuracy_matrix", "valid_matrix", "confusion")}
