// A device sender: posts each message as JSON to an HTTP API, with a secret that it never sees, and says what each answer means.
//
// What the host gives belongs to the call, which frees it; what a call answers is freed by the generated code.

#include <stdio.h>

#include "../json.h"
#include "device_sender.h"

static const char CONFIG_SCHEMA[] = JSON({
    "$schema": "https://json-schema.org/draft/2020-12/schema",
    "title": "HTTP API",
    "type": "object",
    "additionalProperties": false,
    "required": ["url"],
    "properties": {
        "url": {"title": "URL", "description": "Where messages are posted to.", "type": "string", "pattern": "^https?://"},
        "timeout_ms": {
            "title": "Time-out", "description": "In milliseconds; 10,000 by default.", "type": "number", "exclusiveMinimum": 0
        }
    }
});

// A device's own settings.
static const char ADAPTER_SCHEMA[] = JSON({
    "$schema": "https://json-schema.org/draft/2020-12/schema",
    "type": "object",
    "properties": {"from": {"title": "Sender", "description": "Whom messages come from.", "type": "string"}}
});

// A pair of texts.
static device_sender_tuple2_string_string_t pair(const char *name, const char *value) {
    device_sender_tuple2_string_string_t pair;
    device_sender_string_dup(&pair.f0, name);
    device_sender_string_dup(&pair.f1, value);
    return pair;
}

// Room for so many of these.
static void *room(size_t count, size_t size) {
    void *at = calloc(count, size);
    if (at == NULL) abort();
    return at;
}

void exports_carillon_plugin_describe_get(exports_carillon_plugin_describe_info_t *info) {
    *info = (exports_carillon_plugin_describe_info_t){0};
    device_sender_string_dup(&info->name, "c-sender");
    device_sender_string_dup(&info->version, "1.0.0");
    device_sender_string_dup(&info->summary, "Posts each message as JSON to an HTTP API.");
    device_sender_string_dup(&info->config_schema, CONFIG_SCHEMA);
    device_sender_string_dup(&info->adapter_schema, ADAPTER_SCHEMA);
    // No hosts: the configuration decides.
    info->secrets.len = 1;
    info->secrets.ptr = room(1, sizeof *info->secrets.ptr);
    device_sender_string_dup(&info->secrets.ptr[0], "API_KEY");
    // True of an API that heeds Idempotency-Key: what is posted twice is sent once.
    info->capabilities.len = 1;
    info->capabilities.ptr = room(1, sizeof *info->capabilities.ptr);
    info->capabilities.ptr[0] = pair("provider-deduplicates", "true");
}

static device_sender_string_t give(text text) {
    if (text.length == 0) text_free(&text);
    return (device_sender_string_t){(uint8_t *)text.at, text.length};
}

static void put_member(text *body, const char *name, device_sender_string_t value) {
    text_puts(body, body->length == 0 ? "{" : ",");
    json_put(body, name, strlen(name));
    text_puts(body, ":");
    json_put(body, (const char *)value.ptr, value.len);
}

bool exports_carillon_plugin_sender_start(
    exports_carillon_plugin_sender_context_t *ctx, exports_carillon_plugin_sender_outbound_t *message,
    exports_carillon_plugin_sender_progress_t *progress, exports_carillon_plugin_sender_plugin_error_t *error) {
    json config = {(const char *)ctx->config.ptr, ctx->config.len};
    text url = {0}, from = {0}, body = {0};
    json_string(json_get(config, "url"), &url);

    put_member(&body, "id", message->message.id);
    put_member(&body, "to", message->recipient.address);
    put_member(&body, "text", message->content.text);
    put_member(&body, "device", message->device.id);
    json adapter = {(const char *)message->device.adapter.ptr, message->device.adapter.len};
    if (json_string(json_get(adapter, "from"), &from)) {
        put_member(&body, "from", (device_sender_string_t){(uint8_t *)from.at, from.length});
    }
    text_free(&from);
    char attempt[32];
    snprintf(attempt, sizeof attempt, ",\"attempt\":%u}", (unsigned)message->message.attempt);
    text_puts(&body, attempt);

    *progress = (exports_carillon_plugin_sender_progress_t){0};
    progress->step.tag = CARILLON_PLUGIN_SENDING_STEP_REQUEST;
    carillon_plugin_sending_http_request_t *request = &progress->step.val.request.request;
    device_sender_string_dup(&request->method, "POST");
    request->url = give(url);
    request->headers.len = 3;
    request->headers.ptr = room(3, sizeof *request->headers.ptr);
    request->headers.ptr[0] = pair("Content-Type", "application/json");
    request->headers.ptr[1] = pair("Authorization", "Bearer {{secret:API_KEY}}");
    request->headers.ptr[2] = pair("Idempotency-Key", "");
    device_sender_string_dup_n(
        &request->headers.ptr[2].f1, (const char *)message->message.id.ptr, message->message.id.len);
    request->body.tag = CARILLON_PLUGIN_SENDING_BODY_TEXT;
    request->body.val.text = give(body);
    request->timeout_ms = json_number(config, "timeout_ms", 10000);

    exports_carillon_plugin_sender_context_free(ctx);
    exports_carillon_plugin_sender_outbound_free(message);
    return true;
}

// No address, text or secret belongs in here.
static carillon_plugin_sending_failure_t failure(const char *code, device_sender_string_t detail) {
    carillon_plugin_sending_failure_t failure = {0};
    device_sender_string_dup(&failure.code, code);
    device_sender_string_dup_n(&failure.detail, (const char *)detail.ptr, detail.len);
    return failure;
}

