"""Align the embedded model in LLaVA's two stages; the result is what `textanchor.vlm.embedded` ships.

Stage 1 trains the projector against the frozen language model, stage 2 the projector and a LoRA on the language model,
whose text is kept by a KL to the original on text that the original itself wrote (not by our filter, which would give
our own method a home advantage). Seeded and resumable: run the same command again after an interruption.
"""

import argparse
import dataclasses
import json
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from branches import answer_logits, pack
from peft import LoraConfig, get_peft_model, get_peft_model_state_dict, set_peft_model_state_dict
from safetensors.torch import save_file
from stream import images_of_step
from texts import TextKeeper
from torch import Tensor
from warm_start import fit_feature_statistics, fit_projector_to_names

from textanchor.config import load_config
from textanchor.data.items import Item, open_image
from textanchor.data.json_rows import read_rows
from textanchor.data.tasks import load_items
from textanchor.files import atomic_directory, atomic_file
from textanchor.records import environment
from textanchor.vlm.embedded import ALIGNMENT_FOLDER, assemble

HERE = Path(__file__).parent
MONITORED = ("existence", "shape", "color", "position", "count", "easy_vqa")
LORA_TARGETS = r".*language_model\.layers\.\d+\.(self_attn\.(q|k|v|o)_proj|mlp\.(gate|up|down)_proj)"


@dataclass
class AlignConfig:
    """See config.yaml for what each key means."""

    seed: int
    images_per_step: int
    projector_steps: int
    joint_steps: int
    cooldown: float
    warmup_steps: int
    projector_learning_rate: float
    lora_learning_rate: float
    lora_rank: int
    lora_alpha: int
    max_grad_norm: float
    norm_ratio: float | None
    kl_weight: float
    texts_per_step: int
    text_tokens: int
    warm_start_scenes: int
    warm_start_steps: int
    checkpoint_every: int
    monitor_items: int
    monitor_every: int

    @property
    def num_steps(self) -> int:
        return self.projector_steps + self.joint_steps


