"""Dynamic Generative Memory written by hand: what one iteration at task t costs with nothing around it.

Plain PyTorch, no engram. The mathematics is that of engram's ``dgmw`` with ``solver=shared`` (Ostapenko et
al., CVPR 2019): t classification steps and one adversarial step of the critic, one step of the generator;
masks per weight, gradient gating, compensation, sparsity, clipping, Adam. One class a task, 32x32 images, the
DCGAN pair.

    python benchmarks/limit/dgm.py [task] [iterations]
"""

from __future__ import annotations

import sys
import time

import torch
from torch import Tensor, nn
from torch.nn import functional as F

N_Z, N_LABEL, BATCH = 128, 10, 64
LR, BETAS = 2e-3, (0.5, 0.999)
LAMBDA_GP, LAMBDA_RU, S_MAX, CLIP = 1.0, 0.08, 1e4, 1e4
LAYERS = ((4, 1, 0), (4, 2, 1), (4, 2, 1))  # kernel, stride, padding of the masked layers


def make_critic_trunk(channels: int, n_d: int) -> nn.Sequential:
    """Three convolutions of 5x5, stride 2."""
    return nn.Sequential(
        nn.Conv2d(channels, n_d, 5, 2, 2, bias=False),
        nn.LeakyReLU(0.2),
        nn.Conv2d(n_d, 2 * n_d, 5, 2, 2, bias=False),
        nn.BatchNorm2d(2 * n_d),
        nn.LeakyReLU(0.2),
        nn.Conv2d(2 * n_d, 4 * n_d, 5, 2, 2, bias=False),
        nn.BatchNorm2d(4 * n_d),
        nn.LeakyReLU(0.2),
    )


