#include "data/stream.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "base/file.h"
#include "base/hash.h"
#include "base/numeric.h"
#include "base/rng.h"
#include "shards/taxon.h"

/* ---- a set: an ordered list of records ---------------------------------------------------- */

typedef struct shard_set {
    const cps_shard **shards;
    int64_t shard_count;
    int64_t *first;   /* [shard_count + 1]: records in front of each shard */
    uint32_t *picked; /* [size], ascending: places in the concatenated shards; NULL: all */
    int64_t size;
    int64_t left_out, bad;
    int64_t largest_image; /* bytes */
    double given_weight;   /* 0: by size */
    double weight;
    char *caption;
    bool fixed_caption;
} shard_set;

struct cps_stream {
    char *name;
    uint64_t seed;
    uint32_t name_key;
    shard_set *sets;
    int64_t set_count;
    int64_t epoch_samples;   /* as given; 0: the sum of the sizes */
    int64_t *share_before;   /* [set_count + 1]: positions of the sets in front; the last is
                                epoch_samples */
    int64_t *records_before; /* [set_count + 1] */
    uint64_t digest;
};

/* Positions are multiplied with each other in 64 bits. */
static const int64_t MAX_POSITIONS = (int64_t)1 << 31;

static int64_t set_total(const shard_set *set) {
    return set->first[set->shard_count];
}

static cps_status no_memory(const char *stream) {
    return cps_fail(CPS_ERR_UNAVAILABLE, "stream '%s': out of memory", stream);
}

/* The last index with bounds[index] <= value; bounds ascend, bounds[0] <= value < bounds[count]. */
static int64_t interval_of(const int64_t *bounds, int64_t count, int64_t value) {
    int64_t low = 0, high = count;
    while (high - low > 1) {
        const int64_t middle = low + (high - low) / 2;
        if (bounds[middle] <= value) {
            low = middle;
        } else {
            high = middle;
        }
    }
    return low;
}

static cps_status add_shard(shard_set *set, const char *stream, const cps_shard *shard) {
    for (int64_t i = 0; i < set->shard_count; i++) {
        if (set->shards[i] == shard) {
            return cps_fail(CPS_ERR_USAGE,
                            "stream '%s': shard '%s' is named twice in one set: its records would "
                            "count double; name it once",
                            stream, cps_shard_path(shard));
        }
    }
    const cps_shard **shards =
        realloc(set->shards, (size_t)(set->shard_count + 1) * sizeof *shards);
    if (shards == NULL) {
        return no_memory(stream);
    }
    set->shards = shards;
    set->shards[set->shard_count++] = shard;
    return CPS_OK;
}

static cps_status open_pattern(shard_set *set, const char *stream, const char *pattern,
                               cps_shard_pool *pool) {
    char **paths = NULL;
    int64_t count = 0;
    cps_status status = cps_glob(pattern, &paths, &count);
    for (int64_t i = 0; i < count && status == CPS_OK; i++) {
        const cps_shard *shard = NULL;
        status = cps_shard_pool_open(pool, paths[i], &shard);
        if (status == CPS_OK) {
            status = add_shard(set, stream, shard);
        }
    }
    cps_strings_destroy(paths, count);
    return cps_fail_context(status, "stream '%s'", stream);
}

static cps_status open_set(shard_set *set, const char *stream, const cps_set_spec *spec,
                           cps_shard_pool *pool) {
    for (int64_t i = 0; i < spec->pattern_count; i++) {
        CPS_TRY(open_pattern(set, stream, spec->patterns[i], pool));
    }
    if (set->shard_count == 0) {
        return cps_fail(CPS_ERR_USAGE, "stream '%s' names no shards", stream);
    }
    set->first = malloc((size_t)(set->shard_count + 1) * sizeof *set->first);
    set->caption = strdup(spec->caption != NULL ? spec->caption : "caption");
    set->fixed_caption = spec->fixed_caption;
    if (set->first == NULL || set->caption == NULL) {
        return no_memory(stream);
    }
    set->first[0] = 0;
    for (int64_t i = 0; i < set->shard_count; i++) {
        set->first[i + 1] = set->first[i] + cps_shard_count(set->shards[i]);
    }
    if (set_total(set) == 0 || set_total(set) >= MAX_POSITIONS) {
        return cps_fail(CPS_ERR_DATA,
                        "stream '%s': its shards ('%s' ...) hold %lld records, wanted is 1 to %lld",
                        stream, cps_shard_path(set->shards[0]), (long long)set_total(set),
                        (long long)MAX_POSITIONS - 1);
    }
    return CPS_OK;
}

