/* File formats of the tokenizer: the published merges file and Hugging Face's tokenizer.json, both
 * gzip or plain. Files come from strangers: sizes, ids and symbols are checked before anything is
 * built on them. Both formats end in the same tables, with symbols in the published spelling (a
 * byte is a printable character, "</w>" ends a word). The only user of zlib. */
#include "data/tokenize_internal.h"

#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <zlib.h>

#include "base/file.h"
#include "base/hash.h"
#include "base/json.h"
#include "base/numeric.h"
#include "base/text.h"

enum {
    MAX_FILE_BYTES = 64 << 20, /* packed or not; the published file unpacks to 3 MB */
    MAX_VOCABULARY = 1 << 24,
    PUBLISHED_MERGES = CPS_TOKENIZER_VOCABULARY - CPS_TOKENIZER_VOCABULARY_MIN
};

/* ---- bytes and their spelling ------------------------------------------------------------- */

static bool is_printable_byte(int32_t byte) {
    return (byte >= 33 && byte <= 126) || (byte >= 161 && byte <= 172) || byte >= 174;
}

void cps_byte_order(uint8_t order_out[256]) {
    int at = 0;
    for (int pass = 0; pass < 2; pass++) {
        for (int32_t byte = 0; byte < 256; byte++) {
            if (is_printable_byte(byte) == (pass == 0)) {
                order_out[at++] = (uint8_t)byte;
            }
        }
    }
}

/* Unprintable bytes are 0-32, 127-160 and 173, numbered in this order from U+0100. */
int32_t cps_byte_spelling(uint8_t byte) {
    if (is_printable_byte(byte)) {
        return byte;
    }
    return 0x100 + (byte <= 32 ? byte : byte <= 160 ? byte - 127 + 33 : 67);
}

int32_t cps_spelling_byte(int32_t code_point) {
    if (code_point >= 0x100 && code_point <= 0x143) {
        const int32_t place = code_point - 0x100;
        return place <= 32 ? place : place <= 66 ? place + 127 - 33 : 173;
    }
    return code_point >= 0 && code_point < 0x100 && is_printable_byte(code_point) ? code_point : -1;
}

void cps_byte_symbol(uint8_t byte, bool ends, char out[12]) {
    size_t length = cps_utf8_put(cps_byte_spelling(byte), out);
    if (ends) {
        memcpy(out + length, "</w>", 4);
        length += 4;
    }
    out[length] = '\0';
}

/* ---- building ----------------------------------------------------------------------------- */

/* A tokenizer under construction: symbols by id, ids by symbol, merges in order of rank. */
typedef struct builder {
    const char *name; /* for messages */
    char *symbols;
    size_t symbol_bytes, symbol_capacity;
    size_t *symbol_at;
    int64_t vocabulary;
    int32_t *slots; /* open-addressed: id + 1, 0 free */
    uint64_t slot_mask;
    int32_t (*merges)[3]; /* left, right, result */
    int64_t merge_count, merge_capacity;
    int32_t start, end;
} builder;

static cps_status out_of_memory(const builder *build) {
    return cps_fail(CPS_ERR_UNAVAILABLE, "tokenizer '%s': out of memory", build->name);
}

static uint64_t power_of_two_above(uint64_t count) {
    uint64_t power = 1024;
    while (power < count) {
        power *= 2;
    }
    return power;
}

static cps_status builder_start(builder *build, int64_t vocabulary, int64_t merges) {
    build->vocabulary = vocabulary;
    build->merge_capacity = merges;
    const uint64_t slots = power_of_two_above((uint64_t)vocabulary * 2);
    build->slot_mask = slots - 1;
    build->slots = calloc(slots, sizeof *build->slots);
    build->symbol_at = malloc((size_t)vocabulary * sizeof *build->symbol_at);
    build->merges = malloc((size_t)(merges + 1) * sizeof *build->merges);
    if (build->slots == NULL || build->symbol_at == NULL || build->merges == NULL) {
        return out_of_memory(build);
    }
    memset(build->symbol_at, 0xFF, (size_t)vocabulary * sizeof *build->symbol_at);
    return CPS_OK;
}

