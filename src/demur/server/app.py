"""The ASGI application and all its routes: chat, models, health, readiness, metrics."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from time import monotonic
from typing import Any

from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, Response
from prometheus_client.exposition import CONTENT_TYPE_LATEST
from starlette.exceptions import HTTPException

from demur.base.errors import BackendError, ConfigError, DemurError
from demur.core.serving import Backend
from demur.server.admission.control import AdmissionControl, Caller, require_local_host
from demur.server.chat import answer_chat
from demur.server.errors import ApiError, api_error
from demur.server.monitoring.live_scores import LiveScores
from demur.server.monitoring.log import log_event
from demur.server.monitoring.metrics import Metrics
from demur.server.monitoring.promises import PromiseMonitors
from demur.server.openapi import CHAT, HEALTH, METRICS, MODELS, READY, openapi_document
from demur.server.registry import Access, AccessRegistry
from demur.server.reloader import PolicyReloader
from demur.server.requests.context import context_of
from demur.server.requests.middleware import RequestMiddleware
from demur.server.settings import ServerSettings
from demur.server.state import ServerState
from demur.store.run import RunFolder

READY_S = 1.0  # for which /readyz repeats its last answer, so that probes do not load the backend


class _App(FastAPI):
    def openapi(self) -> dict[str, Any]:
        """Return the handwritten document: the routes parse their own bodies, unseen by FastAPI."""
        return openapi_document()


class Service:
    """The application with its state: what `demur serve` runs.

    access: the policies and tenants to begin with. watched_runs: runs whose calibration scores live
    scores are compared with. live: folder for live scores, or None. Raises PolicyError for a policy
    of another model, and ConfigError for settings that contradict each other.
    """

    def __init__(
        self,
        settings: ServerSettings,
        backend: Backend,
        access: Access,
        watched_runs: Sequence[RunFolder] = (),
        live: Path | None = None,
    ) -> None:
        if access.tenants is None and not settings.is_local:
            raise ConfigError(
                f"without a tenants file anybody who reaches {settings.host} could use this server",
                "give --tenants FILE (keys: demur keys NAME), or bind to 127.0.0.1",
            )
        # Policies that a reload brings are held to the same.
        policies = replace(
            access.policies,
            answers=settings.usual_answers,
            stops_nothing=backend.stops_nothing,
        )
        access, metrics = replace(access, policies=policies), Metrics()
        registry = AccessRegistry(
            access, metrics.record_reload, default_policy=settings.default_policy
        )
        metrics.set_policies(access.policies)
        for served in access.policies.policies.values():
            served.policy.require_model(backend.fingerprint)
            policies.require_served_monitor(served.policy)
        _require_known(settings.declared_categories, access)
        monitors = PromiseMonitors(watched_runs, access.policies, metrics, settings.watch_rows)
        lost = metrics.count_lost_scores
        live_scores = LiveScores(live, backend.fingerprint, lost) if live is not None else None
        self.draining = False  # set by the first signal to end: /readyz fails from then on
        self.state = ServerState(
            settings=settings,
            backend=backend,
            registry=registry,
            admission=AdmissionControl(registry, settings),
            metrics=metrics,
            monitors=monitors,
            live_scores=live_scores,
        )
        self.reloader = PolicyReloader(registry, monitors, metrics, settings.reload_s)
        self._started = int(time.time())
        # the backend's last readiness, and the time until which it is repeated
        self._readiness: tuple[float, bool] = (0.0, False)
        self._readiness_lock = asyncio.Lock()
        self.app = self._app()

    def _app(self) -> FastAPI:
        # No pages of documentation: they load scripts from elsewhere. No redirects of slashes:
        # every path but those below is unknown.
        app = _App(
            title="demur",
            openapi_url="/openapi.json" if self.state.settings.describe else None,
            docs_url=None,
            redoc_url=None,
            redirect_slashes=False,
            lifespan=self._lifespan,
            exception_handlers={ApiError: _refuse, DemurError: _refuse, HTTPException: _no_route},
        )
        app.add_api_route(CHAT, self.chat, methods=["POST"], response_model=None)
        app.add_api_route(MODELS, self.models, methods=["GET"], response_model=None)
        app.add_api_route(
            MODELS + "/{model:path}", self.model, methods=["GET"], response_model=None
        )
        app.add_api_route(HEALTH, self.health, methods=["GET"], response_model=None)
        app.add_api_route(READY, self.ready, methods=["GET"], response_model=None)
        app.add_api_route(METRICS, self.metrics, methods=["GET"], response_model=None)
        app.add_middleware(
            RequestMiddleware,
            metrics=self.state.metrics,
            routes=frozenset({CHAT, MODELS, HEALTH, READY, METRICS}),
            limits=self.state.settings.limits,
        )
        return app

    @asynccontextmanager
    async def _lifespan(self, _: FastAPI) -> AsyncIterator[None]:
        reloading = asyncio.create_task(self.reloader.run())
        try:
            yield
        finally:
            reloading.cancel()
            # scores first: the backend's end may take long, or be cut off
            await self.state.monitors.flush()
            if self.state.live_scores is not None:
                await asyncio.to_thread(self.state.live_scores.close)
            await self.state.backend.close()

    async def chat(self, request: Request) -> Response:
        """POST /v1/chat/completions: decide, then answer or refuse."""
        return await answer_chat(request, self.state)

    async def models(self, request: Request) -> dict[str, Any]:
        """GET /v1/models: the one model, with the policies that this key may use."""
        return {"object": "list", "data": [self._model(request)]}

    async def model(self, request: Request, model: str) -> dict[str, Any]:
        """GET /v1/models/NAME: the model. Raises ApiError 404 for another name."""
        found = self._model(request)
        if model != found["id"]:
            raise ApiError(
                404,
                f"The model {model[:256]!r} does not exist here.",
                code="model_not_found",
                param="model",
            )
        return found

    async def health(self) -> dict[str, str]:
        """GET /healthz: the process lives."""
        return {"status": "ok"}

    async def ready(self) -> Response:
        """GET /readyz: 200 if a chat request would be answered now, else 503 without the reason."""
        if self.draining:
            return JSONResponse({"status": "shutting down"}, status_code=503)
        if (fault := self.reloader.fault) is not None:
            log_event(logging.ERROR, "not ready", reason=fault)
            return JSONResponse({"status": "not ready"}, status_code=503)
        if await self._is_ready():
            return JSONResponse({"status": "ready"})
        return JSONResponse({"status": "not ready"}, status_code=503)

    async def metrics(self, request: Request) -> Response:
        """GET /metrics: Prometheus' metrics, for operators or, if so set, this machine."""
        if self.state.settings.open_metrics:
            require_local_host(request.headers)
        else:
            caller = self._admit(request, self.state.registry.current)
            if not caller.tenant.sees_scores:
                raise ApiError(403, "This key is not an operator's.", code="operators_only")
        return Response(self.state.metrics.render(), media_type=CONTENT_TYPE_LATEST)

    def _model(self, request: Request) -> dict[str, Any]:
        """Return OpenAI's model object with the names of the policies that the caller may use."""
        access = self.state.registry.current
        caller = self._admit(request, access)
        policies = [p for p in caller.tenant.policies if p in access.policies.policies]
        return {
            "id": self.state.settings.model,
            "object": "model",
            "created": self._started,
            "owned_by": "demur",
            "demur": {"policies": policies},
        }

    def _admit(self, request: Request, access: Access) -> Caller:
        """Admit a request until its end. Raises ApiError 401, 403, 429 or 503."""
        context = context_of(request)
        admitted = self.state.admission.admitted(request.headers, access)
        caller = context.exit_stack.enter_context(admitted)
        context.tenant, context.key = caller.tenant.name, caller.key
        return caller

    async def _is_ready(self) -> bool:
        # one call of the backend at a time: probes that wait here share its result
        async with self._readiness_lock:
            good_until, was = self._readiness
            if monotonic() < good_until:
                return was
            try:
                await self.state.backend.ready()
                now = True
            except DemurError as e:
                now = False
                log_event(logging.WARNING, "not ready", reason=e.message, hint=e.hint)
            self._readiness = (monotonic() + READY_S, now)
            return now