/* ---- which records a set keeps ------------------------------------------------------------ */

void cps_stream_published_order(uint32_t seed, int64_t n, uint32_t *order_out) {
    for (int64_t i = 0; i < n; i++) {
        order_out[i] = (uint32_t)i;
    }
    cps_mt19937 generator;
    cps_mt19937_seed(&generator, seed);
    for (int64_t i = 0; i + 1 < n; i++) {
        const int64_t other = i + (int64_t)(cps_mt19937_next(&generator) % (uint32_t)(n - i));
        const uint32_t swapped = order_out[i];
        order_out[i] = order_out[other];
        order_out[other] = swapped;
    }
}

static bool draw_published(uint32_t seed, int64_t n, int64_t count, uint8_t *keep) {
    uint32_t *order = malloc((size_t)n * sizeof *order);
    if (order == NULL) {
        return false;
    }
    cps_stream_published_order(seed, n, order);
    for (int64_t i = 0; i < count; i++) {
        keep[order[i]] = 1;
    }
    free(order);
    return true;
}

static cps_status subset_size(const char *stream, const cps_set_spec *spec, int64_t n,
                              int64_t *count_out) {
    if (spec->fraction != 0 && spec->count != 0) {
        return cps_fail(CPS_ERR_USAGE,
                        "stream '%s': both fraction = %g and count = %lld are given; give one",
                        stream, spec->fraction, (long long)spec->count);
    }
    if (spec->fraction != 0 && !(spec->fraction > 0 && spec->fraction <= 1)) {
        return cps_fail(CPS_ERR_USAGE, "stream '%s': fraction = %g, wanted is above 0 and up to 1",
                        stream, spec->fraction);
    }
    const int64_t count = spec->count != 0 ? spec->count : (int64_t)((double)n * spec->fraction);
    if (count < 1 || count > n) {
        return cps_fail(CPS_ERR_USAGE,
                        "stream '%s': a subset of %lld records was asked for (%s), its shards "
                        "hold %lld",
                        stream, (long long)count, spec->count != 0 ? "count" : "fraction",
                        (long long)n);
    }
    *count_out = count;
    return CPS_OK;
}

static cps_status draw_subset(const char *stream, const cps_set_spec *spec, int64_t n,
                              uint8_t *keep) {
    if (spec->fraction == 0 && spec->count == 0) {
        memset(keep, 1, (size_t)n);
        return CPS_OK;
    }
    int64_t count = 0;
    CPS_TRY(subset_size(stream, spec, n, &count));
    if (spec->draw == CPS_DRAW_MT19937) {
        if (spec->subset_seed > UINT32_MAX) {
            return cps_fail(CPS_ERR_USAGE,
                            "stream '%s': seed %llu of the published draw does not fit in 32 bits",
                            stream, (unsigned long long)spec->subset_seed);
        }
        return draw_published((uint32_t)spec->subset_seed, n, count, keep) ? CPS_OK
                                                                           : no_memory(stream);
    }
    for (int64_t i = 0; i < count; i++) {
        keep[cps_permute(spec->subset_seed, cps_name_key("subset"), 0, (uint64_t)n, (uint64_t)i)] =
            1;
    }
    return CPS_OK;
}

static int compare_ids(const void *a, const void *b) {
    const uint64_t left = *(const uint64_t *)a, right = *(const uint64_t *)b;
    return (left > right) - (left < right);
}

