"""The dashboard's routes: one way for every page, its ``.json`` and ``.csv`` twins and the API."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Final, ParamSpec, TypeVar
from urllib.parse import quote

import msgspec
from starlette.datastructures import FormData, UploadFile
from starlette.middleware import Middleware
from starlette.middleware.sessions import SessionMiddleware
from starlette.requests import Request as HttpAsk
from starlette.responses import RedirectResponse, Response
from starlette.routing import Route

from farthing.core.errors import BadRequest, FarthingError, Forbidden, NotFound, TooLong, Unauthorized
from farthing.insight.render import render
from farthing.server.pages import guard, state
from farthing.server.pages.actions import ACTIONS, Action
from farthing.server.pages.api import API
from farthing.server.pages.ask import Ask, Person, Sources, View
from farthing.server.pages.blocks import Page, plain
from farthing.server.pages.drawing import Drawing
from farthing.server.pages.files import static
from farthing.server.pages.live import newest_tag
from farthing.server.pages.people import Door, mark
from farthing.server.pages.reading import RememberedLedger, ScopedLedger
from farthing.server.pages.unlogged import with_note
from farthing.server.pages.views import VIEWS

COOKIE: Final = "farthing_session"
THEME: Final = "farthing_theme"
BODY_MAX: Final = 64 * 1024
FILE_MAX: Final = 4 * 1024 * 1024
AT_ONCE: Final = 8
"""Pages that are made at the same time, by threads of their own: however long they take, none of those is kept that
calls need, to look up a name for example."""

Said = ParamSpec("Said")
Answer = TypeVar("Answer")
Endpoint = Callable[[HttpAsk], Awaitable[Response]]


class Dashboard:
    """The pages of one gateway."""

    def __init__(self, sources: Sources) -> None:
        self._sources = sources
        self._door = Door(sources.settings, sources.now_ms)
        self._drawing = Drawing()
        self._remembered = RememberedLedger(sources.reports, sources.ledger, sources.now_ms)
        self._secret = sources.secret()
        self._threads = ThreadPoolExecutor(AT_ONCE, thread_name_prefix="pages")

    def routes(self) -> list[Route]:
        """What is served, static files and sign-in included."""
        found = [
            self._route("/signin", self._sign_in, "GET", "POST"),
            self._route("/signout", self._sign_out, "POST"),
            self._route("/theme", self._theme, "POST"),
            self._route("/live.json", self._live, "GET"),
            Route("/static/{name}", static),
        ]
        for action in ACTIONS:
            found.append(self._route(action.path, self._acting(action), "POST"))
        for view in VIEWS:
            for form, address in _addresses(view):
                found.append(self._route(address, self._showing(view, form), "GET"))
        return found

    def _route(self, path: str, endpoint: Endpoint, *methods: str) -> Route:
        settings = self._sources.settings()
        host = settings.server.host
        local = host == "localhost" or host.startswith("127.") or host == "::1"
        session = Middleware(
            SessionMiddleware,
            secret_key=self._secret.hex(),
            session_cookie=COOKIE,
            max_age=settings.dashboard.session_ms // 1000,
            same_site="lax",
            https_only=not (local or settings.dashboard.plain_http),
        )
        return Route(path, self._safe(endpoint), methods=list(methods), middleware=[session])

    def _safe(self, endpoint: Endpoint) -> Endpoint:
        async def answer(ask: HttpAsk) -> Response:
            try:
                return await endpoint(ask)
            except FarthingError as error:
                return self.failed(ask, error)

        return answer

    def _showing(self, view: View, form: str) -> Endpoint:
        async def show(ask: HttpAsk) -> Response:
            began, cpu = time.perf_counter(), time.thread_time()
            person = await self._person(ask, program=form != "html")
            if person is None:
                return self._must_sign_in(ask, form)
            cpu = time.thread_time() - cpu
            answer, cost = await self._beside(self._built, view, person, ask, form)
            wall = (time.perf_counter() - began) * 1000
            cost += cpu
            answer.headers["server-timing"] = f"page;dur={wall:.1f}, cpu;dur={cost * 1000:.1f}"
            return answer

        return show

    async def _beside(self, call: Callable[Said, Answer], *said: Said.args, **named: Said.kwargs) -> Answer:
        """What blocks, in a thread of the pages."""
        return await asyncio.get_running_loop().run_in_executor(self._threads, partial(call, *said, **named))

    def _built(self, view: View, person: Person, ask: HttpAsk, form: str) -> tuple[Response, float]:
        """The answer, drawn, and the seconds of CPU that its thread took: a large page draws for longer than calls
        of others should wait."""
        began = time.thread_time()
        answer = self._answer(ask, view, self._page(view, person, ask, form), person, form)
        return answer, time.thread_time() - began

    def _page(self, view: View, person: Person, ask: HttpAsk, form: str) -> Page:
        if person.role not in view.roles:
            raise Forbidden(
                f"{view.title} is for {' and '.join(view.roles)}; you are signed in as {person.role}.",
                hint="Ask an admin, or use the pages in the menu.",
            )
        with self._remembered.steady():
            page = view.build(self._ask(view.address, person, ask, form))
        return with_note(page, view.name, logs=self._sources.settings().policy.log.enabled)

    def _ask(self, path: str, person: Person, ask: HttpAsk, form: str = "html") -> Ask:
        now_ms = self._sources.now_ms()
        parts = {name: str(value) for name, value in ask.path_params.items()}
        for name, value in parts.items():
            path = path.replace(f"{{{name}}}", quote(value, safe=""))
        return Ask(
            state=state.read(path, ask.query_params.multi_items(), now_ms=now_ms),
            person=person,
            now_ms=now_ms,
            ledger=ScopedLedger(self._remembered, self._sources.newest, person.scope),
            sources=self._sources,
            path=parts,
            form=form,
        )

    def _answer(self, ask: HttpAsk, view: View, page: Page, person: Person, form: str) -> Response:
        if form == "json":
            body = msgspec.json.format(msgspec.json.encode(plain(page)), indent=2)
            answer = Response(body, 202 if page.pending else 200, media_type="application/json")
            answer.headers.update({"retry-after": "2"} if page.pending else {})
            return guard.secured(answer)
        if form == "csv" and page.pending and not page.tables():
            return guard.secured(Response(status_code=202, media_type="text/csv", headers={"retry-after": "2"}))
        if form == "csv":
            block = page.table(ask.query_params.get("table", ""))
            if block is None:
                raise NotFound("This page has no such table.", hint="Leave ?table= out for its first one.")
            answer = Response(render(block.table, "csv") + "\n", media_type="text/csv; charset=utf-8")
            answer.headers["content-disposition"] = f'attachment; filename="farthing-{view.name}-{block.id}.csv"'
            if page.onward:
                answer.headers["link"] = f'<{page.onward}>; rel="next"'
            return guard.secured(answer)
        nonce = guard.nonce()
        now = state.read(ask.url.path, ask.query_params.multi_items(), now_ms=self._sources.now_ms())
        text = self._drawing.page(
            view,
            page,
            person,
            now,
            nonce=nonce,
            theme=ask.cookies.get(THEME, ""),
            csrf=guard.token(ask.session, self._secret),
        )
        return guard.secured(Response(text, media_type="text/html; charset=utf-8"), nonce)

    def _acting(self, action: Action) -> Endpoint:
        async def act(ask: HttpAsk) -> Response:
            person = await self._person(ask)
            if person is None:
                return self._must_sign_in(ask, "html")
            if person.role not in action.roles:
                raise Forbidden(f"This is for {' and '.join(action.roles)}; you are {person.role}.")
            form = await self._form(ask, uploads=action.uploads)
            try:
                said = {name: await _said(value) for name, value in form.items()}
            finally:
                await form.close()
            result = await self._beside(action.act, self._ask(action.path, person, ask), said)
            if isinstance(result, str):
                return guard.secured(RedirectResponse(result, 303))
            view = next(view for view in VIEWS if view.name == action.view)
            return await self._beside(self._answer, ask, view, result, person, "html")

        return act

    async def _sign_in(self, ask: HttpAsk) -> Response:
        following = _local(ask.query_params.get("next", "/"))
        if ask.method == "POST":
            form = await self._form(ask)
            name, password = str(form.get("name", "")), str(form.get("password", ""))
            try:
                user = await asyncio.to_thread(self._door.sign_in, name, password)
            except Unauthorized as error:
                return self._sign_in_page(ask, following, str(error), 401)
            ask.session.clear()
            ask.session.update(user=user.name, mark=mark(user))
            return guard.secured(RedirectResponse(following, 303))
        if await self._person(ask) is not None:
            return guard.secured(RedirectResponse(following, 303))
        return self._sign_in_page(ask, following, "", 200)

    def _sign_in_page(self, ask: HttpAsk, following: str, problem: str, status: int) -> Response:
        nonce = guard.nonce()
        body = self._drawing.sign_in(
            problem=problem,
            following=quote(following, safe=""),
            nonce=nonce,
            theme=ask.cookies.get(THEME, ""),
            csrf=guard.token(ask.session, self._secret),
        )
        return guard.secured(Response(body, status, media_type="text/html; charset=utf-8"), nonce)

    async def _sign_out(self, ask: HttpAsk) -> Response:
        await self._form(ask)
        ask.session.clear()
        return guard.secured(RedirectResponse("/signin", 303))

    async def _theme(self, ask: HttpAsk) -> Response:
        form = await self._form(ask)
        answer = RedirectResponse(_local(str(form.get("next", "/"))), 303)
        to = form.get("to")
        if to in ("light", "dark"):
            answer.set_cookie(THEME, str(to), max_age=31_536_000, httponly=True, samesite="lax")
        else:
            answer.delete_cookie(THEME)
        return guard.secured(answer)

    async def _live(self, ask: HttpAsk) -> Response:
        """What is newest of what this person sees, as a tag: pages that follow ask for it again and again."""
        person = await self._person(ask, program=True)
        if person is None:
            return self._must_sign_in(ask, "json")
        tag = await asyncio.to_thread(newest_tag, self._ask("/live", person, ask))
        headers = {"etag": f'"{tag}"'}
        if ask.headers.get("if-none-match") == headers["etag"]:
            return guard.secured(Response(status_code=304, headers=headers))
        return guard.secured(
            Response(msgspec.json.encode({"newest": tag}), media_type="application/json", headers=headers)
        )

    async def _person(self, ask: HttpAsk, *, program: bool = False) -> Person | None:
        said = ask.headers.get("authorization", "") if program else ""
        if said:
            found = await asyncio.to_thread(self._door.program, said)
            if found is not None:
                return found
        return self._door.person(ask)

    async def _form(self, ask: HttpAsk, *, uploads: bool = False) -> FormData:
        size, most = ask.headers.get("content-length", ""), FILE_MAX if uploads else BODY_MAX
        if not size.isdigit() or int(size) > most:
            raise TooLong(f"This form is larger than {most:,} bytes.", hint="Send it in parts, or use the command.")
        data = await ask.form(max_files=1 if uploads else 0, max_fields=100, max_part_size=most)
        try:
            guard.check_form(ask.session, self._secret, data)
        except Forbidden:
            await data.close()
            raise
        return data

    def _must_sign_in(self, ask: HttpAsk, form: str) -> Response:
        if form == "html":
            here = ask.url.path + (f"?{ask.url.query}" if ask.url.query else "")
            target = "/signin" if ask.method != "GET" or here == "/" else f"/signin?next={quote(here, safe='')}"
            return guard.secured(RedirectResponse(target, 303))
        return self.failed(ask, Unauthorized("Sign in first.", hint="Programs send name and password by HTTP Basic."))

    def failed(self, ask: HttpAsk, error: FarthingError) -> Response:
        """What went wrong, in the form that was asked for."""
        path = ask.url.path
        status = error.http_status
        if path.endswith((".json", ".csv")) or path.startswith("/api/"):
            body = {"error": {"code": error.code, "message": error.message, "hint": error.hint}}
            return guard.secured(Response(msgspec.json.encode(body), status, media_type="application/json"))
        nonce = guard.nonce()
        body_text = self._drawing.failed(error, nonce=nonce, theme=ask.cookies.get(THEME, ""))
        return guard.secured(Response(body_text, status, media_type="text/html; charset=utf-8"), nonce)


def _addresses(view: View) -> list[tuple[str, str]]:
    """(form, address) of a page and its twins."""
    twin = f"/{view.name}" if view.address == "/" else view.address
    html = [("html", "/")] if view.address == "/" else []
    return [
        *html,
        ("json", f"{twin}.json"),
        ("csv", f"{twin}.csv"),
        ("html", twin),
        ("json", f"{API}{twin}"),
    ]


async def _said(value: UploadFile | str) -> str:
    """What a field says; of a file, its text."""
    if isinstance(value, str):
        return value
    try:
        return (await value.read()).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise BadRequest(f"The file is not UTF-8: {error}.") from error


def _local(address: str) -> str:
    """An address on this site, or its front page."""
    fine = address.startswith("/") and not address.startswith(("//", "/\\")) and address.isprintable()
    return address if fine and len(address) < 4_000 else "/"