static void builder_end(builder *build) {
    free(build->symbols);
    free(build->symbol_at);
    free(build->slots);
    free(build->merges);
}

static int32_t *find_slot(const builder *build, const char *symbol, size_t length) {
    for (uint64_t slot = cps_hash64(symbol, length);; slot++) {
        int32_t *entry = &build->slots[slot & build->slot_mask];
        if (*entry == 0) {
            return entry;
        }
        const char *other = build->symbols + build->symbol_at[*entry - 1];
        if (strncmp(other, symbol, length) == 0 && other[length] == '\0') {
            return entry;
        }
    }
}

static int32_t find_symbol(const builder *build, const char *symbol, size_t length) {
    return *find_slot(build, symbol, length) - 1;
}

/* Gives `symbol` the number `id`; where two ids have one spelling, text maps to the later, as in
 * the reference. */
static cps_status add_symbol(builder *build, int64_t id, const char *symbol, size_t length) {
    if (build->symbol_bytes + length + 1 > build->symbol_capacity) {
        const size_t capacity = 2 * build->symbol_capacity + length + 4096;
        char *grown = realloc(build->symbols, capacity);
        if (grown == NULL) {
            return out_of_memory(build);
        }
        build->symbols = grown;
        build->symbol_capacity = capacity;
    }
    int32_t *slot = find_slot(build, symbol, length);
    build->symbol_at[id] = build->symbol_bytes;
    memcpy(build->symbols + build->symbol_bytes, symbol, length);
    build->symbols[build->symbol_bytes + length] = '\0';
    build->symbol_bytes += length + 1;
    *slot = (int32_t)id + 1;
    return CPS_OK;
}

static cps_status find_bytes(const builder *build, cps_tokenizer *tokenizer) {
    for (int32_t byte = 0; byte < 256; byte++) {
        for (int ends = 0; ends < 2; ends++) {
            char symbol[12];
            cps_byte_symbol((uint8_t)byte, ends == 1, symbol);
            const int32_t id = find_symbol(build, symbol, strlen(symbol));
            if (id < 0) {
                return cps_fail(CPS_ERR_DATA,
                                "tokenizer '%s': its vocabulary lacks the byte symbol '%s': this "
                                "is no byte-level tokenizer of CLIP's kind",
                                build->name, symbol);
            }
            (ends == 1 ? tokenizer->byte_end_id : tokenizer->byte_id)[byte] = id;
        }
    }
    return CPS_OK;
}

static void fill_merges(const builder *build, cps_tokenizer *tokenizer) {
    for (uint64_t i = 0; i <= tokenizer->merge_mask; i++) {
        tokenizer->merges[i].rank = -1;
    }
    for (int64_t rank = 0; rank < build->merge_count; rank++) {
        const int32_t *merge = build->merges[rank];
        const uint64_t key = (uint64_t)(uint32_t)merge[0] << 32 | (uint32_t)merge[1];
        uint64_t slot = cps_merge_slot(key);
        while (tokenizer->merges[slot & tokenizer->merge_mask].rank >= 0 &&
               tokenizer->merges[slot & tokenizer->merge_mask].key != key) {
            slot++;
        }
        /* A pair that stands twice has its later rank, as in the reference. */
        tokenizer->merges[slot & tokenizer->merge_mask] =
            (cps_merge){.key = key, .rank = (int32_t)rank, .result = merge[2]};
    }
}

static uint64_t digest_of(const builder *build, const cps_tokenizer *tokenizer) {
    cps_hash *hash = cps_hash_create();
    const int64_t header[4] = {tokenizer->vocabulary, tokenizer->start, tokenizer->end,
                               build->merge_count};
    cps_hash_add(hash, header, sizeof header);
    cps_hash_add(hash, tokenizer->byte_id, sizeof tokenizer->byte_id);
    cps_hash_add(hash, tokenizer->byte_end_id, sizeof tokenizer->byte_end_id);
    cps_hash_add(hash, build->merges, (size_t)build->merge_count * sizeof *build->merges);
    const uint64_t value = cps_hash_value(hash);
    cps_hash_destroy(hash);
    return value;
}

