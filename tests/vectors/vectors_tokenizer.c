/* Golden vectors of the tokenizer: FILE is a JSON array of records (text, ids, truncated, n_tokens,
 * cleaned, needs_ftfy), MERGES the merges file or tokenizer.json. Cases are <record>/<key>. Records
 * whose ids need ftfy are skipped: we read clean UTF-8 and repair nothing. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/file.h"
#include "base/json.h"
#include "base/text.h"
#include "data/tokenize.h"
#include "vectors.h"

enum { MAX_VECTOR_BYTES = 256 << 20, MAX_CONTEXT = 1 << 20 };

/* `needs_ftfy` speaks of the ids, which end at the context; `cleaned` and `n_tokens` speak of the
 * whole text. Behind the cut ftfy may have turned full-width forms (U+FF01..U+FF5E) into ordinary
 * ones, so they are compared for the text with these folded; free() it. */
static char *fold_width(const char *text) {
    char *folded = strdup(text);
    if (folded == NULL) {
        vectors_unusable("out of memory");
    }
    const size_t length = strlen(text);
    size_t written = 0;
    for (size_t at = 0; at < length;) {
        const int32_t code_point = cps_utf8_next(text, length, &at);
        const bool wide = code_point >= 0xFF01 && code_point <= 0xFF5E;
        written += cps_utf8_put(wide ? code_point - 0xFEE0 : code_point, folded + written);
    }
    folded[written] = '\0';
    return folded;
}

static void judge_whole(const cps_tokenizer *tokenizer, int64_t number, const cps_json *record) {
    char name[64];
    char *text = fold_width(cps_json_get_string(record, "text", ""));
    const int64_t wanted = cps_json_get_integer(record, "n_tokens", -1);
    int64_t uncut = 0;
    snprintf(name, sizeof name, "%lld/n_tokens", (long long)number);
    if (cps_tokenizer_length(tokenizer, text, &uncut) == CPS_OK) {
        vectors_compare_i64(name, &uncut, &wanted, 1);
    } else {
        vectors_broken(name, 0, "%s", cps_fail_message());
    }
    snprintf(name, sizeof name, "%lld/cleaned", (long long)number);
    char *cleaned = cps_tokenizer_clean(text);
    vectors_compare_text(name, cleaned != NULL ? cleaned : "",
                         cps_json_get_string(record, "cleaned", ""));
    free(cleaned);
    free(text);
}

static void judge_ids(const cps_tokenizer *tokenizer, int64_t number, const cps_json *record) {
    const cps_json *wanted = cps_json_get(record, "ids");
    const char *text = cps_json_get_string(record, "text", NULL);
    const int64_t context = cps_json_count(wanted);
    char name[64];
    snprintf(name, sizeof name, "%lld/ids", (long long)number);
    if (text == NULL || context < 2 || context > MAX_CONTEXT) {
        vectors_broken(name, 0, "no text, or %lld ids", (long long)context);
        return;
    }
    int32_t *ids = calloc((size_t)context, sizeof *ids);
    int64_t *got = calloc((size_t)context, sizeof *got),
            *want = calloc((size_t)context, sizeof *want);
    int64_t length = 0;
    bool truncated = false;
    if (ids == NULL || got == NULL || want == NULL) {
        vectors_unusable("out of memory");
    }
    if (cps_tokenizer_encode(tokenizer, text, context, ids, &length, &truncated) != CPS_OK) {
        vectors_broken(name, 0, "%s", cps_fail_message());
    } else {
        int64_t i = 0;
        for (const cps_json *id = cps_json_first(wanted); id != NULL; id = cps_json_next(id)) {
            want[i] = cps_json_is_number(id) ? (int64_t)cps_json_number(id) : -1;
            got[i] = i < length ? ids[i] : 0;
            i++;
        }
        vectors_compare_i64(name, got, want, context);
        const int64_t got_cut = truncated, want_cut = cps_json_get_bool(record, "truncated", false);
        snprintf(name, sizeof name, "%lld/truncated", (long long)number);
        vectors_compare_i64(name, &got_cut, &want_cut, 1);
    }
    free(ids);
    free(got);
    free(want);
}

/* Our texts end at NUL, so a file may not hold one; a record that does needs ftfy anyway. Makes
 * \u0000 escapes \uFFFD. */
static void replace_nul_escapes(char *bytes, size_t length) {
    for (size_t i = 0; i + 5 < length; i++) {
        if (bytes[i] == '\\') {
            if (memcmp(bytes + i + 1, "u0000", 5) == 0) {
                memcpy(bytes + i + 2, "FFFD", 4);
            }
            i++;
        }
    }
}

static cps_json *read_records(const char *path) {
    char *bytes = NULL;
    size_t length = 0;
    cps_json *records = NULL;
    if (cps_file_read(path, MAX_VECTOR_BYTES, &bytes, &length) != CPS_OK) {
        vectors_unusable("%s", cps_fail_message());
    }
    replace_nul_escapes(bytes, length);
    if (cps_json_parse(bytes, length, path, &records) != CPS_OK) {
        vectors_unusable("%s", cps_fail_message());
    }
    free(bytes);
    if (!cps_json_is_array(records)) {
        vectors_unusable("'%s' is no array of records", path);
    }
    return records;
}

int main(int argc, char **argv) {
    if (argc != 3) {
        vectors_unusable("%d arguments given; usage: %s FILE MERGES", argc - 1, argv[0]);
    }
    cps_json *records = read_records(argv[1]);
    cps_tokenizer *tokenizer = NULL;
    if (cps_tokenizer_load(argv[2], &tokenizer) != CPS_OK) {
        vectors_unusable("%s", cps_fail_message());
    }
    int64_t number = 0;
    for (const cps_json *record = cps_json_first(records); record != NULL;
         record = cps_json_next(record), number++) {
        if (cps_json_get_bool(record, "needs_ftfy", false)) {
            char name[64];
            snprintf(name, sizeof name, "%lld/ids", (long long)number);
            vectors_skip(name, "needs ftfy");
            continue;
        }
        judge_ids(tokenizer, number, record);
        judge_whole(tokenizer, number, record);
    }
    cps_tokenizer_destroy(tokenizer);
    cps_json_destroy(records);
    return vectors_finish();
}
