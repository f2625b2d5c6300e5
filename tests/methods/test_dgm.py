"""Dynamic Generative Memory: the invariants of section 7 of the reference, by number, on tiny runs.

Elsewhere: 10, 13, 15, 16 in test_masks.py; 6 to 9, 12, 17, 22 also in test_masked_generator.py; 18 (poison),
23 (resume) and 26 (seed) for every method in tests/checks; 21 (metrics) in tests/test_metrics.py.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from functools import cache, partial
from itertools import combinations
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from engram import seeds
from engram.checks import SMALL, Bench, tiny_stream
from engram.checks.comparing import same
from engram.core.contract import Batch, Context, Samples, Step, TaskInfo
from engram.core.network import Network
from engram.errors import ConfigError, StrictnessError
from engram.methods.dgm import Dgm, DgmConfig
from engram.methods.registry import method
from engram.networks import Dcgan8, Mlp, masks
from engram.networks.scattering import ScatteringVectors
from engram.parts import discriminants, gan
from engram.parts.averaging import WeightAverage
from engram.parts.images import Augmentation, blurred, recoloured, shift_and_rotate
from engram.parts.memory import SampleMemory, herded
from engram.parts.statistics import kept_statistics, reestimated_statistics
from engram.protocols.session import Session

NAMES = ("dgmw", "dgma")
SOLVER: dict[str, dict[str, Any]] = {
    "shared": {},
    "separate": {"hard_tail": 0.0, "average_g": 0.0, "bn_reestimate": 0},
}
#: Options with which gates part within a few steps, so that masks are neither empty nor full.
HARD: dict[str, dict[str, Any]] = {
    "dgmw": {"epochs": 4, "lr_g": 0.02, "s_max": 200.0, "lambda_ru": 2.0},
    "dgma": {
        "epochs": 4,
        "lr_g": 0.02,
        "s_max": 200.0,
        "lambda_ru": 0.5,
    },
}


def bench(
    name: str = "dgmw", groups: tuple[int, ...] = (1, 1, 1, 1), variant: str = "shared", **options: Any
) -> Bench:
    small = {**SMALL["dgmw"][variant], **HARD[name], **SOLVER.get(variant, {}), **options}
    return Bench(method(name, small), tiny_stream(groups), Dcgan8(n_f=4, n_d=4, n_z=16), "class")


class Watch:
    """What happened in a run, step by step."""

    def __init__(self) -> None:
        self.images: list[list[Tensor]] = []  # after each task, of every task so far, from the same noise
        self.moved: list[str] = []  # frozen weights that a step moved
        self.leaking: list[str] = []  # gradients that were not zero where they must be
        self.moments: list[str] = []  # first moments that were not zero where they must be
        self.trained = 0  # free weights that steps moved
        self.masks: list[list[Tensor]] = []
        self.reserved: list[list[Tensor]] = []
        self.sides: list[dict[str, Tensor]] = []
        self.widths: list[list[int]] = []
        self.alphas: list[float] = []
        self.pools: list[tuple[int, str, int, dict[str, Samples]]] = []
        self.steps: list[tuple[int, str]] = []
        self.method: Dgm
        self.session: Session


def generated(m: Dgm, task: int) -> Tensor:
    g = seeds.generator(11, "fixed", task)
    z = torch.randn(9, m.generator.shape.n_z, generator=g)
    first = m.stops[task - 1] if task else 0
    y = torch.arange(first, m.stops[task]).repeat(9)[:9]
    return m.generate_from(z, y)


def watch(b: Bench) -> Watch:
    w = Watch()
    held: dict[str, Any] = {}

    def prepare(made: Any) -> None:
        m: Dgm = made
        w.method = m
        begin, backward, after, pools = m.begin_task, m.after_backward, m.after_step, m.pools

        def begun(task: TaskInfo, data: Samples) -> None:
            begin(task, data)
            held["blocked"] = [
                x.expand_as(p).clone()
                for x, p in zip(m.generator.blocked(), m.generator.weights, strict=True)
            ]
            held["start"] = [p.detach().clone() for p in m.generator.weights]
            w.widths.append(list(m.generator.widths[-1]))
            w.alphas.append(m.alpha)

        def backed(player: str, grads: dict[str, Tensor], step: Step) -> None:
            backward(player, grads, step)
            if player == "generator":
                for i, blocked in enumerate(held["blocked"]):
                    if grads[f"generator.weights.{i}"][blocked].abs().sum() != 0:
                        w.leaking.append(f"task {step.task.index} layer {i}")

        def stepped(player: str, step: Step) -> None:
            after(player, step)
            w.steps.append((step.task.index, player))
            if player == "generator":
                for i, (blocked, start) in enumerate(zip(held["blocked"], held["start"], strict=True)):
                    now = m.generator.weights[i].detach()
                    if not torch.equal(now[blocked], start[blocked]):
                        w.moved.append(f"task {step.task.index} layer {i}")
                    if step.task.index > 0:
                        w.trained += int((now[~blocked] != start[~blocked]).sum())

        def drawn(task: TaskInfo, phase: str, epoch: int, data: Samples) -> dict[str, Samples]:
            found = pools(task, phase, epoch, data)
            w.pools.append((task.index, phase, epoch, found))
            return found

        m.begin_task, m.after_backward, m.after_step, m.pools = begun, backed, stepped, drawn  # type: ignore[method-assign]

    def on_event(session: Session, event: Any) -> None:
        if hasattr(event, "losses") and event.phase == "gan":
            for i, blocked in enumerate(held["blocked"]):
                state = session.state.optimisers["generator"][f"generator.weights.{i}"]
                if (
                    state["exp_avg"][blocked].abs().sum() != 0
                    or state["exp_avg_sq"][blocked].abs().sum() != 0
                ):
                    w.moments.append(f"task {event.task} layer {i}")

    def on_task(session: Session, index: int) -> None:
        m, g = w.method, w.method.generator
        w.images.append([generated(m, t) for t in range(index + 1)])
        w.masks.append([x for t in range(index + 1) for x in g.binary_gates(t)])
        w.reserved.append([r.clone() for r in g.reserved])
        w.sides.append(
            {
                k: v.clone()
                for k, v in m.state_dict().items()
                if k.startswith(("generator.norms", "generator.outputs", "generator.mask_"))
            }
        )

    w.session = b.session(prepare=prepare, on_event=on_event, on_task=on_task)
    b.train(w.session)
    return w


@cache
def watched(
    name: str, groups: tuple[int, ...] = (1, 1, 1, 1), variant: str = "shared", more: tuple[Any, ...] = ()
) -> Watch:
    return watch(bench(name, groups, variant, **dict(more)))


# Frozen memory ------------------------------------------------------------------------------------
def drifted(w: Watch) -> list[tuple[int, int]]:
    """(task, later task) whose images are no longer bitwise those of the task's own end."""
    return [
        (t, later)
        for later in range(len(w.images))
        for t in range(later)
        if not same(w.images[later][t], w.images[t][t])
    ]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("variant", ["shared", "separate"])
