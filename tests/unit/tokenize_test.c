/* The tokenizer on small hand-made files: what each step of cleaning and splitting does, that
 * merges follow the reference's rule for short and long words alike, that bad files are refused,
 * and that a trained file is read back. Golden vectors: tests/vectors/vectors_tokenizer. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <pthread.h>
#include <zlib.h>

#include <cmocka.h>

#include "base/file.h"
#include "base/text.h"
#include "data/entities.h"
#include "data/tokenize.h"

/* l=75 o=78 w=86 e=68 r=81, with </w> 256 more; merges from 512: "lo" 512, "low</w>" 513, "er</w>"
 * 514, "lo w" 515, "low er</w>" 516. */
static const char SMALL[] = "#version: 0.2\nl o\nlo w</w>\ne r</w>\nlo w\nlow er</w>\n";

static cps_tokenizer *load(const char *text) {
    cps_tokenizer *tokenizer = NULL;
    if (cps_tokenizer_load_bytes(text, strlen(text), "small.txt", &tokenizer) != CPS_OK) {
        fail_msg("%s", cps_fail_message());
    }
    return tokenizer;
}

static void assert_ids(const cps_tokenizer *tokenizer, const char *text, const int32_t *wanted,
                       int64_t count) {
    int32_t ids[64];
    int64_t length = 0;
    bool truncated = true;
    assert_int_equal(cps_tokenizer_encode(tokenizer, text, 64, ids, &length, &truncated), CPS_OK);
    assert_int_equal(length, count + 2);
    assert_false(truncated);
    assert_int_equal(ids[0], cps_tokenizer_start(tokenizer));
    assert_int_equal(ids[length - 1], cps_tokenizer_end(tokenizer));
    for (int64_t i = 0; i < count; i++) {
        assert_int_equal(ids[i + 1], wanted[i]);
    }
}

static void merges_follow_the_file(void **state) {
    (void)state;
    cps_tokenizer *tokenizer = load(SMALL);
    assert_int_equal(cps_tokenizer_vocabulary(tokenizer), 514 + 5);
    assert_int_equal(cps_tokenizer_end(tokenizer), 518);
    assert_ids(tokenizer, "Lower", (int32_t[]){516}, 1);
    assert_ids(tokenizer, "low LOWER", (int32_t[]){513, 516}, 2);
    assert_ids(tokenizer, "slow", (int32_t[]){82, 513}, 2);
    assert_ids(tokenizer, "er", (int32_t[]){514}, 1);
    assert_ids(tokenizer, "", NULL, 0);
    assert_ids(tokenizer, " \t\n ", NULL, 0);
    cps_tokenizer_destroy(tokenizer);
}

static void special_tokens_in_text(void **state) {
    (void)state;
    cps_tokenizer *tokenizer = load(SMALL);
    assert_ids(tokenizer, "low<|endoftext|>low", (int32_t[]){513, 518, 513}, 3);
    assert_ids(tokenizer, "<|STARTOFTEXT|>", (int32_t[]){517}, 1);
    cps_tokenizer_destroy(tokenizer);
}

static void pieces_of_text(void **state) {
    (void)state;
    cps_tokenizer *tokenizer = load(SMALL);
    /* digits one by one; "'s" apart; other characters together; the apostrophe inside "!!'" is
     * swallowed */
    assert_ids(tokenizer, "42", (int32_t[]){19 + 256, 17 + 256}, 2);
    assert_ids(tokenizer, "r's", (int32_t[]){81 + 256, 6, 82 + 256}, 3);
    assert_ids(tokenizer, "!!'s", (int32_t[]){0, 0, 6 + 256, 82 + 256}, 4);
    int64_t length = 0;
    assert_int_equal(cps_tokenizer_length(tokenizer, "d'\xC5\xBF", &length), CPS_OK);
    assert_int_equal(length, 2 + 1 + 3); /* d, then "'" and long s as one piece of three bytes */
    cps_tokenizer_destroy(tokenizer);
}

static void assert_clean(const char *text, const char *wanted) {
    char *clean = cps_tokenizer_clean(text);
    assert_non_null(clean);
    assert_string_equal(clean, wanted);
    free(clean);
}

