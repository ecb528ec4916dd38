"""The HTTP interface: routes, their description, and errors as sentences. It knows neither Ray nor networks."""

from __future__ import annotations

import base64
from importlib import resources
from typing import Annotated, Any, Protocol

import torch
from fastapi import FastAPI, HTTPException, Query, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import HTMLResponse, JSONResponse
from pydantic import BaseModel
from starlette.exceptions import HTTPException as StarletteHTTPException

from stylegan_ray.cluster.serve.access import Access
from stylegan_ray.config import nearest
from stylegan_ray.images.points import Point, Walk
from stylegan_ray.images.saved_w import save_w
from stylegan_ray.images.view import Drawn, ImageRequest, Refusal
from stylegan_ray.untrusted import printable

POLICY = (
    "default-src 'none'; img-src 'self' blob: data:; style-src 'unsafe-inline'; script-src 'unsafe-inline'; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
"""What the browser lets the page do: nothing that reaches another host."""


class ImageService(Protocol):
    """What computes images."""

    async def draw(self, request: ImageRequest) -> Drawn | Refusal: ...

    async def describe(self) -> dict[str, Any]: ...


class Problem(BaseModel):
    """Why a request was refused."""

    detail: str
    """A sentence that names the value and the rule."""


class Network(BaseModel):
    """The network that draws the images."""

    name: str
    """Its file."""
    kimg: float
    """Thousands of images it was trained on."""
    height: int
    width: int
    channels: int
    classes: int
    """Number of classes; 0: not conditional."""
    class_names: list[str]
    """Their names; empty where the data set has none."""
    layers: int
    """Layers that have a style each."""
    w_dim: int
    directions: int
    """Number of SeFa directions that images can be moved along, the strongest first."""


class Image(BaseModel):
    """An image with what it was made of."""

    png: str
    """The PNG file in base64."""
    w: list[list[float]]
    """Styles [layers, w_dim]."""
    network: Network


NOT_JSON = "The body is not JSON; /openapi.json describes it."
ASKED = Annotated[Point, Query()]
PROBLEMS: dict[int | str, dict[str, Any]] = {
    401: {"model": Problem, "description": "The token is missing."},
    413: {"model": Problem, "description": "The body is too large."},
    422: {"model": Problem, "description": "A value is wrong."},
}
PNG: dict[int | str, dict[str, Any]] = {
    200: {"content": {"image/png": {"schema": {"type": "string", "format": "binary"}}}, "description": "The image."}
}
NPZ: dict[int | str, dict[str, Any]] = {
    200: {
        "content": {"application/octet-stream": {"schema": {"type": "string", "format": "binary"}}},
        "description": "An .npz file with w float32 [1, layers, w_dim].",
    }
}


def make_api(service: ImageService, token: str | None = None) -> FastAPI:
    """The application: `/` is the page, /openapi.json describes the rest."""
    # The pages of FastAPI that show the description load scripts from another host.
    api = FastAPI(title="stylegan_ray", version="1", docs_url=None, redoc_url=None)
    api.add_middleware(Access, token=token)
    api.add_exception_handler(RequestValidationError, _refuse_values)
    api.add_exception_handler(400, _refuse_body)
    api.add_exception_handler(404, _refuse_address)
    api.add_exception_handler(405, _refuse_address)
    api.add_exception_handler(500, _fail)

    @api.get("/", response_class=HTMLResponse, summary="The page", include_in_schema=False)
    async def page() -> HTMLResponse:
        return HTMLResponse(page_text(), headers={"Content-Security-Policy": POLICY, "Cache-Control": "no-store"})

    @api.get("/network.json", summary="The network that is loaded", responses={401: PROBLEMS[401]})
    async def network() -> Network:
        return Network(**await service.describe())

    @api.get("/image.png", summary="An image", response_class=Response, responses=PNG | PROBLEMS)
    async def image_png(point: ASKED) -> Response:
        return _file((await _drawn(service, ImageRequest.of(point))).png, "image/png")

    @api.get("/image.json", summary="An image with its styles", responses=PROBLEMS)
    async def image_json(point: ASKED) -> Image:
        drawn = await _drawn(service, ImageRequest.of(point))
        png = base64.b64encode(drawn.png or b"").decode()
        return Image(png=png, w=drawn.ws.tolist(), network=Network(**drawn.network))

    @api.get("/w.npz", summary="The styles of an image", response_class=Response, responses=NPZ | PROBLEMS)
    async def w_npz(point: ASKED) -> Response:
        drawn = await _drawn(service, ImageRequest.of(point, has_image=False))
        return _file(save_w(torch.tensor(drawn.ws[None])), "application/octet-stream")

    @api.post("/walk.png", summary="An image of a walk", response_class=Response, responses=PNG | PROBLEMS)
    async def walk_png(walk: Walk) -> Response:
        return _file((await _drawn(service, ImageRequest.of(walk))).png, "image/png")

    return api


def page_text() -> str:
    """The page: one HTML file with its styles and its script."""
    return (resources.files("stylegan_ray.cluster.serve") / "page.html").read_text(encoding="utf-8")


async def _drawn(service: ImageService, request: ImageRequest) -> Drawn:
    answer = await service.draw(request)
    if isinstance(answer, Refusal):
        raise HTTPException(422, answer.sentence)
    return answer


def _file(content: bytes | None, media_type: str) -> Response:
    return Response(content, media_type=media_type, headers={"Cache-Control": "no-store"})


async def _refuse_values(_request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, RequestValidationError)
    return JSONResponse({"detail": sentence_of(error.errors()[0])}, status_code=422)


async def _refuse_body(_request: Request, _error: Exception) -> JSONResponse:
    """FastAPI's answer to a body that is not text."""
    return JSONResponse({"detail": NOT_JSON}, status_code=422)


async def _refuse_address(request: Request, error: Exception) -> JSONResponse:
    said = f"{request.method} {request.url.path[:60]}: there is nothing like it here; /openapi.json lists all."
    assert isinstance(error, StarletteHTTPException)
    return JSONResponse({"detail": said}, status_code=error.status_code, headers=error.headers)  # 405 names methods


async def _fail(_request: Request, _error: Exception) -> JSONResponse:
    return JSONResponse({"detail": "The image could not be computed; the server's log says why."}, status_code=500)


def sentence_of(error: dict[str, Any]) -> str:
    """One of FastAPI's findings as a sentence."""
    key = ".".join(printable(str(part), 60) for part in error["loc"][1:]) or "the body"
    if error["type"] == "extra_forbidden":
        known = [field.alias or name for name, field in (*Point.model_fields.items(), *Walk.model_fields.items())]
        return f"{key}: there is no such value{nearest(str(error['loc'][-1]), known)}; /openapi.json lists all."
    if error["type"] == "missing":
        return f"{key} is missing; /openapi.json describes it."
    if error["type"] == "json_invalid":
        return NOT_JSON
    rule = error["msg"][:1].lower() + error["msg"][1:]
    return f"{key}={printable(error['input'], 60)}: {printable(rule, 300)}."