def _require_known(categories: Sequence[str], access: Access) -> None:
    """Raise ConfigError for a category that is in no policy's taxonomy."""
    known = {n for held in access.policies.policies.values() for n in held.policy.taxonomy.names}
    for name in categories:
        if name not in known:
            raise ConfigError(
                f"server.declared_categories names {name!r}, which no policy has",
                f"known: {', '.join(sorted(known))}",
            )


async def _refuse(request: Request, error: Exception) -> Response:
    """Respond to an ApiError or DemurError; log the details that the caller does not see."""
    assert isinstance(error, ApiError | DemurError)
    answer = error if isinstance(error, ApiError) else api_error(error)
    context = context_of(request)
    context.code = answer.code
    if isinstance(error, BackendError) or (isinstance(error, DemurError) and answer.status >= 500):
        log_event(
            logging.ERROR,
            "no answer",
            request_id=context.request_id,
            reason=error.message,
            hint=error.hint,
        )
    return JSONResponse(answer.body(), status_code=answer.status, headers=answer.headers())


async def _no_route(request: Request, error: Exception) -> Response:
    """Respond to an unknown path or method with OpenAI's error object instead of Starlette's."""
    assert isinstance(error, HTTPException)
    code = "method_not_allowed" if error.status_code == 405 else "not_found"
    answer = ApiError(error.status_code, f"There is no {request.method} here.", code=code)
    context_of(request).code = code
    return JSONResponse(answer.body(), status_code=error.status_code, headers=error.headers)
