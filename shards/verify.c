/* Every byte of a shard: opening checks the index and all texts, this checks the images. */
#include "shards/shard.h"

#include "image/image.h"

#include <stdlib.h>

static cps_status check_image(const cps_shard *shard, int64_t record, uint8_t *bytes) {
    CPS_TRY(cps_shard_read_image(shard, record, true, bytes));
    if (cps_shard_bad_reason(shard, record) != NULL) {
        return CPS_OK; /* known not to decode */
    }
    cps_image image = {0};
    const cps_status status =
        cps_image_decode(bytes, (size_t)cps_shard_image_bytes(shard, record), 0, 0, &image);
    cps_image_free(&image);
    return cps_fail_context(
        status,
        "shard '%s': record %lld (sample %016llx) is not marked as bad but does "
        "not decode",
        cps_shard_path(shard), (long long)record,
        (unsigned long long)cps_shard_sample_id(shard, record));
}

cps_status cps_shard_verify(const char *path, int64_t *records_out) {
    cps_shard *shard = NULL;
    CPS_TRY(cps_shard_open(path, &shard));
    int64_t largest = 0;
    for (int64_t i = 0; i < cps_shard_count(shard); ++i) {
        const int64_t bytes = cps_shard_image_bytes(shard, i);
        largest = bytes > largest ? bytes : largest;
    }
    uint8_t *bytes = malloc((size_t)largest + 1);
    cps_status status = CPS_OK;
    if (bytes == NULL) {
        status = cps_fail(CPS_ERR_UNAVAILABLE, "shard '%s': no memory for an image of %lld bytes",
                          path, (long long)largest);
    }
    for (int64_t i = 0; status == CPS_OK && i < cps_shard_count(shard); ++i) {
        status = check_image(shard, i, bytes);
    }
    if (status == CPS_OK) {
        *records_out = cps_shard_count(shard);
    }
    free(bytes);
    cps_shard_close(shard);
    return status;
}
