/* Learning merges: words with their counts, the number of each neighbouring pair of symbols, and
 * for each pair the words it was seen in, so that a merge touches only those. A heap gives the most
 * frequent pair; its entries may be stale (counts fall as merges take neighbours away) and are
 * pushed again with the present count when met. Symbols are equal when they are spelled equally,
 * whichever merge made them, as for the reader of the file. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/file.h"
#include "base/hash.h"
#include "data/tokenize_internal.h"

enum { MAX_WORD_BYTES = 128, DEFAULT_MAX_WORDS = 20000000, NONE = -1, ANY = -1 };

typedef struct trained_word {
    int64_t count;
    size_t first;   /* into trainer.symbols */
    int32_t length; /* symbols left */
} trained_word;

typedef struct pair_entry {
    uint64_t key; /* left << 32 | right */
    int64_t count;
    int64_t queued; /* the count it last went into the heap with */
    int32_t seen;   /* head of its list in trainer.seen; NONE: free slot when count < 0 */
} pair_entry;

typedef struct seen_node {
    int32_t word, next;
} seen_node;

typedef struct heap_entry {
    int64_t count;
    uint64_t key;
} heap_entry;

/* A growing array. */
typedef struct list {
    void *items;
    size_t count, capacity;
} list;

typedef struct trainer {
    list words, symbols, spellings, seen, heap,
        merges;          /* trained_word, int32, char *, seen_node, heap_entry, uint64 */
    int32_t *word_slots; /* word + 1 by text, 0 free */
    list word_texts;     /* char *: the text of each word */
    size_t word_slot_count;
    pair_entry *pairs;
    size_t pair_slots, pair_count;
    int32_t *spelling_slots;
    size_t spelling_slot_count;
    bool failed; /* out of memory */
} trainer;

static void *list_add(trainer *train, list *grows, size_t item_bytes) {
    if (grows->count == grows->capacity) {
        const size_t capacity = grows->capacity == 0 ? 1024 : 2 * grows->capacity;
        void *items =
            capacity <= SIZE_MAX / item_bytes ? realloc(grows->items, capacity * item_bytes) : NULL;
        if (items == NULL) {
            train->failed = true;
            return NULL;
        }
        grows->items = items;
        grows->capacity = capacity;
    }
    return (char *)grows->items + item_bytes * grows->count++;
}

/* ---- words -------------------------------------------------------------------------------- */

static const char *word_text(const trainer *train, int32_t word) {
    return ((char *const *)train->word_texts.items)[word];
}

static size_t word_slot(const trainer *train, const char *text, size_t length) {
    const size_t mask = train->word_slot_count - 1;
    size_t slot = cps_hash64(text, length) & mask;
    while (train->word_slots[slot] != 0) {
        const char *other = word_text(train, train->word_slots[slot] - 1);
        if (strncmp(other, text, length) == 0 && other[length] == '\0') {
            break;
        }
        slot = (slot + 1) & mask;
    }
    return slot;
}

static void grow_words(trainer *train) {
    int32_t *old = train->word_slots;
    train->word_slots = calloc(2 * train->word_slot_count, sizeof *train->word_slots);
    if (train->word_slots == NULL) {
        train->word_slots = old;
        train->failed = true;
        return;
    }
    train->word_slot_count *= 2;
    for (size_t i = 0; i < train->words.count; i++) {
        const char *text = word_text(train, (int32_t)i);
        train->word_slots[word_slot(train, text, strlen(text))] = (int32_t)i + 1;
    }
    free(old);
}

static void count_word(trainer *train, const char *text, size_t length) {
    size_t slot = word_slot(train, text, length);
    if (train->word_slots[slot] == 0) {
        char **copy = list_add(train, &train->word_texts, sizeof *copy);
        if (copy == NULL) {
            return;
        }
        *copy = strndup(text, length);
        trained_word *word = list_add(train, &train->words, sizeof *word);
        if (*copy == NULL || word == NULL) {
            train->failed = true;
            return;
        }
        *word = (trained_word){0};
        train->word_slots[slot] = (int32_t)train->words.count;
        if (2 * train->words.count > train->word_slot_count) {
            grow_words(train);
            slot = word_slot(train, text, length);
        }
    }
    if (!train->failed) {
        ((trained_word *)train->words.items)[train->word_slots[slot] - 1].count++;
    }
}

