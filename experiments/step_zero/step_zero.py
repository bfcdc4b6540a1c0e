"""Step zero: which directions of an update make a model forget? Causal, and without training under any hold.

    python experiments/step_zero/step_zero.py --work outputs/step_zero --out docs/evidence/step_zero

Run it again to take it up where it was interrupted. README.md says what the stages are; config.yaml is what was run.
"""

import argparse
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ablation import Ablation
from anchors import output_bands
from bench import Bench, told, use_threads
from lora import LanguageBands, LoraAblation
from overlap import overlap_rows
from page import pack
from settings import Settings, Tuning
from spectrum import spectrum
from tune import Tuned, tuned

from textanchor.config import load_config, to_dict
from textanchor.records import RunRecord, environment, memory_cost
from textanchor.training.features import FeatureStore

STAGES = ("overlap", "spectrum", "tune", "ablation", "lora")


def main(arguments: Sequence[str] | None = None) -> None:
    """All stages that are asked for, each into records of its own."""
    chosen = _arguments(arguments)
    use_threads(chosen.threads)
    overrides = [*chosen.set, *([f"model={chosen.model}"] if chosen.model else [])]
    settings = load_config(Settings, chosen.config, overrides)
    run = StepZero(Bench(settings, chosen.work), chosen.out)
    for stage in STAGES:
        if stage in chosen.stages:
            getattr(run, stage)()


def _arguments(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", type=Path, default=Path(__file__).with_name("config.yaml"))
    parser.add_argument("--model", help="a folder, in place of the configuration's model")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="another value of a key")
    parser.add_argument("--work", type=Path, required=True, help="cache of updates, anchors and single measurements")
    parser.add_argument("--out", type=Path, required=True, help="folder of the records")
    parser.add_argument("--stages", nargs="+", choices=STAGES, default=STAGES)
    parser.add_argument("--threads", type=int, default=2)
    return parser.parse_args(arguments)


class StepZero:
    """The stages over one model."""

    def __init__(self, bench: Bench, out: Path) -> None:
        self.bench, self.out, self.store = bench, out, FeatureStore()

    def overlap(self) -> None:
        """(d) Overlap of leading directions."""
        self._save("overlap", None, overlap_rows(self.bench))

    def spectrum(self) -> None:
        """(a) Sensitivity spectrum."""
        self._save("spectrum", None, spectrum(self.bench, *output_bands(self.bench)))

    def tune(self) -> None:
        """The updates that the next stages take apart."""
        list(self._updates(self.bench.settings.ablation.tuning, self.bench.settings.ablation.seeds))
        list(self._updates(self.bench.settings.lora.tuning, self.bench.settings.lora.seeds))

    def ablation(self) -> None:
        """(b) and (d) One record for each update of the projector, the first seed of all tasks first."""
        settings = self.bench.settings.ablation
        bands = output_bands(self.bench)
        for update in self._updates(settings.tuning, settings.seeds):
            ablation = Ablation(self.bench, *bands, update)
            facts = {"drift_energy": ablation.drift_energy, "guess_nats": ablation.guess_nats}
            self._save("ablation", update, ablation.conditions(), **facts)

    def lora(self) -> None:
        """(c) One record for each update of projector and language model."""
        settings, language = self.bench.settings.lora, LanguageBands(self.bench)
        for update in self._updates(settings.tuning, settings.seeds):
            ablation = LoraAblation(self.bench, language, update)
            self._save("lora", update, ablation.conditions(), guess_nats=ablation.guess_nats)

    def _updates(self, tuning: Tuning, seeds: Sequence[int]):
        for seed in seeds:
            for task in self.bench.settings.new_tasks:
                yield tuned(self.bench, tuning, task, seed, self.store)

    def _save(self, stage: str, update: Tuned | None, conditions: list[dict[str, Any]], **facts: float | None) -> None:
        settings = self.bench.settings
        name = f"{stage}-{update.name}" if update else stage
        extra: dict[str, Any] = {"stage": stage, "model": settings.name, "retained": self._retained(), **facts}
        hashes = {"model": self.bench.model_hash}
        if update is not None:
            extra |= {"task": update.task, "tuning_cost": update.cost}
            hashes["tuned"] = update.hash
        RunRecord(
            name=f"step_zero/{settings.name}/{name}",
            method="full" if update else "none",
            seed=update.seed if update else settings.seed,
            config=_without_folders(to_dict(settings)) | {"model": settings.name},
            command=["python", "experiments/step_zero/step_zero.py", "--stages", stage],
            **environment(),
            hashes=hashes,
            cost=memory_cost(),
            extra=extra | {"conditions": [pack(condition) for condition in conditions]},
        ).save(self.out / settings.name / f"{name}.json")
        told(f"written: {settings.name}/{name}.json")

    def _retained(self) -> list[str]:
        return [suite.name for suite in self.bench.suites(self.bench.settings.retained, 1)]


def _without_folders(value: Any) -> Any:
    """A configuration that names folders by their last part: a record says nothing of the machine it was made on."""
    if isinstance(value, dict):
        return {key: _without_folders(entry) for key, entry in value.items()}
    if isinstance(value, list):
        return [_without_folders(entry) for entry in value]
    if isinstance(value, str) and "/" in value:
        return f"{'folder:' * value.startswith('folder:')}{Path(value).name}"
    return value


if __name__ == "__main__":
    began = time.monotonic()
    main()
    told(f"done in {(time.monotonic() - began) / 60:.1f} minutes")
