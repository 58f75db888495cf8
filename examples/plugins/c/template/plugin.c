// A message template: a text in which {name} stands for the recipient's value in the audience's column "name".
//
// What the host gives belongs to the call, which frees it; what a call answers is freed by the generated code.

#include "../json.h"
#include "message_template.h"

static const char CONFIG_SCHEMA[] = JSON({
    "$schema": "https://json-schema.org/draft/2020-12/schema",
    "title": "Text with placeholders",
    "type": "object",
    "additionalProperties": false,
    "required": ["text"],
    "properties": {
        "text": {
            "title": "Text", "description": "{name} stands for the audience's column name.", "type": "string", "minLength": 1
        },
        "subject": {"title": "Subject", "description": "With placeholders, too.", "type": "string"},
        "defaults": {
            "title": "Defaults", "description": "What stands where a recipient has no value.",
            "type": "object", "additionalProperties": {"type": "string"}
        }
    }
});

void exports_carillon_plugin_describe_get(exports_carillon_plugin_describe_info_t *info) {
    *info = (exports_carillon_plugin_describe_info_t){0};
    message_template_string_dup(&info->name, "c-template");
    message_template_string_dup(&info->version, "1.0.0");
    message_template_string_dup(&info->summary, "A text with the recipient's values in it.");
    message_template_string_dup(&info->config_schema, CONFIG_SCHEMA);
}

// The configuration, read.
typedef struct {
    text text, subject;
    bool has_subject;
    json defaults;
} config;

static config config_read(const message_template_string_t *text) {
    json all = {(const char *)text->ptr, text->len};
    config read = {.defaults = json_get(all, "defaults")};
    json_string(json_get(all, "text"), &read.text);
    read.has_subject = json_string(json_get(all, "subject"), &read.subject);
    return read;
}

static void config_free(config *old) {
    text_free(&old->text);
    text_free(&old->subject);
}

static message_template_string_t give(text text) {
    if (text.length == 0) text_free(&text);
    return (message_template_string_t){(uint8_t *)text.at, text.length};
}

// The next placeholder in what is left of a text.
typedef struct {
    const char *before, *name, *after;
    size_t before_length, name_length, after_length;
} placeholder;

// 1 when there is one, 0 when there is none, -1 when it is not closed.
static int find(const char *at, size_t length, placeholder *found) {
    const char *end = at + length, *open = length > 0 ? memchr(at, '{', length) : NULL;
    if (open == NULL) return 0;
    const char *name = open + 1, *close = name < end ? memchr(name, '}', (size_t)(end - name)) : NULL;
    if (close == NULL) return -1;
    *found = (placeholder){
        .before = at, .before_length = (size_t)(open - at),
        .name = name, .name_length = (size_t)(close - name),
        .after = close + 1, .after_length = (size_t)(end - close - 1),
    };
    return 1;
}

// Whether every placeholder is closed; otherwise the configuration cannot work, and the error says so.
static bool closed(const text *template, carillon_plugin_types_plugin_error_t *error) {
    placeholder found = {.after = template->at, .after_length = template->length};
    int more;
    while ((more = find(found.after, found.after_length, &found)) == 1) {}
    if (more == 0) return true;
    error->tag = CARILLON_PLUGIN_TYPES_PLUGIN_ERROR_INVALID_CONFIG;
    message_template_string_dup(&error->val.invalid_config, "a { is not closed");
    return false;
}

// Appends the value of a placeholder; false when there is none.
static bool put_value(text *to, const placeholder *of, const carillon_plugin_types_attributes_t *variables, json defaults) {
    for (size_t n = 0; n < variables->len; n++) {
        message_template_string_t name = variables->ptr[n].f0, value = variables->ptr[n].f1;
        if (name.len == of->name_length && memcmp(name.ptr, of->name, name.len) == 0) {
            text_put(to, (const char *)value.ptr, value.len);
            return true;
        }
    }
    return json_string(json_member(defaults, of->name, of->name_length), to);
}