static void count_line(trainer *train, const char *line) {
    cps_bytes clean;
    cps_bytes_start(&clean);
    train->failed = train->failed || !cps_text_clean(line, &clean);
    for (size_t at = 0; !train->failed && at < clean.length;) {
        if (clean.data[at] == ' ') {
            at++;
            continue;
        }
        const char *piece = clean.data + at;
        const size_t length = cps_text_piece(clean.data, clean.length, at);
        const bool special =
            (length == strlen(CPS_START_TEXT) && memcmp(piece, CPS_START_TEXT, length) == 0) ||
            (length == strlen(CPS_END_TEXT) && memcmp(piece, CPS_END_TEXT, length) == 0);
        if (length <= MAX_WORD_BYTES && !special) {
            count_word(train, piece, length);
        }
        at += length;
    }
    cps_bytes_end(&clean);
}

static cps_status count_corpus(trainer *train, cps_corpus_line next, void *context,
                               int64_t max_words) {
    for (;;) {
        const char *line = NULL;
        CPS_TRY(next(context, &line));
        if (line == NULL || train->failed) {
            break;
        }
        count_line(train, line);
        if ((int64_t)train->words.count > max_words) {
            return cps_fail(CPS_ERR_DATA,
                            "the corpus has more than %lld distinct words: train on a sample of it",
                            (long long)max_words);
        }
    }
    if (!train->failed && train->words.count == 0) {
        return cps_fail(CPS_ERR_DATA, "the corpus holds no words: nothing to learn from");
    }
    return CPS_OK;
}

/* ---- symbols ------------------------------------------------------------------------------ */

static const char *spelling(const trainer *train, int32_t id) {
    return ((char *const *)train->spellings.items)[id];
}

/* Number of the symbol spelled `text` (taken over), made if new. */
static int32_t symbol_of(trainer *train, char *text) {
    if (text == NULL) {
        train->failed = true;
        return 0;
    }
    const size_t mask = train->spelling_slot_count - 1;
    size_t slot = cps_hash64_text(text) & mask;
    while (train->spelling_slots[slot] != 0) {
        const int32_t id = train->spelling_slots[slot] - 1;
        if (strcmp(spelling(train, id), text) == 0) {
            free(text);
            return id;
        }
        slot = (slot + 1) & mask;
    }
    char **place = list_add(train, &train->spellings, sizeof *place);
    if (place == NULL) {
        free(text);
        return 0;
    }
    *place = text;
    train->spelling_slots[slot] = (int32_t)train->spellings.count;
    return (int32_t)train->spellings.count - 1;
}

static void add_byte_symbols(trainer *train) {
    uint8_t order[256];
    cps_byte_order(order);
    for (int i = 0; i < 512 && !train->failed; i++) {
        char text[12];
        cps_byte_symbol(order[i % 256], i >= 256, text);
        symbol_of(train, strdup(text));
    }
}

static void spell_words(trainer *train) {
    int32_t place_of[256];
    uint8_t order[256];
    cps_byte_order(order);
    for (int32_t i = 0; i < 256; i++) {
        place_of[order[i]] = i;
    }
    for (size_t i = 0; i < train->words.count && !train->failed; i++) {
        trained_word *word = (trained_word *)train->words.items + i;
        const char *text = word_text(train, (int32_t)i);
        const size_t length = strlen(text);
        word->first = train->symbols.count;
        word->length = (int32_t)length;
        for (size_t b = 0; b < length && !train->failed; b++) {
            int32_t *symbol = list_add(train, &train->symbols, sizeof *symbol);
            if (symbol != NULL) {
                *symbol = place_of[(uint8_t)text[b]] + (b + 1 == length ? 256 : 0);
            }
        }
    }
}