static void cleaning(void **state) {
    (void)state;
    assert_clean("  A  Photo\tof\n\nFIELD ", "a photo of field");
    assert_clean("&amp;amp;lt;b&gt;", "&lt;b>"); /* twice, not three times */
    assert_clean("a\xC2\xA0\xE3\x80\x80z", "a z");
    assert_clean("\x1c"
                 "a\x1c"
                 "b\x1f",
                 "a\x1c"
                 "b"); /* trimmed as Python does, kept inside as regex does */
    assert_clean("a\xFFz", "a\xEF\xBF\xBDz");
    assert_clean("\xCE\x9F\xCE\xA3", "\xCE\xBF\xCF\x82"); /* final sigma */
    assert_clean("", "");
}

static void assert_replaced(const char *text, const char *wanted) {
    char out[128];
    const size_t length = cps_entities_replace(text, strlen(text), out);
    assert_int_equal(length, strlen(wanted));
    assert_memory_equal(out, wanted, length);
}

static void entities(void **state) {
    (void)state;
    assert_replaced("&lt;&LT;&lt", "<<<");
    assert_replaced("&notit; &notin; &not", "\xC2\xACit; \xE2\x88\x89 \xC2\xAC");
    assert_replaced("&amp.x; &ampx &am; &;& &", "&.x; &x &am; &;& &");
    assert_replaced("&nGt;", "\xE2\x89\xAB\xE2\x83\x92");
    assert_replaced("&CounterClockwiseContourIntegral;", "\xE2\x88\xB3");
    assert_replaced("&alpha &alpha;", "&alpha \xCE\xB1"); /* not one of the older names */
    assert_replaced("&#65;&#x41;&#X41&#065x", "AAAAx");
    assert_replaced("&#0;&#xD800;&#x110000;&#99999999999999;",
                    "\xEF\xBF\xBD\xEF\xBF\xBD\xEF\xBF\xBD\xEF\xBF\xBD");
    assert_replaced("&#128;&#x81;&#1;&#xFFFE;&#13;", "\xE2\x82\xAC\xC2\x81\r");
    assert_replaced("&#;&#x;&#xg;&# 5;", "&#;&#x;&#xg;&# 5;");
    assert_replaced("&frac12", "\xC2\xBD");
    assert_replaced("", "");
}

static void truncation_keeps_start_and_end(void **state) {
    (void)state;
    cps_tokenizer *tokenizer = load(SMALL);
    int32_t ids[5] = {-7, -7, -7, -7, -7};
    int64_t length = 0;
    bool truncated = false;
    assert_int_equal(cps_tokenizer_encode(tokenizer, "low low low", 4, ids, &length, &truncated),
                     CPS_OK);
    assert_int_equal(length, 4);
    assert_true(truncated);
    assert_int_equal(ids[2], 513);
    assert_int_equal(ids[3], 518);
    assert_int_equal(ids[4], -7);
    assert_int_equal(cps_tokenizer_encode(tokenizer, "low low", 4, ids, &length, &truncated),
                     CPS_OK);
    assert_false(truncated);
    assert_int_equal(cps_tokenizer_encode(tokenizer, "low", 2, ids, &length, NULL), CPS_OK);
    assert_int_equal(ids[1], 518);
    assert_int_equal(cps_tokenizer_encode(tokenizer, "low", 1, ids, &length, NULL), CPS_ERR_USAGE);
    assert_int_equal(cps_tokenizer_length(tokenizer, "low low low", &length), CPS_OK);
    assert_int_equal(length, 5);
    cps_tokenizer_destroy(tokenizer);
}

static void decoding(void **state) {
    (void)state;
    cps_tokenizer *tokenizer = load(SMALL);
    const int32_t ids[] = {517, 516, 82, 513, 99999, 518};
    char *text = cps_tokenizer_decode(tokenizer, ids, 6);
    assert_string_equal(text, "lower slow \xEF\xBF\xBD");
    free(text);
    int32_t round[32];
    int64_t length = 0;
    assert_int_equal(
        cps_tokenizer_encode(tokenizer, "caf\xC3\xA9 \xF0\x9F\x8C\xB1", 32, round, &length, NULL),
        CPS_OK);
    text = cps_tokenizer_decode(tokenizer, round, length);
    assert_string_equal(text, "caf\xC3\xA9 \xF0\x9F\x8C\xB1");
    free(text);
    cps_tokenizer_destroy(tokenizer);
}