def test_frozen_replay_is_bit_identical_after_later_tasks(name: str, variant: str) -> None:
    w = watched(name, variant=variant)
    assert drifted(w) == []
    # Not for want of training: free weights moved, and masks are neither empty nor full.
    assert w.trained > 1000
    for t in range(4):
        for row in w.method.use[t]:
            assert 0 < row["used"] < row["size"]


def test_control_soft_masks_drift() -> None:
    assert len(drifted(watched("dgmw", more=(("replay_mask", "soft"), ("s_max", 20.0))))) == 6


def test_control_gates_before_batch_norm_drift() -> None:
    assert len(drifted(watched("dgma", more=(("act_gate", "pre_bn"),)))) > 0


def test_control_the_comparison_can_fail() -> None:
    w = watch(bench("dgmw"))
    with torch.no_grad():
        w.method.generator.weights[0].add_(1e-3)
    w.images.append([generated(w.method, t) for t in range(4)])
    assert (0, 4) in drifted(w)


@pytest.mark.parametrize("name", NAMES)
def test_frozen_weights_are_bit_identical_after_every_step(name: str) -> None:
    w = watched(name)
    assert w.moved == []
    assert any(r.any() for r in w.reserved[0])


@pytest.mark.parametrize("name", NAMES)
def test_frozen_weights_survive_averaging_clamping_and_growth(name: str) -> None:
    w = watched(
        name,
        more=(("average_g", 0.9), ("emb_clamp", 6.0), ("expansion", "carry"), ("mask_grad", "closed_form")),
    )
    assert w.moved == []
    assert drifted(w) == []


@pytest.mark.parametrize("name", NAMES)
def test_gradients_are_exactly_zero_where_weights_are_blocked(name: str) -> None:
    assert watched(name).leaking == []


def test_a_gradient_that_is_not_a_number_is_blocked_too() -> None:
    m = watched("dgmw").method
    grads = {
        f"generator.weights.{i}": torch.full_like(p, math.nan) for i, p in enumerate(m.generator.weights)
    }
    grads |= {f"generator.embeddings.{i}": torch.zeros_like(e) for i, e in enumerate(m.generator.embeddings)}
    Dgm.after_backward(m, "generator", grads, Step(TaskInfo(4, 4, 5, 5, (0, 5)), "gan", 0, 1, 0, 1))
    for i in range(2):
        reserved = m.generator.reserved[i]
        assert (grads[f"generator.weights.{i}"][reserved] == 0).all()
        assert grads[f"generator.weights.{i}"][~reserved].isnan().all()


@pytest.mark.parametrize("name", NAMES)
def test_side_modules_and_masks_of_old_tasks_do_not_change(name: str) -> None:
    w = watched(name)
    for before, after in zip(w.sides, w.sides[1:], strict=False):
        assert all(same(v, after[k]) for k, v in before.items())
        assert len(after) > len(before)


@pytest.mark.parametrize("name", NAMES)
def test_moments_of_frozen_entries_are_zero_and_there_is_no_decay(name: str) -> None:
    w = watched(name)
    assert w.moments == []
    for player in w.method.players(TaskInfo(3, 3, 4, 4, (0, 4)), "gan").values():
        assert player.optimiser.weight_decay == 0
        assert not player.keep_state


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("threshold", ["ge", "gt"])
def test_masks_are_the_sign_of_the_embeddings(name: str, threshold: str) -> None:
    found: list[tuple[list[Tensor], list[Tensor]]] = []

    def prepare(m: Any) -> None:
        end = m.end_phase

        def ended(task: TaskInfo, phase: str) -> None:
            embeddings = [e.detach().clone() for e in m.generator.embeddings]
            end(task, phase)
            found.append((embeddings, m.generator.binary_gates(task.index)))

        m.end_phase = ended

    b = bench(name, (1, 1), threshold=threshold, epochs=1)
    b.train(b.session(prepare=prepare))
    assert len(found) == 2
    for embeddings, gates in found:
        for e, m in zip(embeddings, gates, strict=True):
            assert torch.equal(m.bool(), e >= 0 if threshold == "ge" else e > 0)


@pytest.mark.parametrize("hard_tail", [0.0, 0.5])
def test_gates_that_no_gradient_moved_reserve_nothing(hard_tail: float) -> None:
    # Without the sparsity term nothing moves the gates of label entries whose class is not in the task.
    w = watched("dgmw", more=(("lambda_ru", 0.0), ("n_label", 6), ("hard_tail", hard_tail)))
    for task, reserved in enumerate(w.reserved):
        on = reserved[0].flatten(1).any(1)
        assert on[: task + 1].all()
        assert not on[task + 1 : 6].any()
        assert all(row["untouched"] <= row["reused"] for row in w.method.use[task])


@pytest.mark.parametrize("name", NAMES)
def test_cumulated_masks_grow_and_are_the_union(name: str) -> None:
    w = watched(name)
    n = len(w.method.generator.weights)
    for t in range(4):
        for i in range(n):
            now = w.reserved[t][i]
            old = torch.zeros_like(now)
            for k in range(t + 1):
                m = w.masks[t][k * n + i].bool()
                old[tuple(slice(0, d) for d in m.shape)] |= m
            assert torch.equal(now, old)


@pytest.mark.parametrize("name", NAMES)
def test_widths_do_not_shrink_and_growth_is_reported(name: str) -> None:
    w = watched(name)
    assert w.widths == w.method.generator.widths
    assert all(
        a <= b
        for one, two in zip(w.widths, w.widths[1:], strict=False)
        for a, b in zip(one, two, strict=True)
    )
    growth = w.method.report()["growth"]
    assert growth["widths"] == w.widths[-1]
    assert growth["widths_after"] == w.method.generator.current
    assert growth["weights"] == w.method.generator.n_weights(w.widths[-1])


def test_per_weight_growth_follows_the_rule() -> None:
    w = watched("dgmw")
    for t in range(3):
        newly = [row["newly"] for row in w.method.use[t]]
        new = masks.growth_per_weight(w.widths[t], w.method.generator.shape.n_inputs, [4, 16], newly)
        assert [a + d for a, d in zip(w.widths[t], new, strict=True)] == w.widths[t + 1]
    assert w.widths[-1] != w.widths[0]


@pytest.mark.parametrize("rule", ["per_task", "carry"])
def test_free_capacity_per_weight(rule: str) -> None:
    w = watched("dgmw", more=(("expansion", rule),))
    initial = [16 * 8 * 4, 8 * 4 * 16]
    before = initial
    widths = [*w.widths[1:], w.method.generator.current]
    for t, (a, b) in enumerate(widths):
        free = [p - int(r.sum()) for p, r in zip([16 * a * 4, a * b * 16], w.reserved[t], strict=True)]
        if rule == "per_task":
            assert all(now >= old for now, old in zip(free, before, strict=True))
        else:
            assert all(now >= old for now, old in zip(free, initial, strict=True))
            assert free[0] - initial[0] < 16 * 4
        before = free


