"""What a camera makes of the light: exposure, white balance, vignetting, blur, noise, a tone curve, eight bits."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

Random = np.random.Generator


@dataclass
class Sensor:
    """Settings of B cameras, (B,) each unless said otherwise."""

    brightness: Tensor
    """Linear value to which the middle of the picture is exposed."""
    balance: Tensor
    """(B, 3), gains of red, green and blue."""
    vignetting: Tensor
    """Share of light lost in the corners."""
    blur: Tensor
    """Standard deviation in pixels of a picture 320 wide."""
    shot: Tensor
    """Variance of the noise at full scale."""
    read: Tensor
    """Standard deviation of the noise in the dark."""
    contrast: Tensor
    saturation: Tensor

    @staticmethod
    def draw(rngs: list[Random], device: torch.device, clean: bool = False) -> Sensor:
        """Random cameras, or well-set ones with little noise if clean."""
        rows = []
        for rng in rngs:
            if clean:
                rows.append([0.16, 1.0, 1.0, 1.0, 0.1, 0.1, 2e-6, 0.0003, 1.1, 1.05])
                continue
            warm, green = rng.normal(0, 0.12), rng.normal(0, 0.04)
            rows.append(
                [
                    0.17 * np.exp(rng.normal(0, 0.45)),
                    np.exp(warm),
                    np.exp(green),
                    np.exp(-warm),
                    rng.uniform(0, 0.35),
                    rng.uniform(0.0, 0.8),
                    10 ** rng.uniform(-5, -3),
                    10 ** rng.uniform(-3.3, -2),
                    rng.uniform(0.9, 1.5),
                    rng.uniform(0.75, 1.3),
                ]
            )
        t = torch.tensor(np.array(rows), dtype=torch.float32, device=device)
        return Sensor(t[:, 0], t[:, 1:4], t[:, 4], t[:, 5], t[:, 6], t[:, 7], t[:, 8], t[:, 9])

    def exposure(self, radiance: Tensor) -> Tensor:
        """Gains (B,) for radiance (B, N, 3, H, W): what an exposure meter would choose for the whole clip."""
        luminance = radiance.mean(2).flatten(1).clamp_min(1e-4)
        return self.brightness / luminance.log().mean(1).exp()


def develop(radiance: Tensor, camera: Tensor, sensor: Sensor, gain: Tensor, generator: torch.Generator) -> Tensor:
    """Pictures uint8 (F, 3, H, W), sRGB, of linear radiance (F, 3, H, W).

    Args:
        radiance: light.
        camera: (F,), which camera of the sensor took each frame.
        sensor: its settings.
        gain: (B,), from `Sensor.exposure`.
        generator: for the noise; on the device of radiance.
    """
    f, _, h, w = radiance.shape
    device = radiance.device

    def of(x: Tensor) -> Tensor:
        return x[camera].view(f, -1, 1, 1)

    y = torch.linspace(-1, 1, h, device=device)[:, None]
    x = torch.linspace(-1, 1, w, device=device)[None]
    fall = 1 - of(sensor.vignetting) * (x * x + y * y) / 2
    light = radiance * of(gain) * of(sensor.balance) * fall
    light = _blurred(light, sensor.blur[camera] * w / 320)
    sigma = (of(sensor.shot) * light.clamp(0, 1) + of(sensor.read) ** 2).sqrt()
    light = light + sigma * torch.randn(light.shape, device=device, generator=generator)
    grey = light.mean(1, keepdim=True)
    light = (grey + of(sensor.saturation) * (light - grey)).clamp_min(0)
    # A shoulder: straight below a half, then bending towards white.
    light = torch.where(light < 0.5, light, 0.5 + 0.5 * (1 - torch.exp(-(light - 0.5) / 0.5)))
    screen = torch.where(light < 0.0031308, 12.92 * light, 1.055 * light.clamp_min(1e-6) ** (1 / 2.4) - 0.055)
    screen = 0.45 + (screen - 0.45) * of(sensor.contrast)
    return (screen * 255 + 0.5).clamp(0, 255).to(torch.uint8)


def _blurred(image: Tensor, sigma: Tensor) -> Tensor:
    """Gaussian blur with a standard deviation (F,) a frame, in windows of 5 pixels."""
    offsets = torch.arange(-2, 3, device=image.device, dtype=image.dtype)
    weights = torch.exp(-0.5 * (offsets / sigma.clamp_min(1e-3)[:, None]) ** 2)
    shares = (weights / weights.sum(1, keepdim=True)).unbind(1)
    h, w = image.shape[-2:]
    wide = torch.nn.functional.pad(image, (2, 2, 0, 0), mode="replicate")
    across = sum((shares[k].view(-1, 1, 1, 1) * wide[..., k : k + w] for k in range(5)), torch.zeros_like(image))
    tall = torch.nn.functional.pad(across, (0, 0, 2, 2), mode="replicate")
    return sum((shares[k].view(-1, 1, 1, 1) * tall[..., k : k + h, :] for k in range(5)), torch.zeros_like(image))