// Puts values where the text has {name}.
static bool fill(
    const text *template, const exports_carillon_plugin_template_job_t *job, json defaults, message_template_string_t *out,
    carillon_plugin_types_plugin_error_t *error) {
    text filled = {0};
    placeholder found = {.after = template->at, .after_length = template->length};
    while (find(found.after, found.after_length, &found) == 1) {
        text_put(&filled, found.before, found.before_length);
        if (!put_value(&filled, &found, &job->recipient.variables, defaults)) {
            text_free(&filled);
            text why = {0};
            text_puts(&why, "the recipient has no \"");
            text_put(&why, found.name, found.name_length);
            text_puts(&why, "\", and there is no default for it");
            error->tag = CARILLON_PLUGIN_TYPES_PLUGIN_ERROR_INVALID_INPUT;
            error->val.invalid_input = give(why);
            return false;
        }
    }
    text_put(&filled, found.after, found.after_length);
    *out = give(filled);
    return true;
}

// A list of messages and errors, as the generated code calls it.
typedef exports_carillon_plugin_template_result_content_plugin_error_t answer;

static void render(const config *config, const exports_carillon_plugin_template_job_t *job, answer *answer) {
    carillon_plugin_types_content_t content = {0};
    carillon_plugin_types_plugin_error_t error;
    answer->is_err = !fill(&config->text, job, config->defaults, &content.text, &error);
    if (!answer->is_err && config->has_subject) {
        content.subject.is_some = true;
        answer->is_err = !fill(&config->subject, job, config->defaults, &content.subject.val, &error);
        if (answer->is_err) message_template_string_free(&content.text);
    }
    if (answer->is_err) answer->val.err = error;
    else answer->val.ok = content;
}

bool exports_carillon_plugin_template_render(
    exports_carillon_plugin_template_context_t *ctx, exports_carillon_plugin_template_list_job_t *jobs,
    exports_carillon_plugin_template_list_result_content_plugin_error_t *answers,
    exports_carillon_plugin_template_plugin_error_t *error) {
    config config = config_read(&ctx->config);
    bool answered = closed(&config.text, error) && closed(&config.subject, error);
    if (answered) {
        // One answer for each job: a recipient without a value fails alone.
        answers->len = jobs->len;
        answers->ptr = calloc(jobs->len, sizeof *answers->ptr);
        if (answers->ptr == NULL && jobs->len > 0) abort();
        for (size_t n = 0; n < jobs->len; n++) render(&config, &jobs->ptr[n], &answers->ptr[n]);
    }
    config_free(&config);
    exports_carillon_plugin_template_context_free(ctx);
    exports_carillon_plugin_template_list_job_free(jobs);
    return answered;
}

// Appends the names in a text that are not there yet.
static void collect(const text *template, message_template_list_string_t *names) {
    placeholder found = {.after = template->at, .after_length = template->length};
    while (find(found.after, found.after_length, &found) == 1) {
        bool known = false;
        for (size_t n = 0; n < names->len && !known; n++) {
            text name = {(char *)names->ptr[n].ptr, names->ptr[n].len, 0};
            known = text_is(&name, found.name, found.name_length);
        }
        if (known) continue;
        names->ptr = realloc(names->ptr, (names->len + 1) * sizeof *names->ptr);
        if (names->ptr == NULL) abort();
        message_template_string_dup_n(&names->ptr[names->len++], found.name, found.name_length);
    }
}

bool exports_carillon_plugin_template_variables(
    exports_carillon_plugin_template_context_t *ctx, message_template_list_string_t *names,
    exports_carillon_plugin_template_plugin_error_t *error) {
    config config = config_read(&ctx->config);
    bool answered = closed(&config.text, error) && closed(&config.subject, error);
    if (answered) {
        *names = (message_template_list_string_t){0};
        collect(&config.text, names);
        collect(&config.subject, names);
    }
    config_free(&config);
    exports_carillon_plugin_template_context_free(ctx);
    return answered;
}