class Aligner:
    """The model with its trainable parts, and one training step."""

    def __init__(self, config: AlignConfig, init_from: Path | None, *, is_resumed: bool):
        self.config = config
        torch.manual_seed(config.seed)
        self.vlm, self.processor = assemble(seed=config.seed)
        self.tokenizer = self.processor.tokenizer
        self.prefix = self._ids("<|im_start|>user\n" + "<image>" * self.vlm.config.image_seq_length + "\n")
        self.text_norm = self.vlm.get_input_embeddings().weight.detach().norm(dim=-1).mean()
        self.vlm.model.language_model.to(torch.bfloat16)
        self.vlm.tie_weights()
        # measured here: eager attention is 15 % faster than the fused kernel with a mask and a backward pass
        self.vlm.model.language_model.config._attn_implementation = "eager"
        self.keeper = TextKeeper(self.vlm, self.tokenizer, num_tokens=config.text_tokens)
        is_fresh = init_from is None and not is_resumed
        if is_fresh:
            fit_feature_statistics(self.vlm.model.vision_tower, self.pixels, seed=config.seed)
        lora = LoraConfig(
            r=config.lora_rank, lora_alpha=config.lora_alpha, target_modules=LORA_TARGETS, bias="none", lora_dropout=0.0
        )
        self.peft_model = get_peft_model(self.vlm, lora)
        self.projector = self.vlm.model.multi_modal_projector.float()
        for parameter in self.projector.parameters():
            parameter.requires_grad_(True)
        self.lora = [p for name, p in self.vlm.named_parameters() if "lora_" in name]
        if init_from is not None:
            self._start_from(init_from)
        elif is_fresh and config.warm_start_scenes:
            fit_projector_to_names(self, num_scenes=config.warm_start_scenes, num_steps=config.warm_start_steps)
        groups = [
            {"params": list(self.projector.parameters()), "peak": config.projector_learning_rate},
            {"params": self.lora, "peak": config.lora_learning_rate},
        ]
        self.optimizer = torch.optim.AdamW(groups, lr=0.0, weight_decay=0.0, betas=(0.9, 0.98))

    def _ids(self, text: str) -> list[int]:
        return self.tokenizer(text, add_special_tokens=False)["input_ids"]

    def pixels(self, items: list[Item]) -> Tensor:
        """(B, 3, H, W) as the processor makes them."""
        images = [open_image(item.image) for item in items]
        return self.processor.image_processor(images, return_tensors="pt")["pixel_values"]

    def visual_tokens(self, items: list[Item]) -> Tensor:
        """(B, N, D) projected tokens; the tower is frozen."""
        with torch.no_grad():
            features_BNC = self.vlm.model.vision_tower(self.pixels(items)).last_hidden_state
        return self.projector(features_BNC)

    def branch(self, question: str, answer: str) -> tuple[list[int], list[int]]:
        """Ids of the question with the opening of the answer, and of the answer with its end."""
        given = self._ids(f"{question}<|im_end|>\n<|im_start|>assistant\n")
        return given, self._ids(f"{answer}<|im_end|>")

    def step(self, step: int) -> dict[str, float]:
        """One optimizer step of the stage that `step` belongs to; losses and norms as numbers."""
        config = self.config
        joint = step >= config.projector_steps
        for parameter in self.lora:
            parameter.requires_grad_(joint)
        for group in self.optimizer.param_groups:
            group["lr"] = group["peak"] * self._rate(step)
        groups = images_of_step(step, seed=config.seed, num_images=config.images_per_step)
        branches = [[self.branch(item.question, item.answer) for item in items] for items in groups]
        batch = pack([self.prefix] * len(groups), branches, self.tokenizer.pad_token_id)
        with torch.autocast("cpu", torch.bfloat16):
            visual_BND = self.visual_tokens([items[0] for items in groups])
            logits_TV = answer_logits(self.vlm, batch, visual_BND)
        loss = F.cross_entropy(logits_TV.float(), batch.targets_T)
        total, kl = loss, torch.zeros(())
        if joint and config.kl_weight:
            kl = self.keeper.kl(np.random.default_rng([config.seed, step, 0x7E]), num_texts=config.texts_per_step)
            total = loss + config.kl_weight * kl
        total.backward()
        norm = torch.nn.utils.clip_grad_norm_([*self.projector.parameters(), *self.lora], config.max_grad_norm)
        self.optimizer.step()
        self.optimizer.zero_grad()
        token_norm = visual_BND.detach().float().norm(dim=-1).mean()
        if config.norm_ratio is not None:
            self._cap_norm(token_norm)
        return {
            "loss": loss.item(),
            "kl": kl.item(),
            "norm_ratio": (token_norm / self.text_norm).item(),
            "grad_norm": norm.item(),
            "tokens": int(batch.visible_B1LL.diagonal(dim1=-2, dim2=-1).sum()),
            "questions": sum(map(len, branches)),
        }

    @torch.no_grad()
    def _cap_norm(self, token_norm: Tensor) -> None:
        """Shrink the last linear so that visual tokens are no longer than text embeddings; exact, and no loss term."""
        factor = self.config.norm_ratio * self.text_norm / token_norm
        if factor < 1:
            self.projector.linear_2.weight.mul_(factor)
            self.projector.linear_2.bias.mul_(factor)

    def _rate(self, step: int) -> float:
        """Warmup, constant, and a linear fall over the last share of the run; each stage warms up anew."""
        config = self.config
        in_stage = step if step < config.projector_steps else step - config.projector_steps
        left = (config.num_steps - step) / max(config.cooldown * config.joint_steps, 1)
        return min(1.0, (in_stage + 1) / config.warmup_steps, left)

    @torch.no_grad()
    def accuracy(self, items: list[Item], *, chunk: int = 25) -> float:
        """Share of single questions whose gold answer has the highest log-likelihood of all candidates."""
        correct = 0
        for start in range(0, len(items), chunk):
            part = items[start : start + chunk]
            prefixes, branches = [], []
            for item in part:
                given, _ = self.branch(item.question, item.answer)
                prefixes.append(self.prefix + given)
                branches.append([([], self._ids(choice)) for choice in item.choices])
            # a branch needs one given token: the last one of the prefix moves into every branch
            branches = [[(prefix[-1:], ids) for _, ids in row] for prefix, row in zip(prefixes, branches, strict=True)]
            batch = pack([prefix[:-1] for prefix in prefixes], branches, self.tokenizer.pad_token_id)
            with torch.autocast("cpu", torch.bfloat16):
                logits_TV = answer_logits(self.vlm, batch, self.visual_tokens(part))
            nats_T = F.cross_entropy(logits_TV.float(), batch.targets_T, reduction="none")
            sums = torch.zeros(int(batch.branches_T[-1]) + 1).index_add_(0, batch.branches_T, nats_T)
            for item, nats in zip(part, sums.split([len(row) for row in branches]), strict=True):
                correct += item.choices[int(nats.argmin())] == item.answer
        return correct / len(items)

    def state(self) -> dict[str, Tensor]:
        """The tensors that ship: projector, tower statistics and LoRA."""
        tensors = {f"model.multi_modal_projector.{k}": v.detach() for k, v in self.projector.state_dict().items()}
        tower = self.vlm.model.vision_tower
        tensors |= {f"model.vision_tower.{k}": getattr(tower, k) for k in ("feature_mean", "feature_std")}
        return tensors

    def export(self, folder: Path, record: dict) -> None:
        """Write projector (float16), tower statistics, PEFT adapter (float16) and record, as the package ships them."""
        with atomic_directory(folder, overwrite=True) as temporary:
            halves = {k: v.half() if "projector" in k else v for k, v in self.state().items()}
            save_file({k: v.contiguous() for k, v in halves.items()}, temporary / "projector.safetensors")
            adapter = {k: v.half().contiguous() for k, v in get_peft_model_state_dict(self.peft_model).items()}
            save_file(adapter, temporary / "adapter_model.safetensors")
            peft_config = self.peft_model.peft_config["default"]
            peft_config.inference_mode = True
            peft_config.save_pretrained(str(temporary))
            (temporary / "record.json").write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")

    def _start_from(self, folder: Path) -> None:
        """Continue from an exported alignment: its projector and LoRA, with a new optimizer."""
        from safetensors.torch import load_file

        tensors = {k: v.float() for k, v in load_file(folder / "projector.safetensors").items()}
        unexpected = self.vlm.load_state_dict(tensors, strict=False).unexpected_keys
        if unexpected:
            raise SystemExit(f"{folder}: unexpected tensors {unexpected}")
        adapter = {k: v.float() for k, v in load_file(folder / "adapter_model.safetensors").items()}
        set_peft_model_state_dict(self.peft_model, adapter)