def test_free_units_are_restored_exactly() -> None:
    w = watched("dgma")
    widths = [*w.widths[1:], w.method.generator.current]
    for t, now in enumerate(widths):
        assert [a - int(r.sum()) for a, r in zip(now, w.reserved[t], strict=True)] == [8, 4]


@pytest.mark.parametrize("name", NAMES)
def test_reserved_counts_add_up(name: str) -> None:
    w = watched(name)
    for t in range(4):
        for i in range(2):
            assert int(w.reserved[t][i].sum()) == sum(w.method.use[k][i]["newly"] for k in range(t + 1))


@pytest.mark.parametrize("name", NAMES)
def test_first_sparsity_is_half_of_its_weight(name: str) -> None:
    b = bench(name, (1, 1), lambda_ru=2.0)
    found: list[tuple[int, float, float]] = []

    def prepare(m: Any) -> None:
        loss = m.generator_loss

        def looked(batch: Batch, step: Step) -> Any:
            terms = loss(batch, step)
            if step.epoch == step.step == 0:
                found.append((step.task.index, terms["sparsity"].item(), m.alpha))
            return terms

        m.generator_loss = looked

    b.train(b.session(prepare=prepare))
    assert [f[0] for f in found] == [0, 1]
    assert found[0][1] == pytest.approx(1.0)  # 2.0 * 1 * 0.5
    assert found[1][1] == pytest.approx(2.0 * found[1][2] * 0.5)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("ratio", ["neurons", "params"])
def test_alpha_is_the_growth_of_the_generator(name: str, ratio: str) -> None:
    w = watched(name, more=(("ratio", ratio),))
    assert w.alphas[0] == 1.0
    assert w.alphas == sorted(w.alphas)
    assert w.alphas[-1] > 1.0
    (a, b) = w.widths[-1]
    expected = (a + b) / 12 if ratio == "neurons" else (16 * a * 4 + a * b * 16) / (16 * 8 * 4 + 8 * 4 * 16)
    assert w.alphas[-1] == pytest.approx(expected)


def test_units_keep_one_slope_in_an_epoch_and_weights_do_not() -> None:
    unit, weight = watched("dgma").method, watched("dgmw").method
    steps = [Step(TaskInfo(0, 0, 1, 1, (0, 1)), "gan", 1, 4, i, 5) for i in range(5)]
    assert len({unit.slopes(s) for s in steps}) == 1
    values = [weight.slopes(s)[0] for s in steps]
    assert values == sorted(set(values))
    assert all(s == weight.slopes(steps[0])[1] for s in {weight.slopes(s)[1] for s in steps})


def test_the_generators_embedding_gradient_is_compensated() -> None:
    for compensate in (True, False):
        m = bench("dgmw", compensate=compensate).build()
        assert isinstance(m, Dgm)
        m.begin_task(
            TaskInfo(0, 0, 1, 1, (0, 1)),
            Samples(torch.zeros(4, 1, 8, 8, dtype=torch.uint8), torch.zeros(4).long()),
        )
        step = Step(TaskInfo(0, 0, 1, 1, (0, 1)), "gan", 1, 4, 2, 5)
        s, s_e = m.slopes(step)
        grads = {
            f"generator.embeddings.{i}": torch.ones_like(e) for i, e in enumerate(m.generator.embeddings)
        }
        m.after_backward("generator", grads, step)
        assert grads["generator.embeddings.0"].unique().tolist() == pytest.approx(
            [s_e / s if compensate else 1.0]
        )


# Strictness, labels and steps ---------------------------------------------------------------------
@pytest.mark.parametrize("name", NAMES)
def test_past_and_future_samples_cannot_be_read(name: str) -> None:
    w = watched(name)
    log = w.session.guard.reads_log
    assert log["train"] == [1, 1, 1, 1]
    with pytest.raises(StrictnessError, match="task"):
        w.session.guard.train(0)


@pytest.mark.parametrize("name", NAMES)
def test_replay_is_what_the_generator_makes(name: str) -> None:
    w = watched(name)
    images = torch.cat([w.session.stream.train(t).x for t in range(4)])
    real = w.method.context.network.normalise(images).flatten(1)
    for _, _, _, pools in w.pools:
        for pool in pools.values():
            assert torch.cdist(pool.x.flatten(1), real).min() > 0.01


@pytest.mark.parametrize("name", NAMES)
def test_replay_has_so_many_samples_of_each_old_class_and_the_head_all_classes(name: str) -> None:
    w = watched(name, (2, 1, 2))
    stops = [2, 3, 5]
    n_per_class = 12  # of the tiny stream
    assert w.method.stops == stops
    assert w.method.critic.classes.n_outputs == 5
    seen = [(task, pools) for task, phase, epoch, pools in w.pools if phase == "gan"]
    assert [task for task, _ in seen] == [0, 1, 2]  # once a task
    for task, pools in seen:
        assert set(pools) == {f"replay/{t}" for t in range(task)}
        for t in range(task):
            first = stops[t - 1] if t else 0
            counts = pools[f"replay/{t}"].y.bincount(minlength=5)
            assert counts.tolist() == [n_per_class if first <= c < stops[t] else 0 for c in range(5)]


@pytest.mark.parametrize(("refresh", "draws"), [("task", 1), ("epoch", 4), ("step", 1)])
def test_replay_is_refreshed_as_asked(refresh: str, draws: int) -> None:
    w = watched("dgmw", (1, 1), more=(("replay_refresh", refresh),))
    mine = [pools["replay/0"].x for task, phase, _, pools in w.pools if task == 1 and phase == "gan"]
    assert len(mine) == draws
    assert len({x.sum().item() for x in mine}) == draws


def test_refreshing_every_step_shows_new_images_for_old_labels_only() -> None:
    shown: list[tuple[int, Tensor, Tensor]] = []

    def prepare(m: Any) -> None:
        classify = m.critic.classify

        def begun_loss(batch: Batch, step: Step) -> Any:
            m.critic.classify = lambda x: (
                shown.append((step.task.index, x.detach(), batch.y)),
                classify_of(m)(x),
            )[1]
            out = loss(batch, step)
            del m.critic.classify
            if step.task.index == 1:
                new = batch.y >= 1
                assert same(shown[-1][1][new], batch.x[new])
                if (~new).any():
                    assert not same(shown[-1][1][~new], batch.x[~new])
            return out

        loss = m.class_loss
        m.class_loss = begun_loss
        del classify

    def classify_of(m: Dgm) -> Callable[[Tensor], Tensor]:
        return lambda x: type(m.critic).classify(m.critic, x)

    b = bench("dgmw", (1, 1), replay_refresh="step", epochs=1)
    b.train(b.session(prepare=prepare))
    assert any(task == 1 for task, _, _ in shown)


@pytest.mark.parametrize("name", NAMES)
def test_steps_of_critic_and_generator(name: str) -> None:
    w = watched(name)
    iterations = math.ceil(12 / 6) * 4
    for t in range(4):
        assert w.steps.count((t, "generator")) == iterations
        # At the t-th task (from 1) t classification steps and one adversarial step.
        assert w.steps.count((t, "critic")) == iterations * (t + 2)


