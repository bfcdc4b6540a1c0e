#!/usr/bin/env bash
# On the CPU, bitsandbytes gives wrong weights back where a row is shorter than a block of 4-bit quantisation.
# Seen: 2026-11-28, Python 3.11, AMD EPYC with AVX-512, torch 2.13.0, numpy 2.4.6,
# bitsandbytes 0.50.2.
# Input: quantize_4bit and dequantize_4bit (nf4, blocks of 64, the default) of normal weights, 64 rows.
# Behaviour: blocks go over row borders when packing; the CPU kernel begins a new block with each row when unpacking. So
# rows of 32 or 48 are scaled by other blocks' maxima; rows of 64 or 128 are right. Nothing is said. Computed from the
# same codes and maxima by hand, every width is right. Blocks of nearly equal maxima hide it; those of trained weights vary.
# Output: 32 and 48 columns: wrong by more than 1; 64 and 128 columns: right to the last bit
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv venv
venv/bin/pip install -q torch==2.13.0 numpy==2.4.6 bitsandbytes==0.50.2
venv/bin/python - <<'PYTHON'
import torch
from bitsandbytes.functional import dequantize_4bit, quantize_4bit

BLOCK = 64
for columns, is_right in ((128, True), (64, True), (48, False), (32, False)):
    torch.manual_seed(0)
    weight = torch.randn(64, columns)
    packed, state = quantize_4bit(weight, blocksize=BLOCK, quant_type="nf4")
    codes = torch.stack([packed.flatten() >> 4, packed.flatten() & 15], dim=1).flatten().long()
    by_hand = (state.code[codes] * state.absmax.repeat_interleave(BLOCK)).view_as(weight)
    given = dequantize_4bit(packed, state)
    wrong = (given - by_hand).abs().max().item()
    print(f"{columns} columns: library and hand differ by {wrong:.3f}; hand and weight by {(by_hand - weight).abs().max():.3f}")
    assert (by_hand - weight).abs().max() < 0.5  # half of nf4's widest gap, times the largest weight
    assert wrong == 0 if is_right else wrong > 1
PYTHON
