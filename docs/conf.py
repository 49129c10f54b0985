"""The manual: ``sphinx-build -W --keep-going -n -b html docs docs/_build`` (extra ``docs``)."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any

from docutils import nodes
from pygments.lexers.special import TextLexer
from sphinx.addnodes import pending_xref
from sphinx.application import Sphinx
from sphinx.environment import BuildEnvironment
from sphinx.pycode import ModuleAnalyzer

_pyproject = tomllib.loads(Path(__file__).parents[1].joinpath("pyproject.toml").read_text("utf-8"))

project = "Flask-ANTS-DR"
author = "the authors of Flask-ANTS-DR"
version = release = _pyproject["project"]["version"]

extensions = ["myst_parser", "sphinx.ext.autodoc"]
exclude_patterns = ["_build"]
myst_enable_extensions = ["colon_fence"]
myst_heading_anchors = 3

html_theme = "furo"
html_title = f"{project} {version}"
html_static_path: list[str] = []
html_copy_source = False
html_show_copyright = False

autodoc_member_order = "bysource"
autodoc_typehints = "description"
autodoc_typehints_description_target = "documented"
autodoc_class_signature = "mixed"

# Other projects are not looked up, so that the manual builds without the network.
nitpick_ignore_regex = [
    (r"py:.*", rf"({name})(\..*)?")
    for name in (
        "apispec",
        "blinker",
        "collections",
        "contextlib",
        "dataclasses",
        "datetime",
        "decimal",
        "enum",
        "flask",
        "flask_httpauth",
        "httpx",
        "kombu",
        "marshmallow",
        "prometheus_client",
        "sqlalchemy",
        "threading",
        "typing",
        "werkzeug",
    )
]
nitpick_ignore_regex += [
    (
        r"py:.*",
        r"Any|FlaskClient|HostSession|Schema|tzinfo|bool|bytes|float|int|str|dict|list|tuple|property|type",
    ),
    (r"py:.*", r"\w+(Error|Interrupt)|Exception(Group)?|Forbidden"),
    # What only `flask ants-dr work` gives.
    (r"py:.*", r"flask_ants_dr\.inbox\.delivery\.Closing"),
]


def _public_name(
    app: Sphinx, env: BuildEnvironment, node: pending_xref, content: nodes.TextElement
) -> nodes.reference | None:
    """Types are annotated where they are defined and documented where they are imported from."""
    target, domain = node.get("reftarget", ""), env.get_domain("py")
    if not target.startswith("flask_ants_dr."):
        return None
    name = target.rpartition(".")[2]
    for package in ("flask_ants_dr", "flask_ants_dr.inbox"):
        found: nodes.reference | None = domain.resolve_xref(
            env, node["refdoc"], app.builder, "obj", f"{package}.{name}", node, content
        )
        if found is not None:
            return found
    return None


def _comment(app: Sphinx, what: str, name: str, obj: Any, options: Any, lines: list[str]) -> None:
    """A signal, or the metadata, is described by the comment over it."""
    module = {"NamedSignal": "flask_ants_dr.signals", "MetaData": "flask_ants_dr.inbox.tables"}
    if found := module.get(type(obj).__name__):
        comments = ModuleAnalyzer.for_module(found).find_attr_docs()
        lines[:] = comments["", name.rpartition(".")[2]]


def setup(app: Sphinx) -> None:
    app.add_lexer("cron", TextLexer)
    app.connect("missing-reference", _public_name)
    app.connect("autodoc-process-docstring", _comment)
