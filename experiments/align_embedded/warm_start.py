"""Where the projector starts: standardised tower channels, and every cell sent to the words that name its content."""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from stream import images_of_step
from torch import Tensor

from textanchor.data.items import Item
from textanchor.data.scenes import draw_scene

EMPTY_CELL = " empty background"


@torch.no_grad()
def fit_feature_statistics(tower, pixels: Callable[[list[Item]], Tensor], *, seed: int, num_images: int = 400) -> None:
    """Mean and standard deviation of every tower channel over images of the training stream, set in place."""
    items = [group[0] for group in images_of_step(0, seed=seed + 1, num_images=num_images)]
    features = [tower.pooled_stages(pixels(items[i : i + 50])).flatten(0, 1).double() for i in range(0, num_images, 50)]
    features_NC = torch.cat(features)
    tower.feature_mean.copy_(features_NC.mean(dim=0))
    tower.feature_std.copy_(features_NC.std(dim=0).clamp_min(1e-3))


def fit_projector_to_names(aligner, *, num_scenes: int, num_steps: int) -> None:
    """Regress each cell's projected token on the mean embedding of the words that name what is in the cell.

    Gives the projector outputs of the text's own norm; by itself it answers nothing.
    """
    features, targets = [], []
    for start in range(0, num_scenes, 50):
        scenes = [draw_scene(500_000_000 + seed) for seed in range(start, start + 50)]
        items = [Item(id=str(s.seed), task="", question="", answer="", image=s.image()) for s in scenes]
        with torch.no_grad():
            features.append(aligner.vlm.model.vision_tower(aligner.pixels(items)).last_hidden_state)
        targets += [_cell_names(scene, aligner.vlm.config.image_seq_length) for scene in scenes]
    features_BNC = torch.cat(features)
    names = sorted({name for row in targets for name in row})
    embedding = aligner.vlm.get_input_embeddings().weight.detach().float()
    table = torch.stack([embedding[aligner._ids(name)].mean(dim=0) for name in names])
    targets_BND = table[torch.tensor([[names.index(name) for name in row] for row in targets])]
    optimizer = torch.optim.AdamW(aligner.projector.parameters(), lr=1e-3, weight_decay=1e-2)
    generator = torch.Generator().manual_seed(aligner.config.seed)
    for step in range(num_steps):
        rows = torch.randint(len(features_BNC), (64,), generator=generator)
        for group in optimizer.param_groups:
            group["lr"] = 1e-3 * (1 - step / num_steps)
        loss = F.mse_loss(aligner.projector(features_BNC[rows]), targets_BND[rows])
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    unexplained = loss.item() / targets_BND.var().item()
    print(f"warm start: {num_steps} steps, {unexplained:.3f} of the targets' variance is left", flush=True)


def _cell_names(scene, num_tokens: int) -> list[str]:
    """For each token of the grid, row by row, the name of the object in its quarter of the image."""
    side = round(num_tokens**0.5)
    by_cell = {thing.cell: f" {thing.name}" for thing in scene.objects}
    quarters = [2 * (2 * row // side) + 2 * column // side for row in range(side) for column in range(side)]
    return [by_cell.get(quarter, EMPTY_CELL) for quarter in quarters]
