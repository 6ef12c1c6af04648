#include "eval/seen.h"

#include <stdlib.h>
#include <string.h>

#include "base/byte_set.h"
#include "base/numeric.h"
#include "eval/classes.h"
#include "eval/taxonomy.h"

struct cps_seen {
    cps_byte_set *names;
    cps_taxonomy *taxonomy;
    int64_t organisms; /* of training: ids below it */
};

static cps_status fail_memory(void) {
    return cps_fail(CPS_ERR_UNAVAILABLE, "out of memory for the classes of the training data");
}

/* The labels of a run of records of one shard, so that a name is looked up once a run. */
typedef struct label_run {
    const cps_shard *shard;
    uint8_t *shown; /* [classes of the shard] */
} label_run;

static cps_status end_run(cps_seen *seen, label_run *run) {
    const int64_t classes = run->shard == NULL ? 0 : cps_shard_class_count(run->shard);
    cps_status status = CPS_OK;
    for (int64_t c = 0; c < classes && status == CPS_OK; c++) {
        const char *name = cps_shard_class_name(run->shard, c);
        if (run->shown[c] != 0 && cps_byte_set_add(seen->names, name, strlen(name)) < 0) {
            status = fail_memory();
        }
    }
    free(run->shown);
    *run = (label_run){0};
    return status;
}

static cps_status begin_run(const cps_shard *shard, label_run *run) {
    run->shown = calloc((size_t)cps_shard_class_count(shard) + 1, 1);
    run->shard = run->shown == NULL ? NULL : shard;
    return run->shown == NULL ? fail_memory() : CPS_OK;
}

static cps_status see_record(cps_seen *seen, const cps_place *place, label_run *run) {
    if (place->shard != run->shard) {
        CPS_TRY(end_run(seen, run));
        CPS_TRY(begin_run(place->shard, run));
    }
    const int32_t label =
        cps_shard_has_labels(place->shard) ? cps_shard_label(place->shard, place->record) : -1;
    if (label >= 0) {
        run->shown[label] = 1;
    }
    const cps_taxon_fields fields = cps_taxon_fields_of(place->shard, place->record);
    int32_t organism;
    return cps_taxonomy_add_record(seen->taxonomy, &fields, &organism);
}

static cps_status see_stream(cps_seen *seen, const cps_stream *stream) {
    label_run run = {0};
    cps_status status = CPS_OK;
    for (int64_t i = 0; i < cps_stream_records(stream) && status == CPS_OK; i++) {
        cps_place place;
        cps_stream_stored(stream, i, &place);
        status = see_record(seen, &place, &run);
    }
    const cps_status ended = end_run(seen, &run);
    return status != CPS_OK ? status : ended;
}

cps_status cps_seen_create(const cps_stream *const *streams, int64_t count, cps_seen **seen_out) {
    cps_seen *seen = calloc(1, sizeof *seen);
    if (seen == NULL || (seen->names = cps_byte_set_create()) == NULL) {
        free(seen);
        return fail_memory();
    }
    cps_status status = cps_taxonomy_create(&seen->taxonomy);
    for (int64_t i = 0; i < count && status == CPS_OK; i++) {
        status = see_stream(seen, streams[i]);
    }
    if (status != CPS_OK) {
        cps_seen_destroy(seen);
        return status;
    }
    seen->organisms = cps_taxonomy_paths(seen->taxonomy, CPS_TAXON_SPECIES);
    *seen_out = seen;
    return CPS_OK;
}

void cps_seen_destroy(cps_seen *seen) {
    if (seen != NULL) {
        cps_byte_set_destroy(seen->names);
        cps_taxonomy_destroy(seen->taxonomy);
        free(seen);
    }
}

static cps_status mark(cps_seen *seen, const cps_class_list *classes, const cps_place *places,
                       uint8_t *unseen) {
    for (int64_t c = 0; c < classes->count; c++) {
        unseen[c] =
            cps_byte_set_find(seen->names, classes->names[c], strlen(classes->names[c])) < 0;
        if (unseen[c] != 0 && places[c].shard != NULL) {
            const cps_taxon_fields fields = cps_taxon_fields_of(places[c].shard, places[c].record);
            int32_t organism;
            CPS_TRY(cps_taxonomy_add_record(seen->taxonomy, &fields, &organism));
            unseen[c] = organism < 0 || organism >= seen->organisms;
        }
    }
    return CPS_OK;
}

cps_status cps_seen_mark(cps_seen *seen, const cps_stream *data, uint8_t **unseen_out) {
    *unseen_out = NULL;
    if (cps_byte_set_count(seen->names) == 0 && seen->organisms == 0) {
        return CPS_OK;
    }
    cps_class_list classes = {0};
    CPS_TRY(cps_class_list_of(data, &classes));
    cps_place *places = calloc((size_t)classes.count + 1, sizeof *places);
    uint8_t *unseen = calloc((size_t)classes.count + 1, 1);
    cps_status status = places == NULL || unseen == NULL ? fail_memory() : CPS_OK;
    if (status == CPS_OK) {
        cps_class_first_records(data, NULL, places);
        status = mark(seen, &classes, places, unseen);
    }
    free(places);
    cps_class_list_free(&classes);
    if (status != CPS_OK) {
        free(unseen);
        return status;
    }
    *unseen_out = unseen;
    return CPS_OK;
}

/* ---- pictures ---- */

/* False: the record holds no picture that can be read. */
static bool checksum_of(const cps_stream *stream, int64_t record, uint64_t *checksum_out) {
    cps_place place;
    cps_stream_stored(stream, record, &place);
    *checksum_out = cps_shard_source_checksum(place.shard, place.record);
    return cps_shard_bad_reason(place.shard, place.record) == NULL;
}

static int by_value(const void *a, const void *b) {
    const uint64_t left = *(const uint64_t *)a, right = *(const uint64_t *)b;
    return (left > right) - (left < right);
}

cps_status cps_seen_pictures(const cps_stream *const *streams, int64_t count,
                             uint64_t **checksums_out, int64_t *checksum_count_out) {
    int64_t most = 0, found = 0;
    for (int64_t s = 0; s < count; s++) {
        most += cps_stream_records(streams[s]);
    }
    uint64_t *checksums = cps_allocate_zero(most, 1, sizeof *checksums);
    if (checksums == NULL) {
        return fail_memory();
    }
    for (int64_t s = 0; s < count; s++) {
        for (int64_t i = 0; i < cps_stream_records(streams[s]); i++) {
            found += checksum_of(streams[s], i, &checksums[found]);
        }
    }
    qsort(checksums, (size_t)found, sizeof *checksums, by_value);
    *checksums_out = checksums;
    *checksum_count_out = found;
    return CPS_OK;
}

int64_t cps_seen_count(const uint64_t *checksums, int64_t checksum_count, const cps_stream *data) {
    int64_t seen = 0;
    for (int64_t i = 0; i < cps_stream_records(data) && checksum_count > 0; i++) {
        uint64_t checksum;
        seen += checksum_of(data, i, &checksum) &&
                bsearch(&checksum, checksums, (size_t)checksum_count, sizeof checksum, by_value) !=
                    NULL;
    }
    return seen;
}