/* The reference's rule on symbols spelled as strings: least rank first, all its occurrences from
 * left to right. */
typedef struct plain_merge {
    const char *left, *right;
} plain_merge;

static size_t merge_plainly(char (*symbols)[16], size_t count, const plain_merge *merges,
                            size_t merge_count) {
    for (;;) {
        size_t best = merge_count;
        for (size_t i = 0; i + 1 < count; i++) {
            for (size_t m = 0; m < best; m++) {
                if (strcmp(symbols[i], merges[m].left) == 0 &&
                    strcmp(symbols[i + 1], merges[m].right) == 0) {
                    best = m;
                }
            }
        }
        if (best == merge_count) {
            return count;
        }
        size_t kept = 0;
        for (size_t i = 0; i < count; kept++) {
            const bool here = i + 1 < count && strcmp(symbols[i], merges[best].left) == 0 &&
                              strcmp(symbols[i + 1], merges[best].right) == 0;
            char joined[32];
            snprintf(joined, sizeof joined, "%s%s", symbols[i], here ? symbols[i + 1] : "");
            memcpy(symbols[kept], joined, 16);
            i += here ? 2 : 1;
        }
        count = kept;
    }
}

/* "abc" is made in two ways, so that a merge can make a pair of smaller rank than its own: the
 * order of passes shows. */
static const plain_merge TRICKY[] = {{"a", "b"},  {"b", "c"}, {"a", "bc"}, {"abc", "ab"},
                                     {"ab", "c"}, {"c", "a"}, {"a", "a"},  {"aa", "b"}};

static void check_word(const cps_tokenizer *tokenizer, const char *word, size_t length) {
    static char symbols[600][16];
    static int32_t ids[700];
    for (size_t i = 0; i < length; i++) {
        snprintf(symbols[i], sizeof symbols[i], "%c%s", word[i], i + 1 == length ? "</w>" : "");
    }
    const size_t count = merge_plainly(symbols, length, TRICKY, sizeof TRICKY / sizeof TRICKY[0]);
    int64_t got = 0;
    assert_int_equal(cps_tokenizer_encode(tokenizer, word, 700, ids, &got, NULL), CPS_OK);
    assert_int_equal(got, (int64_t)count + 2);
    for (size_t i = 0; i < count; i++) {
        char *text = cps_tokenizer_decode(tokenizer, &ids[i + 1], 1);
        char *marker = strstr(symbols[i], "</w>");
        if (marker != NULL) {
            *marker = '\0';
        }
        assert_string_equal(text, symbols[i]);
        free(text);
    }
}

static void short_and_long_words_merge_alike(void **state) {
    (void)state;
    char file[512] = "#version: 0.2\n";
    for (size_t i = 0; i < sizeof TRICKY / sizeof TRICKY[0]; i++) {
        strcat(strcat(strcat(strcat(file, TRICKY[i].left), " "), TRICKY[i].right), "\n");
    }
    cps_tokenizer *tokenizer = load(file);
    uint32_t random = 1;
    static const size_t LENGTHS[] = {1, 2, 3, 5, 17, 31, 32, 63, 64, 65, 66, 100, 255, 500};
    for (size_t l = 0; l < sizeof LENGTHS / sizeof LENGTHS[0]; l++) {
        for (int round = 0; round < 20; round++) {
            char word[600];
            for (size_t i = 0; i < LENGTHS[l]; i++) {
                random = random * 1664525u + 1013904223u;
                word[i] = "abc"[(random >> 16) % 3];
            }
            word[LENGTHS[l]] = '\0';
            check_word(tokenizer, word, LENGTHS[l]);
        }
    }
    cps_tokenizer_destroy(tokenizer);
}

static void a_word_of_a_megabyte(void **state) {
    (void)state;
    cps_tokenizer *tokenizer = load(SMALL);
    const size_t length = 1000000;
    char *word = malloc(length + 1);
    for (size_t i = 0; i < length; i++) {
        word[i] = "low"[i % 3];
    }
    word[length] = '\0';
    int64_t count = 0;
    assert_int_equal(cps_tokenizer_length(tokenizer, word, &count), CPS_OK);
    assert_int_equal(count, 2 + 333333 + 1); /* 333,333 times "low", an l at the end */
    free(word);
    cps_tokenizer_destroy(tokenizer);
}