def test_more_critic_steps() -> None:
    w = watched("dgmw", (1, 1), more=(("n_critic", 3),))
    assert w.steps.count((0, "critic")) == 2 * 4 * (1 + 3)


def test_accuracy_is_the_mean_recall() -> None:
    w = watched("dgmw")
    confusion = torch.tensor(w.session.confusion).double()
    recalls = confusion.diagonal() / confusion.sum(1)
    assert recalls.mean().item() == pytest.approx(sum(w.session.record["rows"][-1]) / 4)


@pytest.mark.parametrize("name", NAMES)
def test_storage_adds_up(name: str) -> None:
    m = watched(name).method
    found = m.storage_bytes()
    assert found["weights"] == 4 * m.generator.n_weights()
    assert found["masks"] == sum(
        math.ceil(math.prod(m.generator.mask_shape(i, w)) / 8) for w in m.generator.widths for i in range(2)
    )
    assert found["norms_and_heads"] == sum(4 * (4 * sum(w) + 16 * w[-1]) for w in m.generator.widths)
    assert found["exemplars"] == 0


def test_conditioning_writes_the_label_over_the_first_noise_entries() -> None:
    m = watched("dgmw").method
    y = torch.tensor([0, 3, 1])
    z = torch.randn(3, 16)
    found = m.condition(z, y, 3)
    assert found.shape == (3, 16)
    assert torch.equal(found[:, :4], torch.eye(4)[y])
    assert torch.equal(found[:, 4:], z[:, 4:])
    other = m.condition(torch.randn(3, 16), y, 3)
    assert torch.equal(found[:, :4], other[:, :4])
    assert not torch.equal(found[:, 4:], other[:, 4:])


def test_more_label_entries_may_be_set_aside() -> None:
    m = bench("dgmw", n_label=6).build()
    assert isinstance(m, Dgm)
    assert m.condition(torch.ones(1, 16), torch.tensor([3]), 0)[0].tolist() == [0, 0, 0, 1, 0, 0, *[1] * 10]
    for wrong in (3, 17):
        with pytest.raises(ConfigError, match="n_label"):
            bench("dgmw", n_label=wrong).build()


WITHIN = (("label", "within_task"), ("n_label", 3))


@pytest.mark.parametrize("name", NAMES)
def test_a_label_within_its_task_needs_no_number_of_classes(name: str) -> None:
    # Six classes through three label entries; tasks grow from one class to three.
    w = watched(name, (1, 3, 2), more=WITHIN)
    m = w.method
    z = torch.zeros(2, 16)
    assert m.condition(z, torch.tensor([1, 3]), 1)[:, :3].tolist() == [[1, 0, 0], [0, 0, 1]]
    assert m.condition(z, torch.tensor([4, 5]), 2)[:, :3].tolist() == [[1, 0, 0], [0, 1, 0]]
    assert drifted(w) == []
    # Classes that share a label entry differ by their task's mask, norm and output layer.
    same_code = [m.generate_from(torch.zeros(1, 16), torch.tensor([y])) for y in (0, 1, 4)]
    assert not any(same(a, b) for a, b in combinations(same_code, 2))


def test_with_labels_within_tasks_nothing_depends_on_the_streams_size() -> None:
    b = bench("dgmw", (1, 2), **dict(WITHIN))
    make = b.spec.make
    unknown = replace(b.spec, make=lambda c, context: make(c, replace(context, n_classes=-1, n_tasks=None)))
    other = Bench(unknown, b.stream, b.network, "class")
    assert all(same(v, other.reference.state[k]) for k, v in b.reference.state.items())


def test_both_labels_are_the_same_in_one_task() -> None:
    one, all_ = (bench("dgmw", (3,), label=f"within_{part}", n_label=3) for part in ("task", "stream"))
    assert all(same(v, all_.reference.state[k]) for k, v in one.reference.state.items())


def test_a_task_with_more_classes_than_label_entries_is_refused_before_it_moves_anything() -> None:
    m = bench("dgmw", label="within_task", n_label=2).build()
    assert isinstance(m, Dgm)
    before = {k: v.clone() for k, v in m.state_dict().items()}
    with pytest.raises(ConfigError, match=r"n_label must be at least the 3 classes .* task 1 .*, got 2"):
        m.begin_task(TaskInfo(0, 0, 3, 3, (0, 3)), Samples(torch.zeros(3, 1, 8, 8).byte(), torch.arange(3)))
    assert m.state_dict().keys() == before.keys()
    assert m.stops == []


def stored_after_tasks(**options: Any) -> tuple[list[list[int]], Watch]:
    b = bench("dgmw", (2, 1, 1), **options)
    counts: list[list[int]] = []
    session = b.session(
        on_task=lambda s, i: counts.append(s.method.memory.labels.bincount(minlength=4).tolist())
    )  # type: ignore[union-attr, operator]
    b.train(session)
    w = Watch()
    assert isinstance(session.method, Dgm)
    w.method, w.session = session.method, session
    return counts, w


def test_relaxed_mode_keeps_to_its_budget_and_shrinks() -> None:
    counts, w = stored_after_tasks(memory_budget=9)
    assert counts == [[4, 4, 0, 0], [3, 3, 3, 0], [2, 2, 2, 2]]
    assert w.method.reads == "memory"
    stream = w.session.stream
    real = {tuple(x.flatten().tolist()) for t in range(3) for x in stream.train(t).x}
    assert all(tuple(x.flatten().tolist()) in real for x in w.method.memory.images)


def test_relaxed_mode_stores_by_herding_if_asked() -> None:
    found: list[tuple[Tensor, Tensor]] = []

    def on_task(session: Session, index: int) -> None:
        m, data = session.method, session.stream.train(index)
        own = m.memory.images[m.memory.labels == index]
        expected = [data.x[herded(m.features(data.x), k)] for k in (1, len(own))]
        assert same(own, expected[1])
        assert same(own[:1], expected[0])
        found.append((own, m.memory.labels))

    b = bench("dgmw", (1, 1), memory_budget=6, memory_choice="herding")
    b.train(b.session(on_task=on_task))
    assert [len(labels) for _, labels in found] == [6, 6]


def test_relaxed_mode_by_ratio() -> None:
    counts, _ = stored_after_tasks(memory_ratio=0.25)
    assert counts == [[3, 3, 0, 0], [3, 3, 3, 0], [3, 3, 3, 3]]  # a quarter of 12


def test_replay_is_stored_samples_first_and_generated_ones_for_the_rest() -> None:
    _, w = stored_after_tasks(memory_ratio=0.25)
    m = w.method
    pool = m._replay(0, 12, seeds.generator(0, "x"))
    assert pool.y.bincount().tolist() == [12, 12]
    for label in (0, 1):
        mine = pool.x[pool.y == label]
        stored = m.context.network.normalise(m.memory.images[m.memory.labels == label])
        assert same(mine[:3], stored)
        assert torch.cdist(mine[3:].flatten(1), stored.flatten(1)).min() > 0.01


