"""A device sender: posts each message as JSON to an HTTP API, with a secret that it never sees, and says what each answer means."""

import functools
import json

from componentize_py_types import Err
from wit_world import exports
from wit_world.exports.describe import Info
from wit_world.imports import sending
from wit_world.imports.types import PluginError_Internal

CONFIG_SCHEMA = {
    "$schema": "https://json-schema.org/draft/2020-12/schema",
    "title": "HTTP API",
    "type": "object",
    "additionalProperties": False,
    "required": ["url"],
    "properties": {
        "url": {
            "title": "URL", "description": "Where messages are posted to.", "type": "string", "pattern": "^https?://",
        },
        "timeout_ms": {
            "title": "Time-out", "description": "In milliseconds; 10,000 by default.",
            "type": "number", "exclusiveMinimum": 0,
        },
    },
}

# A device's own settings.
ADAPTER_SCHEMA = {
    "$schema": "https://json-schema.org/draft/2020-12/schema",
    "type": "object",
    "properties": {"from": {"title": "Sender", "description": "Whom messages come from.", "type": "string"}},
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
            name="python-sender",
            version="1.0.0",
            summary="Posts each message as JSON to an HTTP API.",
            config_schema=json.dumps(CONFIG_SCHEMA),
            adapter_schema=json.dumps(ADAPTER_SCHEMA),
            hosts=[],  # The configuration decides.
            secrets=["API_KEY"],
            # True of an API that heeds Idempotency-Key: what is posted twice is sent once.
            capabilities=[("provider-deduplicates", "true")],
        )


class Sender(exports.Sender):
    @answering
    def start(self, ctx, message):
        config, adapter = json.loads(ctx.config), json.loads(message.device.adapter)
        body = {
            "id": message.message.id,
            "to": message.recipient.address,
            "text": message.content.text,
            "device": message.device.id,
            "attempt": message.message.attempt,
        }
        if "from" in adapter:
            body["from"] = adapter["from"]
        request = sending.HttpRequest(
            method="POST",
            url=config["url"],
            headers=[
                ("Content-Type", "application/json"),
                ("Authorization", "Bearer {{secret:API_KEY}}"),
                ("Idempotency-Key", message.message.id),
            ],
            body=sending.Body_Text(json.dumps(body)),
            timeout_ms=float(config.get("timeout_ms", 10_000)),
        )
        return sending.Progress(sending.Step_Request(sending.Round(request, state="")), account_state=None)

    @answering
    def resume(self, ctx, state, answer):
        return sending.Progress(sending.Step_Done(outcome(answer)), account_state=None)


def outcome(answer):
    """What the answer to the request means."""
    match answer:
        # Nothing has left, so it is safe to try again.
        case sending.Answer_NotSent(why):
            return sending.Outcome_Transient(failure("not-sent", why))
        # It may have been sent: the campaign decides.
        case sending.Answer_Unanswered(why):
            return sending.Outcome_Unknown(failure("unanswered", why))

    response = answer.value
    status, said = response.status, parsed(response.body)
    reason = failure(f"http-{status}", f"the API answered {status}")
    if 200 <= status < 300:
        provider_id = said.get("id")
        provider_id = provider_id if isinstance(provider_id, str) else ""
        return sending.Outcome_Accepted(sending.Acceptance(provider_id, attributes=[]))
    if status == 429:
        pause = sending.Pause(sending.Scope.DEVICE, retry_after_ms(response.headers), reason)
        return sending.Outcome_RetryAfter(pause)
    if status in (401, 403):
        return sending.Outcome_AccountBlocked(reason)
    if 400 <= status < 500:
        match said.get("error"):
            case "unknown-recipient":
                return rejected(sending.RecipientProblem.INVALID, reason)
            case "blocked":
                return rejected(sending.RecipientProblem.BLOCKED, reason)
            case "opted-out":
                return sending.Outcome_OptedOut(reason)
    if 500 <= status < 600:
        return sending.Outcome_Transient(reason)
    return sending.Outcome_ContentRejected(reason)


def parsed(body):
    """The JSON object of an answer; an empty one if it is none."""
    try:
        said = json.loads(body.value)
    except (AttributeError, ValueError):
        return {}
    return said if isinstance(said, dict) else {}


def retry_after_ms(headers):
    """How long the API asks to wait: a minute if it does not say so in seconds."""
    value = dict(headers).get("retry-after", "")
    return int(value) * 1000.0 if value.isascii() and value.isdigit() and len(value) < 10 else 60_000.0


def rejected(problem, reason):
    return sending.Outcome_RecipientPermanent(sending.Rejection(problem, reason))


def failure(code, detail):
    """No address, text or secret belongs in here."""
    return sending.Failure(code, detail, attributes=[])
