"""The REST API: routes, query flags and error bodies as Confluent's Schema Registry has them.

Built by `__main__` (and by tests around an in-memory log). Every handler reads the request, asks `commands`
or the state, and answers JSON; what changes something goes through `Registry.change`.
"""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Callable
from typing import Any

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from crossdock_local.registry import commands, errors
from crossdock_local.registry.commands import SchemaRequest
from crossdock_local.registry.records import Json, StoredSchema
from crossdock_local.registry.service import Registry
from crossdock_local.registry.state import State

MEDIA_TYPE = "application/vnd.schemaregistry.v1+json"


class _Answer(JSONResponse):
    media_type = MEDIA_TYPE


def build_app(registry: Registry, *, on_close: Callable[[], None] = lambda: None) -> Starlette:
    """The ASGI application of a registry, which it starts, follows and lets go of."""

    @contextlib.asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        await registry.start()
        tail = asyncio.create_task(registry.tail())
        yield
        tail.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await tail
        on_close()

    api = _Api(registry)
    subject, version = "/subjects/{subject}", "/subjects/{subject}/versions/{version}"
    routes = [
        Route("/", api.root, methods=["GET"]),
        Route("/readyz", api.ready, methods=["GET"]),
        Route("/contexts", api.contexts, methods=["GET"]),
        Route("/schemas", api.list_schemas, methods=["GET"]),
        Route("/schemas/types", api.schema_types, methods=["GET"]),
        Route("/schemas/ids/{id:int}", api.schema_by_id, methods=["GET"]),
        Route("/schemas/ids/{id:int}/schema", api.schema_text_by_id, methods=["GET"]),
        Route("/schemas/ids/{id:int}/subjects", api.subjects_by_id, methods=["GET"]),
        Route("/schemas/ids/{id:int}/versions", api.versions_by_id, methods=["GET"]),
        Route("/schemas/guids/{guid}", api.schema_by_guid, methods=["GET"]),
        Route("/subjects", api.list_subjects, methods=["GET"]),
        Route(subject, api.find_schema, methods=["POST"]),
        Route(subject, api.delete_subject, methods=["DELETE"]),
        Route(f"{subject}/versions", api.list_versions, methods=["GET"]),
        Route(f"{subject}/versions", api.register, methods=["POST"]),
        Route(version, api.get_version, methods=["GET"]),
        Route(version, api.delete_version, methods=["DELETE"]),
        Route(f"{version}/schema", api.get_version_text, methods=["GET"]),
        Route(f"{version}/referencedby", api.referenced_by, methods=["GET"]),
        Route(f"/compatibility{subject}/versions", api.test_compatibility, methods=["POST"]),
        Route(f"/compatibility{version}", api.test_compatibility, methods=["POST"]),
        *_setting_routes("config", api.get_config, api.put_config, api.delete_config),
        *_setting_routes("mode", api.get_mode, api.put_mode, api.delete_mode),
    ]
    handlers: dict[Any, Any] = {
        errors.RegistryError: _refused,
        HTTPException: _http_error,
        Exception: _internal_error,
    }
    return Starlette(routes=routes, exception_handlers=handlers, lifespan=lifespan)