static cps_word_cache *cache_create(void) {
    cps_word_cache *cache = calloc(1, sizeof *cache);
    for (int i = 0; cache != NULL && i < CPS_WORD_LOCKS; i++) {
        pthread_mutex_init(&cache->locks[i], NULL);
    }
    return cache;
}

static const char *base_name(const char *path) {
    const char *slash = strrchr(path, '/');
    return slash != NULL ? slash + 1 : path;
}

/* Moves what was built into a tokenizer. */
static cps_status builder_finish(builder *build, int64_t context, cps_tokenizer **tokenizer_out) {
    cps_tokenizer *tokenizer = calloc(1, sizeof *tokenizer);
    if (tokenizer == NULL) {
        return out_of_memory(build);
    }
    const uint64_t slots = power_of_two_above((uint64_t)build->merge_count * 2);
    tokenizer->name = strdup(base_name(build->name));
    tokenizer->merges = malloc(slots * sizeof *tokenizer->merges);
    tokenizer->merge_mask = slots - 1;
    tokenizer->cache = cache_create();
    tokenizer->vocabulary = build->vocabulary;
    tokenizer->context = context;
    tokenizer->start = build->start;
    tokenizer->end = build->end;
    cps_status status = CPS_OK;
    if (tokenizer->name == NULL || tokenizer->merges == NULL || tokenizer->cache == NULL) {
        status = out_of_memory(build);
    } else {
        status = find_bytes(build, tokenizer);
    }
    if (status != CPS_OK) {
        cps_tokenizer_destroy(tokenizer);
        return status;
    }
    fill_merges(build, tokenizer);
    tokenizer->digest = digest_of(build, tokenizer);
    tokenizer->symbols = build->symbols;
    tokenizer->symbol_at = build->symbol_at;
    build->symbols = NULL;
    build->symbol_at = NULL;
    *tokenizer_out = tokenizer;
    return CPS_OK;
}

void cps_tokenizer_destroy(cps_tokenizer *tokenizer) {
    if (tokenizer == NULL) {
        return;
    }
    for (int i = 0; tokenizer->cache != NULL && i < CPS_WORD_LOCKS; i++) {
        pthread_mutex_destroy(&tokenizer->cache->locks[i]);
    }
    free(tokenizer->cache);
    free(tokenizer->name);
    free(tokenizer->merges);
    free(tokenizer->symbols);
    free(tokenizer->symbol_at);
    free(tokenizer);
}

/* ---- the published merges file ------------------------------------------------------------ */

typedef struct text_lines {
    const char *at, *end;
    int64_t number; /* of the line taken last, from 1 */
} text_lines;

/* The next line without its end; false behind the last. */
static bool next_line(text_lines *lines, const char **line_out, size_t *length_out) {
    if (lines->at >= lines->end) {
        return false;
    }
    const char *newline = memchr(lines->at, '\n', (size_t)(lines->end - lines->at));
    const char *stop = newline != NULL ? newline : lines->end;
    size_t length = (size_t)(stop - lines->at);
    *line_out = lines->at;
    if (length > 0 && lines->at[length - 1] == '\r') {
        length--;
    }
    *length_out = length;
    lines->at = newline != NULL ? newline + 1 : lines->end;
    lines->number++;
    return true;
}

/* Merges that the first line asks for: "vocabulary=N" of our own files, else the published number.
 */
static cps_status wanted_merges(const builder *build, const char *line, size_t length,
                                int64_t *merges_out, bool *stated_out) {
    char header[256];
    const size_t kept = length < sizeof header - 1 ? length : sizeof header - 1;
    memcpy(header, line, kept);
    header[kept] = '\0';
    if (strstr(header, "#version") == NULL) {
        return cps_fail(CPS_ERR_DATA,
                        "'%s' is no merges file: its first line is '%.60s', wanted is one that "
                        "holds '#version' (or give a tokenizer.json)",
                        build->name, header);
    }
    *merges_out = PUBLISHED_MERGES;
    const char *vocabulary = strstr(header, "vocabulary=");
    *stated_out = vocabulary != NULL;
    if (vocabulary != NULL) {
        const long long value = strtoll(vocabulary + strlen("vocabulary="), NULL, 10);
        if (value < CPS_TOKENIZER_VOCABULARY_MIN || value > MAX_VOCABULARY) {
            return cps_fail(CPS_ERR_DATA,
                            "merges file '%s': line 1 says vocabulary=%lld, wanted is %d to %d",
                            build->name, value, CPS_TOKENIZER_VOCABULARY_MIN, MAX_VOCABULARY);
        }
        *merges_out = value - CPS_TOKENIZER_VOCABULARY_MIN;
    }
    return CPS_OK;
}

