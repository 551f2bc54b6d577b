"""Generates the pages of the site that are not written by hand.

The commands' from their --help, the face's from its names, the schema of the report, the gallery from
its report.json files, the notebooks with the outputs they were stored with, and the pages that lie
beside docs/ in the repository.
"""

from __future__ import annotations

import inspect
import json
import posixpath
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from pydoc import locate
from types import FunctionType
from typing import Any

import click

import superweight
from superweight import strategies
from superweight.cli.main import main as command
from superweight.core.markdown import cell, table
from superweight.fleet.index import schema as index_schema
from superweight.report.document import schema
from superweight.report.figures import charts
from superweight.report.html import subjects
from superweight.report.output import rendered
from tools.gallery import EXAMPLES, GALLERY

REPOSITORY = Path(__file__).resolve().parents[1]
NOTEBOOKS = REPOSITORY / "examples"
# Pages that GitHub looks for beside docs/, by their name on the site.
BESIDE = {"CHANGELOG.md": "changelog.md", "CONTRIBUTING.md": "contributing.md", "SECURITY.md": "security.md"}

# What functions of the face return and one does not make oneself.
RETURNED = {
    "CheckedModel": "superweight.api.CheckedModel",
    "Measurement": "superweight.measurement.evaluate.Measurement",
}


def generated() -> dict[str, str | bytes]:
    """Return what is generated, by its path in the site's sources."""
    pages: dict[str, str | bytes] = {
        **{page: (REPOSITORY / file).read_text(encoding="utf-8") for file, page in BESIDE.items()},
        **command_pages(),
        "reference/python.md": python_page(),
        "reference/strategies.md": strategies_page(),
        "reference/json.md": json_page(),
        "reference/report.schema.json": json.dumps(schema(), indent=2),
        "reference/index.schema.json": json.dumps(index_schema(), indent=2),
        "gallery.md": gallery_page(),
    }
    for example in EXAMPLES:
        pages |= gallery_files(example.name)
    for path in sorted(NOTEBOOKS.glob("*.ipynb")):
        pages |= notebook_files(path)
    return pages


def paths() -> set[str]:
    """Return the paths of generated pages that others link to, without generating them."""
    commands = {f"commands/{name}.md" for name in command.commands}
    notebooks = {f"notebooks/{path.stem}.md" for path in NOTEBOOKS.glob("*.ipynb")}
    reference = {f"reference/{name}.md" for name in ("python", "strategies", "json")}
    reference |= {"reference/report.schema.json", "reference/index.schema.json"}
    return {"gallery.md", "commands/index.md", *BESIDE.values(), *commands, *notebooks, *reference}


def linked(markdown: str, page: str) -> str:
    """Return a page with its links to files beside docs/ turned into links on the site.

    A file that has no page there is named and not linked.
    """
    folder = posixpath.dirname(page)

    def turned(match: re.Match[str]) -> str:
        text, target, anchor = match["text"], match["target"], match["anchor"] or ""
        # As GitHub reads it: from the file's own place in the repository.
        source = "" if page in BESIDE.values() else posixpath.join("docs", folder)
        place = posixpath.normpath(posixpath.join(source, target))
        inside = BESIDE.get(place) or (place.removeprefix("docs/") if place.startswith("docs/") else None)
        if inside is None:
            return f"`{place}`" if text.strip("`") == target else text
        return f"[{text}]({posixpath.relpath(inside, folder or '.')}{anchor})"

    return re.sub(r"(?<!!)\[(?P<text>[^\]]+)\]\((?P<target>[^)#:\s]+)(?P<anchor>#[^)]*)?\)", turned, markdown)


def command_pages() -> dict[str, str]:
    """Return a page a command, with its --help as it is printed, and one that lists them."""
    names = list(command.commands)
    rows = [(f"[superweight {name}]({name}.md)", _summary(command.commands[name])) for name in names]
    index = [
        "# Commands",
        "",
        "Every command says the same under `--help`.",
        "",
        *table(("command", "what it does"), rows),
        "",
        *_help(command, "superweight"),
    ]
    pages = {"commands/index.md": "\n".join(index)}
    for name, item in command.commands.items():
        lines = [f"# superweight {name}", "", *_help(item, f"superweight {name}"), "", *_options(item)]
        pages[f"commands/{name}.md"] = "\n".join(lines)
    return pages


def _summary(item: click.Command) -> str:
    return cell((item.help or "").split("\n\n")[0].replace("\n", " "))


def _help(item: click.Command, name: str) -> list[str]:
    context = click.Context(item, info_name=name, max_content_width=100, terminal_width=100)
    return ["```text", item.get_help(context), "```"]


def _options(item: click.Command) -> list[str]:
    with click.Context(item) as context:
        records = [record for each in item.params if (record := each.get_help_record(context)) is not None]
    return [
        "## Options",
        "",
        *table(("option", "meaning"), [(f"`{name}`", cell(text)) for name, text in records]),
    ]


def undocumented() -> list[str]:
    """Return the public names without a docstring: those of the face, their methods, and the strategies."""
    names = {f"sw.{name}": getattr(superweight, name) for name in superweight.__all__}
    names |= {f"strategies.{name}": getattr(strategies, name) for name in public(strategies)}
    names |= {name: locate(path) for name, path in RETURNED.items()}
    for name, value in list(names.items()):
        if inspect.isclass(value):
            own = [each for each in value.__mro__ if each.__module__.partition(".")[0] == "superweight"]
            members = {key: member for each in own for key, member in vars(each).items()}
            names |= {
                f"{name}.{key}": member
                for key, member in members.items()
                if not key.startswith("_") and isinstance(member, FunctionType | property | classmethod)
            }
    return sorted(name for name, value in names.items() if not inspect.getdoc(value))


