"""What the modules of a package import, read from their source without running it."""

import ast
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Import:
    """One import statement's target, as the full name of a module."""

    importer: str
    target: str
    line: int
    at_load: bool
    """Runs when the module is loaded: not inside a function, not under TYPE_CHECKING."""
    for_types: bool
    """Under TYPE_CHECKING."""


def module_files(source: Path) -> dict[str, Path]:
    """Full name -> file of every module under `source`, the folder that holds the package."""
    names = {}
    for path in sorted(source.rglob("*.py")):
        parts = path.relative_to(source).with_suffix("").parts
        names[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return names


def imports_of(source: Path) -> list[Import]:
    """Every import in the package, those inside functions and under TYPE_CHECKING too."""
    files = module_files(source)
    found = []
    for name, path in files.items():
        package = name if path.name == "__init__.py" else name.rpartition(".")[0]
        visitor = _Visitor(name, package, files)
        visitor.visit(ast.parse(path.read_text(encoding="utf-8")))
        found += visitor.found
    return found


class _Visitor(ast.NodeVisitor):
    def __init__(self, importer: str, package: str, files: dict[str, Path]):
        self.importer, self.package, self.files = importer, package, files
        self.found: list[Import] = []
        self.in_function = self.in_type_checking = False

    def visit_FunctionDef(self, node: ast.FunctionDef | ast.AsyncFunctionDef) -> None:
        outside, self.in_function = self.in_function, True
        self.generic_visit(node)
        self.in_function = outside

    visit_AsyncFunctionDef = visit_FunctionDef

    def visit_If(self, node: ast.If) -> None:
        outside = self.in_type_checking
        self.in_type_checking = outside or ast.unparse(node.test) in ("TYPE_CHECKING", "typing.TYPE_CHECKING")
        for statement in node.body:
            self.visit(statement)
        self.in_type_checking = outside
        for statement in node.orelse:
            self.visit(statement)

    def visit_Import(self, node: ast.Import) -> None:
        for alias in node.names:
            self._add(alias.name, node.lineno)

    def visit_ImportFrom(self, node: ast.ImportFrom) -> None:
        base = node.module or ""
        if node.level:
            parents = self.package.split(".")[: len(self.package.split(".")) - node.level + 1]
            base = ".".join([*parents, base] if base else parents)
        for alias in node.names:  # `from package import module` imports the module
            inner = f"{base}.{alias.name}"
            self._add(inner if inner in self.files else base, node.lineno)

    def _add(self, target: str, line: int) -> None:
        at_load = not (self.in_function or self.in_type_checking)
        self.found.append(Import(self.importer, target, line, at_load, self.in_type_checking))