def test_nothing_stored_is_strict() -> None:
    assert not bench("dgmw").reference.state["memory.labels"].numel()
    a = bench("dgmw", (1, 1), memory_ratio=0.0).reference
    b = bench("dgmw", (1, 1), memory_budget=0).reference
    assert all(same(v, b.state[k]) for k, v in a.state.items())
    assert bench("dgmw").build().reads == "task"


def test_ratio_and_budget_exclude_each_other() -> None:
    with pytest.raises(ConfigError, match="only one of memory_ratio and memory_budget"):
        bench("dgmw", memory_ratio=0.5, memory_budget=3)


def test_a_shrinking_memory_keeps_a_part_of_what_it_had() -> None:
    m = SampleMemory((1, 2, 2))
    x = torch.arange(40 * 4, dtype=torch.uint8).view(40, 1, 2, 2)
    m.add_random(Samples(x[:20], torch.zeros(20).long()), 8, torch.Generator().manual_seed(0))
    first = {tuple(i.flatten().tolist()) for i in m.images}
    m.add_random(Samples(x[20:], torch.ones(20).long()), 3, torch.Generator().manual_seed(1))
    kept = {tuple(i.flatten().tolist()) for i in m.images[m.labels == 0]}
    assert len(first) == 8
    assert len(kept) == 3
    assert kept < first
    assert m.labels.tolist() == [0] * 3 + [1] * 3


# The critic ---------------------------------------------------------------------------------------
def begin(m: Dgm, index: int, n: int = 12) -> TaskInfo:
    task = TaskInfo(index, index, index + 1, index + 1, (0, index + 1))
    data = Samples(torch.zeros(n, 1, 8, 8, dtype=torch.uint8), torch.full((n,), index))
    m.begin_task(task, data)
    return task


def batch_for(m: Dgm, task: TaskInfo, n: int = 6) -> Batch:
    g = torch.Generator().manual_seed(3)
    noise = {"z": torch.randn(n, 16, generator=g), "u": torch.rand(n, 1, 1, 1, generator=g)}
    return Batch(torch.rand(n, 1, 8, 8, generator=g) * 2 - 1, torch.full((n,), task.start), noise)


@pytest.mark.parametrize(("which", "moves"), [("all", True), ("class", False)])
def test_adversarial_passes_move_the_critics_statistics_only_where_asked(which: str, moves: bool) -> None:
    m = bench("dgmw", d_statistics=which).build()
    assert isinstance(m, Dgm)
    task = begin(m, 0)
    before = {k: v.clone() for k, v in m.critic.state_dict().items()}
    step = Step(TaskInfo(0, 0, 1, 1, (0, 1)), "gan", 0, 1, 0, 1)
    m.critic_loss(batch_for(m, task), step)
    m.generator_loss(batch_for(m, task), step)
    moved = any(not same(v, m.critic.state_dict()[k]) for k, v in before.items() if "running" in k)
    assert moved is moves
    m.class_loss(Batch(torch.rand(6, 1, 8, 8), torch.zeros(6).long(), {}), step)
    assert any(not same(v, m.critic.state_dict()[k]) for k, v in before.items() if "running" in k)


@pytest.mark.parametrize("reset", [True, False])
@pytest.mark.parametrize("reinit", [True, False])
def test_the_critic_starts_afresh_as_asked(reinit: bool, reset: bool) -> None:
    m = bench("dgmw", reinit_d=reinit, reset_statistics=reset).build()
    assert isinstance(m, Dgm)
    task = begin(m, 0)
    m.critic_loss(batch_for(m, task), Step(TaskInfo(0, 0, 1, 1, (0, 1)), "gan", 0, 1, 0, 1))
    before = {k: v.clone() for k, v in m.critic.state_dict().items()}
    m.generator.freeze([e.detach() >= 0 for e in m.generator.embeddings])
    begin(m, 1)
    after = m.critic.state_dict()
    assert same(before["trunk.blocks.0.weight"], after["trunk.blocks.0.weight"]) is not reinit
    assert not same(before["adversarial.weight"], after["adversarial.weight"])
    statistics = [k for k in before if "running_" in k]
    assert statistics
    fresh = reinit and reset
    assert all(same(before[k], after[k]) is not fresh for k in statistics)
    assert m.critic.classes.n_outputs == 2
    assert torch.equal(before["classes.parts.0.weight"], after["classes.parts.0.weight"][:1]) is not reinit


def test_wasserstein_loss_is_the_difference_of_means() -> None:
    assert gan.wasserstein(torch.tensor([1.0, 3.0]), torch.tensor([5.0])).item() == 3.0


@pytest.mark.parametrize("norm", [0.0, 0.5, 1.0, 3.0])
def test_gradient_penalty_of_a_linear_critic_in_closed_form(norm: float) -> None:
    g = torch.Generator().manual_seed(0)
    w = torch.randn(1, 4, 4, generator=g)
    w = w / w.norm() * norm
    real, fake, u = (torch.rand(s, generator=g) for s in ((5, 1, 4, 4), (5, 1, 4, 4), (5, 1, 1, 1)))
    found = gan.gradient_penalty(partial(gan.input_gradient, lambda x: (x * w).sum((1, 2, 3))), real, fake, u)
    assert found.item() == pytest.approx((norm - 1) ** 2, abs=1e-5)


def test_gradient_penalty_of_a_quadratic_critic_and_its_gradient() -> None:
    # a(x) = c |x|^2 / 2 has gradient c x, at x^ = u x + (1 - u) x~.
    g = torch.Generator().manual_seed(1)
    c = torch.tensor(1.7, dtype=torch.float64, requires_grad=True)
    real, fake = (torch.randn(4, 1, 2, 2, generator=g, dtype=torch.float64) for _ in range(2))
    u = torch.rand(4, 1, 1, 1, generator=g, dtype=torch.float64)
    found = gan.gradient_penalty(
        partial(gan.input_gradient, lambda x: c * x.flatten(1).square().sum(1) / 2), real, fake, u
    )
    n = (u * real + (1 - u) * fake).flatten(1).norm(dim=1)
    assert found.item() == pytest.approx(((c.detach() * n - 1) ** 2).mean().item(), rel=1e-9)
    (grad,) = torch.autograd.grad(found, c)
    assert grad.item() == pytest.approx((2 * (c.detach() * n - 1) * n).mean().item(), rel=1e-9)


def test_gradient_penalty_is_finite_at_a_flat_critic() -> None:
    w = torch.zeros(4, requires_grad=True)
    found = gan.gradient_penalty(
        partial(gan.input_gradient, lambda x: x.flatten(1) @ w),
        torch.ones(3, 1, 2, 2),
        torch.zeros(3, 1, 2, 2),
        torch.rand(3, 1, 1, 1),
    )
    (grad,) = torch.autograd.grad(found, w)
    assert found.item() == pytest.approx(1.0, abs=1e-5)
    assert torch.isfinite(grad).all()