class _Api:
    def __init__(self, registry: Registry) -> None:
        self._registry = registry

    @property
    def _state(self) -> State:
        return self._registry.state

    async def root(self, _: Request) -> Response:
        return _Answer({})

    async def ready(self, _: Request) -> Response:
        return _Answer({"status": "ready", "writable": self._registry.writable})

    async def contexts(self, _: Request) -> Response:
        return _Answer(["."])

    async def schema_types(self, _: Request) -> Response:
        return _Answer(["AVRO"])

    async def list_schemas(self, request: Request) -> Response:
        found: list[Json] = []
        prefix, deleted = request.query_params.get("subjectPrefix", ""), _flag(request, "deleted")
        for subject in self._state.subjects(prefix=prefix, deleted=deleted):
            versions = self._state.versions(subject, deleted=deleted)
            found += [_version_json(v) for v in (versions[-1:] if _flag(request, "latestOnly") else versions)]
        return _Answer(found)

    async def schema_by_id(self, request: Request) -> Response:
        schema = self._with_id(request)
        answer: Json = {"schema": schema.text, "guid": schema.guid, **_extras(schema)}
        if _flag(request, "fetchMaxId"):
            answer["maxId"] = self._state.highest_id
        return _Answer(answer)

    async def schema_text_by_id(self, request: Request) -> Response:
        return _text(self._with_id(request))

    async def subjects_by_id(self, request: Request) -> Response:
        return _Answer(list(dict.fromkeys(schema.subject for schema in self._places(request))))

    async def versions_by_id(self, request: Request) -> Response:
        places = self._places(request)
        return _Answer([{"subject": schema.subject, "version": schema.version} for schema in places])

    async def schema_by_guid(self, request: Request) -> Response:
        guid = request.path_params["guid"]
        schema = self._state.with_guid(guid.lower())
        if schema is None:
            raise errors.schema_not_found(guid)
        # No id: a guid means the same in every registry, an id does not.
        return _Answer({"schema": schema.text, "guid": schema.guid, **_extras(schema)})

    async def list_subjects(self, request: Request) -> Response:
        return _Answer(
            self._state.subjects(
                prefix=request.query_params.get("subjectPrefix", ""),
                deleted=_flag(request, "deleted"),
                deleted_only=_flag(request, "deletedOnly"),
            )
        )

    async def list_versions(self, request: Request) -> Response:
        subject, only = request.path_params["subject"], _flag(request, "deletedOnly")
        found = self._state.versions(subject, deleted=_flag(request, "deleted"), deleted_only=only)
        if not found:
            raise errors.subject_not_found(subject)
        return _Answer([schema.version for schema in found])

    async def find_schema(self, request: Request) -> Response:
        schema = commands.find(
            self._state,
            request.path_params["subject"],
            SchemaRequest.from_json(await _body(request)),
            normalize=_flag(request, "normalize"),
            deleted=_flag(request, "deleted"),
        )
        return _Answer(_version_json(schema))

    async def get_version(self, request: Request) -> Response:
        return _Answer(_version_json(self._version(request)))

    async def get_version_text(self, request: Request) -> Response:
        return _text(self._version(request))

    async def referenced_by(self, request: Request) -> Response:
        schema = self._version(request)
        referrers = self._state.referrers(schema.subject, schema.version)
        return _Answer(sorted({referrer.id for referrer in referrers}))

    async def register(self, request: Request) -> Response:
        subject, normalize = request.path_params["subject"], _flag(request, "normalize")
        wanted = SchemaRequest.from_json(await _body(request))
        schema: StoredSchema = await self._registry.change(
            lambda state: commands.register(state, subject, wanted, normalize=normalize)
        )
        return _Answer({"id": schema.id, "version": schema.version, "guid": schema.guid})

    async def delete_subject(self, request: Request) -> Response:
        subject, permanent = request.path_params["subject"], _flag(request, "permanent")
        return await self._change(lambda state: commands.delete_subject(state, subject, permanent=permanent))

    async def delete_version(self, request: Request) -> Response:
        subject, version = request.path_params["subject"], request.path_params["version"]
        permanent = _flag(request, "permanent")
        return await self._change(
            lambda state: commands.delete_version(state, subject, version, permanent=permanent)
        )

    async def test_compatibility(self, request: Request) -> Response:
        subject, version = request.path_params["subject"], request.path_params.get("version")
        wanted = SchemaRequest.from_json(await _body(request))
        against = self._state.versions(subject)
        if version is not None and (against or commands.version_number(version) is not None):
            against = [commands.version_of(self._state, subject, version)]
        messages = commands.incompatibilities(self._state, subject, wanted, against)
        answer: Json = {"is_compatible": not messages}
        if _flag(request, "verbose"):
            answer["messages"] = list(messages)
        return _Answer(answer)

    async def get_config(self, request: Request) -> Response:
        subject = request.path_params.get("subject")
        if subject is not None and subject not in self._state.configs:
            if not _flag(request, "defaultToGlobal"):
                raise errors.no_subject_config(subject)
            subject = None
        in_force = {"compatibilityLevel": self._state.level(subject or "").value}
        return _Answer(in_force | self._state.configs.get(subject, {}))

    async def put_config(self, request: Request) -> Response:
        subject, body = request.path_params.get("subject"), await _body(request)
        return await self._change(lambda state: commands.set_config(state, subject, body))

    async def delete_config(self, request: Request) -> Response:
        subject = request.path_params.get("subject")
        return await self._change(lambda state: commands.delete_config(state, subject))

    async def get_mode(self, request: Request) -> Response:
        subject = request.path_params.get("subject")
        if subject is not None and subject not in self._state.modes and not _flag(request, "defaultToGlobal"):
            raise errors.no_subject_mode(subject)
        return _Answer({"mode": self._state.mode(subject)})

    async def put_mode(self, request: Request) -> Response:
        subject, body = request.path_params.get("subject"), await _body(request)
        force = _flag(request, "force")
        return await self._change(lambda state: commands.set_mode(state, subject, body, force=force))

    async def delete_mode(self, request: Request) -> Response:
        subject = request.path_params["subject"]
        return await self._change(lambda state: commands.delete_mode(state, subject))

    async def _change(self, decide: Callable[[State], commands.Decision]) -> Response:
        return _Answer(await self._registry.change(decide))

    def _with_id(self, request: Request) -> StoredSchema:
        schema_id = request.path_params["id"]
        found = self._state.with_id(schema_id)
        subject = request.query_params.get("subject")
        if not found:
            raise errors.schema_not_found(schema_id)
        return next((schema for schema in found if schema.subject == subject), found[0])

    def _places(self, request: Request) -> list[StoredSchema]:
        self._with_id(request)
        subject = request.query_params.get("subject")
        found = self._state.with_id(request.path_params["id"], deleted=_flag(request, "deleted"))
        return [schema for schema in found if subject in (None, schema.subject)]

    def _version(self, request: Request) -> StoredSchema:
        subject, version = request.path_params["subject"], request.path_params["version"]
        return commands.version_of(self._state, subject, version, deleted=_flag(request, "deleted"))


