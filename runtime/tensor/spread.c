/* See spread.h. */
#include "tensor/spread.h"

#include <string.h>

#include "base/numeric.h"
#include "comm/agree.h"

bool cps_spread_describe(cps_tape *tape, const char *name, const cps_tensor *tensor,
                         cps_spread *spread) {
    const cps_layout *layout = tensor->layout;
    *spread = (cps_spread){.ranks = 1, .parts = 1, .rows = cps_first_of(tensor)};
    if (layout == NULL) {
        spread->part_last = 1;
        spread->row_count = spread->rows;
        spread->whole[1] = spread->rows;
        spread->part_offset = spread->whole;
        return true;
    }
    spread->comm = cps_tape_comm(tape);
    spread->ranks = spread->comm != NULL ? cps_comm_size(spread->comm) : 1;
    spread->rank = spread->comm != NULL ? cps_comm_rank(spread->comm) : 0;
    spread->parts = layout->part_count;
    spread->part_offset = layout->part_offset;
    spread->rows = layout->part_offset[layout->part_count];
    spread->part_first = layout->first_part;
    spread->part_last = layout->last_part;
    spread->row_first = layout->part_offset[layout->first_part];
    spread->row_count = layout->part_offset[layout->last_part] - spread->row_first;
    if (tensor->rank < 1 || tensor->shape[0] != spread->row_count) {
        cps_tape_fail(tape, CPS_ERR_USAGE,
                      "%s: the tensor is %s; its layout gives this rank %lld rows", name,
                      cps_show_shape(tensor).text, (long long)spread->row_count);
        return false;
    }
    const size_t ranks = (size_t)spread->ranks;
    spread->first_part = cps_tape_save(tape, (ranks + 1) * sizeof *spread->first_part);
    spread->bytes = cps_tape_save(tape, ranks * sizeof *spread->bytes);
    spread->claims = cps_tape_save(tape, ranks * sizeof *spread->claims);
    spread->leaves = cps_tape_save(tape, (size_t)spread->parts * sizeof *spread->leaves);
    return cps_tape_status(tape) == CPS_OK;
}

/* All ranks' own parts must be the parts 0 .. parts-1 in rank order, of one batch. Every rank sees
 * all claims and so comes to the same verdict. */
static cps_status check_ownership(const char *name, cps_spread *spread) {
    const cps_spread_claim own = {.first = spread->part_first,
                                  .last = spread->part_last,
                                  .parts = spread->parts,
                                  .rows = spread->rows};
    if (spread->comm == NULL) {
        spread->claims[0] = own;
    } else {
        for (int32_t r = 0; r < spread->ranks; r++) {
            spread->bytes[r] = (int64_t)sizeof own;
        }
        cps_comm_allgatherv(spread->comm, name, &own, spread->claims, spread->bytes);
    }
    int64_t next = 0;
    for (int32_t r = 0; r < spread->ranks; r++) {
        const cps_spread_claim *claim = &spread->claims[r];
        if (claim->first != next || claim->last < next || claim->parts != spread->claims[0].parts ||
            claim->rows != spread->claims[0].rows ||
            (r + 1 == spread->ranks && claim->last != claim->parts)) {
            return cps_fail(CPS_ERR_INTERNAL,
                            "%s: rank %d of %d holds parts %lld to %lld of %lld (%lld rows in "
                            "all); parts of all ranks "
                            "must follow one another without gaps, from 0 to the last",
                            name, (int)r, (int)spread->ranks, (long long)claim->first,
                            (long long)claim->last - 1, (long long)claim->parts,
                            (long long)claim->rows);
        }
        spread->first_part[r] = claim->first;
        next = claim->last;
    }
    spread->first_part[spread->ranks] = spread->parts;
    return CPS_OK;
}

bool cps_spread_agree(cps_tape *tape, const char *name, cps_spread *spread) {
    if (cps_tape_failure_agreed(tape)) {
        return false;
    }
    cps_comm *comm = cps_tape_comm(tape);
    cps_status status = cps_tape_status(tape);
    if (cps_tape_get_mode(tape) == CPS_TAPE_PLAN ||
        (status == CPS_OK && spread->first_part == NULL)) {
        return status == CPS_OK; /* nothing is exchanged */
    }
    if (comm != NULL) {
        status = cps_agree(comm, name, status);
    }
    if (status == CPS_OK) {
        status = check_ownership(name, spread);
    }
    if (status != CPS_OK) {
        cps_tape_set_failed(tape, status, comm != NULL);
    }
    return status == CPS_OK;
}

void cps_spread_gather(const cps_spread *spread, const char *name, const void *own, void *all,
                       size_t row_bytes) {
    char *place = (char *)all + (size_t)spread->row_first * row_bytes;
    if (spread->row_count > 0 && place != own) {
        memcpy(place, own, (size_t)spread->row_count * row_bytes);
    }
    if (spread->comm == NULL) {
        return;
    }
    for (int32_t r = 0; r < spread->ranks; r++) {
        const int64_t rows = spread->part_offset[spread->first_part[r + 1]] -
                             spread->part_offset[spread->first_part[r]];
        spread->bytes[r] = rows * (int64_t)row_bytes;
    }
    cps_comm_allgatherv_inplace(spread->comm, name, all, spread->bytes);
}

cps_status cps_spread_sum(const cps_spread *spread, const char *name, int64_t width,
                          const double *values, double *part_sums, double *sum_out) {
    for (int64_t part = spread->part_first; part < spread->part_last; part++) {
        double *sums = part_sums + (part - spread->part_first) * width;
        memset(sums, 0, (size_t)width * sizeof *sums);
        for (int64_t row = spread->part_offset[part]; row < spread->part_offset[part + 1]; row++) {
            for (int64_t j = 0; j < width; j++) {
                sums[j] += values[(row - spread->row_first) * width + j];
            }
        }
    }
    if (spread->comm != NULL) {
        return cps_canonical_sum_owned(spread->comm, name, spread->parts, spread->first_part,
                                       part_sums, width, sum_out);
    }
    if (spread->leaves == NULL) { /* no layout: one part */
        memcpy(sum_out, part_sums, (size_t)width * sizeof *sum_out);
        return CPS_OK;
    }
    for (int64_t part = 0; part < spread->parts; part++) {
        spread->leaves[part] = (cps_node_run){.first = part, .count = 1};
    }
    cps_tree_finish_f64(spread->parts, spread->leaves, cps_to_int(spread->parts), part_sums, width,
                        sum_out);
    return CPS_OK;
}
