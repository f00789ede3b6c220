"""Renders the OpenAPI document as one HTML page, which loads no other file and runs no script."""

import json
from collections.abc import Sequence
from html import escape
from typing import Any

Json = dict[str, Any]

STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem; color: #1b1f24 }
h2 { margin-top: 2.5rem; padding-top: 1rem; border-top: 1px solid #d0d7de }
table { border-collapse: collapse; width: 100% } td, th { text-align: left; vertical-align: top; padding: .3rem .6rem }
tr { border-bottom: 1px solid #eaeef2 } code, pre { font: 14px/1.45 ui-monospace, monospace }
pre { background: #f6f8fa; padding: 1rem; overflow-x: auto; border-radius: 6px } .method { color: #0a5 }
@media (prefers-color-scheme: dark) { body { background: #0d1117; color: #e6edf3 } pre { background: #161b22 }
  tr, h2 { border-color: #30363d } .method { color: #3fb950 } a { color: #58a6ff } }
"""


def render_page(document: Json, errors: Sequence[tuple[str, ...]]) -> str:
    """The page. `errors` are rows of code, status and title."""
    info = document["info"]
    operations = "".join(
        render_operation(method, path, operation)
        for path, methods in document["paths"].items()
        for method, operation in methods.items()
    )
    schemas = "".join(
        f'<h3 id="{escape(name)}">{escape(name)}</h3>{render_json(schema)}'
        for name, schema in document["components"]["schemas"].items()
    )
    codes = "".join(f'<li id="{code}"><code>{code}</code> ({status}): {title}</li>' for code, status, title in errors)
    return (
        f'<!doctype html><html lang="en"><meta charset="utf-8"><title>{escape(info["title"])} API</title>'
        f'<meta name="viewport" content="width=device-width"><style>{STYLE}</style>'
        f"<h1>{escape(info['title'])} {escape(info['version'])}</h1><p>{escape(info['description'])}</p>"
        f'<p>Name your key in the header <code>X-API-Key</code>. <a href="/schema/openapi.json">openapi.json</a></p>'
        f"{operations}<h2>Error codes</h2><ul>{codes}</ul><h2>Schemas</h2>{schemas}</html>"
    )


def render_operation(method: str, path: str, operation: Json) -> str:
    """One method of one path."""
    parameters = [
        (item["name"], item["in"], item.get("description", ""), json.dumps(item["schema"]))
        for item in operation.get("parameters", [])
    ]
    answers = [
        (status, answer["description"], ", ".join(answer["content"]))
        for status, answer in operation["responses"].items()
    ]
    request = operation.get("requestBody")
    return (
        f'<h2><span class="method">{method.upper()}</span> <code>{escape(path)}</code></h2>'
        f"<p><b>{escape(operation['summary'])}.</b> {escape(operation.get('description', ''))}</p>"
        + (render_table(("Parameter", "In", "What", "Schema"), parameters) if parameters else "")
        + (render_request(request) if request else "")
        + render_table(("Status", "What", "Type"), answers)
    )


def render_request(request: Json) -> str:
    """A request body."""
    content = request["content"]["application/json"]
    name = content["schema"]["$ref"].rpartition("/")[2]
    return (
        f'<p>Body: <a href="#{name}">{name}</a>. {escape(request["description"])}</p>{render_json(content["example"])}'
    )


def render_table(heads: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> str:
    """A table."""
    head = "".join(f"<th>{escape(text)}</th>" for text in heads)
    body = "".join("<tr>" + "".join(f"<td>{escape(text)}</td>" for text in row) + "</tr>" for row in rows)
    return f"<table><tr>{head}</tr>{body}</table>"


def render_json(value: Any) -> str:
    """A value to read."""
    return f"<pre>{escape(json.dumps(value, indent=2))}</pre>"
