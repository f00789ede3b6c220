"""The page at `/schema`, for people: Swagger UI, and what each error code means.

It loads files of this server only, by relative links. So it works with no internet access, and below a path prefix.
"""

from collections.abc import Awaitable, Callable
from html import escape
from pathlib import Path
from string import Template
from typing import Any

from litestar import Request, Response

from server.core.errors import Code, NotFound
from server.rest.http.headers import NO_STORE
from server.rest.schema.error_help import ERROR_HELP
from server.rest.schema.openapi import openapi_document
from server.status import STATUS

SWAGGER_UI_VERSION = "5.35.0"
"""The version of the files in `files/`, which browsers may keep as long as it is the same."""

FILES_PATH = "/schema/files"

FOLDER = Path(__file__).parent
MEDIA_TYPES = {
    "page.css": "text/css",
    "page.js": "text/javascript",
    "swagger-ui.css": "text/css",
    "swagger-ui-bundle.js": "text/javascript",
}

PAGE_HEADERS = {
    "Cache-Control": "no-cache",
    "Content-Security-Policy": "default-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data:",
}
FILE_HEADERS = {"Cache-Control": "public, max-age=86400", "X-Content-Type-Options": "nosniff"}


def to_schema() -> Callable[[], Awaitable[Response[bytes]]]:
    """`GET /`: leads to the page, by a relative link."""

    async def handler() -> Response[bytes]:
        return Response(b"", status_code=302, headers={"Location": "schema", **NO_STORE}, media_type="text/plain")

    return handler


def schema_page() -> Callable[..., Awaitable[Response[bytes]]]:
    """`GET /schema`."""
    pages = {ends_with_slash: render_page("." if ends_with_slash else "schema") for ends_with_slash in (True, False)}

    async def handler(request: Request[Any, Any, Any]) -> Response[bytes]:
        page = pages[request.scope["raw_path"].endswith(b"/")]  # Litestar cuts the slash off `path`
        return Response(page, headers=PAGE_HEADERS, media_type="text/html")

    return handler


def schema_file() -> Callable[..., Awaitable[Response[bytes]]]:
    """`GET /schema/files/{name}`. It raises NotFound."""
    contents = {name: (FOLDER / "files" / name).read_bytes() for name in MEDIA_TYPES}

    async def handler(name: str) -> Response[bytes]:
        if name not in contents:
            raise NotFound("There is no such file")
        return Response(contents[name], headers=FILE_HEADERS, media_type=MEDIA_TYPES[name])

    return handler


def render_page(root: str) -> bytes:
    """The page, whose links begin with `root`."""
    operations = "\n".join(
        f"<tr><td><code>{method.upper()}</code><td><code>{escape(path)}</code><td>{escape(operation['summary'])}"
        for path, methods in openapi_document()["paths"].items()
        for method, operation in methods.items()
    )
    errors = "\n".join(render_error(code, status.http.value) for code, status in STATUS.items())
    template = Template((FOLDER / "page.html").read_text())
    return template.substitute(root=root, version=SWAGGER_UI_VERSION, operations=operations, errors=errors).encode()


def render_error(code: Code, status: int) -> str:
    """The row of an error code, to which the `type` of an error leads."""
    means, to_do = map(in_html, ERROR_HELP[code])
    return f'<tr id="{code}"><td><code>{code}</code><td>{status}<td>{means}<td>{to_do}'


def in_html(text: str) -> str:
    """`text`, in which words in backticks are code, as HTML."""
    parts = escape(text).split("`")
    return "".join(f"<code>{part}</code>" if index % 2 else part for index, part in enumerate(parts))
