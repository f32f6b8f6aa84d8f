"""A model at work on a batch: every module call and every operation, with what flows between them.

    steps = trace(model, objective, batch)

Module calls are seen by hooks. What flows between them is read from autograd's own graph, which knows
every differentiable operation, own autograd functions included: an operation belongs to the call that
was running when its node got its sequence number. What has no gradient (token numbers, everything
under no_grad) is followed by the identity of its tensors, from call to call.

Shapes: B examples. Statistics are those of evaluation mode: no dropout, stored moments.
"""

from __future__ import annotations

import contextlib
import copy
import math
from collections.abc import Callable, Iterator

import torch
from torch import nn

from fourfold.core.errors import UserError
from fourfold.core.parts import Batch, Move, Objective
from fourfold.look.modules import Step
from fourfold.look.modules_graph import Builder
from fourfold.look.modules_record import Inputs, Recorder, with_gradients, without_gradients


def trace(model: nn.Module, objective: Objective, batch: Batch, *, seed: int = 0) -> list[Step]:
    """Run a batch through objective and model, forward and backward, and write down what happens.

    Args:
        model: any module, on its device; weights, buffers, gradients and modes stay as they were.
        objective: prepared for the run.
        batch: on the model's device.
        seed: of noise that is drawn on the way.

    Returns:
        One step for each move of the objective.

    Raises:
        UserError: nothing in the batch counts.
    """
    try:
        return _traced(model, objective, batch, seed, with_gradients)
    except RuntimeError as error:
        if "requires grad" not in str(error):
            raise
        # something on the way takes only inputs without a gradient, as NumPy does
        steps = _traced(model, objective, batch, seed, without_gradients)
        for step in steps:
            step.notes.append(f"The batch itself is followed without gradients ({error}).")
        return steps


def _traced(
    model: nn.Module,
    objective: Objective,
    batch: Batch,
    seed: int,
    prepared: Callable[[Batch], Inputs],
) -> list[Step]:
    device = next((p.device for p in model.parameters()), torch.device("cpu"))
    devices = [device] if device.type == "cuda" else []
    trained = {id(p) for p in model.parameters() if p.requires_grad}
    steps: list[Step] = []
    with _evaluating(model, objective), torch.random.fork_rng(devices=devices):
        with torch.enable_grad():
            torch.manual_seed(seed)
            for _ in objective.losses(model, prepared(batch).given):
                pass  # what is made on first use must not count as the model's time
            torch.manual_seed(seed)
            inputs = prepared(batch)
            with Recorder(model, inputs, device) as recorder:
                for move in objective.losses(model, inputs.given):
                    steps.append(_step(model, move, recorder, trained))
                    recorder.clear()
    return steps


@contextlib.contextmanager
def _evaluating(model: nn.Module, objective: Objective) -> Iterator[None]:
    """Evaluation mode and gradients for every parameter; all is put back, the objective's state too."""
    modes = [(m, m.training) for m in model.modules()]
    frozen = [p for p in model.parameters() if not p.requires_grad and p.is_floating_point()]
    state = copy.deepcopy(objective.state_dict())
    model.eval()
    for parameter in frozen:  # or autograd would not see what it does
        parameter.requires_grad_(True)
    try:
        yield
    finally:
        for parameter in frozen:
            parameter.requires_grad_(False)
        for module, mode in modes:
            module.training = mode
        if state:
            objective.load_state_dict(state)


def _step(model: nn.Module, move: Move, recorder: Recorder, trained: set[int]) -> Step:
    """The graph of a move, then its gradients."""
    weight = float(move.weight)
    if weight <= 0:
        raise UserError(
            "nothing in this batch counts: its weight is 0, so there is no loss to explain"
        )
    calls = recorder.calls
    atoms, flows, notes = Builder(model, move, recorder).build()
    player = model if move.player == "model" else model.get_submodule(move.player)
    wanted = [p for p in player.parameters() if p.requires_grad]
    # the batch is asked for too, so that a gradient flows through all of the model
    leaves = list(recorder.inputs.leaves.values())
    if move.loss.requires_grad and (wanted or leaves):
        recorder.backward = True
        found = torch.autograd.grad(
            move.loss / weight, [*wanted, *leaves], allow_unused=True, retain_graph=True
        )
        recorder.backward = False
        squares = {
            id(p): float(g.detach().double().square().sum())
            for p, g in zip(wanted, found, strict=False)
            if g is not None and id(p) in trained
        }
        for call in calls:
            own = [squares[id(p)] for p in call.module.parameters() if id(p) in squares]
            call.weight_gradient = math.sqrt(math.fsum(own)) if own else math.nan
    return Step(move.player, float(move.loss.detach()) / weight, weight, calls, atoms, flows, notes)