class Dgm:
    """The networks of task ``task`` (from 0), earlier weights frozen, and one iteration of training.

    Args:
        task: its number; also its only label.
        widths: outputs of the generator's three masked layers now.
        first_widths: the same in the first task, for the growth factor.
        reserved: bool masks [I, O, k, k] of the weights that earlier tasks use.
        real: images uint8 [N, C, 32, 32] of this task.
        replay: generated images float [N, C, 32, 32] of each earlier task.
        n_d: base width of the critic.
    """

    def __init__(
        self,
        task: int,
        widths: list[int],
        first_widths: list[int],
        reserved: list[Tensor],
        real: Tensor,
        replay: list[Tensor],
        n_d: int = 32,
    ) -> None:
        device, channels = real.device, real.shape[1]
        self.task, self.real, self.replay, self.reserved = task, real, replay, reserved
        inputs = [N_Z, *widths[:-1]]
        shapes = [(i, o, k, k) for i, o, (k, _, _) in zip(inputs, widths, LAYERS, strict=True)]
        self.weights = [nn.Parameter(0.02 * torch.randn(s, device=device)) for s in shapes]
        self.embeddings = [nn.Parameter(torch.zeros(s, device=device)) for s in shapes]
        self.norms = nn.ModuleList(nn.BatchNorm2d(w) for w in widths).to(device)
        self.output = nn.ConvTranspose2d(widths[-1], channels, 4, 2, 1, bias=False).to(device)
        self.trunk = make_critic_trunk(channels, n_d).to(device)
        self.adversarial = nn.Linear(64 * n_d, 1, device=device)
        self.classes = nn.Linear(64 * n_d, task + 1, device=device)

        self.free = [(~r).float() for r in reserved]
        self.n_free = max(1.0, sum(float(f.sum()) for f in self.free))
        self.lambda_t = LAMBDA_RU * sum(widths) / sum(first_widths)

        norms_and_output = [*self.norms.parameters(), *self.output.parameters()]
        self.g_parameters = [*self.weights, *self.embeddings, *norms_and_output]
        heads = [*self.adversarial.parameters(), *self.classes.parameters()]
        self.d_parameters = [*self.trunk.parameters(), *heads]
        self.g_optimiser = torch.optim.Adam(self.g_parameters, lr=LR, betas=BETAS, fused=True)
        self.d_optimiser = torch.optim.Adam(self.d_parameters, lr=LR, betas=BETAS, fused=True)

    def score(self, x: Tensor) -> Tensor:
        return self.adversarial(self.trunk(x).flatten(1)).squeeze(1)

    def classify(self, x: Tensor) -> Tensor:
        return self.classes(self.trunk(x).flatten(1))

    def generate(self, z: Tensor, y: Tensor, masked: list[Tensor]) -> Tensor:
        h = torch.cat([F.one_hot(y, N_LABEL).float(), z[:, N_LABEL:]], dim=1)[:, :, None, None]
        for w, norm, (_, stride, padding) in zip(masked, self.norms, LAYERS, strict=True):
            h = norm(F.conv_transpose2d(h, w, stride=stride, padding=padding)).relu()
        return self.output(h).tanh()

    def step_critic(self, loss: Tensor) -> None:
        self.d_optimiser.zero_grad()
        loss.backward(inputs=self.d_parameters)
        self.d_optimiser.step()

    def iteration(
        self,
        rows: list[Tensor],
        slopes: tuple[float, float],
        noise: torch.Generator,
        shuffle: torch.Generator,
    ) -> dict[str, Tensor]:
        """t classification steps, one adversarial step, one step of the generator.

        Args:
            rows: int64 [B] of each replay set in order of the tasks, then of the real samples.
            slopes: of this step and the largest of its epoch.
            noise: draws on the device of the images.
            shuffle: draws the order of real and replayed samples, on the CPU.

        Returns:
            The losses.
        """
        s, s_e = slopes
        device = self.real.device
        real = self.real[rows[-1]].float().mul_(1 / 127.5).sub_(1.0)
        y = torch.full((len(real),), self.task, device=device)

        # Classification: real and replayed samples, shuffled, in t parts.
        images, labels = real, y
        if self.task:
            images = torch.cat([real, *(x[r] for x, r in zip(self.replay, rows, strict=False))])
            labels = torch.cat([y, *(torch.full_like(r, k) for k, r in enumerate(rows[:-1]))])
        order = torch.randperm(len(labels), generator=shuffle).to(device)
        ce = torch.zeros((), device=device)
        for part in order.tensor_split(self.task + 1):
            loss = F.cross_entropy(self.classify(images[part]), labels[part])
            self.step_critic(loss)
            ce += loss.detach()

        # Adversarial step. The gates change only at the end of the iteration, so both steps share them.
        gates = [torch.sigmoid(s * e) for e in self.embeddings]
        masked = [w * m for w, m in zip(self.weights, gates, strict=True)]
        z = torch.randn((len(real), N_Z), generator=noise, device=device)
        u = torch.rand((len(real), 1, 1, 1), generator=noise, device=device)
        with torch.no_grad():
            fake = self.generate(z, y, masked)
        real_score, fake_score = self.score(real), self.score(fake)
        between = (u * real + (1.0 - u) * fake).requires_grad_()
        (slope,) = torch.autograd.grad(self.score(between).sum(), between, create_graph=True)
        penalty = LAMBDA_GP * ((slope.flatten(1).square().sum(1) + 1e-12).sqrt() - 1.0).square().mean()
        wasserstein = fake_score.mean() - real_score.mean()
        self.step_critic(wasserstein + penalty)

        # Generator.
        z = torch.randn((len(real), N_Z), generator=noise, device=device)
        adversarial = -self.score(self.generate(z, y, masked)).mean()
        used = torch.stack([(m * f).sum() for m, f in zip(gates, self.free, strict=True)]).sum()
        sparsity = self.lambda_t * (used / self.n_free)
        self.g_optimiser.zero_grad()
        (adversarial + sparsity).backward(inputs=self.g_parameters)
        with torch.no_grad():
            for w, e, r in zip(self.weights, self.embeddings, self.reserved, strict=True):
                if self.task:
                    w.grad.masked_fill_(r, 0.0)
                numerator = torch.cosh((s * e).clamp_(-50.0, 50.0)).add_(1.0)
                e.grad.mul_(s_e / s).mul_(numerator).div_(torch.cosh(e).add_(1.0))
            torch.nn.utils.clip_grad_norm_(self.g_parameters, CLIP)
        self.g_optimiser.step()
        losses = {
            "class/ce": ce / (self.task + 1),
            "critic/wasserstein": wasserstein,
            "critic/penalty": penalty,
        }
        losses |= {"generator/adversarial": adversarial, "generator/sparsity": sparsity}
        return {name: value.detach() for name, value in losses.items()}


def slopes(epoch: int, n_epochs: int, step: int, n_steps: int) -> tuple[float, float]:
    """The slope of a step, and the largest of its epoch; all counted from 0."""
    s_e = 1.0 / S_MAX + (S_MAX - 1.0 / S_MAX) * (epoch + 1) / n_epochs
    return 1.0 / s_e + (s_e - 1.0 / s_e) * step / n_steps, s_e


def main(task: int = 0, iterations: int = 10) -> None:
    """Seconds an iteration on random images."""
    torch.set_num_threads(1)
    g = torch.Generator().manual_seed(0)
    real = torch.randint(0, 256, (6000, 1, 32, 32), dtype=torch.uint8, generator=g)
    replay = [torch.rand((6000, 1, 32, 32), generator=g) * 2 - 1 for _ in range(task)]
    widths = [24 + 10 * task, 12, 6 + 3 * task]
    reserved = [
        torch.rand((i, o, 4, 4), generator=g) < task / (task + 1)
        for i, o in zip([N_Z, *widths[:-1]], widths, strict=True)
    ]
    dgm = Dgm(task, widths, [24, 12, 6], reserved, real, replay)
    began = time.perf_counter()
    for i in range(iterations):
        rows = [torch.randint(0, 6000, (BATCH,), generator=g) for _ in range(task + 1)]
        losses = dgm.iteration(rows, slopes(0, 101, i, iterations), g, g)
    print(f"task {task + 1}: {(time.perf_counter() - began) / iterations:.4f} s an iteration,", losses)


if __name__ == "__main__":
    main(*(int(a) for a in sys.argv[1:]))
