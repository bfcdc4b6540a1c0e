"""Open what people give: a folder, of which the library that loads it chooses the files, or a single file."""

from collections.abc import Collection, Iterable, Iterator, Mapping
from pathlib import Path

from safetensors import SafetensorError, safe_open
from transformers.utils import CONFIG_NAME, SAFE_WEIGHTS_INDEX_NAME, SAFE_WEIGHTS_NAME

from textanchor.diffs.checkpoint import Checkpoint, Problem
from textanchor.diffs.headers import DamagedHeaderError, StoredTensor, read_header
from textanchor.diffs.strays import stray_files
from textanchor.errors import ModelError
from textanchor.vlm.weight_files import PICKLE_SUFFIXES, weight_files

ADAPTER_CONFIG, ADAPTER_WEIGHTS = "adapter_config.json", "adapter_model.safetensors"


def open_files(path: Path) -> Checkpoint:
    """The checkpoint of a folder or a file; ModelError where there is none, or it is pickled.

    Of a folder the files that `from_pretrained` reads; where it reads none, all safetensors, and `refusal` says why. Of
    a folder that holds an adapter beside a model, the model.
    """
    if path.is_file():
        _refuse_pickle(path)
        read_header(path)  # a single file may be something else altogether
        tensors, problems = _tensors_of([path])
        return Checkpoint(str(path), tensors, _config_folder(path.parent), problems)
    if not path.is_dir():
        raise ModelError(f"{path}: there is no such folder or file; check the path")
    chosen = weight_files(path)
    files = chosen.files or tuple(sorted(p for p in path.glob("*.safetensors") if p.name != ADAPTER_WEIGHTS))
    if not files:
        raise ModelError(f"{path}: {chosen.refusal}")
    tensors, problems = _tensors_of(file for file in files if file.is_file())
    problems = (*problems, *_missing_files(path, files, chosen.index))
    beside = [path / ADAPTER_WEIGHTS] if (path / ADAPTER_CONFIG).is_file() else []  # an adapter is looked at by itself
    return Checkpoint(
        str(path),
        tensors,
        _config_folder(path),
        problems,
        not_held=tuple(_not_held(chosen.index, tensors, problems)),
        refusal=chosen.refusal,
        files=tuple(str(file.relative_to(path)) for file in files),
        strays=stray_files(path, [*files, *beside]),
    )


def open_adapter_weights(folder: Path) -> Checkpoint:
    """Tensors of a PEFT adapter folder; ModelError where they are pickled or missing."""
    file = folder / ADAPTER_WEIGHTS
    strays = stray_files(folder, [file])
    if not file.is_file():
        pickles = ", ".join(stray.name for stray in strays if stray.is_pickled)
        found = f"only {pickles}, pickled, which can run code when read" if pickles else "none"
        raise ModelError(
            f"{folder}: expected the adapter's weights as {ADAPTER_WEIGHTS}, found {found}; where you trust it, load "
            "it with PeftModel.from_pretrained and write it with save_pretrained"
        )
    tensors, problems = _tensors_of([file])
    return Checkpoint(str(folder), tensors, folder, problems, files=(file.name,), strays=strays)


def is_adapter_folder(path: Path) -> bool:
    """Whether a folder holds a PEFT adapter, and no whole model that Transformers would load."""
    names = (SAFE_WEIGHTS_NAME, SAFE_WEIGHTS_INDEX_NAME)
    has_model = (path / CONFIG_NAME).is_file() and any((path / name).is_file() for name in names)
    return (path / ADAPTER_CONFIG).is_file() and not has_model


def _refuse_pickle(path: Path) -> None:
    if path.suffix in PICKLE_SUFFIXES:
        raise ModelError(
            f"{path}: pickled weights can run code when read, so they are refused; where you trust them, load them "
            "with from_pretrained (or torch.load with weights_only=True) and write them with safetensors"
        )


def _config_folder(folder: Path) -> Path | None:
    return folder if (folder / CONFIG_NAME).is_file() else None


def _tensors_of(files: Iterable[Path]) -> tuple[dict[str, StoredTensor], tuple[Problem, ...]]:
    """The tensors that files hold to their end, those of later files over those of earlier ones, and what is wrong."""
    tensors: dict[str, StoredTensor] = {}
    problems: list[Problem] = []
    for file in files:
        try:
            header = read_header(file)
        except DamagedHeaderError:
            problems.append(Problem(file.name, "is no safetensors file, or cut off within its header"))
            continue
        size = file.stat().st_size
        tensors |= {n: t for n, t in header.tensors.items() if t.offset + t.num_bytes <= size}
        if header.missing_bytes:
            problems.append(Problem(file.name, f"is cut off: {size:,} of {size + header.missing_bytes:,} bytes"))
        elif reason := _refused_by_safetensors(file):
            problems.append(Problem(file.name, f"is refused by safetensors, by which it is loaded ({reason})"))
    return tensors, tuple(problems)


def _refused_by_safetensors(file: Path) -> str:
    try:
        with safe_open(file, framework="pt"):
            return ""
    except SafetensorError as error:
        return str(error)


def _missing_files(folder: Path, files: Iterable[Path], index: Mapping[str, str]) -> Iterator[Problem]:
    for file in files:
        if not file.is_file():
            number = sum(folder / where == file for where in index.values())
            yield Problem(file.name, f"is missing, which the index names (tensors in it: {number})")


def _not_held(index: Mapping[str, str], tensors: Collection[str], problems: Collection[Problem]) -> Iterator[Problem]:
    """Tensors that the index names in files which are whole and hold them nowhere."""
    damaged = {problem.file for problem in problems}
    absent: dict[str, list[str]] = {}
    for name, where in index.items():
        if name not in tensors and Path(where).name not in damaged:
            absent.setdefault(Path(where).name, []).append(name)
    for file, names in sorted(absent.items()):
        yield Problem(file, f"lacks tensors that the index names in it: {len(names)}, as {names[0]}")
