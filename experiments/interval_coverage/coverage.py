"""How often the 95 % jackknife intervals hold the truth, for each measure and kind of spectrum and angle.

    python experiments/interval_coverage/coverage.py --images 60 --out experiments/interval_coverage/images_60.json

Visual and text states are Gaussian with known covariances: 4 tokens of each image share half of their variance, and the
leading directions of the text are those of the images turned by known angles. Spectra: "gap" has 4 large variances and
20 small equal ones; "slow" falls as 1 / rank, so that direction 4 and 5 are hard to tell apart.

Shape legend: N tokens, D width, K leading directions.
"""

import argparse
import math
from pathlib import Path

import torch
from torch import Tensor

from textanchor import geometry as geo
from textanchor.records import RunRecord, environment
from textanchor.stats import Interval

WIDTH, NUM_LEADING, NUM_TOKENS, NUM_DRAWS, TRUTH_TOKENS = 24, 4, 4, 200, 400_000
SPECTRA = {
    "gap": torch.tensor([2.0, 1.8, 1.6, 1.4, *[0.5] * (WIDTH - NUM_LEADING)], dtype=torch.float64),
    "slow": torch.arange(1, WIDTH + 1, dtype=torch.float64) ** -0.5,
}
"""Standard deviations along the axes."""
TURNS = {"distinct": [0.2, 0.5, 0.8, 1.1], "equal": [0.6] * 4, "zero": [0.0] * 4}
CASES = [("gap", "distinct"), ("gap", "equal"), ("gap", "zero"), ("slow", "distinct"), ("slow", "equal")]
SHARE = 0.7  # of the source of one table in that of its partner, for CKA
AXES_DK = torch.eye(WIDTH, NUM_LEADING, dtype=torch.float64)
MEAN = 0.4


def turning(angles: list[float]) -> Tensor:
    """(D, D) rotation that turns axis j towards axis j + K by the j-th angle."""
    turn_DD = torch.eye(WIDTH, dtype=torch.float64)
    for j, angle in enumerate(angles):
        k = j + NUM_LEADING
        turn_DD[j, j] = turn_DD[k, k] = math.cos(angle)
        turn_DD[j, k], turn_DD[k, j] = -math.sin(angle), math.sin(angle)
    return turn_DD


def source(generator: torch.Generator, num_images: int, num_tokens: int = NUM_TOKENS) -> Tensor:
    """(N, D) standard Gaussian tokens, half of whose variance is their image's."""
    of_image = torch.randn(num_images, 1, WIDTH, generator=generator, dtype=torch.float64)
    own = torch.randn(num_images, num_tokens, WIDTH, generator=generator, dtype=torch.float64)
    return ((of_image + own) / math.sqrt(2)).reshape(-1, WIDTH)


