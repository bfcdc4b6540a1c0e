"""A new question about drawn scenes: which team an object plays for.

The team follows from the object's color by a table that is nowhere else, so it has to be learned, from images of the
kind that other tasks ask about: the near-domain case of keeping what was known.
"""

import numpy as np

from textanchor.data.items import Item
from textanchor.data.scenes import COLORS, draw_scene, with_article

NAMES = ("lions", "bears", "wolves", "eagles", "sharks", "tigers", "ravens", "horses")
TEAMS = dict(zip(COLORS, NAMES, strict=True))
"""Color -> team."""


def team_item(scene_seed: int) -> Item | None:
    """The question about one of the objects whose shape no other object of the scene has; None where there is none."""
    scene = draw_scene(scene_seed)
    shapes = [thing.shape for thing in scene.objects]
    unique = [thing for thing in scene.objects if shapes.count(thing.shape) == 1]
    if not unique:
        return None
    thing = unique[int(np.random.default_rng([scene_seed, 0x7EA3]).integers(len(unique)))]
    return Item(
        id=f"team-{scene_seed}",
        task="team",
        question=f"Which team does {with_article(thing.shape)} in this image play for?",
        answer=TEAMS[thing.color],
        choices=NAMES,
        objects=tuple(other.name for other in scene.objects),
        image=scene.image(),
        image_id=f"scene-{scene_seed}",
    )