/* Merges that the file holds, at most `wanted`; `stated`: the first line says so, fewer are an
 * error. */
static cps_status count_merges(const builder *build, text_lines lines, int64_t wanted, bool stated,
                               int64_t *count_out) {
    const char *line = NULL;
    size_t length = 0;
    int64_t count = 0;
    while (count < wanted && next_line(&lines, &line, &length) && length > 0) {
        count++;
    }
    if (count < wanted && next_line(&lines, &line, &length)) {
        return cps_fail(CPS_ERR_DATA, "merges file '%s', line %lld is empty but is not the last",
                        build->name, (long long)lines.number - 1);
    }
    if (stated && count < wanted) {
        return cps_fail(CPS_ERR_DATA,
                        "merges file '%s' has %lld merges, its first line promises %lld: it was "
                        "cut short",
                        build->name, (long long)count, (long long)wanted);
    }
    *count_out = count;
    return CPS_OK;
}

static cps_status add_byte_symbols(builder *build) {
    uint8_t order[256];
    cps_byte_order(order);
    for (int ends = 0; ends < 2; ends++) {
        for (int i = 0; i < 256; i++) {
            char symbol[12];
            cps_byte_symbol(order[i], ends == 1, symbol);
            CPS_TRY(add_symbol(build, ends * 256 + i, symbol, strlen(symbol)));
        }
    }
    return CPS_OK;
}

/* One merge "left right" of a file; `place` names it in messages ("line 17", "merge 15"). */
static cps_status add_merge(builder *build, const char *place, int64_t number, const char *left,
                            size_t left_length, const char *right, size_t right_length,
                            bool makes_symbol) {
    const int32_t left_id = find_symbol(build, left, left_length);
    const int32_t right_id = find_symbol(build, right, right_length);
    if (left_id < 0 || right_id < 0) {
        const bool is_left = left_id < 0;
        return cps_fail(
            CPS_ERR_DATA,
            "tokenizer '%s', %s %lld: symbol '%.*s' is neither a byte nor made by an "
            "earlier merge; the file is damaged or not byte-level",
            build->name, place, (long long)number,
            cps_to_int((int64_t)cps_min_i64((int64_t)(is_left ? left_length : right_length), 80)),
            is_left ? left : right);
    }
    char *joined = malloc(left_length + right_length + 1);
    if (joined == NULL) {
        return out_of_memory(build);
    }
    memcpy(joined, left, left_length);
    memcpy(joined + left_length, right, right_length);
    cps_status status = CPS_OK;
    if (makes_symbol) {
        status = add_symbol(build, 512 + build->merge_count, joined, left_length + right_length);
    }
    int32_t *merge = build->merges[build->merge_count];
    merge[0] = left_id;
    merge[1] = right_id;
    merge[2] = status == CPS_OK ? find_symbol(build, joined, left_length + right_length) : -1;
    if (status == CPS_OK && merge[2] < 0) {
        status = cps_fail(CPS_ERR_DATA, "tokenizer '%s', %s %lld: '%.80s' is not in the vocabulary",
                          build->name, place, (long long)number,
                          (joined[left_length + right_length] = '\0', joined));
    }
    free(joined);
    build->merge_count += status == CPS_OK;
    return status;
}

/* A symbol that two merges make has the id of the later one, wherever it stands. */
static void settle_ids(builder *build) {
    for (int64_t i = 0; i < build->merge_count; i++) {
        for (int part = 0; part < 3; part++) {
            const char *symbol = build->symbols + build->symbol_at[build->merges[i][part]];
            build->merges[i][part] = find_symbol(build, symbol, strlen(symbol));
        }
    }
}