def save_checkpoint(aligner: Aligner, step: int, path: Path) -> None:
    tensors = {"step": step, "state": aligner.state(), "optimizer": aligner.optimizer.state_dict()}
    tensors["lora"] = get_peft_model_state_dict(aligner.peft_model)
    with atomic_file(path) as temporary:
        torch.save(tensors, temporary)


def load_checkpoint(aligner: Aligner, path: Path) -> int:
    saved = torch.load(path, weights_only=True)
    aligner.vlm.load_state_dict(saved["state"], strict=False)
    set_peft_model_state_dict(aligner.peft_model, saved["lora"])
    aligner.optimizer.load_state_dict(saved["optimizer"])
    return saved["step"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=HERE / "out", help="checkpoint and log; not committed")
    parser.add_argument("--export", type=Path, default=ALIGNMENT_FOLDER, help="where the result is written")
    parser.add_argument("--init-from", type=Path, help="continue an exported alignment")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", dest="overrides")
    args = parser.parse_args()
    config = load_config(AlignConfig, HERE / "config.yaml", overrides=args.overrides)
    args.out.mkdir(parents=True, exist_ok=True)
    checkpoint, log = args.out / "checkpoint.pt", args.out / "log.jsonl"
    aligner = Aligner(config, args.init_from, is_resumed=checkpoint.exists())
    first = load_checkpoint(aligner, checkpoint) if checkpoint.exists() else 0
    rows = [row for _, row in read_rows(log)] if log.exists() else []
    log.write_text("".join(json.dumps(row) + "\n" for row in rows if row["step"] < first), encoding="utf-8")
    held_out = {
        task: load_items(task, split="validation", num_items=config.monitor_items, seed=config.seed)
        for task in MONITORED
    }
    started = time.monotonic()
    for step in range(first, config.num_steps):
        row = {"step": step, **aligner.step(step), "seconds": round(time.monotonic() - started, 1)}
        if (step + 1) % config.monitor_every == 0 or step + 1 == config.num_steps:
            row["accuracy"] = {task: aligner.accuracy(items) for task, items in held_out.items()}
            row["text"] = aligner.keeper.held_out()
        if step % 10 == 0 or "accuracy" in row:
            print(json.dumps(row), flush=True)
        with log.open("a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")
        if (step + 1) % config.checkpoint_every == 0 or step + 1 == config.num_steps:
            save_checkpoint(aligner, step + 1, checkpoint)
            record = {
                "config": dataclasses.asdict(config),
                "init_from": str(args.init_from) if args.init_from else None,
                "steps_done": step + 1,
                "monitor": [row for _, row in read_rows(log) if "accuracy" in row],
                "environment": environment(),
            }
            aligner.export(args.export if step + 1 == config.num_steps else args.out / "partial", record)


if __name__ == "__main__":
    main()