static void assert_refused(const char *bytes, size_t length, const char *part) {
    cps_tokenizer *tokenizer = NULL;
    assert_int_equal(cps_tokenizer_load_bytes(bytes, length, "bad", &tokenizer), CPS_ERR_DATA);
    assert_null(tokenizer);
    if (strstr(cps_fail_message(), part) == NULL) {
        fail_msg("'%s' lacks '%s'", cps_fail_message(), part);
    }
}

static void refused(const char *text, const char *part) {
    assert_refused(text, strlen(text), part);
}

static void bad_merges_files(void **state) {
    (void)state;
    refused("", "empty");
    refused("l o\n", "#version");
    refused("#version: 0.2\nl o\nlo  w\n", "line 3");
    refused("#version: 0.2\nlo\n", "line 2");
    refused("#version: 0.2\n l\n", "line 2");
    refused("#version: 0.2\nl o\nxy w\n", "'xy' is neither");
    refused("#version: 0.2\nl \xE2\x82\xAC\n", "line 2"); /* no byte is spelled so */
    refused("#version: 0.2\nl o\n\nlo w\n", "line 3 is empty");
    refused("#version: 0.2 copse vocabulary=516\nl o\n", "cut short");
    refused("#version: 0.2 copse vocabulary=7\n", "vocabulary=7");
    refused("#version: 0.2 copse vocabulary=99999999999\n", "vocabulary=");
    char packed[] = "\x1F\x8B\x08 this is no gzip";
    assert_refused(packed, sizeof packed - 1, "gzip");
    cps_tokenizer *tokenizer = NULL;
    assert_int_equal(cps_tokenizer_load("/nowhere/merges.txt", &tokenizer), CPS_ERR_UNAVAILABLE);
}

static void gpt2_is_refused(void **state) {
    (void)state;
    char *text = malloc(1 << 16);
    size_t at = (size_t)sprintf(text, "#version: 0.2\n");
    for (char a = 'a'; a <= 'z'; a++) {
        for (char b = 'a'; b <= 'z'; b++) {
            at += (size_t)sprintf(text + at, "%c %c\n", a, b);
            at += (size_t)sprintf(text + at, "%c%c %c\n", a, b, a);
        }
    }
    refused(text, "</w>");
    free(text);
}

/* A tokenizer.json of all byte symbols and SMALL's merges; `pairs`: merges as arrays. */
static char *small_json(bool pairs, const char *suffix, const char *extra) {
    char *text = NULL;
    size_t length = 0;
    FILE *file = open_memstream(&text, &length);
    fprintf(file,
            " {\"added_tokens\":[{\"id\":517,\"content\":\"<|startoftext|>\"},{\"id\":518,"
            "\"content\":\"<|endoftext|>\"}%s],",
            extra);
    fprintf(file, "\"model\":{\"type\":\"BPE\",\"end_of_word_suffix\":\"%s\",\"vocab\":{", suffix);
    for (int i = 0; i < 512; i++) {
        int place = 0, spelled = -1;
        for (int pass = 0; pass < 2 && spelled < 0; pass++) {
            for (int byte = 0, odd = 0; byte < 256 && spelled < 0; byte++) {
                const bool printable =
                    (byte >= 33 && byte <= 126) || (byte >= 161 && byte <= 172) || byte >= 174;
                odd += !printable;
                if (printable == (pass == 0) && place++ == i % 256) {
                    spelled = printable ? byte : 0x100 + odd - 1;
                }
            }
        }
        fprintf(file, "\"\\u%04x%s\":%d,", (unsigned)spelled, i >= 256 ? "</w>" : "", i);
    }
    fprintf(file,
            "\"lo\":512,\"low</w>\":513,\"er</w>\":514,\"low\":515,\"lower</w>\":516},\"merges\":");
    fprintf(file, "%s}}",
            pairs ? "[[\"l\",\"o\"],[\"lo\",\"w</w>\"],[\"e\",\"r</"
                    "w>\"],[\"lo\",\"w\"],[\"low\",\"er</w>\"]]"
                  : "[\"l o\",\"lo w</w>\",\"e r</w>\",\"lo w\",\"low er</w>\"]");
    fclose(file);
    return text;
}

