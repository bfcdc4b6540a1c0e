"""Drawn scenes: 1 to 4 coloured shapes on a 2 x 2 grid, with their exact object list; a pure function of a seed."""

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw

SHAPES = ("circle", "square", "triangle", "star", "heart", "diamond", "cross", "ring")
COLORS = {
    "red": (214, 39, 40),
    "green": (34, 150, 60),
    "blue": (36, 84, 210),
    "yellow": (245, 215, 40),
    "orange": (250, 130, 20),
    "purple": (130, 50, 170),
    "black": (20, 20, 20),
    "white": (250, 250, 250),
}
SIZES = {"small": 0.26, "large": 0.42}
"""Radius of the circle around an object, as a share of its cell."""
CELLS = ("top left", "top right", "bottom left", "bottom right")
IMAGE_SIZE = 224
_OVERSAMPLING = 2


@dataclass(frozen=True)
class SceneObject:
    """One shape: what it is, where it stands and how it is turned (radians)."""

    shape: str
    color: str
    size: str
    cell: int
    offset: tuple[float, float]
    """Shift from the middle of the cell, as a share of the cell."""
    angle: float

    @property
    def name(self) -> str:
        return f"{self.color} {self.shape}"

    @property
    def position(self) -> str:
        return CELLS[self.cell]


@dataclass(frozen=True)
class Scene:
    """A background and its objects in reading order; no two objects of a scene have the same name."""

    seed: int
    background: tuple[int, int, int]
    objects: tuple[SceneObject, ...]

    def image(self, size: int = IMAGE_SIZE) -> Image.Image:
        """The drawing, RGB, `size` x `size` pixels."""
        side = size * _OVERSAMPLING
        canvas = Image.new("RGB", (side, side), self.background)
        draw = ImageDraw.Draw(canvas)
        for thing in self.objects:
            _draw_object(draw, thing, cell_side=side / 2)
        return canvas.resize((size, size), Image.Resampling.BOX)

    def caption(self) -> str:
        """Every object with its place, in reading order."""
        return " and ".join(f"{with_article(thing.name)} in the {thing.position}" for thing in self.objects)


def with_article(name: str) -> str:
    """The name with "a" or "an" before it."""
    return f"an {name}" if name[0] in "aeiou" else f"a {name}"


def draw_scene(seed: int, *, num_objects: int | None = None) -> Scene:
    """Scene number `seed`; the number of objects is drawn from 1 to 4 unless it is given."""
    rng = np.random.default_rng([seed, 0x5CE7E])
    drawn_count = int(rng.integers(1, 5))
    count = drawn_count if num_objects is None else num_objects
    if not 1 <= count <= len(CELLS):
        raise ValueError(f"num_objects must be between 1 and {len(CELLS)}, not {count}")
    gray, tint = rng.uniform(95, 190), rng.uniform(-14, 14, size=3)
    red, green, blue = (int(channel) for channel in np.clip(gray + tint, 0, 255))
    cells = sorted(int(cell) for cell in rng.permutation(len(CELLS))[:count])
    names = rng.permutation(len(SHAPES) * len(COLORS))[:count]
    color_names = tuple(COLORS)
    objects = tuple(
        SceneObject(
            shape=SHAPES[int(name) // len(COLORS)],
            color=color_names[int(name) % len(COLORS)],
            size=str(rng.choice(tuple(SIZES))),
            cell=cell,
            offset=(float(rng.uniform(-0.06, 0.06)), float(rng.uniform(-0.06, 0.06))),
            angle=float(rng.uniform(-0.2, 0.2)),
        )
        for cell, name in zip(cells, names, strict=True)
    )
    return Scene(seed=seed, background=(red, green, blue), objects=objects)


def _draw_object(draw: ImageDraw.ImageDraw, thing: SceneObject, cell_side: float) -> None:
    row, column = divmod(thing.cell, 2)
    x = (column + 0.5 + thing.offset[0]) * cell_side
    y = (row + 0.5 + thing.offset[1]) * cell_side
    radius = SIZES[thing.size] * cell_side
    color = COLORS[thing.color]
    if thing.shape == "circle":
        draw.ellipse((x - radius, y - radius, x + radius, y + radius), fill=color)
    elif thing.shape == "ring":
        draw.ellipse((x - radius, y - radius, x + radius, y + radius), outline=color, width=round(radius * 0.36))
    else:
        cos, sin = math.cos(thing.angle), math.sin(thing.angle)
        outline = [
            (x + radius * (u * cos - v * sin), y + radius * (u * sin + v * cos)) for u, v in _OUTLINES[thing.shape]()
        ]
        draw.polygon(outline, fill=color)


def _regular(corners: int, start: float) -> list[tuple[float, float]]:
    angles = (start + 2 * math.pi * i / corners for i in range(corners))
    return [(math.cos(angle), math.sin(angle)) for angle in angles]


def _star() -> list[tuple[float, float]]:
    points = _regular(10, -math.pi / 2)
    return [(x, y) if i % 2 == 0 else (0.42 * x, 0.42 * y) for i, (x, y) in enumerate(points)]


def _heart() -> list[tuple[float, float]]:
    steps = (2 * math.pi * i / 48 for i in range(48))
    return [
        (
            math.sin(t) ** 3,
            -(13 * math.cos(t) - 5 * math.cos(2 * t) - 2 * math.cos(3 * t) - math.cos(4 * t)) / 16,
        )
        for t in steps
    ]


def _cross() -> list[tuple[float, float]]:
    a, b = 0.3, 0.95
    return [(-a, -b), (a, -b), (a, -a), (b, -a), (b, a), (a, a), (a, b), (-a, b), (-a, a), (-b, a), (-b, -a), (-a, -a)]


_OUTLINES: dict[str, Callable[[], list[tuple[float, float]]]] = {
    "square": lambda: [(-0.8, -0.8), (0.8, -0.8), (0.8, 0.8), (-0.8, 0.8)],
    "triangle": lambda: _regular(3, -math.pi / 2),
    "star": _star,
    "heart": _heart,
    "diamond": lambda: [(0.0, -1.0), (0.62, 0.0), (0.0, 1.0), (-0.62, 0.0)],
    "cross": _cross,
}