/* ---- pairs -------------------------------------------------------------------------------- */

static pair_entry *find_pair(const trainer *train, uint64_t key) {
    const size_t mask = train->pair_slots - 1;
    size_t slot = cps_merge_slot(key) & mask;
    while (train->pairs[slot].count >= 0 && train->pairs[slot].key != key) {
        slot = (slot + 1) & mask;
    }
    return &train->pairs[slot];
}

static bool make_pairs(trainer *train, size_t slots) {
    pair_entry *old = train->pairs;
    const size_t old_slots = train->pair_slots;
    pair_entry *pairs = malloc(slots * sizeof *pairs);
    if (pairs == NULL) {
        train->failed = true;
        return false;
    }
    for (size_t i = 0; i < slots; i++) {
        pairs[i] = (pair_entry){.count = -1, .seen = NONE};
    }
    train->pairs = pairs;
    train->pair_slots = slots;
    for (size_t i = 0; i < old_slots; i++) {
        if (old[i].count >= 0) {
            *find_pair(train, old[i].key) = old[i];
        }
    }
    free(old);
    return true;
}

static bool is_before(heap_entry a, heap_entry b) {
    return a.count != b.count ? a.count > b.count : a.key < b.key;
}

static void push_pair(trainer *train, heap_entry entry) {
    if (list_add(train, &train->heap, sizeof entry) == NULL) {
        return;
    }
    heap_entry *heap = train->heap.items;
    size_t at = train->heap.count - 1;
    for (; at > 0 && is_before(entry, heap[(at - 1) / 2]); at = (at - 1) / 2) {
        heap[at] = heap[(at - 1) / 2];
    }
    heap[at] = entry;
}

static heap_entry pop_pair(trainer *train) {
    heap_entry *heap = train->heap.items;
    const heap_entry top = heap[0], last = heap[--train->heap.count];
    size_t at = 0;
    for (size_t child = 1; child < train->heap.count; child = 2 * at + 1) {
        if (child + 1 < train->heap.count && is_before(heap[child + 1], heap[child])) {
            child++;
        }
        if (!is_before(heap[child], last)) {
            break;
        }
        heap[at] = heap[child];
        at = child;
    }
    heap[at] = last;
    return top;
}

/* Adds `change` occurrences of a pair; `word` is noted as a place where they are. */
static void change_pair(trainer *train, int32_t left, int32_t right, int64_t change, int32_t word,
                        bool note) {
    if (2 * (train->pair_count + 1) > train->pair_slots &&
        !make_pairs(train, 2 * train->pair_slots)) {
        return;
    }
    const uint64_t key = (uint64_t)(uint32_t)left << 32 | (uint32_t)right;
    pair_entry *pair = find_pair(train, key);
    if (pair->count < 0) {
        *pair = (pair_entry){.key = key, .queued = -1, .seen = NONE};
        train->pair_count++;
    }
    pair->count += change;
    if (note) {
        const seen_node *nodes = train->seen.items;
        if (pair->seen == NONE || nodes[pair->seen].word != word) {
            seen_node *node = list_add(train, &train->seen, sizeof *node);
            if (node == NULL || train->seen.count > INT32_MAX) {
                train->failed = true;
                return;
            }
            *node = (seen_node){.word = word, .next = pair->seen};
            pair->seen = (int32_t)train->seen.count - 1;
        }
    }
}

/* Adds or takes away all pairs of a word. Words are noted at pairs that hold `made`, the symbol
 * just made (ANY: at all pairs). */
static void change_word_pairs(trainer *train, int32_t number, int64_t sign, int32_t made) {
    const trained_word word = ((const trained_word *)train->words.items)[number];
    for (int32_t i = 0; i + 1 < word.length && !train->failed; i++) {
        const int32_t *pair = (const int32_t *)train->symbols.items + word.first + i;
        const bool note = sign > 0 && (made == ANY || pair[0] == made || pair[1] == made);
        change_pair(train, pair[0], pair[1], sign * word.count, number, note);
    }
}