static void json_equals_the_merges_file(void **state) {
    (void)state;
    cps_tokenizer *plain = load(SMALL);
    for (int pairs = 0; pairs < 2; pairs++) {
        char *text = small_json(pairs == 1, "</w>", "");
        cps_tokenizer *tokenizer = load(text);
        assert_int_equal(cps_tokenizer_vocabulary(tokenizer), 519);
        assert_ids(tokenizer, "lower slow", (int32_t[]){516, 82, 513}, 3);
        assert_true(cps_tokenizer_digest(tokenizer) == cps_tokenizer_digest(plain));
        cps_tokenizer_destroy(tokenizer);
        free(text);
    }
    cps_tokenizer *other = load("#version: 0.2\nl o\nlo w</w>\ne r</w>\nlo w\nlow e\n");
    assert_true(cps_tokenizer_digest(other) != cps_tokenizer_digest(plain));
    cps_tokenizer_destroy(other);
    cps_tokenizer_destroy(plain);
}

static void bad_json(void **state) {
    (void)state;
    refused("{}", "byte-pair");
    refused("{\"model\":{\"type\":\"WordPiece\",\"vocab\":{},\"merges\":[]}}", "WordPiece");
    refused("{\"model\":{\"vocab\":{},\"merges\":[], \"end_of_word_suffix\":\"</w>\"}}",
            "<|startoftext|>");
    refused("{\"model\":{\"vocab\":{\"a\":-1},\"merges\":[], \"end_of_word_suffix\":\"</w>\"}}",
            "'a'");
    refused("{\"model\":{\"vocab\":{\"a\":1e9},\"merges\":[], \"end_of_word_suffix\":\"</w>\"}}",
            "'a'");
    refused(
        "{\"model\":{\"vocab\":{\"a\":1,\"b\":1},\"merges\":[], \"end_of_word_suffix\":\"</w>\"}}",
        "both");
    refused("{\"model\":{\"vocab\":{\"a\":0},\"merges\":[7], \"end_of_word_suffix\":\"</w>\"}}",
            "merge 0");
    refused(
        "{\"model\":{\"vocab\":{\"a\":0},\"merges\":[\"a b\"], \"end_of_word_suffix\":\"</w>\"}}",
        "'b'");
    refused("{\"model\":", "JSON");
    char *text = small_json(false, "", "");
    refused(text, "end_of_word_suffix");
    free(text);
    text = small_json(false, "</w>", ",{\"id\":600,\"content\":\"<mask>\"}");
    refused(text, "largest id is 600");
    free(text);
}

static void gzip_is_read(void **state) {
    (void)state;
    unsigned char packed[512];
    z_stream stream = {.next_in = (z_const Bytef *)(uintptr_t)SMALL,
                       .avail_in = sizeof SMALL - 1,
                       .next_out = packed,
                       .avail_out = sizeof packed};
    assert_int_equal(deflateInit2(&stream, 9, Z_DEFLATED, 16 + MAX_WBITS, 8, Z_DEFAULT_STRATEGY),
                     Z_OK);
    assert_int_equal(deflate(&stream, Z_FINISH), Z_STREAM_END);
    cps_tokenizer *tokenizer = NULL;
    assert_int_equal(cps_tokenizer_load_bytes((const char *)packed, stream.total_out,
                                              "dir/small.gz", &tokenizer),
                     CPS_OK);
    assert_string_equal(cps_tokenizer_name(tokenizer), "small.gz");
    assert_ids(tokenizer, "lower", (int32_t[]){516}, 1);
    cps_tokenizer_destroy(tokenizer);
    assert_refused((const char *)packed, stream.total_out / 2, "gzip");
    deflateEnd(&stream);
}

typedef struct corpus {
    const char *const *lines;
    size_t count, at;
} corpus;

static cps_status next_line(void *context, const char **line_out) {
    corpus *text = context;
    *line_out = text->at < text->count ? text->lines[text->at++] : NULL;
    return CPS_OK;
}

static char *train(const char *const *lines, size_t count, int64_t vocabulary, int64_t *got) {
    corpus text = {.lines = lines, .count = count};
    const cps_tokenizer_train_options options = {.vocabulary = vocabulary};
    char *path = cps_file_temporary_name("/tmp/copse-tokenize-test");
    assert_int_equal(cps_tokenizer_train(next_line, &text, &options, path, got), CPS_OK);
    char *bytes = NULL;
    size_t length = 0;
    assert_int_equal(cps_file_read(path, 1 << 20, &bytes, &length), CPS_OK);
    remove(path);
    free(path);
    return bytes;
}

