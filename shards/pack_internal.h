/* What pack.c (the plan), pack_content.c (equal pictures) and pack_write.c (the shards) share. */
#ifndef CPS_SHARDS_PACK_INTERNAL_H
#define CPS_SHARDS_PACK_INTERNAL_H

#include "shards/pack.h"
#include "shards/plan.h"

typedef enum cps_pack_set { CPS_PACK_ALL, CPS_PACK_TRAIN, CPS_PACK_VAL } cps_pack_set;

typedef struct cps_pack_shard {
    cps_pack_set set;
    int64_t number;       /* within the set */
    int64_t first, count; /* of `order` */
    bool keep;            /* finished by a former run */
} cps_pack_shard;

typedef struct cps_packing {
    cps_comm *comm;
    const cps_pack_options *options;
    cps_plan plan;
    uint64_t plan_hash;
    int64_t *order; /* records, shard after shard */
    int64_t order_count;
    cps_pack_shard *shards;
    int64_t shard_count;
} cps_packing;

#define CPS_PACK_MAX_IMAGE_BYTES ((int64_t)256 << 20) /* a larger file is kept as unreadable */

/* Path of a record's file, malloc'ed. */
char *cps_pack_path(const cps_plan *plan, int64_t record);
/* Identity of a record, format.md. */
uint64_t cps_pack_sample_id(const char *file, const uint8_t *bytes, size_t length);
/* Calls the options' progress on rank 0. */
void cps_pack_tell(const cps_packing *pack, const char *what, int64_t done, int64_t total);
/* Collective. Leaves out records by the bytes of their pictures, as the options ask. */
cps_status cps_pack_compare(cps_packing *pack, cps_pack_report *report) CPS_MUST_CHECK;
/* Collective. Writes what is not there yet and completes the report. */
cps_status cps_pack_write(cps_packing *pack, cps_pack_report *report) CPS_MUST_CHECK;

#endif