static void queue_pair(trainer *train, pair_entry *pair) {
    if (pair->queued != pair->count) {
        pair->queued = pair->count;
        push_pair(train, (heap_entry){.count = pair->count, .key = pair->key});
    }
}

static void queue_word_pairs(trainer *train, int32_t number, int32_t made) {
    const trained_word word = ((const trained_word *)train->words.items)[number];
    const int32_t *symbols = (const int32_t *)train->symbols.items + word.first;
    for (int32_t i = 0; i + 1 < word.length && !train->failed; i++) {
        if (symbols[i] == made || symbols[i + 1] == made) {
            queue_pair(train, find_pair(train, (uint64_t)(uint32_t)symbols[i] << 32 |
                                                   (uint32_t)symbols[i + 1]));
        }
    }
}

/* Merges a pair in one word; false if it is not there any more. */
static bool merge_word(trainer *train, int32_t number, int32_t left, int32_t right,
                       int32_t result) {
    trained_word *word = (trained_word *)train->words.items + number;
    int32_t *symbols = (int32_t *)train->symbols.items + word->first;
    bool found = false;
    for (int32_t i = 0; i + 1 < word->length && !found; i++) {
        found = symbols[i] == left && symbols[i + 1] == right;
    }
    if (!found) {
        return false;
    }
    change_word_pairs(train, number, -1, ANY);
    int32_t kept = 0;
    for (int32_t i = 0; i < word->length; kept++) {
        const bool merges = i + 1 < word->length && symbols[i] == left && symbols[i + 1] == right;
        symbols[kept] = merges ? result : symbols[i];
        i += merges ? 2 : 1;
    }
    word->length = kept;
    change_word_pairs(train, number, 1, result);
    return true;
}

static char *join(const trainer *train, int32_t left, int32_t right) {
    return cps_format("%s%s", spelling(train, left), spelling(train, right));
}

/* Takes the pair out, merges it everywhere, and queues the pairs that this made. */
static void apply_merge(trainer *train, uint64_t key) {
    const int32_t left = (int32_t)(key >> 32), right = (int32_t)(uint32_t)key;
    uint64_t *merge = list_add(train, &train->merges, sizeof *merge);
    if (merge == NULL) {
        return;
    }
    *merge = key;
    const int32_t result = symbol_of(train, join(train, left, right));
    const int32_t head = find_pair(train, key)->seen;
    for (int32_t at = head; at != NONE && !train->failed;) {
        const seen_node node = ((const seen_node *)train->seen.items)[at];
        merge_word(train, node.word, left, right, result);
        at = node.next;
    }
    for (int32_t at = head; at != NONE && !train->failed;) {
        const seen_node node = ((const seen_node *)train->seen.items)[at];
        queue_word_pairs(train, node.word, result);
        at = node.next;
    }
}

static void learn(trainer *train, const cps_tokenizer_train_options *options) {
    const int64_t wanted = options->vocabulary - CPS_TOKENIZER_VOCABULARY_MIN;
    const int64_t least = options->minimum_count > 0 ? options->minimum_count : 2;
    for (size_t i = 0; i < train->words.count; i++) {
        change_word_pairs(train, (int32_t)i, 1, ANY);
    }
    for (size_t i = 0; i < train->pair_slots && !train->failed; i++) {
        if (train->pairs[i].count > 0) {
            queue_pair(train, &train->pairs[i]);
        }
    }
    while (!train->failed && (int64_t)train->merges.count < wanted && train->heap.count > 0) {
        const heap_entry top = pop_pair(train);
        pair_entry *pair = find_pair(train, top.key);
        if (pair->count != top.count) { /* stale: back with the present count */
            queue_pair(train, pair);
            continue;
        }
        if (pair->count < least) {
            break;
        }
        apply_merge(train, top.key);
        if (options->progress != NULL && train->merges.count % 256 == 0) {
            options->progress(options->progress_context, (int64_t)train->merges.count, wanted);
        }
    }
}

