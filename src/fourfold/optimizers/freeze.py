"""Parameters that a search leaves as they are, by name pattern."""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from fourfold.core.errors import UserError
from fourfold.core.parameters import matching


class Frozen:
    """The frozen part of a model: no gradients, and its batch normalizations keep their moments."""

    def __init__(self, model: nn.Module, patterns: Sequence[str]) -> None:
        """Freeze.

        Args:
            model: changed in place.
            patterns: as `core.parameters.matching` takes them; none freeze nothing.

        Raises:
            UserError: a pattern matches no parameter, or all of them are frozen.
        """
        self.model = model
        self.names = tuple(matching(model, patterns))
        if patterns:
            for parameter in matching(model, patterns).values():
                parameter.requires_grad_(False)
            if not any(p.requires_grad for p in model.parameters()):
                raise UserError(f"--freeze {' '.join(patterns)}: leaves nothing to search")
        # a layer whose own parameters stay must not move by its running moments either
        self._still = [
            module
            for module in model.modules()
            if isinstance(module, _BatchNorm) and self.names and _is_frozen(module)
        ]

    def still(self) -> set[str]:
        """Entries of the model's state that no step changes: its frozen parameters, whoever froze them, and `constant` buffers."""
        every = self.model.named_parameters(remove_duplicate=False)
        names = {n for n, p in every if not p.requires_grad}
        for place, module in self.model.named_modules():
            for name in getattr(module, "constant", ()):
                names.add(f"{place}.{name}" if place else name)
        return names & set(self.model.state_dict())

    def train(self) -> None:
        """The model in training mode, but for what is frozen of it."""
        self.model.train()
        for module in self._still:
            module.eval()


def _is_frozen(module: nn.Module) -> bool:
    own = list(module.parameters(recurse=False))
    return bool(own) and not any(p.requires_grad for p in own)
