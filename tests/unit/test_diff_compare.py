"""Comparing one tensor: norms, ranks, rounding and shares, known by construction; intruders as PEFT counts them."""

import pytest
import torch
from torch import Tensor

from textanchor.diffs import checkpoint, compare, text_anchor
from textanchor.diffs.checkpoint import checkpoint_of_tensors
from textanchor.diffs.compare import Change, Source
from textanchor.diffs.findings import Finding
from textanchor.diffs.intruders import count_intruders, left_vectors
from textanchor.diffs.merges import ExpectedUpdate, MergeFit
from textanchor.diffs.report import AnchorSummary, DiffReport
from textanchor.diffs.rows import PartRow
from textanchor.diffs.text_anchor import fit_text_anchor
from textanchor.spectral import MomentsStream


def change_of(base: Tensor, tuned: Tensor, **options: object) -> Change:
    sources = (Source(checkpoint_of_tensors({"w": tensor}), "w") for tensor in (base, tuned))
    return compare.compare(*sources, **options)  # pyright: ignore[reportArgumentType]


def low_rank(num_rows: int, num_columns: int, rank: int, size: float = 1.0) -> Tensor:
    return size * torch.randn(num_rows, rank) @ torch.randn(rank, num_columns) / rank**0.5


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Several blocks for each tensor, the last one not full."""
    monkeypatch.setattr(checkpoint.block_ranges, "__kwdefaults__", {"block_elements": 1000})


def test_norms_are_those_of_the_whole_tensor() -> None:
    base = torch.randn(37, 70, dtype=torch.float64)
    tuned = base + 0.1 * torch.randn_like(base)
    change = change_of(base, tuned)
    assert change.relative == pytest.approx(float((tuned - base).norm() / base.norm()), rel=1e-12)
    assert change.norm_ratio == pytest.approx(float(tuned.norm() / base.norm()), rel=1e-12)
    values = torch.linalg.svdvals(tuned - base)
    assert change.stable_rank == pytest.approx(float((values**2).sum() / values[0] ** 2), rel=1e-6)
    assert change.rank == 37


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("rank", [1, 8, 40])
@pytest.mark.parametrize("shape", [(300, 400), (400, 300), (600, 64)])
def test_rank_of_an_update_that_was_stored_rounded(dtype: torch.dtype, rank: int, shape: tuple[int, int]) -> None:
    base = (0.02 * torch.randn(shape)).to(dtype)
    size = 0.02 if dtype == torch.bfloat16 else 0.005
    tuned = (base.float() + low_rank(*shape, rank, size)).to(dtype)
    change = change_of(base, tuned)
    assert (change.rank, change.is_rank_larger) == (rank, False)


def test_rank_beyond_what_is_told() -> None:
    base = torch.randn(300, 400)
    assert change_of(base, base + low_rank(300, 400, 128)).rank == 128
    change = change_of(base, base + low_rank(300, 400, 200))
    assert (change.rank, change.is_rank_larger) == (128, True)


def test_equal_means_the_same_bytes() -> None:
    base = torch.randn(30, 50)
    assert change_of(base, base.clone()).status == "equal"
    tuned = base.clone()
    tuned[29, 49] += 1e-6
    assert change_of(base, tuned).status == "changed"
    assert change_of(torch.tensor(3), torch.tensor(3)).status == "equal"
    assert change_of(torch.arange(5), torch.arange(5) + 1) == Change(status="changed")
    assert change_of(base, base[:29]).status == "shape"
    half = base.half()
    assert change_of(half, half.view(torch.bfloat16)).status == "changed", "the same bytes of another type"


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_rounding_is_no_change_and_more_than_rounding_is(dtype: torch.dtype) -> None:
    base = 10 ** torch.empty(40, 60).uniform_(-9, 2)
    base[39, 59] = 1e-3
    rounded = base.to(dtype)
    assert change_of(base, rounded).status == "rounding"
    assert change_of(rounded, base).status == "rounding"
    rounded[39, 59] *= 1 + 4 * torch.finfo(dtype).eps
    assert change_of(base, rounded).status == "changed"
    moved = (base.to(dtype).float() * (1 + torch.finfo(dtype).eps)).to(dtype)
    assert change_of(base.to(dtype), moved).status == "changed", "of one type, every difference is a change"


def test_bad_entries_are_counted_in_all_blocks() -> None:
    base = torch.randn(60, 70)
    tuned = base.clone()
    tuned[0, 0], tuned[30, 1], tuned[59, 69] = float("nan"), float("inf"), -float("inf")
    change = change_of(base, tuned)
    assert (change.status, change.num_bad, change.relative) == ("changed", 3, None)


def merge_of(base: Tensor, tuned: Tensor, update: Tensor) -> MergeFit:
    fit = change_of(base, tuned, expected=ExpectedUpdate(lambda start, stop: update[start:stop])).merge
    assert fit is not None
    return fit


def test_fit_to_the_update_that_an_adapter_asks_for() -> None:
    base, update = torch.randn(60, 70), low_rank(60, 70, 4)
    merge = merge_of(base, base + 2 * update, update)
    assert merge.fit == pytest.approx(2, abs=1e-5)
    assert merge.misfit == pytest.approx(0, abs=1e-2)
    assert merge.times == {2} and merge.swallowed == 0
    assert merge.energy == pytest.approx(float(update.square().sum()), rel=1e-5)
    merge = merge_of(base, base.clone(), update)
    assert (merge.fit, merge.times) == (0.0, {0})


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("size", [0.0005, 0.005, 0.05])
def test_a_merge_is_told_up_to_the_rounding_of_its_type(dtype: torch.dtype, size: float) -> None:
    """However much rounding swallows: once, twice, never, half of the rows and another update are told apart."""
    base = 0.02 * torch.randn(90, 120)
    a_RI, b_OR = torch.randn(4, 120), torch.randn(90, 4)
    b_OR *= size * base.norm() / (b_OR @ a_RI).norm()
    update, half = b_OR @ a_RI, base.to(dtype)
    in_type = half + update.to(dtype)
    for merged in (in_type, (half.float() + update).to(dtype), half + b_OR.to(dtype) @ a_RI.to(dtype)):
        assert merge_of(half, merged, update).times == {1}
    for merged in (in_type, (base + update).to(dtype)):  # from a base of more digits
        assert merge_of(base, merged, update).times == {1}
    assert merge_of(half, in_type + update.to(dtype), update).times == {2}
    assert merge_of(half, half.clone(), update).times == {0}
    assert merge_of(half, torch.cat([in_type[:45], half[45:]]), update).times == set()
    other = low_rank(90, 120, 4)
    assert merge_of(half, half + (other * update.norm() / other.norm()).to(dtype), update).times == set()

    merge = merge_of(half, in_type.float(), update)  # saved in a finer type than it was merged in
    assert (merge.times, merge.dtype) == ({1}, dtype)

    merge, stayed = merge_of(half, in_type, update), in_type == half
    assert merge.swallowed == pytest.approx(float(update[stayed].square().sum()), rel=1e-4)


def test_an_update_that_rounding_swallows_whole_could_have_been_merged() -> None:
    base = torch.randn(60, 70).to(torch.bfloat16)
    update = 1e-4 * base.float()
    merge = merge_of(base, base + update.to(torch.bfloat16), update)
    assert merge.times >= {0, 1}
    assert merge.swallowed == pytest.approx(merge.energy)


def test_shares_in_the_text_anchor() -> None:
    """Embedding rows lie in 5 known directions; an update inside them has share 1, one beside them 0."""
    space_DD = torch.linalg.qr(torch.randn(50, 50))[0]
    sizes_K = torch.tensor([5.0, 4, 3, 2, 1])
    rows = (torch.randn(400, 5) * sizes_K + 1.0) @ space_DD[:, :5].T
    embedding = Source(checkpoint_of_tensors({"e": rows}), "e")
    anchor = fit_text_anchor(embedding)
    assert anchor.counts == (1, 2, 5)
    base = torch.randn(50, 70)
    for inside, share in ((space_DD[:, :5], 1.0), (space_DD[:, 5:], 0.0)):
        update = inside @ torch.randn(inside.shape[1], 70)
        change = change_of(base, base + update, directions_DK=anchor.directions_DK)
        assert change.text_energies_K is not None
        shares = anchor.shares(change.text_energies_K, change.update_energy)
        assert shares[-1] == pytest.approx(share, abs=1e-4)
    for direction, in_first in ((anchor.directions_DK[:, :1], 1.0), (anchor.directions_DK[:, 4:], 0.0)):
        change = change_of(base, base + direction @ torch.randn(1, 70), directions_DK=anchor.directions_DK)
        assert change.text_energies_K is not None
        assert anchor.shares(change.text_energies_K, change.update_energy) == pytest.approx(
            (in_first, in_first, 1.0), abs=1e-4
        )
    change = change_of(base, base + torch.randn(50, 70), directions_DK=anchor.directions_DK)
    assert change.text_energies_K is not None
    assert anchor.shares(change.text_energies_K, change.update_energy)[-1] == pytest.approx(5 / 50, abs=0.03)


def test_leading_directions_of_a_wide_space_are_those_of_the_whole_basis(monkeypatch: pytest.MonkeyPatch) -> None:
    """Span and order, at a spectrum that falls as that of embeddings."""
    sizes_D = torch.arange(1, 201) ** -0.5
    stream = MomentsStream(200)
    stream.add(torch.randn(800, 200) * sizes_D + 0.3)
    moments = stream.moments()
    whole = text_anchor.leading_directions(moments, 20)
    monkeypatch.setattr(text_anchor, "LARGEST_WHOLE", 100)
    quick = text_anchor.leading_directions(moments, 20).double()
    torch.testing.assert_close(quick.T @ quick, torch.eye(20, dtype=torch.float64), atol=1e-4, rtol=0)
    assert float((whole.T @ quick).square().sum()) > 19.5, "nearly the same span"
    assert float((whole[:, :5].T @ quick[:, :5]).square().sum()) > 4.95, "and order"


def test_text_counts_weight_the_rows() -> None:
    rows = torch.eye(8).repeat(1, 1)
    anchor = fit_text_anchor(Source(checkpoint_of_tensors({"e": rows}), "e"), {3: 5, 9: 1})  # pyright: ignore
    assert anchor.directions_DK[:, 0].abs().argmax() == 3
    assert "1 embedding rows, weighted by 5 tokens" in anchor.source


@pytest.mark.parametrize("shape", [(40, 60), (60, 40)])
def test_intruders_are_those_of_peft(shape: tuple[int, int]) -> None:
    """Against the definition in PEFT's `reduce_intruder_dimension`, with full decompositions."""
    base = torch.randn(shape)
    for size in (0.0, 3.0, 30.0):
        tuned = base + low_rank(*shape, 3, size)
        old, new = (torch.linalg.svd(w.double(), full_matrices=False)[0] for w in (base, tuned))
        expected = int(((new.T @ old).abs().max(dim=1).values[:10] < 0.5).sum())
        assert count_intruders(base, tuned) == expected
        torch.testing.assert_close((left_vectors(tuned) * new).sum(0).abs(), torch.ones(40, dtype=torch.float64))
    assert expected == 3


@pytest.mark.parametrize("num_missing", [0, 12])
def test_the_table_of_parts_fits_a_terminal(num_missing: int) -> None:
    embedding = PartRow(
        part="embedding",
        num_tensors=338,
        num_changed=338,
        num_missing=num_missing,
        relative=1.2345,
        norm_ratio=1.2345,
        ranks="2 to >128",
        text_shares=(0.01234, 0.1234, 0.2345),
    )
    anchor = AnchorSummary(source="the embedding", width=3584, counts=(36, 179, 358))
    report = DiffReport(
        base="a", tuned="b", findings=(Finding("x", "note", "-"),), parts=(embedding,), tensors=(), anchor=anchor
    )
    table = report.part_table()
    header, (row,) = table.header, table.rows
    assert header[-1] == "text 1/5/10%" and row[-1] == "1.23 / 12.3 / 23.4"
    assert ("missing" in header) == (num_missing > 0)
    title, *others = zip(header, row, strict=True)
    widths = [max(map(len, " ".join(title).split())), *(max(map(len, cells)) for cells in others)]  # titles wrap
    assert sum(width + 2 for width in widths) <= 80