/* ---- the file ----------------------------------------------------------------------------- */

static cps_status write_merges(const trainer *train, const char *path) {
    char *text = NULL;
    size_t length = 0;
    FILE *memory = open_memstream(&text, &length);
    if (memory == NULL) {
        return cps_fail(CPS_ERR_UNAVAILABLE, "no memory to write '%s'", path);
    }
    const uint64_t *merges = train->merges.items;
    fprintf(memory, "#version: 0.2 copse vocabulary=%zu\n",
            train->merges.count + CPS_TOKENIZER_VOCABULARY_MIN);
    for (size_t i = 0; i < train->merges.count; i++) {
        fprintf(memory, "%s %s\n", spelling(train, (int32_t)(merges[i] >> 32)),
                spelling(train, (int32_t)(uint32_t)merges[i]));
    }
    const bool complete = ferror(memory) == 0;
    const bool closed = fclose(memory) == 0;
    cps_status status = complete && closed
                            ? cps_file_write_atomic(path, text, length)
                            : cps_fail(CPS_ERR_UNAVAILABLE, "no memory to write '%s'", path);
    free(text);
    return status;
}

static bool trainer_start(trainer *train, int64_t vocabulary) {
    train->word_slot_count = 1 << 16;
    train->word_slots = calloc(train->word_slot_count, sizeof *train->word_slots);
    train->spelling_slot_count = 1 << 12;
    while (train->spelling_slot_count < 2 * (size_t)vocabulary) {
        train->spelling_slot_count *= 2;
    }
    train->spelling_slots = calloc(train->spelling_slot_count, sizeof *train->spelling_slots);
    return train->word_slots != NULL && train->spelling_slots != NULL && make_pairs(train, 1 << 16);
}

static void trainer_end(trainer *train) {
    for (size_t i = 0; i < train->word_texts.count; i++) {
        free(((char **)train->word_texts.items)[i]);
    }
    for (size_t i = 0; i < train->spellings.count; i++) {
        free(((char **)train->spellings.items)[i]);
    }
    list *lists[] = {&train->words, &train->symbols, &train->spellings, &train->seen,
                     &train->heap,  &train->merges,  &train->word_texts};
    for (size_t i = 0; i < sizeof lists / sizeof lists[0]; i++) {
        free(lists[i]->items);
    }
    free(train->word_slots);
    free(train->spelling_slots);
    free(train->pairs);
}

cps_status cps_tokenizer_train(cps_corpus_line next, void *context,
                               const cps_tokenizer_train_options *options, const char *path,
                               int64_t *vocabulary_out) {
    if (options->vocabulary < CPS_TOKENIZER_VOCABULARY_MIN || options->vocabulary > 1 << 24) {
        return cps_fail(CPS_ERR_USAGE,
                        "a vocabulary of %lld ids was asked for, wanted is %d (no merges) to %d",
                        (long long)options->vocabulary, CPS_TOKENIZER_VOCABULARY_MIN, 1 << 24);
    }
    trainer train = {0};
    cps_status status = CPS_OK;
    train.failed = !trainer_start(&train, options->vocabulary);
    if (!train.failed) {
        add_byte_symbols(&train);
        status = count_corpus(&train, next, context,
                              options->max_words > 0 ? options->max_words : DEFAULT_MAX_WORDS);
    }
    if (status == CPS_OK && !train.failed) {
        spell_words(&train);
        learn(&train, options);
    }
    if (status == CPS_OK && train.failed) {
        status = cps_fail(CPS_ERR_UNAVAILABLE,
                          "no memory to train a tokenizer on %zu distinct words: train on a "
                          "sample of the corpus",
                          train.words.count);
    }
    if (status == CPS_OK) {
        status = write_merges(&train, path);
    }
    if (status == CPS_OK) {
        *vocabulary_out = (int64_t)train.merges.count + CPS_TOKENIZER_VOCABULARY_MIN;
    }
    trainer_end(&train);
    return status;
}