@pytest.mark.parametrize("network", [Dcgan8(n_d=4, n_z=16), Mlp((16,))])
def test_gradient_of_a_critic_without_norm_has_the_bits_of_autograd(network: Network) -> None:
    critic = gan.Critic(Context(network, (1, 8, 8), 2, "class", 0), "none", 0)
    g = torch.Generator().manual_seed(0)
    real, fake, u = (torch.rand(s, generator=g) for s in ((5, 1, 8, 8), (5, 1, 8, 8), (5, 1, 1, 1)))
    moved = [*critic.trunk.parameters(), critic.adversarial.weight]
    found = []
    for gradient in (critic.gradient, partial(gan.input_gradient, critic.score)):
        loss = gan.gradient_penalty(gradient, real, fake, u) + gan.wasserstein(
            critic.score(real), critic.score(fake)
        )
        found.append(torch.autograd.grad(loss, moved))
    for ours, autograd in zip(*found, strict=True):
        assert torch.equal(ours, autograd)
        assert ours.any()


def test_losses_against_their_formula() -> None:
    m = bench(
        "dgmw", lambda_gp=0.7, lambda_adv=1.3, g_class_weight=0.4, d_class_on_fake=True, critic_norm="none"
    ).build()
    assert isinstance(m, Dgm)
    task = begin(m, 0)
    begin_second = TaskInfo(1, 1, 2, 2, (0, 2))
    m.generator.freeze([torch.arange(e.numel()).view_as(e) % 3 == 0 for e in m.generator.embeddings])
    begin(m, 1)
    step, batch = Step(TaskInfo(1, 1, 2, 2, (0, 2)), "gan", 2, 4, 1, 3), batch_for(m, begin_second)
    assert task.index == 0
    assert sum(int(m.generator.reserved[i].sum()) for i in range(2)) > 0
    m.generator.eval()
    s = m.slopes(step)[0]
    fake = m.generator(m.condition(batch.noise["z"], batch.y, 1), 1, m.generator.soft_gates(s)).detach()
    terms = m.critic_loss(batch, step)
    score = m.critic.score
    assert terms["wasserstein"].item() == pytest.approx(
        (score(fake).mean() - score(batch.x).mean()).item(), abs=1e-6
    )
    between = (batch.noise["u"] * batch.x + (1 - batch.noise["u"]) * fake).requires_grad_(True)
    norms = [torch.autograd.grad(score(x[None]).sum(), x)[0].norm() for x in between.unbind(0)]
    penalty = torch.stack([(n - 1) ** 2 for n in norms]).mean()
    assert terms["penalty"].item() == pytest.approx(0.7 * penalty.item(), rel=1e-4)
    ce = nn.functional.cross_entropy(m.critic.classify(fake), batch.y)
    assert terms["ce_fake"].item() == pytest.approx(ce.item(), rel=1e-5)
    g_terms = m.generator_loss(batch, step)
    assert g_terms["adversarial"].item() == pytest.approx(
        -1.3 * score(fake).mean().item(), rel=1e-4, abs=1e-7
    )
    assert g_terms["class"].item() == pytest.approx(0.4 * ce.item(), rel=1e-5)
    assert g_terms["sparsity"].item() == pytest.approx(m.config.lambda_ru * 1.0 * 0.5)


def test_the_class_term_of_a_task_of_one_class_learns_generated_old_classes() -> None:
    w = watch(bench("dgmw", (1, 1, 1), "separate", g_class_weight=0.5, class_on_old=True, solver_samples=7))
    labels = [pools["old"].y.tolist() for _, phase, _, pools in w.pools if phase == "gan" and pools]
    assert labels == [[0] * 7, [0] * 7 + [1] * 7]


def test_feature_matching_is_the_distance_of_mean_features_and_moves_the_generator_only() -> None:
    m = bench("dgmw", feature_matching=0.7, critic_norm="none").build()
    assert isinstance(m, Dgm)
    task = begin(m, 0)
    m.generator.eval()
    step, batch = Step(task, "gan", 0, 4, 0, 3), batch_for(m, task)
    s = m.slopes(step)[0]
    fake = m.generator(m.condition(batch.noise["z"], batch.y, 0), 0, m.generator.soft_gates(s)).detach()
    away = m.critic.trunk(fake).mean(0) - m.critic.trunk(batch.x).mean(0)
    assert m.generator_loss(batch, step)["features"].item() == pytest.approx(
        0.7 * away.square().sum().item(), rel=1e-5
    )


def test_a_lazy_penalty_comes_every_third_step_at_three_times_its_weight() -> None:
    m = bench("dgmw", penalty_every=3, critic_norm="none").build()
    each = bench("dgmw", critic_norm="none").build()
    assert isinstance(m, Dgm)
    assert isinstance(each, Dgm)
    task = begin(m, 0)
    begin(each, 0)
    batch = batch_for(m, task)
    found = [m.critic_loss(batch, Step(task, "gan", 0, 4, i, 5)).get("penalty") for i in range(5)]
    assert [p is None for p in found] == [False, True, True, False, True]
    usual = each.critic_loss(batch, Step(task, "gan", 0, 4, 0, 5))["penalty"]
    assert found[0] is not None
    assert found[0].item() == pytest.approx(3 * usual.item(), rel=1e-5)


def test_the_schedule_is_that_of_both_players() -> None:
    m = bench("dgmw", schedule="cosine", lr_d=0.1, lr_g=0.2).build()
    players = m.players(begin(m, 0), "gan")
    rates = {name: player.optimiser.rate(1, 2) for name, player in players.items()}
    assert rates == {"critic": pytest.approx(0.05), "generator": pytest.approx(0.1)}


def test_the_class_term_of_the_generator_follows_the_number_of_classes() -> None:
    m = bench("dgmw").build()
    assert isinstance(m, Dgm)
    assert m.class_weight(TaskInfo(0, 0, 1, 1, (0, 1))) == 0.0
    assert m.class_weight(TaskInfo(0, 0, 2, 2, (0, 2))) == 1.0


# The separate solver ------------------------------------------------------------------------------
@pytest.mark.parametrize("data", ["generated", "mixed"])
def test_a_separate_solver_sees_all_classes_evenly(data: str) -> None:
    w = watched("dgmw", (2, 1, 2), "separate", (("solver_data", data),))
    solver = [(task, pools["solver"]) for task, phase, _, pools in w.pools if phase == "solver"]
    assert [task for task, _ in solver] == [0, 0, 1, 1, 2, 2]  # new samples in every epoch
    stops = [2, 3, 5]
    images = torch.cat([w.session.stream.train(t).x for t in range(3)])
    real = w.method.context.network.normalise(images).flatten(1)
    for task, pool in solver:
        if data == "generated":
            assert pool.y.bincount(minlength=stops[task]).tolist() == [8] * stops[task]
            assert torch.cdist(pool.x.flatten(1), real).min() > 0.01
        else:
            first = stops[task - 1] if task else 0
            assert pool.y[pool.y < first].bincount(minlength=first).tolist() == [8] * first
            new = pool.y >= first
            assert int(new.sum()) == 8 * (stops[task] - first)
            assert (
                torch.cdist(pool.x[new].flatten(1), real, compute_mode="donot_use_mm_for_euclid_dist")
                .min(1)
                .values.max()
                < 1e-5
            )
    assert w.method.critic.classes.n_outputs == 5