/* Drops what the other stream holds. */
static cps_status drop_held(const char *stream, const shard_set *set, const cps_stream *other,
                            uint8_t *keep) {
    const int64_t held = cps_stream_records(other);
    uint64_t *ids = malloc((size_t)held * sizeof *ids);
    if (ids == NULL) {
        return no_memory(stream);
    }
    for (int64_t i = 0; i < held; i++) {
        cps_place place;
        cps_stream_stored(other, i, &place);
        ids[i] = place.sample_id;
    }
    qsort(ids, (size_t)held, sizeof *ids, compare_ids);
    int64_t dropped = 0;
    for (int64_t s = 0; s < set->shard_count; s++) {
        for (int64_t r = 0; r < cps_shard_count(set->shards[s]); r++) {
            const uint64_t id = cps_shard_sample_id(set->shards[s], r);
            if (bsearch(&id, ids, (size_t)held, sizeof *ids, compare_ids) != NULL) {
                keep[set->first[s] + r] = 0;
                dropped++;
            }
        }
    }
    free(ids);
    if (dropped == 0) {
        return cps_fail(CPS_ERR_USAGE,
                        "stream '%s': rest_of = '%s', but none of its records is in '%s': both "
                        "must name the same shards",
                        stream, other->name, other->name);
    }
    if (memchr(keep, 1, (size_t)set_total(set)) == NULL) {
        return cps_fail(CPS_ERR_USAGE,
                        "stream '%s': nothing is left of %lld records: '%s', whose rest this is, "
                        "holds them all; give '%s' a smaller fraction or count",
                        stream, (long long)set_total(set), other->name, other->name);
    }
    return CPS_OK;
}

/* Drops records without a caption. */
static cps_status drop_speechless(const char *stream, const shard_set *set, uint8_t *keep) {
    for (int64_t s = 0; s < set->shard_count; s++) {
        const cps_shard *shard = set->shards[s];
        const int64_t field = cps_shard_field(shard, set->caption);
        if (field < 0) {
            return cps_fail(CPS_ERR_DATA,
                            "stream '%s': shard '%s' has no text field '%s' to take captions from "
                            "('copse inspect' lists its fields)",
                            stream, cps_shard_path(shard), set->caption);
        }
        for (int64_t r = 0; r < cps_shard_count(shard); r++) {
            uint8_t *kept = &keep[set->first[s] + r];
            *kept = *kept && cps_shard_text_count(shard, field, r) > 0;
        }
    }
    return CPS_OK;
}