static cps_status read_merges(builder *build, text_lines *lines) {
    bool any_end = false;
    while (build->merge_count < build->merge_capacity) {
        const char *line = NULL;
        size_t length = 0;
        if (!next_line(lines, &line, &length)) {
            break;
        }
        const char *blank = memchr(line, ' ', length);
        const size_t left = blank != NULL ? (size_t)(blank - line) : 0;
        if (left == 0 || left + 1 == length || memchr(blank + 1, ' ', length - left - 1) != NULL) {
            return cps_fail(CPS_ERR_DATA,
                            "merges file '%s', line %lld: '%.*s' is not two symbols with one "
                            "blank between them",
                            build->name, (long long)lines->number,
                            cps_to_int(cps_min_i64((int64_t)length, 80)), line);
        }
        CPS_TRY(add_merge(build, "line", lines->number, line, left, blank + 1, length - left - 1,
                          true));
        any_end = any_end || (length > 4 && memcmp(line + length - 4, "</w>", 4) == 0);
    }
    if (!any_end && build->merge_count > 1000) {
        return cps_fail(CPS_ERR_DATA,
                        "merges file '%s': none of %lld merges ends a word with '</w>': this is "
                        "not CLIP's kind of tokenizer (GPT-2's looks like this)",
                        build->name, (long long)build->merge_count);
    }
    settle_ids(build);
    return CPS_OK;
}

static cps_status load_merges(const char *bytes, size_t length, const char *name,
                              cps_tokenizer **tokenizer_out) {
    builder build = {.name = name};
    text_lines lines = {.at = bytes, .end = bytes + length};
    const char *line = "";
    size_t line_length = 0;
    int64_t wanted = 0, merges = 0;
    bool stated = false;
    if (!next_line(&lines, &line, &line_length)) {
        return cps_fail(CPS_ERR_DATA, "merges file '%s' is empty", name);
    }
    CPS_TRY(wanted_merges(&build, line, line_length, &wanted, &stated));
    CPS_TRY(count_merges(&build, lines, wanted, stated, &merges));
    cps_status status = builder_start(&build, merges + CPS_TOKENIZER_VOCABULARY_MIN, merges);
    if (status == CPS_OK) {
        status = add_byte_symbols(&build);
    }
    if (status == CPS_OK) {
        status = read_merges(&build, &lines);
    }
    if (status == CPS_OK) {
        build.start = (int32_t)(512 + build.merge_count);
        build.end = build.start + 1;
        status = add_symbol(&build, build.start, CPS_START_TEXT, strlen(CPS_START_TEXT));
    }
    if (status == CPS_OK) {
        status = add_symbol(&build, build.end, CPS_END_TEXT, strlen(CPS_END_TEXT));
    }
    if (status == CPS_OK) {
        status = builder_finish(&build, CPS_TOKENIZER_CONTEXT, tokenizer_out);
    }
    builder_end(&build);
    return status;
}

/* ---- tokenizer.json ----------------------------------------------------------------------- */

/* An id of the vocabulary, or a failure that names the entry. */
static cps_status json_id(const char *name, const char *symbol, const cps_json *value,
                          int64_t *id_out) {
    const double number = cps_json_is_number(value) ? cps_json_number(value) : -1;
    if (!(number >= 0 && number < MAX_VOCABULARY) || number != (double)(int64_t)number) {
        return cps_fail(CPS_ERR_DATA,
                        "'%s': the id of symbol '%.60s' is not a whole number from 0 to %d", name,
                        symbol, MAX_VOCABULARY - 1);
    }
    *id_out = (int64_t)number;
    return CPS_OK;
}

static cps_status largest_id(const char *name, const cps_json *vocabulary, const cps_json *added,
                             int64_t *largest_out) {
    int64_t largest = -1;
    for (const cps_json *entry = cps_json_first(vocabulary); entry != NULL;
         entry = cps_json_next(entry)) {
        int64_t id = 0;
        CPS_TRY(json_id(name, cps_json_key(entry), entry, &id));
        largest = cps_max_i64(largest, id);
    }
    for (const cps_json *entry = cps_json_first(added); entry != NULL;
         entry = cps_json_next(entry)) {
        int64_t id = 0;
        CPS_TRY(json_id(name, cps_json_get_string(entry, "content", "?"), cps_json_get(entry, "id"),
                        &id));
        largest = cps_max_i64(largest, id);
    }
    *largest_out = largest;
    return CPS_OK;
}