@pytest.mark.parametrize(("start", "kept"), [("fresh", False), ("continue", True)])
def test_a_separate_solver_starts_as_asked(start: str, kept: bool) -> None:
    m = bench("dgmw", variant="separate", solver_start=start).build()
    assert isinstance(m, Dgm)
    begin(m, 0)
    before = {k: v.clone() for k, v in m.solver.state_dict().items()}
    m.generator.freeze([e.detach() >= 0 for e in m.generator.embeddings])
    begin(m, 1)
    after = m.solver.state_dict()
    assert same(before["trunk.blocks.0.weight"], after["trunk.blocks.0.weight"]) is kept
    assert torch.equal(before["head.parts.0.weight"], after["head.parts.0.weight"][:1]) is kept
    assert after["head.parts.0.weight"].shape[0] == 2


def test_a_separate_solver_answers_and_the_critic_does_not() -> None:
    m = watched("dgmw", (2, 1, 2), "separate", (("solver_data", "generated"),)).method
    x = torch.randn(3, 1, 8, 8)
    before = m.predict(x)
    with torch.no_grad():
        for p in m.critic.parameters():
            p.add_(1.0)
    assert same(before, m.predict(x))
    assert m.facts()["solver"] == "separate (generated)"


def test_discriminants_are_those_of_what_the_generator_makes() -> None:
    m = watched("dgmw", (2, 1, 2), "discriminants").method
    assert isinstance(m, Dgm)
    assert m.discriminants is not None
    vectors = ScatteringVectors((1, 8, 8), 1, 2, "opponent", 1e-3)
    y = torch.arange(5).repeat_interleave(8)
    generator = m._noise("discriminants", 2)
    x = torch.cat([m.generate(labels, generator=generator) for labels in y.split(8)])
    f = vectors(m.context.network.to_pixels(x)).double()
    means = torch.stack([f[y == k].mean(0) for k in range(5)])
    sigma = (f - means[y]).T @ (f - means[y]) / 40
    sigma = 0.9 * sigma + 0.1 * sigma.diagonal().mean() * torch.eye(len(sigma))
    inverse = sigma.inverse()
    asked = torch.randn(3, 1, 8, 8, generator=torch.Generator().manual_seed(0)).clamp(-1, 1)
    z = vectors(m.context.network.to_pixels(asked)).double()
    scores = z @ inverse @ means.T - 0.5 * (means @ inverse * means).sum(1)
    found = m.predict(asked).double()
    torch.testing.assert_close(
        found - found[:, :1], scores - scores[:, :1], rtol=1e-3, atol=1e-3 * float(scores.abs().max())
    )
    assert m.facts()["solver"] == "discriminants"
    assert m.storage_bytes()["other"] == 4 * 5 * (vectors.n_features + 1)


def test_a_scattering_that_does_not_fit_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigError, match="at most 2 for images of 8x8, got 4"):
        bench("dgmw", variant="discriminants", solver_scales=4).build()
    monkeypatch.setattr(discriminants, "MEMORY", 1e-6)
    with pytest.raises(ConfigError, match="fewer solver_angles"):
        bench("dgmw", variant="discriminants").build()


@pytest.mark.parametrize("name", NAMES)
def test_a_hard_tail_trains_under_the_final_mask(name: str) -> None:
    found: list[tuple[int, list[Tensor], list[Tensor]]] = []

    def prepare(m: Any) -> None:
        loss = m.generator_loss

        def looked(batch: Batch, step: Step) -> Any:
            found.append(
                (
                    step.epoch,
                    [x.detach().clone() for x in m.gates(step)],
                    [e.detach().clone() for e in m.generator.embeddings],
                )
            )
            return loss(batch, step)

        m.generator_loss = looked

    b = bench(name, (1,), hard_tail=0.5)
    b.train(b.session(prepare=prepare))
    tail = [f for f in found if f[0] >= 2]
    assert len(tail) == len(found) // 2
    for _, gates, embeddings in tail:
        for g, e, last in zip(gates, embeddings, tail[-1][2], strict=True):
            assert torch.equal(g, (e >= 0).float())
            assert torch.equal(e, last)  # gates rest, only weights move
    assert not all(set(g.unique().tolist()) <= {0.0, 1.0} for g in found[0][1])


def test_reestimated_statistics_are_those_of_the_binary_mask() -> None:
    w = watched("dgmw", (1, 1), more=(("bn_reestimate", 3),))
    m, g = w.method, w.method.generator
    for task in range(2):
        noise = seeds.generator(0, "statistics", task)
        means = []
        for _ in range(3):
            z = torch.randn((6, 16), generator=noise)
            y = torch.randint(task, task + 1, (6,), generator=noise)
            gates = g.binary_gates(task)
            a, _ = g.widths[task]
            weight = g.weights[0][:, :a].detach() * gates[0]
            h = nn.functional.conv_transpose2d(m.condition(z, y, task)[:, :, None, None], weight)
            means.append(h.mean((0, 2, 3)))
        assert torch.allclose(g.norms[task][0].running_mean, torch.stack(means).mean(0), atol=1e-6)  # type: ignore[index]


# Parts --------------------------------------------------------------------------------------------
def test_weight_average_by_hand() -> None:
    p = {"a": nn.Parameter(torch.tensor([0.0, 10.0])), "b": nn.Parameter(torch.tensor([1.0]))}
    average = WeightAverage()
    average.start(p)
    expected = torch.tensor([0.0, 10.0])
    for n in range(1, 8):
        with torch.no_grad():
            p["a"].add_(1.0)
        average.update(p, 0.3)
        decay = min(0.3, (1 + n) / (10 + n))
        expected = decay * expected + (1 - decay) * p["a"].detach()
    last = p["a"].detach().clone()
    average.finish(p, {"a": torch.tensor([False, True])})
    assert p["a"][0].item() == pytest.approx(expected[0].item(), rel=1e-5)
    assert p["a"][1].item() == last[1].item()
    assert p["b"].item() == 1.0
    assert average.keys == []
    assert list(average.state_dict()) == ["count"]


def test_weight_average_is_state_in_the_order_of_its_parameters() -> None:
    p = {"z": nn.Parameter(torch.ones(2)), "a": nn.Parameter(torch.ones(3))}
    average, other = WeightAverage(), WeightAverage()
    average.start(p)
    average.update(p, 0.5)
    other.rebuild(average.structure())
    other.load_state_dict(average.state_dict(), strict=True)
    assert other.keys == ["z", "a"]
    assert int(other.get_buffer("count")) == 1