def python_page() -> str:
    """Return the page of the face: every name of ``superweight.__all__``, with its docstring."""
    lines = ["# Python", "", "    import superweight as sw", "", "hands on these names.", ""]
    for name in superweight.__all__:
        module, defined = superweight._DEFINED[name]
        lines += [
            f"## sw.{name}",
            "",
            f"::: {module}.{defined}",
            "    options:",
            "      show_root_heading: false",
        ]
        lines += ["      show_root_toc_entry: false", ""]
    lines += ["---", ""]
    for name, path in RETURNED.items():
        lines += [f"## {name}", "", f"::: {path}", "    options:", "      show_root_heading: false"]
        lines += ["      show_root_toc_entry: false", ""]
    return "\n".join(lines)


def strategies_page() -> str:
    """Return the page of the public strategies."""
    lines = ["# Strategies", "", (strategies.__doc__ or "").strip().split("\n\n")[0], ""]
    for name in public(strategies):
        lines += [f"## {name}", "", f"::: superweight.strategies.{name}", "    options:"]
        lines += ["      show_root_heading: false", "      show_root_toc_entry: false", ""]
    return "\n".join(lines)


def public(module: Any) -> list[str]:
    """Return what a module defines and does not hide, in its order."""
    return [
        name
        for name, value in vars(module).items()
        if not name.startswith("_") and getattr(value, "__module__", None) == module.__name__
    ]


def json_page() -> str:
    """Return the page of the JSON that others may read."""
    document = schema()
    lines = [
        "# JSON",
        "",
        f"{document['description']} The [schema](report.schema.json) is JSON Schema 2020-12; it ships in "
        "the package as `superweight/report/schema.json`. A report is held to it before it is rendered.",
        "",
    ]
    for name, item in document["$defs"].items():
        lines += [f"## {name}", ""]
        if "description" in item:
            lines += [item["description"], ""]
        if rows := list(_fields(item)):
            lines += [*table(("field", "type", "always there", "what it is"), rows), ""]
    return "\n".join(lines)


def _fields(item: Mapping[str, Any]) -> Iterator[tuple[str, str, str, str]]:
    required = item.get("required", [])
    for name, field in item.get("properties", {}).items():
        there = "yes" if name in required else "no"
        yield f"`{name}`", _type(field), there, cell(field.get("description", ""))


def _type(field: Mapping[str, Any]) -> str:
    if "$ref" in field:
        name = field["$ref"].rpartition("/")[2]
        return f"[{name}](#{name})"
    if "enum" in field:
        return ", ".join("null" if value is None else f'"{value}"' for value in field["enum"])
    for key in ("anyOf", "oneOf", "allOf"):
        if key in field:
            return " or ".join(_type(each) for each in field[key])
    kind = field.get("type", "anything")
    if kind == "array" and isinstance(field.get("items"), Mapping):
        return f"array of {_type(field['items'])}"
    return " or ".join(kind) if isinstance(kind, list) else str(kind)


def gallery_page() -> str:
    """Return the page that leads to the reports."""
    lines = [
        "# Gallery of reports",
        "",
        "What you will get. Every report was made by the command beside it; `make gallery` makes all of them "
        "anew. Each is one page that needs no network and no script.",
        "",
    ]
    for example in EXAMPLES:
        lines += [
            f"## {example.title}",
            "",
            example.seen,
            "",
            "```text",
            f"$ {example.command}",
            "```",
            "",
            f"[Open the report](gallery/{example.name}/report.html) or its "
            f"[report.json](gallery/{example.name}/report.json). It exits {example.exit_code}.",
            "",
        ]
        if picture := _picture(example.name):
            lines += [f"![{picture[1]}](gallery/{example.name}/{picture[0]})", ""]
    return "\n".join(lines)


def _document(name: str) -> dict[str, Any]:
    document: dict[str, Any] = json.loads((GALLERY / f"{name}.json").read_text(encoding="utf-8"))
    return document


def _picture(name: str) -> tuple[str, str] | None:
    """Return the figure that stands for a report, and what it shows."""
    drawings = charts(subjects(_document(name))[0])
    return (f"figures/1-{drawings[0].key}.png", drawings[0].title) if drawings else None


def gallery_files(name: str) -> dict[str, str | bytes]:
    """Return a report's page and figures, rendered from its report.json."""
    document = _document(name)
    files: dict[str, str | bytes] = {
        f"gallery/{name}/{path}": made for path, made in rendered(document).items()
    }
    return {**files, f"gallery/{name}/report.json": (GALLERY / f"{name}.json").read_bytes()}


def notebook_files(path: Path) -> dict[str, str | bytes]:
    """Return a notebook as a page with its stored outputs, its pictures, and the notebook itself."""
    from nbconvert import MarkdownExporter

    body, resources = MarkdownExporter().from_filename(str(path))
    folder = f"notebooks/{path.stem}"
    body = re.sub(r"!\[[^\]]*\]\((output_[\w.]+)\)", lambda match: f"![Output]({path.stem}/{match[1]})", body)
    heading, _, rest = body.lstrip().partition("\n")
    metadata = json.loads(path.read_text(encoding="utf-8"))["metadata"]
    model = metadata["superweight"]["model"]
    note = f"[Download the notebook]({path.stem}.ipynb). Its outputs here are of `{model}`."
    pictures = {f"{folder}/{name}": data for name, data in resources["outputs"].items()}
    return {
        f"{folder}.md": f"{heading}\n\n{note}\n{rest}",
        f"{folder}.ipynb": path.read_bytes(),
        **pictures,
    }