static cps_status add_json_symbol(builder *build, int64_t id, const char *symbol) {
    if (build->symbol_at[id] != SIZE_MAX) {
        const char *other = build->symbols + build->symbol_at[id];
        return strcmp(other, symbol) == 0
                   ? CPS_OK
                   : cps_fail(CPS_ERR_DATA, "'%s': id %lld stands for both '%.60s' and '%.60s'",
                              build->name, (long long)id, other, symbol);
    }
    return add_symbol(build, id, symbol, strlen(symbol));
}

static cps_status add_json_symbols(builder *build, const cps_json *vocabulary,
                                   const cps_json *added) {
    for (const cps_json *entry = cps_json_first(vocabulary); entry != NULL;
         entry = cps_json_next(entry)) {
        CPS_TRY(add_json_symbol(build, (int64_t)cps_json_number(entry), cps_json_key(entry)));
    }
    for (const cps_json *entry = cps_json_first(added); entry != NULL;
         entry = cps_json_next(entry)) {
        const char *content = cps_json_get_string(entry, "content", NULL);
        if (content != NULL) {
            CPS_TRY(add_json_symbol(build, cps_json_get_integer(entry, "id", 0), content));
        }
    }
    return CPS_OK;
}

static cps_status add_json_merge(builder *build, int64_t number, const cps_json *entry) {
    const char *left = cps_json_string(entry), *right = NULL;
    size_t left_length = 0;
    if (left != NULL) { /* "a b" */
        const char *blank = strchr(left, ' ');
        left_length = blank != NULL ? (size_t)(blank - left) : 0;
        right = blank != NULL ? blank + 1 : NULL;
    } else if (cps_json_is_array(entry) && cps_json_count(entry) == 2) { /* ["a", "b"] */
        left = cps_json_string(cps_json_at(entry, 0));
        right = cps_json_string(cps_json_at(entry, 1));
        left_length = left != NULL ? strlen(left) : 0;
    }
    if (left_length == 0 || right == NULL || *right == '\0') {
        return cps_fail(CPS_ERR_DATA, "'%s': merge %lld of model.merges is not a pair of symbols",
                        build->name, (long long)number);
    }
    return add_merge(build, "merge", number, left, left_length, right, strlen(right), false);
}

static cps_status find_special(const builder *build, const char *text, int32_t *id_out) {
    const int32_t id = find_symbol(build, text, strlen(text));
    if (id < 0) {
        return cps_fail(CPS_ERR_DATA,
                        "'%s' has no token '%s' in its vocabulary: this is not CLIP's kind of "
                        "tokenizer",
                        build->name, text);
    }
    *id_out = id;
    return CPS_OK;
}

static cps_status fill_from_json(builder *build, const cps_json *model, const cps_json *added) {
    const cps_json *vocabulary = cps_json_get(model, "vocab");
    const cps_json *merges = cps_json_get(model, "merges");
    int64_t largest = -1;
    CPS_TRY(largest_id(build->name, vocabulary, added, &largest));
    CPS_TRY(builder_start(build, largest + 1, cps_json_count(merges)));
    CPS_TRY(add_json_symbols(build, vocabulary, added));
    int64_t number = 0;
    for (const cps_json *entry = cps_json_first(merges); entry != NULL;
         entry = cps_json_next(entry)) {
        CPS_TRY(add_json_merge(build, number++, entry));
    }
    CPS_TRY(find_special(build, CPS_START_TEXT, &build->start));
    CPS_TRY(find_special(build, CPS_END_TEXT, &build->end));
    if (build->end != largest) {
        return cps_fail(CPS_ERR_DATA,
                        "'%s': the end token has id %d but the largest id is %lld: text towers "
                        "find the end of a text at its largest id",
                        build->name, build->end, (long long)largest);
    }
    return CPS_OK;
}

