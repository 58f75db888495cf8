// As much JSON as plugins need: members of objects are found in a text, values are read, and texts are written.
#ifndef JSON_H
#define JSON_H

#include <stdbool.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

// A value in a JSON text that somebody else owns; `at` is NULL where there is none.
typedef struct {
    const char *at;
    size_t length;
} json;

// A text on the heap that grows.
typedef struct {
    char *at;
    size_t length, room;
} text;

static inline void text_put(text *to, const char *at, size_t length) {
    if (length > to->room - to->length) {
        to->room = (to->length + length) * 2;
        to->at = realloc(to->at, to->room);
        if (to->at == NULL) abort();
    }
    if (length > 0) memcpy(to->at + to->length, at, length);
    to->length += length;
}

static inline void text_puts(text *to, const char *string) {
    text_put(to, string, strlen(string));
}

static inline bool text_is(const text *a, const char *at, size_t length) {
    return a->length == length && (length == 0 || memcmp(a->at, at, length) == 0);
}

static inline void text_free(text *old) {
    free(old->at);
    *old = (text){0};
}

static inline const char *json_space(const char *at, const char *end) {
    while (at < end && (*at == ' ' || *at == '\t' || *at == '\n' || *at == '\r')) at++;
    return at;
}

// The end of the string that begins here, NULL when it has none.
static inline const char *json_string_end(const char *at, const char *end) {
    for (at++; at < end; at++) {
        if (*at == '"') return at + 1;
        if (*at == '\\') at++;
    }
    return NULL;
}

// The end of the value that begins here, NULL when it has none. Brackets are counted, so that depth costs no stack.
static inline const char *json_end(const char *at, const char *end) {
    size_t depth = 0;
    do {
        if (at == end) return NULL;
        if (*at == '"') {
            if ((at = json_string_end(at, end)) == NULL) return NULL;
        } else if (*at == '{' || *at == '[') {
            depth++;
            at++;
        } else if (*at == '}' || *at == ']') {
            if (depth-- == 0) return NULL;
            at++;
        } else if (depth > 0) {
            at++;
        } else {
            // A number or a word: up to what may stand after it.
            while (at < end && strchr(",:]} \t\n\r", *at) == NULL) at++;
        }
    } while (depth > 0);
    return at;
}

static inline void json_put_code_point(text *to, uint32_t c) {
    char bytes[4];
    size_t length = c < 0x80 ? 1 : c < 0x800 ? 2 : c < 0x10000 ? 3 : 4;
    static const uint8_t FIRST[] = {0, 0, 0xc0, 0xe0, 0xf0};
    for (size_t n = length - 1; n > 0; n--, c >>= 6) bytes[n] = (char)(0x80 | (c & 0x3f));
    bytes[0] = (char)(FIRST[length] | c);
    text_put(to, bytes, length);
}

// The number of four hexadecimal digits, -1 when they are none.
static inline int32_t json_hex(const char *at, const char *end) {
    int32_t value = 0;
    if (end - at < 4) return -1;
    for (int n = 0; n < 4; n++) {
        char c = at[n];
        int digit = c >= '0' && c <= '9'   ? c - '0'
                    : c >= 'a' && c <= 'f' ? c - 'a' + 10
                    : c >= 'A' && c <= 'F' ? c - 'A' + 10
                                           : -1;
        if (digit < 0) return -1;
        value = value * 16 + digit;
    }
    return value;
}

// Appends what a JSON string says; false when the value is no string.
static inline bool json_string(json value, text *to) {
    if (value.at == NULL || value.length < 2 || *value.at != '"') return false;
    const char *at = value.at + 1, *end = value.at + value.length - 1;
    while (at < end) {
        if (*at != '\\') {
            text_put(to, at++, 1);
            continue;
        }
        if (++at == end) return false;
        char c = *at++;
        if (c == 'u') {
            int32_t unit = json_hex(at, end), low;
            if (unit < 0) return false;
            at += 4;
            if (unit >= 0xd800 && unit < 0xdc00 && end - at >= 6 && at[0] == '\\' && at[1] == 'u' &&
                (low = json_hex(at + 2, end)) >= 0xdc00 && low < 0xe000) {
                unit = 0x10000 + ((unit - 0xd800) << 10) + (low - 0xdc00);
                at += 6;
            }
            // Half a pair is no character.
            json_put_code_point(to, unit >= 0xd800 && unit < 0xe000 ? 0xfffd : (uint32_t)unit);
            continue;
        }
        static const char NAMES[] = "bfnrt", VALUES[] = "\b\f\n\r\t";
        const char *name = strchr(NAMES, c);
        text_put(to, name != NULL ? &VALUES[name - NAMES] : &c, 1);
    }
    return true;
}

// The member with this name; none when the value is no object or has no such member.
static inline json json_member(json object, const char *name, size_t length) {
    const json none = {0};
    if (object.at == NULL) return none;
    const char *end = object.at + object.length, *at = json_space(object.at, end);
    if (at == end || *at != '{') return none;
    do {
        at = json_space(at + 1, end);
        if (at == end || *at != '"') return none;
        json key = {.at = at};
        if ((at = json_end(at, end)) == NULL) return none;
        key.length = (size_t)(at - key.at);
        at = json_space(at, end);
        if (at == end || *at != ':') return none;
        json value = {.at = json_space(at + 1, end)};
        if ((at = json_end(value.at, end)) == NULL) return none;
        value.length = (size_t)(at - value.at);
        text decoded = {0};
        bool found = json_string(key, &decoded) && text_is(&decoded, name, length);
        text_free(&decoded);
        if (found) return value;
        at = json_space(at, end);
    } while (at < end && *at == ',');
    return none;
}

static inline json json_get(json object, const char *name) {
    return json_member(object, name, strlen(name));
}

// A member's number, or what stands for it when there is none. A member is followed by something that ends it.
static inline double json_number(json object, const char *name, double otherwise) {
    json value = json_get(object, name);
    return value.at == NULL ? otherwise : strtod(value.at, NULL);
}

// Appends a string in quotes.
static inline void json_put(text *to, const char *at, size_t length) {
    static const char HEX[] = "0123456789abcdef";
    text_put(to, "\"", 1);
    for (const char *end = at + length; at < end; at++) {
        uint8_t c = (uint8_t)*at;
        if (c == '"' || c == '\\') {
            text_put(to, (char[]){'\\', (char)c}, 2);
        } else if (c < 0x20) {
            text_put(to, (char[]){'\\', 'u', '0', '0', HEX[c >> 4], HEX[c & 15]}, 6);
        } else {
            text_put(to, at, 1);
        }
    }
    text_put(to, "\"", 1);
}

// A schema, written as what it is.
#define JSON(...) #__VA_ARGS__

#endif