/* Letters alone, and none of the three words that stand for no name: cleaning leaves some of it. */
static bool plainly_a_name(const char *text) {
    const size_t letters = strspn(text, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ");
    return letters > 0 && text[letters] == '\0' && strcasecmp(text, "unknown") != 0 &&
           strcasecmp(text, "pleasehelp") != 0;
}

/* Whether cleaning would leave a rank of the record: the ranks above the species show it without
 * cleaning nearly always. */
static cps_status names_organism(const cps_shard *shard, int64_t record, bool *names_out) {
    const cps_taxon_fields fields = cps_taxon_fields_of(shard, record);
    for (int32_t k = 0; k + 1 < CPS_TAXON_RANKS; k++) {
        if (fields.ranks[k] != NULL && plainly_a_name(fields.ranks[k])) {
            *names_out = true;
            return CPS_OK;
        }
    }
    cps_taxon *taxon = NULL;
    CPS_TRY(cps_taxon_clean(&fields, &taxon));
    *names_out = taxon != NULL;
    free(taxon);
    return CPS_OK;
}

/* Drops records that name no organism. */
static cps_status drop_nameless(const shard_set *set, uint8_t *keep) {
    for (int64_t s = 0; s < set->shard_count; s++) {
        const cps_shard *shard = set->shards[s];
        for (int64_t r = 0; r < cps_shard_count(shard); r++) {
            bool names = false;
            if (keep[set->first[s] + r]) {
                CPS_TRY(names_organism(shard, r, &names));
            }
            keep[set->first[s] + r] = names;
        }
    }
    return CPS_OK;
}

static int64_t count_kept(const uint8_t *keep, int64_t n) {
    int64_t kept = 0;
    for (int64_t i = 0; i < n; i++) {
        kept += keep[i];
    }
    return kept;
}

/* Turns marks into the list of records. */
static cps_status list_kept(const char *stream, shard_set *set, const uint8_t *keep) {
    const int64_t n = set_total(set);
    set->size = count_kept(keep, n);
    if (set->size == n) {
        return CPS_OK;
    }
    set->picked = malloc((size_t)set->size * sizeof *set->picked + 1);
    if (set->picked == NULL) {
        return no_memory(stream);
    }
    for (int64_t i = 0, at = 0; i < n; i++) {
        if (keep[i]) {
            set->picked[at++] = (uint32_t)i;
        }
    }
    return CPS_OK;
}

static void survey_images(shard_set *set, const uint8_t *keep) {
    for (int64_t s = 0; s < set->shard_count; s++) {
        for (int64_t r = 0; r < cps_shard_count(set->shards[s]); r++) {
            set->bad += keep[set->first[s] + r] && cps_shard_bad_reason(set->shards[s], r) != NULL;
            set->largest_image =
                cps_max_i64(set->largest_image, cps_shard_image_bytes(set->shards[s], r));
        }
    }
}

static cps_status pick_records(shard_set *set, const char *stream, const cps_set_spec *spec) {
    uint8_t *keep = calloc((size_t)set_total(set), 1);
    if (keep == NULL) {
        return no_memory(stream);
    }
    cps_status status = draw_subset(stream, spec, set_total(set), keep);
    if (status == CPS_OK && spec->rest_of != NULL) {
        status = drop_held(stream, set, spec->rest_of, keep);
    }
    if (status == CPS_OK) {
        status = list_kept(stream, set, keep);
    }
    if (status == CPS_OK && set->size == 0) {
        status = cps_fail(CPS_ERR_DATA, "stream '%s': nothing is left to read of %lld records",
                          stream, (long long)set_total(set));
    }
    if (status == CPS_OK) {
        survey_images(set, keep);
    }
    free(keep);
    return status;
}

/* ---- the mixture -------------------------------------------------------------------------- */

static cps_status check_weights(const cps_stream_spec *spec) {
    int64_t weighted = 0;
    for (int64_t j = 0; j < spec->set_count; j++) {
        const double weight = spec->sets[j].weight;
        if (!(weight >= 0 && weight <= 1e12)) {
            return cps_fail(CPS_ERR_USAGE,
                            "stream '%s': set %lld has weight = %g, wanted is 0 to 1e12",
                            spec->name, (long long)j + 1, weight);
        }
        weighted += weight > 0;
    }
    if (weighted != 0 && weighted != spec->set_count) {
        return cps_fail(CPS_ERR_USAGE,
                        "stream '%s': %lld of %lld sets have a weight; give it to all of them or "
                        "to none (then they count by size)",
                        spec->name, (long long)weighted, (long long)spec->set_count);
    }
    return CPS_OK;
}

/* Gives the positions that rounding down left over to the sets with the largest remainders. */
static void give_rest(const double *wanted, int64_t *share, int64_t count, int64_t rest) {
    for (; rest > 0; rest--) {
        int64_t best = 0;
        for (int64_t j = 1; j < count; j++) {
            if (wanted[j] - (double)share[j] > wanted[best] - (double)share[best]) {
                best = j;
            }
        }
        share[best]++;
    }
}

static cps_status share_out(cps_stream *stream, int64_t positions) {
    const int64_t count = stream->set_count;
    double total = 0;
    for (int64_t j = 0; j < count; j++) {
        total += stream->sets[j].weight;
    }
    double *wanted = malloc((size_t)count * sizeof *wanted);
    int64_t *share = malloc((size_t)count * sizeof *share);
    if (wanted == NULL || share == NULL) {
        free(wanted);
        free(share);
        return no_memory(stream->name);
    }
    int64_t given = 0;
    for (int64_t j = 0; j < count; j++) {
        wanted[j] = (double)positions * (stream->sets[j].weight / total);
        share[j] = (int64_t)floor(wanted[j]);
        given += share[j];
    }
    give_rest(wanted, share, count, positions - given);
    cps_status status = CPS_OK;
    for (int64_t j = 0; j < count; j++) {
        stream->share_before[j + 1] = stream->share_before[j] + share[j];
        if (share[j] == 0 && status == CPS_OK) {
            status = cps_fail(CPS_ERR_USAGE,
                              "stream '%s': set %lld gets none of the epoch's %lld positions by "
                              "its weight; raise epoch_samples or the weight",
                              stream->name, (long long)j + 1, (long long)positions);
        }
    }
    free(wanted);
    free(share);
    return status;
}

static cps_status plan_epoch(cps_stream *stream) {
    const size_t bounds = (size_t)(stream->set_count + 1);
    stream->share_before = calloc(bounds, sizeof *stream->share_before);
    stream->records_before = calloc(bounds, sizeof *stream->records_before);
    if (stream->share_before == NULL || stream->records_before == NULL) {
        return no_memory(stream->name);
    }
    bool by_size = true;
    for (int64_t j = 0; j < stream->set_count; j++) {
        shard_set *set = &stream->sets[j];
        by_size = by_size && set->given_weight == 0;
        set->weight = by_size ? (double)set->size : set->given_weight;
        stream->records_before[j + 1] = stream->records_before[j] + set->size;
    }
    const int64_t records = stream->records_before[stream->set_count];
    const int64_t positions = stream->epoch_samples != 0 ? stream->epoch_samples : records;
    if (positions < 1 || positions >= MAX_POSITIONS) {
        return cps_fail(CPS_ERR_USAGE, "stream '%s': an epoch of %lld samples, wanted is 1 to %lld",
                        stream->name, (long long)positions, (long long)MAX_POSITIONS - 1);
    }
    if (by_size && positions == records) { /* exactly, without a division */
        memcpy(stream->share_before, stream->records_before, bounds * sizeof(int64_t));
        return CPS_OK;
    }
    return share_out(stream, positions);
}

static uint64_t digest_of(const cps_stream *stream) {
    cps_hash *hash = cps_hash_create();
    cps_hash_add(hash, stream->name, strlen(stream->name) + 1);
    cps_hash_add(hash, stream->share_before,
                 (size_t)(stream->set_count + 1) * sizeof *stream->share_before);
    for (int64_t j = 0; j < stream->set_count; j++) {
        const shard_set *set = &stream->sets[j];
        cps_hash_add(hash, &set->size, sizeof set->size);
        cps_hash_add(hash, set->caption, strlen(set->caption) + 1);
        cps_hash_add(hash, "fixed", set->fixed_caption ? 5 : 0);
        for (int64_t s = 0; s < set->shard_count; s++) {
            const uint64_t digest = cps_shard_digest(set->shards[s]);
            cps_hash_add(hash, &digest, sizeof digest);
        }
        if (set->picked != NULL) {
            cps_hash_add(hash, set->picked, (size_t)set->size * sizeof *set->picked);
        }
    }
    const uint64_t value = cps_hash_value(hash);
    cps_hash_destroy(hash);
    return value;
}

/* ---- creation ----------------------------------------------------------------------------- */

static cps_status alloc_stream(const char *name, uint64_t seed, int64_t set_count,
                               int64_t epoch_samples, cps_stream **stream_out) {
    cps_stream *stream = calloc(1, sizeof *stream);
    if (stream == NULL) {
        return no_memory(name);
    }
    stream->name = strdup(name);
    stream->seed = seed;
    stream->name_key = cps_name_key(name);
    stream->epoch_samples = epoch_samples;
    stream->sets = calloc((size_t)set_count, sizeof *stream->sets);
    if (stream->name == NULL || stream->sets == NULL) {
        cps_stream_destroy(stream);
        return no_memory(name);
    }
    stream->set_count = set_count;
    *stream_out = stream;
    return CPS_OK;
}

/* The last steps of every creation; a stream that failed before them is destroyed. */
static cps_status complete(cps_stream *stream, cps_status status, cps_stream **stream_out) {
    if (status == CPS_OK) {
        status = plan_epoch(stream);
    }
    if (status != CPS_OK) {
        cps_stream_destroy(stream);
        return status;
    }
    stream->digest = digest_of(stream);
    *stream_out = stream;
    return CPS_OK;
}

cps_status cps_stream_create(const cps_stream_spec *spec, uint64_t seed, cps_shard_pool *pool,
                             cps_stream **stream_out) {
    if (spec->set_count < 1) {
        return cps_fail(CPS_ERR_USAGE, "stream '%s' has no shard set", spec->name);
    }
    CPS_TRY(check_weights(spec));
    cps_stream *stream = NULL;
    CPS_TRY(alloc_stream(spec->name, seed, spec->set_count, spec->epoch_samples, &stream));
    cps_status status = CPS_OK;
    for (int64_t j = 0; j < spec->set_count && status == CPS_OK; j++) {
        stream->sets[j].given_weight = spec->sets[j].weight;
        status = open_set(&stream->sets[j], spec->name, &spec->sets[j], pool);
        status =
            status != CPS_OK ? status : pick_records(&stream->sets[j], spec->name, &spec->sets[j]);
    }
    return complete(stream, status, stream_out);
}

/* Shards and settings of `from`, without its records. */
static cps_status copy_set(const char *stream, const shard_set *from, shard_set *to) {
    const size_t shards = (size_t)from->shard_count;
    to->shards = malloc(shards * sizeof *to->shards);
    to->first = malloc((shards + 1) * sizeof *to->first);
    to->caption = strdup(from->caption);
    if (to->shards == NULL || to->first == NULL || to->caption == NULL) {
        return no_memory(stream);
    }
    memcpy(to->shards, from->shards, shards * sizeof *to->shards);
    memcpy(to->first, from->first, (shards + 1) * sizeof *to->first);
    to->shard_count = from->shard_count;
    to->fixed_caption = from->fixed_caption;
    to->given_weight = from->given_weight;
    return CPS_OK;
}

static cps_status fail_empty(const char *stream, const shard_set *from, uint32_t needs) {
    char caption[160] = "";
    if ((needs & CPS_RECORD_CAPTION) != 0) {
        snprintf(caption, sizeof caption, " a text in field '%s'%s", from->caption,
                 (needs & CPS_RECORD_TAXON) != 0 ? " and" : "");
    }
    return cps_fail(CPS_ERR_DATA,
                    "stream '%s': nothing is left to read: none of %lld records (of '%s' ...) "
                    "has%s%s",
                    stream, (long long)from->size, cps_shard_path(from->shards[0]), caption,
                    (needs & CPS_RECORD_TAXON) != 0
                        ? " the name of an organism: pack a table with some of the columns "
                          "kingdom, phylum, class, order, family, genus, species filled"
                        : ": pack them with captions, or say which field has them (caption = "
                          "\"title\"; 'copse inspect' lists the fields)");
}

static cps_status narrow_set(const char *stream, const shard_set *from, uint32_t needs,
                             shard_set *to) {
    CPS_TRY(copy_set(stream, from, to));
    uint8_t *keep = calloc((size_t)set_total(from), 1);
    if (keep == NULL) {
        return no_memory(stream);
    }
    for (int64_t i = 0; i < from->size; i++) {
        keep[from->picked == NULL ? (size_t)i : (size_t)from->picked[i]] = 1;
    }
    cps_status status = CPS_OK;
    if ((needs & CPS_RECORD_CAPTION) != 0) {
        status = drop_speechless(stream, to, keep);
    }
    if (status == CPS_OK && (needs & CPS_RECORD_TAXON) != 0) {
        status = cps_fail_context(drop_nameless(to, keep), "stream '%s'", stream);
    }
    status = status != CPS_OK ? status : list_kept(stream, to, keep);
    if (status == CPS_OK && to->size == 0) {
        status = fail_empty(stream, from, needs);
    }
    to->left_out = from->size - to->size;
    survey_images(to, keep);
    free(keep);
    return status;
}

cps_status cps_stream_narrow(const cps_stream *from, uint32_t needs, cps_stream **stream_out) {
    cps_stream *stream = NULL;
    CPS_TRY(alloc_stream(from->name, from->seed, from->set_count, from->epoch_samples, &stream));
    cps_status status = CPS_OK;
    for (int64_t j = 0; j < from->set_count && status == CPS_OK; j++) {
        status = narrow_set(stream->name, &from->sets[j], needs, &stream->sets[j]);
    }
    return complete(stream, status, stream_out);
}

void cps_stream_destroy(cps_stream *stream) {
    if (stream == NULL) {
        return;
    }
    for (int64_t j = 0; j < stream->set_count; j++) {
        free(stream->sets[j].shards);
        free(stream->sets[j].first);
        free(stream->sets[j].picked);
        free(stream->sets[j].caption);
    }
    free(stream->sets);
    free(stream->share_before);
    free(stream->records_before);
    free(stream->name);
    free(stream);
}

/* ---- places ------------------------------------------------------------------------------- */

/* Place of record `index` of a set's own list. */
static void place_in_set(const cps_stream *stream, int64_t j, int64_t index, cps_place *place_out) {
    const shard_set *set = &stream->sets[j];
    const int64_t whole = set->picked != NULL ? (int64_t)set->picked[index] : index;
    const int64_t s = interval_of(set->first, set->shard_count, whole);
    const int64_t record = whole - set->first[s];
    *place_out = (cps_place){.shard = set->shards[s],
                             .record = record,
                             .sample_id = cps_shard_sample_id(set->shards[s], record),
                             .caption = set->caption,
                             .fixed_caption = set->fixed_caption,
                             .set = (int32_t)j};
}

/* Which set position i of an epoch draws from, and the how-manieth draw from it this is (the header
 * describes the tree). */
static int64_t set_of_position(const cps_stream *stream, int64_t i, int64_t *draw_out) {
    int64_t low = 0, high = stream->set_count;
    while (high - low > 1) {
        const int64_t middle = low + (high - low) / 2;
        const int64_t left = stream->share_before[middle] - stream->share_before[low];
        const int64_t all = stream->share_before[high] - stream->share_before[low];
        const int64_t before = i * left / all;
        if ((i + 1) * left / all > before) {
            i = before;
            high = middle;
        } else {
            i -= before;
            low = middle;
        }
    }
    *draw_out = i;
    return low;
}

void cps_stream_at(const cps_stream *stream, uint64_t epoch, int64_t position,
                   cps_place *place_out) {
    CPS_BUG_IF(position < 0 || position >= cps_stream_epoch_samples(stream));
    int64_t draw = 0;
    const int64_t j = set_of_position(stream, position, &draw);
    const uint64_t size = (uint64_t)stream->sets[j].size;
    const uint64_t visit = epoch * (uint64_t)cps_stream_set_share(stream, j) + (uint64_t)draw;
    const uint64_t key = (uint64_t)stream->name_key << 32 | (uint64_t)j;
    const uint64_t index = cps_permute(stream->seed, key, visit / size, size, visit % size);
    place_in_set(stream, j, (int64_t)index, place_out);
}

void cps_stream_stored(const cps_stream *stream, int64_t index, cps_place *place_out) {
    CPS_BUG_IF(index < 0 || index >= cps_stream_records(stream));
    const int64_t j = interval_of(stream->records_before, stream->set_count, index);
    place_in_set(stream, j, index - stream->records_before[j], place_out);
}

const char *cps_stream_name(const cps_stream *stream) {
    return stream->name;
}

int64_t cps_stream_epoch_samples(const cps_stream *stream) {
    return stream->share_before[stream->set_count];
}

int64_t cps_stream_records(const cps_stream *stream) {
    return stream->records_before[stream->set_count];
}

int64_t cps_stream_set_share(const cps_stream *stream, int64_t set) {
    return stream->share_before[set + 1] - stream->share_before[set];
}

int64_t cps_stream_left_out(const cps_stream *stream) {
    int64_t left_out = 0;
    for (int64_t j = 0; j < stream->set_count; j++) {
        left_out += stream->sets[j].left_out;
    }
    return left_out;
}

int64_t cps_stream_bad_records(const cps_stream *stream) {
    int64_t bad = 0;
    for (int64_t j = 0; j < stream->set_count; j++) {
        bad += stream->sets[j].bad;
    }
    return bad;
}

int64_t cps_stream_largest_image(const cps_stream *stream) {
    int64_t largest = 0;
    for (int64_t j = 0; j < stream->set_count; j++) {
        largest = cps_max_i64(largest, stream->sets[j].largest_image);
    }
    return largest;
}

uint64_t cps_stream_digest(const cps_stream *stream) {
    return stream->digest;
}
