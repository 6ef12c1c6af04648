/* Encoding and decoding. A word's merges are found by the reference's rule: take the pair of least
 * rank, merge all its occurrences from left to right, repeat. Short words do just that on small
 * arrays; long ones (scraped text has "words" of a megabyte) on a linked list with a heap, in n log
 * n. Words met before come from a direct-mapped cache of fixed size. */
#include "data/tokenize_internal.h"

#include <stdlib.h>
#include <string.h>

#include "base/hash.h"
#include "base/text.h"
#include "data/entities.h"

const char *const CPS_START_TEXT = "<|startoftext|>";
const char *const CPS_END_TEXT = "<|endoftext|>";

/* ---- cleaning ----------------------------------------------------------------------------- */

void cps_bytes_start(cps_bytes *buffer) {
    buffer->data = buffer->fixed;
    buffer->length = 0;
    buffer->capacity = sizeof buffer->fixed;
    buffer->fixed[0] = '\0';
}

bool cps_bytes_reserve(cps_bytes *buffer, size_t capacity) {
    if (capacity <= buffer->capacity) {
        return true;
    }
    char *grown = malloc(capacity);
    if (grown == NULL) {
        return false;
    }
    memcpy(grown, buffer->data, buffer->length);
    if (buffer->data != buffer->fixed) {
        free(buffer->data);
    }
    buffer->data = grown;
    buffer->capacity = capacity;
    return true;
}

void cps_bytes_end(cps_bytes *buffer) {
    if (buffer->data != buffer->fixed) {
        free(buffer->data);
    }
    buffer->data = buffer->fixed;
}

static bool is_ascii(const char *text, size_t length) {
    for (size_t i = 0; i < length; i++) {
        if ((unsigned char)text[i] >= 0x80) {
            return false;
        }
    }
    return true;
}

/* Malformed bytes become U+FFFD (three bytes for one). */
static bool copy_valid(const char *text, size_t length, cps_bytes *out) {
    if (length > SIZE_MAX / 8 || !cps_bytes_reserve(out, 3 * length + 1)) {
        return false;
    }
    out->length = 0;
    for (size_t at = 0; at < length;) {
        const int32_t code_point = cps_utf8_next(text, length, &at);
        char put[4];
        const size_t bytes = cps_utf8_put(code_point, put);
        memcpy(out->data + out->length, put, bytes);
        out->length += bytes;
    }
    return true;
}

/* Replaces character references of `buffer`, using `other` as the second place. */
static bool replace_entities(cps_bytes *buffer, cps_bytes *other) {
    for (int pass = 0; pass < 2; pass++) {
        if (memchr(buffer->data, '&', buffer->length) == NULL) {
            return true;
        }
        if (!cps_bytes_reserve(other, 2 * buffer->length + 1)) {
            return false;
        }
        other->length = cps_entities_replace(buffer->data, buffer->length, other->data);
        if (!cps_bytes_reserve(buffer, other->length + 1)) {
            return false;
        }
        memcpy(buffer->data, other->data, other->length);
        buffer->length = other->length;
    }
    return true;
}

/* Trims what Python calls space, and makes one blank of each run of Unicode white space (which
 * lacks U+001C..U+001F, that Python trims). In place. */
static void collapse_space(cps_bytes *buffer) {
    size_t end = 0; /* behind the last character that stays */
    for (size_t at = 0; at < buffer->length;) {
        if (!cps_utf8_is_space(cps_utf8_next(buffer->data, buffer->length, &at))) {
            end = at;
        }
    }
    size_t written = 0;
    bool blank = false;
    for (size_t at = 0; at < end;) {
        const size_t from = at;
        const int32_t code_point = cps_utf8_next(buffer->data, end, &at);
        const bool space = cps_utf8_is_space(code_point);
        if (space && (written == 0 || code_point < 0x1C || code_point > 0x1F)) {
            blank = written > 0;
            continue;
        }
        if (blank) {
            buffer->data[written++] = ' ';
            blank = false;
        }
        memmove(buffer->data + written, buffer->data + from, at - from);
        written += at - from;
    }
    buffer->length = written;
    buffer->data[written] = '\0';
}

static bool lower_case(cps_bytes *buffer) {
    if (is_ascii(buffer->data, buffer->length)) {
        for (size_t i = 0; i < buffer->length; i++) {
            const char c = buffer->data[i];
            buffer->data[i] = c >= 'A' && c <= 'Z' ? (char)(c - 'A' + 'a') : c;
        }
        return true;
    }
    char *lower = cps_utf8_lower(buffer->data);
    if (lower == NULL) {
        return false;
    }
    const size_t length = strlen(lower);
    const bool fits = cps_bytes_reserve(buffer, length + 1);
    if (fits) {
        memcpy(buffer->data, lower, length + 1);
        buffer->length = length;
    }
    free(lower);
    return fits;
}

