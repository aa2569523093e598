"""Prodigy: Adam that finds the size of its steps itself (Mishchenko and Defazio, 2023; oracle prodigyopt 1.1)."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn

FIRST_SIZE = 1e-6


class Prodigy(torch.optim.Optimizer):
    """Adam whose steps have the size lr * d; d grows to the distance that the parameters have to go.

    Args:
        lr: multiplies d; 1 unless a schedule lowers it.
        weight_decay: decoupled, as in AdamW.
        safe_warmup: whether the estimate of d leaves lr out, so that a warm-up cannot blow it up.
    """

    def __init__(
        self,
        params: Iterable[nn.Parameter],
        lr: float = 1.0,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        safe_warmup: bool = True,
    ) -> None:
        if lr < 0 or eps <= 0 or not all(0 <= beta < 1 for beta in betas):
            raise ValueError(
                f"Prodigy: expected lr of at least 0, eps above 0 and betas in 0 .. 1, got {lr}, {eps}, {betas}"
            )
        defaults = dict(lr=lr, betas=betas, eps=eps, weight_decay=weight_decay, safe_warmup=safe_warmup)
        super().__init__(params, {**defaults, "d": FIRST_SIZE, "d_max": FIRST_SIZE, "d_numerator": 0.0})
        if len(self.param_groups) != 1:
            raise ValueError("Prodigy finds one size for all parameters: give them in one group")

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """One step with the gradients that are there."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        group = self.param_groups[0]
        parameters = [parameter for parameter in group["params"] if parameter.grad is not None]
        if not parameters:
            return loss
        rate = group["d"] * group["lr"]  # steps are made with the size from before this step's estimate
        if self._estimate(group, parameters, rate):
            for parameter in parameters:
                self._move(group, parameter, rate)
        return loss

    def _estimate(self, group: dict[str, Any], parameters: list[nn.Parameter], rate: float) -> bool:
        """Take in the gradients and let d grow; False if all of them were ever zero."""
        beta3 = math.sqrt(group["betas"][1])
        found = [self._take_in(group, parameter, rate, beta3) for parameter in parameters]
        if group["lr"] > 0:
            numerator = beta3 * group["d_numerator"] + float(torch.stack([row[0] for row in found]).sum())
            denominator = float(torch.stack([row[1] for row in found]).sum())
            if denominator == 0:
                return False
            distance = numerator / denominator
            if group["d"] == FIRST_SIZE:
                group["d"] = max(group["d"], distance)
            group["d_max"] = max(group["d_max"], distance)
            group["d"], group["d_numerator"] = group["d_max"], numerator
        return bool(group["lr"] > 0)

    def _take_in(
        self, group: dict[str, Any], parameter: nn.Parameter, rate: float, beta3: float
    ) -> tuple[Tensor, Tensor]:
        """Update the moments of one parameter; what it adds to numerator and denominator of d, float64 []."""
        gradient = parameter.grad
        assert gradient is not None
        state, d = self._state(parameter), group["d"]
        beta1, beta2 = group["betas"]
        scale = d / FIRST_SIZE  # the bare d would make numbers too small for fp32
        gone = state["start"] - parameter
        numerator = torch.dot(gradient.flatten(), gone.flatten()).double() * (scale * rate)
        if group["lr"] > 0:
            state["exp_avg"].mul_(beta1).add_(gradient, alpha=d * (1 - beta1))
            state["exp_avg_sq"].mul_(beta2).addcmul_(gradient, gradient, value=d * d * (1 - beta2))
            state["sum"].mul_(beta3).add_(gradient, alpha=scale * (d if group["safe_warmup"] else rate))
        return numerator, state["sum"].abs().sum().double()

    def _state(self, parameter: nn.Parameter) -> dict[str, Tensor]:
        state: dict[str, Tensor] = self.state[parameter]
        if not state:
            zero = bool((parameter == 0).all())  # then one zero is enough
            state["start"] = parameter.new_zeros(()) if zero else parameter.detach().clone()
            for name in ("exp_avg", "exp_avg_sq", "sum"):
                state[name] = torch.zeros_like(parameter)
        return state

    def _move(self, group: dict[str, Any], parameter: nn.Parameter, rate: float) -> None:
        state = self.state[parameter]
        if group["weight_decay"]:
            parameter.mul_(1 - group["weight_decay"] * rate)
        spread = state["exp_avg_sq"].sqrt().add_(group["d"] * group["eps"])
        parameter.addcdiv_(state["exp_avg"], spread, value=-rate)
