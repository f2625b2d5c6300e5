"""A generator that remembers: transposed convolutions with one binary mask a task, which freeze and grow.

Ostapenko et al. (CVPR 2019), Sec. 3.1 and 3.2. Each masked layer's weights are shared by all tasks; a task sees the
slice of the widths it was trained with, through its own mask, its own batch norm and its own output layer. What is
used at generation equals what is protected: old tasks are generated with their exact binary masks.

Shapes: S widths of layer l at task t are ``widths[t][l]``; weights are [I, O, k, k]; masks per weight have that
shape, masks per unit [O].
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import reduce
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from engram import seeds
from engram.core.network import GeneratorShape
from engram.networks import masks
from engram.networks.arranged import ArrangedConvTranspose2d, conv_transpose2d

Mask = Literal["weight", "unit"]


def _added(a: Tensor, b: Tensor) -> Tensor:
    """The sum of [B, C_a, H, W] and [B, C_b, H, W]; channels that one of them lacks are 0."""
    n = max(a.shape[1], b.shape[1])
    return F.pad(a, (0, 0, 0, 0, 0, n - a.shape[1])) + F.pad(b, (0, 0, 0, 0, 0, n - b.shape[1]))


class MaskedGenerator(nn.Module):
    """Masked transposed convolutions, batch norm and output layer per task.

    Args:
        shape: kernels, strides and initial widths.
        mask: a gate per weight or per unit (output channel).
        act_gate: where a unit's gate acts: ``"post"`` after the ReLU, so that a closed unit is exactly 0; ``"pre_bn"``
            before batch norm as in the released code, where a closed unit leaks its offset into later layers.
        seed: growth and initialisation draw from generators named by it.
    """

    def __init__(
        self,
        shape: GeneratorShape,
        *,
        mask: Mask,
        act_gate: Literal["post", "pre_bn"] = "post",
        seed: int = 0,
    ) -> None:
        super().__init__()
        self.shape, self.mask, self.act_gate, self.seed = shape, mask, act_gate, seed
        self.widths: list[list[int]] = []
        self.current = [layer.out for layer in shape.layers]
        self.n_frozen = 0
        self.weights = nn.ParameterList()
        self.embeddings = nn.ParameterList()
        self.norms = nn.ModuleList()
        self.outputs = nn.ModuleList()
        for i in range(len(shape.layers)):
            self.weights.append(nn.Parameter(self._fresh(i, self.current, first=True, task=-1)))
            self.register_buffer(f"reserved_{i}", torch.zeros(self.mask_shape(i, self.current)).bool())
            self.embeddings.append(nn.Parameter(torch.zeros(self.mask_shape(i, self.current))))

    # Shapes ----------------------------------------------------------------------------------------------------
    def weight_shape(self, i: int, widths: Sequence[int]) -> tuple[int, int, int, int]:
        """Shape [I, O, k, k] of layer ``i``'s weights for the given widths."""
        k = self.shape.layers[i].kernel
        return (self.shape.n_inputs(i, widths), widths[i], k, k)

    def _norm_widths(self, widths: Sequence[int]) -> list[int]:
        """Channels of the norm behind each layer: those that the next layer reads, or the output layer."""
        return [self.shape.n_inputs(i + 1, widths) for i in range(len(widths))]

    def mask_shape(self, i: int, widths: Sequence[int]) -> tuple[int, ...]:
        """Shape of layer ``i``'s mask for the given widths."""
        return self.weight_shape(i, widths) if self.mask == "weight" else (widths[i],)

    @property
    def reserved(self) -> list[Tensor]:
        """Cumulated binary mask m_{<=t} of each layer, bool."""
        return [self.get_buffer(f"reserved_{i}") for i in range(len(self.weights))]

    def n_weights(self, widths: Sequence[int] | None = None) -> int:
        """Masked weights for the given widths (the current ones by default)."""
        return sum(self._sizes(self.current if widths is None else widths))

    def _sizes(self, widths: Sequence[int]) -> list[int]:
        return [math.prod(self.weight_shape(i, widths)) for i in range(len(self.weights))]

    def _fresh(self, i: int, widths: Sequence[int], *, first: bool, task: int) -> Tensor:
        """Freshly drawn weights of layer ``i``: Xavier uniform with gain sqrt(2), or N(0, 0.02^2).

        The released code uses Xavier for the first weights of DGMw and the new ones of DGMa, the normal otherwise.
        """
        n_in, n_out, k, _ = shape = self.weight_shape(i, widths)
        g = seeds.generator(self.seed, "weights", task, i)
        if (self.mask == "weight") == first:
            bound = math.sqrt(2.0) * math.sqrt(6.0 / ((n_in + n_out) * k * k))
            return (torch.rand(shape, generator=g) * 2.0 - 1.0) * bound
        return torch.randn(shape, generator=g) * 0.02

    # A task's life ---------------------------------------------------------------------------------------------
    def begin(self, task: int) -> None:
        """New gates at 0.5, batch norm and output layer for ``task``."""
        device = self.weights[0].device
        with seeds.seeded(self.seed, "generator", task):
            self._append_task(self.current)
            if task == 0:
                for norm in self.norms[0]:  # type: ignore[attr-defined]
                    nn.init.normal_(norm.weight, 1.0, 0.02)
        self.norms[-1].to(device)
        self.outputs[-1].to(device)
        self.widths.append(list(self.current))
        for i, e in enumerate(self.embeddings):
            self.embeddings[i] = nn.Parameter(torch.zeros_like(e))

    def _append_task(self, widths: Sequence[int]) -> None:
        out = self.shape.output
        read = self._norm_widths(widths)
        self.norms.append(nn.ModuleList(nn.BatchNorm2d(w) for w in read))
        bias = self.shape.residual
        make = ArrangedConvTranspose2d if self.shape.arranged else nn.ConvTranspose2d
        self.outputs.append(make(read[-1], out.out, out.kernel, out.stride, out.padding, bias=bias))

    def freeze(self, on: Sequence[Tensor]) -> list[dict[str, int]]:
        """Store the current task's binary masks ``on`` (bool, one a layer) and reserve what they use.

        Returns:
            For each layer: its size, elements used by the task, newly reserved, reused.
        """
        task = len(self.widths) - 1
        use = []
        for i, (m, before) in enumerate(zip(on, self.reserved, strict=True)):
            newly = int((m & ~before).sum())
            used = int(m.sum())
            use.append({"layer": i, "size": m.numel(), "used": used, "newly": newly, "reused": used - newly})
            self.register_buffer(f"mask_{task}_{i}", masks.pack(m))
            self.register_buffer(f"reserved_{i}", before | m)
        self.n_frozen = task + 1
        return use

    def growth(self, newly: Sequence[int], rule: Literal["per_task", "carry"]) -> list[int]:
        """New outputs of each layer after a task that reserved ``newly`` elements of each (DGM, Sec. 3.2).

        Masks per unit: as many as were reserved. Masks per weight: :func:`engram.networks.masks.growth_per_weight`.
        """
        if self.mask == "unit":
            return list(newly)
        return masks.growth_per_weight(
            self.current,
            self.shape.n_inputs,
            [layer.kernel**2 for layer in self.shape.layers],
            newly,
            rule=rule,
            reserved=[int(r.sum()) for r in self.reserved],
            initial=self._sizes(self.widths[0]),
        )

    def grow(self, new: Sequence[int]) -> None:
        """Widen each layer by ``new`` outputs; the old block is copied, the rest freshly drawn and unreserved."""
        task = len(self.widths) - 1
        widths = [w + d for w, d in zip(self.current, new, strict=True)]
        with torch.no_grad():
            for i, (old, before) in enumerate(zip(self.weights, self.reserved, strict=True)):
                if tuple(old.shape) == self.weight_shape(i, widths):
                    continue
                grown = self._fresh(i, widths, first=False, task=task).to(old.device)
                grown[: old.shape[0], : old.shape[1]] = old
                self.weights[i] = nn.Parameter(grown)
                after = before.new_zeros(self.mask_shape(i, widths))
                after[tuple(slice(0, n) for n in before.shape)] = before
                self.register_buffer(f"reserved_{i}", after)
                self.embeddings[i] = nn.Parameter(torch.zeros_like(after, dtype=torch.float32))
        self.current = widths

    def blocked(self) -> list[Tensor]:
        """Which weights of each layer no gradient may move: those an earlier task uses (Eq. 6 and 7), bool.

        Masks per weight: [I, O, k, k]. Masks per unit: [I, O, 1, 1] or, in the first layer, [1, O, 1, 1].
        """
        if self.mask == "weight":
            return self.reserved
        below = [self._read(i, self.reserved) for i in range(len(self.weights))]
        return [masks.blocked_weights(r, b) for r, b in zip(self.reserved, below, strict=True)]

    def _read(self, i: int, units: Sequence[Tensor]) -> Tensor | None:
        """Of masks or gates [O] of each layer's units, those of the channels that layer ``i`` reads: the largest."""
        feeds = [units[j] for j in self.shape.feeds(i)]
        n = max(map(len, feeds), default=0)
        padded = [F.pad(u, (0, n - len(u))) for u in feeds]
        return reduce(torch.maximum, padded) if feeds else None

    # Forward ---------------------------------------------------------------------------------------------------
    def soft_gates(self, s: float, *, closed_form: bool = False) -> list[Tensor]:
        """Gates of the current task at slope ``s``."""
        return [masks.gate(e, s, closed_form=closed_form) for e in self.embeddings]

    def binary_gates(self, task: int) -> list[Tensor]:
        """The exact mask of a frozen task, as 0.0 and 1.0."""
        return [
            masks.unpack(self.get_buffer(f"mask_{task}_{i}"), self.mask_shape(i, self.widths[task])).float()
            for i in range(len(self.weights))
        ]

    def forward(self, z: Tensor, task: int, gates: Sequence[Tensor], *, statistics: bool = False) -> Tensor:
        """Images [B, C, H, W] in [-1, 1], or vectors [B, D], from noise ``z`` [B, n_z].

        Args:
            task: whose batch norm, output layer and widths.
            gates: one tensor a layer, from :meth:`soft_gates` or :meth:`binary_gates`.
            statistics: use and update the batch's statistics (training of this task); otherwise the stored ones.
        """
        h = z[:, :, None, None]
        widths, residual, unit = self.widths[task], self.shape.residual, self.mask == "unit"
        stream: Tensor | None = None
        for i, layer in enumerate(self.shape.layers):
            n_in, n_out, _, _ = self.weight_shape(i, widths)
            w = self.weights[i][:n_in, :n_out].contiguous()
            if not unit:
                w = w * gates[i]
            if (residual and i % 2) or (self.shape.nearest and i):
                h = F.interpolate(h, scale_factor=2)
            convolve = conv_transpose2d if self.shape.arranged else F.conv_transpose2d
            h = convolve(h, w, stride=layer.stride, padding=layer.padding)
            if unit and (residual or self.act_gate == "pre_bn"):
                h = h * gates[i][:, None, None]
            if residual and i % 2 == 0:
                h = stream = h if stream is None else _added(F.interpolate(stream, scale_factor=2), h)
            h = self._norm(self.norms[task][i], h, statistics).relu()  # type: ignore[index]
            if unit and self.act_gate == "post":
                m = self._read(i + 1, gates)
                assert m is not None  # of the layers that made h
                h = h * m[:, None, None]
        if self.shape.nearest:
            h = F.interpolate(h, scale_factor=2)
        out: Tensor = self.outputs[task](h)
        return out.flatten(1) if self.shape.vectors else out.tanh()

    def _norm(self, norm: nn.BatchNorm2d, h: Tensor, statistics: bool) -> Tensor:
        if statistics and self.training and h[:, 0].numel() > 1:  # one vector has no variance
            return norm(h)
        return F.batch_norm(
            h, norm.running_mean, norm.running_var, norm.weight, norm.bias, training=False, eps=norm.eps
        )

    # State -----------------------------------------------------------------------------------------------------
    def structure(self) -> dict[str, Any]:
        """Widths of every task begun, current widths, and how many tasks are frozen."""
        return {"widths": self.widths, "current": self.current, "n_frozen": self.n_frozen}

    def rebuild(self, structure: dict[str, Any]) -> None:
        """Tensors of the shapes that ``structure`` says, for a state dict to fill."""
        self.widths = [list(w) for w in structure["widths"]]
        self.current = list(structure["current"])
        self.n_frozen = int(structure["n_frozen"])
        self.norms, self.outputs = nn.ModuleList(), nn.ModuleList()
        for widths in self.widths:
            self._append_task(widths)
        # Between begin and growth the embeddings have the shape of the task's own widths, which are the current ones.
        for i in range(len(self.weights)):
            self.weights[i] = nn.Parameter(torch.zeros(self.weight_shape(i, self.current)))
            self.embeddings[i] = nn.Parameter(torch.zeros(self.mask_shape(i, self.current)))
            self.register_buffer(f"reserved_{i}", torch.zeros(self.mask_shape(i, self.current)).bool())
            for task in range(self.n_frozen):
                n = math.prod(self.mask_shape(i, self.widths[task]))
                self.register_buffer(f"mask_{task}_{i}", torch.zeros(-(-n // 8), dtype=torch.uint8))

    def storage_bytes(self) -> dict[str, int]:
        """Bytes that must last, by kind: masked weights, packed masks, and norms with output layers of all tasks.

        The cumulated masks follow from the stored ones and are not counted.
        """
        n_masks = sum(b.numel() for n, b in self.named_buffers() if n.startswith("mask_"))
        side = [
            v.numel() * v.element_size()
            for module in (self.norms, self.outputs)
            for k, v in module.state_dict().items()
            if not k.endswith("num_batches_tracked")
        ]
        return {"weights": 4 * self.n_weights(), "masks": n_masks, "norms_and_heads": sum(side)}