// How long the API asks to wait: a minute if it does not say so in seconds.
static double retry_after_ms(const carillon_plugin_sending_http_response_t *response) {
    static const char NAME[] = "retry-after";
    for (size_t n = 0; n < response->headers.len; n++) {
        device_sender_string_t name = response->headers.ptr[n].f0, value = response->headers.ptr[n].f1;
        if (name.len != sizeof NAME - 1 || memcmp(name.ptr, NAME, name.len) != 0) continue;
        double seconds = 0;
        bool is_number = value.len > 0 && value.len < 10;
        for (size_t i = 0; i < value.len && is_number; i++) {
            is_number = value.ptr[i] >= '0' && value.ptr[i] <= '9';
            seconds = seconds * 10 + (value.ptr[i] - '0');
        }
        if (is_number) return seconds * 1000;
    }
    return 60000;
}

// What the API's answer means.
static carillon_plugin_sending_outcome_t outcome(const carillon_plugin_sending_http_response_t *response) {
    json said = {0};
    if (response->body.tag == CARILLON_PLUGIN_SENDING_BODY_TEXT) {
        said = (json){(const char *)response->body.val.text.ptr, response->body.val.text.len};
    }
    unsigned status = response->status;
    carillon_plugin_sending_outcome_t outcome = {0};
    if (status >= 200 && status < 300) {
        text id = {0};
        json_string(json_get(said, "id"), &id);
        outcome.tag = CARILLON_PLUGIN_SENDING_OUTCOME_ACCEPTED;
        outcome.val.accepted.provider_id = give(id);
        return outcome;
    }
    char code[32], detail[64];
    snprintf(code, sizeof code, "http-%u", status);
    snprintf(detail, sizeof detail, "the API answered %u", status);
    device_sender_string_t why = {(uint8_t *)detail, strlen(detail)};
    carillon_plugin_sending_failure_t reason = failure(code, why);
    if (status == 429) {
        outcome.tag = CARILLON_PLUGIN_SENDING_OUTCOME_RETRY_AFTER;
        outcome.val.retry_after = (carillon_plugin_sending_pause_t){
            .scope = CARILLON_PLUGIN_SENDING_SCOPE_DEVICE, .delay_ms = retry_after_ms(response), .reason = reason};
        return outcome;
    }
    if (status == 401 || status == 403) {
        outcome.tag = CARILLON_PLUGIN_SENDING_OUTCOME_ACCOUNT_BLOCKED;
        outcome.val.account_blocked = reason;
        return outcome;
    }
    if (status >= 500 && status < 600) {
        outcome.tag = CARILLON_PLUGIN_SENDING_OUTCOME_TRANSIENT;
        outcome.val.transient = reason;
        return outcome;
    }
    outcome.tag = CARILLON_PLUGIN_SENDING_OUTCOME_CONTENT_REJECTED;
    outcome.val.content_rejected = reason;
    if (status >= 400 && status < 500) {
        text error = {0};
        json_string(json_get(said, "error"), &error);
        text_put(&error, "", 1); // Ends the string.
        bool unknown = strcmp(error.at, "unknown-recipient") == 0;
        if (unknown || strcmp(error.at, "blocked") == 0) {
            outcome.tag = CARILLON_PLUGIN_SENDING_OUTCOME_RECIPIENT_PERMANENT;
            outcome.val.recipient_permanent = (carillon_plugin_sending_rejection_t){
                .problem = unknown ? CARILLON_PLUGIN_SENDING_RECIPIENT_PROBLEM_INVALID
                                   : CARILLON_PLUGIN_SENDING_RECIPIENT_PROBLEM_BLOCKED,
                .reason = reason};
        } else if (strcmp(error.at, "opted-out") == 0) {
            outcome.tag = CARILLON_PLUGIN_SENDING_OUTCOME_OPTED_OUT;
            outcome.val.opted_out = reason;
        }
        text_free(&error);
    }
    return outcome;
}

bool exports_carillon_plugin_sender_resume(
    exports_carillon_plugin_sender_context_t *ctx, device_sender_string_t *state, exports_carillon_plugin_sender_answer_t *answer,
    exports_carillon_plugin_sender_progress_t *progress, exports_carillon_plugin_sender_plugin_error_t *error) {
    *progress = (exports_carillon_plugin_sender_progress_t){0};
    progress->step.tag = CARILLON_PLUGIN_SENDING_STEP_DONE;
    carillon_plugin_sending_outcome_t *done = &progress->step.val.done;
    switch (answer->tag) {
    case CARILLON_PLUGIN_SENDING_ANSWER_RESPONSE:
        *done = outcome(&answer->val.response);
        break;
    case CARILLON_PLUGIN_SENDING_ANSWER_NOT_SENT:
        // Nothing has left, so it is safe to try again.
        done->tag = CARILLON_PLUGIN_SENDING_OUTCOME_TRANSIENT;
        done->val.transient = failure("not-sent", answer->val.not_sent);
        break;
    default:
        // It may have been sent: the campaign decides.
        done->tag = CARILLON_PLUGIN_SENDING_OUTCOME_UNKNOWN;
        done->val.unknown = failure("unanswered", answer->val.unanswered);
    }
    exports_carillon_plugin_sender_context_free(ctx);
    device_sender_string_free(state);
    exports_carillon_plugin_sender_answer_free(answer);
    return true;
}
