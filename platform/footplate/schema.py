"""The JSON schema of recipes, with which an editor completes and checks them."""

from typing import Any

from pydantic.json_schema import models_json_schema

from footplate.errors import FootplateError
from footplate.job import Job
from footplate.section import Section
from footplate.tasks import TaskError, load_task, task_names

_DRAFT = "https://json-schema.org/draft/2020-12/schema"
Schema = dict[str, Any]


def job_schema(task: str | None = None) -> Schema:
    """The schema of the recipes of one task, or of any installed task. Raises FootplateError for an unknown task."""
    try:
        configs = {name: load_task(name).Config for name in ([task] if task is not None else task_names())}
    except TaskError as error:
        raise FootplateError(f"schema: {error}") from error
    models: list[type[Section]] = [Job, *configs.values()]
    # One call for all, because pydantic then tells apart sections of different tasks that share a name.
    references, everything = models_json_schema([(model, "validation") for model in dict.fromkeys(models)])
    definitions: Schema = everything["$defs"]
    tops = {model: definitions[key["$ref"].rsplit("/", 1)[1]] for (model, _), key in references.items()}
    recipes = [_flat(name, tops[Job], tops[config]) for name, config in configs.items()]
    for definition in [*definitions.values(), *recipes]:
        _relax(definition, definitions)
    used = _reachable(recipes, definitions)
    head = {"$schema": _DRAFT, "title": f"Footplate recipe ({task})" if task is not None else "Footplate recipe"}
    body = recipes[0] if task is not None else {"anyOf": recipes}
    return head | body | {"$defs": {name: definitions[name] for name in sorted(used)}}


def sweep_schema() -> Schema:
    """The schema of the file of a sweep."""
    from footplate.sweeps.sweep import Sweep

    return {"$schema": _DRAFT, **Sweep.model_json_schema(), "title": "Footplate sweep"}


def _flat(task: str, job: Schema, config: Schema) -> Schema:
    """The keys of the job and of the task's config side by side."""
    properties = {name: schema for name, schema in job["properties"].items() if name != "config"}
    properties["task"] = properties["task"] | {"const": task}
    required = [name for name in [*job.get("required", []), *config.get("required", [])] if name != "config"]
    return {
        "type": "object",
        "properties": properties | config["properties"],
        "required": required,
        "additionalProperties": False,
    }


def _relax(schema: Any, definitions: Schema) -> None:
    """Allow what the loader completes: keys that a field's default supplies, among them the `kind` of a variant.

    Sections that a default fills lose their required keys; variants become `anyOf`, as several may fit without `kind`.
    """
    if isinstance(schema, list):
        for entry in schema:
            _relax(entry, definitions)
    if not isinstance(schema, dict):
        return
    if isinstance(schema.get("default"), dict):
        for name in _references(schema):
            definitions[name].pop("required", None)
    if "discriminator" in schema:
        del schema["discriminator"]
        schema["anyOf"] = schema.pop("oneOf")
    for keyword, value in schema.items():
        if keyword == "properties":  # here the keys are the user's words, not the schema's
            _relax(list(value.values()), definitions)
        elif keyword != "default":
            _relax(value, definitions)


def _references(schema: Any) -> set[str]:
    """The definitions that a schema names itself."""
    if isinstance(schema, list):
        return {name for entry in schema for name in _references(entry)}
    if not isinstance(schema, dict):
        return set()
    own = {schema["$ref"].rsplit("/", 1)[1]} if isinstance(schema.get("$ref"), str) else set()
    return own.union(*(_references(value) for value in schema.values()))


def _reachable(schemas: Any, definitions: Schema) -> set[str]:
    """The definitions that schemas need, directly or through others."""
    found: set[str] = set()
    new = _references(schemas)
    while new:
        found |= new
        new = _references([definitions[name] for name in new]) - found
    return found
