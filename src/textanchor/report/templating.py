"""Jinja2 set up once: autoescape on, an undefined name is an error, numbers are written by `numbers`."""

from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from textanchor.report import numbers

TEMPLATES = Path(__file__).parent / "templates"


def _environment() -> Environment:
    environment = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "percent": numbers.percent,
        "compact": numbers.compact,
        "count": numbers.count,
        "duration": numbers.duration,
        "moment": numbers.moment,
    }
    return environment


ENVIRONMENT = _environment()


def render_document(name: str, **values: Any) -> str:
    """A whole document from the template of that file name."""
    return ENVIRONMENT.get_template(name).render(**values)


def render_template(name: str, **values: Any) -> Markup:
    """A fragment from the template of that file name, as HTML that needs no further escaping."""
    return Markup(render_document(name, **values))


def style_sheet() -> Markup:
    """The one style sheet, to be inlined."""
    return Markup((TEMPLATES / "style.css").read_text(encoding="utf-8"))
