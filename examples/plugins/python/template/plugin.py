"""A message template: a text in which {name} stands for the recipient's value in the audience's column "name"."""

import functools
import json

from componentize_py_types import Err, Ok
from wit_world import exports
from wit_world.exports.describe import Info
from wit_world.imports.types import (
    Content, PluginError_Internal, PluginError_InvalidConfig, PluginError_InvalidInput,
)

CONFIG_SCHEMA = {
    "$schema": "https://json-schema.org/draft/2020-12/schema",
    "title": "Text with placeholders",
    "type": "object",
    "additionalProperties": False,
    "required": ["text"],
    "properties": {
        "text": {
            "title": "Text", "description": "{name} stands for the audience's column name.",
            "type": "string", "minLength": 1,
        },
        "subject": {"title": "Subject", "description": "With placeholders, too.", "type": "string"},
        "defaults": {
            "title": "Defaults", "description": "What stands where a recipient has no value.",
            "type": "object", "additionalProperties": {"type": "string"},
        },
    },
}


def answering(call):
    """Makes an error of the contract of any other: a call that ends with one of those crashes without a word."""

    @functools.wraps(call)
    def answer(*args):
        try:
            return call(*args)
        except Err:
            raise
        except Exception as error:
            raise Err(PluginError_Internal(f"{type(error).__name__}: {error}"))

    return answer


class Describe(exports.Describe):
    def get(self):
        return Info(
            name="python-template",
            version="1.0.0",
            summary="A text with the recipient's values in it.",
            config_schema=json.dumps(CONFIG_SCHEMA),
            adapter_schema="",
            hosts=[],
            secrets=[],
            capabilities=[],
        )


class Template(exports.Template):
    @answering
    def render(self, ctx, jobs):
        config = json.loads(ctx.config)
        text = pieces(config["text"])
        subject = pieces(config["subject"]) if "subject" in config else None
        defaults = config.get("defaults", {})

        # One answer for each job: a recipient without a value fails alone.
        def answer(job):
            values = defaults | dict(job.recipient.variables)
            try:
                filled = fill(text, values)
                return Ok(Content(filled, subject and fill(subject, values), media=[], attributes=[]))
            except Err as error:
                return error

        return [answer(job) for job in jobs]

    @answering
    def variables(self, ctx):
        config = json.loads(ctx.config)
        names = [name for text in (config["text"], config.get("subject", "")) for _, name in pieces(text)]
        return list(dict.fromkeys(name for name in names if name is not None))


def pieces(text):
    """What a text is made of: texts, each with the name that stands after it, None after the last."""
    found = []
    while "{" in text:
        before, _, after = text.partition("{")
        name, closed, text = after.partition("}")
        if not closed:
            raise Err(PluginError_InvalidConfig("a { is not closed"))
        found.append((before, name))
    return found + [(text, None)]


def fill(pieces, values):
    def value(name):
        if name is None:
            return ""
        if name not in values:
            raise Err(PluginError_InvalidInput(f'the recipient has no "{name}", and there is no default for it'))
        return values[name]

    return "".join(text + value(name) for text, name in pieces)
