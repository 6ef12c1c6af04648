/* CLIP's byte-pair tokenizer: text -> ids. Made from the published merges file (gzip or plain),
 * from a Hugging Face tokenizer.json, or by training on one's own corpus (cps_tokenizer_train).
 * What encoding does, in order: malformed UTF-8 becomes U+FFFD; HTML entities are replaced, twice;
 * ends trimmed, runs of white space become one blank; full Unicode lower case; split by the pattern
 *   <start>|<end>|'s|'t|'re|'ve|'m|'ll|'d|letters+|one digit|other+
 * each piece becomes its UTF-8 bytes, the last one marked as the end of a word, and merges are
 * applied by rank. Mis-decoded text is not repaired (the reference runs ftfy first; clean UTF-8
 * needs none). A tokenizer is immutable but for an internal cache with locks: any number of threads
 * may encode at once. Local. */
#ifndef CPS_DATA_TOKENIZE_H
#define CPS_DATA_TOKENIZE_H

#include "base/status.h"

typedef struct cps_tokenizer cps_tokenizer;

enum {
    CPS_TOKENIZER_CONTEXT = 77,       /* of the published models */
    CPS_TOKENIZER_VOCABULARY = 49408, /* 2*256 byte symbols, 48,894 merges, start and end */
    CPS_TOKENIZER_VOCABULARY_MIN = 514
};

/* Reads `path`: what it is (gzip, merges, JSON) is told by its content. UNAVAILABLE: no such file;
 * DATA: not a tokenizer. */
cps_status cps_tokenizer_load(const char *path, cps_tokenizer **tokenizer_out) CPS_MUST_CHECK;
/* The same from memory (a broadcast file): uncompressed or gzip; `name` stands in messages. */
cps_status cps_tokenizer_load_bytes(const char *bytes, size_t length, const char *name,
                                    cps_tokenizer **tokenizer_out) CPS_MUST_CHECK;
void cps_tokenizer_destroy(cps_tokenizer *tokenizer); /* NULL-safe */

/* Ids of `text` between start and end id into ids_out[0 .. *length_out - 1], length at most
 * `context` (>= 2); the rest of ids_out is not written. A text too long is cut: it keeps the start,
 * its last id is the end id, *truncated_out is true. truncated_out may be NULL. UNAVAILABLE: out of
 * memory (texts of many kilobytes). */
cps_status cps_tokenizer_encode(const cps_tokenizer *tokenizer, const char *text, int64_t context,
                                int32_t *ids_out, int64_t *length_out,
                                bool *truncated_out) CPS_MUST_CHECK;
/* Number of ids that `text` has uncut, start and end included. */
cps_status cps_tokenizer_length(const cps_tokenizer *tokenizer, const char *text,
                                int64_t *length_out) CPS_MUST_CHECK;
/* Text of ids for display: start and end left out, malformed UTF-8 kept as it is; free() it. NULL:
 * out of memory. Ids outside the vocabulary show as U+FFFD. */
char *cps_tokenizer_decode(const cps_tokenizer *tokenizer, const int32_t *ids, int64_t count);
/* The text after cleaning (entities, white space, lower case), for display and caption hashes;
 * free() it. */
char *cps_tokenizer_clean(const char *text);

int64_t cps_tokenizer_vocabulary(const cps_tokenizer *tokenizer);
int32_t cps_tokenizer_start(const cps_tokenizer *tokenizer);
int32_t cps_tokenizer_end(const cps_tokenizer *tokenizer); /* the largest id: towers pool at it */
int64_t cps_tokenizer_context(
    const cps_tokenizer *tokenizer); /* CPS_TOKENIZER_CONTEXT unless the file says otherwise */
const char *cps_tokenizer_name(const cps_tokenizer *tokenizer); /* file name without folder */
/* Digest of vocabulary, special ids and merges: equal for the same tokenizer in either file format.
 */
uint64_t cps_tokenizer_digest(const cps_tokenizer *tokenizer);

/* The next line of a corpus: *line_out borrowed until the next call, NULL at the end. */
typedef cps_status (*cps_corpus_line)(void *context, const char **line_out);
typedef struct cps_tokenizer_train_options {
    int64_t vocabulary;    /* wanted: 514 + merges */
    int64_t minimum_count; /* pairs seen less often are not merged; at least 2 by default (0) */
    int64_t max_words;     /* distinct words held in memory, the limit is an error; 0: 20 million */
    void (*progress)(void *context, int64_t merges, int64_t wanted); /* may be NULL */
    void *progress_context;
} cps_tokenizer_train_options;
/* Learns merges from a corpus and writes them to `path` in the published format (plain, atomic).
 * The first line states the vocabulary: "#version: 0.2 copse vocabulary=N". A corpus that has fewer
 * pairs gives a smaller vocabulary: *vocabulary_out. Pairs are taken by count, ties by the smaller
 * (left, right) symbol numbers, so the same corpus gives the same bytes. */
cps_status cps_tokenizer_train(cps_corpus_line next, void *context,
                               const cps_tokenizer_train_options *options, const char *path,
                               int64_t *vocabulary_out) CPS_MUST_CHECK;

#endif