static cps_status check_json_kind(const char *name, const cps_json *model) {
    const char *type = cps_json_get_string(model, "type", "BPE");
    const char *suffix = cps_json_get_string(model, "end_of_word_suffix", "");
    if (!cps_json_is_object(cps_json_get(model, "vocab")) ||
        !cps_json_is_array(cps_json_get(model, "merges")) || strcmp(type, "BPE") != 0) {
        return cps_fail(CPS_ERR_DATA,
                        "'%s' is no byte-pair tokenizer: wanted is model.type 'BPE' with "
                        "model.vocab and model.merges, found type '%.40s'",
                        name, type);
    }
    if (strcmp(suffix, "</w>") != 0) {
        return cps_fail(CPS_ERR_DATA,
                        "'%s' is not CLIP's kind of tokenizer: model.end_of_word_suffix is "
                        "'%.40s', wanted is '</w>'",
                        name, suffix);
    }
    return CPS_OK;
}

static cps_status load_json(const char *bytes, size_t length, const char *name,
                            cps_tokenizer **tokenizer_out) {
    cps_json *root = NULL;
    CPS_TRY(cps_json_parse(bytes, length, name, &root));
    const cps_json *model = cps_json_get(root, "model");
    builder build = {.name = name};
    cps_status status = check_json_kind(name, model);
    if (status == CPS_OK) {
        status = fill_from_json(&build, model, cps_json_get(root, "added_tokens"));
    }
    if (status == CPS_OK) {
        status = builder_finish(&build, CPS_TOKENIZER_CONTEXT, tokenizer_out);
    }
    builder_end(&build);
    cps_json_destroy(root);
    return status;
}

/* ---- what it is --------------------------------------------------------------------------- */

static cps_status unpack_gzip(const char *bytes, size_t length, const char *name, char **text_out,
                              size_t *length_out) {
    char *text = malloc(MAX_FILE_BYTES);
    if (text == NULL) {
        return cps_fail(CPS_ERR_UNAVAILABLE, "no memory to unpack '%s'", name);
    }
    z_stream stream = {.next_in = (z_const Bytef *)(uintptr_t)bytes,
                       .avail_in = (uInt)length,
                       .next_out = (Bytef *)text,
                       .avail_out = MAX_FILE_BYTES};
    int result = inflateInit2(&stream, 16 + MAX_WBITS);
    if (result == Z_OK) {
        result = inflate(&stream, Z_FINISH);
        inflateEnd(&stream);
    }
    if (result != Z_STREAM_END) {
        free(text);
        return cps_fail(CPS_ERR_DATA, "'%s' is damaged gzip or unpacks to more than %d MB (%s)",
                        name, MAX_FILE_BYTES >> 20,
                        result == Z_BUF_ERROR ? "it ends early or is too long" : "bad stream");
    }
    *length_out = stream.total_out;
    *text_out = text;
    return CPS_OK;
}

static bool looks_like_json(const char *bytes, size_t length) {
    size_t at = 0;
    while (at < length && strchr(" \t\r\n", bytes[at]) != NULL && bytes[at] != '\0') {
        at++;
    }
    return at < length && bytes[at] == '{';
}

cps_status cps_tokenizer_load_bytes(const char *bytes, size_t length, const char *name,
                                    cps_tokenizer **tokenizer_out) {
    if (length > MAX_FILE_BYTES) {
        return cps_fail(CPS_ERR_DATA, "tokenizer '%s' has %zu bytes, at most %d are read", name,
                        length, MAX_FILE_BYTES);
    }
    char *unpacked = NULL;
    if (length >= 2 && (uint8_t)bytes[0] == 0x1F && (uint8_t)bytes[1] == 0x8B) {
        CPS_TRY(unpack_gzip(bytes, length, name, &unpacked, &length));
        bytes = unpacked;
    }
    const cps_status status = looks_like_json(bytes, length)
                                  ? load_json(bytes, length, name, tokenizer_out)
                                  : load_merges(bytes, length, name, tokenizer_out);
    free(unpacked);
    return status;
}

cps_status cps_tokenizer_load(const char *path, cps_tokenizer **tokenizer_out) {
    char *bytes = NULL;
    size_t length = 0;
    CPS_TRY(cps_file_read(path, MAX_FILE_BYTES, &bytes, &length));
    const cps_status status = cps_tokenizer_load_bytes(bytes, length, path, tokenizer_out);
    free(bytes);
    return status;
}
