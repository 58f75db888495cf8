"""A delay strategy: a random pause and the time to type the text, longer for as long as the provider asks to slow down."""

import functools
import json

from componentize_py_types import Err
from wit_world import exports
from wit_world.exports.delay import LastOutcome, Next
from wit_world.exports.describe import Info
from wit_world.imports.types import PluginError_Internal, PluginError_InvalidConfig

SLOWEST = 64  # times

CONFIG_SCHEMA = {
    "$schema": "https://json-schema.org/draft/2020-12/schema",
    "title": "Typing pace",
    "type": "object",
    "additionalProperties": False,
    "required": ["min_ms", "max_ms"],
    "properties": {
        "min_ms": {"title": "Shortest pause", "description": "In milliseconds.", "type": "number", "minimum": 0},
        "max_ms": {"title": "Longest pause", "description": "In milliseconds.", "type": "number", "minimum": 0},
        "per_character_ms": {
            "title": "For each character", "description": "In milliseconds.", "type": "number", "minimum": 0,
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
            name="python-delay",
            version="1.0.0",
            summary="Waits as a person would who types, and slows down when asked to.",
            config_schema=json.dumps(CONFIG_SCHEMA),
            adapter_schema="",
            hosts=[],
            secrets=[],
            capabilities=[],
        )


class Delay(exports.Delay):
    @answering
    def next_delay(self, ctx, pace, state):
        config = json.loads(ctx.config)
        low, high = config["min_ms"], config["max_ms"]
        if low > high:
            raise Err(PluginError_InvalidConfig("min_ms must not be greater than max_ms"))
        # The state is how many times slower the device is; empty at first. Twice as slow each time that the provider asks to slow
        # down, half as slow with each message that it takes.
        slower = int(state or 1)
        if pace.last_outcome == LastOutcome.THROTTLED:
            slower = min(slower * 2, SLOWEST)
        elif pace.last_outcome == LastOutcome.SENT:
            slower = max(slower // 2, 1)
        # All randomness comes with the call, so that a call can be repeated exactly.
        pause_ms = low + (high - low) * (ctx.random / 2**32)
        typing_ms = config.get("per_character_ms", 0) * pace.text_length
        return Next(delay_ms=float((pause_ms + typing_ms) * slower), state=str(slower))