def test_kept_statistics_use_the_batch_and_leave_the_running_ones() -> None:
    bn = nn.BatchNorm2d(2)
    x = torch.randn(5, 2, 3, 3) * 3 + 1
    before = {k: v.clone() for k, v in bn.state_dict().items()}
    with kept_statistics(bn):
        y = bn(x)
    assert all(same(v, bn.state_dict()[k]) for k, v in before.items())
    mean, var = x.mean((0, 2, 3)), x.var((0, 2, 3), unbiased=False)
    expected = (x - mean[:, None, None]) / (var[:, None, None] + bn.eps).sqrt()
    assert torch.allclose(y, expected, atol=1e-5)
    with kept_statistics(bn, active=False):
        bn(x)
    assert torch.allclose(bn.running_mean, 0.1 * mean, atol=1e-6)  # type: ignore[arg-type]
    assert torch.allclose(bn.running_var, 0.9 + 0.1 * x.var((0, 2, 3)), atol=1e-5)  # type: ignore[arg-type]


def test_kept_statistics_are_put_back_after_an_error() -> None:
    bn = nn.BatchNorm2d(2)
    with pytest.raises(KeyError), kept_statistics(bn):
        raise KeyError
    assert bn.track_running_stats
    assert bn.running_mean is not None


def test_reestimated_statistics_are_the_plain_mean_over_batches() -> None:
    bn = nn.BatchNorm2d(2)
    bn(torch.randn(4, 2, 3, 3) + 7)
    bn.eval()
    batches = [torch.randn(4, 2, 3, 3) * (i + 1) + i for i in range(3)]
    with reestimated_statistics(bn):
        for x in batches:
            bn(x)
    assert not bn.training
    assert bn.momentum == 0.1
    mean = torch.stack([x.mean((0, 2, 3)) for x in batches]).mean(0)
    var = torch.stack([x.var((0, 2, 3)) for x in batches]).mean(0)
    assert torch.allclose(bn.running_mean, mean, atol=1e-5)  # type: ignore[arg-type]
    assert torch.allclose(bn.running_var, var, rtol=1e-5)  # type: ignore[arg-type]


def test_moving_by_nothing_is_the_same_tensor() -> None:
    x = torch.rand(2, 1, 4, 4)
    assert shift_and_rotate(x, torch.rand(2, 3)) is x


def test_whole_shifts_repeat_the_border() -> None:
    x = torch.rand(3, 2, 5, 5)
    u = torch.tensor([[1.0, 0.5, 0.5], [0.5, 0.0, 0.5], [0.5, 0.5, 0.5]])
    y = shift_and_rotate(x, u, pixels=2)
    rows = torch.tensor([2, 3, 4, 4, 4])
    columns = torch.tensor([0, 0, 0, 1, 2])
    assert torch.allclose(y[0], x[0][:, rows], atol=1e-5)
    assert torch.allclose(y[1], x[1][:, :, columns], atol=1e-5)
    assert torch.allclose(y[2], x[2], atol=1e-5)


def test_a_quarter_turn_turns_the_image() -> None:
    x = torch.rand(2, 1, 6, 6)
    y = shift_and_rotate(x, torch.tensor([[0.5, 0.5, 1.0], [0.5, 0.5, 0.0]]), degrees=90)
    k = 1 if torch.allclose(y[0], torch.rot90(x[0], 1, (1, 2)), atol=1e-4) else -1
    assert torch.allclose(y[0], torch.rot90(x[0], k, (1, 2)), atol=1e-4)
    assert torch.allclose(y[1], torch.rot90(x[1], -k, (1, 2)), atol=1e-4)


def test_every_second_image_is_mirrored() -> None:
    x, augment = torch.rand(2, 3, 4, 4), Augmentation(mirror=True)
    assert [*augment.drawn((3, 4, 4))] == ["mirror"]
    y = augment(x, {"mirror": torch.tensor([0.4, 0.6]).view(2, 1, 1, 1)})
    assert torch.equal(y, torch.stack([x[0].flip(2), x[1]]))


def test_blur_noise_and_a_square() -> None:
    x, half = torch.rand(2, 3, 8, 8), torch.full((2, 1, 1, 1), 0.5)
    augment = Augmentation(blur=1, noise=0.4, cut=4)
    noise = {"blur": 2 * half, "loudness": half, "grain": torch.ones_like(x), "cut": torch.full((2, 2), 0.5)}
    assert {k: n.shape for k, n in augment.drawn((3, 8, 8)).items()} == {
        k: v.shape[1:] for k, v in noise.items()
    }
    y = augment(x, noise)
    corner = (
        9 * x[..., 0, 0] + 3 * (x[..., 0, 1] + x[..., 1, 0]) + x[..., 1, 1]
    ) / 16  # its border is repeated
    assert torch.allclose(y[..., 0, 0], corner + 0.2, atol=1e-6)
    square = torch.zeros(8, 8, dtype=torch.bool)
    square[2:6, 2:6] = True
    assert torch.equal(y == 0, square.expand_as(y))
    assert torch.equal(augment(x, noise | {"blur": 0 * half, "loudness": 0 * half})[..., 0, :], x[..., 0, :])


def test_a_square_larger_than_the_images_is_refused() -> None:
    with pytest.raises(
        ConfigError, match="solver_cut must be at most the shorter side of the images, 8, got 9"
    ):
        Augmentation(cut=9).check((1, 8, 16), "solver_")


def test_blur_by_products_is_blur_by_poolings() -> None:
    y = x = torch.rand(2, 3, 5, 9)
    for _ in range(4):
        y = nn.functional.pad(y, (1, 1, 1, 1), mode="replicate")
        y = nn.functional.avg_pool2d(nn.functional.avg_pool2d(y, 2, 1), 2, 1)
    assert torch.allclose(blurred(x, 4), y, atol=1e-6)


def test_new_colours_keep_the_shape_of_each_channel() -> None:
    x = torch.rand(2, 3, 4, 4)
    assert torch.allclose(recoloured(x, torch.full((2, 2, 3, 1, 1), 0.5), 0.5), x)
    u = torch.tensor([1.0, 0.0]).view(1, 2, 1, 1, 1).expand(2, 2, 3, 1, 1)  # most contrast, least brightness
    y = recoloured(x, u, 0.5)
    assert torch.allclose(
        y - y.mean((2, 3), keepdim=True), 1.5 * (x - x.mean((2, 3), keepdim=True)), atol=1e-6
    )
    moved = (x.mean((2, 3)) - y.mean((2, 3))) / x.std((1, 2, 3))[:, None]
    assert torch.allclose(moved, torch.full((2, 3), 0.5), atol=1e-5)


def test_stored_samples_need_a_fixed_replay_set() -> None:
    with pytest.raises(ConfigError, match="replay_refresh must be task or epoch"):
        DgmConfig(replay_refresh="step", memory_ratio=0.5)


def test_a_budget_below_one_sample_a_class_is_refused() -> None:
    b = bench("dgmw", (1, 1, 1), memory_budget=2)
    with pytest.raises(ConfigError, match="at least one sample for each of the 3 classes"):
        b.train()
