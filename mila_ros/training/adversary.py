"""The adversary: a critic tells slow features from fast ones, and the fast network learns to fool it.

Source: Kim et al., ICCVW 2021 (adversarial training for MILA). Stabilised as usual: patches instead of whole pictures
(Isola et al. 2017), hinge loss and spectral normalisation (Miyato et al. 2018), features scaled by the slow ones' own
spread, the fast network's share rising slowly.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.utils.parametrizations import spectral_norm


class PatchCritic(nn.Module):
    """Scores of overlapping patches, high for slow features: (B, C, H, W) -> (B, 1, H / 4, W / 4)."""

    def __init__(self, channels: int, width: int = 64) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            spectral_norm(nn.Conv2d(channels, width, 3, stride=2, padding=1)),
            nn.LeakyReLU(0.2),
            spectral_norm(nn.Conv2d(width, width, 3, stride=2, padding=1)),
            nn.LeakyReLU(0.2),
            spectral_norm(nn.Conv2d(width, 1, 3, padding=1)),
        )

    def forward(self, features: Tensor) -> Tensor:
        return self.layers(features)


def adversarial_losses(critic: PatchCritic, slow: Tensor, fast: Tensor) -> tuple[Tensor, Tensor]:
    """What the critic minimises, and what the fast network does.

    The gradient of the first reaches only the critic, that of the second only `fast`.

    Args:
        critic: of (B, C, H, W) features.
        slow, fast: (B, C, H, W).
    """
    scale = slow.detach().float().std().clamp(min=1e-6)
    real, made = slow.detach().float() / scale, fast.float() / scale
    verdict = F.relu(1 - critic(real)).mean() + F.relu(1 + critic(made.detach())).mean()
    fixed = {name: parameter.detach() for name, parameter in critic.named_parameters()}
    fooled = -functional_call(critic, fixed, (made,)).mean()
    return verdict, fooled


def rising(step: int, steps: int) -> float:
    """0 at the first step, 1 from `steps` on: no fast network learns from a critic that knows nothing yet."""
    return 1.0 if steps <= 0 else min(1.0, step / steps)
