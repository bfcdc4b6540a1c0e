"""Hold one linear in a plain PyTorch loop: what it did on the reference inputs stays, while it learns something new."""

import torch
from torch import nn

import textanchor as ta

torch.manual_seed(0)
projector = nn.Sequential(nn.Linear(64, 128), nn.GELU(), nn.Linear(128, 96))
old = torch.randn(2000, 64) @ torch.randn(64, 8) @ torch.randn(8, 64) / 8  # inputs to keep: they span few directions
new, targets = torch.randn(512, 64), torch.randn(512, 96)
kept = projector(old).detach()

projector[2].requires_grad_(False)
plan = ta.Anchor.from_states(old).plan(projector[0], side="in", num_kept=9, hold="exact")
optimizer = torch.optim.AdamW(projector[0].parameters(), lr=1e-3, weight_decay=0.01)
handle = ta.attach(plan, optimizer)
for _ in range(200):
    optimizer.zero_grad()
    loss = (projector(new) - targets).square().mean()
    loss.backward()
    optimizer.step()

print(plan)
print(handle.audit())
print(
    f"loss on the new task {loss.item():.3f}; outputs on the old inputs moved {(projector(old) - kept).abs().max():.1e}"
)