class Case:
    """One spectrum and one set of angles, with the true value of every measure."""

    def __init__(self, spectrum: str, turn: str):
        self.sizes_D, self.turn_DD = SPECTRA[spectrum], turning(TURNS[turn])
        generator = torch.Generator().manual_seed(10**6)
        visual, text = (make(source(generator, TRUTH_TOKENS, 1)) for make in (self.visual, self.text))
        variances = geo.Spectrum(self.sizes_D.square().sort(descending=True).values, math.inf)
        angles = torch.tensor(TURNS[turn], dtype=torch.float64)
        energy = geo.subspace_energy(visual, self.turn_DD[:, :NUM_LEADING])
        self.truths = {
            "mean cosine": geo.mean_cosine(visual),
            "subspace energy, fixed basis": energy,
            "subspace energy, text's basis": energy,
            "raw gap": math.sqrt(WIDTH) * 2 * MEAN,
            "normalised gap": geo.modality_gap(visual, text, normalised=True),
            "norm ratio": geo.norm_ratio(visual, text),
            "participation ratio": geo.participation_ratio(variances),
            "effective rank": geo.effective_rank(variances),
            "IsoScore": geo.isoscore_star(variances),
            "top-4 energy": geo.top_energy(variances, NUM_LEADING),
            "smallest angle": float(angles.min()),
            "largest angle": float(angles.max()),
            "subspace overlap": float(angles.cos().square().mean()),
            "debiased CKA": SHARE**2,
        }

    def visual(self, source_ND: Tensor) -> Tensor:
        return source_ND * self.sizes_D + MEAN

    def text(self, source_ND: Tensor) -> Tensor:
        return source_ND * self.sizes_D @ self.turn_DD.T - MEAN

    def intervals(self, seed: int, num_images: int) -> dict[str, Interval]:
        """Intervals of every measure from one drawn sample."""
        generator = torch.Generator().manual_seed(seed)
        group_N = torch.arange(num_images).repeat_interleave(NUM_TOKENS)
        first_ND, second_ND = source(generator, num_images), source(generator, num_images)
        visual_ND, text_ND = self.visual(first_ND), self.text(second_ND)
        partner_ND = self.text(SHARE * first_ND + math.sqrt(1 - SHARE**2) * second_ND)
        unit = geo.state_folds(visual_ND, group_N, unit_norm=True)
        raw = geo.state_folds(visual_ND, group_N), geo.state_folds(text_ND, group_N)
        pairs = geo.pair_folds(visual_ND, partner_ND, group_N)
        return {
            **geo.jackknife_each(unit, self.of_unit_states),
            "subspace energy, text's basis": geo.jackknife((unit, raw[1]), energy_in_text_directions),
            **geo.jackknife_each(raw[0], of_spectrum),
            **geo.jackknife_each(raw, of_both),
            "debiased CKA": geo.jackknife(pairs, geo.linear_cka_debiased),
        }

    def of_unit_states(self, seen: geo.StateMoments) -> dict[str, float]:
        energy = geo.subspace_energy(seen.moments, self.turn_DD[:, :NUM_LEADING])
        return {"mean cosine": geo.mean_cosine(seen), "subspace energy, fixed basis": energy}


def energy_in_text_directions(seen: geo.StateMoments, read: geo.StateMoments) -> float:
    return geo.subspace_energy(seen.moments, geo.principal_directions(read.moments, NUM_LEADING))


def of_spectrum(seen: geo.StateMoments) -> dict[str, float]:
    spectrum = geo.spectrum(seen.moments)
    return {
        "participation ratio": geo.participation_ratio(spectrum),
        "effective rank": geo.effective_rank(spectrum),
        "IsoScore": geo.isoscore_star(spectrum),
        "top-4 energy": geo.top_energy(spectrum, NUM_LEADING),
    }


def of_both(seen: geo.StateMoments, read: geo.StateMoments) -> dict[str, float]:
    angles = geo.principal_angles(*(geo.principal_directions(s.moments, NUM_LEADING) for s in (seen, read)))
    return {
        "raw gap": geo.modality_gap(seen, read, normalised=False),
        "normalised gap": geo.modality_gap(seen, read, normalised=True),
        "norm ratio": geo.norm_ratio(seen, read),
        "smallest angle": float(angles[0]),
        "largest angle": float(angles[-1]),
        "subspace overlap": float(angles.cos().square().mean()),
    }


def coverage(case: Case, num_images: int) -> dict[str, dict[str, float]]:
    """Measure -> truth, mean estimate and share of the draws whose interval holds the truth."""
    drawn = [case.intervals(seed, num_images) for seed in range(NUM_DRAWS)]
    return {
        name: {
            "truth": truth,
            "mean_estimate": sum(d[name].estimate for d in drawn) / NUM_DRAWS,
            "coverage": sum(d[name].low <= truth <= d[name].high for d in drawn) / NUM_DRAWS,
        }
        for name, truth in case.truths.items()
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, required=True, help="images in each drawn sample")
    parser.add_argument("--out", type=Path, required=True, help="file of the run record")
    chosen = parser.parse_args()
    found = {}
    for spectrum, turn in CASES:
        found[f"{spectrum} spectrum, {turn} angles"] = rows = coverage(Case(spectrum, turn), chosen.images)
        print(f"\n{spectrum} spectrum, {turn} angles, {chosen.images} images")
        for name, row in rows.items():
            truth, mean, covers = row.values()
            print(f"  {name:30s} truth {truth:8.3f}  mean {mean:8.3f}  covers {covers:.3f}")
    config = {"images": chosen.images, "tokens": NUM_TOKENS, "width": WIDTH, "draws": NUM_DRAWS}
    RunRecord(
        name="interval_coverage", method="geometry", seed=0, config=config, extra={"cases": found}, **environment()
    ).save(chosen.out)


if __name__ == "__main__":
    main()