bool cps_text_clean(const char *text, cps_bytes *out) {
    const size_t length = strlen(text);
    if (is_ascii(text, length) || cps_utf8_is_valid(text, length)) {
        if (!cps_bytes_reserve(out, length + 1)) {
            return false;
        }
        memcpy(out->data, text, length);
        out->length = length;
    } else if (!copy_valid(text, length, out)) {
        return false;
    }
    cps_bytes other;
    cps_bytes_start(&other);
    const bool replaced = replace_entities(out, &other);
    cps_bytes_end(&other);
    if (!replaced) {
        return false;
    }
    collapse_space(out);
    return lower_case(out);
}

char *cps_tokenizer_clean(const char *text) {
    cps_bytes buffer;
    cps_bytes_start(&buffer);
    char *clean = cps_text_clean(text, &buffer) ? strdup(buffer.data) : NULL;
    cps_bytes_end(&buffer);
    return clean;
}

/* ---- pieces ------------------------------------------------------------------------------- */

typedef enum char_class { CLASS_SPACE, CLASS_LETTER, CLASS_NUMBER, CLASS_OTHER } char_class;

static char_class class_at(const char *text, size_t length, size_t *at) {
    const unsigned char c = (unsigned char)text[*at];
    if (c < 0x80) {
        ++*at;
        if ((c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z')) {
            return CLASS_LETTER;
        }
        if (c >= '0' && c <= '9') {
            return CLASS_NUMBER;
        }
        return c == ' ' || (c >= 9 && c <= 13) ? CLASS_SPACE : CLASS_OTHER;
    }
    const int32_t code_point = cps_utf8_next(text, length, at);
    if (cps_utf8_is_letter(code_point)) {
        return CLASS_LETTER;
    }
    if (cps_utf8_is_number(code_point)) {
        return CLASS_NUMBER;
    }
    return cps_utf8_is_space(code_point) ? CLASS_SPACE : CLASS_OTHER;
}

/* Bytes of `text` that match `wanted` without regard to case; text is in lower case already, but
 * the long s (U+017F) stays and counts as an s. 0: no match. */
static size_t match_folded(const char *text, size_t length, const char *wanted) {
    size_t at = 0;
    for (; *wanted != '\0'; wanted++) {
        if (at < length && text[at] == *wanted) {
            at++;
        } else if (*wanted == 's' && length - at >= 2 && memcmp(text + at, "\xC5\xBF", 2) == 0) {
            at += 2;
        } else {
            return 0;
        }
    }
    return at;
}

static size_t match_special(const char *text, size_t length) {
    static const char *const SUFFIXES[] = {"'s", "'t", "'re", "'ve", "'m", "'ll", "'d"};
    size_t used = 0;
    if (text[0] == '<') {
        used = match_folded(text, length, CPS_START_TEXT);
        return used > 0 ? used : match_folded(text, length, CPS_END_TEXT);
    }
    if (text[0] == '\'') {
        for (size_t i = 0; i < sizeof SUFFIXES / sizeof SUFFIXES[0] && used == 0; i++) {
            used = match_folded(text, length, SUFFIXES[i]);
        }
    }
    return used;
}

size_t cps_text_piece(const char *text, size_t length, size_t at) {
    const size_t special = match_special(text + at, length - at);
    if (special > 0) {
        return special;
    }
    size_t next = at;
    const char_class first = class_at(text, length, &next);
    if (first == CLASS_NUMBER || first == CLASS_SPACE) {
        return next - at;
    }
    for (size_t end = next; end < length; next = end) {
        if (class_at(text, length, &end) != first) {
            break;
        }
    }
    return next - at;
}

/* ---- merges ------------------------------------------------------------------------------- */

uint64_t cps_merge_slot(uint64_t key) {
    key ^= key >> 31;
    key *= 0x9E3779B97F4A7C15u;
    return key ^ (key >> 29);
}

const cps_merge *cps_merge_find(const cps_tokenizer *tokenizer, int32_t left, int32_t right) {
    const uint64_t key = (uint64_t)(uint32_t)left << 32 | (uint32_t)right;
    for (uint64_t slot = cps_merge_slot(key);; slot++) {
        const cps_merge *merge = &tokenizer->merges[slot & tokenizer->merge_mask];
        if (merge->rank < 0) {
            return NULL;
        }
        if (merge->key == key) {
            return merge;
        }
    }
}

static void word_symbols(const cps_tokenizer *tokenizer, const char *word, size_t length,
                         int32_t *ids) {
    for (size_t i = 0; i + 1 < length; i++) {
        ids[i] = tokenizer->byte_id[(uint8_t)word[i]];
    }
    ids[length - 1] = tokenizer->byte_end_id[(uint8_t)word[length - 1]];
}

enum { SHORT_WORD = 64 };

/* ids: the word's symbols, replaced by what they merge to; returns their number. */
static size_t merge_short(const cps_tokenizer *tokenizer, int32_t *ids, size_t count) {
    const cps_merge *pairs[SHORT_WORD];
    for (size_t i = 0; i + 1 < count; i++) {
        pairs[i] = cps_merge_find(tokenizer, ids[i], ids[i + 1]);
    }
    for (;;) {
        const cps_merge *best = NULL;
        for (size_t i = 0; i + 1 < count; i++) {
            if (pairs[i] != NULL && (best == NULL || pairs[i]->rank < best->rank)) {
                best = pairs[i];
            }
        }
        if (best == NULL) {
            return count;
        }
        size_t kept = 0;
        for (size_t i = 0; i < count; kept++) {
            const bool merges = i + 1 < count && pairs[i] == best;
            ids[kept] = merges ? best->result : ids[i];
            i += merges ? 2 : 1;
        }
        count = kept;
        for (size_t i = 0; i + 1 < count; i++) {
            pairs[i] = cps_merge_find(tokenizer, ids[i], ids[i + 1]);
        }
    }
}

/* A long word: symbol i is linked to its live neighbours; the heap holds (rank << 32 | i) of pairs
 * that may still stand. Pairs that a merge makes wait in `waiting` until the heap has no pair of
 * the current rank, so that one rank is finished before the next, as the reference does. */
typedef struct long_word {
    const cps_tokenizer *tokenizer;
    int32_t *ids;
    uint32_t *next, *previous;
    size_t count;
    uint64_t *heap, *waiting;
    size_t heap_count, waiting_count;
} long_word;

static void heap_push(long_word *word, uint64_t entry) {
    size_t at = word->heap_count++;
    while (at > 0 && word->heap[(at - 1) / 2] > entry) {
        word->heap[at] = word->heap[(at - 1) / 2];
        at = (at - 1) / 2;
    }
    word->heap[at] = entry;
}

static uint64_t heap_pop(long_word *word) {
    const uint64_t top = word->heap[0];
    const uint64_t last = word->heap[--word->heap_count];
    size_t at = 0;
    for (size_t child = 1; child < word->heap_count; child = 2 * at + 1) {
        if (child + 1 < word->heap_count && word->heap[child + 1] < word->heap[child]) {
            child++;
        }
        if (word->heap[child] >= last) {
            break;
        }
        word->heap[at] = word->heap[child];
        at = child;
    }
    word->heap[at] = last;
    return top;
}

static const cps_merge *pair_at(const long_word *word, uint32_t left) {
    const uint32_t right = word->next[left];
    return word->ids[left] < 0 || right >= word->count
               ? NULL
               : cps_merge_find(word->tokenizer, word->ids[left], word->ids[right]);
}

static void wait_for_pair(long_word *word, uint32_t left) {
    const cps_merge *pair = pair_at(word, left);
    if (pair != NULL) {
        word->waiting[word->waiting_count++] = (uint64_t)(uint32_t)pair->rank << 32 | left;
    }
}

static void merge_at(long_word *word, uint32_t left, const cps_merge *pair) {
    const uint32_t right = word->next[left], after = word->next[right];
    word->ids[left] = pair->result;
    word->ids[right] = -1;
    word->next[left] = after;
    if (after < word->count) {
        word->previous[after] = left;
    }
    if (word->previous[left] != UINT32_MAX) {
        wait_for_pair(word, word->previous[left]);
    }
    wait_for_pair(word, left);
}

static void run_merges(long_word *word) {
    for (uint32_t i = 0; i + 1 < word->count; i++) {
        wait_for_pair(word, i);
    }
    for (;;) {
        while (word->waiting_count > 0) {
            heap_push(word, word->waiting[--word->waiting_count]);
        }
        if (word->heap_count == 0) {
            return;
        }
        const uint64_t rank = word->heap[0] >> 32;
        while (word->heap_count > 0 && word->heap[0] >> 32 == rank) {
            const uint32_t left = (uint32_t)heap_pop(word);
            const cps_merge *pair = pair_at(word, left);
            if (pair != NULL && (uint64_t)pair->rank == rank) {
                merge_at(word, left, pair);
            }
        }
    }
}

/* Merges ids of any number in place. Each merge adds at most two pairs and there are fewer merges
 * than symbols, so 3 * count entries are enough. */
static bool merge_long(const cps_tokenizer *tokenizer, int32_t *ids, size_t *count) {
    const size_t n = *count;
    if (n >= UINT32_MAX / 4) {
        return false;
    }
    long_word word = {.tokenizer = tokenizer, .ids = ids, .count = n};
    word.next = malloc(2 * n * sizeof *word.next);
    word.heap = malloc(6 * n * sizeof *word.heap);
    const bool enough = word.next != NULL && word.heap != NULL;
    if (enough) {
        word.previous = word.next + n;
        word.waiting = word.heap + 3 * n;
        for (uint32_t i = 0; i < n; i++) {
            word.next[i] = i + 1;
            word.previous[i] = i == 0 ? UINT32_MAX : i - 1;
        }
        run_merges(&word);
        *count = 0;
        for (size_t i = 0; i < n; i++) {
            if (ids[i] >= 0) {
                ids[(*count)++] = ids[i];
            }
        }
    }
    free(word.next);
    free(word.heap);
    return enough;
}

/* ---- encoding ----------------------------------------------------------------------------- */

/* Where ids go: those beyond `capacity` are counted only. */
typedef struct id_sink {
    int32_t *ids;
    int64_t capacity, count;
} id_sink;

static void sink_add(id_sink *sink, const int32_t *ids, size_t count) {
    for (size_t i = 0; i < count; i++, sink->count++) {
        if (sink->count < sink->capacity) {
            sink->ids[sink->count] = ids[i];
        }
    }
}

static bool add_uncached(const cps_tokenizer *tokenizer, const char *word, size_t length,
                         id_sink *sink) {
    int32_t *ids = malloc(length * sizeof *ids);
    if (ids == NULL) {
        return false;
    }
    word_symbols(tokenizer, word, length, ids);
    size_t count = length;
    const bool done = merge_long(tokenizer, ids, &count);
    if (done) {
        sink_add(sink, ids, count);
    }
    free(ids);
    return done;
}

static void add_short(const cps_tokenizer *tokenizer, const char *word, size_t length,
                      id_sink *sink) {
    int32_t ids[SHORT_WORD];
    word_symbols(tokenizer, word, length, ids);
    sink_add(sink, ids, merge_short(tokenizer, ids, length));
}

static void add_cached(const cps_tokenizer *tokenizer, const char *word, size_t length,
                       id_sink *sink) {
    const uint64_t slot = cps_hash64(word, length) % CPS_WORD_CACHE;
    pthread_mutex_t *lock = &tokenizer->cache->locks[slot % CPS_WORD_LOCKS];
    cps_word_entry *entry = &tokenizer->cache->entries[slot];
    pthread_mutex_lock(lock);
    const bool hit = entry->length == length && memcmp(entry->bytes, word, length) == 0;
    if (hit) {
        sink_add(sink, entry->ids, entry->id_count);
    }
    pthread_mutex_unlock(lock);
    if (hit) {
        return;
    }
    int32_t ids[SHORT_WORD];
    word_symbols(tokenizer, word, length, ids);
    const size_t count = merge_short(tokenizer, ids, length);
    sink_add(sink, ids, count);
    if (count <= CPS_WORD_IDS) {
        pthread_mutex_lock(lock);
        entry->length = (uint8_t)length;
        entry->id_count = (uint8_t)count;
        memcpy(entry->bytes, word, length);
        memcpy(entry->ids, ids, count * sizeof *ids);
        pthread_mutex_unlock(lock);
    }
}

static bool add_word(const cps_tokenizer *tokenizer, const char *word, size_t length,
                     id_sink *sink) {
    if (length == strlen(CPS_START_TEXT) && memcmp(word, CPS_START_TEXT, length) == 0) {
        sink_add(sink, &tokenizer->start, 1);
    } else if (length == strlen(CPS_END_TEXT) && memcmp(word, CPS_END_TEXT, length) == 0) {
        sink_add(sink, &tokenizer->end, 1);
    } else if (length <= CPS_WORD_BYTES) {
        add_cached(tokenizer, word, length, sink);
    } else if (length <= SHORT_WORD) {
        add_short(tokenizer, word, length, sink);
    } else {
        return add_uncached(tokenizer, word, length, sink);
    }
    return true;
}

/* Ids of the body of `text`; stops when the sink has overflowed, unless `all`. */
static cps_status encode_body(const cps_tokenizer *tokenizer, const char *text, bool all,
                              id_sink *sink) {
    cps_bytes clean;
    cps_bytes_start(&clean);
    bool enough = cps_text_clean(text, &clean);
    for (size_t at = 0; enough && at < clean.length && (all || sink->count <= sink->capacity);) {
        if (clean.data[at] == ' ') {
            at++;
            continue;
        }
        const size_t length = cps_text_piece(clean.data, clean.length, at);
        enough = add_word(tokenizer, clean.data + at, length, sink);
        at += length;
    }
    cps_bytes_end(&clean);
    return enough ? CPS_OK
                  : cps_fail(CPS_ERR_UNAVAILABLE,
                             "no memory to tokenize a text of %zu bytes that begins '%.40s'",
                             strlen(text), text);
}

cps_status cps_tokenizer_encode(const cps_tokenizer *tokenizer, const char *text, int64_t context,
                                int32_t *ids_out, int64_t *length_out, bool *truncated_out) {
    if (context < 2) {
        return cps_fail(CPS_ERR_USAGE,
                        "a context of %lld ids cannot hold start and end: it must be 2 or more",
                        (long long)context);
    }
    id_sink sink = {.ids = ids_out + 1, .capacity = context - 2};
    CPS_TRY(encode_body(tokenizer, text, false, &sink));
    const bool truncated = sink.count > sink.capacity;
    const int64_t body = truncated ? sink.capacity : sink.count;
    ids_out[0] = tokenizer->start;
    ids_out[body + 1] = tokenizer->end;
    *length_out = body + 2;
    if (truncated_out != NULL) {
        *truncated_out = truncated;
    }
    return CPS_OK;
}

cps_status cps_tokenizer_length(const cps_tokenizer *tokenizer, const char *text,
                                int64_t *length_out) {
    id_sink sink = {.ids = NULL};
    CPS_TRY(encode_body(tokenizer, text, true, &sink));
    *length_out = sink.count + 2;
    return CPS_OK;
}

/* ---- decoding ----------------------------------------------------------------------------- */

static size_t put_symbol(const cps_tokenizer *tokenizer, int32_t id, char *out) {
    if (id < 0 || id >= tokenizer->vocabulary || tokenizer->symbol_at[id] == SIZE_MAX) {
        return cps_utf8_put(0xFFFD, out);
    }
    const char *symbol = tokenizer->symbols + tokenizer->symbol_at[id];
    size_t length = strlen(symbol), written = 0;
    const bool ends = length > 4 && strcmp(symbol + length - 4, "</w>") == 0;
    length -= ends ? 4 : 0;
    for (size_t at = 0; at < length;) {
        const int32_t code_point = cps_utf8_next(symbol, length, &at);
        const int32_t byte = cps_spelling_byte(code_point);
        if (byte >= 0) {
            out[written++] = (char)(uint8_t)byte;
        } else {
            written += cps_utf8_put(code_point, out + written);
        }
    }
    if (ends) {
        out[written++] = ' ';
    }
    return written;
}

static size_t symbol_room(const cps_tokenizer *tokenizer, int32_t id) {
    const bool known =
        id >= 0 && id < tokenizer->vocabulary && tokenizer->symbol_at[id] != SIZE_MAX;
    return known ? strlen(tokenizer->symbols + tokenizer->symbol_at[id]) + 4 : 4;
}

char *cps_tokenizer_decode(const cps_tokenizer *tokenizer, const int32_t *ids, int64_t count) {
    size_t room = 1;
    for (int64_t i = 0; i < count; i++) {
        room += symbol_room(tokenizer, ids[i]);
    }
    char *text = malloc(room);
    if (text == NULL) {
        return NULL;
    }
    size_t written = 0;
    for (int64_t i = 0; i < count; i++) {
        if (ids[i] != tokenizer->start && ids[i] != tokenizer->end) {
            written += put_symbol(tokenizer, ids[i], text + written);
        }
    }
    if (written > 0 && text[written - 1] == ' ') {
        written--;
    }
    text[written] = '\0';
    return text;
}

/* ---- facts -------------------------------------------------------------------------------- */

int64_t cps_tokenizer_vocabulary(const cps_tokenizer *tokenizer) {
    return tokenizer->vocabulary;
}

int32_t cps_tokenizer_start(const cps_tokenizer *tokenizer) {
    return tokenizer->start;
}

int32_t cps_tokenizer_end(const cps_tokenizer *tokenizer) {
    return tokenizer->end;
}

int64_t cps_tokenizer_context(const cps_tokenizer *tokenizer) {
    return tokenizer->context;
}

const char *cps_tokenizer_name(const cps_tokenizer *tokenizer) {
    return tokenizer->name;
}

uint64_t cps_tokenizer_digest(const cps_tokenizer *tokenizer) {
    return tokenizer->digest;
}
