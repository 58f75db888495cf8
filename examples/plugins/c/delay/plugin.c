// A delay strategy: a random pause and the time to type the text, longer for as long as the provider asks to slow down.
//
// What the host gives belongs to the call, which frees it; what a call answers is freed by the generated code.

#include <stdio.h>

#include "../json.h"
#include "delay_strategy.h"

// At most this many times slower.
#define SLOWEST 64

static const char CONFIG_SCHEMA[] = JSON({
    "$schema": "https://json-schema.org/draft/2020-12/schema",
    "title": "Typing pace",
    "type": "object",
    "additionalProperties": false,
    "required": ["min_ms", "max_ms"],
    "properties": {
        "min_ms": {"title": "Shortest pause", "description": "In milliseconds.", "type": "number", "minimum": 0},
        "max_ms": {"title": "Longest pause", "description": "In milliseconds.", "type": "number", "minimum": 0},
        "per_character_ms": {
            "title": "For each character", "description": "In milliseconds.", "type": "number", "minimum": 0
        }
    }
});

void exports_carillon_plugin_describe_get(exports_carillon_plugin_describe_info_t *info) {
    *info = (exports_carillon_plugin_describe_info_t){0};
    delay_strategy_string_dup(&info->name, "c-delay");
    delay_strategy_string_dup(&info->version, "1.0.0");
    delay_strategy_string_dup(&info->summary, "Waits as a person would who types, and slows down when asked to.");
    delay_strategy_string_dup(&info->config_schema, CONFIG_SCHEMA);
}

// The state is how many times slower the device is; empty at first. Twice as slow each time that the provider asks to slow down,
// half as slow with each message that it takes.
static unsigned slower(delay_strategy_string_t state, exports_carillon_plugin_delay_last_outcome_t last) {
    unsigned times = 0;
    for (size_t n = 0; n < state.len; n++) times = times * 10 + (state.ptr[n] - '0');
    if (times < 1 || times > SLOWEST) times = 1;
    if (last == EXPORTS_CARILLON_PLUGIN_DELAY_LAST_OUTCOME_THROTTLED) return times * 2 > SLOWEST ? SLOWEST : times * 2;
    if (last == EXPORTS_CARILLON_PLUGIN_DELAY_LAST_OUTCOME_SENT && times > 1) return times / 2;
    return times;
}

bool exports_carillon_plugin_delay_next_delay(
    exports_carillon_plugin_delay_context_t *ctx, exports_carillon_plugin_delay_pace_t *pace, delay_strategy_string_t *state,
    exports_carillon_plugin_delay_next_t *next, exports_carillon_plugin_delay_plugin_error_t *error) {
    json config = {(const char *)ctx->config.ptr, ctx->config.len};
    double min = json_number(config, "min_ms", 0), max = json_number(config, "max_ms", 0);
    bool answered = min <= max;
    if (answered) {
        // All randomness comes with the call, so that a call can be repeated exactly.
        double pause = min + (max - min) * (ctx->random / 4294967296.0);
        double typing = json_number(config, "per_character_ms", 0) * pace->text_length;
        unsigned times = slower(*state, pace->last_outcome);
        char kept[16];
        snprintf(kept, sizeof kept, "%u", times);
        next->delay_ms = (pause + typing) * times;
        delay_strategy_string_dup(&next->state, kept);
    } else {
        error->tag = CARILLON_PLUGIN_TYPES_PLUGIN_ERROR_INVALID_CONFIG;
        delay_strategy_string_dup(&error->val.invalid_config, "min_ms must not be greater than max_ms");
    }
    exports_carillon_plugin_delay_context_free(ctx);
    exports_carillon_plugin_delay_pace_free(pace);
    delay_strategy_string_free(state);
    return answered;
}
