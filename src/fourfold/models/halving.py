"""Sizes of images that are halved stage by stage, whatever they are: 28, 14, 7, 4.

Odd sizes are rounded up on the way down, and met exactly on the way up: with stride 2 and padding 1 a kernel of 4
maps m pixels to 2 m and back, one of 3 maps m to 2 m - 1 and back.
"""

from __future__ import annotations

Size = tuple[int, int]
"""Height and width, pixels."""


def halved(size: Size) -> Size:
    """Half of each side, rounded up."""
    return -(-size[0] // 2), -(-size[1] // 2)


def kernel(large: Size) -> Size:
    """The kernel that leads from a size to its half with stride 2 and padding 1, and back to just this size."""
    return 4 - large[0] % 2, 4 - large[1] % 2


def sizes_down(size: Size, stages: int) -> list[Size]:
    """A size and what is left of it after each of so many stages."""
    sizes = [size]
    for _ in range(stages):
        sizes.append(halved(sizes[-1]))
    return sizes