static void training_learns_the_commonest_pairs(void **state) {
    (void)state;
    static const char *const LINES[] = {"low low low low low", "Lower lower",
                                        "newest newest newest newest newest newest",
                                        "widest WIDEST widest", "unique"};
    int64_t vocabulary = 0;
    char *file = train(LINES, 5, 514 + 6, &vocabulary);
    assert_int_equal(vocabulary, 520);
    /* e s and s t</w> stand 9 times each: the tie goes to the smaller left symbol */
    assert_string_equal(file, "#version: 0.2 copse vocabulary=520\ne s\nes t</w>\nl o\ne w\nn "
                              "ew\nnew est</w>\n");
    cps_tokenizer *tokenizer = load(file);
    assert_int_equal(cps_tokenizer_vocabulary(tokenizer), 520);
    assert_ids(tokenizer, "newest", (int32_t[]){517}, 1);
    cps_tokenizer_destroy(tokenizer);
    free(file);
}

static void training_ends_when_pairs_are_rare(void **state) {
    (void)state;
    static const char *const LINES[] = {"abc abd", "x"};
    int64_t vocabulary = 0;
    char *file = train(LINES, 2, 2000, &vocabulary);
    assert_int_equal(vocabulary, 515); /* only a b stands twice */
    free(file);
    corpus none = {.count = 0};
    const cps_tokenizer_train_options options = {.vocabulary = 600}, tiny = {.vocabulary = 100};
    assert_int_equal(
        cps_tokenizer_train(next_line, &none, &options, "/tmp/copse-never", &vocabulary),
        CPS_ERR_DATA);
    assert_int_equal(cps_tokenizer_train(next_line, &none, &tiny, "/tmp/copse-never", &vocabulary),
                     CPS_ERR_USAGE);
    assert_false(cps_file_exists("/tmp/copse-never"));
}

typedef struct encoder {
    const cps_tokenizer *tokenizer;
    uint64_t sum;
} encoder;

static void *encode_many(void *context) {
    encoder *own = context;
    for (int i = 0; i < 20000; i++) {
        char text[64];
        int32_t ids[64];
        int64_t length = 0;
        snprintf(text, sizeof text, "low%d lower%d x%d", i % 997, i % 499, i % 101);
        if (cps_tokenizer_encode(own->tokenizer, text, 64, ids, &length, NULL) != CPS_OK) {
            return NULL;
        }
        for (int64_t k = 0; k < length; k++) {
            own->sum = own->sum * 31 + (uint64_t)ids[k];
        }
    }
    return NULL;
}

static void threads_share_a_tokenizer(void **state) {
    (void)state;
    cps_tokenizer *tokenizer = load(SMALL);
    encoder encoders[4];
    pthread_t threads[4];
    for (int i = 0; i < 4; i++) {
        encoders[i] = (encoder){.tokenizer = tokenizer};
        assert_int_equal(pthread_create(&threads[i], NULL, encode_many, &encoders[i]), 0);
    }
    for (int i = 0; i < 4; i++) {
        pthread_join(threads[i], NULL);
        assert_true(encoders[i].sum != 0 && encoders[i].sum == encoders[0].sum);
    }
    cps_tokenizer_destroy(tokenizer);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(merges_follow_the_file),
        cmocka_unit_test(special_tokens_in_text),
        cmocka_unit_test(pieces_of_text),
        cmocka_unit_test(cleaning),
        cmocka_unit_test(entities),
        cmocka_unit_test(truncation_keeps_start_and_end),
        cmocka_unit_test(decoding),
        cmocka_unit_test(short_and_long_words_merge_alike),
        cmocka_unit_test(a_word_of_a_megabyte),
        cmocka_unit_test(bad_merges_files),
        cmocka_unit_test(gpt2_is_refused),
        cmocka_unit_test(json_equals_the_merges_file),
        cmocka_unit_test(bad_json),
        cmocka_unit_test(gzip_is_read),
        cmocka_unit_test(training_learns_the_commonest_pairs),
        cmocka_unit_test(training_ends_when_pairs_are_rare),
        cmocka_unit_test(threads_share_a_tokenizer),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
