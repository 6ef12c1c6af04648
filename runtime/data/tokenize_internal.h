/* Shared by tokenize.c (encoding), tokenize_load.c (file formats) and tokenize_train.c; not for
 * others. */
#ifndef CPS_DATA_TOKENIZE_INTERNAL_H
#define CPS_DATA_TOKENIZE_INTERNAL_H

#include <pthread.h>

#include "data/tokenize.h"

/* The merge of (left, right), keyed left << 32 | right, in an open-addressed table. */
typedef struct cps_merge {
    uint64_t key;
    int32_t rank;   /* -1: free slot */
    int32_t result; /* id of the merged symbol */
} cps_merge;

enum { CPS_WORD_CACHE = 8192, CPS_WORD_LOCKS = 64, CPS_WORD_BYTES = 31, CPS_WORD_IDS = 7 };
/* A word and its ids. */
typedef struct cps_word_entry {
    uint8_t length, id_count; /* length 0: free */
    char bytes[CPS_WORD_BYTES];
    int32_t ids[CPS_WORD_IDS];
} cps_word_entry;

typedef struct cps_word_cache {
    pthread_mutex_t locks[CPS_WORD_LOCKS];
    cps_word_entry
        entries[CPS_WORD_CACHE]; /* direct-mapped; entry i under lock i % CPS_WORD_LOCKS */
} cps_word_cache;

struct cps_tokenizer {
    char *name;
    int64_t vocabulary, context;
    int32_t start, end;
    int32_t byte_id[256];     /* a byte inside a word */
    int32_t byte_end_id[256]; /* a byte that ends a word */
    cps_merge *merges;
    uint64_t merge_mask;
    char *symbols;     /* all symbols' text in the published spelling, NUL-terminated */
    size_t *symbol_at; /* [vocabulary]: offset into `symbols`; SIZE_MAX: no such id */
    uint64_t digest;
    cps_word_cache *cache;
};

/* A byte buffer that starts on the stack: zero-initialise `capacity` through cps_bytes_start. */
typedef struct cps_bytes {
    char *data;
    size_t length, capacity;
    char fixed[2048];
} cps_bytes;
void cps_bytes_start(cps_bytes *buffer);
bool cps_bytes_reserve(cps_bytes *buffer, size_t capacity); /* false: out of memory */
void cps_bytes_end(cps_bytes *buffer);

/* Cleans `text` (malformed UTF-8, entities, white space, case) into `out`, NUL-terminated; false:
 * out of memory. */
bool cps_text_clean(const char *text, cps_bytes *out);
/* Length in bytes of the piece at text[at], at a non-blank; white space stands between pieces. */
size_t cps_text_piece(const char *text, size_t length, size_t at);

/* The character that spells a byte in files: printable bytes stand for themselves, the others for
 * U+0100 and on. */
int32_t cps_byte_spelling(uint8_t byte);
int32_t cps_spelling_byte(int32_t code_point); /* -1: none */
/* Symbol of a byte, "x" or "x</w>", NUL-terminated. */
void cps_byte_symbol(uint8_t byte, bool ends, char out[12]);
/* Byte symbols in the order of the vocabulary: place 0..255 -> byte. */
void cps_byte_order(uint8_t order_out[256]);

uint64_t cps_merge_slot(uint64_t key); /* hash */
const cps_merge *cps_merge_find(const cps_tokenizer *tokenizer, int32_t left, int32_t right);

extern const char *const CPS_START_TEXT;
extern const char *const CPS_END_TEXT;

#endif
