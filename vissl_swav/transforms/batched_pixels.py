"""The colour steps of multi-crop on many crops at once, each with its own parameters.

Crops are (N, S, C, S) as in ``batched_resampling``, float32 levels that stay within 0
and 255 after every step.  What 8 bits would round is not rounded.  The steps change
their first argument; crops of one channel have no colour to change.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from vissl_swav.transforms.batched_draws import BatchedCrops, send
from vissl_swav.transforms.crop_parameters import JITTER_STEPS
from vissl_swav.transforms.image_input import LUMA

MAX_LEVEL = 255
# ITU-R 601, as Pillow's.
_BLENDS = JITTER_STEPS[:3]
# Of red, green and blue, in turns of six: see `shift_hue`.
_HUE_CENTRE, _HUE_SIGN, _HUE_OFFSET = (3, 2, 4), (1, -1, -1), (-1, 2, 2)


@dataclass(frozen=True, kw_only=True)
class JitterSlots:
    """Jitter in one order that holds every order: blends, the hue, blends.

    Brightness, contrast and saturation are one operation, a blend with black, with the
    mean grey or with the grey image.  So a crop whose hue comes second has its first
    blend in the first half of the slots and the others in the second; the slots that it
    leaves empty have no weight and change nothing.

    Attributes:
        before_hue: how many of the J slots come before the hue.
        weight: of what is blended in (N, J), 1 - factor; 0 in an empty slot.
        mean: 1 where that is the mean grey (N, J).
        grey: 1 where that is the grey image (N, J).
        turns: hue's shift (N,).
    """

    before_hue: int
    weight: Tensor
    mean: Tensor
    grey: Tensor
    turns: Tensor

    def take(self, rows: slice) -> JitterSlots:
        """Those of these rows."""
        parts = (self.weight, self.mean, self.grey, self.turns)
        return self._with([part[rows] for part in parts])

    def to(self, device: torch.device) -> JitterSlots:
        """The same on another device."""
        parts = (self.weight, self.mean, self.grey, self.turns)
        return self._with([send(part, device) for part in parts])

    def _with(self, parts: Sequence[Tensor]) -> JitterSlots:
        weight, mean, grey, turns = parts
        return JitterSlots(
            before_hue=self.before_hue, weight=weight, mean=mean, grey=grey, turns=turns
        )


def jitter_slots(crops: BatchedCrops) -> JitterSlots:
    """Sort the drawn jitter steps into slots."""
    blends, hue = crops.group.jitter[:3], crops.group.jitter[3]
    active = sum(strength > 0 for strength in blends)
    before_hue = active if hue > 0 else 0
    place, factor = crops.jitter_place[:, :3], crops.jitter_factor[:, :3]
    hue_place = crops.jitter_place[:, 3:]
    slot = torch.where(place < hue_place, place, before_hue + place - hue_place - 1)
    slot = slot.masked_fill(place < 0, -1)
    slots = torch.arange(before_hue + active, device=slot.device)
    taken = (slot[:, None, :] == slots[:, None]).float()
    # Towards zero and in steps of 1 / 255, as the reference's.
    turns = (crops.jitter_factor[:, 3] * MAX_LEVEL).trunc() / MAX_LEVEL
    return JitterSlots(
        before_hue=before_hue,
        weight=(taken * (1.0 - factor[:, None, :]).float()).sum(dim=2),
        mean=taken[:, :, _BLENDS.index("contrast")],
        grey=taken[:, :, _BLENDS.index("saturation")],
        turns=turns.float(),
    )


def some(flags: Tensor) -> bool:
    """Whether any is set; yes where only a device knows, which is not waited for."""
    return flags.is_cuda or bool(flags.any())


def jitter(crops: Tensor, slots: JitterSlots, *, known: JitterSlots) -> Tensor:
    """All jitter steps.

    Args:
        crops: (N, S, C, S).
        slots: on the crops' device.
        known: the same where they were drawn; tells there what can be left out.
    """
    num_slots = slots.weight.shape[1]
    for slot in range(num_slots + 1):
        if slot == slots.before_hue and some(known.turns != 0):
            crops = shift_hue(crops, slots.turns)
        if slot < num_slots and some(known.weight[:, slot] != 0):
            weight, mean, grey = slots.weight, slots.mean, slots.grey
            blend(crops, weight[:, slot], mean=mean[:, slot], grey=grey[:, slot])
    return crops


def blend(crops: Tensor, weight: Tensor, *, mean: Tensor, grey: Tensor) -> Tensor:
    """Blend with black, or with each crop's mean grey, or with its grey image.

    Args:
        crops: (N, S, C, S).
        weight: of what is blended in, 1 - factor (N,): negative for factors above 1.
        mean: 1 for the mean grey: contrast (N,).
        grey: 1 for the grey image: saturation (N,).
    """
    luma = _luma(crops)
    flat = luma.mean(dim=(1, 2, 3), keepdim=True).mul_(_each(mean))
    target = torch.addcmul(flat, luma, _each(grey))
    return crops.lerp_(target, _each(weight)).clamp_(0, MAX_LEVEL)


def shift_hue(crops: Tensor, turns: Tensor) -> Tensor:
    """Turn the colour circle by ``turns`` (N,), saturation and value (HSV) kept.

    In turns of six, red at 0, green at 2 and blue at 4, a channel lies between the
    least and the most of the three by ``|h - 3| - 1``, ``2 - |h - 2|``, ``2 - |h - 4|``
    for red, green and blue, each cut off at 0 and 1.
    """
    if crops.shape[2] == 1:
        return crops
    red, green, blue = crops.unbind(dim=2)
    most = torch.maximum(torch.maximum(red, green), blue)
    least = torch.minimum(torch.minimum(red, green), blue)
    spread = most - least
    from_blue = (red - green).add_(spread, alpha=4)
    from_green = (blue - red).add_(spread, alpha=2)
    hue = torch.where(most == green, from_green, from_blue)
    hue = torch.where(most == red, green - blue, hue)
    # A grey pixel has no hue, and none that it could show.
    hue = hue.div_(spread.clamp(min=1e-6)).add_(turns[:, None, None], alpha=6)
    hue = hue.sub_(hue.div(6).floor_(), alpha=6)
    for channel in range(3):
        share = (hue - _HUE_CENTRE[channel]).abs_().mul_(_HUE_SIGN[channel])
        share = share.add_(_HUE_OFFSET[channel]).clamp_(0, 1)
        torch.addcmul(least, spread, share, out=crops[:, :, channel])
    return crops


def drop_colour(crops: Tensor, wanted: Tensor) -> Tensor:
    """Luma in all channels of those crops that are wanted so (N,), bool."""
    return crops.lerp_(_luma(crops), _each(wanted.float()))


def solarize(crops: Tensor, threshold: Tensor) -> Tensor:
    """Invert all levels that round to ``threshold`` (N,) or above; infinite is none."""
    inverted = MAX_LEVEL - crops
    bright = crops >= _each(threshold.ceil().float() - 0.5)
    return torch.where(bright, inverted, crops)


def normalize_into(
    out: Tensor, crops: Tensor, *, mean: Sequence[float], std: Sequence[float]
) -> None:
    """Write (N, C, S, S), ``(level / 255 - mean) / std``, in the dtype of ``out``.

    Channel by channel, with plain numbers: a tensor of them would have to be sent.
    """
    for channel in range(crops.shape[2]):
        scale = 1.0 / (MAX_LEVEL * std[channel])
        shift = -mean[channel] / std[channel]
        out[:, channel] = crops[:, :, channel].mul_(scale).add_(shift)


def _luma(crops: Tensor) -> Tensor:
    """(N, S, 1, S)."""
    if crops.shape[2] == 1:
        return crops
    red, green, blue = crops.split(1, dim=2)
    luma = red * LUMA[0]
    return luma.add_(green, alpha=LUMA[1]).add_(blue, alpha=LUMA[2])


def _each(values: Tensor) -> Tensor:
    """(N,) to (N, 1, 1, 1), which broadcasts over crops."""
    return values.view(-1, 1, 1, 1)