_Handler = Callable[[Request], Any]


def _setting_routes(name: str, get: _Handler, put: _Handler, delete: _Handler) -> list[Route]:
    routes = []
    for path in (f"/{name}", f"/{name}/{{subject}}"):
        routes.append(Route(path, get, methods=["GET"]))
        routes.append(Route(path, put, methods=["PUT"]))
        if path != "/mode":  # The global mode is always set.
            routes.append(Route(path, delete, methods=["DELETE"]))
    return routes


def _version_json(schema: StoredSchema) -> Json:
    place: Json = {"subject": schema.subject, "version": schema.version, "id": schema.id}
    return {**place, "guid": schema.guid, **_extras(schema), "schema": schema.text}


def _extras(schema: StoredSchema) -> Json:
    extras: Json = {}
    if schema.schema_type != "AVRO":
        extras["schemaType"] = schema.schema_type
    if schema.references:
        extras["references"] = [reference.as_json() for reference in schema.references]
    return extras


def _text(schema: StoredSchema) -> Response:
    return Response(schema.text, media_type=MEDIA_TYPE)


def _flag(request: Request, name: str) -> bool:
    return request.query_params.get(name, "").lower() == "true"


async def _body(request: Request) -> Json:
    try:
        body = json.loads(await request.body())
    except ValueError as error:
        raise errors.RegistryError(400, f"The request body is not JSON: {error}") from error
    if not isinstance(body, dict):
        raise errors.RegistryError(400, "The request body is not a JSON object")
    return body


async def _refused(_: Request, error: errors.RegistryError) -> Response:
    return _Answer({"error_code": error.code, "message": error.message}, status_code=error.status)


async def _http_error(_: Request, error: HTTPException) -> Response:
    body = {"error_code": error.status_code, "message": f"HTTP {error.status_code} {error.detail}"}
    return _Answer(body, status_code=error.status_code, headers=error.headers)


async def _internal_error(_: Request, error: Exception) -> Response:
    # The server's log has the trace; the client gets what Confluent's would say.
    return _Answer(
        {"error_code": 500, "message": f"Internal Server Error ({type(error).__name__})"}, status_code=500
    )
