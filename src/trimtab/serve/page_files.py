"""The page at `/`, on which decoders are tried in a browser: files of this package, held in memory.

They are answered without the engine, need no key, and hold nothing about the models: the page asks the same routes as
any client. Its colours and type are those of the report's page.

>>> PAGE["index.html"].media_type
'text/html; charset=utf-8'
"""

from dataclasses import dataclass
from importlib.resources import files
from pathlib import PurePath

from fastapi import FastAPI
from fastapi.responses import Response
from starlette.exceptions import HTTPException

PREFIX = "/page/"
"""Where the files are that the page loads."""
HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "Cache-Control": "no-cache",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}
_TYPES = {".html": "text/html", ".css": "text/css", ".js": "text/javascript", ".svg": "image/svg+xml"}


@dataclass(frozen=True)
class PageFile:
    """A file of the page."""

    content: bytes
    media_type: str

    def response(self) -> Response:
        """The file as an answer. A browser runs no script but the page's own, and asks no other server."""
        return Response(self.content, headers=HEADERS, media_type=self.media_type)


def _page() -> dict[str, PageFile]:
    found = {file.name: file for file in files("trimtab.serve").joinpath("page").iterdir()}
    found["house.css"] = files("trimtab.report").joinpath("page.css")
    return {
        name: PageFile(file.read_bytes(), f"{_TYPES[PurePath(name).suffix]}; charset=utf-8")
        for name, file in found.items()
    }


PAGE = _page()


def add_page(app: FastAPI) -> None:
    """Add the page's routes, which are not part of the protocol."""

    @app.get("/", include_in_schema=False)
    async def page() -> Response:
        return PAGE["index.html"].response()

    @app.get(f"{PREFIX}{{name}}", include_in_schema=False)
    async def page_file(name: str) -> Response:
        if name not in PAGE:
            raise HTTPException(404)
        return PAGE[name].response()
